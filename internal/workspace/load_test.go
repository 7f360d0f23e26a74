package workspace_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"

	"slipway/internal/workspace"
)

var update = flag.Bool("update", false, "write the golden files anew")

// base is a workspace without findings; the files of a case replace its files.
const base = `
-- slipway.toml --
schema = 1
name = "dinghy"
vendor = "dinghy"
version = "0.1.0"
source-date-epoch = 1700000000
-- sdk/sdk.toml --
name = "test"
suite = "bookworm"
packages = ["gcc"]
`

// write lays the archives out in a new folder, later files over earlier ones.
// A line "without: FILE" in an archive's comment takes a file away.
func write(t *testing.T, archives ...*txtar.Archive) string {
	t.Helper()
	root := t.TempDir()
	for _, ar := range archives {
		for _, f := range ar.Files {
			name := filepath.Join(root, filepath.FromSlash(f.Name))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for line := range strings.Lines(string(ar.Comment)) {
			if name, ok := strings.CutPrefix(line, "without: "); ok {
				if err := os.Remove(filepath.Join(root, strings.TrimSpace(name))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return root
}

// Each archive is a workspace with mistakes; its file "want" is the error.
func TestLoadErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			root := write(t, txtar.Parse([]byte(base)), ar)
			w, err := workspace.Load(root)
			if err == nil {
				t.Fatalf("no error; loaded %+v", w)
			}
			var list workspace.Errors
			if !errors.As(err, &list) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			got := err.Error() + "\n"
			if strings.Contains(got, root) {
				t.Errorf("an error names the absolute path:\n%s", got)
			}
			last := len(ar.Files) - 1
			if last < 0 || ar.Files[last].Name != "want" {
				t.Fatalf("%s does not end in a file named want", file)
			}
			if *update {
				ar.Files[last].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(ar.Files[last].Data), got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

const full = `
-- slipway.toml --
schema = 1
name = "dinghy"
pretty-name = "Dinghy Linux"
vendor = "dinghy"
version = "0.1.0"
source-date-epoch = 1_700_000_000
default-variant = "dev"
[sources]
lookaside = ["https://cache.example.org/x", "file:///srv/cache"]
upstream = false
[build]
debuginfo = true
[macros]
_with_docs = "0"
-- packages/zlib/package.toml --
releases-url = "https://example.org/"
source-groups = ["logdog", "api/server", "."]
[[external-files]]
url = "https://example.org/zlib-1.3.tar.xz?raw=1"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
[[external-files]]
url = "go:example.org/mod@v1.2.3"
path = "mod.tar"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
force-upstream = true
[build]
cpus = 4
memory = "6GiB"
-- packages/zlib/zlib.spec --
-- packages/zlib/b.patch --
-- packages/zlib/a.conf --
-- packages/zlib/.hidden --
-- packages/zlib/sub/file --
-- packages/acl/package.toml --
external-files = [{ url = "debian:acl/acl_2.3.1~rc1.orig.tar.xz", sha512 = "00000000000000000000000000000000000000000000000000000000000000000123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }]
-- packages/acl/acl.spec --
-- packages/README.md --
-- sources/logdog/main.go --
-- sources/api/server/main.go --
-- variants/dev/variant.toml --
included-packages = ["release", "zlib"]
kernel-parameters = ["console=ttyS0,115200", 'dyndbg="file a.c +p"']
supported-arches = ["x86_64"]
[[boot-addons]]
name = "north"
kernel-parameters = ["site=north", "debug"]
[image-layout]
slots = 1
root-size-mib = 0x400
[image-features]
fips = true
-- variants/plain/variant.toml --
included-packages = ["release"]
-- sdk/sdk.toml --
name = "dinghy-sdk"
suite = "bookworm"
packages = ["gcc", "g++"]
go = "1.26.8"
`

func TestLoad(t *testing.T) {
	root := write(t, txtar.Parse([]byte(full)))
	got, err := workspace.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	zlib, acl := filepath.Join(root, "packages/zlib"), filepath.Join(root, "packages/acl")
	hex64 := strings.Repeat("0123456789abcdef", 4)
	layout := workspace.ImageLayout{Plan: "slipway", DataDisk: "unified", RootFilesystem: "erofs", RootCompression: "lz4hc", PrivateSizeMiB: 32, DataFilesystem: "ext4", ESPSizeMiB: 128, RootSizeMiB: 512, HashSizeMiB: 16, DataSizeMiB: 256, Slots: 2}
	small := layout
	small.RootSizeMiB, small.Slots = 1024, 1
	want := &workspace.Workspace{
		Root: root,
		Config: workspace.Config{
			Schema: 1, Name: "dinghy", PrettyName: "Dinghy Linux", Vendor: "dinghy", Version: "0.1.0",
			DefaultVariant: "dev", ReleaseEpoch: 1700000000,
			Sources: workspace.Sources{Lookaside: []string{"https://cache.example.org/x", "file:///srv/cache"}},
			Build:   workspace.BuildOptions{Debuginfo: true},
			Cache:   workspace.Cache{Read: true},
			Macros:  map[string]string{"_with_docs": "0"},
		},
		Packages: []*workspace.Package{{
			Name: "acl", Dir: acl, Manifest: filepath.Join(acl, "package.toml"), Spec: filepath.Join(acl, "acl.spec"),
			Files: []string{"acl.spec"},
			ExternalFiles: []workspace.ExternalFile{{
				URL: "debian:acl/acl_2.3.1~rc1.orig.tar.xz", SHA512: strings.Repeat("0", 64) + hex64,
				Pos: workspace.Position{File: "packages/acl/package.toml", Line: 1, Column: 19},
			}},
		}, {
			Name: "zlib", Dir: zlib, Manifest: filepath.Join(zlib, "package.toml"), Spec: filepath.Join(zlib, "zlib.spec"),
			Files:       []string{"a.conf", "b.patch", "zlib.spec"},
			Build:       workspace.PackageBuild{CPUs: 4, Memory: "6GiB"},
			ReleasesURL: "https://example.org/", SourceGroups: []string{"logdog", "api/server", "."},
			ExternalFiles: []workspace.ExternalFile{{
				URL: "https://example.org/zlib-1.3.tar.xz?raw=1", SHA256: hex64,
				Pos: workspace.Position{File: "packages/zlib/package.toml", Line: 3, Column: 3},
			}, {
				URL: "go:example.org/mod@v1.2.3", Path: "mod.tar", SHA256: hex64, ForceUpstream: true,
				Pos: workspace.Position{File: "packages/zlib/package.toml", Line: 6, Column: 3},
			}},
		}},
		Variants: []*workspace.Variant{{
			Name: "dev", Dir: filepath.Join(root, "variants/dev"), Manifest: filepath.Join(root, "variants/dev/variant.toml"),
			IncludedPackages: []string{"release", "zlib"},
			KernelParameters: []string{"console=ttyS0,115200", `dyndbg="file a.c +p"`},
			BootAddons: []workspace.BootAddon{{Name: "north", KernelParameters: []string{"site=north", "debug"},
				Pos: workspace.Position{File: "variants/dev/variant.toml", Line: 4, Column: 3}}},
			SupportedArches: []string{"x86_64"}, ImageFormats: []string{"raw"}, ImageLayout: small,
			ImageFeatures: map[string]bool{"fips": true},
		}, {
			Name: "plain", Dir: filepath.Join(root, "variants/plain"), Manifest: filepath.Join(root, "variants/plain/variant.toml"),
			IncludedPackages: []string{"release"}, SupportedArches: []string{"x86_64", "aarch64"}, ImageFormats: []string{"raw"}, ImageLayout: layout,
		}},
		SDK: &workspace.SDK{
			Manifest: filepath.Join(root, "sdk/sdk.toml"), Name: "dinghy-sdk", Suite: "bookworm",
			Components: []string{"main"}, Packages: []string{"gcc", "g++"}, Arches: []string{"x86_64"}, Go: "1.26.8",
		},
	}
	unexported := cmpopts.IgnoreUnexported(workspace.Config{}, workspace.Package{}, workspace.Variant{}, workspace.SDK{})
	if diff := cmp.Diff(want, got, unexported); diff != "" {
		t.Errorf("workspace (-want +got):\n%s", diff)
	}

	var names []string
	for _, p := range got.Packages {
		for _, f := range p.ExternalFiles {
			names = append(names, f.FileName())
		}
	}
	if diff := cmp.Diff([]string{"acl_2.3.1~rc1.orig.tar.xz", "zlib-1.3.tar.xz", "mod.tar"}, names); diff != "" {
		t.Errorf("file names (-want +got):\n%s", diff)
	}
	if p := got.Variant("dev").Position("included-packages[1]").String(); p != "variants/dev/variant.toml:1:33" {
		t.Errorf("position of the second included package: %s", p)
	}
	if p := got.Variant("plain").Position("image-formats").String(); p != "variants/plain/variant.toml" {
		t.Errorf("position of a key that is not written: %s", p)
	}
	if got.Package("zlib") != got.Packages[1] || got.Package("zli") != nil || got.Prefix() != "dinghy-" {
		t.Error("Package or Prefix answers wrongly")
	}
}

func TestDefaultsOfWorkspace(t *testing.T) {
	ar := txtar.Parse([]byte("-- variants/one/variant.toml --\nincluded-packages = [\"release\"]\n"))
	w, err := workspace.Load(write(t, txtar.Parse([]byte(base)), ar))
	if err != nil {
		t.Fatal(err)
	}
	if c := w.Config; c.DefaultVariant != "one" || c.PrettyName != "" || !c.Sources.Upstream || c.Build.Debuginfo {
		t.Errorf("config: %+v", c)
	}
}

func TestCheckArch(t *testing.T) {
	w, err := workspace.Load(write(t, txtar.Parse([]byte(full))))
	if err != nil {
		t.Fatal(err)
	}
	v := w.Variant("dev")
	if err := v.CheckArch("x86_64"); err != nil {
		t.Errorf("x86_64: %v", err)
	}
	want := `variants/dev/variant.toml:3:1: variant "dev" is not made for aarch64 ("supported-arches" has x86_64)`
	if err := v.CheckArch("aarch64"); err == nil || err.Error() != want {
		t.Errorf("aarch64: %v, want %s", err, want)
	}
}

func TestFolders(t *testing.T) {
	const manifest = "-- packages/Glibc/package.toml --\n-- packages/Glibc/Glibc.spec --\n" +
		"-- packages/glibc/package.toml --\n-- packages/glibc/glibc.spec --\n-- packages/b@d/package.toml --\n"
	root := write(t, txtar.Parse([]byte(base)), txtar.Parse([]byte(manifest)))
	if _, err := os.Stat(filepath.Join(root, "packages/GLIBC")); err == nil {
		t.Skip("this file system does not tell letter cases apart")
	}
	if err := os.Symlink("glibc", filepath.Join(root, "packages/link")); err != nil {
		t.Fatal(err)
	}
	_, err := workspace.Load(root)
	want := `packages/b@d: is not a folder name that Slipway takes: "b@d" (letters, digits, plus, dot, dash and underscore)
packages/glibc: package "glibc" differs from "Glibc" only in the case of letters (rename or remove one: they are one folder on some file systems)
packages/link: is neither a folder nor a file (a package is a real folder here, not a link)`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestFind(t *testing.T) {
	root := write(t, txtar.Parse([]byte(full)))
	for _, dir := range []string{".", "packages", "packages/zlib/sub"} {
		if got, err := workspace.Find(filepath.Join(root, dir)); err != nil || got != root {
			t.Errorf("Find(%s) = %q, %v", dir, got, err)
		}
	}

	empty := t.TempDir()
	_, err := workspace.Find(empty)
	if !errors.Is(err, workspace.ErrNoWorkspace) {
		t.Fatalf("Find in an empty folder: %v", err)
	}
	for _, part := range []string{empty, "folder above", "schema = 1", "sdk/sdk.toml"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q: %v", part, err)
		}
	}
	if _, err := workspace.Load(empty); !errors.Is(err, workspace.ErrNoWorkspace) {
		t.Errorf("Load of an empty folder: %v", err)
	}

	below := filepath.Join(empty, "os")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(below, workspace.RootFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := workspace.Find(empty); err == nil || !strings.Contains(err.Error(), "change to that folder") || !strings.Contains(err.Error(), below) {
		t.Errorf("the workspace one level below is not named: %v", err)
	}
}

func TestNear(t *testing.T) {
	known := []string{"glibc", "glib", "libgcc", "zlib", "kernel-parameters", "sha256", "sha512"}
	for name, want := range map[string][]string{
		"glbic":            {"glibc"},
		"Glibc":            {"glibc", "glib"},
		"kernel-paramters": {"kernel-parameters"},
		"sha265":           {"sha256"},
		"nothing-like-it":  nil,
		"x":                nil,
	} {
		if diff := cmp.Diff(want, workspace.Near(name, known)); diff != "" {
			t.Errorf("Near(%q) (-want +got):\n%s", name, diff)
		}
	}
}

func TestReference(t *testing.T) {
	var out bytes.Buffer
	if err := workspace.Reference(&out); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/reference.md"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("reference (-want +got), written anew by -update:\n%s", diff)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1KiB": 1 << 10, "512MiB": 512 << 20, "6GiB": 6 << 30, "007TiB": 7 << 40, "8388607TiB": 8388607 << 40,
		"": 0, "6": 0, "GiB": 0, "6GB": 0, "6 GiB": 0, "-6GiB": 0, "+6GiB": 0, "1.5GiB": 0, "0GiB": 0, "6gib": 0,
		"8388608TiB": 0, "99999999999999999999KiB": 0,
	} {
		got, err := workspace.ParseSize(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), strconv.Quote(text)) {
			t.Errorf("the error does not quote %q: %v", text, err)
		}
	}
	if b := (workspace.PackageBuild{Memory: "2MiB"}); b.MemoryBytes() != 2<<20 {
		t.Errorf("%d bytes", b.MemoryBytes())
	}
	if b := (workspace.PackageBuild{}); b.MemoryBytes() != 0 {
		t.Errorf("%d bytes where none are given", b.MemoryBytes())
	}
}
