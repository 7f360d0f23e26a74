package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"slipway/internal/image/tree"
)

// File is a regular file.
type File = tree.Entry

// Limits against file systems that are made to exhaust memory or time.
const (
	maxDepth   = 64
	maxEntries = 1 << 18
	maxRead    = 64 << 20 // of directories
	maxTree    = 5        // levels of extents

	// known are the incompatible features that change nothing of what is read
	// here: filetype, recover, extent, 64bit, mmp, flex_bg, ea_inode, csum_seed,
	// largedir.
	known = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000
)

type reader struct {
	r              io.ReaderAt
	block          int64 // bytes
	firstBlock     int64
	descSize       int64
	inodeSize      int64
	inodesPerGroup uint32
	inodes         uint32
	entries        int   // that may still come
	budget         int64 // bytes of directories that may still be read
	files          []tree.File
}

// List returns the regular files in the order of their directories; of hard links
// each.
func List(r io.ReaderAt) ([]File, error) {
	files, err := Tree(r)
	return tree.Entries(files), err
}

// Tree returns all files in the order of their directories, the root first; of hard
// links each. It reads file systems with extents, as ext4 has them; those with the
// older block maps, inline data or extended attributes in inodes of their own are
// refused.
func Tree(r io.ReaderAt) ([]tree.File, error) {
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, superOffset); err != nil {
		return nil, fmt.Errorf("ext4 superblock: %w", err)
	}
	l := &reader{r: r, entries: maxEntries, budget: maxRead, descSize: 32, inodeSize: int64(le.Uint16(b[0x58:])),
		firstBlock: int64(le.Uint32(b[0x14:])), inodesPerGroup: le.Uint32(b[0x28:]), inodes: le.Uint32(b)}
	features := le.Uint32(b[0x60:])
	if features&0x80 != 0 {
		l.descSize = int64(le.Uint16(b[0xfe:]))
	}
	bits := le.Uint32(b[0x18:])
	switch {
	case le.Uint16(b[0x38:]) != magic:
		return nil, errors.New("not an ext4 file system")
	case bits > 6:
		return nil, fmt.Errorf("ext4 superblock: blocks of 1024 << %d bytes", bits)
	case features&^known != 0 || features&0x40 == 0:
		return nil, fmt.Errorf("ext4 superblock: features %#x are not handled", features)
	case l.inodeSize < 128 || l.inodeSize > 1<<16 || l.descSize < 32 || l.inodesPerGroup == 0:
		return nil, errors.New("ext4 superblock: damaged")
	}
	l.block = 1024 << bits
	inode, err := l.inode(rootInode)
	if err == nil {
		err = l.add(inode, ".")
	}
	if err == nil {
		err = l.directory(rootInode, "", 0)
	}
	if err != nil {
		return nil, err
	}
	return l.files, nil
}

// inode reads all bytes of an inode.
func (l *reader) inode(number uint32) ([]byte, error) {
	if number == 0 || number > l.inodes {
		return nil, fmt.Errorf("inode %d does not exist", number)
	}
	group, index := int64((number-1)/l.inodesPerGroup), int64((number-1)%l.inodesPerGroup)
	desc := make([]byte, l.descSize)
	if _, err := l.r.ReadAt(desc, (l.firstBlock+1)*l.block+group*l.descSize); err != nil {
		return nil, fmt.Errorf("descriptor of group %d: %w", group, err)
	}
	table := int64(le.Uint32(desc[8:]))
	if l.descSize >= 64 {
		table |= int64(le.Uint32(desc[0x28:])) << 32
	}
	b := make([]byte, l.inodeSize)
	if _, err := l.r.ReadAt(b, table*l.block+index*l.inodeSize); err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	return b, nil
}

func size(inode []byte) int64 {
	return int64(le.Uint32(inode[0x6c:]))<<32 | int64(le.Uint32(inode[0x04:]))
}

// run is blocks of a file that follow each other on the disk.
type run struct {
	at, count int64 // in the file
	block     int64
	unwritten bool // they read as zero
}

