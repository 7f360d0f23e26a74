package erofs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/image/tree"
)

// What is read of files is what went into the file system, whatever the layout.
func TestTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	random := make([]byte, 300<<10)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(random)
	words := strings.Builder{}
	for i := range 200000 {
		fmt.Fprintf(&words, "%d ", i*i%977)
	}
	want := map[string]string{
		"empty": "", "short": "text\n", "block": strings.Repeat("x", 4096), "random": string(random), "words": words.String(),
		"zeros": strings.Repeat("\x00", 1<<20), "mixed": strings.Repeat("same ", 20000) + string(random[:90001]) + words.String()[:5000],
		"tail": words.String()[:4097], "twice": words.String()[:70000] + string(random[:4096]) + words.String()[:70000],
	}
	for name, text := range want {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../to", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	want["link"] = "../to"
	for _, options := range [][]string{nil, {"-zlz4hc,9", "-C65536"}, {"-zlz4hc,4", "-C65536", "-Eforce-inode-extended"}, {"-zlz4"}, {"-zlz4hc", "-C16384"}, {"-zzstd", "-C65536"}} {
		out := filepath.Join(t.TempDir(), "root.erofs")
		if text, err := exec.Command("mkfs.erofs", append(options, "--quiet", "-T1", "--force-uid=1001", "--force-gid=70000", out, dir)...).CombinedOutput(); err != nil {
			if options[0] == "-zzstd" {
				continue // erofs-utils before 1.8
			}
			t.Fatalf("%v: %v\n%s", options, err, text)
		}
		got := map[string]string{}
		for _, f := range treeOf(t, out) {
			if f.UID != 1001 || f.GID != 70000 || f.Type() == tree.Regular && f.Mode != 0o100640 {
				t.Errorf("%v: %+v", options, f)
			}
			if f.Open != nil {
				got[f.Path] = read(t, f)
			}
		}
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%v: %s: %d bytes, want %d", options, name, len(got[name]), len(want[name]))
			}
		}
		if len(got) != len(want) {
			t.Errorf("%v: %d files", options, len(got))
		}
	}
}

func treeOf(t *testing.T, path string) []tree.File {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Tree(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t *testing.T, f tree.File) string {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Errorf("%s: %v", f.Path, err)
		return ""
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("%s: %v", f.Path, err)
	}
	return string(text)
}

// Attributes are read wherever mkfs.erofs puts them: those of several files into one
// place for all.
func TestXattrs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := map[string]map[string]string{".": {}}
	for i := range 5 {
		name := fmt.Sprint(i)
		want[name] = map[string]string{"user.same": "shared by all of them", "user.own": name}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for key, value := range want[name] {
			if err := unix.Setxattr(path, key, []byte(value), 0); err != nil {
				t.Skipf("no extended attributes in %s: %v", dir, err)
			}
		}
	}
	for _, options := range [][]string{{"-x1"}, {"-x100"}} {
		out := filepath.Join(t.TempDir(), "root.erofs")
		if text, err := exec.Command("mkfs.erofs", append(options, "--quiet", "-T1", out, dir)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		got := map[string]map[string]string{}
		for _, f := range treeOf(t, out) {
			got[f.Path] = f.Xattrs
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%v: %s", options, d)
		}
	}
}

// Files that are damaged, or made to deceive, are errors.
func FuzzTree(f *testing.F) {
	_, image := populated(f, "-zlz4hc,9", "-C65536")
	f.Add(image[:min(len(image), 64<<10)])
	f.Fuzz(func(t *testing.T, data []byte) {
		files, _ := Tree(bytes.NewReader(data))
		for _, file := range files {
			if file.Open == nil || file.Size > 1<<20 {
				continue
			}
			if r, err := file.Open(); err == nil {
				if n, err := io.Copy(io.Discard, r); err == nil && n > file.Size {
					t.Errorf("%s: %d bytes of %d", file.Path, n, file.Size)
				}
			}
		}
	})
}
