package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// child is the environment variable that turns the test binary into a process that fetches one file: STORE URL SHA512.
const child = "SLIPWAY_SOURCE_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(child)); len(args) == 3 {
		s, err := Open(args[0])
		if err == nil {
			_, err = s.Fetch(context.Background(), []Item{{Name: "file", URL: args[1], SHA512: args[2]}}, Options{Upstream: true})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sums(data []byte) (sha256hex, sha512hex string) {
	a, b := sha256.Sum256(data), sha512.Sum512(data)
	return hex.EncodeToString(a[:]), hex.EncodeToString(b[:])
}

func sha512Of(data []byte) string {
	_, s := sums(data)
	return s
}

// noise is data of n bytes that no two seeds share.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tmpFiles lists what stands in the store beside finished files.
func tmpFiles(t *testing.T, s *Store) []string {
	t.Helper()
	var names []string
	for _, d := range []string{"tmp", "locks"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}

func wantClean(t *testing.T, s *Store) {
	t.Helper()
	if left := tmpFiles(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func wantNoBlobs(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("the store holds %v", entries)
	}
}

func wantContent(t *testing.T, b Blob, data []byte) {
	t.Helper()
	got, err := os.ReadFile(b.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%s holds other bytes than were served (%d, want %d)", b.Path, len(got), len(data))
	}
	s256, s512 := sums(data)
	if diff := cmp.Diff(Blob{Path: b.Path, SHA256: s256, SHA512: s512, Size: int64(len(data))}, b); diff != "" {
		t.Errorf("blob (-want +got):\n%s", diff)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q:\n%v", p, err)
		}
	}
}

// quick are options with upstream on and short waits.
func quick() Options { return Options{Upstream: true, RetryDelay: time.Millisecond} }

func fetchOne(t *testing.T, s *Store, item Item, opt Options) (Blob, error) {
	t.Helper()
	blobs, err := s.Fetch(t.Context(), []Item{item}, opt)
	return blobs[0], err
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func TestFetch(t *testing.T) {
	data := noise(1, 300_000)
	s256, s512 := sums(data)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/data", http.StatusFound)
		case "/data":
			if enc := r.Header.Get("Accept-Encoding"); enc != "" && enc != "identity" {
				t.Errorf("Accept-Encoding %q asks for other bytes than the file's", enc)
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		default:
			http.NotFound(w, r)
		}
	})
	local := filepath.Join(t.TempDir(), "my file")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, item := range []Item{
		{Name: "a", URL: srv.URL + "/data", SHA512: s512},
		{Name: "a", URL: srv.URL + "/data", SHA256: s256},
		{Name: "a", URL: srv.URL + "/redirect", SHA256: s256, SHA512: s512},
		{Name: "a", URL: "file://" + strings.ReplaceAll(local, " ", "%20"), SHA512: s512},
	} {
		t.Run(item.URL, func(t *testing.T) {
			s := newStore(t)
			var states []string
			opt := quick()
			opt.OnEvent = func(e Event) {
				if e.State != "progress" {
					states = append(states, fmt.Sprint(e.State, " ", e.Done, "/", e.Total))
				}
			}
			b, err := fetchOne(t, s, item, opt)
			if err != nil {
				t.Fatal(err)
			}
			wantContent(t, b, data)
			wantClean(t, s)
			if st, _ := os.Stat(b.Path); st.Mode() != 0o444 {
				t.Errorf("mode %v", st.Mode())
			}
			for _, same := range []Item{{SHA512: s512}, {SHA256: s256}, {SHA512: s512, SHA256: s256}} {
				if got, ok := s.Lookup(same); !ok || got != b {
					t.Errorf("Lookup(%v) = %v, %v", same, got, ok)
				}
			}
			if _, err := fetchOne(t, s, Item{Name: "b", URL: "http://127.0.0.1:1/gone", SHA512: s512}, opt); err != nil {
				t.Errorf("a file of the store was asked for: %v", err)
			}
			n := strconv.Itoa(len(data))
			if diff := cmp.Diff([]string{"start 0/0", "done " + n + "/" + n, "cached " + n + "/" + n}, states); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFetchBadItems(t *testing.T) {
	good := strings.Repeat("0a", 64)
	for _, tc := range []struct {
		item Item
		want string
	}{
		{Item{Name: "a", URL: "https://example.test/a"}, "no digest"},
		{Item{Name: "a", URL: "https://example.test/a", SHA512: "0A"}, `sha512 "0A" is not 128`},
		{Item{Name: "a", URL: "https://example.test/a", SHA256: good}, "is not 64"},
		{Item{Name: "../a", URL: "https://example.test/a", SHA512: good}, `"../a" is no file name`},
		{Item{Name: "a", URL: "file:a", SHA512: good}, "relative"},
		{Item{Name: "a", URL: "ftp://example.test/a", SHA512: good}, `unknown scheme "ftp"`},
		{Item{Name: "a", URL: "file:///does/not/exist", SHA512: good}, "no such file"},
		{Item{Name: "a", URL: "file:///", SHA512: good}, "no regular file"},
	} {
		tc.item.File, tc.item.Line, tc.item.Owner = "packages/p/package.toml", 7, "packages/p"
		s := newStore(t)
		_, err := fetchOne(t, s, tc.item, quick())
		wantError(t, err, "packages/p/package.toml:7: ", " of packages/p", tc.want)
		wantNoBlobs(t, s)
	}
}

func TestFetchWrongDigest(t *testing.T) {
	data := []byte("not what was meant\n")
	s256, s512 := sums(data)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(data) })
	zero512, zero256 := strings.Repeat("0", 128), strings.Repeat("0", 64)
	for _, tc := range []struct {
		item      Item
		algorithm string
		want, got string
	}{
		{Item{SHA512: zero512}, "sha512", zero512, s512},
		{Item{SHA256: zero256}, "sha256", zero256, s256},
		{Item{SHA512: s512, SHA256: zero256}, "sha256", zero256, s256},
	} {
		s := newStore(t)
		item := tc.item
		item.Name, item.URL, item.File, item.Line = "a.tar", srv.URL+"/a.tar", "p/package.toml", 3
		_, err := fetchOne(t, s, item, quick())
		wantError(t, err, "p/package.toml:3: ", srv.URL+"/a.tar", "wrong "+tc.algorithm, "expected "+tc.want, "found    "+tc.got, "(19 bytes)")
		var wrong *DigestError
		if !errors.As(err, &wrong) || wrong.Algorithm != tc.algorithm || wrong.Want != tc.want || wrong.Got != tc.got {
			t.Errorf("DigestError %+v", wrong)
		}
		wantNoBlobs(t, s)
		wantClean(t, s)
	}
}

func TestFetchStatus(t *testing.T) {
	data := noise(2, 1000)
	for _, tc := range []struct {
		name     string
		statuses []int // answered in order, then 200
		requests int32
		want     string // error
	}{
		{"404 is final", []int{404}, 1, "the server answered 404 Not Found"},
		{"403 is final", []int{403}, 1, "403"},
		{"passing trouble", []int{503, 500, 429}, 4, ""},
		{"lasting trouble", []int{500, 502, 503, 504, 500}, 4, "504 Gateway Timeout (tried 4 times)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var n atomic.Int32
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if i := int(n.Add(1)) - 1; i < len(tc.statuses) {
					w.WriteHeader(tc.statuses[i])
					return
				}
				w.Write(data)
			})
			s := newStore(t)
			_, err := fetchOne(t, s, Item{Name: "a", URL: srv.URL + "/a", SHA512: sha512Of(data)}, quick())
			if tc.want != "" {
				wantError(t, err, tc.want, srv.URL+"/a")
				wantNoBlobs(t, s)
			} else if err != nil {
				t.Error(err)
			}
			if n.Load() != tc.requests {
				t.Errorf("%d requests, want %d", n.Load(), tc.requests)
			}
		})
	}
}

