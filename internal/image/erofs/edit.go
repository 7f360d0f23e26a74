package erofs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
)

// Change is what becomes of one file of a file system.
type Change struct {
	Path string // from the root, without a slash before it
	// Content is what the file holds afterwards; nil removes it.
	Content *io.SectionReader
	// Executable gives a file that was not there the mode 0755, else 0644. One
	// that was there keeps its own.
	Executable bool
}

// Image is a file with a file system.
type Image interface {
	io.ReaderAt
	io.WriterAt
}

// Edited is what Edit made.
type Edited struct {
	Size int64 // bytes; what may lie behind them in the file is none of it
	UUID [16]byte
}

const (
	// BlockSize is the only size of blocks that Edit handles, in bytes.
	BlockSize = 4096

	// Offsets in the superblock.
	superChecksum = 4
	superCompat   = 8
	superInodes   = 16
	superBlocks   = 36
	superUUID     = 48
	superDevices  = 86
	superDirBits  = 90

	compatChecksum = 1
	// With these features, blocks of a file may be shared with others or lie
	// elsewhere.
	incompatShared = 0x04 | 0x10 | 0x20

	compressedFull    = 1
	compressedCompact = 3
	adviseCompacted2B = 1
	adviseBigClusters = 2 | 4

	modeLink   = 0xa000
	modeDevice = 0x2000
	modeBlock  = 0x6000

	kindRegular = 1
	kindDir     = 2
	maxName     = 255
)

