// Package erofs lists and replaces the files of an EROFS file system, the
// read-only root of an image, without mounting it. The format is described in the
// kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.
package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"slipway/internal/image/tree"
)

// File is a regular file.
type File = tree.Entry

const (
	superOffset = 1024
	superSize   = 128
	magic       = 0xe0f5e1e2
	// superIncompat is where the superblock has its incompatible features.
	superIncompat = 80

	slotSize   = 32
	direntSize = 12
	// known are the incompatible features that change nothing of directories.
	known = 0x7f

	modeType    = 0xf000
	modeDir     = 0x4000
	modeRegular = 0x8000

	flatPlain  = 0
	flatInline = 2

	// Limits against file systems that are made to exhaust memory or time.
	maxDepth   = 64
	maxEntries = 1 << 18
	maxRead    = 64 << 20 // of directories
)

var le = binary.LittleEndian

type reader struct {
	r       io.ReaderAt
	block   int64 // bytes
	meta    int64 // offset of the inodes
	entries int   // that may still come
	budget  int64 // bytes of directories that may still be read
	super   []byte
	files   []tree.File
}

// List returns the regular files in the order of their directories; of hard links
// each.
func List(r io.ReaderAt) ([]File, error) {
	files, err := Tree(r)
	return tree.Entries(files), err
}

// Tree returns all files in the order of their directories, the root first; of hard
// links each. Directories that are compressed are refused, as mkfs.erofs does not
// compress them.
func Tree(r io.ReaderAt) ([]tree.File, error) {
	l, super, err := newReader(r)
	if err != nil {
		return nil, err
	}
	root, err := l.inode(rootInode(super))
	if err == nil {
		err = l.add(root, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("directory /: %w", err)
	}
	if err := l.directory(rootInode(super), "", 0); err != nil {
		return nil, err
	}
	return l.files, nil
}

// newReader also returns the superblock.
func newReader(r io.ReaderAt) (*reader, []byte, error) {
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, superOffset); err != nil {
		return nil, nil, fmt.Errorf("EROFS superblock: %w", err)
	}
	bits := b[12]
	switch {
	case le.Uint32(b) != magic:
		return nil, nil, errors.New("not an EROFS file system")
	case bits < 9 || bits > 16:
		return nil, nil, fmt.Errorf("EROFS superblock: blocks of 2^%d bytes", bits)
	case le.Uint32(b[superIncompat:])&^known != 0:
		return nil, nil, fmt.Errorf("EROFS superblock: features %#x are not known", le.Uint32(b[superIncompat:])&^known)
	}
	l := &reader{r: r, super: b, block: 1 << bits, entries: maxEntries, budget: maxRead}
	l.meta = int64(le.Uint32(b[40:])) << bits
	return l, b, nil
}

func rootInode(super []byte) uint64 { return uint64(le.Uint16(super[14:])) }

type inode struct {
	mode   uint16
	layout uint16
	size   int64
	start  uint32 // block of the data
	xattrs int64  // offset of the extended attributes
	end    int64  // offset behind them

	uid, gid uint32
}

func (l *reader) inode(nid uint64) (i inode, err error) {
	if nid > 1<<40 {
		return i, fmt.Errorf("inode %d lies outside the file system", nid)
	}
	at := l.meta + int64(nid)*slotSize
	b := make([]byte, 2*slotSize)
	if n, err := l.r.ReadAt(b, at); n < slotSize {
		return i, fmt.Errorf("inode %d: %w", nid, err)
	}
	format := le.Uint16(b)
	i = inode{mode: le.Uint16(b[4:]), layout: format >> 1 & 7, size: int64(le.Uint32(b[8:])), start: le.Uint32(b[16:]), end: at + slotSize,
		uid: uint32(le.Uint16(b[24:])), gid: uint32(le.Uint16(b[26:]))}
	if format&1 != 0 { // extended
		i.size, i.end = int64(le.Uint64(b[8:])), at+2*slotSize
		i.uid, i.gid = le.Uint32(b[24:]), le.Uint32(b[28:])
	}
	i.xattrs = i.end
	if n := int64(le.Uint16(b[2:])); n > 0 {
		i.end += 12 + (n-1)*4
	}
	if i.size < 0 {
		return i, fmt.Errorf("inode %d: size %d", nid, uint64(i.size))
	}
	return i, nil
}

