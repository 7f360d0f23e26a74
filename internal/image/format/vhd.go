package format

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Microsoft's "Virtual Hard Disk Image Format Specification", 1.0. Numbers are
// big endian. A dynamic disk has a copy of the footer at its start, a header
// and a block allocation table; each block begins with a bitmap of its sectors.
const (
	vhdCookie        = "conectix"
	vhdDynamicCookie = "cxsparse"
	vhdDynamicSize   = 1024
	vhdBlock         = 2 * mib
	vhdVersion       = 0x00010000
	vhdNone          = 1<<64 - 1
	vhdUnused        = 1<<32 - 1 // block that is not stored
	vhdFixed         = 2
	vhdDynamic       = 3
	// vhdMax is the size that the dynamic kind may have by the specification.
	vhdMax = 2040 << 30
)

var vhdEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func vhdFooter(size int64, kind uint32, o Options) []byte {
	be := binary.BigEndian
	b := make([]byte, sectorSize)
	copy(b, vhdCookie)
	be.PutUint32(b[8:], 2) // reserved, always set
	be.PutUint32(b[12:], vhdVersion)
	be.PutUint64(b[16:], vhdNone)
	if kind == vhdDynamic {
		be.PutUint64(b[16:], sectorSize)
	}
	be.PutUint32(b[24:], uint32(max(0, o.Time.Unix()-vhdEpoch.Unix())))
	// By the creator, readers decide whether the size or the geometry below is
	// the true one; for Windows it is the size.
	copy(b[28:], "win ")
	be.PutUint32(b[32:], 0x000a0000)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(size))
	be.PutUint64(b[48:], uint64(size))
	cylinders, heads, sectors := vhdGeometry(size / sectorSize)
	be.PutUint16(b[56:], uint16(cylinders))
	b[58], b[59] = byte(heads), byte(sectors)
	be.PutUint32(b[60:], kind)
	id := o.id("vhd disk")
	copy(b[68:], id[:])
	be.PutUint32(b[64:], vhdChecksum(b))
	return b
}

// vhdGeometry is the algorithm in the specification's appendix.
func vhdGeometry(total int64) (cylinders, heads, sectors int64) {
	total = min(total, 65535*16*255)
	if total >= 65535*16*63 {
		return total / 255 / 16, 16, 255
	}
	sectors = 17
	cylinderHeads := total / sectors
	heads = max((cylinderHeads+1023)/1024, 4)
	if cylinderHeads >= heads*1024 || heads > 16 {
		sectors, heads = 31, 16
		cylinderHeads = total / sectors
	}
	if cylinderHeads >= heads*1024 {
		sectors, heads = 63, 16
		cylinderHeads = total / sectors
	}
	return cylinderHeads / heads, heads, sectors
}

// vhdChecksum is the complement of the sum of all bytes; the field itself must
// be zero.
func vhdChecksum(b []byte) uint32 {
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	return ^sum
}

func writeVHD(ctx context.Context, w *os.File, src *Disk, o Options) error {
	// Growing the disk instead would leave the backup partition table behind.
	if src.size%mib != 0 {
		return fmt.Errorf("the disk has %d bytes, Azure takes multiples of 1 MiB only: set the sizes of its partitions so", src.size)
	}
	if err := writeRaw(ctx, w, src, o); err != nil {
		return err
	}
	_, err := w.WriteAt(vhdFooter(src.size, vhdFixed, o), src.size)
	return err
}

func writeVHDDynamic(ctx context.Context, w *os.File, src *Disk, o Options) error {
	if src.size > vhdMax {
		return fmt.Errorf("the disk has %d bytes, the format at most 2040 GiB", src.size)
	}
	be := binary.BigEndian
	entries := (src.size + vhdBlock - 1) / vhdBlock
	header := make([]byte, vhdDynamicSize)
	copy(header, vhdDynamicCookie)
	be.PutUint64(header[8:], vhdNone)
	be.PutUint64(header[16:], sectorSize+vhdDynamicSize)
	be.PutUint32(header[24:], vhdVersion)
	be.PutUint32(header[28:], uint32(entries))
	be.PutUint32(header[32:], vhdBlock)
	be.PutUint32(header[36:], vhdChecksum(header))

	table := make([]byte, (4*entries+sectorSize-1)/sectorSize*sectorSize)
	for i := range table {
		table[i] = 0xff
	}
	bitmap := make([]byte, vhdBlock/sectorSize/8)
	for i := range bitmap {
		bitmap[i] = 0xff
	}
	at := int64(sectorSize + vhdDynamicSize + len(table))
	err := blocks(ctx, src, vhdBlock, func(i int64, data []byte) error {
		be.PutUint32(table[4*i:], uint32(at/sectorSize))
		if _, err := w.WriteAt(bitmap, at); err != nil {
			return err
		}
		at += int64(len(bitmap))
		err := writeSparse(w, data, at)
		at += vhdBlock
		return err
	})
	if err != nil {
		return err
	}
	footer := vhdFooter(src.size, vhdDynamic, o)
	for _, part := range []struct {
		b  []byte
		at int64
	}{{footer, 0}, {header, sectorSize}, {table, sectorSize + vhdDynamicSize}, {footer, at}} {
		if _, err := w.WriteAt(part.b, part.at); err != nil {
			return err
		}
	}
	return nil
}

