package sdk

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/workspace"
)

var update = flag.Bool("update", false, "write golden files")

func testLock() *Lock {
	sha := func(c string) string { return strings.Repeat(c, 64) }
	l := request(testWorkspace().SDK)
	l.Arch = "amd64"
	l.Digest, l.Key = "sha256:"+sha("d"), sha("e")
	l.Go = GoPin{Version: "1.26.8", Module: "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64", Sum: "h1:" + strings.Repeat("A", 43) + "=", SHA256: sha("f")}
	l.Packages = []LockedPackage{
		{Name: "make", Version: "4.3-4.1", Arch: "amd64", SHA256: sha("1"), Size: 396000, Path: "pool/main/m/make-dfsg/make_4.3-4.1_amd64.deb"},
		{Name: "git", Version: "1:2.39.5-0+deb12u3", Arch: "amd64", SHA256: sha("2"), Size: 7260000, Path: "pool/main/g/git/git_2.39.5-0+deb12u3_amd64.deb"},
		{Name: "tzdata", Version: "2025b~rc1-0+deb12u1", Arch: "all", SHA256: sha("3"), Size: 1, Path: "pool/main/t/tzdata/tzdata_2025b~rc1-0+deb12u1_all.deb"},
	}
	return l
}

func TestLockRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), LockFile)
	want := testLock()
	if err := WriteLock(path, want); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", LockFile)
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wantText, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(wantText), string(text)); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
	got, err := ReadLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.sorted(), got); d != "" {
		t.Errorf("lock (-want +got):\n%s", d)
	}
	// the order in which packages come does not matter
	other := testLock()
	slices.Reverse(other.Packages)
	slices.Reverse(other.Requested)
	if !bytes.Equal(other.format(), text) {
		t.Error("the text depends on the order of the packages")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("writing left %d files", len(entries))
	}
}

func TestReadLockAbsent(t *testing.T) {
	if _, err := ReadLock(filepath.Join(t.TempDir(), LockFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestReadLockErrors(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", LockFile))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, old, new, want string }{
		{"unknown key", "suite =", "suit =", ":6:1: unknown key sdk.suit"},
		{"unknown section", "[sdk.go]", "[extra]\n[sdk.go]", ":19:2: unknown key extra"},
		{"duplicate", "suite =", "suite = \"a\"\nsuite =", ":7:1: "},
		{"type", "size = 396000", `size = "x"`, ":15:64: "},
		{"broken", "[sdk]", "[sdk", ":3:"},
		{"no section", string(good), "", "slipway.lock: section [sdk] is missing"},
		{"suite", `"bookworm"`, `"book worm"`, `:6: sdk.suite is "book worm": want a suite`},
		{"digest", "sha256:ddd", "sha512:ddd", ":4: sdk.digest is "},
		{"version", `"4.3-4.1"`, `"4.3 4.1"`, `:15: sdk.packages.version is "4.3 4.1"`},
		{"name", `"make", version`, `"Make", version`, `:15: sdk.packages.name is "Make"`},
		{"sha256", "1111", "111g", `:15: sdk.packages.sha256 is`},
		{"path escapes", `pool/main/m/make-dfsg/`, `pool/../../`, `:15: sdk.packages.path is "pool/../../make_4.3-4.1_amd64.deb"`},
		{"path absolute", `pool/main/m/make-dfsg/`, `/etc/`, `:15: sdk.packages.path is "/etc/`},
		{"size", "size = 396000", "size = 0", `:15: sdk.packages.size is "0"`},
		{"twice", `"make", version`, `"git", version`, `sdk.packages.name is "git": want each package once`},
		{"go sum", "h1:A", "h2:A", `sdk.go.sum is`},
		{"go module", "golang.org/", "example.org/", `sdk.go.module is`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(string(good), tt.old, tt.new, 1)
			if text == string(good) {
				t.Fatal("the case changes nothing")
			}
			_, err := parseLock("slipway.lock", []byte(text))
			if err == nil || !strings.HasPrefix(err.Error(), "slipway.lock:") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if !strings.HasSuffix(errText(err), "remove it to pin the newest packages") {
				t.Errorf("no advice: %v", err)
			}
		})
	}
}

func FuzzReadLock(f *testing.F) {
	good, err := os.ReadFile(filepath.Join("testdata", LockFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("[sdk]\npackages = [{}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lock, err := parseLock("x", text)
		if err != nil {
			return
		}
		again, err := parseLock("y", lock.format())
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v\n%s", err, lock.format())
		}
		if !bytes.Equal(again.format(), lock.format()) {
			t.Error("the text is not stable")
		}
	})
}

func TestStale(t *testing.T) {
	tests := []struct {
		name   string
		change func(*workspace.SDK)
		want   string
	}{
		{"same", func(*workspace.SDK) {}, ""},
		{"order", func(s *workspace.SDK) { slices.Reverse(s.Packages) }, ""},
		{"repeated", func(s *workspace.SDK) { s.Packages = append(s.Packages, "gcc") }, ""},
		{"added", func(s *workspace.SDK) { s.Packages = append(s.Packages, "bc") }, "sdk/sdk.toml has the package bc, which is not locked"},
		{"removed", func(s *workspace.SDK) { s.Packages = s.Packages[:1] }, "sdk/sdk.toml no longer has the package gcc"},
		{"suite", func(s *workspace.SDK) { s.Suite = "trixie" }, "sdk/sdk.toml has the suite trixie, which is not locked"},
		{"component", func(s *workspace.SDK) { s.Components = append(s.Components, "contrib") }, "sdk/sdk.toml has the component contrib, which is not locked"},
		{"go", func(s *workspace.SDK) { s.Go = "1.27.0" }, "sdk/sdk.toml has the Go version 1.27.0, which is not locked"},
		{"no go", func(s *workspace.SDK) { s.Go = "" }, "sdk/sdk.toml no longer has the Go version 1.26.8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lock := testLock()
			host, err := hostArch()
			if err != nil {
				t.Fatal(err)
			}
			lock.Arch = host.deb
			m := testWorkspace().SDK
			tt.change(m)
			if d := cmp.Diff(tt.want, lock.stale(m)); d != "" {
				t.Error(d)
			}
		})
	}
	if got := (*Lock)(nil).stale(testWorkspace().SDK); got != "the file is missing" {
		t.Errorf("without a lock: %q", got)
	}
}

