package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// put stores a result whose inputs are a text.
func put(t *testing.T, s *Store, inputs string, files map[string]string) *Result {
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
	r, err := s.Put(t.Context(), Artifact{
		Target: "packages/a", Arch: "x86_64", Inputs: []byte(inputs), Dir: dir,
		Attachments: map[string][]byte{"text/x-note": []byte("note on " + inputs)}, History: History{Wall: 2, CPU: 1.5, Memory: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func keyOf(inputs string) string { return digest.FromString(inputs).Encoded() }

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t *testing.T, s *Store, key string) *Result {
	t.Helper()
	r, ok, err := s.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return nil
	}
	return r
}

func TestPutGet(t *testing.T) {
	s := open(t)
	if get(t, s, keyOf("in")) != nil {
		t.Fatal("an empty store has a result")
	}
	want := put(t, s, "in", map[string]string{"a.rpm": "one", "x/b.rpm": "two"})
	if want.Key != keyOf("in") {
		t.Errorf("key %s is not the digest of the inputs", want.Key)
	}
	// a second handle sees what the first wrote
	s2, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, s2, keyOf("in"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	names := []string{got.Files[0].Name, got.Files[1].Name}
	if diff := cmp.Diff([]string{"a.rpm", "x/b.rpm"}, names); diff != "" {
		t.Error(diff)
	}
	if note, err := s2.Attached(got, "text/x-note"); err != nil || string(note) != "note on in" {
		t.Errorf("attachment %q, %v", note, err)
	}
	if none, err := s2.Attached(got, "text/x-other"); err != nil || none != nil {
		t.Errorf("attachment that is not there: %q, %v", none, err)
	}
	if in, err := s2.Inputs(got); err != nil || string(in) != "in" {
		t.Errorf("inputs %q, %v", in, err)
	}
	if h, ok := s2.History("x86_64", "packages/a"); !ok || h != (History{Key: want.Key, Wall: 2, CPU: 1.5, Memory: 1 << 20}) {
		t.Errorf("history %v, %v", h, ok)
	}
	if _, ok := s2.History("aarch64", "packages/a"); ok {
		t.Error("history of another architecture")
	}
	if !s2.Has(want.Key, want.Digest) || s2.Has(want.Key, "sha256:x") || s2.Has(keyOf("other"), want.Digest) {
		t.Error("Has is wrong")
	}
	// the same content gives the same result
	if again := put(t, s, "in", map[string]string{"a.rpm": "one", "x/b.rpm": "two"}); again.Digest != want.Digest {
		t.Errorf("digest changed: %s, %s", want.Digest, again.Digest)
	}
}

// rewrite changes a file in place, as an accident would.
func rewrite(path, content string) error {
	return errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte(content), 0o644))
}

func TestGetDropsBrokenEntries(t *testing.T) {
	for name, spoil := range map[string]func(s *Store, r *Result) error{
		"missing file":   func(s *Store, r *Result) error { return os.Remove(s.Path(r.Files[0].Digest)) },
		"truncated file": func(s *Store, r *Result) error { return os.Truncate(s.Path(r.Files[0].Digest), 1) },
		"changed file":   func(s *Store, r *Result) error { return rewrite(s.Path(r.Files[0].Digest), "two") },
		"file is a folder": func(s *Store, r *Result) error {
			return errors.Join(os.Remove(s.Path(r.Files[0].Digest)), os.Mkdir(s.Path(r.Files[0].Digest), 0o755))
		},
		"missing manifest":  func(s *Store, r *Result) error { return os.Remove(s.Path(r.Digest)) },
		"changed manifest":  func(s *Store, r *Result) error { return os.Truncate(s.Path(r.Digest), 10) },
		"manifest of other": func(s *Store, r *Result) error { return spoilEntry(s, r.Key, put(t, s, "other", nil).Digest) },
		"no digest":         func(s *Store, r *Result) error { return spoilEntry(s, r.Key, "sha2") },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			r := put(t, s, "in", map[string]string{"a.rpm": "one"})
			if err := spoil(s, r); err != nil {
				t.Fatal(err)
			}
			if get(t, s, r.Key) != nil {
				t.Fatal("a broken entry is used")
			}
			if s.Has(r.Key, r.Digest) {
				t.Error("the entry was not dropped")
			}
			if name == "file is a folder" {
				if err := os.Remove(s.Path(r.Files[0].Digest)); err != nil {
					t.Fatal(err)
				}
			}
			// it can be made again, and has the right content then
			again := put(t, s, "in", map[string]string{"a.rpm": "one"})
			if get(t, s, r.Key) == nil {
				t.Fatal("it cannot be made again")
			}
			if err := s.Verify(again, again.Files); err != nil {
				t.Error(err)
			}
		})
	}
}

