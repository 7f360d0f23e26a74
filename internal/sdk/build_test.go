package sdk

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"slipway/internal/workspace"
)

// statusOf is a dpkg status file of the lock's packages.
func statusOf(l *Lock) string {
	var b strings.Builder
	for _, p := range l.Packages {
		fmt.Fprintf(&b, "Package: %s\nStatus: install ok installed\nVersion: %s\nArchitecture: %s\n\n", p.Name, p.Version, p.Arch)
	}
	return b.String()
}

func makeTar(t *testing.T, headers []tar.Header, text map[string]string) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		h.Size = int64(len(text[h.Name]))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, text[h.Name])
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// listTar gives one line for each entry.
func listTar(t *testing.T, r io.Reader) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != epoch || !h.AccessTime.IsZero() || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: %v, %v, %q, %q", h.Name, h.ModTime, h.AccessTime, h.Uname, h.Gname)
		}
		line := fmt.Sprintf("%c %04o %d:%d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if cap := h.PAXRecords["SCHILY.xattr.security.capability"]; cap != "" {
			line += " cap=" + cap
		}
		if len(text) > 0 && len(text) < 20 {
			line += " " + string(text)
		}
		out = append(out, line)
	}
}

func TestCopyRoot(t *testing.T) {
	lock := testLock()
	now := time.Now()
	headers := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o755, ModTime: now, AccessTime: now, Uname: "root", Gname: "root", Format: tar.FormatPAX},
		{Typeflag: tar.TypeReg, Name: "./etc/hostname"},
		{Typeflag: tar.TypeReg, Name: "./etc/passwd-"},
		{Typeflag: tar.TypeReg, Name: "./etc/motd", ModTime: now},
		{Typeflag: tar.TypeDir, Name: "./tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: "./tmp/x"},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/a", Mode: 0o4755},
		{Typeflag: tar.TypeLink, Name: "./usr/bin/b", Linkname: "./usr/bin/a"},
		{Typeflag: tar.TypeSymlink, Name: "./usr/bin/c", Linkname: "../lib/c", Mode: 0o777},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/ping", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "net"}},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/x86_64-linux-gnu-lto-dump-12"},
		{Typeflag: tar.TypeReg, Name: "./usr/lib/gcc/x86_64-linux-gnu/12/libasan.a"},
		{Typeflag: tar.TypeReg, Name: "./usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a"},
		{Typeflag: tar.TypeReg, Name: "./usr/lib/x86_64-linux-gnu/libcrypto.a"},
		{Typeflag: tar.TypeReg, Name: "./usr/lib/x86_64-linux-gnu/libc.a"},
		{Typeflag: tar.TypeDir, Name: "./usr/share/doc/make/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./usr/share/doc/make/NEWS.gz"},
		{Typeflag: tar.TypeReg, Name: "./usr/share/doc/make/copyright"},
		{Typeflag: tar.TypeReg, Name: "./usr/share/man/man1/make.1.gz"},
		{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/info/make.list"},
		{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/status"},
		{Typeflag: tar.TypeReg, Name: "./var/lib/dpkg/status-old"},
		{Typeflag: tar.TypeReg, Name: "./var/log/dpkg.log"},
	}
	text := map[string]string{"./var/lib/dpkg/status": statusOf(lock), "./etc/hostname": "host", "./etc/motd": "hello"}
	added, err := additions(testWorkspace(), lock)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	if err := copyRoot(tw, makeTar(t, headers, text), lock, added); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	want := []string{
		"5 0755 0:0 etc/",
		"0 0644 0:0 etc/motd hello",
		"5 1777 0:0 tmp/",
		"0 4755 0:0 usr/bin/a",
		"1 0644 0:0 usr/bin/b -> usr/bin/a",
		"2 0777 0:0 usr/bin/c -> ../lib/c",
		"0 0644 0:0 usr/bin/ping cap=net",
		"0 0644 0:0 usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a",
		"0 0644 0:0 usr/lib/x86_64-linux-gnu/libc.a",
		"5 0755 0:0 usr/share/doc/make/",
		"0 0644 0:0 usr/share/doc/make/copyright",
		"0 0644 0:0 var/lib/dpkg/status",
	}
	if d := cmp.Diff(want, listTar(t, &out)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestCopyRootErrors(t *testing.T) {
	lock, other := testLock(), testLock()
	other.Packages[0].Version = "9"
	other.Packages = other.Packages[:2]
	status := tar.Header{Typeflag: tar.TypeReg, Name: "var/lib/dpkg/status"}
	tests := []struct {
		name    string
		headers []tar.Header
		status  string
		want    string
	}{
		{"no status", nil, "", "the root has no list of packages"},
		{"other packages", []tar.Header{status}, statusOf(other), "the root has other packages than slipway.lock: [make 4.3-4.1 -> 9 tzdata 2025b~rc1-0+deb12u1 (gone)]"},
		{"link to what is left out", []tar.Header{{Typeflag: tar.TypeReg, Name: "tmp/a"}, {Typeflag: tar.TypeLink, Name: "usr/a", Linkname: "tmp/a"}}, "", "usr/a is a hard link to tmp/a, which is left out"},
		{"device", []tar.Header{{Typeflag: tar.TypeChar, Name: "usr/null"}}, "", "usr/null is of a kind ('3') that an SDK cannot have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := makeTar(t, tt.headers, map[string]string{"var/lib/dpkg/status": tt.status})
			err := copyRoot(tar.NewWriter(io.Discard), in, lock, nil)
			if d := cmp.Diff(tt.want, errText(err)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCopyGo(t *testing.T) {
	const module = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64"
	write := func(names ...string) string {
		file := filepath.Join(t.TempDir(), "go.zip")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		zw := zip.NewWriter(f)
		for _, name := range names {
			w, err := zw.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, "x")
		}
		if err := errors.Join(zw.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var names []string
	for _, name := range []string{"src/fmt/print.go", "src/fmt/print_test.go", "src/_go.mod", "src/cmd/x/testdata/a", "test/a.go", "pkg/tool/linux_amd64/asm", "bin/go", "VERSION"} {
		names = append(names, module+"/"+name)
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	if err := copyGo(tw, write(names...), module); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	want := []string{
		"5 0755 0:0 usr/lib/go/",
		"0 0644 0:0 usr/lib/go/VERSION x",
		"5 0755 0:0 usr/lib/go/bin/",
		"0 0755 0:0 usr/lib/go/bin/go x",
		"5 0755 0:0 usr/lib/go/pkg/",
		"5 0755 0:0 usr/lib/go/pkg/tool/",
		"5 0755 0:0 usr/lib/go/pkg/tool/linux_amd64/",
		"0 0755 0:0 usr/lib/go/pkg/tool/linux_amd64/asm x",
		"5 0755 0:0 usr/lib/go/src/",
		"0 0644 0:0 usr/lib/go/src/go.mod x",
		"5 0755 0:0 usr/lib/go/src/fmt/",
		"0 0644 0:0 usr/lib/go/src/fmt/print.go x",
	}
	if d := cmp.Diff(want, listTar(t, &out)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{"other/VERSION", module + "/../../etc/passwd", module + "//x"} {
		if err := copyGo(tar.NewWriter(io.Discard), write(bad), module); err == nil || !strings.Contains(err.Error(), "unexpected file") {
			t.Errorf("%s: error is %v", bad, err)
		}
	}
}

// A repository is made of real packages, which this test makes.
func TestWriteRepo(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	opt := Options{CacheDir: t.TempDir()}.withDefaults()
	lock := &Lock{Suite: "bookworm", Arch: "amd64"}
	for _, name := range []string{"aaa", "bbb"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
			t.Fatal(err)
		}
		control := "Package: " + name + "\nVersion: 1:2-3\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: test\n"
		if err := os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte(control), 0o644); err != nil {
			t.Fatal(err)
		}
		deb := filepath.Join(t.TempDir(), "x.deb")
		if out, err := exec.Command("dpkg-deb", "--build", dir, deb).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		sum, err := hashFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(deb)
		if err != nil {
			t.Fatal(err)
		}
		if err := opt.keep(deb, sum); err != nil {
			t.Fatal(err)
		}
		lock.Packages = append(lock.Packages, LockedPackage{Name: name, Version: "1:2-3", Arch: "all", SHA256: sum, Size: fi.Size()})
	}
	repo := filepath.Join(t.TempDir(), "repo")
	if err := writeRepo(context.Background(), lock, repo, opt); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(repo, "Packages"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []LockedPackage
	if err := parsePackages(f, func(p LockedPackage, _ bool) {
		if sum, err := hashFile(filepath.Join(repo, p.Path)); err != nil || sum != p.SHA256 {
			t.Errorf("%s: %s, %v", p.Path, sum, err)
		}
		p.Path = ""
		got = append(got, p)
	}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(lock.Packages, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}

	lock.Packages[1].Version = "4"
	err = writeRepo(context.Background(), lock, filepath.Join(t.TempDir(), "repo"), opt)
	if err == nil || !strings.Contains(err.Error(), "is bbb 1:2-3 all, but is locked as bbb 4 all") {
		t.Errorf("of a wrong pin: %v", err)
	}
}

func makeLayout(t *testing.T, dir, content string) *Image {
	t.Helper()
	w, err := newLayoutWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.finish("amd64"); err != nil {
		t.Fatal(err)
	}
	img, err := readLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestLayout(t *testing.T) {
	content := strings.Repeat("some content ", 100000)
	a := makeLayout(t, filepath.Join(t.TempDir(), "a"), content)
	b := makeLayout(t, filepath.Join(t.TempDir(), "b"), content)
	if a.Digest != b.Digest || a.Size != b.Size {
		t.Errorf("the same content gives %s and %s", a.Digest, b.Digest)
	}
	if c := makeLayout(t, filepath.Join(t.TempDir(), "c"), content+"x"); c.Digest == a.Digest {
		t.Error("other content gives the same digest")
	}
	found := false
	blobs, err := filepath.Glob(filepath.Join(a.Layout, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if sum, err := hashFile(blob); err != nil || sum != filepath.Base(blob) {
			t.Errorf("%s has SHA-256 %s, %v", blob, sum, err)
		}
		f, err := os.Open(blob)
		if err != nil {
			t.Fatal(err)
		}
		zr, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(zr); err == nil {
			found = string(text) == content
		}
		zr.Close()
		f.Close()
	}
	if !found || len(blobs) != 3 {
		t.Errorf("%d blobs, layer found: %v", len(blobs), found)
	}

	// damage is told from absence
	if err := os.Remove(filepath.Join(b.Layout, "blobs/sha256", strings.TrimPrefix(b.Digest, "sha256:"))); err != nil {
		t.Fatal(err)
	}
	if _, err := readLayout(b.Layout); err == nil || errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("of a damaged layout: %v", err)
	}
	if _, err := readLayout(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of an empty folder: %v", err)
	}
}

// What is in the cache needs neither root nor a network nor apt.
func TestEnsureCached(t *testing.T) {
	host, err := hostArch()
	if err != nil {
		t.Skip(err)
	}
	setup := func(t *testing.T, change func(*workspace.Workspace, *Lock)) (*workspace.Workspace, Options, *[]Event) {
		ws, lock, events := testWorkspace(), testLock(), &[]Event{}
		ws.Root = t.TempDir()
		lock.Arch = host.deb
		opt := Options{CacheDir: t.TempDir(), OnEvent: func(e Event) { *events = append(*events, e) }}
		key, err := Key(ws, lock)
		if err != nil {
			t.Fatal(err)
		}
		img := makeLayout(t, filepath.Join(opt.CacheDir, "sdk", key), "layer")
		lock.Key, lock.Digest = key, img.Digest
		change(ws, lock)
		if err := WriteLock(filepath.Join(ws.Root, LockFile), lock); err != nil {
			t.Fatal(err)
		}
		return ws, opt, events
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	tests := []struct {
		name   string
		change func(*workspace.Workspace, *Lock)
		locked string // error with Locked
		warn   string
	}{
		{"fits", func(*workspace.Workspace, *Lock) {}, "", ""},
		{"no digest yet", func(_ *workspace.Workspace, l *Lock) { l.Digest = "" }, "it has no digest of the SDK", ""},
		{"other digest of the same key", func(_ *workspace.Workspace, l *Lock) { l.Digest = wrong }, "although it is made of the same parts", "the SDK is not reproducible"},
		{"other key", func(_ *workspace.Workspace, l *Lock) { l.Digest, l.Key = wrong, strings.Repeat("1", 64) }, "have changed since", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ws, opt, events := setup(t, tt.change)
			path := filepath.Join(ws.Root, LockFile)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			opt.Locked = true
			_, err = Ensure(context.Background(), ws, opt)
			if (err == nil) != (tt.locked == "") || !strings.Contains(errText(err), tt.locked) {
				t.Errorf("locked: %v, want %q", err, tt.locked)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("locked: the lock was changed, %v", err)
			}

			opt.Locked = false
			img, err := Ensure(context.Background(), ws, opt)
			if err != nil {
				t.Fatal(err)
			}
			if !img.Cached {
				t.Error("the image is not from the cache")
			}
			lock, err := ReadLock(path)
			if err != nil {
				t.Fatal(err)
			}
			if lock.Digest != img.Digest || lock.Key != img.Key {
				t.Errorf("the lock has %s of %s, want %s of %s", lock.Digest, lock.Key, img.Digest, img.Key)
			}
			var warned string
			for _, e := range *events {
				warned += e.Text
			}
			if (warned == "") != (tt.warn == "") || !strings.Contains(warned, tt.warn) {
				t.Errorf("warning is %q, want %q", warned, tt.warn)
			}
		})
	}

	t.Run("stale and locked", func(t *testing.T) {
		ws, opt, _ := setup(t, func(ws *workspace.Workspace, _ *Lock) { ws.SDK.Packages = append(ws.SDK.Packages, "bc") })
		opt.Locked = true
		_, err := Ensure(context.Background(), ws, opt)
		want := "slipway.lock: sdk/sdk.toml has the package bc, which is not locked: run once without --locked to write it"
		if d := cmp.Diff(want, errText(err)); d != "" {
			t.Error(d)
		}
	})
	t.Run("missing and locked", func(t *testing.T) {
		ws, opt, _ := setup(t, func(*workspace.Workspace, *Lock) {})
		os.Remove(filepath.Join(ws.Root, LockFile))
		opt.Locked = true
		_, err := Ensure(context.Background(), ws, opt)
		if d := cmp.Diff("slipway.lock: the file is missing: run once without --locked to write it", errText(err)); d != "" {
			t.Error(d)
		}
	})
}

func TestLockDir(t *testing.T) {
	dir := t.TempDir()
	opt := Options{}.withDefaults()
	unlock, err := lockDir(context.Background(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	waiting := Options{OnEvent: func(e Event) {
		if strings.Contains(e.Text, "waiting") {
			cancel()
		}
	}}.withDefaults()
	if _, err := lockDir(ctx, dir, waiting); !errors.Is(err, context.Canceled) {
		t.Errorf("a second run got the lock: %v", err)
	}
	unlock()
	again, err := lockDir(context.Background(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