func TestDiff(t *testing.T) {
	a, b := testLock(), testLock()
	b.Packages[0].Version = "4.4-1"
	b.Packages[1].Name = "git-core"
	b.Go.Version = "1.27.0"
	var got []string
	for _, c := range diff(a, b) {
		got = append(got, c.String())
	}
	want := []string{
		"git 1:2.39.5-0+deb12u3 (gone)",
		"git-core 1:2.39.5-0+deb12u3 (new)",
		"go 1.26.8 -> 1.27.0",
		"make 4.3-4.1 -> 4.4-1",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c := diff(a, testLock()); len(c) != 0 {
		t.Errorf("equal locks differ: %v", c)
	}
	if c := diff(nil, a); len(c) != 4 {
		t.Errorf("from nothing: %v", c)
	}
}

func TestKeyChangesWithEveryInput(t *testing.T) {
	base, err := Key(testWorkspace(), testLock())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		same   bool
		change func(*workspace.Workspace, *Lock)
	}{
		{"nothing", true, func(*workspace.Workspace, *Lock) {}},
		{"digest", true, func(_ *workspace.Workspace, l *Lock) { l.Digest = "" }},
		{"order", true, func(_ *workspace.Workspace, l *Lock) { slices.Reverse(l.Packages) }},
		{"release epoch", true, func(ws *workspace.Workspace, _ *Lock) { ws.Config.ReleaseEpoch++ }},
		{"version of the OS", true, func(ws *workspace.Workspace, _ *Lock) { ws.Config.Version = "9.9.9" }},
		{"suite", false, func(_ *workspace.Workspace, l *Lock) { l.Suite = "trixie" }},
		{"arch", false, func(_ *workspace.Workspace, l *Lock) { l.Arch = "arm64" }},
		{"package version", false, func(_ *workspace.Workspace, l *Lock) { l.Packages[1].Version = "5" }},
		{"package digest", false, func(_ *workspace.Workspace, l *Lock) { l.Packages[1].SHA256 = strings.Repeat("9", 64) }},
		{"package added", false, func(_ *workspace.Workspace, l *Lock) { l.Packages = append(l.Packages, l.Packages[0]) }},
		{"go sum", false, func(_ *workspace.Workspace, l *Lock) { l.Go.Sum = "h1:x" }},
		{"go digest", false, func(_ *workspace.Workspace, l *Lock) { l.Go.SHA256 = "" }},
		{"vendor", false, func(ws *workspace.Workspace, _ *Lock) { ws.Config.Vendor = "other" }},
		{"debuginfo", false, func(ws *workspace.Workspace, _ *Lock) { ws.Config.Build.Debuginfo = true }},
		{"macros", false, func(ws *workspace.Workspace, _ *Lock) { ws.Config.Macros = map[string]string{"a": "b"} }},
		{"target", false, func(ws *workspace.Workspace, _ *Lock) { ws.SDK.Arches = []string{"x86_64", "aarch64"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ws, lock := testWorkspace(), testLock()
			tt.change(ws, lock)
			got, err := Key(ws, lock)
			if err != nil {
				t.Fatal(err)
			}
			if (got == base) != tt.same {
				t.Errorf("key is the same: %v, want %v", got == base, tt.same)
			}
		})
	}
}