func TestFetchNoServer(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	_, err := fetchOne(t, newStore(t), Item{Name: "a", URL: strings.Replace(srv.URL, "//", "//me:secret@", 1) + "/a", SHA512: sha512Of(nil)}, quick())
	wantError(t, err, "connection refused", "tried 4 times")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the password: %v", err)
	}
}

// flaky serves data, of each answer only the next step bytes.
type flaky struct {
	data      []byte
	step      int
	etag      string
	noRange   bool
	mu        sync.Mutex
	ranges    []string
	truncated int // answers to truncate; the others are whole
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ranges = append(f.ranges, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
	start := 0
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); err == nil && !f.noRange && r.Header.Get("If-Range") == f.etag {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(f.data)-1, len(f.data)))
	} else {
		start = 0
	}
	if f.etag != "" {
		w.Header().Set("ETag", f.etag)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(f.data)-start))
	if start > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if len(f.ranges) <= f.truncated {
		w.Write(f.data[start:min(start+f.step, len(f.data))])
		panic(http.ErrAbortHandler)
	}
	w.Write(f.data[start:])
}

func TestFetchResume(t *testing.T) {
	data := noise(3, 100_000)
	t.Run("within a fetch", func(t *testing.T) {
		f := &flaky{data: data, step: 30_000, etag: `"v1"`, truncated: 3}
		srv := serve(t, f.ServeHTTP)
		s := newStore(t)
		b, err := fetchOne(t, s, Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}, quick())
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, data)
		wantClean(t, s)
		want := []string{" ", `bytes=30000- "v1"`, `bytes=60000- "v1"`, `bytes=90000- "v1"`}
		if diff := cmp.Diff(want, f.ranges); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
	t.Run("by a later fetch", func(t *testing.T) {
		f := &flaky{data: data, step: 10_000, etag: `"v1"`, truncated: 4}
		srv := serve(t, f.ServeHTTP)
		s := newStore(t)
		item := Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}
		_, err := fetchOne(t, s, item, quick())
		wantError(t, err, "broken off after 40000 bytes", "tried 4 times")
		wantNoBlobs(t, s)
		b, err := fetchOne(t, s, item, quick())
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, data)
		if got := f.ranges[len(f.ranges)-1]; got != `bytes=40000- "v1"` {
			t.Errorf("the later fetch asked %q", got)
		}
	})
	for name, f := range map[string]*flaky{
		"server without ranges": {data: data, step: 30_000, etag: `"v1"`, truncated: 2, noRange: true},
		"server without ETag":   {data: data, step: 30_000, truncated: 2},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, f.ServeHTTP)
			b, err := fetchOne(t, newStore(t), Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}, quick())
			if err != nil {
				t.Fatal(err)
			}
			wantContent(t, b, data)
		})
	}
	t.Run("the file changed between", func(t *testing.T) {
		f := &flaky{data: noise(4, 80_000), step: 10_000, etag: `"v1"`, truncated: 4}
		srv := serve(t, f.ServeHTTP)
		s := newStore(t)
		item := Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}
		if _, err := fetchOne(t, s, item, quick()); err == nil {
			t.Fatal("no error")
		}
		f.data, f.etag = data, `"v2"`
		b, err := fetchOne(t, s, item, quick())
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, data)
	})
	t.Run("the server claims that nothing changed", func(t *testing.T) {
		f := &flaky{data: noise(4, 100_000), step: 10_000, etag: `"v1"`, truncated: 4}
		srv := serve(t, f.ServeHTTP)
		s := newStore(t)
		item := Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}
		if _, err := fetchOne(t, s, item, quick()); err == nil {
			t.Fatal("no error")
		}
		f.data = data
		b, err := fetchOne(t, s, item, quick())
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, data)
	})
	t.Run("complete but not yet verified", func(t *testing.T) {
		var requests atomic.Int32
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			w.Header().Set("ETag", `"v1"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		})
		s := newStore(t)
		item := Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}
		part := s.partPath(&item, srv.URL)
		if err := errors.Join(os.WriteFile(part, data, 0o644), os.WriteFile(validatorPath(part), []byte(`"v1"`), 0o644)); err != nil {
			t.Fatal(err)
		}
		b, err := fetchOne(t, s, item, quick())
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, data)
		if requests.Load() != 1 {
			t.Errorf("%d requests", requests.Load())
		}
	})
}

func TestFetchStalledServer(t *testing.T) {
	data := noise(5, 50_000)
	var n atomic.Int32
	var got atomic.Value
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:20_000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		got.Store(r.Header.Get("Range"))
		w.Header().Set("ETag", `"x"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	opt := quick()
	opt.StallTimeout = 200 * time.Millisecond
	b, err := fetchOne(t, newStore(t), Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}, opt)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, data)
	if got.Load() != "bytes=20000-" {
		t.Errorf("after the stall it asked for %q", got.Load())
	}

	silent := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	opt.StallTimeout = 50 * time.Millisecond
	_, err = fetchOne(t, newStore(t), Item{Name: "a", URL: silent.URL, SHA512: sha512Of(data)}, opt)
	wantError(t, err, "sent nothing for too long", "50ms", "tried 4 times")
}

