package repack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/erofs"
	"slipway/internal/image/ext4"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/tree"
)

// ext4Root makes a root with attributes of many kinds.
func ext4Root(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"etc/motd": "secret words\n", "etc/other": "x", "usr/bin/a": "program"}
	for i := range 200 { // of many blocks, with a hash tree
		files[fmt.Sprintf("etc/many/%s-%d", strings.Repeat("n", 60), i)] = "x"
	}
	in, err := imagetest.RootInputs(dir, "ext4", "0.1.0", "252", files)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script")
	commands := `ea_set /etc security.selinux etc_t
ea_set /etc/motd security.selinux motd_t
ea_set /etc/motd user.large ` + strings.Repeat("v", 1000) + `
sif /etc/motd mode 0104640
sif /etc/motd uid 70000
sif /etc/motd gid 7
ln /usr/bin/a /usr/bin/b
sif /usr/bin/a links_count 2
symlink /etc/link other
`
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"resize2fs", "-f", in.Root, "4M"}, {"debugfs", "-w", "-f", script, in.Root}, {"sh", "-c", "e2fsck -fyD $0 || [ $? = 1 ]", in.Root},
		{"resize2fs", "-fM", in.Root}, {"e2fsck", "-fn", in.Root},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000", "E2FSCK_TIME=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	return in.Root
}

// edit changes a copy of a root.
func edit(t *testing.T, root string, room int64, changes ...erofs.Change) (string, erofs.Edited, error) {
	t.Helper()
	data, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	edited, err := editExt4(t.Context(), dir, f, room, changes)
	return f.Name(), edited, err
}

func treeOf(t *testing.T, path string) (files map[string]tree.File, content map[string]string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := ext4.Tree(f)
	if err != nil {
		t.Fatal(err)
	}
	files, content = map[string]tree.File{}, map[string]string{}
	for _, f := range list {
		if f.Open != nil {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			content[f.Path], f.Open = string(text), nil
		}
		files[f.Path] = f
	}
	return files, content
}

func TestEditExt4(t *testing.T) {
	t.Parallel()
	root := ext4Root(t)
	odd := `etc/many/<2> "quoted" name`
	executable := file("opt/new/tool", "#!/bin/sh\n")
	executable.Executable = true
	changes := []erofs.Change{file("etc/motd", strings.Repeat("long text\n", 50000)), file("etc/new", "new"), file("etc/sub/deep", ""), file(odd, "odd"), executable, {Path: "usr/bin/a"}, {Path: "etc/link"}}
	start := time.Now().Unix()
	path, edited, err := edit(t, root, 64<<20, changes...)
	if err != nil {
		t.Fatal(err)
	}
	before, contentBefore := treeOf(t, root)
	after, content := treeOf(t, path)
	etc := before["etc"].Xattrs
	motd := before["etc/motd"]
	motd.Size = 500000
	for _, want := range []tree.File{
		motd,
		{Path: "etc/new", Mode: 0o100644, Size: 3, Xattrs: etc},
		{Path: "etc/sub", Mode: 0o40755, Size: 4096, Xattrs: etc},
		{Path: "etc/sub/deep", Mode: 0o100644, Xattrs: etc},
		{Path: odd, Mode: 0o100644, Size: 3, Xattrs: map[string]string{}},
		{Path: "opt/new", Mode: 0o40755, Size: 4096, Xattrs: map[string]string{}},
		{Path: "opt/new/tool", Mode: 0o100755, Size: 10, Xattrs: map[string]string{}},
	} {
		if d := cmp.Diff(want, after[want.Path]); d != "" {
			t.Error(d)
		}
	}
	if motd.UID != 70000 || len(motd.Xattrs) != 2 || len(etc) != 1 {
		t.Errorf("the test has no attributes: %+v", motd)
	}
	for name, text := range map[string]string{"etc/motd": strings.Repeat("long text\n", 50000), "etc/new": "new", "etc/sub/deep": "", odd: "odd", "opt/new/tool": "#!/bin/sh\n", "usr/bin/b": "program"} {
		if content[name] != text {
			t.Errorf("%s: %.20q", name, content[name])
		}
		delete(content, name)
	}
	// all else is as before
	for _, name := range []string{"etc/motd", "usr/bin/a", "usr/bin/b", "etc/link"} {
		delete(contentBefore, name)
	}
	if d := cmp.Diff(contentBefore, content); d != "" {
		t.Error(d)
	}
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) != edited.Size || edited.Size%4096 != 0 || edited.Size > 4<<20 {
		t.Errorf("%d bytes, said %d: %v", len(data), edited.Size, err)
	}
	if bytes.Contains(data, []byte("secret words")) {
		t.Error("what was replaced can be read")
	}
	for i := 0; i+4 <= len(data); i += 4 {
		if at := int64(binary.LittleEndian.Uint32(data[i:])); at >= start && at <= time.Now().Unix() {
			t.Errorf("byte %d is the time of now", i)
		}
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	again, _, err := edit(t, root, 64<<20, changes...)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := os.ReadFile(again); err != nil || !bytes.Equal(same, data) {
		t.Errorf("the same changes made other bytes (%v)", err)
	}
}

func TestEditExt4Errors(t *testing.T) {
	t.Parallel()
	root := ext4Root(t)
	for _, tt := range []struct {
		changes []erofs.Change
		want    string
	}{
		{[]erofs.Change{file("etc", "")}, "/etc: is not a regular file"},
		{[]erofs.Change{{Path: "etc/many"}}, "/etc/many: is a directory; only files can be removed"},
		{[]erofs.Change{file("etc/link", "")}, `/etc/link: is a symbolic link to "other", not a regular file: name what it leads to`},
		{[]erofs.Change{file("etc/link/x", "")}, `/etc/link/x: /etc/link: is a symbolic link to "other", not a directory`},
		{[]erofs.Change{{Path: "etc/none"}}, "/etc/none: file does not exist"},
		{[]erofs.Change{{Path: "none/none"}}, "/none/none: /none: file does not exist"},
		{[]erofs.Change{file("etc/new", ""), file("etc/new", "")}, "/etc/new: it is named twice"},
		{[]erofs.Change{file("../x", "")}, "not a path of a file below the root"},
		{[]erofs.Change{file("a\nrm etc", "")}, "not a path of a file below the root"},
		{[]erofs.Change{file(strings.Repeat("x", 256), "")}, "a name has 256 bytes"},
		{[]erofs.Change{file("large", strings.Repeat("x", 5<<20))}, "the changes have no room in the 4194304 bytes of the partition"},
	} {
		if _, _, err := edit(t, root, 4<<20, tt.changes...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}
