package repack

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/image/erofs"
	"slipway/internal/image/ext4"
	"slipway/internal/image/gpt"
	"slipway/internal/image/tree"
	"slipway/internal/image/verity"
)

// editExt4 is erofs.Edit for an ext4 file system in a file of the folder, where room
// is left for it up to a size. It is changed by the programs of e2fsprogs, whose
// version so decides the bytes: it is grown for what is new, and then as small again
// as it can be.
func editExt4(ctx context.Context, dir string, f *os.File, room int64, changes []erofs.Change) (made erofs.Edited, err error) {
	files, err := ext4.Tree(f)
	if err != nil {
		return made, err
	}
	written, err := ext4.Written(f)
	if err != nil {
		return made, err
	}
	e := &ext4Editor{ctx: ctx, dir: dir, name: filepath.Base(f.Name()), time: fmt.Sprint(written.Unix()), files: map[string]tree.File{}}
	for _, file := range files {
		e.files[file.Path] = file
	}
	changes = slices.SortedFunc(slices.Values(changes), func(a, b erofs.Change) int { return cmp.Compare(a.Path, b.Path) })
	for i, c := range changes {
		if i > 0 && changes[i-1].Path == c.Path {
			err = errors.New("it is named twice")
		} else {
			err = e.change(c)
		}
		if err != nil {
			return made, fmt.Errorf("/%s: %w", c.Path, err)
		}
	}
	if err := f.Truncate(room / verity.BlockSize * verity.BlockSize); err != nil {
		return made, err
	}
	if _, err := e.run("resize2fs", nil, "-f", e.name); err != nil {
		return made, err
	}
	out, err := e.run("debugfs", nil, "-w", "-f", e.file([]byte(e.commands.String())), e.name)
	if err != nil {
		return made, err
	}
	if _, wrong, _ := strings.Cut(out, "\n"); strings.Contains(wrong, "Could not allocate") || strings.Contains(wrong, "No free space") {
		return made, fmt.Errorf("the changes have no room in the %d bytes of the partition: %s", room, strings.TrimSpace(wrong))
	} else if wrong != "" { // behind the version
		return made, fmt.Errorf("debugfs: %s", strings.TrimSpace(wrong))
	}
	// debugfs leaves blocks of attributes of removed files in use
	if _, err := e.run("e2fsck", []int{0, 1}, "-fp", e.name); err != nil {
		return made, err
	}
	if _, err := e.run("resize2fs", nil, "-fM", e.name); err != nil {
		return made, err
	}
	if err := ext4.ZeroFree(f); err != nil {
		return made, err
	}
	sum := sha256.New()
	sum.Write([]byte("slipway ext4\x00"))
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return made, err
	}
	made.UUID = [16]byte(sum.Sum(nil))
	made.UUID[6], made.UUID[8] = made.UUID[6]&0x0f|0x80, made.UUID[8]&0x3f|0x80 // RFC 9562, version 8
	if _, err := e.run("tune2fs", nil, "-U", gpt.GUID(made.UUID).String(), e.name); err != nil {
		return made, err
	}
	if _, err := e.run("e2fsck", nil, "-fn", e.name); err != nil {
		return made, err
	}
	st, err := f.Stat()
	if err != nil {
		return made, err
	}
	made.Size = st.Size()
	return made, nil
}

type ext4Editor struct {
	ctx       context.Context
	dir, name string
	time      string // of all that is new
	files     map[string]tree.File
	commands  strings.Builder
	written   int
	err       error
}