// openVHD reads the footer. For a fixed disk the source is nil: its bytes are
// the first ones of the file.
func openVHD(f io.ReaderAt, fileSize int64) (kind Kind, size int64, m *mapped, err error) {
	be := binary.BigEndian
	b := make([]byte, sectorSize)
	if fileSize < sectorSize {
		return "", 0, nil, errors.New("the file is too short")
	}
	if n, err := f.ReadAt(b, fileSize-sectorSize); n < len(b) {
		return "", 0, nil, fmt.Errorf("footer: %w", noEOF(err))
	}
	if string(b[:8]) != vhdCookie {
		return "", 0, nil, errors.New("no footer at the end (is the file cut short?)")
	}
	if err := checkVHDSum(b, 64); err != nil {
		return "", 0, nil, fmt.Errorf("footer: %w", err)
	}
	current := be.Uint64(b[48:])
	if current > maxSize {
		return "", 0, nil, fmt.Errorf("a disk of %d bytes: at most 64 TiB can be read", current)
	}
	size = int64(current)
	switch kind := be.Uint32(b[60:]); kind {
	case vhdFixed:
		if size != fileSize-sectorSize {
			return "", 0, nil, fmt.Errorf("a fixed disk of %d bytes in a file of %d", size, fileSize)
		}
		return VHD, size, nil, nil
	case vhdDynamic:
		m, err = openVHDDynamic(f, fileSize, size, be.Uint64(b[16:]))
		return VHDDynamic, size, m, err
	default:
		return "", 0, nil, fmt.Errorf("disk type %d: only fixed and dynamic disks can be read", kind)
	}
}

func checkVHDSum(b []byte, field int) error {
	want := binary.BigEndian.Uint32(b[field:])
	clear(b[field : field+4])
	if got := vhdChecksum(b); got != want {
		return fmt.Errorf("the checksum is %#x, not %#x", got, want)
	}
	return nil
}

func openVHDDynamic(f io.ReaderAt, fileSize, size int64, at uint64) (*mapped, error) {
	be := binary.BigEndian
	h := make([]byte, vhdDynamicSize)
	if at > uint64(fileSize) {
		return nil, errors.New("the dynamic header lies outside the file")
	}
	if n, err := f.ReadAt(h, int64(at)); n < len(h) {
		return nil, fmt.Errorf("dynamic header: %w", noEOF(err))
	}
	if string(h[:8]) != vhdDynamicCookie {
		return nil, errors.New("no dynamic header")
	}
	if err := checkVHDSum(h, 36); err != nil {
		return nil, fmt.Errorf("dynamic header: %w", err)
	}
	offset, entries, block := be.Uint64(h[16:]), int64(be.Uint32(h[28:])), int64(be.Uint32(h[32:]))
	if block < sectorSize || block > 256*mib || block&(block-1) != 0 {
		return nil, fmt.Errorf("blocks of %d bytes", block)
	}
	need := (size + block - 1) / block
	if entries < need || offset > uint64(fileSize) || 4*need > fileSize-int64(offset) {
		return nil, errors.New("the block allocation table is too short for the disk or lies outside the file")
	}
	entries = need
	table := make([]byte, 4*entries)
	if n, err := f.ReadAt(table, int64(offset)); n < len(table) {
		return nil, fmt.Errorf("block allocation table: %w", noEOF(err))
	}
	bitmap := (block/sectorSize/8 + sectorSize - 1) / sectorSize * sectorSize
	return &mapped{size: size, block: block, file: f, find: func(i int64) (place, error) {
		e := be.Uint32(table[4*i:])
		if e == vhdUnused {
			return place{run: 1}, nil
		}
		// What the bitmap leaves out of a dynamic disk's block is zero.
		return place{state: plain, off: int64(e)*sectorSize + bitmap}, nil
	}}, nil
}