func spoilEntry(s *Store, key, manifest string) error {
	return s.index.write(func(tx *bbolt.Tx) error { return putJSON(tx, bucketResults, key, entry{Digest: manifest}) })
}

// A blob whose content was lost without any trace in its inode is found when it
// is read, and when it would be stored again.
func TestSilentDamage(t *testing.T) {
	s := open(t)
	r := put(t, s, "in", map[string]string{"a.rpm": "one"})
	path := s.Path(r.Files[0].Digest)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func() {
		t.Helper()
		if err := errors.Join(rewrite(path, "eno"), os.Chtimes(path, st.ModTime(), st.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	spoil()
	if get(t, s, r.Key) == nil {
		t.Fatal("the test does not do what it says")
	}
	if err := s.Verify(r, r.Files); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "a.rpm of packages/a") {
		t.Errorf("err=%v", err)
	}
	if get(t, s, r.Key) != nil {
		t.Error("it was not dropped")
	}
	r = put(t, s, "in", map[string]string{"a.rpm": "one"})
	if st, err = os.Stat(path); err != nil {
		t.Fatal(err)
	}
	spoil()
	put(t, s, "in2", map[string]string{"a.rpm": "one"})
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "one" {
		t.Errorf("stored over damaged content: %q, %v", raw, err)
	}
	if n, bad, err := s.VerifyAll(context.Background()); n != 2 || bad != nil || err != nil {
		t.Errorf("%d checked, damaged: %v, %v", n, bad, err)
	}
	spoil()
	n, bad, err := s.VerifyAll(context.Background())
	if n != 2 || len(bad) != 2 || err != nil || !errors.Is(errors.Join(bad[0].Err, bad[1].Err), ErrCorrupt) {
		t.Errorf("%d checked, damaged: %v, %v", n, bad, err)
	}
	if get(t, s, r.Key) != nil {
		t.Error("VerifyAll did not drop it")
	}
}

// A lost or damaged index comes back from the manifests.
func TestIndexIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"removed":   os.Remove,
		"no bbolt":  func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 40_000)), 0o644) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"truncated": func(path string) error { return os.Truncate(path, 9000) },
		"zeroed pages": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 20_000), 8192)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			var want []*Result
			for i := range 30 {
				want = append(want, put(t, s, fmt.Sprint("in", i), map[string]string{"a.rpm": fmt.Sprint(i)}))
			}
			if err := spoil(filepath.Join(s.Dir(), indexFile)); err != nil {
				t.Fatal(err)
			}
			for _, w := range want {
				var got *Result
				err := s.Session(func() error {
					got = get(t, s, w.Key)
					return nil
				})
				if diff := cmp.Diff(w, got); diff != "" || err != nil {
					t.Fatal(diff, err)
				}
			}
			put(t, s, "new", nil)
		})
	}
}

// Who reads in a session that others end, because the index is damaged, gets an
// answer, and what was put off is written in the end.
func TestSessionIsMended(t *testing.T) {
	for name, spoil := range map[string]func(s *Store) error{
		"damaged": func(s *Store) error {
			f, err := os.OpenFile(filepath.Join(s.Dir(), indexFile), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			info, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, info.Size()-8192), 8192) // the mapped pages change, too
			return errors.Join(err, f.Close())
		},
		"ended by others": func(s *Store) error { return s.index.session.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			var want []*Result
			for i := range 100 {
				want = append(want, put(t, s, fmt.Sprint("in", i), map[string]string{"a.rpm": "one"}))
			}
			err := s.Session(func() error {
				if err := s.SetLast(s.Dir(), "x86_64", map[string]string{"packages/a": want[0].Key}); err != nil {
					return err
				}
				if err := spoil(s); err != nil {
					return err
				}
				var wg sync.WaitGroup
				for _, w := range want {
					wg.Go(func() {
						got, _, err := s.Get(w.Key)
						if diff := cmp.Diff(w, got); diff != "" || err != nil {
							t.Error(diff, err)
						}
					})
				}
				wg.Wait()
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Last(s.Dir(), "x86_64", "packages/a"); got != want[0].Key {
				t.Errorf("what was written in the session is lost: %q", got)
			}
		})
	}
}