// Edit replaces, adds and removes regular files of a file system. It keeps owner,
// mode and extended attributes of what it replaces, and everything else as it
// lies: nothing is unpacked or compressed again, so the result depends on the
// image and the changes alone. A new file belongs to root and has the extended
// attributes of its folder, among which a security label is; folders on the way
// to it are made. New content is stored uncompressed behind what is there, and
// that which nothing refers to any more is overwritten with zeros, unless the file
// system was made to share blocks among files. The file system's UUID is made from
// its content.
//
// Symbolic links are not followed: a path that leads through one is an error, and
// so is one that names anything but a regular file; links, but not folders, can be
// removed. After an error the image is of no use.
func Edit(image Image, changes []Change) (Edited, error) {
	l, super, err := newReader(image)
	if err != nil {
		return Edited{}, err
	}
	e := &editor{reader: l, w: image, super: super, inodes: map[uint64][]byte{}, dirs: map[uint64][]dirent{}, changed: map[uint64]bool{}}
	e.end = int64(le.Uint32(super[superBlocks:])) * l.block
	switch {
	case l.block != BlockSize:
		return Edited{}, fmt.Errorf("EROFS with blocks of %d bytes: only %d are handled", l.block, BlockSize)
	case super[superDirBits] != 0 || le.Uint16(super[superDevices:]) != 0:
		return Edited{}, errors.New("EROFS on several devices, or with folders in larger blocks, is not handled")
	case e.end <= superOffset+superSize:
		return Edited{}, errors.New("EROFS superblock: no blocks")
	}
	e.next = e.end
	changes = slices.SortedFunc(slices.Values(changes), func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	for i, c := range changes {
		if i > 0 && changes[i-1].Path == c.Path {
			err = errors.New("it is named twice")
		} else {
			err = e.change(c)
		}
		if err != nil {
			return Edited{}, fmt.Errorf("/%s: %w", c.Path, err)
		}
	}
	size, err := e.write()
	return Edited{size, [16]byte(e.super[superUUID:])}, err
}

type editor struct {
	*reader
	w     io.WriterAt
	super []byte
	end   int64 // of what was there
	next  int64 // free place for an inode

	inodes  map[uint64][]byte   // with extended attributes: those that were looked at, and new ones
	dirs    map[uint64][]dirent // those that were looked at, and new ones
	changed map[uint64]bool     // of them
	files   []newFile
	dead    []uint64
}

type newFile struct {
	nid     uint64
	content *io.SectionReader
}

func (e *editor) change(c Change) error {
	if !fs.ValidPath(c.Path) || c.Path == "." || strings.ContainsRune(c.Path, 0) {
		return errors.New("not a path of a file below the root")
	}
	if c.Content != nil && c.Content.Size() > math.MaxUint32 {
		return fmt.Errorf("its content has %d bytes, at most %d are handled", c.Content.Size(), uint32(math.MaxUint32))
	}
	dir, name := path.Split(c.Path)
	parent := rootInode(e.super)
	for at, rest := "", strings.TrimSuffix(dir, "/"); rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		at += "/" + part
		entry, err := e.lookup(parent, part)
		if errors.Is(err, fs.ErrNotExist) && c.Content != nil {
			parent, err = e.makeDir(parent, part)
		} else if err == nil {
			parent, err = entry.nid, e.want(entry, modeDir, "a directory")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	entry, err := e.lookup(parent, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.Content != nil:
		mode := uint16(modeRegular | 0o644)
		if c.Executable {
			mode |= 0o111
		}
		nid, err := e.create(parent, mode)
		if err != nil {
			return err
		}
		e.files = append(e.files, newFile{nid, c.Content})
		e.link(parent, dirent{name, nid, kindRegular})
		return nil
	case err != nil:
		return err
	case c.Content == nil:
		if e.want(entry, modeDir, "") == nil {
			return errors.New("is a directory; only files can be removed")
		}
		e.link(parent, dirent{name: name})
		return e.unlink(entry.nid)
	}
	if err := e.want(entry, modeRegular, "a regular file"); err != nil {
		return err
	}
	raw, err := e.inodeBytes(entry.nid)
	if err != nil {
		return err
	}
	raw = bytes.Clone(raw)
	setLinks(raw, 1)
	nid := e.place(raw)
	e.files = append(e.files, newFile{nid, c.Content})
	e.link(parent, dirent{name, nid, kindRegular})
	return e.unlink(entry.nid)
}

// want checks the type of what an entry leads to.
func (e *editor) want(d dirent, kind uint16, what string) error {
	raw, err := e.inodeBytes(d.nid)
	if err != nil {
		return err
	}
	if got := le.Uint16(raw[4:]) & modeType; got == kind {
		return nil
	} else if got == modeLink {
		if i, err := e.inode(d.nid); err == nil {
			if to, err := e.content(i); err == nil {
				return fmt.Errorf("is a symbolic link to %q, not %s: name what it leads to", to, what)
			}
		}
	}
	return fmt.Errorf("is not %s", what)
}

// lookup also loads the directory.
func (e *editor) lookup(dir uint64, name string) (dirent, error) {
	if len(name) > maxName {
		return dirent{}, fmt.Errorf("a name has %d bytes, at most %d are possible", len(name), maxName)
	}
	if _, ok := e.dirs[dir]; !ok {
		entries, err := e.dirents(dir)
		if err != nil {
			return dirent{}, err
		}
		e.dirs[dir] = entries
	}
	for _, d := range e.dirs[dir] {
		if d.name == name {
			return d, nil
		}
	}
	return dirent{}, fs.ErrNotExist
}

// inodeBytes is an inode with its extended attributes; what is written into it
// comes to lie in the image.
func (e *editor) inodeBytes(nid uint64) ([]byte, error) {
	if raw, ok := e.inodes[nid]; ok {
		return raw, nil
	}
	i, err := e.inode(nid)
	if err != nil {
		return nil, err
	}
	at := e.meta + int64(nid)*slotSize
	if i.end > e.end {
		return nil, fmt.Errorf("inode %d lies outside the file system", nid)
	}
	raw := make([]byte, i.end-at)
	if _, err := e.r.ReadAt(raw, at); err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	e.inodes[nid] = raw
	return raw, nil
}

func extended(raw []byte) bool { return raw[0]&1 != 0 }

func headSize(raw []byte) int {
	if extended(raw) {
		return 2 * slotSize
	}
	return slotSize
}

func links(raw []byte) uint32 {
	if extended(raw) {
		return le.Uint32(raw[44:])
	}
	return uint32(le.Uint16(raw[6:]))
}

func setLinks(raw []byte, n uint32) {
	if extended(raw) {
		le.PutUint32(raw[44:], n)
	} else {
		le.PutUint16(raw[6:], uint16(n))
	}
}

// setPlain makes an inode one whose content lies uncompressed at a block.
func setPlain(raw []byte, size int64, block uint32) {
	le.PutUint16(raw, le.Uint16(raw)&^0xe|flatPlain<<1)
	if extended(raw) {
		le.PutUint64(raw[8:], uint64(size))
	} else {
		le.PutUint32(raw[8:], uint32(size))
	}
	le.PutUint32(raw[16:], block)
}

// create makes the inode of a new file of root, with the extended attributes of
// its parent.
func (e *editor) create(parent uint64, mode uint16) (uint64, error) {
	from, err := e.inodeBytes(parent)
	if err != nil {
		return 0, err
	}
	raw := append(make([]byte, slotSize), from[headSize(from):]...)
	copy(raw[2:4], from[2:4]) // length of the attributes
	le.PutUint16(raw[4:], mode)
	setLinks(raw, 1)
	return e.place(raw), nil
}

// place gives an inode its number.
func (e *editor) place(raw []byte) uint64 {
	if left := BlockSize - e.next%BlockSize; left < int64(headSize(raw)) {
		e.next += left
	}
	nid := uint64(e.next-e.meta) / slotSize
	e.next += (int64(len(raw)) + slotSize - 1) / slotSize * slotSize
	count := le.Uint64(e.super[superInodes:]) + 1
	le.PutUint64(e.super[superInodes:], count)
	le.PutUint32(raw[20:], uint32(nid)) // what 32-bit programs see
	e.inodes[nid] = raw
	return nid
}

func (e *editor) makeDir(parent uint64, name string) (uint64, error) {
	nid, err := e.create(parent, modeDir|0o755)
	if err != nil {
		return 0, err
	}
	setLinks(e.inodes[nid], 2)
	above, err := e.inodeBytes(parent)
	if err != nil {
		return 0, err
	}
	if n := links(above); n < math.MaxUint16 {
		setLinks(above, n+1)
	}
	e.dirs[nid] = []dirent{{".", nid, kindDir}, {"..", parent, kindDir}}
	e.link(parent, dirent{name, nid, kindDir})
	return nid, nil
}

// link puts an entry into a directory in place of what has its name; one without
// an inode only removes that.
func (e *editor) link(parent uint64, d dirent) {
	e.changed[parent] = true
	e.dirs[parent] = slices.DeleteFunc(e.dirs[parent], func(old dirent) bool { return old.name == d.name })
	if d.kind != 0 {
		e.dirs[parent] = append(e.dirs[parent], d)
	}
}

func (e *editor) unlink(nid uint64) error {
	raw, err := e.inodeBytes(nid)
	if err != nil {
		return err
	}
	if n := links(raw); n > 1 {
		setLinks(raw, n-1)
		return nil
	}
	le.PutUint64(e.super[superInodes:], le.Uint64(e.super[superInodes:])-1)
	e.dead = append(e.dead, nid)
	return nil
}

func (e *editor) write() (size int64, err error) {
	for _, nid := range e.dead {
		if err := e.blank(nid); err != nil {
			return 0, err
		}
	}
	at := (e.next + BlockSize - 1) / BlockSize * BlockSize
	if _, err := e.w.WriteAt(make([]byte, at-e.end), e.end); err != nil { // what the inodes leave free
		return 0, err
	}
	put := func(nid uint64, r *io.SectionReader) error {
		blocks := (r.Size() + BlockSize - 1) / BlockSize
		if at/BlockSize+blocks > math.MaxUint32 {
			return errors.New("the file system would have more than 2^32 blocks")
		}
		block := uint32(at / BlockSize)
		if r.Size() == 0 {
			block = 0
		}
		raw, err := e.inodeBytes(nid)
		if err != nil {
			return err
		}
		setPlain(raw, r.Size(), block)
		n, err := io.Copy(io.NewOffsetWriter(e.w, at), io.NewSectionReader(r, 0, r.Size()))
		if err == nil && n != r.Size() {
			err = io.ErrUnexpectedEOF
		}
		if err == nil && n%BlockSize != 0 {
			_, err = e.w.WriteAt(make([]byte, BlockSize-n%BlockSize), at+n)
		}
		at += blocks * BlockSize
		return err
	}
	for _, nid := range slices.Sorted(maps.Keys(e.changed)) {
		data := encodeDir(e.dirs[nid])
		if err := put(nid, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))); err != nil {
			return 0, err
		}
	}
	for _, f := range e.files {
		if err := put(f.nid, f.content); err != nil {
			return 0, err
		}
	}
	for nid, raw := range e.inodes {
		if _, err := e.w.WriteAt(raw, e.meta+int64(nid)*slotSize); err != nil {
			return 0, err
		}
	}
	le.PutUint32(e.super[superBlocks:], uint32(at/BlockSize))
	return at, e.seal(at)
}

