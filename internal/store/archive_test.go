package store

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRegister(t *testing.T) {
	from, s := open(t), open(t)
	r := put(t, from, "in", map[string]string{"a.rpm": "one", "b.rpm": "two"})
	manifest, err := from.Manifest(r)
	if err != nil {
		t.Fatal(err)
	}
	blobs := r.Blobs()
	for i, d := range blobs {
		// not before the last of what it names is here
		if _, err := s.Register(t.Context(), manifest); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("with %d of %d blobs: %v", i, len(blobs), err)
		}
		if got := get(t, s, r.Key); got != nil {
			t.Fatalf("with %d of %d blobs it is a result", i, len(blobs))
		}
		raw, err := os.ReadFile(from.Path(d))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.AddBlob(d, strings.NewReader(string(raw))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Register(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, get(t, s, r.Key)); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Register(t.Context(), []byte("{}")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no manifest: %v", err)
	}
}

func TestAddBlobAgain(t *testing.T) {
	s := open(t)
	f := put(t, s, "in", map[string]string{"a.rpm": "one"}).Files[0]
	before, err := os.Stat(s.Path(f.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddBlob(f.Digest, strings.NewReader("one")); err != nil {
		t.Error(err)
	}
	if now, err := os.Stat(s.Path(f.Digest)); err != nil || !os.SameFile(before, now) {
		t.Errorf("it was written again: %v", err)
	}
	if err := s.AddBlob(f.Digest, strings.NewReader("other")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("other content: %v", err)
	}
	if err := os.Chmod(s.Path(f.Digest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(f.Digest), []byte("bad"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.AddBlob(f.Digest, strings.NewReader("one")); err != nil {
		t.Error(err)
	}
	if raw, err := os.ReadFile(s.Path(f.Digest)); err != nil || string(raw) != "one" {
		t.Errorf("a damaged one was kept: %q, %v", raw, err)
	}
}

func TestUsage(t *testing.T) {
	s := open(t)
	if u, err := s.Usage(); err != nil || u != (Usage{}) {
		t.Fatalf("empty store: %+v, %v", u, err)
	}
	big := strings.Repeat("x", 1<<20)
	kept := put(t, s, "kept", map[string]string{"shared": big, "own": "k" + big})
	put(t, s, "left", map[string]string{"shared": big, "own": "l" + big})
	root := t.TempDir()
	for _, dir := range []string{root, "/no/such/workspace"} {
		if err := s.SetLast(dir, "x86_64", map[string]string{"packages/a": kept.Key}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddBlob("sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", strings.NewReader("x")); err != nil { // of no result
		t.Fatal(err)
	}
	u, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if u.Results != 2 || u.Reachable != 1 || u.Oldest.IsZero() {
		t.Errorf("%+v", u)
	}
	// what both have counts once, and as reachable; small files may take a block or more each
	const mb, blocks = 1 << 20, 128 << 10
	within := func(what string, n, least int64) {
		if n < least || n > least+blocks {
			t.Errorf("%s: %d bytes, want %d and a little more", what, n, least)
		}
	}
	within("all", u.Bytes, 3*mb)
	within("reachable", u.ReachableBytes, 2*mb)
	if u.UnusedBytes <= 0 || u.UnusedBytes > blocks {
		t.Errorf("of no result: %d bytes", u.UnusedBytes)
	}
	roots, err := s.Roots()
	if diff := cmp.Diff([]string{root}, roots); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}