func TestFetchLookaside(t *testing.T) {
	data := noise(6, 2000)
	digest := sha512Of(data)
	var asked []string
	var mu sync.Mutex
	answers := map[string][]byte{}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		body, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(body)
	})
	const name = "a_1+2.tar"
	dir := t.TempDir()
	cached := filepath.Join(dir, name, digest, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(cached), 0o755), os.WriteFile(cached, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	one, two, up := "/one/"+name+"/"+digest+"/"+name, "/two/"+name+"/"+digest+"/"+name, "/up/file"
	both := []string{srv.URL + "/one", srv.URL + "/two/"}
	for _, tc := range []struct {
		name      string
		lookaside []string
		answers   map[string][]byte
		upstream  bool
		force     bool
		sha256    bool
		asked     []string
		want      []string // of the error; none for success
	}{
		{name: "first", lookaside: both, answers: map[string][]byte{one: data, two: data, up: data}, upstream: true, asked: []string{one}},
		{name: "second", lookaside: both, answers: map[string][]byte{two: data, up: data}, upstream: true, asked: []string{one, two}},
		{name: "wrong in the first", lookaside: both, answers: map[string][]byte{one: []byte("x"), two: data}, asked: []string{one, two}},
		{name: "folder", lookaside: []string{"file://" + dir}, upstream: true},
		{name: "upstream", lookaside: both, answers: map[string][]byte{up: data}, upstream: true, asked: []string{one, two, up}},
		{name: "forced", lookaside: both, answers: map[string][]byte{up: data}, force: true, asked: []string{one, two, up}},
		{name: "sha256 only", lookaside: both, answers: map[string][]byte{one: data, up: data}, upstream: true, sha256: true, asked: []string{up}},
		{name: "upstream off", lookaside: both, answers: map[string][]byte{up: data}, asked: []string{one, two},
			want: []string{"lookaside " + srv.URL + one + ": the server answered 404", "lookaside " + srv.URL + two + ": the server answered 404", "upstream " + srv.URL + up + ": not asked: upstream addresses are switched off"}},
		{name: "nobody", lookaside: both, answers: map[string][]byte{two: []byte("y")}, upstream: true, asked: []string{one, two, up},
			want: []string{"lookaside " + srv.URL + one + ": the server answered 404", "lookaside " + srv.URL + two + ": wrong sha512", "found    " + sha512Of([]byte("y")), "upstream " + srv.URL + up + ": the server answered 404"}},
		{name: "no lookaside", asked: nil, want: []string{"not asked"}},
		{name: "unfit lookaside", lookaside: []string{"debian:x/y"}, want: []string{"lookaside debian:x/y: ", "upstream"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked, answers = nil, tc.answers
			s := newStore(t)
			item := Item{Name: name, URL: srv.URL + up, SHA512: digest, ForceUpstream: tc.force}
			if tc.sha256 {
				item.SHA256, item.SHA512 = func() (string, string) { a, _ := sums(data); return a, "" }()
			}
			opt := quick()
			opt.Upstream, opt.Lookaside = tc.upstream, tc.lookaside
			b, err := fetchOne(t, s, item, opt)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				wantContent(t, b, data)
			} else {
				wantError(t, err, tc.want...)
			}
			if diff := cmp.Diff(tc.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			wantClean(t, s)
		})
	}
}

