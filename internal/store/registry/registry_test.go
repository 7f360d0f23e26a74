package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	fake "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/store"
	"slipway/internal/store/registry/registrytest"
)

// result is what a caller pushes.
type result struct {
	key      string
	manifest []byte
	blobs    map[string][]byte // by digest
	m        ocispec.Manifest
}

func newResult(t *testing.T, target string, files ...string) *result {
	t.Helper()
	r := &result{blobs: map[string][]byte{}}
	add := func(mediaType, content string) ocispec.Descriptor {
		d := digest.FromString(content)
		r.blobs[d.String()] = []byte(content)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	config := add(store.MediaInputs, fmt.Sprintf(`{"recipe":"1","target":%q}`, target))
	r.key = config.Digest.Encoded()
	r.m = ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: store.ArtifactType,
		Config:       config,
		Annotations:  map[string]string{store.AnnotationKey: r.key, store.AnnotationTarget: target},
	}
	for _, f := range files {
		r.m.Layers = append(r.m.Layers, add(store.MediaFile, f))
	}
	r.manifest = encode(t, r.m)
	return r
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (r *result) open(d string) (io.ReadCloser, error) {
	b, ok := r.blobs[d]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// server is a registry in memory. What before returns true for is answered by it.
type server struct {
	*httptest.Server
	before func(w http.ResponseWriter, req *http.Request) bool
	inner  http.Handler
	mu     sync.Mutex
	log    []string
}

func newServer(t *testing.T) *server {
	s := &server{inner: fake.New(fake.Logger(log.New(io.Discard, "", 0)))}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		if req.URL.Path != "/v2/" {
			s.log = append(s.log, strings.TrimSpace(req.Method+" "+strings.TrimPrefix(req.URL.Path, "/v2/team/cache/")+" "+req.Header.Get("Range")))
		}
		s.mu.Unlock()
		if s.before == nil || !s.before(w, req) {
			s.inner.ServeHTTP(w, req)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

func (s *server) host() string { return s.Listener.Addr().String() }

// put stores a manifest without any checks.
func (s *server) put(t *testing.T, tag string, manifest []byte) {
	t.Helper()
	req := httptest.NewRequest(http.MethodPut, "/v2/team/cache/manifests/"+tag, bytes.NewReader(manifest))
	req.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	w := httptest.NewRecorder()
	s.inner.ServeHTTP(w, req)
	if w.Code != http.StatusCreated {
		t.Fatalf("put %s: %d %s", tag, w.Code, w.Body)
	}
}

// warnings collects what OnWarn is told.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) add(m string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, m)
}

func (w *warnings) get() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list
}

func open(t *testing.T, host string, change ...func(*Config)) (*Registry, *warnings) {
	t.Helper()
	w := &warnings{}
	cfg := Config{Ref: host + "/team/cache", Read: true, Write: true, Timeout: 5 * time.Second, OnWarn: w.add}
	for _, c := range change {
		c(&cfg)
	}
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, w
}

type memFile struct{ bytes.Buffer }

func (*memFile) Close() error { return nil }

// fetchAll is the content of every blob of a manifest.
func fetchAll(t *testing.T, r *Registry, manifest []byte) (map[string][]byte, error) {
	t.Helper()
	m, err := parseResult(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	files := map[string]*memFile{}
	errs := r.FetchAll(t.Context(), blobsOf(m), func(d ocispec.Descriptor) (io.WriteCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		files[d.Digest.String()] = &memFile{}
		return files[d.Digest.String()], nil
	})
	got := map[string][]byte{}
	for d, f := range files {
		got[d] = f.Bytes()
	}
	return got, errors.Join(errs...)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ ref, want string }{
		{"registry.example.com/team/cache", ""},
		{"localhost/cache", ""},
		{"[::1]:5000/cache", ""},
		{"", "no host or no path"},
		{"registry.example.com", "no host or no path"},
		{"team/cache", "registry"},
		{"https://registry.example.com/cache", "begins with https://"},
		{"registry.example.com/cache:latest", "a tag or a digest"},
		{"registry.example.com/cache@sha256:abc", "a tag or a digest"},
		{"registry.example.com/Team", "Team"},
		{"registry example/team", "registry example"},
	} {
		_, err := Open(Config{Ref: tc.ref})
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%q: %v", tc.ref, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "want host[:port]/path")):
			t.Errorf("%q: got %v, want %q and how to write it", tc.ref, err, tc.want)
		}
	}
}

// What is pushed is found and fetched, by a registry in memory and by a real one.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		host func(t *testing.T) string
	}{
		{"memory", func(t *testing.T) string { return newServer(t).host() }},
		{"process", func(t *testing.T) string { return registrytest.Start(t).Host }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			host := tc.host(t)
			key := newKeys(t).ed25519
			r, warned := open(t, host, func(c *Config) { c.SignKey, c.PublicKeys = key.private(t), key.public(t) })
			res := newResult(t, "packages/glibc", "rpm one", strings.Repeat("rpm two", 1<<18), "log")
			if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrNotFound) {
				t.Fatalf("before the push: %v", err)
			}
			if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
				t.Fatal(err)
			}
			other, _ := open(t, host, func(c *Config) { c.PublicKeys = key.public(t) })
			got, err := other.Lookup(t.Context(), res.key)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(res.manifest), string(got)); diff != "" {
				t.Error(diff)
			}
			blobs, err := fetchAll(t, other, got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(res.blobs, blobs); diff != "" {
				t.Error(diff)
			}
			var size int64
			for _, b := range res.blobs {
				size += int64(len(b))
			}
			want := []Stats{{PushedBytes: size, Pushed: 1}, {FetchedBytes: size}}
			if diff := cmp.Diff(want, []Stats{r.Stats(), other.Stats()}); diff != "" {
				t.Error(diff)
			}
			if list := warned.get(); len(list) > 0 {
				t.Errorf("warned: %q", list)
			}
		})
	}
}