// content reads what an inode holds uncompressed.
func (l *reader) content(i inode) ([]byte, error) {
	if l.budget -= i.size; l.budget < 0 {
		return nil, fmt.Errorf("more than %d bytes of directories, or a loop", maxRead)
	}
	if i.layout != flatPlain && i.layout != flatInline {
		return nil, fmt.Errorf("data layout %d is not read", i.layout)
	}
	out := make([]byte, i.size)
	plain := i.size
	if i.layout == flatInline { // the last block follows the inode
		plain = i.size / l.block * l.block
		if _, err := l.r.ReadAt(out[plain:], i.end); err != nil {
			return nil, err
		}
	}
	if plain > 0 {
		if _, err := l.r.ReadAt(out[:plain], int64(i.start)*l.block); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *reader) directory(nid uint64, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("directory /%s: more than %d directories deep", at, maxDepth)
	}
	entries, err := l.dirents(nid)
	if err != nil {
		return fmt.Errorf("directory /%s: %w", at, err)
	}
	for _, e := range entries {
		if e.name == "." || e.name == ".." {
			continue
		}
		if err := l.entry(e.nid, at+e.name, depth); err != nil {
			return err
		}
	}
	return nil
}

// dirent is an entry of a directory.
type dirent struct {
	name string
	nid  uint64
	kind byte
}

// dirents reads the entries of a directory.
func (l *reader) dirents(nid uint64) (out []dirent, err error) {
	dir, err := l.inode(nid)
	if err != nil {
		return nil, err
	}
	if dir.mode&modeType != modeDir {
		return nil, fmt.Errorf("inode %d is not a directory", nid)
	}
	data, err := l.content(dir)
	if err != nil {
		return nil, err
	}
	for ; len(data) > 0; data = data[min(l.block, int64(len(data))):] {
		block := data[:min(l.block, int64(len(data)))]
		if len(block) < direntSize {
			return nil, errors.New("damaged")
		}
		count := int(le.Uint16(block[8:])) / direntSize
		if count == 0 || count*direntSize > len(block) {
			return nil, errors.New("damaged")
		}
		for n := range count {
			entry := block[n*direntSize:]
			from, to := int(le.Uint16(entry[8:])), len(block)
			if n+1 < count {
				to = int(le.Uint16(entry[direntSize+8:]))
			}
			if from < count*direntSize || from > to || to > len(block) {
				return nil, errors.New("damaged")
			}
			if len(out) == maxEntries {
				return nil, fmt.Errorf("more than %d entries", maxEntries)
			}
			name, _, _ := bytes.Cut(block[from:to], []byte{0})
			out = append(out, dirent{string(name), le.Uint64(entry), entry[10]})
		}
	}
	return out, nil
}

func (l *reader) entry(nid uint64, path string, depth int) error {
	if l.entries--; l.entries < 0 {
		return fmt.Errorf("more than %d files", maxEntries)
	}
	i, err := l.inode(nid)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if err := l.add(i, path); err != nil {
		return err
	}
	if i.mode&modeType == modeDir {
		return l.directory(nid, path+"/", depth+1)
	}
	return nil
}

// add adds what an inode says to the files.
func (l *reader) add(i inode, path string) (err error) {
	f := tree.File{Path: path, Mode: i.mode, UID: i.uid, GID: i.gid, Size: i.size}
	switch f.Type() {
	case tree.Regular, tree.Link:
		f.Open = func() (io.Reader, error) { return l.open(i) }
	case tree.CharDevice, tree.Device:
		f.Device = i.start
	}
	if f.Xattrs, err = l.xattributes(i); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	l.files = append(l.files, f)
	return nil
}
