package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)) - int64(len(m.b)); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
	return copy(m.b[off:], p), nil
}

func content(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

// edited changes a copy of an image.
func edited(t testing.TB, image []byte, changes ...Change) []byte {
	t.Helper()
	m := &memory{bytes.Clone(image)}
	e, err := Edit(m, changes)
	if err != nil {
		t.Fatal(err)
	}
	if e.Size != int64(len(m.b)) || e.Size%BlockSize != 0 {
		t.Fatalf("%d bytes, Edit says %d", len(m.b), e.Size)
	}
	return m.b
}

// unpack has fsck.erofs check an image and unpack it, and describes what is in it.
func unpack(t testing.TB, image []byte) map[string]string {
	t.Helper()
	name, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(name, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.erofs", "--extract="+dir, "--preserve-perms", name).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return describe(t, dir)
}

func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var what string
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what = string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		}
		if rel == "." { // the folder of the tool
			return err
		}
		if len(what) > 100 {
			what = fmt.Sprintf("%d bytes, %x", len(what), bytes.Count([]byte(what), []byte("t")))
		}
		out[rel] = info.Mode().String() + " " + what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var layouts = [][]string{nil, {"-zlz4hc,9", "-C65536"}, {"-zlz4hc"}, {"-zlz4hc", "-Elegacy-compress"}, {"-Eforce-inode-extended"}, {"-zlz4hc", "-Eztailpacking"}, {"-x-1"}}

func TestEdit(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("new content ", 10000)
	changes := []Change{
		{Path: "usr/bin/large", Content: content("short")},
		{Path: "usr/lib/small", Content: content(large)},
		{Path: "usr/lib/empty", Content: nil},
		{Path: "many/new", Content: content("")},
		{Path: "many/tool", Content: content("#!"), Executable: true},
		{Path: "etc/a/b/c", Content: content("deep")},
		{Path: "usr/bin/link", Content: nil},
	}
	for _, options := range layouts {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			t.Parallel()
			_, image := populated(t, options...)
			want := unpack(t, image)
			delete(want, "usr/lib/empty")
			delete(want, "usr/bin/link")
			want["usr/bin/large"] = "-rw-r--r-- short"
			want["usr/lib/small"] = fmt.Sprintf("-rw-r--r-- %d bytes, %x", len(large), 2*10000)
			want["many/new"], want["many/tool"] = "-rw-r--r-- ", "-rwxr-xr-x #!"
			want["etc"], want["etc/a"], want["etc/a/b"], want["etc/a/b/c"] = "drwxr-xr-x ", "drwxr-xr-x ", "drwxr-xr-x ", "-rw-r--r-- deep"
			got := edited(t, image, changes...)
			if d := cmp.Diff(want, unpack(t, got)); d != "" {
				t.Error(d)
			}
			if again := edited(t, image, changes...); !bytes.Equal(got, again) {
				t.Error("the same changes make another image")
			}
			// an image that was changed is one like others
			twice := edited(t, got, Change{Path: "usr/bin/large", Content: content("again")}, Change{Path: "etc/a/b/c"})
			want["usr/bin/large"] = "-rw-r--r-- again"
			delete(want, "etc/a/b/c")
			if d := cmp.Diff(want, unpack(t, twice)); d != "" {
				t.Error(d)
			}
			if bytes.Equal(got[superOffset+superUUID:][:16], twice[superOffset+superUUID:][:16]) {
				t.Error("another content has the same UUID")
			}
		})
	}
}

