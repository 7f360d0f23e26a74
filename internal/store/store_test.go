package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, s *Store, key string, files map[string]string) *Result {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Put(key, "packages/a", dir, map[string]string{"dev.slipway.cpu": "1.5"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var key = strings.Repeat("a", 64)

func TestPutGet(t *testing.T) {
	s := open(t)
	if _, ok, err := s.Get(key); ok || err != nil {
		t.Fatalf("empty store: ok=%v err=%v", ok, err)
	}
	want := put(t, s, key, map[string]string{"a.rpm": "one", "x/b.rpm": "two"})
	// a second handle sees what the first wrote
	s2, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	got, ok, err := s2.Get(key)
	if err != nil || !ok {
		t.Fatalf("ok=%v err=%v", ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// the same content gives the same result
	again := put(t, s, key, map[string]string{"a.rpm": "one", "x/b.rpm": "two"})
	if again.Digest != want.Digest {
		t.Errorf("digest changed: %s, %s", want.Digest, again.Digest)
	}
}

func TestGetDropsBrokenEntries(t *testing.T) {
	for name, spoil := range map[string]func(s *Store, r *Result) error{
		"missing file":     func(s *Store, r *Result) error { return os.Remove(s.Path(r.Files[0].Digest)) },
		"truncated file":   func(s *Store, r *Result) error { return os.Truncate(s.Path(r.Files[0].Digest), 1) },
		"missing manifest": func(s *Store, r *Result) error { return os.Remove(s.Path(r.Digest)) },
		"changed manifest": func(s *Store, r *Result) error { return os.Truncate(s.Path(r.Digest), 10) },
		"broken reference": func(s *Store, _ *Result) error {
			if err := os.Remove(s.keyPath(key)); err != nil {
				return err
			}
			return os.WriteFile(s.keyPath(key), []byte("sha2"), 0o644)
		},
		"reference to another key": func(s *Store, r *Result) error {
			other := strings.Repeat("b", 64)
			return os.Rename(s.keyPath(key), s.keyPath(other))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			r := put(t, s, key, map[string]string{"a.rpm": "one"})
			if err := spoil(s, r); err != nil {
				t.Fatal(err)
			}
			for _, k := range []string{key, strings.Repeat("b", 64)} {
				if _, ok, err := s.Get(k); ok || err != nil {
					t.Fatalf("ok=%v err=%v", ok, err)
				}
			}
			// it can be made again
			put(t, s, key, map[string]string{"a.rpm": "one"})
			if _, ok, err := s.Get(key); !ok || err != nil {
				t.Fatalf("after making it again: ok=%v err=%v", ok, err)
			}
		})
	}
}

func TestPutRefusesSpecialFiles(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(key, "packages/a", dir, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Fatalf("err=%v", err)
	}
}

func TestView(t *testing.T) {
	s := open(t)
	dir := filepath.Join(t.TempDir(), "rpms", "a")
	if err := s.View(put(t, s, key, map[string]string{"a-1.rpm": "one", "old.rpm": "old"}), dir); err != nil {
		t.Fatal(err)
	}
	r := put(t, s, key, map[string]string{"a-1.rpm": "two", "new.rpm": "new"})
	if err := s.View(r, dir); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(b)
	}
	if diff := cmp.Diff(map[string]string{"a-1.rpm": "two", "new.rpm": "new"}, got); diff != "" {
		t.Error(diff)
	}
}

// What a killed process left goes, what may be in use stays.
func TestOpenTidies(t *testing.T) {
	s := open(t)
	old, fresh := filepath.Join(s.Dir(), "tmp", "result-1"), filepath.Join(s.Dir(), "tmp", "result-2")
	for _, dir := range []string{old, fresh} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-keepTemp - time.Hour)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error(err)
	}
}
