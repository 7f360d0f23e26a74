// Package durable changes files such that after a power cut each change has
// either happened completely or not at all, and what happened before it as well.
package durable

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Ops makes durable changes. The zero value is ready for use.
type Ops struct {
	// Before is called ahead of every change that it describes; an error
	// cancels the change. Tests cut the power there.
	Before func(change string) error
}

func (o Ops) before(change string) error {
	if o.Before == nil {
		return nil
	}
	return o.Before(change)
}

// temporary marks files that a power cut may leave behind.
const temporary = ".tmp-"

// Temporary tells whether a file of this name was left behind by WriteFile or
// Symlink.
func Temporary(name string) bool { return strings.Contains(name, temporary) }

// WriteFile makes path a file with this content and mode.
func (o Ops) WriteFile(path string, data []byte, mode fs.FileMode) (err error) {
	if err := o.before("create " + path); err != nil {
		return err
	}
	tmp := path + temporary + rand.Text()
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return o.Rename(tmp, path)
}

// Rename renames within a folder, replacing what has the new name.
func (o Ops) Rename(from, to string) error {
	if err := o.before("rename " + to); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	// FAT keeps size and place of a file in its folder, and writes them with the
	// file alone: after a sync of the folder only, the file may be an empty one.
	if st, err := os.Lstat(to); err != nil {
		return err
	} else if st.Mode().IsRegular() {
		if err := SyncDir(to); err != nil { // fsync(2) is the same for both
			return err
		}
	}
	return SyncDir(filepath.Dir(to))
}

// Symlink makes path a symbolic link to target, replacing an older one.
func (o Ops) Symlink(target, path string) error {
	if err := o.before("link " + path); err != nil {
		return err
	}
	tmp := path + temporary + rand.Text()
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return o.Rename(tmp, path)
}

// Remove removes a file or a folder with all it holds; it may be missing. A
// folder may be left with a part of what it held.
func (o Ops) Remove(path string) error {
	if err := o.before("remove " + path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncTree makes a folder with all regular files and folders below durable.
func SyncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return SyncDir(path) // fsync(2) is the same for both
	})
}