// A real registry resumes, and knows what a missing blob is.
func TestProcess(t *testing.T) {
	t.Parallel()
	s := registrytest.Start(t)
	content := strings.Repeat("0123456789abcdef", 1<<17)
	res := newResult(t, "packages/a", content)
	r, _ := open(t, s.Host)
	if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
		t.Fatal(err)
	}
	client, err := r.connect(t.Context(), &r.pull)
	if err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	if _, err := r.part(t.Context(), client, res.m.Layers[0], 1<<20, &rest); err != nil {
		t.Fatal(err)
	}
	if rest.String() != content[1<<20:] {
		t.Errorf("the rest from 1 MiB on has %d bytes, want %d, or others", rest.Len(), len(content)-1<<20)
	}
	absent := ocispec.Descriptor{Digest: digest.FromString("absent"), Size: 6}
	if err := r.Fetch(t.Context(), absent, io.Discard); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent blob: %v", err)
	}
	s.Close()
	if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrDown) {
		t.Errorf("after its end: %v", err)
	}
}

func TestPushCost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	res := newResult(t, "packages/a", "one", "two")
	r, _ := open(t, s.host())
	push := func() []string {
		t.Helper()
		if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
			t.Fatal(err)
		}
		return s.requests()
	}
	push()
	if diff := cmp.Diff([]string{"GET manifests/" + res.key}, push()); diff != "" {
		t.Errorf("pushed again: %s", diff)
	}
	// a result of which the files are there already uploads none of them
	res = newResult(t, "packages/b", "one", "two")
	config := "blobs/" + res.m.Config.Digest.String()
	want := []string{"GET manifests/" + res.key, "PUT manifests/" + res.key}
	for _, d := range blobsOf(&res.m) {
		want = append(want, "HEAD blobs/"+d.Digest.String())
	}
	got := slices.DeleteFunc(push(), func(r string) bool { return strings.Contains(r, "blobs/uploads/") })
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("known blobs: %s", diff)
	}
	// another's result that lost a blob is replaced
	lost := true
	s.before = func(w http.ResponseWriter, req *http.Request) bool {
		gone := lost && req.Method == http.MethodHead && strings.HasSuffix(req.URL.Path, config)
		if gone {
			w.WriteHeader(http.StatusNotFound)
		}
		return gone
	}
	res.m.Annotations["more"] = "facts"
	res.manifest = encode(t, res.m)
	if got := push(); !slices.Contains(got, "PUT manifests/"+res.key) {
		t.Errorf("a result that is not whole was left: %q", got)
	}
	lost = false
	res.m.Annotations["more"] = "other facts"
	res.manifest = encode(t, res.m)
	if got := push(); slices.Contains(got, "PUT manifests/"+res.key) {
		t.Errorf("a result that is whole was replaced: %q", got)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	res := newResult(t, "packages/a", "one")
	changed := func(f func(m *ocispec.Manifest)) []byte {
		other := newResult(t, "packages/a", "one")
		f(&other.m)
		return encode(t, other.m)
	}
	for _, tc := range []struct {
		name     string
		manifest []byte
		header   string // Docker-Content-Digest
		want     error
		text     string
	}{
		{name: "none", want: ErrNotFound},
		{name: "right", manifest: res.manifest},
		{name: "another key", manifest: newResult(t, "packages/b").manifest, want: ErrCorrupt, text: "its manifest is that of key " + newResult(t, "packages/b").key},
		{name: "another annotation", manifest: changed(func(m *ocispec.Manifest) { m.Annotations[store.AnnotationKey] = "x" }), want: ErrCorrupt, text: store.AnnotationKey},
		{name: "another type", manifest: changed(func(m *ocispec.Manifest) { m.ArtifactType = "text/plain" }), want: ErrCorrupt, text: "text/plain"},
		{name: "path as digest", manifest: changed(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" }), want: ErrCorrupt, text: "passwd"},
		{name: "negative size", manifest: changed(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), want: ErrCorrupt, text: "-1"},
		{name: "no JSON", manifest: []byte("<html>"), want: ErrCorrupt},
		{name: "huge", manifest: append(bytes.Clone(res.manifest), make([]byte, maxManifest)...), want: ErrCorrupt, text: "larger than"},
		{name: "another digest", manifest: res.manifest, header: digest.FromString("x").String(), want: ErrCorrupt, text: "does not have the digest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.before = func(w http.ResponseWriter, req *http.Request) bool {
				if tc.manifest == nil || !strings.Contains(req.URL.Path, "/manifests/") {
					return false
				}
				if tc.header != "" {
					w.Header().Set("Docker-Content-Digest", tc.header)
				}
				_, _ = w.Write(tc.manifest)
				return true
			}
			r, warned := open(t, s.host())
			got, err := r.Lookup(t.Context(), res.key)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil {
				if !bytes.Equal(got, res.manifest) {
					t.Errorf("got %s", got)
				}
				return
			}
			if !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), res.key) {
				t.Errorf("got %q, want the key and %q", err, tc.text)
			}
			if r.Down() != nil || len(warned.get()) > 0 {
				t.Errorf("down: %v, warned %q", r.Down(), warned.get())
			}
		})
	}
	s := newServer(t)
	r, _ := open(t, s.host(), func(c *Config) { c.Read = false })
	if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrNotFound) {
		t.Errorf("with reading off: %v", err)
	}
	r, _ = open(t, s.host())
	if _, err := r.Lookup(t.Context(), "../x"); err == nil {
		t.Error("a key that is none was looked up")
	}
	if list := s.requests(); len(list) > 0 {
		t.Errorf("asked %q", list)
	}
}