// A result waits for a process that holds the index, until its context ends.
func TestPutWaits(t *testing.T) {
	s := open(t)
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("interrupted")
	err = other.Session(func() error {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(2*indexTry, func() { cancel(why) })
		if _, err := s.Put(ctx, Artifact{Target: "packages/a", Inputs: []byte("in"), Dir: t.TempDir()}); !errors.Is(err, why) || !strings.Contains(err.Error(), "another process holds") {
			t.Errorf("got %v, want %v", err, why)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	put := make(chan error)
	err = other.Session(func() error {
		go func() {
			_, err := s.Put(t.Context(), Artifact{Target: "packages/a", Inputs: []byte("in"), Dir: t.TempDir()})
			put <- err
		}()
		select {
		case err := <-put:
			t.Fatalf("put while another holds the index: %v", err)
		case <-time.After(3 * indexTry):
		}
		return nil
	})
	if err := errors.Join(err, <-put); err != nil {
		t.Fatal(err)
	}
}

func TestSessions(t *testing.T) {
	s := open(t)
	r := put(t, s, "in", map[string]string{"a.rpm": "one"})
	broken := put(t, s, "broken", map[string]string{"b.rpm": "two"})
	if err := rewrite(s.Path(broken.Files[0].Digest), "x"); err != nil {
		t.Fatal(err)
	}
	err := s.Session(func() error {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if get(t, s, r.Key) == nil {
					t.Error("not found")
				}
			})
		}
		wg.Wait()
		if get(t, s, broken.Key) != nil {
			t.Error("a broken entry is used")
		}
		return errors.New("mine")
	})
	if err == nil || err.Error() != "mine" {
		t.Errorf("err=%v", err)
	}
	if s.Has(broken.Key, broken.Digest) {
		t.Error("what was written in a session is lost")
	}
}

// Several stores on one folder stand for several processes: bbolt locks files,
// not processes.
func TestManyAtOnce(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for n := range 4 {
		mine, err := Open(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := range 10 {
				r := put(t, mine, fmt.Sprint("in", (n+i)%12), map[string]string{"a.rpm": fmt.Sprint((n + i) % 12)})
				if get(t, mine, r.Key) == nil {
					t.Error("not found")
				}
			}
		})
	}
	wg.Wait()
	if list, err := s.List(); err != nil || len(list) != 12 {
		t.Errorf("%d results, %v", len(list), err)
	}
}

