// Package compare says whether two builds are equal, bit by bit, and where
// they are not, which member differs: a header tag of an RPM, a file in its
// payload, a section of an object file, a partition of a disk.
//
// Only files with different bytes are opened, and what follows from another
// difference is not repeated: a package whose summary changed has other
// digests in its signature header too, which are reported only when nothing
// else differs. So a list of differences is not an edit script, but it is
// empty only for equal bytes.
package compare

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxDetails bounds what is reported of one file.
	maxDetails = 20
	// maxDepth bounds how many containers lie within each other.
	maxDepth = 8
	// maxSpool bounds the bytes that one compressed stream may hold.
	maxSpool = 16 << 30
)

// Difference is one thing in which two builds are not equal.
type Difference struct {
	// Path is the file and the members on the way to the difference, such
	// as "x.rpm: /usr/lib/libx.so.1: .text".
	Path string
	// What names the property that differs, such as "mode", or says all:
	// "only in A".
	What string
	// A and B are the two values, abbreviated around their first difference
	// and in quotes where they contain more than plain words. Both are empty
	// if What says all; one of them is if that build has no such property.
	A, B string
}

// String returns the difference in one line.
func (d Difference) String() string {
	s := d.What
	if d.Path != "" {
		s = d.Path + ": " + s
	}
	if d.A == "" && d.B == "" {
		return s
	}
	none := func(v string) string {
		if v == "" {
			return "none"
		}
		return v
	}
	return s + ": " + none(d.A) + " -> " + none(d.B)
}

// Files compares two regular files. It returns nothing for equal ones, and at
// most 20 differences and a last one that counts the rest, in the order of the
// members of a. What cannot be opened as what it seems to be is compared byte
// by byte. Errors are those of reading the files and of writing temporary
// ones, which hold what compressed streams contain.
func Files(a, b string) ([]Difference, error) {
	return files(filepath.Base(a), a, b, maxSpool)
}

func files(name, a, b string, spoolLimit int64) ([]Difference, error) {
	fa, err := openRegular(a)
	if err != nil {
		return nil, err
	}
	defer fa.Close()
	fb, err := openRegular(b)
	if err != nil {
		return nil, err
	}
	defer fb.Close()
	ia, err := fa.Stat()
	if err != nil {
		return nil, err
	}
	ib, err := fb.Stat()
	if err != nil {
		return nil, err
	}
	if os.SameFile(ia, ib) {
		return nil, nil
	}
	found, err := blobs(name, fileBlob(fa, ia.Size()), fileBlob(fb, ib.Size()), spoolLimit)
	if err != nil {
		return nil, fmt.Errorf("compare %s and %s: %w", a, b, err)
	}
	return found, nil
}

func blobs(name string, a, b blob, spoolLimit int64) ([]Difference, error) {
	c := &comparison{spoolLimit: spoolLimit}
	defer c.release(0)
	if err := c.blobs(name, a, b, 0); err != nil {
		return nil, err
	}
	if more := c.count - len(c.found); more > 0 {
		c.found = append(c.found, Difference{Path: name, What: fmt.Sprintf("and %d more", more)})
	}
	return c.found, nil
}

func openRegular(name string) (*os.File, error) {
	// A fifo would block in open.
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("compare: %s is not a regular file", name)
	}
	return os.Open(name)
}

// Dirs compares the trees below two folders of results: names, types, targets
// of symbolic links, and files as by Files. Modes, owners and times of the
// files themselves are those of the view, not of the build, and are left out.
// The differences are sorted by file.
func Dirs(a, b string) ([]Difference, error) {
	ta, err := folder(a)
	if err != nil {
		return nil, err
	}
	tb, err := folder(b)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range ta {
		names = append(names, name)
	}
	for name := range tb {
		if _, ok := ta[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []Difference
	gone := "\x00" // the last folder that only one side has
	for _, name := range names {
		if strings.HasPrefix(name, gone) {
			continue
		}
		pa, pb := filepath.Join(a, name), filepath.Join(b, name)
		ka, inA := ta[name]
		kb, inB := tb[name]
		switch {
		case !inA, !inB:
			what, kind := "only in A", ka
			if !inA {
				what, kind = "only in B", kb
			}
			if kind == fs.ModeDir {
				gone = name + "/"
			}
			all = append(all, Difference{Path: name, What: what})
		case ka != kb:
			all = append(all, Difference{Path: name, What: "type", A: typeName(ka), B: typeName(kb)})
		case ka == fs.ModeSymlink:
			la, err := os.Readlink(pa)
			if err != nil {
				return nil, err
			}
			lb, err := os.Readlink(pb)
			if err != nil {
				return nil, err
			}
			if la != lb {
				va, vb := show(la, lb)
				all = append(all, Difference{Path: name, What: "link target", A: va, B: vb})
			}
		case ka == 0:
			ds, err := files(name, pa, pb, maxSpool)
			if err != nil {
				return nil, err
			}
			all = append(all, ds...)
		case ka != fs.ModeDir:
			return nil, fmt.Errorf("compare: %s is neither a file nor a folder nor a symbolic link", pa)
		}
	}
	return all, nil
}

// folder returns the types of what lies below a folder, by path.
func folder(dir string) (map[string]fs.FileMode, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("compare: %s is not a folder", dir)
	}
	t := map[string]fs.FileMode{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != "." {
			t[p] = d.Type()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return t, nil
}

func typeName(m fs.FileMode) string {
	switch m {
	case 0:
		return "file"
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "symbolic link"
	}
	return "special file"
}