// A failure in passing of any request of a look-up is not the end of the registry.
func TestLookupAgain(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	reset := func(w http.ResponseWriter) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	cut := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "{")
		panic(http.ErrAbortHandler)
	}
	k := newKeys(t)
	for _, tc := range []struct {
		name string
		fail func(http.ResponseWriter)
		n    int // so many requests of each path fail
		down bool
	}{
		{"unavailable", status(http.StatusServiceUnavailable), 2, false},
		{"too many requests", status(http.StatusTooManyRequests), 1, false},
		{"bad gateway", status(http.StatusBadGateway), 1, false},
		{"connection reset", reset, 1, false},
		{"cut", cut, 1, false},
		{"unavailable for long", status(http.StatusServiceUnavailable), 3, true},
		{"refused", status(http.StatusForbidden), 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			res := newResult(t, "packages/a", "one")
			signer, _ := open(t, s.host(), func(c *Config) { c.SignKey = k.ed25519.private(t) })
			if err := signer.Push(t.Context(), res.manifest, res.open); err != nil {
				t.Fatal(err)
			}
			failed := map[string]int{}
			s.before = func(w http.ResponseWriter, req *http.Request) bool {
				s.mu.Lock()
				failed[req.URL.Path]++
				fail := failed[req.URL.Path] <= tc.n
				s.mu.Unlock()
				if fail {
					tc.fail(w)
				}
				return fail
			}
			r, warned := open(t, s.host(), func(c *Config) { c.PublicKeys = k.ed25519.public(t) })
			_, err := r.Lookup(t.Context(), res.key)
			if errors.Is(err, ErrDown) != tc.down || !tc.down && err != nil {
				t.Errorf("got %v, want down: %v", err, tc.down)
			}
			if (len(warned.get()) == 1) != tc.down {
				t.Errorf("warned %q", warned.get())
			}
		})
	}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789abcdef", 1<<12)
	d := ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
	half := len(content) / 2
	abort := func(w http.ResponseWriter, n int) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = io.WriteString(w, content[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	blob := "GET blobs/" + d.Digest.String()
	rest := fmt.Sprintf("%s bytes=%d-%d", blob, half, len(content)-1)
	for _, tc := range []struct {
		name  string
		serve func(w http.ResponseWriter, req *http.Request, try int)
		want  error
		down  bool
		log   []string
	}{
		{name: "whole", serve: func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, content) }},
		{name: "absent", serve: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusNotFound) }, want: ErrNotFound, log: []string{blob}},
		{name: "other content", serve: func(w http.ResponseWriter, _ *http.Request, _ int) {
			_, _ = io.WriteString(w, content[1:]+"x")
		}, want: ErrCorrupt, log: []string{blob}},
		{name: "shorter", serve: func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Content-Length", fmt.Sprint(half))
			_, _ = io.WriteString(w, content[:half])
		}, want: ErrCorrupt, log: []string{blob}},
		{name: "longer, of unknown length", serve: func(w http.ResponseWriter, _ *http.Request, _ int) {
			_, _ = io.WriteString(w, content)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "x")
		}, want: ErrCorrupt},
		{name: "shorter, of unknown length", serve: func(w http.ResponseWriter, req *http.Request, _ int) {
			if req.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = io.WriteString(w, content[:half])
			_ = http.NewResponseController(w).Flush()
		}, want: ErrCorrupt, log: []string{blob, rest}},
		{name: "resumed", serve: func(w http.ResponseWriter, req *http.Request, try int) {
			if try == 1 {
				abort(w, half)
			}
			http.ServeContent(w, req, "", time.Time{}, strings.NewReader(content))
		}, log: []string{blob, rest}},
		{name: "begun anew", serve: func(w http.ResponseWriter, _ *http.Request, try int) {
			if try == 1 {
				abort(w, half)
			}
			_, _ = io.WriteString(w, content)
		}, log: []string{blob, rest}},
		{name: "resumed elsewhere", serve: func(w http.ResponseWriter, _ *http.Request, try int) {
			if try == 1 {
				abort(w, half)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, content)
		}, want: ErrCorrupt},
		{name: "busy once", serve: func(w http.ResponseWriter, _ *http.Request, try int) {
			if try == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, content)
		}, log: []string{blob, blob}},
		{name: "failing", serve: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusInternalServerError) }, want: ErrDown, down: true, log: []string{blob, blob, blob}},
		{name: "cut each time", serve: func(w http.ResponseWriter, _ *http.Request, _ int) { abort(w, 0) }, want: ErrDown, down: true},
		{name: "refused", serve: func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusForbidden) }, want: ErrDown, down: true, log: []string{blob}},
		{name: "standing still", serve: func(w http.ResponseWriter, req *http.Request, _ int) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = io.WriteString(w, content[:half])
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
		}, want: ErrDown, down: true, log: []string{blob}},
		{name: "crawling", serve: func(w http.ResponseWriter, req *http.Request, _ int) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			for i := 0; req.Context().Err() == nil && i < len(content); i++ {
				_, _ = io.WriteString(w, content[i:i+1])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}, want: ErrDown, down: true, log: []string{blob}},
		{name: "silent", serve: func(_ http.ResponseWriter, req *http.Request, _ int) { <-req.Context().Done() }, want: ErrDown, down: true, log: []string{blob}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			try := 0
			s.before = func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
					return false
				}
				try++
				tc.serve(w, req, try)
				return true
			}
			r, warned := open(t, s.host(), func(c *Config) {
				if tc.name == "silent" {
					c.Timeout = time.Second
				}
				if tc.name == "standing still" || tc.name == "crawling" {
					c.Stall = time.Second
				}
			})
			var got bytes.Buffer
			err := r.Fetch(t.Context(), d, &got)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil && got.String() != content {
				t.Errorf("got %d bytes, want %d, or others", got.Len(), len(content))
			}
			if down := r.Down() != nil; down != tc.down || (len(warned.get()) == 1) != tc.down {
				t.Errorf("down: %v, want %v; warned %q", r.Down(), tc.down, warned.get())
			}
			if diff := cmp.Diff(tc.log, s.requests()); tc.log != nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What this machine does wrong is not the registry's fault.
func TestLocalErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	res := newResult(t, "packages/a", "one", "two")
	r, warned := open(t, s.host())
	name := digest.FromString("one").String()
	short, long := newResult(t, "packages/a", "one", "two"), newResult(t, "packages/a", "one", "two")
	short.blobs[name], long.blobs[name] = []byte("on"), []byte("ones")
	absent := newResult(t, "packages/a", "one", "two")
	delete(absent.blobs, name)
	for _, bad := range []*result{short, long, absent} {
		if err := r.Push(t.Context(), bad.manifest, bad.open); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("pushed a bad blob: %v", err)
		}
	}
	other := newResult(t, "packages/a", "one", "two")
	other.blobs[name] = []byte("1ne")
	if err := r.Push(t.Context(), other.manifest, other.open); err == nil {
		t.Error("pushed a blob of another digest")
	}
	if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrNotFound) {
		t.Errorf("half a result can be found: %v", err)
	}
	if err := r.Push(t.Context(), []byte(`{"mediaType":"text/plain"}`), res.open); !errors.Is(err, ErrCorrupt) {
		t.Errorf("pushed no manifest: %v", err)
	}
	if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	errs := r.FetchAll(t.Context(), res.m.Layers, func(d ocispec.Descriptor) (io.WriteCloser, error) {
		if d.Digest.String() == name {
			return nil, full
		}
		return badFile{full}, nil
	})
	for i, err := range errs {
		if !errors.Is(err, full) {
			t.Errorf("blob %d: %v, want %v", i, err, full)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Lookup(ctx, res.key); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if r.Down() != nil || !r.Writable() || len(warned.get()) > 0 {
		t.Errorf("down: %v, warned %q", r.Down(), warned.get())
	}
}

type badFile struct{ err error }

func (f badFile) Write([]byte) (int, error) { return 0, f.err }
func (f badFile) Close() error              { return nil }

// A registry that fails is given up once, with one warning, and asked no more.
func TestDown(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	for _, tc := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		warn   []string
	}{
		{"dead", nil, []string{"cannot be used", "connection refused"}},
		{"silent", func(_ http.ResponseWriter, req *http.Request) bool { <-req.Context().Done(); return true }, []string{"cannot be used"}},
		{"failing", status(500), []string{"fails", "500"}},
		{"failing later", func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/v2/" {
				w.WriteHeader(http.StatusBadGateway)
			}
			return req.URL.Path != "/v2/"
		}, []string{"fails", "502"}},
		{"no registry", status(404), []string{"cannot be used", "speaks no registry protocol"}},
		{"unauthorized", status(401), []string{"refuses access", "401", "log in to 127.0.0.1:"}},
		{"forbidden", status(403), []string{"refuses access", "403"}},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request) bool {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "SSH-2.0-x\r\n\r\n")
				c.Close()
			}
			return true
		}, []string{"cannot be used"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.before = tc.before
			if tc.before == nil {
				s.Close()
			}
			r, warned := open(t, s.host(), func(c *Config) { c.Timeout = time.Second })
			res := newResult(t, "packages/a", "one")
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrDown) {
						t.Errorf("got %v, want %v", err, ErrDown)
					}
				})
			}
			group.Wait()
			s.requests()
			if err := r.Push(t.Context(), res.manifest, res.open); !errors.Is(err, ErrDown) {
				t.Errorf("push: %v", err)
			}
			if err := r.Fetch(t.Context(), res.m.Layers[0], io.Discard); !errors.Is(err, ErrDown) {
				t.Errorf("fetch: %v", err)
			}
			if list := s.requests(); len(list) > 0 {
				t.Errorf("asked on: %q", list)
			}
			list := warned.get()
			if len(list) != 1 {
				t.Fatalf("warned %q, want one message", list)
			}
			for _, want := range append(tc.warn, "the team cache registry "+r.Ref(), "building without it", "see [cache] in slipway.toml") {
				if !strings.Contains(list[0], want) {
					t.Errorf("%q lacks %q", list[0], want)
				}
			}
		})
	}
}

