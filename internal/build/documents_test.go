package build

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/inspect"
	"slipway/internal/provenance"
	"slipway/internal/sbom"
	"slipway/internal/sign"
	"slipway/internal/tufrepo"
	"slipway/internal/workspace"
)

// documented is a workspace whose image's documents are looked at.
type documented struct {
	*migrating
	signing workspace.Signing
	version string
}

func newDocumented(t *testing.T) *documented {
	d := &documented{migrating: newMigrating(t), version: "v1"}
	// the plan knows the source, rpmbuild needs none
	d.write("slipway.toml", `schema = 1
name = "testos"
vendor = "acme"
version = "1.2.3"
source-date-epoch = 1700000000
[macros]
planned = "1"
`)
	d.requires = "Provides: bundled(zlib) = 1.3\n%if 0%{?planned}\nSource0: os.tar\n%endif\n"
	d.source("https://example.org/one/os.tar")
	return d
}

func (d *documented) source(url string) {
	d.write("packages/os/package.toml", "[[external-files]]\nurl = \""+url+"\"\nsha512 = \""+strings.Repeat("ab", 64)+"\"\n")
}

func (d *documented) with() *Builder {
	b := d.builder()
	b.opt.Signing, b.opt.Version = d.signing, d.version
	b.provenance = sync.OnceValues(func() (sign.Signer, error) { return openProvenance(d.signing) })
	b.signing = sync.OnceValues(func() (*signing, error) { return openSigning(d.signing) })
	return b
}

// show builds and gives the documents by their endings.
func (d *documented) show() map[string]string {
	d.t.Helper()
	if _, err := d.make(); err != nil {
		d.t.Fatal(err)
	}
	if err := d.with().Build(d.t.Context(), nil); err != nil {
		d.t.Fatal(err)
	}
	return d.documents()
}

func (d *documented) documents() map[string]string {
	d.t.Helper()
	found := map[string]string{}
	for _, end := range []string{sbom.EndSPDX, sbom.EndCycloneDX, provenance.EndSigned, provenance.EndUnsigned} {
		data, err := os.ReadFile(d.path(end))
		if err == nil {
			found[end] = string(data)
		} else if !errors.Is(err, os.ErrNotExist) {
			d.t.Fatal(err)
		}
	}
	return found
}

func (d *documented) path(end string) string {
	return filepath.Join(d.root, "build/images/x86_64-dev/1.2.3/testos-dev-x86_64-1.2.3"+end)
}

