package tufrepo

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"slipway/internal/image/imagetest"
	"slipway/internal/sign"
	"slipway/internal/update"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

// start is when the tests happen.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// key is an Ed25519 key made from a number, hence always the same.
func key(n byte) *sign.Key {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	return &sign.Key{Ref: fmt.Sprintf("key %d", n), Public: private.Public(), Signer: signer{private}}
}

func public(k *sign.Key) *sign.Key { return &sign.Key{Ref: k.Ref, Public: k.Public} }

type signer struct{ ed25519.PrivateKey }

func (s signer) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, opts)
}

// policies have two of three root keys, and a key for each other role.
func policies() *Policies {
	return &Policies{
		Root:      Policy{Threshold: 2, ExpiresDays: 365, Keys: []*sign.Key{key(1), key(2), key(3)}},
		Targets:   Policy{Threshold: 1, ExpiresDays: 90, Keys: []*sign.Key{key(4)}},
		Snapshot:  Policy{Threshold: 1, ExpiresDays: 14, Keys: []*sign.Key{key(5)}},
		Timestamp: Policy{Threshold: 1, ExpiresDays: 7, Keys: []*sign.Key{key(6)}},
	}
}

// clock is a time that a test moves on.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func open(t *testing.T, dir string, c *clock) *Repo {
	t.Helper()
	r, err := Open(t.Context(), dir, Options{Create: true, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// commit publishes what an operation made.
func commit(t *testing.T, r *Repo, p *Policies, c *Change, err error) {
	t.Helper()
	if err == nil && c == nil {
		t.Fatal("no change")
	}
	if err == nil {
		err = r.Commit(t.Context(), c, p.AllKeys()...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newRepo is an empty repository.
func newRepo(t *testing.T) (*Repo, *Policies, *clock) {
	t.Helper()
	c := &clock{start}
	r, p := open(t, filepath.Join(t.TempDir(), "repo"), c), policies()
	change, err := r.Init(p)
	commit(t, r, p, change, err)
	return r, p, c
}

func write(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func version(text string) update.Version {
	v, err := update.ParseVersion(text)
	if err != nil {
		panic(err)
	}
	return v
}

func compressLZ4(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressZstd(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// osRelease is that of the kernel image of a release.
func osRelease(variant, v string) string {
	return "ID=acme\nVARIANT_ID=" + variant + "\nIMAGE_VERSION=" + v + "\n"
}

// release writes the files of a release.
func release(t *testing.T, v string) Release {
	t.Helper()
	return releaseWith(t, v, "root of "+v, osRelease("dev", v))
}

// releaseWith does so with a text in the root, and an os-release in the kernel image.
func releaseWith(t *testing.T, v, text, osRelease string) Release {
	t.Helper()
	dir := t.TempDir()
	root, tree, kernel, err := imagetest.Release(text, osRelease)
	if err != nil {
		t.Fatal(err)
	}
	return Release{
		Variant: "dev", Arch: "x86_64", Version: version(v),
		Root: write(t, filepath.Join(dir, "x-root.img.zst"), compressZstd(t, root)),
		Hash: write(t, filepath.Join(dir, "x-hash.img.lz4"), compressLZ4(t, tree)),
		UKI:  write(t, filepath.Join(dir, "x-uki.efi"), kernel),
		SBOM: []string{write(t, filepath.Join(dir, "x.spdx.json"), []byte("sbom of "+v+"\n"))},
	}
}

func add(t *testing.T, r *Repo, p *Policies, rel Release) {
	t.Helper()
	c, err := r.Add(t.Context(), p, rel)
	commit(t, r, p, c, err)
}

// full is a repository with two releases and migrations between them.
func full(t *testing.T) (*Repo, *Policies, *clock) {
	t.Helper()
	r, p, c := newRepo(t)
	add(t, r, p, release(t, "1.0.0"))
	c.Time = c.Add(time.Hour)
	add(t, r, p, secondRelease(t))
	return r, p, c
}

func secondRelease(t *testing.T) Release {
	t.Helper()
	second := release(t, "1.1.0")
	v := version("1.1.0")
	second.Datastore = &v
	second.Migrations = t.TempDir()
	write(t, filepath.Join(second.Migrations, "migrations.toml"), []byte(migrations))
	write(t, filepath.Join(second.Migrations, "1.0.0_1.1.0_add-x"), []byte("program"))
	return second
}

const migrations = `[[migration]]
from = "1.0.0"
to = "1.1.0"
files = ["add-x"]
`

func check(t *testing.T, r *Repo, c *clock) *Report {
	t.Helper()
	report, err := Validate(t.Context(), Folder(r.dir), ValidateOptions{Now: c.Time})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// tree gives the files of a repository by name.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestGolden(t *testing.T) {
	t.Parallel()
	r, p, c := newRepo(t)
	const text = "root of both"
	first, second := releaseWith(t, "1.0.0", text, osRelease("dev", "1.0.0")), secondRelease(t)
	second.UKI = releaseWith(t, "1.1.0", text, osRelease("dev", "1.1.0")).UKI
	// compressors may change; these files do not
	for _, f := range []struct {
		fixed         string
		first, second *string
	}{{"testdata/root.img.zst", &first.Root, &second.Root}, {"testdata/hash.img.lz4", &first.Hash, &second.Hash}} {
		if *updateGolden {
			data, err := os.ReadFile(*f.first)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.fixed, data)
		}
		*f.first, *f.second = f.fixed, f.fixed
	}
	plan, err := LoadPlan("default")
	if err != nil {
		t.Fatal(err)
	}
	first.Waves = plan.Waves(start)
	first.Provenance = []string{write(t, filepath.Join(t.TempDir(), "x.intoto.jsonl"), []byte("{}\n"))}
	add(t, r, p, first)
	c.Time = c.Add(time.Hour)
	add(t, r, p, second)
	got := tree(t, r.dir)
	delete(got, lockFile)
	golden := filepath.Join("testdata", "golden")
	if *updateGolden {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		for name, data := range got {
			write(t, filepath.Join(golden, name), []byte(data))
		}
	}
	if diff := cmp.Diff(tree(t, golden), got); diff != "" {
		t.Errorf("the repository differs from testdata/golden (-want +got):\n%s", diff)
	}
	want := &Report{Targets: 11, Manifest: r.current.manifest, Expiries: []Expiry{
		{"root", 1, start.AddDate(1, 0, 0)}, {"targets", 3, c.AddDate(0, 0, 90)},
		{"snapshot", 3, c.AddDate(0, 0, 14)}, {"timestamp", 3, c.AddDate(0, 0, 7)},
	}}
	report := check(t, r, c)
	for _, target := range r.current.targets.Signed.Targets {
		want.Bytes += target.Length
	}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// client is go-tuf's own client, behind a server of static files.
type client struct {
	url, dir string
	root     []byte
	now      time.Time
}

func newClient(t *testing.T, r *Repo, now time.Time) *client {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(r.dir)))
	t.Cleanup(server.Close)
	root, err := os.ReadFile(r.path("1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	return &client{server.URL, t.TempDir(), root, now}
}

// update refreshes as a client that has run before.
func (c *client) update(t *testing.T) (*updater.Updater, error) {
	t.Helper()
	cfg, err := config.New(c.url, c.root)
	if err != nil {
		t.Fatal(err)
	}
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = filepath.Join(c.dir, "metadata"), filepath.Join(c.dir, "targets")
	u, err := updater.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u.UnsafeSetRefTime(c.now)
	return u, u.Refresh()
}

// manifest downloads everything with go-tuf, and gives the manifest.
func (c *client) manifest(t *testing.T) *update.Manifest {
	t.Helper()
	u, err := c.update(t)
	if err != nil {
		t.Fatal(err)
	}
	var m *update.Manifest
	for name := range u.GetTopLevelTargets() {
		info, err := u.GetTargetInfo(name)
		if err != nil {
			t.Fatal(err)
		}
		_, data, err := u.DownloadTarget(info, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if name == update.ManifestTarget {
			if m, err = update.Parse(data); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

func TestClientFollows(t *testing.T) {
	t.Parallel()
	r, p, clk := newRepo(t)
	c := newClient(t, r, start)
	if m := c.manifest(t); m != nil {
		t.Errorf("an empty repository has a manifest: %+v", m)
	}
	add(t, r, p, release(t, "1.0.0"))
	if m := c.manifest(t); len(m.Updates) != 1 || m.Updates[0].Version != version("1.0.0") {
		t.Errorf("after one release: %+v", m)
	}
	add(t, r, p, secondRelease(t))
	if m := c.manifest(t); len(m.Updates) != 2 || len(m.Migrations) != 1 {
		t.Errorf("after two releases: %+v", m)
	}
	// much later nothing is good any more, until it is refreshed
	clk.Time = clk.AddDate(0, 0, 80)
	c.now = clk.Time
	if _, err := c.update(t); !errors.Is(err, &metadata.ErrExpiredMetadata{}) {
		t.Errorf("expired: %v", err)
	}
	change, err := r.Refresh(p, false)
	commit(t, r, p, change, err)
	if m := c.manifest(t); len(m.Updates) != 2 {
		t.Errorf("after a refresh: %+v", m)
	}
	if got := check(t, r, clk).Expiries; got[1].Version != 3 || got[2].Version != 4 || got[3].Version != 4 {
		t.Errorf("refresh made %+v", got)
	}
	change, err = r.Refresh(p, true)
	commit(t, r, p, change, err)
	if got := check(t, r, clk).Expiries; got[1].Version != 4 || !got[1].Expires.Equal(clk.AddDate(0, 0, 90)) {
		t.Errorf("refresh with targets made %+v", got)
	}
	c.manifest(t)
	web, err := OpenSource(c.url)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Validate(t.Context(), web, ValidateOptions{Now: clk.Time})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(check(t, r, clk), report); diff != "" {
		t.Errorf("folder and web differ:\n%s", diff)
	}
}

// All keys change, one root key after the other; a client that knows only the
// first root follows, and so does one that looks at each step.
func TestRotate(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	c, late := newClient(t, r, start), newClient(t, r, start)
	c.manifest(t)
	old := p.AllKeys()
	p.Root.Keys = []*sign.Key{key(1), key(12), key(13)}
	p.Root.Threshold = 3
	p.Targets.Keys, p.Snapshot.Keys, p.Timestamp.Keys = []*sign.Key{key(14), key(17)}, []*sign.Key{key(15)}, []*sign.Key{key(16)}
	p.Targets.Threshold = 2
	if _, err := r.Refresh(p, false); err == nil || !strings.Contains(err.Error(), "keys or threshold of root in the settings are not those of root 1") {
		t.Errorf("settings that are not in force: %v", err)
	}
	change, err := r.Rotate(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), change, append(old, p.AllKeys()...)...); err != nil {
		t.Fatal(err)
	}
	c.manifest(t)
	change, err = r.Refresh(p, true)
	commit(t, r, p, change, err)
	c.manifest(t)
	change, err = r.Rotate(p) // the same keys, a new expiry
	commit(t, r, p, change, err)
	c.manifest(t)
	late.manifest(t)
	if got := check(t, r, clk).Expiries[0].Version; got != 3 {
		t.Errorf("root %d", got)
	}
	// the old keys are good for nothing any more
	change, err = r.Refresh(p, false)
	if err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if err := r.Commit(t.Context(), change, old...); !errors.As(err, &missing) || len(missing.Payloads) != 2 {
		t.Errorf("signed with old keys: %v", err)
	}
	if change.AddSignature("timestamp", "0000", []byte("x")) == nil {
		t.Error("a signature of an unknown key was taken")
	}
}

func TestRootExpired(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	c := newClient(t, r, start)
	clk.Time = start.AddDate(1, 0, 1)
	c.now = clk.Time
	if _, err := r.Refresh(p, true); err == nil || !strings.Contains(err.Error(), "root 1 has expired on 2027-01-01T00:00:00Z") {
		t.Errorf("refresh: %v", err)
	}
	change, err := r.Rotate(p)
	commit(t, r, p, change, err)
	change, err = r.Refresh(p, true)
	commit(t, r, p, change, err)
	c.manifest(t)
}

func TestAddAgain(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	before := tree(t, r.dir)
	c, err := r.Add(t.Context(), p, secondRelease(t))
	if c != nil || err != nil {
		t.Errorf("the same again: %v, %v", c, err)
	}
	if diff := cmp.Diff(before, tree(t, r.dir)); diff != "" {
		t.Errorf("the same again changed the repository:\n%s", diff)
	}
	other, later := releaseWith(t, "1.1.0", "another", osRelease("dev", "1.1.0")), release(t, "1.2.0")
	for name, c := range map[string]struct {
		change func(*Release)
		want   string
	}{
		"other content": {func(*Release) {}, "the repository has release dev x86_64 1.1.0 with other content"},
		"no root":       {func(rel *Release) { rel.Root = "" }, "release dev x86_64 1.1.0: no file for the root: name it with --root"},
		"empty file":    {func(rel *Release) { rel.Hash = write(t, filepath.Join(t.TempDir(), "x"), nil) }, "the file is empty"},
		"folder":        {func(rel *Release) { rel.Hash = t.TempDir() }, "not a regular file"},
		"damaged compression": {func(rel *Release) {
			rel.Root = write(t, filepath.Join(t.TempDir(), "root.img.zst"), []byte("not zstd"))
		}, "decompress: "},
		"truncated lz4": {func(rel *Release) {
			data := compressLZ4(t, bytes.Repeat([]byte("x"), 1000))
			rel.Hash = write(t, filepath.Join(t.TempDir(), "x.img.lz4"), data[:len(data)-6])
		}, "decompress: "},
		"variant":     {func(rel *Release) { rel.Variant = "a b" }, `"a b": want letters`},
		"no way here": {func(rel *Release) { *rel = later; rel.Datastore = &rel.Version }, "no migrations lead from datastore 1.1.0 to 1.2.0"},
		"two files, one target": {func(rel *Release) {
			*rel = later
			rel.SBOM = append(rel.SBOM, write(t, filepath.Join(t.TempDir(), "y.spdx.json"), []byte("y")))
		}, "another file of the release has the target name dev-x86_64-1.2.0-sbom.spdx.json too"},
		"other migrations": {func(rel *Release) {
			*rel = later
			rel.Migrations = t.TempDir()
			write(t, filepath.Join(rel.Migrations, "migrations.toml"), []byte(strings.Replace(migrations, "add-x", "add-y", 1)))
			write(t, filepath.Join(rel.Migrations, "1.0.0_1.1.0_add-y"), []byte("program"))
		}, "the repository has other migrations from 1.0.0 to 1.1.0, 1.0.0_1.1.0_add-x: what is published never changes; give the new ones a step of their own"},
	} {
		rel := other
		c.change(&rel)
		if change, err := r.Add(t.Context(), p, rel); change != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if diff := cmp.Diff(before, tree(t, r.dir)); diff != "" {
			t.Errorf("%s: the repository changed:\n%s", name, diff)
		}
	}
	// a damaged target is mended by adding its release again
	damaged := r.path(targetPath("dev-x86_64-1.1.0-uki.efi", r.current.manifest.Updates[1].Images.UKI.SHA256))
	write(t, damaged, []byte("damaged"))
	if _, err := r.Add(t.Context(), p, secondRelease(t)); err != nil {
		t.Fatal(err)
	}
	check(t, r, clk)
}

func TestMaxVersion(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	third := release(t, "1.2.0")
	limit := version("1.1.0")
	third.MaxVersion = &limit
	add(t, r, p, third)
	add(t, r, p, release(t, "1.3.0"))
	m := check(t, r, clk).Manifest
	host := update.Host{Variant: "dev", Arch: "x86_64", Version: version("1.0.0")}
	if u := m.Next(host, clk.Time); u == nil || u.Version != limit {
		t.Errorf("a host goes to %v, want %s", u, limit)
	}
	for _, u := range m.Updates {
		if u.MaxVersion == nil || *u.MaxVersion != limit {
			t.Errorf("%s has the maximum version %v", &u, u.MaxVersion)
		}
	}
	if got := m.Updates[3].Datastore; got != version("1.1.0") {
		t.Errorf("release 1.3.0 has datastore %s, want that of the release before", got)
	}
}

// A release with the same programs of other content leaves those that are there.
func TestKeptMigrations(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	published := r.current.manifest.Migrations
	third := release(t, "1.2.0")
	third.Migrations = t.TempDir()
	write(t, filepath.Join(third.Migrations, "migrations.toml"), []byte(migrations+strings.NewReplacer("1.0.0", "1.1.0", "1.1.0", "1.2.0", "add-x", "add-y").Replace(migrations)))
	write(t, filepath.Join(third.Migrations, "1.0.0_1.1.0_add-x"), []byte("of another toolchain"))
	write(t, filepath.Join(third.Migrations, "1.1.0_1.2.0_add-y"), []byte("new"))
	c, err := r.Add(t.Context(), p, third)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(published, c.Kept); diff != "" {
		t.Error(diff)
	}
	commit(t, r, p, c, err)
	m := check(t, r, clk).Manifest
	if len(m.Migrations) != 2 || m.Migrations[1].Files[0].Size != 3 {
		t.Errorf("%+v", m.Migrations)
	}
	if diff := cmp.Diff(published[0], m.Migrations[0]); diff != "" {
		t.Error(diff)
	}
}

// The data that a release works with are of the version that its image says.
func TestDatastoreOfImage(t *testing.T) {
	t.Parallel()
	other := version("2.0.0")
	for name, c := range map[string]struct {
		osRelease string
		given     *update.Version
		packed    bool
		want      string // or a part of the error
	}{
		"says none":   {"", nil, false, "1.0.0"},
		"given":       {"", &other, false, "2.0.0"},
		"says it":     {"DATASTORE_VERSION=0.9.0\n", nil, false, "0.9.0"},
		"packed":      {"DATASTORE_VERSION=\"0.9.0\"\n", nil, true, "0.9.0"},
		"both":        {"DATASTORE_VERSION=2.0.0\n", &other, false, "2.0.0"},
		"differently": {"DATASTORE_VERSION=0.9.0\n", &other, false, "DATASTORE_VERSION in its os-release is 0.9.0, not 2.0.0: hosts go by the image, so leave --datastore out"},
		"malformed":   {"DATASTORE_VERSION=1\n", nil, false, `DATASTORE_VERSION in its os-release: version "1": want three numbers`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, p, clk := newRepo(t)
			rel := releaseWith(t, "1.0.0", "root", osRelease("dev", "1.0.0")+c.osRelease)
			rel.Datastore = c.given
			if c.packed {
				data, err := os.ReadFile(rel.UKI)
				if err != nil {
					t.Fatal(err)
				}
				rel.UKI = write(t, rel.UKI+".zst", compressZstd(t, data))
			}
			change, err := r.Add(t.Context(), p, rel)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
				return
			}
			commit(t, r, p, change, err)
			if got := check(t, r, clk).Manifest.Updates[0].Datastore.String(); got != c.want {
				t.Errorf("datastore %s, want %s", got, c.want)
			}
		})
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	const addX = "1.0.0_1.1.0_add-x"
	archive := func(entries ...string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i < len(entries); i += 2 {
			h := &tar.Header{Name: entries[i], Mode: 0o755, Size: int64(len(entries[i+1])), Typeflag: tar.TypeReg}
			if strings.HasSuffix(entries[i], "/") {
				h.Typeflag = tar.TypeDir
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(entries[i+1])); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return write(t, filepath.Join(t.TempDir(), "x-migrations.tar"), b.Bytes())
	}
	steps, programs, done, err := readMigrations(t.Context(), archive("./", "", "./migrations.toml", migrations, "./"+addX, "program"))
	if err != nil || len(steps) != 1 || len(programs) != 1 || programs[0].file.Target != addX || programs[0].file.Size != 7 {
		t.Errorf("%+v %+v %v", steps, programs, err)
	}
	dir := filepath.Dir(programs[0].path)
	done()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind", dir)
	}
	for name, c := range map[string]struct{ path, want string }{
		"missing":        {"/nonexistent.tar", "migrations: stat /nonexistent.tar"},
		"not an archive": {write(t, filepath.Join(t.TempDir(), "x.tar"), []byte(strings.Repeat("hello", 500))), "archive/tar: invalid tar header"},
		"no table":       {archive(addX, "program"), "no migrations.toml"},
		"path":           {archive("../add-x", "program"), `entry "../add-x": want regular files without folders`},
		"twice":          {archive("add-x", "a", "add-x", "b"), "file exists"},
		"no program":     {archive("migrations.toml", migrations, "add-x", "program"), `migrations.toml:4:10: "migration[0].files[0]": `},
		"backward":       {archive("migrations.toml", strings.Replace(migrations, `"1.1.0"`, `"0.9.0"`, 1), "add-x", "p"), `migrations.toml:3:6: "migration[0].to" is 0.9.0, which is not after 1.0.0`},
		"unknown key":    {archive("migrations.toml", "[[migration]]\nfrm = 1\n"), `migrations.toml:2:1: unknown key "migration[0].frm"`},
		"version":        {archive("migrations.toml", strings.Replace(migrations, "1.1.0", "99999999999.1.0", 1), "add-x", "p"), "is not a number without leading zeros"},
	} {
		_, _, done, err := readMigrations(t.Context(), c.path)
		done()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	r, _, c := newRepo(t)
	if _, err := Open(t.Context(), r.dir, Options{Now: c.now}); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), r.dir, Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Init(policies()); err == nil || !strings.Contains(err.Error(), "there is a repository already") {
		t.Errorf("made twice: %v", err)
	}
	if _, err := Open(t.Context(), t.TempDir(), Options{}); !errors.Is(err, ErrNone) {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	r, _, c := full(t)
	write(t, r.path("3.snapshot.json"), []byte("{}"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.dir, Options{Now: c.now}); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("opened a damaged repository: %v", err)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	r, p, clk := full(t)
	edit := func(f func(*update.Update) error) {
		t.Helper()
		change, err := r.Edit(t.Context(), p, func(m *update.Manifest) error { return f(m.Update("dev", "x86_64", version("1.1.0"))) })
		commit(t, r, p, change, err)
	}
	next := func() string {
		u := check(t, r, clk).Manifest.Next(update.Host{Variant: "dev", Arch: "x86_64", Version: version("1.0.0"), Seed: 1024}, clk.Time)
		if u == nil {
			return ""
		}
		return u.Version.String()
	}
	plan, err := parsePlan("plan", []byte("schema = 1\nstep = [{after = \"0s\"}, {after = \"2d\", percent = 100}]"))
	if err != nil {
		t.Fatal(err)
	}
	edit(func(u *update.Update) error { u.Waves = plan.Waves(clk.Time); return nil })
	expect := func(what, want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("%s: half of the fleet is offered %q, want %q", what, got, want)
		}
	}
	clk.Time = clk.Add(23 * time.Hour)
	expect("before its time", "")
	edit(func(u *update.Update) error { return Pause(u, clk.Time) })
	clk.Time = clk.Add(48 * time.Hour)
	expect("paused", "")
	edit(func(u *update.Update) error { return Resume(u, clk.Time) })
	expect("resumed", "")
	if got := ReadyPercent(r.current.manifest.Update("dev", "x86_64", version("1.1.0")), clk.Time); got < 47.8 || got > 48 {
		t.Errorf("%v %% are ready after 23 of 48 hours", got)
	}
	clk.Time = clk.Add(time.Hour + time.Second)
	expect("an hour later", "1.1.0")
	change, err := r.Edit(t.Context(), p, func(*update.Manifest) error { return nil })
	if change != nil || err != nil {
		t.Errorf("an edit without changes: %v, %v", change, err)
	}
	u := r.current.manifest.Update("dev", "x86_64", version("1.1.0"))
	if Resume(u, clk.Time) == nil || Pause(u, clk.Time) != nil || Pause(u, clk.Time) == nil {
		t.Error("what is not paused was resumed, or what is paused was paused")
	}
}

// Two people have the root keys, a third the others, and none sees the keys of
// another.
func TestSigningApart(t *testing.T) {
	t.Parallel()
	c := &clock{start}
	r := open(t, filepath.Join(t.TempDir(), "repo"), c)
	all := policies()
	p := policies()
	for _, role := range roles {
		for i, k := range p.Role(role).Keys {
			p.Role(role).Keys[i] = public(k)
		}
	}
	change, err := r.Init(p)
	if err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if err := r.Commit(t.Context(), change, p.AllKeys()...); !errors.As(err, &missing) || len(missing.Payloads) != 4 || missing.Payloads[0].Missing != 2 || len(missing.Payloads[0].Keys) != 3 {
		t.Fatalf("nobody signed: %v", err)
	}
	if again, err := r.Init(p); err != nil || !errors.Is(r.Commit(t.Context(), again, all.AllKeys()...), ErrWaiting) {
		t.Errorf("a second change beside the one that waits: %v", err)
	}
	if err := r.Resume(t.Context(), key(1), key(4)); !errors.As(err, &missing) || len(missing.Payloads) != 3 {
		t.Fatalf("two signed: %v", err)
	}
	// by hand, from the payload alone
	staged, err := r.Staged()
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range missing.Payloads {
		k := map[string]*sign.Key{"root": key(3), "snapshot": key(5), "timestamp": key(6)}[payload.Role]
		id, err := newKey(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := sign.Message(t.Context(), k.Signer, payload.Keys[0].Scheme, payload.Message)
		if err != nil {
			t.Fatal(err)
		}
		if err := staged.AddSignature(payload.Role, id.id, []byte("wrong")); !errors.Is(err, sign.ErrSignature) {
			t.Errorf("a wrong signature: %v", err)
		}
		if err := staged.AddSignature("mirrors", id.id, sig); err == nil {
			t.Error("a signature for no role was taken")
		}
		if err := staged.AddSignature(payload.Role, id.id, sig); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(r.Stage(t.Context(), staged), r.Resume(t.Context())); err != nil {
		t.Fatal(err)
	}
	check(t, r, c)
	if staged, err := r.Staged(); staged != nil || err != nil {
		t.Errorf("still staged: %v, %v", staged, err)
	}

	// a new root waits while timestamps are refreshed
	online := policies()
	online.Root = p.Root
	change, err = r.Rotate(online)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), change, online.AllKeys()...); !errors.As(err, &missing) {
		t.Fatal(err)
	}
	change, err = r.Refresh(online, false)
	commit(t, r, online, change, err)
	if err := r.Resume(t.Context(), key(1), key(2)); err != nil {
		t.Fatal(err)
	}
	if got := check(t, r, c).Expiries; got[0].Version != 2 || got[3].Version != 2 {
		t.Errorf("%+v", got)
	}

	// a staged release holds others up, and does not survive a change beside it
	change, err = r.Add(t.Context(), p, release(t, "1.0.0"))
	if err != nil || !errors.As(r.Commit(t.Context(), change), &missing) {
		t.Fatal(err)
	}
	change, err = r.Refresh(online, false)
	if err != nil || !errors.Is(r.Commit(t.Context(), change, online.AllKeys()...), ErrWaiting) {
		t.Errorf("a refresh beside a release that waits: %v", err)
	}
	if err := errors.Join(change.Sign(t.Context(), online.AllKeys()...), r.Publish(t.Context(), change)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Staged(); !errors.Is(err, ErrStale) {
		t.Errorf("a stale change: %v", err)
	}
	if err := r.DropStaged(); err != nil {
		t.Fatal(err)
	}
	add(t, r, online, release(t, "1.0.0"))
	check(t, r, c)
}

func TestPublishRefusesStale(t *testing.T) {
	t.Parallel()
	r, p, _ := full(t)
	one, err := r.Refresh(p, false)
	if err != nil {
		t.Fatal(err)
	}
	two, err := r.Refresh(p, false)
	commit(t, r, p, two, err)
	if err := r.Commit(t.Context(), one, p.AllKeys()...); !errors.Is(err, ErrStale) {
		t.Errorf("%v", err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r, p, _ := full(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Add(ctx, p, release(t, "1.2.0")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := Validate(ctx, Folder(r.dir), ValidateOptions{Now: start}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