// runs gives the leaves of an extent tree.
func (l *reader) runs(node []byte, depth int) (out []run, err error) {
	if le.Uint16(node) != extentMagic || int(le.Uint16(node[2:]))*12+12 > len(node) || depth > maxTree {
		return nil, errors.New("damaged extents")
	}
	leaf := le.Uint16(node[6:]) == 0
	for n := range int(le.Uint16(node[2:])) {
		e := node[12+12*n:]
		if leaf {
			r := run{at: int64(le.Uint32(e)), count: int64(le.Uint16(e[4:])), block: int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32}
			if r.count > 1<<15 {
				r.count, r.unwritten = r.count-1<<15, true
			}
			out = append(out, r)
			continue
		}
		block := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
		if l.budget -= l.block; l.budget < 0 {
			return nil, fmt.Errorf("more than %d bytes of directories, or a loop", maxRead)
		}
		below := make([]byte, l.block)
		if _, err := l.r.ReadAt(below, block*l.block); err != nil {
			return nil, err
		}
		more, err := l.runs(below, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// content reads a file with extents.
func (l *reader) content(inode []byte) (io.Reader, error) {
	if le.Uint32(inode[0x20:])&flagExtents == 0 {
		return nil, errors.New("it has no extents")
	}
	runs, err := l.runs(inode[0x28:0x28+60], 0)
	if err != nil {
		return nil, err
	}
	var parts []io.Reader
	at := int64(0)
	for _, r := range append(runs, run{at: (size(inode) + l.block - 1) / l.block}) {
		if r.at < at {
			return nil, errors.New("damaged extents")
		}
		parts = append(parts, io.LimitReader(zeros{}, (r.at-at)*l.block))
		if r.unwritten {
			parts = append(parts, io.LimitReader(zeros{}, r.count*l.block))
		} else {
			parts = append(parts, io.NewSectionReader(l.r, r.block*l.block, r.count*l.block))
		}
		at = r.at + r.count
	}
	return io.LimitReader(io.MultiReader(parts...), size(inode)), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (l *reader) directory(number uint32, at string, depth int) error {
	bad := func(err error) error { return fmt.Errorf("directory /%s: %w", at, err) }
	if depth > maxDepth {
		return bad(fmt.Errorf("more than %d directories deep", maxDepth))
	}
	inode, err := l.inode(number)
	switch {
	case err != nil:
		return bad(err)
	case le.Uint16(inode)&modeType != modeDir:
		return bad(fmt.Errorf("inode %d is not a directory", number))
	case size(inode) < 0 || size(inode)%l.block != 0:
		return bad(errors.New("damaged"))
	}
	if l.budget -= size(inode); l.budget < 0 {
		return bad(fmt.Errorf("more than %d bytes of directories, or a loop", maxRead))
	}
	r, err := l.content(inode)
	if err != nil {
		return bad(err)
	}
	data := make([]byte, size(inode))
	if _, err := io.ReadFull(r, data); err != nil {
		return bad(err)
	}
	// The inner nodes of a hashed directory look like unused entries, and no
	// entry crosses the end of a block.
	for ; len(data) > 0; data = data[l.block:] {
		block := data[:l.block]
		for len(block) > 0 {
			if len(block) < 8 {
				return bad(errors.New("damaged"))
			}
			length, name := int(le.Uint16(block[4:])), int(block[6])
			if length == 0 && l.block == 1<<16 {
				length = 1 << 16
			}
			if length < 8 || length > len(block) || 8+name > length {
				return bad(errors.New("damaged"))
			}
			if child := le.Uint32(block); child != 0 && !bytes.Equal(block[8:8+name], []byte(".")) && !bytes.Equal(block[8:8+name], []byte("..")) {
				if err := l.entry(child, at+string(block[8:8+name]), depth); err != nil {
					return err
				}
			}
			block = block[length:]
		}
	}
	return nil
}

func (l *reader) entry(number uint32, path string, depth int) error {
	if l.entries--; l.entries < 0 {
		return fmt.Errorf("more than %d files", maxEntries)
	}
	inode, err := l.inode(number)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if err := l.add(inode, path); err != nil {
		return err
	}
	if le.Uint16(inode)&modeType == modeDir {
		return l.directory(number, path+"/", depth+1)
	}
	return nil
}

// add adds what an inode says to the files.
func (l *reader) add(inode []byte, path string) (err error) {
	f := tree.File{
		Path: path, Mode: le.Uint16(inode), Size: size(inode),
		UID: uint32(le.Uint16(inode[0x02:])) | uint32(le.Uint16(inode[0x78:]))<<16,
		GID: uint32(le.Uint16(inode[0x18:])) | uint32(le.Uint16(inode[0x7a:]))<<16,
	}
	switch f.Type() {
	case tree.Regular:
		f.Open = func() (io.Reader, error) { return l.content(inode) }
	case tree.Link:
		f.Open = func() (io.Reader, error) { return l.content(inode) }
		if f.Size < 60 && le.Uint32(inode[0x20:])&flagExtents == 0 { // in the place of its extents
			f.Open = func() (io.Reader, error) { return bytes.NewReader(inode[0x28:][:f.Size]), nil }
		}
	case tree.CharDevice, tree.Device:
		if f.Device = le.Uint32(inode[0x28:]); f.Device == 0 {
			f.Device = le.Uint32(inode[0x2c:])
		}
	}
	if f.Xattrs, err = l.xattrs(inode); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	l.files = append(l.files, f)
	return nil
}