// A registry that refuses writes is still read.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	for _, code := range []int{401, 403, 405, 400} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			res := newResult(t, "packages/a", "one", "two", "three")
			s.put(t, res.key, res.manifest)
			s.before = func(w http.ResponseWriter, req *http.Request) bool {
				refused := req.Method != http.MethodGet && req.Method != http.MethodHead
				if refused {
					w.WriteHeader(code)
				}
				return refused
			}
			r, warned := open(t, s.host())
			other := newResult(t, "packages/b", "one", "two", "three")
			for range 2 {
				if err := r.Push(t.Context(), other.manifest, other.open); !errors.Is(err, ErrReadOnly) {
					t.Errorf("got %v, want %v", err, ErrReadOnly)
				}
			}
			if _, err := r.Lookup(t.Context(), res.key); err != nil {
				t.Error(err)
			}
			if list := warned.get(); len(list) != 1 || !strings.Contains(list[0], "takes no results") || !strings.Contains(list[0], fmt.Sprint(code)) {
				t.Errorf("warned %q, want once why it takes no results", list)
			}
			if r.Writable() || !r.Readable() {
				t.Errorf("writable %v, readable %v", r.Writable(), r.Readable())
			}
		})
	}
	r, _ := open(t, "127.0.0.1:1", func(c *Config) { c.Write = false })
	res := newResult(t, "packages/a")
	if err := r.Push(t.Context(), res.manifest, res.open); !errors.Is(err, ErrReadOnly) {
		t.Errorf("with writing off: %v", err)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	reached := errors.New("reached")
	base := roundTrip(func(*http.Request) (*http.Response, error) { return nil, reached })
	for _, tc := range []struct {
		url      string
		insecure bool
		want     bool
	}{
		{"https://registry.example.com/v2/", false, true},
		{"http://registry.example.com/v2/", false, false},
		{"http://10.0.0.1:5000/v2/", false, false},
		{"http://10.0.0.1:5000/v2/", true, true},
		{"http://127.0.0.1:5000/v2/", false, true},
		{"http://[::1]:5000/v2/", false, true},
		{"http://localhost/v2/", false, true},
		{"http://localhost.example.com/v2/", false, false},
	} {
		_, err := guard{base, tc.insecure}.RoundTrip(httptest.NewRequest(http.MethodGet, tc.url, nil)) //nolint:bodyclose // there is no answer
		if errors.Is(err, reached) != tc.want {
			t.Errorf("%s, insecure %v: %v", tc.url, tc.insecure, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// slow opens a registry that answers any request after a time, with a body that
// comes at so many bytes per second.
func slow(t *testing.T, answer time.Duration, body string, rate int) (*Registry, *warnings) {
	t.Helper()
	r, warned := open(t, "registry.example.com", func(c *Config) { c.Timeout = 0 })
	r.pull.client = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		time.Sleep(answer)
		return &http.Response{StatusCode: http.StatusOK, ContentLength: int64(len(body)), Body: io.NopCloser(&trickle{body, rate})}, nil
	})}
	return r, warned
}

type trickle struct {
	rest string
	rate int
}

func (r *trickle) Read(p []byte) (int, error) {
	if r.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	time.Sleep(time.Duration(n) * time.Second / time.Duration(r.rate))
	r.rest = r.rest[n:]
	return n, nil
}

// A build waits for slow answers for a while in all, however many there are.
func TestPatience(t *testing.T) {
	res := newResult(t, "packages/a", "one")
	manifest := string(res.manifest)
	for _, tc := range []struct {
		name   string
		answer time.Duration
		rate   int // of the manifest
		want   int // look-ups that are answered, of 200
	}{
		{"quick", 900 * time.Millisecond, len(manifest), 200},
		{"just in time", 9900 * time.Millisecond, len(manifest), 4},
		{"trickling", 100 * time.Millisecond, len(manifest)/10 + 1, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, warned := slow(t, tc.answer, manifest, tc.rate)
				got := 0
				for range 200 {
					_, err := r.Lookup(t.Context(), res.key)
					if err == nil {
						got++
					} else if !errors.Is(err, ErrDown) {
						t.Fatal(err)
					}
				}
				if got != tc.want {
					t.Errorf("%d look-ups were answered, want %d", got, tc.want)
				}
				list := warned.get()
				if (len(list) == 0) != (tc.want == 200) || len(list) > 1 || len(list) == 1 && !strings.Contains(list[0], "is slow: its answers took 30s too long in all: building without it") {
					t.Errorf("warned %q", list)
				}
			})
		})
	}
}

