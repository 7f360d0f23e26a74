package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	algorithmLZ4  = 0
	algorithmZstd = 3

	// Kinds of the blocks of a compressed file, by its index: content that is stored
	// as it is begins in it, compressed content begins in it, neither.
	clusterPlain = 0
	clusterHead  = 1
	clusterNone  = 2
	// countFlag marks the number of blocks that compressed content takes, in place of
	// the distance to its beginning.
	countFlag = 1 << 11

	// incompatPadded is the feature that compressed content ends with its blocks.
	incompatPadded = 1
	// adviseOther are ways to store content that need options of mkfs.erofs: a second
	// algorithm, tails in the index, fragments, and the like.
	adviseOther = 0xfff8
	// maxExtent bounds what is decompressed at once: mkfs.erofs puts at most 1 MiB of
	// blocks into one piece, and 8 MiB of content.
	maxExtent = 64 << 20
)

// open reads a file of any layout that mkfs.erofs makes without further options.
func (l *reader) open(i inode) (io.Reader, error) {
	switch i.layout {
	case flatPlain:
		return io.NewSectionReader(l.r, int64(i.start)*l.block, i.size), nil
	case flatInline: // the last block follows the inode
		plain := i.size / l.block * l.block
		return io.MultiReader(io.NewSectionReader(l.r, int64(i.start)*l.block, plain), io.NewSectionReader(l.r, i.end, i.size-plain)), nil
	case compressedFull, compressedCompact:
		x, err := l.index(i)
		if err != nil {
			return nil, err
		}
		return &decompressor{l: l, size: i.size, extents: x.extents, algorithm: x.algorithm}, nil
	}
	return nil, fmt.Errorf("data layout %d is not read", i.layout)
}

// extent is a piece of a compressed file.
type extent struct {
	at     int64 // offset in the file
	block  int64 // first of its blocks
	blocks int64
	plain  bool
}

type index struct {
	algorithm byte
	extents   []extent
}

// index reads where the pieces of a compressed file are. Their blocks follow each
// other.
func (l *reader) index(i inode) (x index, err error) {
	head := (i.end + 7) &^ 7
	h := make([]byte, 8)
	if _, err := l.r.ReadAt(h, head); err != nil {
		return x, fmt.Errorf("index of a compressed file: %w", err)
	}
	advise, bits := le.Uint16(h[4:]), 12+int(h[7]&7)
	x.algorithm = h[6] & 15
	if le.Uint32(l.super[superIncompat:])&incompatPadded == 0 {
		return x, errors.New("compression without padding is not read")
	}
	if l.block != BlockSize || h[7]>>3 != 0 || bits != 12 || advise&adviseOther != 0 || x.algorithm != algorithmLZ4 && x.algorithm != algorithmZstd {
		return x, fmt.Errorf("compression of the kind %d with the options %#x is not read", h[6], advise)
	}
	count := (i.size + BlockSize - 1) / BlockSize
	if l.budget -= 8 * count; l.budget < 0 {
		return x, fmt.Errorf("more than %d bytes of directories and indexes, or a loop", maxRead)
	}
	entries, err := l.indexEntries(i, head+8, int(count), advise)
	if err != nil {
		return x, err
	}
	next, err := l.firstCluster(i)
	if err != nil {
		return x, err
	}
	for n, e := range entries {
		switch last := len(x.extents) - 1; {
		case e.kind == clusterPlain || e.kind == clusterHead:
			at := int64(n)*BlockSize + int64(e.value)
			if last >= 0 && at <= x.extents[last].at || last < 0 && at != 0 {
				return x, errors.New("index of a compressed file: damaged")
			}
			x.extents = append(x.extents, extent{at: at, block: next, blocks: 1, plain: e.kind == clusterPlain})
			next++
		case last < 0 || e.kind != clusterNone:
			return x, errors.New("index of a compressed file: damaged")
		case e.value&countFlag != 0 && entries[n-1].kind != clusterNone:
			blocks := int64(e.value &^ countFlag)
			next += blocks - x.extents[last].blocks
			x.extents[last].blocks = blocks
		}
	}
	return x, nil
}

