package format

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// VMware's format, after its technical note "Virtual Disk Format 5.0". Sizes
// and offsets are in sectors, numbers little endian. A grain directory refers
// to grain tables, these to grains.
const (
	vmdkMagic         = "KDMV"
	vmdkGrain         = 128 // sectors
	vmdkPerTable      = 512
	vmdkTableSectors  = vmdkPerTable * 4 / sectorSize
	vmdkDescriptorMax = 20
	vmdkOverhead      = 128
	vmdkAtEnd         = 1<<64 - 1 // the directory's offset is in the footer

	vmdkFlagNewlines   = 1 << 0
	vmdkFlagZeroGrains = 1 << 2
	vmdkFlagCompressed = 1 << 16
	vmdkFlagMarkers    = 1 << 17

	// Types of markers.
	vmdkEnd       = 0
	vmdkTable     = 1
	vmdkDirectory = 2
	vmdkFooter    = 3
)

type vmdkHeader struct {
	Magic                                       [4]byte
	Version, Flags                              uint32
	Capacity, Grain                             uint64
	DescriptorOffset, DescriptorSize            uint64
	PerTable                                    uint32
	RedundantDirectory, Directory, Overhead     uint64
	Unclean                                     uint8
	LineEnd, NotLineEnd, DoubleEnd1, DoubleEnd2 byte
	Compression                                 uint16
	_                                           [433]byte
}

// writeVMDK makes a stream-optimized extent: header, descriptor, compressed
// grains, each table behind its grains, directory, footer.
func writeVMDK(ctx context.Context, w *os.File, src *Disk, o Options) error {
	capacity := src.size / sectorSize
	h := vmdkHeader{
		Version: 3, Flags: vmdkFlagNewlines | vmdkFlagCompressed | vmdkFlagMarkers,
		Capacity: uint64(capacity), Grain: vmdkGrain,
		DescriptorOffset: 1, DescriptorSize: vmdkDescriptorMax, PerTable: vmdkPerTable,
		Directory: vmdkAtEnd, Overhead: vmdkOverhead,
		// If a transfer as text changes line ends, this shows it.
		LineEnd: '\n', NotLineEnd: ' ', DoubleEnd1: '\r', DoubleEnd2: '\n',
		Compression: 1,
	}
	copy(h.Magic[:], vmdkMagic)
	out := &sectorWriter{w: bufio.NewWriterSize(w, mib)}
	out.structure(h)
	out.write([]byte(vmdkDescriptor(capacity, o)))
	if out.sectors > 1+vmdkDescriptorMax {
		return errors.New("the descriptor is too long") // of names of some thousand bytes
	}
	out.write(make([]byte, (vmdkOverhead-out.sectors)*sectorSize))

	tableCount := (capacity + vmdkGrain*vmdkPerTable - 1) / (vmdkGrain * vmdkPerTable)
	directory := make([]byte, 4*tableCount)
	table, current := make([]byte, 4*vmdkPerTable), int64(-1)
	flush := func() {
		if current >= 0 {
			out.marker(vmdkTableSectors, vmdkTable)
			binary.LittleEndian.PutUint32(directory[4*current:], uint32(out.sectors))
			out.write(table)
			clear(table)
		}
	}
	writers := make([]*zlib.Writer, runtime.GOMAXPROCS(0))
	err := packedBlocks(ctx, src, vmdkGrain*sectorSize,
		func(worker int, dst, data []byte) ([]byte, error) {
			buf := bytes.NewBuffer(append(dst, make([]byte, 12)...)) // room for the marker
			if writers[worker] == nil {
				writers[worker] = zlib.NewWriter(buf)
			} else {
				writers[worker].Reset(buf)
			}
			_, err := writers[worker].Write(data)
			err = errors.Join(err, writers[worker].Close())
			return buf.Bytes(), err
		},
		func(i int64, packed []byte) error {
			if t := i / vmdkPerTable; t != current {
				flush()
				current = t
			}
			binary.LittleEndian.PutUint64(packed, uint64(i*vmdkGrain))
			binary.LittleEndian.PutUint32(packed[8:], uint32(len(packed)-12))
			binary.LittleEndian.PutUint32(table[4*(i%vmdkPerTable):], uint32(out.sectors))
			out.write(packed)
			if out.sectors > 1<<32-1 {
				return errors.New("more than 2 TiB of compressed data")
			}
			return out.err
		})
	if err != nil {
		return err
	}
	flush()
	out.marker((int64(len(directory))+sectorSize-1)/sectorSize, vmdkDirectory)
	h.Directory = uint64(out.sectors)
	out.write(directory)
	out.marker(1, vmdkFooter)
	out.structure(h)
	out.marker(0, vmdkEnd)
	return errors.Join(out.err, out.w.Flush())
}