// A download that crawls is given up; several that share the line are looked at
// together.
func TestRate(t *testing.T) {
	for _, tc := range []struct {
		name     string
		rate     int // bytes per second of each
		parallel int
		down     bool
	}{
		{"quick", 110_000, 1, false},
		{"crawling", 2 << 10, 1, true},
		{"crawling together", 2 << 10, 3, true},
		{"quick together", 40_000, 3, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := strings.Repeat("x", 60*tc.rate)
				r, warned := slow(t, 0, body, tc.rate)
				began := time.Now()
				list := make([]ocispec.Descriptor, tc.parallel)
				for i := range list {
					list[i] = ocispec.Descriptor{Digest: digest.FromString(body), Size: int64(len(body))}
				}
				errs := r.FetchAll(t.Context(), list, func(ocispec.Descriptor) (io.WriteCloser, error) { return &memFile{}, nil })
				if err := errors.Join(errs...); errors.Is(err, ErrDown) != tc.down || !tc.down && err != nil {
					t.Errorf("got %v, want down: %v", err, tc.down)
				}
				if took := time.Since(began); tc.down && took > 20*time.Second {
					t.Errorf("took %v", took)
				}
				if (len(warned.get()) == 1) != tc.down {
					t.Errorf("warned %q", warned.get())
				}
			})
		})
	}
}

