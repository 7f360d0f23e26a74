package source

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// aptOptions point apt's real downloader to loopback servers, whatever proxy the host's apt has.
func aptOptions(t *testing.T, aptDir string) Options {
	t.Helper()
	const helper = "/usr/lib/apt/apt-helper"
	if _, err := os.Stat(helper); err != nil {
		t.Skip("needs apt")
	}
	config := filepath.Join(t.TempDir(), "apt.conf")
	write(t, config, `Acquire::http::Proxy::127.0.0.1 "DIRECT"; Acquire::Retries::Delay "false";`+"\n")
	opt := quick()
	opt.AptDir = aptDir
	opt.Env = []string{"APT_CONFIG=" + config, "no_proxy=127.0.0.1"}
	return opt
}

const kmodPath = "/pool/main/k/kmod/kmod_1.orig.tar.xz"

func kmod(data []byte) Item {
	return Item{Name: "kmod.tar.xz", URL: "debian:kmod/kmod_1.orig.tar.xz", SHA512: sha512Of(data), File: "p/package.toml", Line: 2}
}

func TestDebian(t *testing.T) {
	data := noise(20, 200_000)
	var asked []string
	var mu sync.Mutex
	answers := map[string][]byte{}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		if body, ok := answers[r.URL.Path]; ok {
			http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(body))
			return
		}
		http.NotFound(w, r)
	})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sources.list"), "deb "+srv.URL+"/plain bookworm main\n")
	write(t, filepath.Join(dir, "sources.list.d/debian.sources"), "Types: deb\nURIs: "+srv.URL+"/signed\nSuites: bookworm bookworm-security\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n")
	signed, security, plain := "/signed"+kmodPath, "/signed/pool/updates/main/k/kmod/kmod_1.orig.tar.xz", "/plain"+kmodPath
	for _, tc := range []struct {
		name    string
		answers map[string][]byte
		asked   []string
		want    []string
	}{
		{"first", map[string][]byte{signed: data, plain: data}, []string{signed}, nil},
		{"third", map[string][]byte{plain: data}, []string{signed, security, plain}, nil},
		{"wrong", map[string][]byte{signed: []byte("x"), security: data}, []string{signed, security}, nil},
		{"nowhere", nil, []string{signed, security, plain}, []string{
			"p/package.toml:2: cannot fetch kmod.tar.xz",
			"upstream " + srv.URL + signed + ": apt's downloader: 404", srv.URL + security + ": apt's downloader: 404", srv.URL + plain + ": apt's downloader: 404"}},
		{"wrong everywhere", map[string][]byte{signed: []byte("x")}, []string{signed, security, plain}, []string{srv.URL + signed + ": wrong sha512", "expected " + sha512Of(data), "found    " + sha512Of([]byte("x"))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked, answers = nil, tc.answers
			s := newStore(t)
			b, err := fetchOne(t, s, kmod(data), aptOptions(t, dir))
			if tc.want != nil {
				wantError(t, err, tc.want...)
				wantNoBlobs(t, s)
			} else if err != nil {
				t.Fatal(err)
			} else {
				wantContent(t, b, data)
			}
			if diff := cmp.Diff(tc.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			wantClean(t, s)
		})
	}
}

func TestDebianResume(t *testing.T) {
	data := noise(21, 2_000_000)
	var mu sync.Mutex
	var ranges []string
	half := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		first := len(ranges) == 1
		mu.Unlock()
		if first {
			w.Header().Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
			w.Header().Set("Accept-Ranges", "bytes")
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:1_000_000])
			w.(http.Flusher).Flush()
			close(half)
			<-r.Context().Done()
			return
		}
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
	})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sources.list"), "deb "+srv.URL+" bookworm main\n")
	opt := aptOptions(t, dir)
	s := newStore(t)
	item := kmod(data)
	part := s.partPath(&item, srv.URL+kmodPath)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	go func() {
		<-half
		for size(part) < 1_000_000 {
			time.Sleep(time.Millisecond)
		}
		cancel(stop)
	}()
	if _, err := s.Fetch(ctx, []Item{item}, opt); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	wantNoBlobs(t, s)
	if diff := cmp.Diff([]string{filepath.Base(part)}, tmpFiles(t, s)); diff != "" {
		t.Fatalf("left (-want +got):\n%s", diff)
	}
	b, err := fetchOne(t, s, item, opt)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, data)
	wantClean(t, s)
	if diff := cmp.Diff([]string{"", "bytes=1000000-"}, ranges); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
}

func TestDebianLocalMirror(t *testing.T) {
	data := noise(22, 1000)
	mirror := t.TempDir()
	write(t, mirror+kmodPath, string(data))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sources.list"), "deb file:"+mirror+" stable main\n")
	opt := quick()
	opt.AptDir, opt.AptHelper = dir, filepath.Join(dir, "not-needed")
	b, err := fetchOne(t, newStore(t), kmod(data), opt)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, data)
}

func TestDebianUnavailable(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	for _, tc := range []struct {
		name, list string
		want       []string
	}{
		{"no helper", "deb " + srv.URL + " stable main\n", []string{"apt-helper is missing", "install the Debian package apt"}},
		{"no archive", "deb " + srv.URL + " ./\n", []string{"apt knows no Debian archive"}},
		{"no configuration", "", []string{"apt knows no Debian archive"}},
		{"broken configuration", "deb\n", []string{"sources.list:1: "}},
		{"missing mirror list", "deb mirror+file:///does/not/exist stable main\n", []string{"/does/not/exist: no such file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.list != "" {
				write(t, filepath.Join(dir, "sources.list"), tc.list)
			}
			opt := quick()
			opt.AptDir, opt.AptHelper = dir, filepath.Join(dir, "apt-helper")
			s := newStore(t)
			_, err := fetchOne(t, s, kmod(nil), opt)
			wantError(t, err, append(tc.want, "p/package.toml:2: ")...)
			wantClean(t, s)
		})
	}
}

func TestAptReason(t *testing.T) {
	for _, tc := range []struct{ output, want string }{
		{"Err:1 http://m.test/f\n  404\nE: Failed to fetch http://m.test/f  404  Not Found\nE: Download Failed\n", "404  Not Found"},
		{"E: a\nW: b\nE: c\n", "a; c"},
		{"hm\n", "exit status 1 hm"},
	} {
		if got := aptReason(tc.output, "http://m.test/f", errors.New("exit status 1")); strings.TrimSpace(got) != tc.want {
			t.Errorf("%q: %q, want %q", tc.output, got, tc.want)
		}
	}
}
