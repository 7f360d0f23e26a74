package format

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// QEMU's format, as docs/interop/qcow2 in its documentation describes it:
// everything is stored in clusters, and numbers are big endian. A level 1 table
// refers to level 2 tables, these to clusters of data, and a table of refcount
// blocks counts the uses of each cluster.
const (
	qcow2Magic       = "QFI\xfb"
	qcow2HeaderSize  = 112
	qcow2ClusterBits = 16
	qcow2Cluster     = 1 << qcow2ClusterBits
	qcow2PerTable    = qcow2Cluster / 8 // entries of a level 2 table
	qcow2PerRefcount = qcow2Cluster / 2 // 16-bit entries of a refcount block

	qcow2Copied     = 1 << 63 // the refcount is exactly one
	qcow2Compressed = 1 << 62
	qcow2Zero       = 1 << 0
	qcow2Offset     = 0x00fffffffffffe00

	// Incompatible features.
	qcow2Dirty           = 1 << 0 // refcounts may be wrong, which only writers care about
	qcow2CompressionType = 1 << 3
)

// writeQCOW2 writes the clusters in the order of the disk, each level 2 table
// behind its clusters, then the refcounts, and at last the level 1 table and
// the header, for which there is room at the start.
func writeQCOW2(ctx context.Context, w *os.File, src *Disk, _ Options) error {
	be := binary.BigEndian
	clusters := (src.size + qcow2Cluster - 1) / qcow2Cluster
	l1 := make([]byte, 8*((clusters+qcow2PerTable-1)/qcow2PerTable))
	next := 1 + (int64(len(l1))+qcow2Cluster-1)/qcow2Cluster // free cluster
	add := func(b []byte) (entry uint64, err error) {
		_, err = w.WriteAt(b, next*qcow2Cluster)
		entry = uint64(next*qcow2Cluster) | qcow2Copied
		next++
		return entry, err
	}
	l2, current := make([]byte, qcow2Cluster), int64(-1)
	flush := func() error {
		if current < 0 {
			return nil
		}
		entry, err := add(l2)
		be.PutUint64(l1[8*current:], entry)
		clear(l2)
		return err
	}
	err := blocks(ctx, src, qcow2Cluster, func(i int64, data []byte) error {
		if table := i / qcow2PerTable; table != current {
			if err := flush(); err != nil {
				return err
			}
			current = table
		}
		entry, err := add(data)
		be.PutUint64(l2[8*(i%qcow2PerTable):], entry)
		return err
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}

	// The refcount blocks count themselves and their table too.
	var counts, tableClusters int64
	for next+counts+tableClusters > counts*qcow2PerRefcount {
		counts++
		tableClusters = (8*counts + qcow2Cluster - 1) / qcow2Cluster
	}
	used := next + counts + tableClusters
	table := make([]byte, tableClusters*qcow2Cluster)
	for i := range counts {
		b := make([]byte, qcow2Cluster)
		for k := int64(0); k < qcow2PerRefcount && i*qcow2PerRefcount+k < used; k++ {
			be.PutUint16(b[2*k:], 1)
		}
		entry, err := add(b)
		if err != nil {
			return err
		}
		be.PutUint64(table[8*i:], entry&^qcow2Copied)
	}
	tableOffset := next * qcow2Cluster
	if _, err := w.WriteAt(table, tableOffset); err != nil {
		return err
	}
	if _, err := w.WriteAt(l1, qcow2Cluster); err != nil {
		return err
	}
	h := make([]byte, qcow2HeaderSize+8) // with the mark that ends header extensions
	copy(h, qcow2Magic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], qcow2ClusterBits)
	be.PutUint64(h[24:], uint64(src.size))
	be.PutUint32(h[36:], uint32(len(l1)/8))
	be.PutUint64(h[40:], qcow2Cluster)
	be.PutUint64(h[48:], uint64(tableOffset))
	be.PutUint32(h[56:], uint32(tableClusters))
	be.PutUint32(h[96:], 4) // 1<<4 bits in a refcount
	be.PutUint32(h[100:], qcow2HeaderSize)
	_, err = w.WriteAt(h, 0)
	return err
}