// An upload that the network stops taking, or takes too slowly, is ended; a slow
// disk ends none.
func TestUploadStall(t *testing.T) {
	for _, tc := range []struct {
		name    string
		network time.Duration // for one byte
		want    error
	}{
		{"quick", time.Microsecond, nil},
		{"crawling", 400 * time.Millisecond, errStalled},
		{"standing still", 2 * time.Second, errStalled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				text := "abcdefgh"
				b := &blob{of: &Registry{cfg: Config{Stall: time.Second}}, desc: ocispec.Descriptor{Size: int64(len(text))}, cancel: cancel, open: func(string) (io.ReadCloser, error) {
					return io.NopCloser(&slowReader{text}), nil
				}}
				r, err := b.Compressed()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				for range text {
					if _, err := r.Read(make([]byte, 1)); err != nil {
						break
					}
					time.Sleep(tc.network)
				}
				if got := context.Cause(ctx); !errors.Is(got, tc.want) || tc.want == nil && got != nil {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			})
		})
	}
}

type slowReader struct{ s string }

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(5 * time.Second)
	n := copy(p, r.s)
	r.s = r.s[n:]
	return n, nil
}

func TestPusher(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r, warned := open(t, s.host())
	p := NewPusher(r)
	var keys []string
	for i := range 20 {
		res := newResult(t, fmt.Sprintf("packages/%d", i), "shared", fmt.Sprint("own ", i))
		keys = append(keys, res.key)
		p.Enqueue(res.manifest, res.open)
	}
	bad := newResult(t, "packages/bad", "lost")
	delete(bad.blobs, digest.FromString("lost").String())
	p.Enqueue(bad.manifest, bad.open)
	if err := p.Close(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want that a blob is lost", err)
	}
	for _, key := range keys {
		if _, err := r.Lookup(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if got := r.Stats().Pushed; got != 20 || len(warned.get()) > 0 {
		t.Errorf("pushed %d, want 20; warned %q", got, warned.get())
	}
	late := newResult(t, "packages/late")
	p.Enqueue(late.manifest, late.open)
	if _, err := r.Lookup(t.Context(), late.key); !errors.Is(err, ErrNotFound) {
		t.Errorf("enqueued after Close: %v", err)
	}
}

// What the registry's end prevents has been told already.
func TestPusherDown(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Close()
	r, warned := open(t, s.host())
	p := NewPusher(r)
	for i := range 5 {
		res := newResult(t, fmt.Sprintf("packages/%d", i), "one")
		p.Enqueue(res.manifest, res.open)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if list := warned.get(); len(list) != 1 || !errors.Is(r.Down(), ErrDown) {
		t.Errorf("down: %v, warned %q, want one message", r.Down(), list)
	}
}

// Close does not wait for a registry that takes nothing.
func TestPusherLate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	begun := make(chan struct{}, 100)
	s.before = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPost {
			begun <- struct{}{}
			<-req.Context().Done()
		}
		return req.Method == http.MethodPost
	}
	r, _ := open(t, s.host(), func(c *Config) { c.Timeout = time.Minute })
	p := NewPusher(r)
	for i := range 5 {
		res := newResult(t, fmt.Sprintf("packages/%d", i), "one")
		p.Enqueue(res.manifest, res.open)
	}
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Close(ctx); err == nil || !strings.Contains(err.Error(), "5 results were not pushed") {
		t.Errorf("got %v, want 5 results that were not pushed", err)
	}
	if r.Down() != nil {
		t.Errorf("down: %v", r.Down())
	}
}

// Everything that a manifest names may be used as the name of a file.
func FuzzParseResult(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"` + store.ArtifactType + `","config":{"digest":"sha256:` + strings.Repeat("0", 64) + `"},"annotations":{"` + store.AnnotationKey + `":"` + strings.Repeat("0", 64) + `"}}`))
	f.Add([]byte(`{"config":{"digest":"sha256:../x"}}`))
	f.Add([]byte(`{"layers":[{"digest":"sha512:00"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseResult(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v is no %v", err, ErrCorrupt)
			}
			return
		}
		for _, d := range blobsOf(m) {
			if name := d.Digest.Encoded(); len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" || d.Size < 0 {
				t.Errorf("accepted %q of %d bytes", d.Digest, d.Size)
			}
		}
	})
}