// blank overwrites the content of a file that is no longer there.
func (e *editor) blank(nid uint64) error {
	if le.Uint32(e.super[superIncompat:])&incompatShared != 0 {
		return nil
	}
	i, err := e.inode(nid)
	if err != nil {
		return err
	}
	blocks, tail := int64(0), int64(0)
	start := int64(i.start)
	switch i.layout {
	case flatPlain:
		blocks = (i.size + BlockSize - 1) / BlockSize
	case flatInline:
		blocks, tail = i.size/BlockSize, i.size%BlockSize
	case compressedFull, compressedCompact:
		blocks = int64(i.start) // their number
		if start, err = e.firstCluster(i); err != nil {
			return err
		}
	}
	if i.mode&modeType == modeDevice || i.mode&modeType == modeBlock || blocks == 0 && tail == 0 {
		return nil
	}
	if blocks > 0 && (start <= 0 || (start+blocks)*BlockSize > e.end) || i.end+tail > e.end {
		return fmt.Errorf("inode %d: its content lies outside the file system", nid)
	}
	zero := make([]byte, BlockSize)
	for b := range blocks {
		if _, err := e.w.WriteAt(zero, (start+b)*BlockSize); err != nil {
			return err
		}
	}
	_, err = e.w.WriteAt(zero[:tail], i.end)
	return err
}

