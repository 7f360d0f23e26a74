// Package datastore keeps the settings of a machine: a folder for each format
// version, of which the link "current" names the one in use.
package datastore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Live is the folder of a datastore that holds the values in force.
const Live = "live"

// Tree is a folder of values. A key's segments are the folders down to a file
// with the value as JSON; they are escaped as in URLs, and dots as well. Beside a
// value or folder NAME may stand data about it, in files NAME.<kind>.
type Tree string

// Segments splits a key such as settings.host."a.b" at its dots. A segment with
// a dot or quote stands in double quotes, as a JSON string.
func Segments(key string) ([]string, error) {
	var segments []string
	for rest := key; ; {
		var s string
		if strings.HasPrefix(rest, `"`) {
			d := json.NewDecoder(strings.NewReader(rest))
			if err := d.Decode(&s); err != nil {
				return nil, fmt.Errorf("key %s: %w", key, err)
			}
			rest = rest[d.InputOffset():]
		} else {
			end := strings.IndexByte(rest, '.')
			if end < 0 {
				end = len(rest)
			}
			s, rest = rest[:end], rest[end:]
		}
		if s == "" || strings.ContainsAny(s, "\x00") {
			return nil, fmt.Errorf("key %q has an empty segment or one with a zero byte", key)
		}
		segments = append(segments, s)
		if rest == "" {
			return segments, nil
		}
		if rest[0] != '.' {
			return nil, fmt.Errorf("key %s: want a dot after the quoted segment %q", key, s)
		}
		rest = rest[1:]
	}
}

func escape(segment string) string {
	return strings.ReplaceAll(url.PathEscape(segment), ".", "%2E")
}

// Path is the file or folder of a key.
func (t Tree) Path(key string) (string, error) {
	segments, err := Segments(key)
	if err != nil {
		return "", err
	}
	for i, s := range segments {
		segments[i] = escape(s)
	}
	return filepath.Join(append([]string{string(t)}, segments...)...), nil
}

// Get reads a value into to, which is as for json.Unmarshal. It tells whether
// there is one; a folder is none.
func (t Tree) Get(key string, to any) (bool, error) {
	path, err := t.Path(key)
	if err != nil {
		return false, err
	}
	if st, err := os.Stat(path); absent(err) || err == nil && st.IsDir() {
		return false, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, to); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

// absent includes paths below what is a file.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Set writes a value.
func (t Tree) Set(key string, value any) error {
	path, err := t.Path(key)
	if err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// Has tells whether a key has a value, or values below.
func (t Tree) Has(key string) (bool, error) {
	path, err := t.Path(key)
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(path)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// Move moves what a key has, with all below and the data about it, to a key of
// a tree in the same file system. What that had is replaced. It tells whether
// there was something to move.
func (t Tree) Move(key string, other Tree, to string) (bool, error) {
	has, err := t.Has(key)
	if !has || err != nil {
		return false, err
	}
	from, err := t.Path(key)
	if err != nil {
		return false, err
	}
	target, err := other.Path(to)
	if err != nil {
		return false, err
	}
	if target == from || strings.HasPrefix(target, from+"/") || strings.HasPrefix(from, target+"/") {
		return false, fmt.Errorf("key %s cannot be moved to %s: one is part of the other", key, to)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return false, fmt.Errorf("key %s: %w", to, err)
	}
	old, err := about(target)
	if err != nil {
		return false, err
	}
	for _, kind := range append(old, "") {
		if err := os.RemoveAll(target + kind); err != nil {
			return false, err
		}
	}
	kinds, err := about(from)
	if err != nil {
		return false, err
	}
	for _, kind := range append(kinds, "") {
		if err := os.Rename(from+kind, target+kind); err != nil {
			return false, err
		}
	}
	// folders that became empty are no longer anything
	for dir := filepath.Dir(from); dir != string(t); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break
		}
	}
	return true, nil
}

// about are the suffixes of the files about the value at a path.
func about(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var kinds []string
	for _, e := range entries {
		if kind, ok := strings.CutPrefix(e.Name(), filepath.Base(path)); ok && strings.HasPrefix(kind, ".") {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds, nil
}

// Copy copies a datastore into an empty folder: folders, regular files and links with their permissions.
func Copy(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch info.Mode().Type() {
		case fs.ModeDir:
			return os.Mkdir(target, info.Mode().Perm()|0o700)
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, data, info.Mode().Perm())
		}
		return fmt.Errorf("%s is neither a file, a folder nor a link", path)
	})
}
