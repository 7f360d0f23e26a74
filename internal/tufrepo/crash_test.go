package tufrepo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/sign"
	"slipway/internal/update"
)

var errCrash = errors.New("crash")

// crashAfter lets n changes in the file system happen, and no further one.
func crashAfter(r *Repo, n int) (done *int) {
	done = new(int)
	r.step = func(string) error {
		if *done >= n {
			return errCrash
		}
		*done++
		return nil
	}
	return done
}

// A process that ends between any two of its writes leaves a repository that
// clients accept, and in which the work can be taken up again.
func TestCrash(t *testing.T) {
	t.Parallel()
	rotated := func() *Policies {
		p := policies()
		p.Root.Keys, p.Timestamp.Keys, p.Targets.Keys = []*sign.Key{key(1), key(2), key(23)}, []*sign.Key{key(26)}, []*sign.Key{key(24)}
		return p
	}
	both := append(policies().AllKeys(), rotated().AllKeys()...)
	operations := map[string]func(context.Context, *testing.T, *Repo) (*Change, error){
		"add": func(ctx context.Context, t *testing.T, r *Repo) (*Change, error) {
			rel := release(t, "1.2.0")
			rel.SBOM = nil // one write more or less of a target tells nothing
			return r.Add(ctx, policies(), rel)
		},
		"refresh": func(_ context.Context, _ *testing.T, r *Repo) (*Change, error) { return r.Refresh(policies(), true) },
		"pause": func(ctx context.Context, _ *testing.T, r *Repo) (*Change, error) {
			return r.Edit(ctx, policies(), func(m *update.Manifest) error { return Pause(&m.Updates[0], start) })
		},
		"rotate": func(_ context.Context, _ *testing.T, r *Repo) (*Change, error) { return r.Rotate(rotated()) },
	}
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _, clk := full(t)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			seen := t.TempDir()
			if _, err := Validate(t.Context(), Folder(r.dir), ValidateOptions{Now: clk.Time, State: seen}); err != nil {
				t.Fatal(err)
			}
			for n := 0; ; n++ {
				dir := copyTree(t, r.dir)
				// a client that looked in before and knows what it saw, and a new one
				state := copyTree(t, seen)
				validate := func(what string) {
					t.Helper()
					for _, options := range []ValidateOptions{{Now: clk.Time, State: state}, {Now: clk.Time}} {
						if _, err := Validate(t.Context(), Folder(dir), options); err != nil {
							t.Fatalf("%s, stopped after %d writes: %v", what, n, err)
						}
					}
				}
				crashing := open(t, dir, clk)
				crashAfter(crashing, n)
				c, err := operation(t.Context(), t, crashing)
				if err == nil {
					err = crashing.Commit(t.Context(), c, both...)
				}
				if err != nil && !errors.Is(err, errCrash) {
					t.Fatalf("stopped after %d writes: %v", n, err)
				}
				finished := err == nil
				if err := crashing.Close(); err != nil {
					t.Fatal(err)
				}
				validate("after the crash")
				if finished {
					if n < 8 {
						t.Errorf("it took only %d writes", n)
					}
					return
				}
				again := open(t, dir, clk)
				if c, err = operation(t.Context(), t, again); err != nil {
					t.Fatalf("again, after %d writes: %v", n, err)
				}
				if c != nil {
					if err := again.Commit(t.Context(), c, both...); err != nil {
						t.Fatalf("again, after %d writes: %v", n, err)
					}
				}
				if err := again.Close(); err != nil {
					t.Fatal(err)
				}
				validate("after another go")
			}
		})
	}
	t.Run("init", func(t *testing.T) {
		t.Parallel()
		clk := &clock{start}
		for n := 0; ; n++ {
			dir := filepath.Join(t.TempDir(), "repo")
			r := open(t, dir, clk)
			crashAfter(r, n)
			c, err := r.Init(policies())
			if err != nil {
				t.Fatal(err)
			}
			err = r.Commit(t.Context(), c, policies().AllKeys()...)
			if closed := r.Close(); closed != nil {
				t.Fatal(closed)
			}
			if err == nil {
				if _, err := Validate(t.Context(), Folder(dir), ValidateOptions{Now: start}); err != nil || n < 8 {
					t.Fatal(n, err)
				}
				return
			}
			if !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "timestamp.json")); err == nil {
				continue // whole, but for the report of it
			}
			r = open(t, dir, clk)
			c, err = r.Init(policies())
			commit(t, r, policies(), c, err)
			check(t, r, clk)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