func vmdkDescriptor(capacity int64, o Options) string {
	// The content ID names a state of the disk; all ones is none. The long one
	// ends in the short one.
	long := o.id("vmdk content")
	long[12] &= 0x7f
	const heads, sectors = 255, 63
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=%x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY %d SPARSE "%s.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.longContentID = "%x"
ddb.virtualHWVersion = "%d"
`, long[12:], capacity, o.stem(), (capacity+heads*sectors-1)/(heads*sectors), heads, sectors, long[:], hardwareVersion)
}

// sectorWriter fills each write up to whole sectors, and keeps its first error.
type sectorWriter struct {
	w       *bufio.Writer
	sectors int64
	err     error
}

func (s *sectorWriter) write(b []byte) {
	for _, b := range [][]byte{b, make([]byte, -len(b)&(sectorSize-1))} {
		if _, err := s.w.Write(b); s.err == nil {
			s.err = err
		}
	}
	s.sectors += int64(len(b)+sectorSize-1) / sectorSize
}

func (s *sectorWriter) structure(v any) {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if s.err == nil {
		s.err = err
	}
	s.write(b)
}

// marker announces a table of some sectors.
func (s *sectorWriter) marker(sectors int64, kind uint32) {
	s.structure(struct {
		Sectors       uint64
		Compressed, T uint32
	}{uint64(sectors), 0, kind})
}

// openVMDK reads the header, or the footer, and the grain directory of a sparse
// extent, compressed or not.
func openVMDK(f io.ReaderAt, fileSize int64) (*mapped, error) {
	le := binary.LittleEndian
	h, err := readVMDKHeader(f, 0)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if h.Directory == vmdkAtEnd {
		// The last three sectors are the footer's marker, the footer and the
		// end marker.
		if h, err = readVMDKHeader(f, fileSize-2*sectorSize); err != nil {
			return nil, fmt.Errorf("footer: %w (is the file cut short?)", err)
		}
	}
	compressed := h.Flags&vmdkFlagCompressed != 0
	switch {
	case h.Version < 1 || h.Version > 3:
		return nil, fmt.Errorf("version %d: only 1 to 3 can be read", h.Version)
	case compressed && h.Compression != 1:
		return nil, fmt.Errorf("compression %d: only deflate can be read", h.Compression)
	case compressed && h.Flags&vmdkFlagMarkers == 0:
		return nil, errors.New("compressed grains without markers")
	case h.LineEnd != '\n' || h.NotLineEnd != ' ' || h.DoubleEnd1 != '\r' || h.DoubleEnd2 != '\n':
		return nil, errors.New("line ends have been changed; copy the file as binary")
	case h.Capacity > maxSize/sectorSize:
		return nil, fmt.Errorf("a disk of %d sectors: at most 64 TiB can be read", h.Capacity)
	case h.Grain < 8 || h.Grain > 32768 || h.Grain&(h.Grain-1) != 0:
		return nil, fmt.Errorf("grains of %d sectors", h.Grain)
	case h.PerTable < 1 || h.PerTable > 65536:
		return nil, fmt.Errorf("%d grains in a table", h.PerTable)
	}
	if err := checkVMDKDescriptor(f, h, fileSize); err != nil {
		return nil, err
	}
	m := &mapped{size: int64(h.Capacity) * sectorSize, block: int64(h.Grain) * sectorSize, file: f}
	perTable := int64(h.PerTable)
	directoryLen := 4 * ((m.size + m.block*perTable - 1) / (m.block * perTable))
	if h.Directory > uint64(fileSize)/sectorSize || directoryLen > fileSize-int64(h.Directory)*sectorSize {
		return nil, errors.New("the grain directory lies outside the file")
	}
	directory := make([]byte, directoryLen)
	if n, err := f.ReadAt(directory, int64(h.Directory)*sectorSize); n < len(directory) {
		return nil, fmt.Errorf("grain directory: %w", noEOF(err))
	}
	grainTables := tables{file: f, size: 4 * perTable}
	m.find = func(i int64) (place, error) {
		at := int64(le.Uint32(directory[4*(i/perTable):])) * sectorSize
		if at == 0 {
			return place{run: perTable - i%perTable}, nil
		}
		table, err := grainTables.at(at)
		if err != nil {
			return place{}, err
		}
		e := int64(le.Uint32(table[4*(i%perTable):]))
		switch {
		case e == 0 || e == 1 && h.Flags&vmdkFlagZeroGrains != 0:
			return place{run: 1}, nil
		case compressed:
			return place{state: packed, off: e * sectorSize}, nil
		}
		return place{state: plain, off: e * sectorSize}, nil
	}
	var in []byte
	m.unpack = func(dst []byte, p place, grain int64) error {
		var mark [12]byte
		if n, err := f.ReadAt(mark[:], p.off); n < len(mark) {
			return err
		}
		if first := le.Uint64(mark[:]); first != uint64(grain)*h.Grain {
			return fmt.Errorf("its marker says sector %d", first)
		}
		// Deflate adds few bytes to what it cannot make smaller.
		size := int64(le.Uint32(mark[8:]))
		if size > 2*m.block {
			return fmt.Errorf("it has %d bytes", size)
		}
		in = append(in[:0], make([]byte, size)...)
		if n, err := f.ReadAt(in, p.off+int64(len(mark))); n < len(in) {
			return err
		}
		r, err := zlib.NewReader(bytes.NewReader(in))
		if err != nil {
			return err
		}
		// Reading to the end checks the checksum; the last grain may be short.
		n, err := io.ReadFull(r, dst)
		if errors.Is(err, io.ErrUnexpectedEOF) && (grain+1)*m.block > m.size && grain*m.block+int64(n) >= m.size {
			clear(dst[n:])
			return nil
		}
		if err != nil {
			return err
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			return errors.Join(errors.New("it is longer than a grain or damaged"), err)
		}
		return nil
	}
	return m, nil
}

func readVMDKHeader(f io.ReaderAt, off int64) (h vmdkHeader, err error) {
	b := make([]byte, sectorSize)
	if off < 0 {
		return h, io.ErrUnexpectedEOF
	}
	if n, err := f.ReadAt(b, off); n < len(b) {
		return h, noEOF(err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return h, err
	}
	if string(h.Magic[:]) != vmdkMagic {
		return h, errors.New("no VMDK sparse extent")
	}
	return h, nil
}

// checkVMDKDescriptor refuses disks that are more than this one extent.
func checkVMDKDescriptor(f io.ReaderAt, h vmdkHeader, fileSize int64) error {
	if h.DescriptorOffset == 0 {
		return errors.New("it has no descriptor, and is only a part of a disk")
	}
	if h.DescriptorOffset > uint64(fileSize)/sectorSize || h.DescriptorSize > 2048 {
		return errors.New("the descriptor lies outside the file or has more than 1 MiB")
	}
	b := make([]byte, h.DescriptorSize*sectorSize)
	if n, err := f.ReadAt(b, int64(h.DescriptorOffset)*sectorSize); n < len(b) {
		return fmt.Errorf("descriptor: %w", noEOF(err))
	}
	text, _, _ := strings.Cut(string(b), "\x00")
	extents := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key, value = strings.TrimSpace(key), strings.Trim(value, ` "`); {
		case key == "parentCID" && !strings.EqualFold(value, "ffffffff"):
			return errors.New("it is a snapshot; the disk it is based on is needed too")
		case key == "createType" && value != "streamOptimized" && value != "monolithicSparse":
			return fmt.Errorf("type %q: only streamOptimized and monolithicSparse can be read", value)
		}
		if access, _, _ := strings.Cut(line, " "); access == "RW" || access == "RDONLY" || access == "NOACCESS" {
			extents++
		}
	}
	if extents != 1 {
		return fmt.Errorf("it has %d extents, only disks in one file can be read", extents)
	}
	return nil
}
