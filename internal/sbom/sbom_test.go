package sbom

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var writers = []struct {
	golden, format string
	write          func(*Image) ([]byte, error)
}{
	{"testdata/image.spdx.json", FormatSPDX, SPDX},
	{"testdata/image.cdx.json", FormatCycloneDX, CycloneDX},
}

// sample has one of everything.
func sample() *Image {
	archive := Source{Name: "tool-1.2.tar.gz", URL: "https://example.org/dl/tool-1.2.tar.gz?a=b&c", SHA512: strings.Repeat("ab", 64)}
	return &Image{
		Name: "testos-dev-x86_64-0.1.0", OS: "testos", Version: "0.1.0", Vendor: "acme", Time: time.Unix(1700000000, 0), Tool: "v1.0.0",
		Packages: []Package{
			{
				Name: "acme-tool", Epoch: 1, Version: "1.2~rc1", Release: "3", Arch: "x86_64", License: "Apache-2.0 OR (MIT AND GPL-2.0-only WITH Linux-syscall-note)",
				URL: "https://example.org/", Summary: "A tool of <Go> & C", SHA256: strings.Repeat("01", 32),
				Sources: []Source{archive, {Name: "vendor.tar", URL: "go:example.org/Tool/v2@v2.1.0", SHA256: strings.Repeat("cd", 32)}},
				Bundled: []Bundled{{"zlib", "1.3"}, {"golang(example.org/x/y)", "1.0"}, {"crate(serde)", ""}},
				Programs: []Program{
					{Path: "/usr/bin/tool", Go: "1.26.8", Main: Module{"example.org/Tool/v2", ""}, Modules: []Module{{"golang.org/x/sys", "v0.49.0"}}},
					{Path: "/usr/bin/other", Go: "1.26.8", Modules: []Module{{"golang.org/x/sys", "v0.49.0"}}},
				},
				Requires: []int{1, 2},
			},
			{Name: "acme-libc++", Version: "2.0", Release: "1", Arch: "x86_64", License: "Freely redistributable", Summary: "Library", SHA256: strings.Repeat("23", 32),
				Sources: []Source{{Name: "libc++_2.0.orig.tar.xz", URL: "debian:libc++/libc++_2.0.orig.tar.xz", SHA256: strings.Repeat("45", 32)}}},
			{Name: "acme-tool-extra", Version: "1.2", Release: "3", Arch: "x86_64", License: "Apache-2.0", SHA256: strings.Repeat("67", 32), Sources: []Source{archive},
				Programs: []Program{{Path: "/usr/libexec/extra", Go: "1.26.8", Modules: []Module{{"golang.org/x/sys", "v0.49.0"}}}}},
			{Name: "acme-metadata", Version: "0.1.0", Release: "1", Arch: "noarch", License: "Apache-2.0", Summary: "Facts"},
		},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, w := range writers {
		got, err := w.write(sample())
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(w.golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(w.golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-), got (+):\n%s", w.golden, diff)
		}
		list, err := Read(got)
		if err != nil {
			t.Fatal(err)
		}
		rpms := []RPM{
			{"acme-libc++", "2.0-1", "x86_64"}, {"acme-metadata", "0.1.0-1", "noarch"},
			{"acme-tool", "1:1.2~rc1-3", "x86_64"}, {"acme-tool-extra", "1.2-3", "x86_64"},
		}
		if diff := cmp.Diff(&List{Format: w.format, Name: "testos-dev-x86_64-0.1.0", RPMs: rpms}, list); diff != "" {
			t.Errorf("%s: want (-), read (+):\n%s", w.golden, diff)
		}
	}
}

// The order of what goes in does not matter; everything else does.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	turned := sample()
	slices.Reverse(turned.Packages)
	last := len(turned.Packages) - 1
	for n := range turned.Packages {
		p := &turned.Packages[n]
		slices.Reverse(p.Sources)
		slices.Reverse(p.Bundled)
		slices.Reverse(p.Programs)
		for i, r := range p.Requires {
			p.Requires[i] = last - r
		}
	}
	for _, w := range writers {
		a, errA := w.write(sample())
		b, errB := w.write(turned)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(a), string(b)); diff != "" {
			t.Errorf("%s: in order (-), turned (+):\n%s", w.format, diff)
		}
		seen := map[string]bool{identity(t, a): true}
		for _, change := range []func(*Image){
			func(i *Image) { i.Version = "0.1.1" },
			func(i *Image) { i.Packages = i.Packages[:3] },
			func(i *Image) { i.Packages[0].SHA256 = strings.Repeat("ff", 32) },
			func(i *Image) { i.Packages[0].Programs[1].Modules[0].Version = "v0.50.0" },
		} {
			changed := sample()
			change(changed)
			data, err := w.write(changed)
			if err != nil {
				t.Fatal(err)
			}
			if id := identity(t, data); seen[id] {
				t.Errorf("%s: two documents are %s", w.format, id)
			} else {
				seen[id] = true
			}
		}
	}
}