// openQCOW2 reads the header and the level 1 table. Compressed clusters of
// either type are read too.
func openQCOW2(f io.ReaderAt, fileSize int64) (*mapped, error) {
	be := binary.BigEndian
	h := make([]byte, qcow2HeaderSize)
	if n, err := f.ReadAt(h, 0); n < 72 {
		return nil, fmt.Errorf("header: %w", noEOF(err))
	}
	version := be.Uint32(h[4:])
	var features, kind uint64
	switch version {
	case 2:
	case 3:
		features = be.Uint64(h[72:])
		if be.Uint32(h[100:]) > 104 {
			kind = uint64(h[104])
		}
	default:
		return nil, fmt.Errorf("version %d: only 2 and 3 can be read", version)
	}
	bits, size, l1Offset := be.Uint32(h[20:]), be.Uint64(h[24:]), be.Uint64(h[40:])
	switch {
	case be.Uint64(h[8:]) != 0:
		return nil, errors.New("it has a backing file; `qemu-img convert` makes one whole image of both")
	case be.Uint32(h[32:]) != 0:
		return nil, errors.New("it is encrypted")
	case features&^(qcow2Dirty|qcow2CompressionType) != 0:
		return nil, fmt.Errorf("incompatible features %#x: it is marked corrupt, has an external data file or extended tables", features)
	case kind > 1:
		return nil, fmt.Errorf("compression type %d: only zlib and zstd can be read", kind)
	case bits < 9 || bits > 21:
		return nil, fmt.Errorf("clusters of 2^%d bytes", bits)
	case size > maxSize:
		return nil, fmt.Errorf("a disk of %d bytes: at most 64 TiB can be read", size)
	}
	cluster := int64(1) << bits
	perTable := cluster / 8
	m := &mapped{size: int64(size), block: cluster, file: f}
	l1Len := 8 * ((m.size + cluster*perTable - 1) / (cluster * perTable))
	if int64(be.Uint32(h[36:]))*8 < l1Len || l1Offset > uint64(fileSize) || l1Len > fileSize-int64(l1Offset) {
		return nil, errors.New("the level 1 table is too short for the disk or lies outside the file")
	}
	l1 := make([]byte, l1Len)
	if n, err := f.ReadAt(l1, int64(l1Offset)); n < len(l1) {
		return nil, fmt.Errorf("level 1 table: %w", noEOF(err))
	}
	l2 := tables{file: f, size: cluster}
	m.find = func(i int64) (place, error) {
		at := int64(be.Uint64(l1[8*(i/perTable):]) & qcow2Offset)
		if at == 0 {
			return place{run: perTable - i%perTable}, nil
		}
		table, err := l2.at(at)
		if err != nil {
			return place{}, err
		}
		e := be.Uint64(table[8*(i%perTable):])
		switch {
		case e&qcow2Compressed != 0:
			// Offset and length share the bits: the length is that of further
			// sectors behind the one in which the data begins.
			shift := 62 - (bits - 8)
			off := int64(e & (1<<shift - 1))
			sectors := int64(e&(qcow2Compressed-1)) >> shift
			return place{state: packed, off: off, n: (sectors+1)*sectorSize - off%sectorSize}, nil
		case e&qcow2Offset == 0 || version > 2 && e&qcow2Zero != 0:
			return place{run: 1}, nil
		}
		return place{state: plain, off: int64(e & qcow2Offset)}, nil
	}
	// The data ends somewhere in its last sector, so that what follows it must
	// not disturb the readers.
	var in []byte
	var zr *zstd.Decoder
	m.unpack = func(dst []byte, p place, _ int64) error {
		in = append(in[:0], make([]byte, p.n)...)
		n, err := f.ReadAt(in, p.off)
		if n == 0 {
			return err
		}
		in = in[:n]
		if kind == 0 {
			_, err = io.ReadFull(flate.NewReader(bytes.NewReader(in)), dst)
			return err
		}
		if zr == nil {
			if zr, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8*mib)); err != nil {
				return err
			}
		}
		if err := zr.Reset(bytes.NewReader(in)); err != nil {
			return err
		}
		_, err = io.ReadFull(zr, dst)
		return err
	}
	return m, nil
}
