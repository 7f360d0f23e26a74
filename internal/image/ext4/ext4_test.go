package ext4

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testVolume() *Volume {
	return &Volume{UUID: [16]byte{0: 0x10, 6: 0x86, 8: 0x80, 15: 0x1f}, Time: time.Unix(315532800, 0)}
}

// write makes a sparse file of the size with an empty file system.
func write(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := testVolume().Write(f, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool runs a program, which must exit with 0, and gives what it prints.
func tool(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// e2fsck finds nothing to repair, whatever the size: one group or many, with a
// last group that is hardly one, and with descriptors of several blocks.
func TestWrite(t *testing.T) {
	t.Parallel()
	const mib, group = 1 << 20, blocksPerGroup * blockSize
	for _, size := range []int64{
		MinSize, 8*mib + 4095, 9 * mib, 17 * mib, 32 * mib, 41 * mib, 127 * mib, group, group + mib, group + 4*mib, 3*group - blockSize, 4 * group,
		1 << 30, 5<<30 + 123*mib, 26*group + 3*mib, 70 << 30, 5 << 40,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			path := write(t, size)
			if size <= 70<<30 { // what e2fsck keeps of larger ones takes memory
				tool(t, "e2fsck", "-fn", path)
			}
			head := tool(t, "dumpe2fs", "-h", path)
			for _, want := range []string{
				"Filesystem UUID:          10000000-0000-8600-8000-00000000001f\n", "Directory Hash Seed:      10000000-0000-8600-8000-00000000001f\n",
				"Filesystem state:         clean\n", "has_journal ", " metadata_csum\n", "Journal inode:            8\n", "Reserved block count:     0\n",
			} {
				if !strings.Contains(head, want) {
					t.Errorf("no %q in\n%s", want, head)
				}
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if files, err := List(f); err != nil || len(files) != 0 {
				t.Errorf("%v, %v", files, err)
			}
		})
	}
}

func TestWriteSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, MinSize - 1, MaxSize + 1} {
		if err := testVolume().Write(nil, size); err == nil || !strings.Contains(err.Error(), "want 8388608 to") {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestWriteReproducible(t *testing.T) {
	t.Parallel()
	var sums [2][sha256.Size]byte
	for i := range sums {
		data, err := os.ReadFile(write(t, 200<<20))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(data)
	}
	if sums[0] != sums[1] {
		t.Error("the same volume has other bytes")
	}
}

// What others write into it is there, and nothing is damaged by that.
func TestWriteInto(t *testing.T) {
	t.Parallel()
	path := write(t, 16<<20)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, bytes.Repeat([]byte("text"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-R", "mkdir etc", path)
	tool(t, "debugfs", "-w", "-R", "write "+source+" etc/file", path)
	tool(t, "e2fsck", "-fn", path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := List(f)
	if d := cmp.Diff([]File{{Path: "etc/file", Size: 1 << 20}}, files); d != "" || err != nil {
		t.Error(d, err)
	}
}

// populated makes a folder with small, large and many files, and a file system of it.
func populated(t testing.TB, options ...string) (want []File, path string) {
	t.Helper()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "root.ext4")
	create := func(name string, size int64) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
	}
	create("usr/bin/large", 3<<20)
	create("usr/lib/empty", 0)
	create("usr/lib/small", 40)
	for i := range 400 { // a directory of many blocks
		create(fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%90), i), int64(4*i))
	}
	if err := os.Symlink("large", filepath.Join(dir, "usr/bin/link")); err != nil {
		t.Fatal(err)
	}
	tool(t, append(append([]string{"mke2fs", "-q", "-t", "ext4", "-d", dir}, options...), path, "16M")...)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
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
	return want, path
}

func byPath(a, b File) int { return strings.Compare(a.Path, b.Path) }

func TestList(t *testing.T) {
	t.Parallel()
	for _, options := range [][]string{nil, {"-b", "1024"}, {"-b", "4096"}, {"-O", "^64bit,^metadata_csum,^has_journal"}} {
		want, path := populated(t, options...)
		// directories get their hash tree by e2fsck, which exits with 1 when it did
		_ = exec.Command("e2fsck", "-fyD", path).Run()
		tool(t, "e2fsck", "-fn", path)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := List(f)
		if err != nil {
			t.Fatalf("%v: %v", options, err)
		}
		slices.SortFunc(got, byPath)
		slices.SortFunc(want, byPath)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%v: %s", options, d)
		}
	}
}

func TestListErrors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(write(t, MinSize))
	if err != nil {
		t.Fatal(err)
	}
	root := bytes.Index(data, []byte("lost+found")) / blockSize * blockSize
	for name, tt := range map[string]struct {
		at    int
		with  string
		wants string
	}{
		"magic":      {superOffset + 0x38, "\x00", "not an ext4 file system"},
		"block size": {superOffset + 0x18, "\x07", "blocks of 1024 << 7 bytes"},
		"features":   {superOffset + 0x60, "\x52", "features 0x52 are not handled"},
		"inodes":     {superOffset + 0x58, "\x01\x00", "ext4 superblock: damaged"},
		"too few":    {superOffset, "\x01\x00\x00\x00", "inode 2 does not exist"},
		"entry":      {root + 4, "\x03", "directory /: damaged"},
		"loop":       {root + 24, "\x02", "more than 64 directories deep"},
		"beyond":     {root + 24, "\xff\xff\xff\x00", "/lost+found: inode 16777215 does not exist"},
	} {
		broken := bytes.Clone(data)
		copy(broken[tt.at:], tt.with)
		if _, err := List(bytes.NewReader(broken)); err == nil || !strings.Contains(err.Error(), tt.wants) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := List(bytes.NewReader(data[:2000])); err == nil || !strings.Contains(err.Error(), io.EOF.Error()) {
		t.Error(err)
	}
}

func FuzzList(f *testing.F) {
	// the head alone is enough: what is missing is an error of reading
	data, err := os.ReadFile(write(f, MinSize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:64*blockSize])
	_, path := populated(f, "-b", "1024", "-N", "512")
	if data, err = os.ReadFile(path); err != nil {
		f.Fatal(err)
	}
	f.Add(data[:512<<10])
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := List(bytes.NewReader(data))
		if err == nil && len(files) > maxEntries {
			t.Errorf("%d files", len(files))
		}
	})
}