func (e *ext4Editor) change(c erofs.Change) error {
	if !fs.ValidPath(c.Path) || c.Path == "." || strings.ContainsAny(c.Path, "\x00\n\r") {
		return errors.New("not a path of a file below the root")
	}
	parent := e.files["."]
	dir, name := path.Split(c.Path)
	if len(name) > 255 {
		return fmt.Errorf("a name has %d bytes, at most 255 are possible", len(name))
	}
	for i, char := range dir {
		if char != '/' {
			continue
		}
		at := dir[:i]
		entry, ok := e.files[at]
		switch {
		case ok:
			if err := want(entry, tree.Dir, "a directory"); err != nil {
				return fmt.Errorf("/%s: %w", at, err)
			}
		case c.Content == nil:
			return fmt.Errorf("/%s: %w", at, fs.ErrNotExist)
		default:
			entry = tree.File{Path: at, Mode: tree.Dir | 0o755, Xattrs: parent.Xattrs}
			fmt.Fprintf(&e.commands, "cd %s\nmkdir %s\n", quote(strings.TrimPrefix(parent.Path, ".")), quoteName(path.Base(at)))
			e.attributes(entry)
		}
		parent = entry
	}
	entry, ok := e.files[c.Path]
	switch {
	case !ok && c.Content == nil:
		return fs.ErrNotExist
	case !ok:
		entry = tree.File{Path: c.Path, Mode: tree.Regular | 0o644, Xattrs: parent.Xattrs}
		if c.Executable {
			entry.Mode |= 0o111
		}
	case c.Content == nil && entry.Type() == tree.Dir:
		return errors.New("is a directory; only files can be removed")
	case c.Content != nil:
		if err := want(entry, tree.Regular, "a regular file"); err != nil {
			return err
		}
	}
	if ok {
		fmt.Fprintf(&e.commands, "rm %s\n", quote(c.Path))
	}
	if c.Content == nil {
		delete(e.files, c.Path)
		return e.err
	}
	data, err := io.ReadAll(io.NewSectionReader(c.Content, 0, c.Content.Size()))
	if err != nil {
		return err
	}
	fmt.Fprintf(&e.commands, "cd %s\nwrite %s %s\n", quote(strings.TrimSuffix(dir, "/")), e.file(data), quoteName(name))
	e.attributes(entry)
	return e.err
}

// attributes gives a new file what it has beside its content.
func (e *ext4Editor) attributes(f tree.File) {
	e.files[f.Path] = f
	to := quote(f.Path)
	fmt.Fprintf(&e.commands, "sif %s mode 0%o\nsif %s uid %d\nsif %s gid %d\n", to, f.Mode, to, f.UID, to, f.GID)
	var names []string
	for name := range f.Xattrs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&e.commands, "ea_set -r -f %s %s %s\n", e.file([]byte(f.Xattrs[name])), to, quoteName(name))
	}
}

// file makes a file for the programs, which run in its folder.
func (e *ext4Editor) file(data []byte) string {
	e.written++
	name := fmt.Sprintf("%s.%d", e.name, e.written)
	e.err = errors.Join(e.err, os.WriteFile(filepath.Join(e.dir, name), data, 0o600))
	return name
}

// quote writes a path from the root for debugfs.
func quote(path string) string { return quoteName("/" + path) }

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// want checks the type of what a path leads to.
func want(f tree.File, kind uint16, what string) error {
	if f.Type() == kind {
		return nil
	}
	if f.Type() == tree.Link {
		if r, err := f.Open(); err == nil {
			if to, err := io.ReadAll(r); err == nil {
				return fmt.Errorf("is a symbolic link to %q, not %s: name what it leads to", to, what)
			}
		}
	}
	return fmt.Errorf("is not %s", what)
}

// run runs a program of e2fsprogs and gives what it wrote as errors. Nil is the exit
// status 0 alone.
func (e *ext4Editor) run(program string, ok []int, args ...string) (string, error) {
	if e.err != nil {
		return "", e.err
	}
	file, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // where they are, but not in the PATH of all users
		if err != nil {
			file, err = exec.LookPath(filepath.Join(dir, program))
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s, which changes ext4 file systems, is not installed: apt-get install e2fsprogs", program)
	}
	cmd := exec.CommandContext(e.ctx, file, args...)
	cmd.Dir = e.dir
	// nothing of this host decides what they do
	cmd.Env = []string{"LC_ALL=C", "E2FSPROGS_FAKE_TIME=" + e.time, "E2FSCK_TIME=" + e.time, "E2FSCK_CONFIG=/dev/null"}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && !slices.Contains(ok, cmd.ProcessState.ExitCode()) {
		return "", errors.Join(e.ctx.Err(), fmt.Errorf("%s %s: %w: %s%s", program, strings.Join(args, " "), err, &errOut, &out))
	}
	return errOut.String(), nil
}