func TestFetchSeveral(t *testing.T) {
	var running, most atomic.Int32
	three := make(chan struct{}) // closed when three requests run at once
	var once sync.Once
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		defer running.Add(-1) // before the answer leaves its buffer
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == 3 {
			once.Do(func() { close(three) })
		}
		select {
		case <-three:
		case <-r.Context().Done():
		}
		if r.URL.Path == "/4" || r.URL.Path == "/7" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, r.URL.Path)
	})
	var items []Item
	for i := range 9 {
		p := "/" + strconv.Itoa(i)
		items = append(items, Item{Name: "f" + strconv.Itoa(i), URL: srv.URL + p, SHA512: sha512Of([]byte(p)), File: "p.toml", Line: i + 1})
	}
	opt := quick()
	opt.Parallel = 3
	failed := map[string]bool{}
	opt.OnEvent = func(e Event) {
		if e.State == "error" {
			failed[e.Item.Name] = true
		}
	}
	blobs, err := newStore(t).Fetch(t.Context(), items, opt)
	wantError(t, err, "p.toml:5: cannot fetch f4", "p.toml:8: cannot fetch f7")
	var got []int
	for i := range items {
		if _, ok := blobs[i]; ok {
			got = append(got, i)
		}
	}
	if diff := cmp.Diff([]int{0, 1, 2, 3, 5, 6, 8}, got); diff != "" {
		t.Errorf("blobs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"f4": true, "f7": true}, failed); diff != "" {
		t.Errorf("error events (-want +got):\n%s", diff)
	}
	if m := most.Load(); m != 3 {
		t.Errorf("%d at once, want 3", m)
	}
}

