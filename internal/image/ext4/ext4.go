// Package ext4 writes empty ext4 file systems, the same bytes for the same input,
// and lists the files of others without mounting them. The format is described
// in the kernel's Documentation/filesystems/ext4.
package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

const (
	// MinSize is the size in bytes of the smallest file system that is made: half
	// of it is the journal.
	MinSize = 8 << 20
	// MaxSize is the size in bytes of the largest: it has less than 2^32 blocks.
	MaxSize = 16<<40 - 1<<20

	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // what a bitmap of one block describes
	inodeSize      = 256
	inodesPerBlock = blockSize / inodeSize
	bytesPerInode  = 16384
	descSize       = 32
	superOffset    = 1024
	superSize      = 1024
	magic          = 0xef53

	rootInode    = 2
	journalInode = 8
	lostInode    = 11 // the first that is not reserved
	lostBlocks   = 4

	modeType    = 0xf000
	modeDir     = 0x4000
	modeRegular = 0x8000

	flagExtents = 0x80000
	extentMagic = 0xf30a

	// Features without which a kernel may use the file system, without which it
	// must not, and without which it may only read.
	compatJournal = 0x4
	compat        = compatJournal | 0x8 | 0x20            // has_journal, ext_attr, dir_index
	incompat      = 0x2 | 0x40                            // filetype, extent
	readOnly      = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400 // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum

	groupInodesUnused = 0x1 // neither bitmap nor table are written
	groupBlocksUnused = 0x2
	groupTableZeroed  = 0x4

	journalMagic = 0xc03b3998
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// checksum goes on with a CRC-32C as the kernel computes it, without inversion.
func checksum(crc uint32, data ...[]byte) uint32 {
	for _, d := range data {
		crc = ^crc32.Update(^crc, castagnoli, d)
	}
	return crc
}

func u32(n uint32) []byte { return le.AppendUint32(nil, n) }

// Volume is an empty file system to be written. It has a journal, so it may be
// written to, and the directory lost+found.
type Volume struct {
	UUID [16]byte // also the seed of the hashes of names
	// Time is the time at which it was made, from 1970 to 2038.
	Time time.Time
}

// geometry is how a file system is divided.
type geometry struct {
	blocks         uint64
	groups         uint64
	inodesPerGroup uint64
	tableBlocks    uint64 // of inodes, in each group
	descBlocks     uint64
	journal        uint64 // blocks
}

func geometryFor(size int64) (g geometry, err error) {
	if size < MinSize || size > MaxSize {
		return g, fmt.Errorf("an ext4 file system of %d bytes cannot be made: want %d to %d", size, int64(MinSize), int64(MaxSize))
	}
	g.blocks = uint64(size) / blockSize
	g.inodesPerGroup = min(g.blocks, blocksPerGroup) * blockSize / bytesPerInode
	g.inodesPerGroup = (g.inodesPerGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
	g.tableBlocks = g.inodesPerGroup / inodesPerBlock
	divide := func() {
		g.groups = (g.blocks + blocksPerGroup - 1) / blocksPerGroup
		g.descBlocks = (g.groups*descSize + blockSize - 1) / blockSize
	}
	divide()
	// A rest that holds little beside its own tables is not used.
	if rest := g.blocks % blocksPerGroup; g.groups > 1 && rest > 0 && rest < g.overhead(g.groups-1)+64 {
		g.blocks -= rest
		divide()
	}
	switch {
	case size < 128<<20:
		g.journal = 4 << 20 / blockSize
	case size < 1<<30:
		g.journal = 16 << 20 / blockSize
	default:
		g.journal = 64 << 20 / blockSize
	}
	return g, nil
}

// backup tells whether a group has a copy of the superblock and the descriptors.
func backup(group uint64) bool {
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return group <= 1
}

// overhead is the number of blocks at the start of a group that are not for
// files.
func (g geometry) overhead(group uint64) uint64 {
	n := 2 + g.tableBlocks
	if backup(group) {
		n += 1 + g.descBlocks
	}
	return n
}

// used is the number of blocks in use at the start of a group.
func (g geometry) used(group uint64) uint64 {
	n := g.overhead(group)
	if group == 0 {
		n += 1 + lostBlocks + g.journal
	}
	return n
}

func (g geometry) size(group uint64) uint64 {
	return min(blocksPerGroup, g.blocks-group*blocksPerGroup)
}

// volume is a file system in the making.
type volume struct {
	Volume
	geometry
	seed uint32 // of the checksums
	w    io.WriterAt
	err  error
}

func (v *volume) write(block uint64, offset int64, data []byte) {
	if v.err == nil {
		_, v.err = v.w.WriteAt(data, int64(block)*blockSize+offset)
	}
}

// Write makes a file system of the given size in bytes on w, from offset 0. What
// it does not write must read as zero already.
func (f *Volume) Write(w io.WriterAt, size int64) error {
	g, err := geometryFor(size)
	if err != nil {
		return err
	}
	v := &volume{Volume: *f, geometry: g, seed: checksum(^uint32(0), f.UUID[:]), w: w}
	var free uint64
	descriptors := make([]byte, g.descBlocks*blockSize)
	for n := range g.groups {
		v.group(n, descriptors[n*descSize:][:descSize])
		free += g.size(n) - g.used(n)
	}
	root := g.overhead(0)
	lost, journal := root+1, root+1+lostBlocks
	v.inode(rootInode, modeDir|0o755, 3, extent(root, 1), 1)
	v.inode(lostInode, modeDir|0o700, 2, extent(lost, lostBlocks), lostBlocks)
	journalExtent := extent(journal, uint16(g.journal))
	v.inode(journalInode, modeRegular|0o600, 1, journalExtent, g.journal)
	v.directory(root, rootInode, entry{rootInode, "."}, entry{rootInode, ".."}, entry{lostInode, "lost+found"})
	v.directory(lost, lostInode, entry{lostInode, "."}, entry{rootInode, ".."})
	for n := uint64(1); n < lostBlocks; n++ {
		v.directory(lost+n, lostInode, entry{})
	}
	v.write(journal, 0, v.journalSuperblock())
	for n := range g.groups {
		if backup(n) {
			at := n * blocksPerGroup
			super := v.superblock(n, free, journalExtent)
			if n == 0 {
				v.write(at, superOffset, super)
			} else {
				v.write(at, 0, super)
			}
			v.write(at+1, 0, descriptors)
		}
	}
	return v.err
}

// group writes the bitmaps of a group, where it needs some, and fills in its
// descriptor.
func (v *volume) group(n uint64, desc []byte) {
	first := n * blocksPerGroup
	bitmap := first
	if backup(n) {
		bitmap += 1 + v.descBlocks
	}
	for i := range 3 { // bitmap of blocks, bitmap of inodes, table of inodes
		le.PutUint32(desc[4*i:], uint32(bitmap)+uint32(i))
	}
	flags, inodes, dirs := uint16(groupTableZeroed), uint64(0), uint16(0)
	if n == 0 {
		inodes, dirs = lostInode, 2
		v.bitmap(bitmap+1, lostInode, v.inodesPerGroup, v.inodesPerGroup/8, desc[0x1a:])
	} else {
		flags |= groupInodesUnused
	}
	if n == 0 || n == v.groups-1 {
		v.bitmap(bitmap, v.used(n), v.size(n), blockSize, desc[0x18:])
	} else {
		flags |= groupBlocksUnused
	}
	le.PutUint16(desc[0x0c:], uint16(v.size(n)-v.used(n)))
	le.PutUint16(desc[0x0e:], uint16(v.inodesPerGroup-inodes))
	le.PutUint16(desc[0x10:], dirs)
	le.PutUint16(desc[0x12:], flags)
	le.PutUint16(desc[0x1c:], uint16(v.inodesPerGroup-inodes)) // at the end of the table, never used
	sum := checksum(v.seed, u32(uint32(n)), desc)              // its own field is still zero
	le.PutUint16(desc[0x1e:], uint16(sum))
}

// bitmap writes a block in which the first bits are set, and those from end on,
// which stand for nothing. Its first bytes are covered by the checksum.
func (v *volume) bitmap(block, set, end, bytes uint64, sum []byte) {
	b := make([]byte, blockSize)
	for i := range uint64(8 * blockSize) {
		if i < set || i >= end {
			b[i/8] |= 1 << (i % 8)
		}
	}
	v.write(block, 0, b)
	le.PutUint16(sum, uint16(checksum(v.seed, b[:bytes])))
}

// extent is the part of an inode that says where its blocks are: in one piece.
func extent(block uint64, count uint16) []byte {
	b := make([]byte, 60)
	le.PutUint16(b, extentMagic)
	le.PutUint16(b[2:], 1) // in use
	le.PutUint16(b[4:], 4) // room for
	le.PutUint16(b[16:], count)
	le.PutUint32(b[20:], uint32(block))
	return b
}

func (v *volume) inode(number uint64, mode, links uint16, blocks []byte, count uint64) {
	b := make([]byte, inodeSize)
	le.PutUint16(b, mode)
	le.PutUint32(b[0x04:], uint32(count*blockSize))
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // access, change, modification, creation
		le.PutUint32(b[at:], uint32(v.Time.Unix()))
	}
	le.PutUint16(b[0x1a:], links)
	le.PutUint32(b[0x1c:], uint32(count*blockSize/512))
	le.PutUint32(b[0x20:], flagExtents)
	copy(b[0x28:], blocks)
	le.PutUint16(b[0x80:], 32) // bytes in use beyond the first 128
	sum := v.inodeSum(number, b)
	le.PutUint16(b[0x7c:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
	v.write(v.overhead(0)-v.tableBlocks, int64(number-1)*inodeSize, b)
}

// inodeSum is the checksum of what belongs to an inode of generation 0.
func (v *volume) inodeSum(number uint64, data []byte) uint32 {
	return checksum(v.seed, u32(uint32(number)), u32(0), data)
}

// entry is a directory in a directory; one without a name is unused.
type entry struct {
	inode uint32
	name  string
}

// directory writes a block of a directory. The last of its entries takes what is
// left, but for the 12 bytes of an entry that holds the checksum.
func (v *volume) directory(block, inode uint64, entries ...entry) {
	const tail, typeDir, typeSum = blockSize - 12, 2, 0xde
	b := make([]byte, blockSize)
	at := 0
	for i, e := range entries {
		size := (8 + len(e.name) + 3) / 4 * 4
		if i == len(entries)-1 {
			size = tail - at
		}
		le.PutUint32(b[at:], e.inode)
		le.PutUint16(b[at+4:], uint16(size))
		if e.name != "" {
			b[at+6], b[at+7] = byte(len(e.name)), typeDir
		}
		copy(b[at+8:], e.name)
		at += size
	}
	le.PutUint16(b[tail+4:], 12)
	b[tail+7] = typeSum
	le.PutUint32(b[tail+8:], v.inodeSum(inode, b[:tail]))
	v.write(block, 0, b)
}

// journalSuperblock is the first block of an empty journal.
func (v *volume) journalSuperblock() []byte {
	b := make([]byte, superSize)
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0c:], blockSize)
	be.PutUint32(b[0x10:], uint32(v.journal))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first transaction
	copy(b[0x30:], v.UUID[:])
	be.PutUint32(b[0x40:], 1) // file systems that use it
	return b
}

// superblock is the copy in a group.
func (v *volume) superblock(group, free uint64, journal []byte) []byte {
	b := make([]byte, superSize)
	now := uint32(v.Time.Unix())
	for at, value := range map[int]uint32{
		0x00: uint32(v.groups * v.inodesPerGroup),
		0x04: uint32(v.blocks),
		0x0c: uint32(free),
		0x10: uint32(v.groups*v.inodesPerGroup - lostInode),
		0x18: 2, 0x1c: 2, // blocks and clusters of 1024 << 2 bytes
		0x20: blocksPerGroup, 0x24: blocksPerGroup, 0x28: uint32(v.inodesPerGroup),
		0x30: now, 0x40: now, 0x108: now, // written, checked, made
		0x4c: 1, // revision
		0x54: lostInode,
		0x5c: compat, 0x60: incompat, 0x64: readOnly,
		0xe0:  journalInode,
		0x100: 0x0c, // default mount options: user_xattr and acl
		0x160: 0x01, // hashes of names take bytes as signed
	} {
		le.PutUint32(b[at:], value)
	}
	for at, value := range map[int]uint16{
		0x36: 0xffff, // no check after a number of mounts
		0x38: magic,
		0x3a: 1, 0x3c: 1, // clean; go on after errors
		0x58: inodeSize, 0x5a: uint16(group),
		0x15c: 32, 0x15e: 32, // bytes in use beyond the first 128 of an inode
	} {
		le.PutUint16(b[at:], value)
	}
	copy(b[0x68:], v.UUID[:])
	copy(b[0xec:], v.UUID[:])
	b[0xfc] = 1              // hash of names: half MD4
	b[0xfd] = 1              // the next is a copy of the journal's inode:
	copy(b[0x10c:], journal) // where, and the size
	le.PutUint32(b[0x10c+64:], uint32(v.journal*blockSize))
	b[0x175] = 1 // CRC-32C
	le.PutUint32(b[superSize-4:], checksum(^uint32(0), b[:superSize-4]))
	return b
}
