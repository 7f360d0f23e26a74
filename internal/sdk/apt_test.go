package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostMirrors(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []string
		err   string
	}{
		{
			name: "one-line",
			files: map[string]string{"sources.list": `
# deb http://commented.test/debian bookworm main
deb http://a.test/debian/ bookworm main contrib # trailing
deb http://a.test/debian bookworm-updates main
deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://b.test/debian bookworm main
deb [signed-by=/etc/apt/keyrings/other.gpg] http://other.test/linux bookworm main
deb http://third.test/apt bookworm stable
deb http://flat.test/x ./
`},
			want: []string{"http://b.test/debian", "http://a.test/debian"},
		},
		{
			name: "deb822",
			files: map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
URIs: http://a.test/debian http://b.test/debian/
# a comment between fields
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://sec.test/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://inline.test/x
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
`},
			want: []string{"http://a.test/debian", "http://b.test/debian"},
		},
		{
			name: "the wanted suite comes first",
			files: map[string]string{
				"sources.list":          "deb http://new.test/debian trixie main\n",
				"sources.list.d/x.list": "deb http://old.test/debian bookworm main\ndeb http://new.test/debian bookworm main\n",
				"sources.list.d/y.save": "deb http://saved.test/debian bookworm main\n",
			},
			want: []string{"http://old.test/debian", "http://new.test/debian"},
		},
		{
			name:  "mirror list",
			files: map[string]string{"sources.list": "deb mirror+file:@ETC@/mirrors bookworm main\ndeb cdrom:[x]/ bookworm main\n", "mirrors": "# list\nhttp://a.test/debian/\tpriority:1\nhttp://b.test/debian\n"},
			want:  []string{"http://a.test/debian", "http://b.test/debian"},
		},
		{name: "none", files: map[string]string{"sources.list": "deb http://sec.test/debian-security bookworm-security main\n"}, err: "name no mirror of Debian: add one to @ETC@/sources.list, as deb <mirror> bookworm main, or use a machine that has one"},
		{name: "bad entry", files: map[string]string{"sources.list": "\ndeb http://a.test\n"}, err: "@ETC@/sources.list:2: an entry is: deb [options] URI SUITE COMPONENT..."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			for name, text := range tt.files {
				file := filepath.Join(etc, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "@ETC@", etc)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := hostMirrors(etc, "bookworm")
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			want := strings.ReplaceAll(tt.err, "@ETC@", etc)
			if (err == nil) != (want == "") || !strings.HasSuffix(errText(err), want) {
				t.Errorf("error is %v, want %q", err, want)
			}
		})
	}
}

const packagesIndex = `Package: bash
Essential: yes
Version: 5.2.15-2+b13
Architecture: amd64
Description: shell
 Package: not this
Filename: pool/main/b/bash/bash_5.2.15-2+b13_amd64.deb
Size: 1491292
SHA256: aa

Package: git
Version: 1:2.39.5-0+deb12u3
Architecture: amd64
Filename: ./git.deb
Size: 1
`

func TestParsePackages(t *testing.T) {
	type result struct {
		LockedPackage
		Essential bool
	}
	var got []result
	err := parsePackages(strings.NewReader(packagesIndex), func(p LockedPackage, essential bool) { got = append(got, result{p, essential}) })
	if err != nil {
		t.Fatal(err)
	}
	want := []result{
		{LockedPackage{Name: "bash", Version: "5.2.15-2+b13", Arch: "amd64", SHA256: "aa", Size: 1491292, Path: "pool/main/b/bash/bash_5.2.15-2+b13_amd64.deb"}, true},
		{LockedPackage{Name: "git", Version: "1:2.39.5-0+deb12u3", Arch: "amd64", Size: 1, Path: "git.deb"}, false},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, want := range map[string]string{
		"Package: a\nSize: x\n":                   `line 2: Size is "x"`,
		"Package: a\nSize: -1\n":                  `line 2: Size is "-1"`,
		"A: " + strings.Repeat("x", 2<<20) + "\n": "line 1 is longer than 1 MiB",
	} {
		if err := parsePackages(strings.NewReader(text), func(LockedPackage, bool) {}); errText(err) != want {
			t.Errorf("%.30q: error is %v, want %s", text, err, want)
		}
	}
}

func FuzzPackages(f *testing.F) {
	f.Add(packagesIndex)
	f.Fuzz(func(t *testing.T, text string) {
		_ = parsePackages(strings.NewReader(text), func(p LockedPackage, _ bool) {
			if p.Name == "" || p.Size < 0 || !strings.Contains(text, p.Name) {
				t.Errorf("package %+v of %q", p, text)
			}
		})
	})
}

// Packages come from a real HTTP server on this machine through apt's own
// downloader.
func TestDownload(t *testing.T) {
	if _, err := os.Stat(aptHelper); err != nil {
		t.Skip("apt is not installed")
	}
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "all_proxy"} {
		t.Setenv(name, "")
	}
	content := map[string]string{"/pool/main/a/a.deb": "alpha", "/pool/main/b/b.deb": "beta", "/pool/main/e/e.deb": "eve!"}
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, text)
	}))
	defer mirror.Close()

	pin := func(name, text string) LockedPackage {
		sum := sha256.Sum256([]byte(text))
		return LockedPackage{Name: name, Version: "1", Arch: "all", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(text)), Path: "pool/main/" + name + "/" + name + ".deb"}
	}
	a, b, gone, evil := pin("a", "alpha"), pin("b", "beta"), pin("c", "gone"), pin("e", "good")

	cache := t.TempDir()
	tmp := filepath.Join(cache, "sdk")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	opt := Options{CacheDir: cache}.withDefaults()
	lock := testLock()
	client, err := newApt(context.Background(), filepath.Join(tmp, "apt"), "", lock, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.OpenFile(client.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conf, "Acquire::http::Proxy::127.0.0.1 \"DIRECT\";\nAcquire::Retries \"0\";\n")
	conf.Close()

	var progress int64
	n, err := client.download(context.Background(), mirror.URL, []LockedPackage{a, b}, tmp, func(n int64) { progress += n }, opt)
	if n != 0 || err != nil {
		t.Errorf("download: %d gone, %v", n, err)
	}
	for p, text := range map[LockedPackage]string{a: "alpha", b: "beta"} {
		got, err := os.ReadFile(opt.blobPath(p.SHA256))
		if err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", p.Name, got, err)
		}
	}
	if progress != a.Size {
		t.Errorf("progress is %d, want %d", progress, a.Size)
	}

	n, err = client.download(context.Background(), mirror.URL, []LockedPackage{gone}, tmp, func(int64) {}, opt)
	if n != 1 || err == nil {
		t.Errorf("of an absent package: %d gone, %v", n, err)
	}

	n, err = client.download(context.Background(), mirror.URL, []LockedPackage{evil}, tmp, func(int64) {}, opt)
	if n != 0 || err == nil || !strings.Contains(err.Error(), "Hash Sum mismatch") {
		t.Errorf("of a changed package: %d gone, %v", n, err)
	}
	if opt.hasBlob(evil.SHA256, 0) {
		t.Error("a changed package was kept")
	}

	// a mirror that cannot be reached has not lost anything
	mirror.Close()
	n, err = client.download(context.Background(), mirror.URL, []LockedPackage{gone}, tmp, func(int64) {}, opt)
	if n != 0 || err == nil {
		t.Errorf("of an unreachable mirror: %d gone, %v", n, err)
	}
}

func TestKeepRejectsOtherContent(t *testing.T) {
	opt := Options{CacheDir: t.TempDir()}.withDefaults()
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("0", 64)
	err := opt.keep(file, want)
	if err == nil || !strings.Contains(err.Error(), "want "+want) {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(opt.blobPath(want)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was kept: %v", err)
	}
}