// identity is what a document calls itself.
func identity(t *testing.T, data []byte) string {
	t.Helper()
	var d struct {
		Namespace string `json:"documentNamespace"`
		Serial    string `json:"serialNumber"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if id := d.Namespace + d.Serial; strings.HasPrefix(id, "urn:uuid:") && len(id) == 45 {
		return id
	}
	t.Fatalf("a document is called %q and %q", d.Namespace, d.Serial)
	return ""
}

// SPDX's own library reads what is written, and finds that every relation is one of
// elements that there are; what it writes says the same.
func TestSPDXLibrary(t *testing.T) {
	t.Parallel()
	data, err := SPDX(sample())
	if err != nil {
		t.Fatal(err)
	}
	d, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(d); err != nil {
		t.Error(err)
	}
	var again bytes.Buffer
	if err := spdxjson.Write(d, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, data), tree(t, again.Bytes())); diff != "" {
		t.Errorf("written (-), read and written again (+):\n%s", diff)
	}
	ids := map[string]bool{}
	for _, p := range d.Packages {
		ids[string(p.PackageSPDXIdentifier)] = true
	}
	if len(ids) != len(d.Packages) {
		t.Errorf("%d packages have %d identifiers", len(d.Packages), len(ids))
	}
}

func tree(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// CycloneDX's schema accepts what is written, and its library reads and writes it.
func TestCycloneDXSchema(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	const base = "http://cyclonedx.org/schema/" // of the $id of each
	for name, file := range map[string]string{"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource(base+name, tree(t, raw)); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	data, err := CycloneDX(sample())
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(tree(t, data)); err != nil {
		t.Error(err)
	}
	if err := schema.Validate(tree(t, bytes.Replace(data, []byte(`"SHA-512"`), []byte(`"SHA-513"`), 1))); err == nil {
		t.Error("the schema accepts anything")
	}
	var b cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&b); err != nil {
		t.Fatal(err)
	}
	again, err := encodeCycloneDX(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, data), tree(t, again)); diff != "" {
		t.Errorf("written (-), read and written again (+):\n%s", diff)
	}
	refs := map[string]bool{b.Metadata.Component.BOMRef: true}
	for _, c := range *b.Components {
		if refs[c.BOMRef] {
			t.Errorf("two components are %s", c.BOMRef)
		}
		refs[c.BOMRef] = true
	}
	for _, d := range *b.Dependencies {
		for _, ref := range append([]string{d.Ref}, *orNone(d.Dependencies)...) {
			if !refs[ref] {
				t.Errorf("no component is %s", ref)
			}
		}
	}
}

func orNone(list *[]string) *[]string {
	if list == nil {
		return &[]string{}
	}
	return list
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, data, want string }{
		{"empty", "", "unexpected end of JSON input"},
		{"other JSON", "{}", "neither spdxVersion nor bomFormat"},
		{"both", `{"spdxVersion": "SPDX-2.3", "bomFormat": "CycloneDX"}`, "neither spdxVersion nor bomFormat"},
		{"old SPDX", `{"spdxVersion": "SPDX-2.2"}`, `spdxVersion is "SPDX-2.2": this program knows SPDX-2.3`},
		{"old CycloneDX", `{"bomFormat": "CycloneDX", "specVersion": "1.5"}`, `specVersion is "1.5": this program knows 1.6`},
		{"no purl", `{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "library", "name": "a", "purl": "rpm/a"}]}`, "package URL of a: "},
		{"two names", `{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "library", "name": "a", "version": "1-1", "purl": "pkg:rpm/acme/b@1-1?arch=x86_64"}]}`, "a 1-1 has the package URL of b 1-1"},
		{"two versions", `{"spdxVersion": "SPDX-2.3", "packages": [{"SPDXID": "SPDXRef-a", "name": "a", "versionInfo": "1-2",
			"externalRefs": [{"referenceType": "purl", "referenceLocator": "pkg:rpm/acme/a@1-1?arch=x86_64"}]}]}`, "a 1-2 has the package URL of a 1-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := Read([]byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseBundled(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Bundled{
		"bundled(zlib)": {"zlib", "1"}, "bundled(golang(a/b))": {"golang(a/b)", "1"}, "bundled()": {}, "zlib": {}, "bundled(zlib": {},
	} {
		if got, ok := ParseBundled(name, "1"); got != want || ok != (want != Bundled{}) {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

// What is read from an RPM is what the programs in it say of themselves.
func TestReadPrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self := filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", self, "./testdata/program").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	spec := filepath.Join(dir, "a.spec")
	text := fmt.Sprintf(`Name: a