// TestEditBlanks looks for the old content of files in the new image.
func TestEditBlanks(t *testing.T) {
	t.Parallel()
	for _, options := range [][]string{nil, {"-zlz4hc,9", "-C65536"}, {"-zlz4hc"}, {"-zlz4hc", "-Elegacy-compress"}, {"-Eforce-inode-extended"}} {
		dir, out := t.TempDir(), filepath.Join(t.TempDir(), "image")
		secret := func(n int) string { return fmt.Sprintf("a secret that no one is to find, number %d;", n) }
		sizes := []int{1, 90, 95, 100, 300, 1000, 3000, 30000}
		var changes []Change
		for i, n := range sizes {
			name := fmt.Sprintf("file%d", n)
			text := strings.Repeat(secret(i), 1) + strings.Repeat("filler", n) + secret(i)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			changes = append(changes, Change{Path: name, Content: []*io.SectionReader{content("x"), nil}[i%2]})
		}
		if err := os.WriteFile(filepath.Join(dir, "other"), bytes.Repeat([]byte("kept"), 5000), 0o644); err != nil {
			t.Fatal(err)
		}
		if text, err := exec.Command("mkfs.erofs", append(options, "--quiet", "-T1", out, dir)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		image, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		// LZ4 keeps what it sees first as it is
		if n := bytes.Count(image, []byte("a secret that no one")); n < len(sizes) {
			t.Fatalf("%v: %d secrets in the image, want at least %d", options, n, len(sizes))
		}
		got := edited(t, image, changes...)
		if bytes.Contains(got, []byte("a secret")) || bytes.Contains(got, []byte("fillerfiller")) {
			t.Errorf("%v: the image still has content of files that are not there any more", options)
		}
		if d := cmp.Diff(fmt.Sprintf("-rw-r--r-- %d bytes, 1388", 20000), unpack(t, got)["other"]); d != "" {
			t.Errorf("%v: %s", options, d)
		}
	}
}

// TestEditKeeps looks at what fsck.erofs does not unpack: owners, extended
// attributes and hard links.
func TestEditKeeps(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "image")
	label := []byte("system_u:object_r:etc_t:s0")
	for _, name := range []string{"a/mine", "a/linked", "a/other"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644), os.Chown(path, 70000, 12), unix.Chmod(path, 0o4750)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "a/linked"), filepath.Join(dir, "a/second")), unix.Setxattr(filepath.Join(dir, "a"), "user.label", label, 0), unix.Setxattr(filepath.Join(dir, "a/mine"), "user.mine", []byte("own"), 0)); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("mkfs.erofs", "--quiet", "-T1", out, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got := edited(t, image, Change{Path: "a/mine", Content: content("new")}, Change{Path: "a/linked", Content: content("new")}, Change{Path: "a/new", Content: content("new")})
	raw := func(path string) ([]byte, []byte) {
		l, super, err := newReader(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		e := &editor{reader: l, super: super, end: int64(len(got)), inodes: map[uint64][]byte{}, dirs: map[uint64][]dirent{}}
		nid := rootInode(super)
		for _, part := range strings.Split(path, "/") {
			d, err := e.lookup(nid, part)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			nid = d.nid
		}
		b, err := e.inodeBytes(nid)
		if err != nil {
			t.Fatal(err)
		}
		i, err := l.inode(nid)
		if err != nil {
			t.Fatal(err)
		}
		data, err := l.content(i)
		if err != nil {
			t.Fatal(err)
		}
		return b, data
	}
	for _, tt := range []struct {
		path, data, attribute string
		mode                  uint16
		links, uid            uint32
	}{
		{"a/mine", "new", "own", modeRegular | 0o4750, 1, 70000},
		{"a/linked", "new", "", modeRegular | 0o4750, 1, 70000},
		{"a/second", "a/linked", "", modeRegular | 0o4750, 1, 70000},
		{"a/other", "a/other", "", modeRegular | 0o4750, 1, 70000},
		{"a/new", "new", string(label), modeRegular | 0o644, 1, 0},
	} {
		b, data := raw(tt.path)
		uid := uint32(0)
		if extended(b) {
			uid = le.Uint32(b[24:])
		}
		if string(data) != tt.data || le.Uint16(b[4:]) != tt.mode || links(b) != tt.links || uid != tt.uid {
			t.Errorf("%s: %q, mode %o, %d links, user %d", tt.path, data, le.Uint16(b[4:]), links(b), uid)
		}
		if rest := b[headSize(b):]; !bytes.Contains(rest, []byte(tt.attribute)) || tt.attribute == "" && len(rest) > 0 {
			t.Errorf("%s: attributes %q, want %q", tt.path, rest, tt.attribute)
		}
	}
}

func TestEditErrors(t *testing.T) {
	t.Parallel()
	_, image := populated(t)
	for _, tt := range []struct {
		change Change
		want   string
	}{
		{Change{Path: "", Content: content("")}, "/: not a path of a file below the root"},
		{Change{Path: "../x", Content: content("")}, "/../x: not a path of a file below the root"},
		{Change{Path: "usr//x", Content: content("")}, "not a path of a file"},
		{Change{Path: "usr/bin", Content: content("")}, "/usr/bin: is not a regular file"},
		{Change{Path: "usr/bin"}, "/usr/bin: is a directory; only files can be removed"},
		{Change{Path: "usr/none"}, "/usr/none: file does not exist"},
		{Change{Path: "none/none"}, "/none: file does not exist"},
		{Change{Path: "usr/bin/large/x", Content: content("")}, "/usr/bin/large: is not a directory"},
		{Change{Path: "usr/bin/link", Content: content("")}, `is a symbolic link to "large", not a regular file: name what it leads to`},
		{Change{Path: "usr/bin/link/x", Content: content("")}, `/usr/bin/link: is a symbolic link to "large", not a directory`},
		{Change{Path: strings.Repeat("x", 256), Content: content("")}, "a name has 256 bytes, at most 255"},
	} {
		if _, err := Edit(&memory{bytes.Clone(image)}, []Change{tt.change}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.change.Path, err, tt.want)
		}
	}
	same := Change{Path: "x", Content: content("")}
	if _, err := Edit(&memory{bytes.Clone(image)}, []Change{same, same}); err == nil || !strings.Contains(err.Error(), "/x: it is named twice") {
		t.Errorf("twice: %v", err)
	}
	if _, err := Edit(&memory{make([]byte, 8192)}, []Change{same}); err == nil || !strings.Contains(err.Error(), "not an EROFS file system") {
		t.Errorf("zeros: %v", err)
	}
	short := io.NewSectionReader(strings.NewReader("x"), 0, 10)
	if _, err := Edit(&memory{bytes.Clone(image)}, []Change{{Path: "x", Content: short}}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that is cut short: %v", err)
	}
}

func FuzzEdit(f *testing.F) {
	if _, err := exec.LookPath("mkfs.erofs"); err == nil {
		_, image := populated(f)
		f.Add(image[:min(len(image), 64<<10)], "usr/bin/large")
	}
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		if len(data) > 1<<20 {
			return
		}
		m := &limited{memory{bytes.Clone(data)}}
		e, err := Edit(m, []Change{{Path: path, Content: content("x")}})
		if err == nil && e.Size > int64(len(m.b)) {
			t.Errorf("%d bytes, Edit says %d", len(m.b), e.Size)
		}
	})
}

// limited refuses what would exhaust memory.
type limited struct{ memory }

func (l *limited) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 4<<20 || off < 0 {
		return 0, errors.New("no space left")
	}
	return l.memory.WriteAt(p, off)
}