func TestAdopt(t *testing.T) {
	from, s := open(t), open(t)
	r := put(t, from, "in", map[string]string{"a.rpm": "one", "b.rpm": "two"})
	manifest, err := from.Manifest(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	got := get(t, s, r.Key)
	if diff := cmp.Diff(r, got); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(r.Files, s.Missing(got)); diff != "" {
		t.Error(diff)
	}
	if err := s.AddBlob(r.Files[0].Digest, strings.NewReader("something else")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong content: %v", err)
	}
	if err := s.AddBlob(r.Files[0].Digest, strings.NewReader("one")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(r.Files[1:], s.Missing(get(t, s, r.Key))); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Adopt(t.Context(), []byte(`{"artifactType":"x"}`)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a manifest of something else: %v", err)
	}
	evil := strings.Replace(string(manifest), `"a.rpm"`, `"../../a"`, 1)
	if _, err := s.Adopt(t.Context(), []byte(evil)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a name that leads out: %v", err)
	}
}

// What others built tells how long it takes, until this machine has built it.
func TestHistoryOfOthers(t *testing.T) {
	manifest := func(s *Store, inputs string, h History) []byte {
		t.Helper()
		r, err := s.Put(t.Context(), Artifact{Target: "packages/a", Arch: "x86_64", Inputs: []byte(inputs), Dir: t.TempDir(), History: h})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.Manifest(r)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	theirs := History{Key: keyOf("in"), Wall: 20.5, CPU: 60, Memory: 1 << 30}
	own := History{Key: keyOf("own"), Wall: 3, CPU: 4, Memory: 5}
	right := manifest(open(t), "in", theirs)
	for _, c := range []struct {
		name     string
		built    bool // here, before
		manifest string
		want     History
		ok       bool
	}{
		{"none", false, string(right), theirs, true},
		{"own", true, string(right), own, true},
		{"no numbers", false, strings.Replace(string(right), "20.5", "NaN", 1), History{}, false},
		{"negative", false, strings.Replace(string(right), "20.5", "-2", 1), History{}, false},
		{"absent", false, strings.Replace(string(right), AnnotationWall, "x", 1), History{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			if c.built {
				manifest(s, "own", own)
			}
			if _, err := s.Adopt(t.Context(), []byte(c.manifest)); err != nil {
				t.Fatal(err)
			}
			got, ok := s.History("x86_64", "packages/a")
			if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
				t.Error(ok, diff)
			}
		})
	}
}

func TestLast(t *testing.T) {
	s := open(t)
	if got := s.Last("/ws", "x86_64", "packages/a"); got != "" {
		t.Errorf("last of an empty store: %q", got)
	}
	if err := s.SetLast("/ws", "x86_64", map[string]string{"packages/a": "k1", "packages/b": "k2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetLast("/ws", "x86_64", map[string]string{"packages/a": "k3"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][4]string{{"/ws", "x86_64", "packages/a", "k3"}, {"/ws", "x86_64", "packages/b", "k2"}, {"/other", "x86_64", "packages/a", ""}, {"/ws", "aarch64", "packages/a", ""}} {
		if got := s.Last(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%v: %q", c, got)
		}
	}
}

func TestPrune(t *testing.T) {
	large := strings.Repeat("x", 100_000) // beside which manifests do not matter
	for name, c := range map[string]struct {
		opt  PruneOptions
		want []string // what stays
	}{
		"nothing asked":     {PruneOptions{}, []string{"old", "old-reachable", "young"}},
		"age":               {PruneOptions{OlderThan: 30 * 24 * time.Hour}, []string{"old-reachable", "young"}},
		"age, reachable":    {PruneOptions{OlderThan: 30 * 24 * time.Hour, Reachable: true}, []string{"young"}},
		"size":              {PruneOptions{MaxBytes: 250_000}, []string{"old-reachable", "young"}},
		"smaller":           {PruneOptions{MaxBytes: 150_000}, []string{"old-reachable"}}, // reachable goes last
		"everything":        {PruneOptions{MaxBytes: 1}, nil},
		"age, only looking": {PruneOptions{OlderThan: 30 * 24 * time.Hour, DryRun: true}, []string{"old", "old-reachable", "young"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			then := time.Now().Add(-60 * 24 * time.Hour).Unix()
			keys := map[string]*Result{}
			for _, n := range []string{"old", "old-reachable", "young"} {
				r := put(t, s, n, map[string]string{"f": n[:1] + n[len(n)-1:] + large})
				keys[n] = r
				if n == "young" {
					continue
				}
				err := s.index.write(func(tx *bbolt.Tx) error {
					var e entry
					getJSON(tx, bucketResults, r.Key, &e)
					e.Used = then
					return putJSON(tx, bucketResults, r.Key, e)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := s.SetLast(t.TempDir(), "x86_64", map[string]string{"packages/a": keys["old-reachable"].Key}); err != nil {
				t.Fatal(err)
			}
			if err := s.SetLast("/no/such/workspace", "x86_64", map[string]string{"packages/a": keys["old"].Key}); err != nil {
				t.Fatal(err)
			}
			orphan := s.Path(digest.FromString("orphan").String())
			if err := os.WriteFile(orphan, []byte("orphan"), 0o444); err != nil {
				t.Fatal(err)
			}
			p, err := s.Prune(c.opt)
			if err != nil {
				t.Fatal(err)
			}
			var stay []string
			for _, n := range []string{"old", "old-reachable", "young"} {
				if get(t, s, keys[n].Key) != nil {
					stay = append(stay, n)
				} else if _, err := os.Stat(s.Path(keys[n].Files[0].Digest)); !os.IsNotExist(err) {
					t.Errorf("the file of %s is still there", n)
				}
			}
			if diff := cmp.Diff(c.want, stay); diff != "" {
				t.Error(diff)
			}
			if _, err := os.Stat(orphan); os.IsNotExist(err) == c.opt.DryRun {
				t.Errorf("orphan: %v", err)
			}
			if gone := int64(len(p.Results)); p.Bytes < gone*100_000 || p.Bytes > gone*102_000+10 {
				t.Errorf("%d results, %d bytes", gone, p.Bytes)
			}
		})
	}
}

// A blob that several results have takes its room once, until the last is gone.
func TestPruneShared(t *testing.T) {
	shared, own := strings.Repeat("s", 100_000), strings.Repeat("o", 100_000)
	for _, c := range []struct {
		max  int64
		want []string // what stays
	}{
		{250_000, []string{"a", "b", "c"}},
		{190_000, []string{"c"}}, // without a, it is all still there
		{90_000, nil},
	} {
		s := open(t)
		keys := map[string]string{}
		for age, n := range []string{"c", "b", "a"} {
			content := shared
			if n == "c" {
				content = own
			}
			r := put(t, s, n, map[string]string{"f": content})
			keys[n] = r.Key
			err := s.index.write(func(tx *bbolt.Tx) error {
				var e entry
				getJSON(tx, bucketResults, r.Key, &e)
				e.Used -= int64(age)
				return putJSON(tx, bucketResults, r.Key, e)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Prune(PruneOptions{MaxBytes: c.max}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range []string{"a", "b", "c"} {
			if _, ok, err := s.Get(keys[n]); err != nil {
				t.Fatal(err)
			} else if ok {
				got = append(got, n)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("at most %d bytes: %s", c.max, diff)
		}
	}
}

func TestPruneWaitsForNobody(t *testing.T) {
	s := open(t)
	release, err := s.Use()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(PruneOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("err=%v", err)
	}
	release()
	if _, err := s.Prune(PruneOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPutRefusesSpecialFiles(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), Artifact{Target: "packages/a", Dir: dir}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Fatalf("err=%v", err)
	}
}

func TestView(t *testing.T) {
	s := open(t)
	dir := filepath.Join(t.TempDir(), "rpms", "a")
	if err := s.View(put(t, s, "in", map[string]string{"a-1.rpm": "one", "old.rpm": "old"}), dir); err != nil {
		t.Fatal(err)
	}
	r := put(t, s, "in2", map[string]string{"a-1.rpm": "two", "new.rpm": "new"})
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

// What killed processes left goes, what may be in use stays.
func TestUseTidies(t *testing.T) {
	s := open(t)
	long := time.Now().Add(-keepTemp - time.Hour)
	left := func() (names []string) {
		entries, err := os.ReadDir(filepath.Join(s.Dir(), "tmp"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	var releases []func()
	for _, test := range []struct {
		name string
		want []string
	}{
		{"alone", []string{"write-2"}},
		{"another uses the store", []string{"result-1", "write-1", "write-2"}},
	} {
		if err := os.MkdirAll(filepath.Join(s.Dir(), "tmp", "result-1", "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, at := range map[string]time.Time{"write-1": long, "write-2": time.Now()} {
			path := filepath.Join(s.Dir(), "tmp", name)
			if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Chtimes(path, at, at)); err != nil {
				t.Fatal(err)
			}
		}
		release, err := s.Use()
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
		if diff := cmp.Diff(test.want, left()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	for _, release := range releases {
		release()
	}
}

// Builds of one checkout show their results in the same folder.
func TestViewAtOnce(t *testing.T) {
	s := open(t)
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("%d.rpm", i)] = fmt.Sprint(i)
	}
	results := []*Result{put(t, s, "in", files), put(t, s, "in2", map[string]string{"0.rpm": "other"})}
	for range 10 {
		dir := filepath.Join(t.TempDir(), "a")
		var all errgroup.Group
		for i := range 8 {
			all.Go(func() error { return s.View(results[i%2], dir) })
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 && len(entries) != len(files) {
			t.Errorf("%d files, %v", len(entries), err)
		}
	}
}

// Processes that open a new store at once do not lose what one of them stores.
func TestOpenAtOnce(t *testing.T) {
	for range 5 {
		dir := filepath.Join(t.TempDir(), "store")
		var all errgroup.Group
		for i := range 8 {
			all.Go(func() error {
				s, err := Open(dir)
				if err == nil {
					err = s.SetLast("/", "x86_64", map[string]string{fmt.Sprint(i): "key"})
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			if s.Last("/", "x86_64", fmt.Sprint(i)) != "key" {
				t.Errorf("what process %d stored is lost", i)
			}
		}
	}
}

func BenchmarkHas(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	keys := map[string]string{}
	err = s.index.write(func(tx *bbolt.Tx) error {
		for i := range 10_000 {
			key := keyOf(fmt.Sprint(i))
			keys[key] = "sha256:" + key
			if err := putJSON(tx, bucketResults, key, entry{Digest: "sha256:" + key, Target: "packages/a", Sigs: []string{"1.2.3", "4.5.6"}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	key := keyOf("77")
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			if !s.Has(key, keys[key]) {
				b.Fatal("not found")
			}
		}
	})
	b.Run("session", func(b *testing.B) {
		_ = s.Session(func() error {
			for b.Loop() {
				if !s.Has(key, keys[key]) {
					b.Fatal("not found")
				}
			}
			return nil
		})
	})
}