// indexEntry is what the index says of a block: where in it content begins, or how
// far its beginning is, or countFlag with a number of blocks.
type indexEntry struct{ kind, value uint16 }

// indexEntries reads the entries of an index, which lie one by one, or in packs of 2, and
// of 16 where there are enough of them.
func (l *reader) indexEntries(i inode, at int64, count int, advise uint16) ([]indexEntry, error) {
	out := make([]indexEntry, 0, count)
	if i.layout == compressedFull {
		b := make([]byte, 8+8*count)
		if _, err := l.r.ReadAt(b, at); err != nil {
			return nil, fmt.Errorf("index of a compressed file: %w", err)
		}
		for n := range count {
			e := b[8+8*n:]
			kind, value := le.Uint16(e)&3, le.Uint16(e[2:])
			if kind == clusterNone {
				value = le.Uint16(e[4:])
			}
			out = append(out, indexEntry{kind, value})
		}
		return out, nil
	}
	before := min(int((32-at%32)/4%8), count) // in packs of 2 up to where larger ones begin
	many := 0
	if advise&adviseCompacted2B != 0 {
		many = (count - before) / 16 * 16
	}
	for len(out) < count {
		size, packed, bits := int64(8), 2, 16
		if n := len(out); n >= before && n < before+many {
			size, packed, bits = 32, 16, 14
		}
		b := make([]byte, size+4)
		if _, err := l.r.ReadAt(b[:size], at); err != nil {
			return nil, fmt.Errorf("index of a compressed file: %w", err)
		}
		for n := range packed {
			v := le.Uint32(b[n*bits/8:]) >> (n * bits % 8)
			out = append(out, indexEntry{uint16(v >> 12 & 3), uint16(v & 0xfff)})
		}
		at += size
	}
	return out[:count], nil
}

// decompressor reads a compressed file piece by piece.
type decompressor struct {
	l         *reader
	size      int64
	extents   []extent
	algorithm byte
	content   bytes.Reader
}

func (d *decompressor) Read(b []byte) (int, error) {
	for d.content.Len() == 0 {
		if len(d.extents) == 0 {
			return 0, io.EOF
		}
		e, end := d.extents[0], d.size
		if d.extents = d.extents[1:]; len(d.extents) > 0 {
			end = d.extents[0].at
		}
		content, err := d.piece(e, end-e.at)
		if err != nil {
			return 0, err
		}
		d.content.Reset(content)
	}
	return d.content.Read(b)
}

func (d *decompressor) piece(e extent, size int64) ([]byte, error) {
	if size < 0 || size > maxExtent || e.blocks > maxExtent/BlockSize {
		return nil, errors.New("compressed content: damaged")
	}
	stored := make([]byte, e.blocks*BlockSize)
	if _, err := d.l.r.ReadAt(stored, e.block*BlockSize); err != nil {
		return nil, fmt.Errorf("compressed content: %w", err)
	}
	if e.plain {
		if size > int64(len(stored)) {
			return nil, errors.New("compressed content: damaged")
		}
		return stored[:size], nil
	}
	stored = bytes.TrimLeft(stored, "\x00") // it ends with its blocks
	if d.algorithm == algorithmLZ4 {
		out := make([]byte, size)
		if n, err := lz4.UncompressBlock(stored, out); err != nil || int64(n) != size {
			return nil, fmt.Errorf("compressed content: %d bytes of %d: %w", n, size, err)
		}
		return out, nil
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxExtent))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	out, err := z.DecodeAll(stored, make([]byte, 0, size))
	if err != nil || int64(len(out)) != size {
		return nil, fmt.Errorf("compressed content: %d bytes of %d: %w", len(out), size, err)
	}
	return out, nil
}