// firstCluster finds the first block of a compressed file, whose blocks follow
// each other, from the index behind its inode.
func (l *reader) firstCluster(i inode) (int64, error) {
	head := (i.end + 7) &^ 7
	b := make([]byte, 8+72) // header, and the first packs of a compact index
	if n, err := l.r.ReadAt(b, head); n < 24 {
		return 0, fmt.Errorf("index of a compressed file: %w", err)
	}
	advise := le.Uint16(b[4:])
	if i.layout == compressedFull {
		return int64(le.Uint32(b[8+8+4:])), nil
	}
	entries := (i.size + BlockSize - 1) >> (12 + b[7]&7)
	first := head + 8
	before := (32 - first%32) / 4 % 8 // entries of 4 bytes up to where those of 2 bytes begin
	pack := int64(8)
	if before == 0 && advise&adviseCompacted2B != 0 && entries >= 16 {
		pack = 32
	}
	block := int64(le.Uint32(b[8+pack-4:]))
	if advise&adviseBigClusters == 0 {
		block++ // the pack holds the one before
	}
	return block, nil
}

// seal writes the superblock, with the UUID and the checksum of what there is.
func (e *editor) seal(size int64) error {
	clear(e.super[superUUID : superUUID+16])
	clear(e.super[superChecksum : superChecksum+4])
	if _, err := e.w.WriteAt(e.super, superOffset); err != nil {
		return err
	}
	sum := sha256.New()
	sum.Write([]byte("slipway erofs\x00"))
	if n, err := io.Copy(sum, io.NewSectionReader(e.r, 0, size)); err != nil {
		return err
	} else if n != size {
		return io.ErrUnexpectedEOF
	}
	uuid := sum.Sum(nil)[:16]
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // RFC 9562, version 8
	copy(e.super[superUUID:], uuid)
	if _, err := e.w.WriteAt(e.super, superOffset); err != nil {
		return err
	}
	if le.Uint32(e.super[superCompat:])&compatChecksum == 0 {
		return nil
	}
	// that of the rest of the first block, without the last inversion
	block := make([]byte, BlockSize-superOffset)
	if _, err := e.r.ReadAt(block, superOffset); err != nil {
		return err
	}
	le.PutUint32(e.super[superChecksum:], ^crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)))
	_, err := e.w.WriteAt(e.super, superOffset)
	return err
}

// encodeDir gives the blocks of a directory: in each, entries and then their names.
func encodeDir(entries []dirent) (out []byte) {
	entries = slices.SortedFunc(slices.Values(entries), func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && size+direntSize+len(entries[n].name) <= BlockSize {
			size += direntSize + len(entries[n].name)
			n++
		}
		out = append(out, make([]byte, -len(out)&(BlockSize-1))...) // fill the block before
		var names []byte
		for _, d := range entries[:n] {
			out = le.AppendUint64(out, d.nid)
			out = le.AppendUint16(out, uint16(n*direntSize+len(names)))
			out = append(out, d.kind, 0)
			names = append(names, d.name...)
		}
		out = append(out, names...)
		entries = entries[n:]
	}
	return out
}
