package erofs

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// populated makes a folder with small, large and many files, and an image of it.
func populated(t testing.TB, options ...string) (want []File, image []byte) {
	t.Helper()
	tool, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Skip("mkfs.erofs is not installed")
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "root.erofs")
	write := func(name string, size int) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte("text"), size/4), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/bin/large", 3<<20)
	write("usr/lib/empty", 0)
	write("usr/lib/small", 40)
	for i := range 400 { // several blocks of names
		write(fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%90), i), 4*i)
	}
	if err := os.Symlink("large", filepath.Join(dir, "usr/bin/link")); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(tool, append(options, "--quiet", "-T1", out, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		want = append(want, File{Path: rel, Size: info.Size()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	return want, image
}

func byPath(a, b File) int { return cmp.Compare(a.Path, b.Path) }

func TestList(t *testing.T) {
	t.Parallel()
	for _, options := range [][]string{nil, {"-zlz4hc,9", "-C65536"}, {"-Eforce-inode-extended"}} {
		want, image := populated(t, options...)
		got, err := List(bytes.NewReader(image))
		if err != nil {
			t.Fatalf("%v: %v", options, err)
		}
		slices.SortFunc(got, byPath)
		slices.SortFunc(want, byPath)
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("%v: %s", options, d)
		}
	}
}

func TestListErrors(t *testing.T) {
	t.Parallel()
	_, image := populated(t)
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"empty", func([]byte) []byte { return nil }, "EROFS superblock: EOF"},
		{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }, "not an EROFS file system"},
		{"blocks", func(b []byte) []byte { b[superOffset+12] = 40; return b }, "blocks of 2^40 bytes"},
		{"features", func(b []byte) []byte { b[superOffset+81] = 1; return b }, "features 0x100 are not known"},
		{"root", func(b []byte) []byte { b[superOffset+14]++; return b }, "directory /: "},
		{"cut", func(b []byte) []byte { return b[:superOffset+superSize] }, "directory /: inode "},
	} {
		if _, err := List(bytes.NewReader(tt.change(bytes.Clone(image)))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzList(f *testing.F) {
	if _, err := exec.LookPath("mkfs.erofs"); err == nil {
		_, image := populated(f)
		f.Add(image[:min(len(image), 32<<10)])
	}
	b := make([]byte, 4096)
	le.PutUint32(b[superOffset:], magic)
	b[superOffset+12] = 9
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := List(bytes.NewReader(data))
		if err != nil && files != nil {
			t.Error("files and an error")
		}
	})
}
