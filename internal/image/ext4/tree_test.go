package ext4

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/tree"
)

// What a file says of itself is what debugfs has written.
func TestTree(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "root.ext4")
	content := map[string]string{"small": "text\n", "holes": "a" + strings.Repeat("\x00", 300<<10) + "b", "large": strings.Repeat("0123456789", 100000)}
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long/", 20)
	if err := os.Symlink("small", filepath.Join(dir, "short")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(long, filepath.Join(dir, "deep")); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-d", dir, path, "16M")
	script := filepath.Join(t.TempDir(), "script")
	block := strings.Repeat("v", 1500) // does not fit into an inode
	commands := fmt.Sprintf(`sif /small mode 0104755
sif /small uid 70000
sif /small gid 7
ea_set /small security.selinux system_u:object_r:etc_t:s0
ea_set /large user.large %s
ea_set /large security.selinux x
mknod console c 5 1
sif / mode 041777
`, block)
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-f", script, path)
	tool(t, "e2fsck", "-fn", path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := Tree(f)
	if err != nil {
		t.Fatal(err)
	}
	content["short"], content["deep"] = "small", long
	got := map[string]tree.File{}
	for _, f := range files {
		if f.Open != nil {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			if err != nil || string(text) != content[f.Path] {
				t.Errorf("%s: %d bytes, want %d: %v", f.Path, len(text), len(content[f.Path]), err)
			}
			delete(content, f.Path)
		}
		f.Open = nil
		got[f.Path] = f
	}
	if len(content) > 0 {
		t.Errorf("not there: %v", content)
	}
	for _, want := range []tree.File{
		{Path: "small", Mode: 0o104755, UID: 70000, GID: 7, Size: 5, Xattrs: map[string]string{"security.selinux": "system_u:object_r:etc_t:s0"}},
		{Path: "large", Mode: 0o100600, Size: 1000000, Xattrs: map[string]string{"user.large": block, "security.selinux": "x"}},
		{Path: "console", Mode: 0o20600, Device: 0x501, Xattrs: map[string]string{}},
	} {
		have := got[want.Path]
		if want.Path == "console" {
			have.Mode = have.Mode&^0o777 | 0o600 // debugfs gives it those of its umask
		}
		if want.Path == "large" {
			have.UID, have.GID = 0, 0 // of who runs the test
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Error(d)
		}
	}
	if root := got["."]; root.Mode != 0o41777 || got["lost+found"].Type() != tree.Dir {
		t.Errorf("root %+v, lost+found %+v", root, got["lost+found"])
	}
}