// One file wanted by many at once is downloaded once.
func TestFetchShared(t *testing.T) {
	data := noise(7, 500_000)
	var requests atomic.Int32
	release := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-release
		w.Write(data)
	})
	dir := t.TempDir()
	item := Item{Name: "a", URL: srv.URL + "/a", SHA512: sha512Of(data)}

	var wg sync.WaitGroup
	var started atomic.Int32
	for range 3 {
		wg.Go(func() {
			s, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			started.Add(1)
			if b, err := fetchOne(t, s, item, quick()); err != nil {
				t.Error(err)
			} else {
				wantContent(t, b, data)
			}
		})
	}
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), child+"="+dir+" "+item.URL+" "+item.SHA512)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, out.Bytes())
			}
		})
	}
	for requests.Load() == 0 || started.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // lets the others come to the lock; the test holds without it
	close(release)
	wg.Wait()
	if n := requests.Load(); n != 1 {
		t.Errorf("%d downloads", n)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	wantClean(t, s)
}

func TestFetchCancel(t *testing.T) {
	data := noise(8, 100_000)
	var n atomic.Int32
	half := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:50_000])
			w.(http.Flusher).Flush()
			close(half)
			<-r.Context().Done()
			return
		}
		if got := r.Header.Get("Range"); !strings.HasPrefix(got, "bytes=") {
			t.Errorf("the second fetch began anew (Range %q)", got)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	s := newStore(t)
	item := Item{Name: "a", URL: srv.URL, SHA512: sha512Of(data)}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	part := s.partPath(&item, srv.URL)
	go func() {
		<-half
		for size(part) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel(stop)
	}()
	// The second item waits for the lock of the first, the third for a free slot.
	opt := quick()
	opt.Parallel = 2
	blobs, err := s.Fetch(ctx, []Item{item, item, {Name: "b", URL: srv.URL, SHA512: sha512Of(nil)}}, opt)
	if !errors.Is(err, stop) || len(blobs) != 0 {
		t.Fatalf("%v, %v", blobs, err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("a cancelled fetch is no fault of its items:\n%v", err)
	}
	wantNoBlobs(t, s)
	if diff := cmp.Diff([]string{filepath.Base(part), filepath.Base(validatorPath(part))}, tmpFiles(t, s)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	b, err := fetchOne(t, s, item, quick())
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, data)
	wantClean(t, s)
}

func TestFetchFullDisk(t *testing.T) {
	data := noise(9, 3<<20)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	})
	local := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(local, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{srv.URL, "file://" + local} {
		_, err = fetchOne(t, s, Item{Name: "a", URL: address, SHA512: sha512Of(data)}, Options{Lookaside: []string{srv.URL}, Upstream: true})
		wantError(t, err, "no space left in "+dir, fmt.Sprintf("needs %d bytes", len(data)), "are free")
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("not ENOSPC: %v", err)
		}
		wantNoBlobs(t, s)
		wantClean(t, s)
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests: a full disk is no reason to ask again or elsewhere", requests.Load())
	}
}
