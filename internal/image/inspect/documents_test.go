package inspect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/provenance"
	"slipway/internal/sbom"
	"slipway/internal/sign"
)

func testKey(t *testing.T, seed byte) sign.Signer {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.Parse(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return key.Signer
}

// shipped is a folder with an image and its documents.
type shipped struct {
	t   *testing.T
	dir string
}

func (s shipped) path(name string) string { return filepath.Join(s.dir, name) }

func (s shipped) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s shipped) remove(name string) {
	s.t.Helper()
	if err := os.Remove(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// replace changes a text in a file.
func (s shipped) replace(name, old, with string) {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil || !bytes.Contains(data, []byte(old)) {
		s.t.Fatalf("%s has no %s: %v", name, old, err)
	}
	s.write(name, bytes.Replace(data, []byte(old), []byte(with), 1))
}

// state writes provenance of the files that are there, signed if there is a signer.
func (s shipped) state(signer sign.Signer, names ...string) {
	s.t.Helper()
	st := provenance.New("v1", provenance.BuildDefinition{ExternalParameters: map[string]any{"variant": "dev"}})
	for _, name := range names {
		data, err := os.ReadFile(s.path(name))
		if err != nil {
			s.t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		st.Subject = append(st.Subject, provenance.Resource{Name: name, Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}})
	}
	name, data, err := "os"+provenance.EndUnsigned, []byte(nil), error(nil)
	if signer == nil {
		data, err = st.Encode()
	} else {
		name = "os" + provenance.EndSigned
		data, err = st.Sign(s.t.Context(), signer)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name, data)
}

var shippedFiles = []string{"os.img", "os.qcow2", "os-sbom.spdx.json", "os-sbom.cdx.json", "inventory.json"}

func ship(t *testing.T, signer sign.Signer) shipped {
	t.Helper()
	s := shipped{t, t.TempDir()}
	s.write("os.img", []byte("a disk"))
	s.write("os.qcow2", []byte("the same disk"))
	list := []Package{{Name: "acme-a", Version: "1", Release: "1", Arch: "x86_64"}, {Name: "acme-b", Epoch: 2, Version: "1.5", Release: "3", Arch: "noarch"}}
	inventory, err := json.Marshal(map[string]any{"packages": list})
	s.write("inventory.json", inventory)
	image := &sbom.Image{Name: "os", OS: "os", Version: "1.0.0", Vendor: "acme", Time: time.Unix(1700000000, 0), Tool: "v1"}
	for _, p := range list {
		image.Packages = append(image.Packages, sbom.Package{Name: p.Name, Epoch: p.Epoch, Version: p.Version, Release: p.Release, Arch: p.Arch, License: "MIT",
			Programs: []sbom.Program{{Path: "/usr/bin/" + p.Name, Go: "1.26.8", Modules: []sbom.Module{{Path: "golang.org/x/sys", Version: "v0.1.0"}}}}})
	}
	spdx, errSPDX := sbom.SPDX(image)
	cyclonedx, errCycloneDX := sbom.CycloneDX(image)
	if err := errors.Join(err, errSPDX, errCycloneDX); err != nil {
		t.Fatal(err)
	}
	s.write("os-sbom.spdx.json", spdx)
	s.write("os-sbom.cdx.json", cyclonedx)
	s.state(signer, shippedFiles...)
	return s
}

func TestVerifyDocuments(t *testing.T) {
	t.Parallel()
	ours, theirs := testKey(t, 1), testKey(t, 2)
	id, err := provenance.KeyID(ours.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		signer sign.Signer
		key    crypto.PublicKey
		image  string // os.img where it is empty
		change func(s shipped)
		want   []string // beginnings of the findings
	}{
		{name: "signed", signer: ours, key: ours.Public()},
		{name: "signed, no key", signer: ours},
		{name: "unsigned"},
		{name: "other format", signer: ours, key: ours.Public(), image: "os.qcow2"},
		{name: "nothing beside it", change: func(s shipped) {
			for _, name := range append([]string{"os-provenance.intoto.json"}, shippedFiles[1:]...) {
				s.remove(name)
			}
		}},
		{name: "only the image and its provenance", signer: ours, key: ours.Public(), change: func(s shipped) {
			for _, name := range shippedFiles[1:] {
				s.remove(name)
			}
		}},

		{name: "key wanted, unsigned", key: ours.Public(), want: []string{"os-provenance.intoto.json: the provenance is not signed"}},
		{name: "key wanted, none", key: ours.Public(), change: func(s shipped) { s.remove("os-provenance.intoto.json") },
			want: []string{"os.img: there is no os-provenance.intoto.jsonl beside it, so nothing is signed"}},
		{name: "other key", signer: theirs, key: ours.Public(), want: []string{"os-provenance.intoto.jsonl: wrong signature: the key is " + id}},
		{name: "unsigned under the name of signed", change: func(s shipped) {
			if err := os.Rename(s.path("os-provenance.intoto.json"), s.path("os-provenance.intoto.jsonl")); err != nil {
				s.t.Fatal(err)
			}
		}, want: []string{"os-provenance.intoto.jsonl: the provenance is not signed, though its name says so"}},
		{name: "unsigned beside signed does not count", signer: ours, key: ours.Public(), change: func(s shipped) {
			s.write("os.img", []byte("another disk"))
			s.state(nil, shippedFiles...)
		}, want: []string{"os.img: its sha256 is "}},
		{name: "changed after signing", signer: ours, key: ours.Public(), change: func(s shipped) {
			data, err := os.ReadFile(s.path("os-provenance.intoto.jsonl"))
			var envelope map[string]any
			if err = errors.Join(err, json.Unmarshal(data, &envelope)); err != nil {
				s.t.Fatal(err)
			}
			s.write("os.img", []byte("another disk"))
			s.state(nil, shippedFiles...)
			forged, err := os.ReadFile(s.path("os-provenance.intoto.json"))
			envelope["payload"] = forged
			data, errJSON := json.Marshal(envelope)
			if err = errors.Join(err, errJSON); err != nil {
				s.t.Fatal(err)
			}
			s.write("os-provenance.intoto.jsonl", data)
		}, want: []string{"os-provenance.intoto.jsonl: wrong signature of the key " + id + ": the provenance was changed after it was signed"}},

		{name: "changed image", signer: ours, key: ours.Public(), change: func(s shipped) { s.write("os.img", []byte("b disk")) }, want: []string{"os.img: its sha256 is "}},
		{name: "changed file beside it", signer: ours, change: func(s shipped) { s.write("os.qcow2", nil) }, want: []string{"os.qcow2: its sha256 is "}},
		{name: "another image", signer: ours, image: "os.vmdk", change: func(s shipped) { s.write("os.vmdk", nil) }, want: []string{"os-provenance.intoto.jsonl: it does not name os.vmdk"}},
		{name: "bills of materials that nobody states", change: func(s shipped) { s.state(nil, "os.img") },
			want: []string{"os-provenance.intoto.json: it does not name os-sbom.spdx.json", "os-provenance.intoto.json: it does not name os-sbom.cdx.json"}},
		{name: "provenance cut off", signer: ours, change: func(s shipped) { s.write("os-provenance.intoto.jsonl", []byte(`{"payloadType":`)) },
			want: []string{"os-provenance.intoto.jsonl: provenance: unexpected EOF"}},
		{name: "path in provenance", change: func(s shipped) { s.replace("os-provenance.intoto.json", `"os.qcow2"`, `"../../x"`) },
			want: []string{`os-provenance.intoto.json: provenance: subject "../../x": want the name of a file without folders`}},

		{name: "package more in the bill", change: func(s shipped) {
			s.replace("inventory.json", `{"name":"acme-a","epoch":0,"version":"1","release":"1","arch":"x86_64","size":0},`, "")
			s.state(nil, shippedFiles...)
		}, want: []string{"os-sbom.spdx.json: it lists acme-a-1-1.x86_64, which inventory.json does not have", "os-sbom.cdx.json: it lists acme-a-1-1.x86_64, which"}},
		{name: "package less in the bill", change: func(s shipped) {
			s.replace("os-sbom.spdx.json", "pkg:rpm/acme/acme-b", "pkg:deb/acme/acme-b")
			s.state(nil, shippedFiles...)
		}, want: []string{"os-sbom.spdx.json: it does not list acme-b-2:1.5-3.noarch, which inventory.json has"}},
		{name: "other version in the bill", change: func(s shipped) {
			s.replace("inventory.json", `"version":"1.5"`, `"version":"1.6"`)
			s.state(nil, shippedFiles...)
		}, want: []string{
			"os-sbom.spdx.json: it lists acme-b-2:1.5-3.noarch, which", "os-sbom.spdx.json: it does not list acme-b-2:1.6-3.noarch, which",
			"os-sbom.cdx.json: it lists acme-b-2:1.5-3.noarch, which", "os-sbom.cdx.json: it does not list acme-b-2:1.6-3.noarch, which",
		}},
		{name: "bill changed by hand", change: func(s shipped) {
			s.replace("os-sbom.cdx.json", `"version": "2:1.5-3"`, `"version": "2:1.6-3"`)
			s.state(nil, shippedFiles...)
		}, want: []string{"os-sbom.cdx.json: acme-b 2:1.6-3 has the package URL of acme-b 2:1.5-3"}},
		{name: "changed bill", signer: ours, key: ours.Public(), change: func(s shipped) { s.replace("os-sbom.spdx.json", "MIT", "ISC") }, want: []string{"os-sbom.spdx.json: its sha256 is "}},
		{name: "bill of another image", change: func(s shipped) {
			s.replace("os-sbom.spdx.json", `"name": "os"`, `"name": "other"`)
			s.state(nil, shippedFiles...)
		}, want: []string{`os-sbom.spdx.json: it is the bill of materials of "other"`}},
		{name: "no bill at all", change: func(s shipped) {
			s.write("os-sbom.spdx.json", []byte("{}"))
			s.state(nil, shippedFiles...)
		}, want: []string{"os-sbom.spdx.json: neither spdxVersion nor bomFormat"}},
		{name: "inventory cut off", change: func(s shipped) {
			s.write("inventory.json", []byte("{"))
			s.state(nil, shippedFiles...)
		}, want: []string{"inventory.json: ", "inventory.json: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := ship(t, tt.signer)
			if tt.change != nil {
				tt.change(shipped{t, s.dir})
			}
			image := s.path("os.img")
			if tt.image != "" {
				image = s.path(tt.image)
			}
			_, findings, err := VerifyDocuments(t.Context(), image, tt.key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]string, len(findings))
			for i, f := range findings {
				got[i] = f.String()
				if i < len(tt.want) && strings.HasPrefix(got[i], tt.want[i]) {
					got[i] = tt.want[i]
				}
			}
			if diff := cmp.Diff(append([]string{}, tt.want...), got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestDocumentsLines(t *testing.T) {
	t.Parallel()
	ours := testKey(t, 1)
	id, err := provenance.KeyID(ours.Public())
	if err != nil {
		t.Fatal(err)
	}
	s := ship(t, ours)
	lines := func(key crypto.PublicKey) []string {
		d, findings, err := VerifyDocuments(t.Context(), s.path("os.img"), key)
		if err != nil || len(findings) > 0 {
			t.Fatal(findings, err)
		}
		return d.Lines(key != nil)
	}
	bills := []string{"os-sbom.spdx.json: SPDX, packages: 2, those of inventory.json", "os-sbom.cdx.json: CycloneDX, packages: 2, those of inventory.json"}
	if diff := cmp.Diff(append(bills, "os-provenance.intoto.jsonl: files that match: 5, signed by the key"), lines(ours.Public())); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("os-provenance.intoto.jsonl: files that match: 5, signature by "+id+" not checked: give --key", lines(nil)[2]); diff != "" {
		t.Error(diff)
	}
	s.remove("inventory.json")
	s.remove("os.qcow2")
	if diff := cmp.Diff([]string{
		"os-sbom.spdx.json: SPDX, packages: 2, not compared: there is no inventory.json beside it", "os-sbom.cdx.json: CycloneDX, packages: 2, not compared: there is no inventory.json beside it",
		"os-provenance.intoto.jsonl: files that match: 3, not here: 2, signed by the key",
	}, lines(ours.Public())); diff != "" {
		t.Error(diff)
	}
}

// Holes or not, the digest is that of the content.
func TestDigest(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, at := range map[string][]int64{"empty": nil, "only holes": {}, "begin": {0}, "middle": {mib}, "end": {3*mib - 4}, "several": {0, mib + 5, 2 * mib}} {
		path := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if at != nil {
			err = f.Truncate(3 * mib)
		}
		for _, offset := range at {
			_, errAt := f.WriteAt([]byte("data"), offset)
			err = errors.Join(err, errAt)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(data)
		if got, err := Digest(t.Context(), path); err != nil || got != hex.EncodeToString(want[:]) {
			t.Errorf("%s: %s, want %x: %v", name, got, want, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, mib)); err != nil {
		t.Fatal(err)
	}
	if _, err := Digest(ctx, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
