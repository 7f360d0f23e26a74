//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var repro = flag.Bool("repro", false, "also build everything a second time (takes as long as a first build)")

// TestReproducible builds the whole workspace again, in another folder, with an
// empty store and a new engine, and compares every RPM and the image bit by bit.
func TestReproducible(t *testing.T) {
	if !*repro {
		t.Skip("a second build of everything: make repro-test")
	}
	image(t)
	dir := t.TempDir()
	again := filepath.Join(dir, "another", "checkout")
	cache := filepath.Join(dir, "cache")
	first := os.Getenv("SLIPWAY_CACHE")
	if first == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		first = filepath.Join(user, "slipway")
	}
	for _, d := range []string{again, cache} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyTree(t, *workspace, again)
	// sources and the SDK are inputs; nothing that was built comes along
	for _, d := range []string{"sources", "sdk"} {
		if out, err := exec.Command("cp", "-a", filepath.Join(first, d), cache).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	environment := append(os.Environ(), "SLIPWAY_CACHE="+cache, "SLIPWAY_STATE="+filepath.Join(dir, "state"))
	build := exec.Command(*slipway, "-C", again, "build", "--locked", "--progress", "plain")
	build.Env = environment
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	t.Cleanup(func() {
		stop := exec.Command(*slipway, "engine", "stop")
		stop.Env = environment
		if out, err := stop.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	want, got := digests(t, *workspace), digests(t, again)
	if len(want) < 30 {
		t.Fatalf("only %d files to compare: %v", len(want), want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the second build differs (-first +second):\n%s", diff)
	}
	t.Logf("%d files are bit-identical", len(want))
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "build" {
			continue
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(from, e.Name()), to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// digests gives the SHA-256 of every RPM and image that a workspace shows.
func digests(t *testing.T, ws string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, top := range []string{"rpms", "images"} {
		root := filepath.Join(ws, "build", top)
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			rel, err := filepath.Rel(ws, path)
			sums[rel] = hex.EncodeToString(h.Sum(nil))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return sums
}
