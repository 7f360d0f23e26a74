package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/tools/txtar"
)

// publishModule adds a module version to a module proxy in a folder and returns its lines for a go.sum.
func publishModule(t *testing.T, proxy, path, version, archive string) string {
	t.Helper()
	src := t.TempDir()
	goMod := []byte("module " + path + "\n")
	for _, f := range txtar.Parse([]byte(archive)).Files {
		write(t, filepath.Join(src, f.Name), string(f.Data))
		if f.Name == "go.mod" {
			goMod = f.Data
		}
	}
	dir := filepath.Join(proxy, path, "@v")
	write(t, filepath.Join(dir, version+".info"), fmt.Sprintf(`{"Version":%q,"Time":"2024-01-01T00:00:00Z"}`, version))
	write(t, filepath.Join(dir, version+".mod"), string(goMod))
	zip, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(modzip.CreateFromDir(zip, module.Version{Path: path, Version: version}, src), zip.Close()); err != nil {
		t.Fatal(err)
	}
	zipSum, err := dirhash.HashZip(zip.Name(), dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(goMod)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", path, version, zipSum, path, version, modSum)
}

const toolSource = `-- main.go --
package main

import "example.com/dep"

func main() { dep.Do() }
-- scripts/run --
#!/bin/sh
exec true
-- a-b/x.txt --
x
-- a/y.txt --
y
`

// testProxy holds the modules of these tests.
func testProxy(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	depSum := publishModule(t, dir, "example.com/dep", "v1.2.0", "-- go.mod --\nmodule example.com/dep\n\ngo 1.21\n-- dep.go --\npackage dep\n\nfunc Do() {}\n-- unused/u.go --\npackage unused\n")
	requires := "\ngo 1.21\n\nrequire example.com/dep v1.2.0\n"
	sum := "-- go.sum --\n" + depSum
	publishModule(t, dir, "example.com/tool/v2", "v2.3.4", "-- go.mod --\nmodule example.com/tool/v2\n"+requires+sum+toolSource)
	publishModule(t, dir, "example.com/badsum", "v1.0.0", "-- go.mod --\nmodule example.com/badsum\n"+requires+strings.ReplaceAll(sum, "v1.2.0 h1:", "v1.2.0 h1:AAAA")+toolSource)
	publishModule(t, dir, "example.com/nested", "v1.0.0", "-- go.mod --\nmodule example.com/nested\n"+requires+"\nreplace example.com/dep => ./dep\n"+toolSource)
	publishModule(t, dir, "example.com/outside", "v1.0.0", "-- go.mod --\nmodule example.com/outside\n"+requires+"\nreplace example.com/dep => ../dep\n"+toolSource)
	publishModule(t, dir, "example.com/newer", "v1.0.0", "-- go.mod --\nmodule example.com/newer\n\ngo 1.999\n-- main.go --\npackage main\n")
	publishModule(t, dir, "example.com/bare", "v1.0.0", "-- main.go --\npackage main\n")
	publishModule(t, dir, "example.com/lost", "v1.0.0", "-- go.mod --\nmodule example.com/lost\n\ngo 1.21\n\nrequire example.com/gone v1.0.0\n-- main.go --\npackage main\n\nimport _ \"example.com/gone\"\n")
	return dir
}

func goOptions(t *testing.T, proxy string) Options {
	t.Helper()
	opt := quick()
	opt.Env = []string{
		"GOPROXY=file://" + proxy, "GOSUMDB=off", "GONOSUMDB=", "GOPRIVATE=", "GONOPROXY=",
		"GOMODCACHE=" + t.TempDir(), "GOFLAGS=-mod=mod -modcacherw",
	}
	return opt
}

func goItem(address, sha512 string) Item {
	return Item{Name: "m.tar", URL: "go:" + address, SHA512: sha512, File: "p/package.toml", Line: 4}
}

// digestOf fetches with a digest that cannot fit and returns the one that was found.
func digestOf(t *testing.T, address string, opt Options) string {
	t.Helper()
	s := newStore(t)
	_, err := fetchOne(t, s, goItem(address, strings.Repeat("0", 128)), opt)
	var wrong *DigestError
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	wantNoBlobs(t, s)
	wantClean(t, s)
	return wrong.Got
}

func TestGoModule(t *testing.T) {
	proxy := testProxy(t)
	digest := digestOf(t, "example.com/tool/v2@v2.3.4", goOptions(t, proxy))
	s := newStore(t)
	b, err := fetchOne(t, s, goItem("example.com/tool/v2@v2.3.4", digest), goOptions(t, proxy)) // a fresh module cache
	if err != nil {
		t.Fatal(err)
	}
	wantClean(t, s)
	f, err := os.Open(b.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%04o %s", h.Mode, h.Name))
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 || len(h.PAXRecords) != 0 {
			t.Errorf("%+v", h)
		}
	}
	want := []string{
		"0755 tool-2.3.4/",
		"0755 tool-2.3.4/a/",
		"0644 tool-2.3.4/a/y.txt",
		"0755 tool-2.3.4/a-b/",
		"0644 tool-2.3.4/a-b/x.txt",
		"0644 tool-2.3.4/go.mod",
		"0644 tool-2.3.4/go.sum",
		"0644 tool-2.3.4/main.go",
		"0755 tool-2.3.4/scripts/",
		"0755 tool-2.3.4/scripts/run",
		"0755 tool-2.3.4/vendor/",
		"0755 tool-2.3.4/vendor/example.com/",
		"0755 tool-2.3.4/vendor/example.com/dep/",
		"0644 tool-2.3.4/vendor/example.com/dep/dep.go",
		"0644 tool-2.3.4/vendor/modules.txt",
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

func TestGoModuleRefused(t *testing.T) {
	proxy := testProxy(t)
	for _, tc := range []struct {
		address string
		want    []string
	}{
		{"example.com/badsum@v1.0.0", []string{"checksum mismatch"}},
		{"example.com/nested@v1.0.0", []string{"go.mod:7 of example.com/nested@v1.0.0: replace example.com/dep => ./dep points to a nested module", "choose another"}},
		{"example.com/outside@v1.0.0", []string{"go.mod:7 of example.com/outside@v1.0.0: replace example.com/dep => ../dep points outside"}},
		{"example.com/newer@v1.0.0", []string{"requires go >= 1.999", "install one"}},
		{"example.com/bare@v1.0.0", []string{"example.com/bare@v1.0.0 has no go.mod"}},
		{"example.com/lost@v1.0.0", []string{"go mod vendor: ", "example.com/gone"}},
		{"example.com/tool/v2@v2.9.9", []string{"go mod download: ", "v2.9.9"}},
	} {
		t.Run(tc.address, func(t *testing.T) {
			s := newStore(t)
			_, err := fetchOne(t, s, goItem(tc.address, strings.Repeat("0", 128)), goOptions(t, proxy))
			wantError(t, err, append(tc.want, "p/package.toml:4: cannot fetch m.tar: upstream go:"+tc.address+": ")...)
			var wrong *DigestError
			if errors.As(err, &wrong) {
				t.Error("an archive was made")
			}
			wantNoBlobs(t, s)
			wantClean(t, s)
		})
	}
}

// A go command that is older than the module asks for takes the toolchain that the module names, or says that it cannot.
func TestGoModuleOlderTool(t *testing.T) {
	proxy := testProxy(t)
	publishModule(t, proxy, "example.com/fresh", "v1.0.0", "-- go.mod --\nmodule example.com/fresh\n\ngo 1.24\n-- main.go --\npackage main\n")
	for _, tc := range []struct{ version, toolchain, message, err string }{
		{version: "go1.24.1", toolchain: "local\n"},
		{version: "go1.22.0", toolchain: "go1.24.0\n", message: "the module asks for go1.24, the go command is go1.22.0: using the toolchain go1.24.0 for vendoring"},
		{version: "go1.19.8", err: "the module asks for go1.24, the go command is go1.19.8: install go1.24 or newer"},
	} {
		t.Run(tc.version, func(t *testing.T) {
			dir := t.TempDir()
			opt := goOptions(t, proxy)
			opt.GoTool = filepath.Join(dir, "go")
			record := filepath.Join(dir, "toolchain")
			// The installed Go under another version number.
			write(t, opt.GoTool, "#!/bin/sh\ncase \"$*\" in\n\"env GOVERSION\") echo "+tc.version+"; exit;;\n\"mod vendor\") echo $GOTOOLCHAIN >"+record+";;\nesac\nGOTOOLCHAIN=local exec go \"$@\"\n")
			if err := os.Chmod(opt.GoTool, 0o755); err != nil {
				t.Fatal(err)
			}
			said := false
			opt.OnEvent = func(e Event) { said = said || e.Message == tc.message }
			_, err := fetchOne(t, newStore(t), goItem("example.com/fresh@v1.0.0", strings.Repeat("0", 128)), opt)
			if tc.err != "" {
				wantError(t, err, tc.err)
				return
			}
			wantError(t, err, "wrong sha512") // that is, the archive was made
			if got, err := os.ReadFile(record); err != nil || string(got) != tc.toolchain {
				t.Errorf("go mod vendor ran with GOTOOLCHAIN=%s (%v), want %s", got, err, tc.toolchain)
			}
			if tc.message != "" && !said {
				t.Errorf("no event says %q", tc.message)
			}
		})
	}
}

func TestGoModuleChangedCache(t *testing.T) {
	opt := goOptions(t, testProxy(t))
	digestOf(t, "example.com/tool/v2@v2.3.4", opt)
	i := slices.IndexFunc(opt.Env, func(s string) bool { return strings.HasPrefix(s, "GOMODCACHE=") })
	write(t, filepath.Join(strings.TrimPrefix(opt.Env[i], "GOMODCACHE="), "example.com/tool/v2@v2.3.4/main.go"), "package evil\n")
	_, err := fetchOne(t, newStore(t), goItem("example.com/tool/v2@v2.3.4", strings.Repeat("0", 128)), opt)
	wantError(t, err, "the module cache's copy", "was changed")
}

func TestGoModuleNoTool(t *testing.T) {
	opt := quick()
	opt.GoTool = filepath.Join(t.TempDir(), "go")
	_, err := fetchOne(t, newStore(t), goItem("example.com/tool/v2@v2.3.4", strings.Repeat("0", 128)), opt)
	wantError(t, err, "needs the go command", opt.GoTool, "install Go")
}

func TestGoModuleCancel(t *testing.T) {
	dir := t.TempDir()
	opt := quick()
	opt.GoTool = filepath.Join(dir, "go")
	started := filepath.Join(dir, "started")
	write(t, opt.GoTool, "#!/bin/sh\nsleep 1000 &\necho $! >"+started+"\nwait\n")
	if err := os.Chmod(opt.GoTool, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for size(started) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	s := newStore(t)
	_, err := s.Fetch(ctx, []Item{goItem("example.com/tool/v2@v2.3.4", strings.Repeat("0", 128))}, opt)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantNoBlobs(t, s)
	wantClean(t, s)
	pid, err := os.ReadFile(started)
	if err != nil {
		t.Fatal(err)
	}
	// The child may be a zombie for a moment, until init takes it; what counts is that it no longer runs.
	proc := filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline")
	for range 1000 {
		if cmdline, err := os.ReadFile(proc); err != nil || len(cmdline) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("the tool's child %s still runs", pid)
}

// The archive's bytes are what manifests pin: they must not change with a new release of Go or of slipway.
func TestWriteTarFixed(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("long-name/", 12) + strings.Repeat("n", 150)
	write(t, filepath.Join(dir, "b/run"), "#!/bin/sh\n")
	write(t, filepath.Join(dir, "a"), "a\n")
	write(t, filepath.Join(dir, "é"), "")
	write(t, filepath.Join(dir, long), "deep\n")
	if err := os.Chmod(filepath.Join(dir, "a"), 0o777); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeTar(t.Context(), &out, dir, "top-1.0"); err != nil {
		t.Fatal(err)
	}
	got, _ := sums(out.Bytes())
	if want := "973d2b9438f3ca879ef21afab872b7939aa35a95856804ec40c83e5444f9b2c7"; got != want {
		t.Errorf("sha256 of the archive is %s, want %s", got, want)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wantError(t, writeTar(t.Context(), io.Discard, dir, "top-1.0"), "link is no regular file")
}

func TestGoVendor(t *testing.T) {
	proxy := testProxy(t)
	dep := publishModule(t, t.TempDir(), "example.com/dep", "v1.2.0", "-- go.mod --\nmodule example.com/dep\n\ngo 1.21\n-- dep.go --\npackage dep\n\nfunc Do() {}\n-- unused/u.go --\npackage unused\n")
	const requires = "module own\n\ngo 1.21\n\nrequire example.com/dep v1.2.0\n"
	const program = "package main\n\nimport \"example.com/dep\"\n\nfunc main() { dep.Do() }\n"
	for _, tc := range []struct {
		name, address string
		files         map[string]string
		want          []string // names in the archive, or
		err           []string
	}{
		{name: "module", address: "./sources", files: map[string]string{"go.mod": requires, "go.sum": dep, "tool/main.go": program, "tool/README": "not needed", "vendor/old": "left out"},
			want: []string{"vendor/", "vendor/example.com/", "vendor/example.com/dep/", "vendor/example.com/dep/dep.go", "vendor/modules.txt"}},
		{name: "untidy", address: "./sources", files: map[string]string{"go.mod": requires, "tool/main.go": program},
			err: []string{"go.sum", "go mod tidy"}},
		{name: "nothing to vendor", address: "./sources", files: map[string]string{"go.mod": "module own\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() {}\n"},
			err: []string{"needs no other modules"}},
		{name: "no module", address: "./elsewhere", files: map[string]string{"go.mod": requires},
			err: []string{"elsewhere/go.mod", "relative to slipway.toml"}},
		{name: "replaced by a folder", address: "./sources", files: map[string]string{"go.mod": requires + "\nreplace example.com/dep => ../dep\n"},
			err: []string{"go.mod:7: replace example.com/dep => ../dep: only modules with a version"}},
		{name: "outside", address: "./../x", files: nil, err: []string{"go:./FOLDER"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := goOptions(t, proxy)
			opt.Root = t.TempDir()
			for name, text := range tc.files {
				write(t, filepath.Join(opt.Root, "sources", name), text)
			}
			s := newStore(t)
			_, err := fetchOne(t, s, goItem(tc.address, strings.Repeat("0", 128)), opt)
			if tc.err != nil {
				wantError(t, err, append(tc.err, "p/package.toml:4: cannot fetch m.tar: ")...)
				wantClean(t, s)
				return
			}
			var wrong *DigestError
			if !errors.As(err, &wrong) {
				t.Fatal(err)
			}
			b, err := fetchOne(t, s, goItem(tc.address, wrong.Got), opt)
			if err != nil {
				t.Fatal(err)
			}
			wantClean(t, s)
			f, err := os.Open(b.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var got []string
			for r := tar.NewReader(f); ; {
				h, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, h.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