Version: 1
Release: 1
Summary: x
License: x
%%description
x
%%install
mkdir -p %%{buildroot}/usr/bin %%{buildroot}/usr/lib
cp %s %%{buildroot}/usr/bin/go-one
ln %%{buildroot}/usr/bin/go-one %%{buildroot}/usr/bin/go-two
ln -s go-one %%{buildroot}/usr/bin/link
cp /bin/true %%{buildroot}/usr/bin/c
printf '#!/bin/sh\n' > %%{buildroot}/usr/bin/sh
head -c 100000 %s > %%{buildroot}/usr/lib/half
: > %%{buildroot}/usr/lib/empty
%%files
/usr
`, self, self)
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, "--define", "_rpmdir "+dir, "--define", "_rpmfilename a.rpm",
		"--define", "__os_install_post %{nil}", "--define", "debug_package %{nil}", "--define", "_build_id_links none", spec)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rpmbuild: %v\n%s", err, out)
	}
	list, err := ReadPrograms(filepath.Join(dir, "a.rpm"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || !strings.HasPrefix(list[0].Path, "/usr/bin/go-") { // one of both names has the content
		t.Fatalf("%+v", list)
	}
	p := list[0]
	if want := strings.Fields(strings.TrimPrefix(info.GoVersion, "go"))[0]; p.Go != want || p.Main.Path != "slipway" || p.Main.Path != info.Main.Path {
		t.Errorf("%s and %v, want %s and %v", p.Go, p.Main, want, info.Main)
	}
	var got, want []string
	for _, m := range p.Modules {
		got = append(got, m.Path+"@"+m.Version)
	}
	for _, d := range info.Deps {
		want = append(want, d.Path+"@"+d.Version)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
		t.Errorf("go version -m (-), read (+):\n%s", diff)
	}
	// what was noted is what is read
	code, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var noted []Program
	if err := json.Unmarshal(code, &noted); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, noted); diff != "" {
		t.Errorf("read (-), noted (+):\n%s", diff)
	}
	// a damaged RPM is an error
	data, err := os.ReadFile(filepath.Join(dir, "a.rpm"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.rpm"), data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrograms(filepath.Join(dir, "b.rpm")); err == nil || !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "b.rpm: ") {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	for _, w := range writers {
		data, err := w.write(sample())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"spdxVersion": "SPDX-2.3", "packages": [null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Read(data)
		if err != nil {
			return
		}
		for _, r := range list.RPMs {
			if r.Name == "" {
				t.Errorf("an RPM without name: %+v", r)
			}
		}
	})
}

func FuzzProgram(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= headSize && linked(data) {
			if p, ok := program("/x", data); ok && p.Path != "/x" {
				t.Errorf("%+v", p)
			}
		}
	})
}