func (d *documented) replace(end, old, with string) {
	d.t.Helper()
	data, err := os.ReadFile(d.path(end))
	if err != nil || !bytes.Contains(data, []byte(old)) {
		d.t.Fatalf("%s has no %s: %v", end, old, err)
	}
	if err := errors.Join(os.Remove(d.path(end)), os.WriteFile(d.path(end), bytes.Replace(data, []byte(old), []byte(with), 1), 0o644)); err != nil {
		d.t.Fatal(err)
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	first := d.show()
	for end, wanted := range map[string][]string{
		sbom.EndSPDX:      {`"pkg:rpm/acme/acme-os@1-1?arch=noarch&distro=testos-1.2.3"`, `"pkg:generic/zlib@1.3"`, `"https://example.org/one/os.tar"`, `"created": "2023-11-14T22:13:20Z"`},
		sbom.EndCycloneDX: {`"pkg:rpm/acme/acme-os@1-1?arch=noarch&distro=testos-1.2.3"`, `"pkg:generic/zlib@1.3"`, `"https://example.org/one/os.tar"`},
		provenance.EndUnsigned: {`"variant":"dev"`, `"name":"sdk","digest":{"sha256":"0000`, `"name":"packages/os","digest":{"sha256":"`, `"name":"variants/dev"`, `"use":"installed"`,
			`"uri":"https://example.org/one/os.tar","digest":{"sha512":"abab`, `"version":{"slipway":"v1"}`},
	} {
		for _, text := range wanted {
			if !strings.Contains(first[end], text) {
				t.Errorf("%s has no %s:\n%s", end, text, first[end])
			}
		}
	}
	if first[provenance.EndSigned] != "" {
		t.Error("there is a signature without a key")
	}

	// They are of the image, and an update repository finds them.
	docs, findings, err := inspect.VerifyDocuments(t.Context(), d.path(".img"), nil)
	if err != nil || len(findings) > 0 || docs.Matched != 8 || docs.Absent != 0 {
		t.Errorf("%+v, %v, %v", docs, findings, err)
	}
	var rel tufrepo.Release
	if err := rel.FromDir(filepath.Dir(d.path(""))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{d.path(sbom.EndCycloneDX), d.path(sbom.EndSPDX), d.path(provenance.EndUnsigned)}, append(rel.SBOM, rel.Provenance...)); diff != "" {
		t.Error(diff)
	}

	// Another checkout with other caches makes the same.
	other := newDocumented(t)
	if diff := cmp.Diff(first, other.show()); diff != "" {
		t.Errorf("two builds differ:\n%s", diff)
	}

	// A build that has nothing to do leaves them alone; one that is lost is made again.
	if !d.current() {
		t.Error("there is no record of the build")
	}
	before, err := os.Stat(d.path(provenance.EndUnsigned))
	if err != nil {
		t.Fatal(err)
	}
	d.version = "v2" // has nothing to do either
	if err := d.with().Build(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(d.path(provenance.EndUnsigned)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the provenance was written again: %v", err)
	}
	d.version = "v1"
	if err := os.Remove(d.path(sbom.EndSPDX)); err != nil {
		t.Fatal(err)
	}
	if d.current() {
		t.Error("the record holds without a bill of materials")
	}
	if diff := cmp.Diff(first, d.show()); diff != "" {
		t.Error(diff)
	}

	// An address is no part of any key, but it stands in the documents.
	d.source("https://example.org/two/os.tar")
	if made, err := d.make(); err != nil || len(made) > 0 {
		t.Errorf("made %v: %v", made, err)
	}
	moved := d.show()
	for end, text := range moved {
		if !strings.Contains(text, "https://example.org/two/os.tar") || strings.Contains(text, "example.org/one") {
			t.Errorf("%s has the old address", end)
		}
	}
}

func TestDocumentsSigned(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	unsigned := d.show()
	rsaKey, _ := keyFiles(t, "rsa")
	ecKey, _ := keyFiles(t, "ecdsa")
	envelopes := map[string]bool{}
	for _, ref := range []string{rsaKey, ecKey} {
		d.signing.ProvenanceKey = ref
		signed := d.show()
		if signed[provenance.EndUnsigned] != "" || envelopes[signed[provenance.EndSigned]] {
			t.Errorf("%s: %v", ref, signed)
		}
		envelopes[signed[provenance.EndSigned]] = true
		f, err := provenance.Parse([]byte(signed[provenance.EndSigned]))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(unsigned[provenance.EndUnsigned], string(f.Payload)); diff != "" {
			t.Errorf("unsigned (-), signed (+):\n%s", diff)
		}
		key, err := sign.Load(ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, findings, err := inspect.VerifyDocuments(t.Context(), d.path(".img"), key.Public); err != nil || len(findings) > 0 {
			t.Error(findings, err)
		}
		if list, err := d.with().Verify(t.Context(), nil); err != nil || !list[len(list)-1].Good() {
			t.Errorf("%+v, %v", list[len(list)-1], err)
		}
	}
	if diff := cmp.Diff(unsigned, func() map[string]string { d.signing.ProvenanceKey = ""; return d.show() }()); diff != "" {
		t.Errorf("without key again:\n%s", diff)
	}

	public := filepath.Join(t.TempDir(), "pub")
	key, err := sign.Load(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	text, err := sign.MarshalPublic(key.Public)
	if err = errors.Join(err, os.WriteFile(public, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	for want, ref := range map[string]string{"is a public key: provenance-key wants the private one": public, "no such file": public + "x"} {
		if _, err := openProvenance(workspace.Signing{ProvenanceKey: ref}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[signing]") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if recordPath("/", Options{}, nil) == recordPath("/", Options{Signing: workspace.Signing{ProvenanceKey: rsaKey}}, nil) {
		t.Error("the record does not know the key")
	}
}

// What is not of the image as it is built now is found, and made again.
func TestVerifyDocuments(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	first := d.show()
	verify := func() *Verified {
		t.Helper()
		list, err := d.with().Verify(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return list[len(list)-1]
	}
	if v := verify(); !v.Good() {
		t.Fatalf("%+v", v)
	}
	d.version = "v2" // who verifies need not be who built
	if v := verify(); !v.Good() {
		t.Errorf("%+v", v)
	}
	d.version = "v1"
	for _, tt := range []struct {
		name, want string
		change     func()
	}{
		{"bill of materials", sbom.EndCycloneDX + " is not of the image beside it as it is built now: slipway build variants/dev shows it again", func() { d.replace(sbom.EndCycloneDX, "1.3", "1.4") }},
		{"missing", sbom.EndSPDX + " is missing: slipway build variants/dev shows it again", func() { _ = os.Remove(d.path(sbom.EndSPDX)) }},
		{"provenance", provenance.EndUnsigned + " is not of the image beside it", func() { d.replace(provenance.EndUnsigned, `"variant":"dev"`, `"variant":"prod"`) }},
	} {
		tt.change()
		if v := verify(); v.Good() || len(v.Findings) != 1 || !strings.Contains(v.Findings[0], tt.want) {
			t.Errorf("%s: %+v", tt.name, v)
		}
		if diff := cmp.Diff(first, d.show()); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if v := verify(); !v.Good() {
			t.Errorf("%s: %+v", tt.name, v)
		}
	}
}
