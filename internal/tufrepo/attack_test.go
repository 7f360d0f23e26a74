package tufrepo

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"slipway/internal/sign"
	"slipway/internal/update"
)

// attacker has a copy of a repository, and perhaps keys.
type attacker struct {
	t   *testing.T
	dir string
	r   *Repo
	p   *Policies
}

func (a *attacker) path(name string) string { return filepath.Join(a.dir, name) }

func (a *attacker) read(name string) []byte {
	a.t.Helper()
	data, err := os.ReadFile(a.path(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return data
}

// change puts a document in place of another, signed by the keys given.
func (a *attacker) put(name string, d document, keys ...*sign.Key) {
	a.t.Helper()
	payload, err := d.payload()
	if err != nil {
		a.t.Fatal(err)
	}
	*d.signatures = nil
	for _, k := range keys {
		id, err := newKey(k.Public)
		if err != nil {
			a.t.Fatal(err)
		}
		sig, err := sign.Message(a.t.Context(), k.Signer, id.scheme, payload)
		if err != nil {
			a.t.Fatal(err)
		}
		*d.signatures = append(*d.signatures, metadata.Signature{KeyID: id.id, Signature: sig})
	}
	data, err := d.bytes()
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, a.path(name), data)
}

// next is the change that would publish the targets given.
func (a *attacker) next(targets map[string]*metadata.TargetFiles) map[string]document {
	a.t.Helper()
	c, err := a.r.change(a.p, targets)
	if err != nil {
		a.t.Fatal(err)
	}
	docs := map[string]document{}
	for _, d := range c.documents() {
		docs[d.role] = d
	}
	return docs
}

// publish signs a change with the right keys, as who has stolen them could, or
// who publishes what is wrong by mistake.
func (a *attacker) publish(targets map[string]*metadata.TargetFiles) {
	a.t.Helper()
	for role, d := range a.next(targets) {
		a.put(d.file(), d, a.p.Role(role).Keys...)
	}
}

// target is the path of the target whose name ends so.
func (a *attacker) target(ending string) string {
	a.t.Helper()
	names, err := filepath.Glob(a.path("targets/*" + ending))
	if err != nil || len(names) != 1 {
		a.t.Fatal(names, err)
	}
	return "targets/" + filepath.Base(names[0])
}

func (a *attacker) rotated(keys ...*sign.Key) document {
	a.t.Helper()
	c, err := a.r.Rotate(a.p)
	if err != nil {
		a.t.Fatal(err)
	}
	return c.documents()[0]
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAttacks(t *testing.T) {
	t.Parallel()
	long := func(p *Policies) { p.Snapshot.ExpiresDays, p.Timestamp.ExpiresDays = 1000, 1000 }
	rootLast := func(p *Policies) { long(p); p.Targets.ExpiresDays = 1000 }
	for _, c := range []struct {
		name   string
		policy func(*Policies)
		later  time.Duration
		attack func(*attacker)
		is     error
		want   string
	}{
		{name: "expired timestamp", later: 8 * 24 * time.Hour, is: &metadata.ErrExpiredMetadata{}, want: "timestamp.json is expired"},
		{name: "expired snapshot", later: 15 * 24 * time.Hour, policy: func(p *Policies) { p.Timestamp.ExpiresDays = 1000 }, is: &metadata.ErrExpiredMetadata{}, want: "snapshot.json is expired"},
		{name: "expired targets", later: 91 * 24 * time.Hour, policy: long, is: &metadata.ErrExpiredMetadata{}, want: "new targets is expired"},
		{name: "expired root", later: 366 * 24 * time.Hour, policy: rootLast, is: &metadata.ErrExpiredMetadata{}, want: "final root.json is expired"},
		{name: "replayed timestamp", attack: func(a *attacker) {
			d := a.next(nil)["timestamp"]
			a.r.current.timestamp.Signed.Version-- // the one before, in all but name
			a.put("timestamp.json", document{d.role, 2, a.r.current.timestamp.Signed, &a.r.current.timestamp.Signatures}, key(6))
		}, is: &metadata.ErrBadVersionNumber{}, want: "new timestamp version 2 must be >= 3"},
		{name: "timestamp with an older snapshot", attack: func(a *attacker) {
			c, err := a.r.change(a.p, nil)
			if err != nil {
				a.t.Fatal(err)
			}
			c.timestamp.Signed.Meta["snapshot.json"].Version = 2
			a.put("timestamp.json", c.documents()[1], key(6))
		}, is: &metadata.ErrBadVersionNumber{}, want: "new snapshot version 2 must be >= 3"},
		{name: "snapshot of another version", attack: func(a *attacker) {
			docs := a.next(nil)
			a.put("timestamp.json", docs["timestamp"], key(6))
			write(a.t, a.path("4.snapshot.json"), a.read("3.snapshot.json"))
		}, is: &metadata.ErrBadVersionNumber{}, want: "expected 4, got 3"},
		{name: "targets of another version", attack: func(a *attacker) {
			docs := a.next(a.r.current.targets.Signed.Targets)
			a.put("timestamp.json", docs["timestamp"], key(6))
			a.put("4.snapshot.json", docs["snapshot"], key(5))
			write(a.t, a.path("4.targets.json"), a.read("2.targets.json"))
		}, is: &metadata.ErrBadVersionNumber{}, want: "expected targets version 4, got 2"},
		{name: "snapshot without targets", attack: func(a *attacker) {
			c, err := a.r.change(a.p, nil)
			if err != nil {
				a.t.Fatal(err)
			}
			delete(c.snapshot.Signed.Meta, "targets.json")
			a.put("4.snapshot.json", c.documents()[0], key(5))
			a.put("timestamp.json", c.documents()[1], key(6))
		}, is: &metadata.ErrRepository{}, want: "new snapshot is missing info for targets.json"},
		{name: "missing timestamp", attack: func(a *attacker) { os.Remove(a.path("timestamp.json")) }, is: &metadata.ErrDownloadHTTP{}, want: "404"},
		{name: "missing snapshot", attack: func(a *attacker) {
			a.put("timestamp.json", a.next(nil)["timestamp"], key(6))
		}, is: &metadata.ErrDownloadHTTP{}, want: "4.snapshot.json"},
		{name: "no signature", attack: func(a *attacker) {
			a.put("timestamp.json", a.next(nil)["timestamp"])
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying timestamp failed, not enough signatures, got 0, want 1"},
		{name: "key of another role", attack: func(a *attacker) {
			a.put("timestamp.json", a.next(nil)["timestamp"], key(5))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying timestamp failed"},
		{name: "unknown key", attack: func(a *attacker) {
			docs := a.next(a.r.current.targets.Signed.Targets)
			a.put("timestamp.json", docs["timestamp"], key(6))
			a.put("4.snapshot.json", docs["snapshot"], key(5))
			a.put("4.targets.json", docs["targets"], key(99))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying targets failed"},
		{name: "changed after signing", attack: func(a *attacker) {
			a.put("timestamp.json", a.next(nil)["timestamp"], key(6))
			write(a.t, a.path("timestamp.json"), bytes.Replace(a.read("timestamp.json"), []byte("2026-"), []byte("2027-"), 1))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying timestamp failed"},
		{name: "root below its threshold", attack: func(a *attacker) {
			a.put("2.root.json", a.rotated(), key(1))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying root failed, not enough signatures, got 1, want 2"},
		{name: "one root key signs twice", attack: func(a *attacker) {
			a.put("2.root.json", a.rotated(), key(1), key(1))
		}, is: &metadata.ErrValue{}, want: "multiple signatures found for key ID"},
		{name: "root with keys of its own", attack: func(a *attacker) {
			a.p.Root.Keys = []*sign.Key{key(97), key(98)}
			a.put("2.root.json", a.rotated(), key(97), key(98))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying root failed, not enough signatures, got 0, want 2"},
		{name: "root that its own keys did not sign", attack: func(a *attacker) {
			a.p.Root.Keys = []*sign.Key{key(97), key(98)}
			a.put("2.root.json", a.rotated(), key(1), key(2))
		}, is: &metadata.ErrUnsignedMetadata{}, want: "Verifying root failed, not enough signatures, got 0, want 2"},
		{name: "root of another version", attack: func(a *attacker) {
			write(a.t, a.path("2.root.json"), a.read("1.root.json"))
		}, is: &metadata.ErrBadVersionNumber{}, want: "expected 2, got 1"},
		{name: "metadata of another type", attack: func(a *attacker) {
			write(a.t, a.path("timestamp.json"), a.read("3.snapshot.json"))
		}, is: &metadata.ErrValue{}, want: "expected metadata type timestamp, got - snapshot"},
		{name: "endless timestamp", attack: func(a *attacker) {
			write(a.t, a.path("timestamp.json"), bytes.Repeat([]byte(" "), maxSmall+1))
		}, is: &metadata.ErrDownloadLengthMismatch{}, want: "timestamp.json is larger than 1048576 bytes"},
		{name: "truncated target", attack: func(a *attacker) {
			name := a.target("1.1.0-uki.efi")
			write(a.t, a.path(name), a.read(name)[:100])
		}, is: &metadata.ErrDownloadLengthMismatch{}, want: "target dev-x86_64-1.1.0-uki.efi: download length mismatch error: it ends after 100 of 4096 bytes"},
		{name: "oversized target", attack: func(a *attacker) {
			name := a.target("1.1.0-uki.efi")
			write(a.t, a.path(name), append(a.read(name), 'x'))
		}, is: &metadata.ErrDownloadLengthMismatch{}, want: "target dev-x86_64-1.1.0-uki.efi: download length mismatch error: it has more than 4096 bytes"},
		{name: "target with another digest", attack: func(a *attacker) {
			name := a.target("1.1.0-uki.efi")
			data := a.read(name)
			data[0] ^= 1
			write(a.t, a.path(name), data)
		}, is: &metadata.ErrLengthOrHashMismatch{}, want: "target dev-x86_64-1.1.0-uki.efi: length/hash verification error: its SHA-256 is "},
		{name: "damaged compressed target", attack: func(a *attacker) {
			name := a.target("1.1.0-root.img.zst")
			data := a.read(name)
			data[len(data)/2] ^= 1
			write(a.t, a.path(name), data)
		}, is: &metadata.ErrLengthOrHashMismatch{}, want: "target dev-x86_64-1.1.0-root.img.zst: "},
		{name: "missing target", attack: func(a *attacker) { os.Remove(a.path(a.target("1.0.0_1.1.0_add-x"))) }, is: fs.ErrNotExist, want: "target 1.0.0_1.1.0_add-x: missing"},
		{name: "other manifest", attack: func(a *attacker) {
			current := a.r.current.targets.Signed.Targets["manifest.json"].Hashes["sha256"].String()
			write(a.t, a.path(targetPath("manifest.json", current)), []byte("{}"))
		}, is: &metadata.ErrDownloadLengthMismatch{}, want: "target manifest.json: "},
		{name: "manifest that names what is no target", attack: func(a *attacker) {
			targets := maps.Clone(a.r.current.targets.Signed.Targets)
			delete(targets, "1.0.0_1.1.0_add-x")
			a.publish(targets)
		}, want: "the manifest names 1.0.0_1.1.0_add-x, which is not a target"},
		{name: "manifest with another digest than the targets", attack: func(a *attacker) {
			targets := maps.Clone(a.r.current.targets.Signed.Targets)
			targets["1.0.0_1.1.0_add-x"] = targets["dev-x86_64-1.0.0-uki.efi"]
			a.publish(targets)
		}, want: "target 1.0.0_1.1.0_add-x: size or digest is not that of the manifest"},
		{name: "manifest with another content than the image", attack: func(a *attacker) {
			a.manifest(func(m *update.Manifest) { m.Updates[0].Images.Root.ContentSize++ })
		}, want: "target dev-x86_64-1.0.0-root.img.zst: decompressed it has 12288 bytes"},
		{name: "manifest that gives a release to another variant", attack: func(a *attacker) {
			a.manifest(func(m *update.Manifest) { m.Updates[0].Variant = "prod" })
		}, want: `target dev-x86_64-1.0.0-uki.efi: VARIANT_ID in its os-release is "dev": the release is of variant prod`},
		{name: "manifest that mixes two releases", attack: func(a *attacker) {
			a.manifest(func(m *update.Manifest) { m.Updates[0].Images.Hash = m.Updates[1].Images.Hash })
		}, want: "target dev-x86_64-1.0.0-root.img.zst: root, hash tree and the root hash in the kernel image do not fit: verity mismatch"},
		{name: "manifest of a later schema", attack: func(a *attacker) {
			a.rawManifest([]byte(`{"schema": 2}`))
		}, want: "update manifest: schema 2: this program knows schema 1"},
		{name: "manifest without a way to migrate", attack: func(a *attacker) {
			data, err := json.Marshal(&update.Manifest{Schema: 1, Updates: a.r.current.manifest.Updates})
			if err != nil {
				a.t.Fatal(err)
			}
			a.rawManifest(data)
		}, want: "no migrations lead from datastore 1.0.0 to 1.1.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, p, clk := newRepo(t)
			if c.policy != nil {
				c.policy(p)
			}
			add(t, r, p, release(t, "1.0.0"))
			add(t, r, p, secondRelease(t))
			a := &attacker{t, copyTree(t, r.dir), r, p}
			server := httptest.NewServer(http.FileServer(http.Dir(a.dir)))
			defer server.Close()
			// A client of the folder, one behind a server, and one with nothing of
			// Slipway in it; they have seen the repository before.
			options := ValidateOptions{Now: clk.Time, State: t.TempDir()}
			webOptions := ValidateOptions{Now: clk.Time, State: t.TempDir()}
			plain := newClient(t, r, clk.Time)
			plain.url = server.URL
			for _, err := range []error{second(Validate(t.Context(), Folder(a.dir), options)), second(Validate(t.Context(), Web{Base: server.URL}, webOptions)), second(plain.update(t))} {
				if err != nil {
					t.Fatalf("before the attack: %v", err)
				}
			}
			if c.attack != nil {
				c.attack(a)
			}
			now := clk.Add(c.later)
			options.Now, webOptions.Now, plain.now = now, now, now
			for where, err := range map[string]error{
				"folder": second(Validate(t.Context(), Folder(a.dir), options)),
				"web":    second(Validate(t.Context(), Web{Base: server.URL}, webOptions)),
			} {
				if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("%s: %T %v, want %T %s", where, err, err, c.is, c.want)
				}
			}
			if strings.Contains(c.name, "manifest") || strings.Contains(c.name, "target ") || strings.HasSuffix(c.name, " target") {
				return // go-tuf's client alone did not look at these
			}
			if err := second(plain.update(t)); err == nil || !errors.Is(err, c.is) {
				t.Errorf("go-tuf: %T %v, want %T", err, err, c.is)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// manifest publishes a manifest with a change, under the right keys.
func (a *attacker) manifest(change func(*update.Manifest)) {
	a.t.Helper()
	change(a.r.current.manifest)
	data, err := a.r.current.manifest.Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	a.rawManifest(data)
}

func (a *attacker) rawManifest(data []byte) {
	a.t.Helper()
	file := write(a.t, filepath.Join(a.t.TempDir(), "manifest.json"), data)
	in, err := describe(a.t.Context(), file, update.ManifestTarget)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, a.path(targetPath(update.ManifestTarget, in.file.SHA256)), data)
	targets := maps.Clone(a.r.current.targets.Signed.Targets)
	targets[update.ManifestTarget] = in.entry()
	a.publish(targets)
}
