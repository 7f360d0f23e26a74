package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Format returns the hash device of data, superblock and tree, as veritysetup
// format makes it, and its root hash. s says how many blocks of data there are,
// and gives salt and UUID. The device is held in memory: it has 1/127 of the size
// of the data.
func Format(ctx context.Context, data io.ReaderAt, s Superblock) (hash []byte, root RootHash, err error) {
	if len(s.Salt) > maxSalt || s.DataBlocks == 0 {
		return nil, root, fmt.Errorf("verity: %d blocks of data, a salt of %d bytes: want at least 1, at most %d", s.DataBlocks, len(s.Salt), maxSalt)
	}
	hash = make([]byte, s.HashSize())
	s.put(hash)
	buf := make([]byte, BlockSize)
	below := func(i int64) ([]byte, error) {
		return buf, block{data, 0}.read(buf, i)
	}
	count, end := int64(s.DataBlocks), int64(len(hash))
	for n, blocks := range s.levels() {
		level := hash[end-blocks*BlockSize : end] // the lowest lies last
		end -= blocks * BlockSize
		for i := range count {
			if err := ctx.Err(); err != nil {
				return nil, root, err
			}
			b, err := below(i)
			if err != nil {
				return nil, root, fmt.Errorf("block %d below level %d: %w", i, n, err)
			}
			sum := s.digest(b)
			copy(level[i/perBlock*BlockSize+i%perBlock*digestSize:], sum[:])
		}
		count = blocks
		below = func(i int64) ([]byte, error) { return level[i*BlockSize : (i+1)*BlockSize], nil }
	}
	top, err := below(0)
	if err != nil {
		return nil, root, fmt.Errorf("block 0: %w", err)
	}
	return hash, s.digest(top), nil
}

// put writes the superblock.
func (s Superblock) put(b []byte) {
	le := binary.LittleEndian
	copy(b, "verity\x00\x00")
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // hash format
	copy(b[16:], s.UUID[:])
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], s.DataBlocks)
	le.PutUint16(b[80:], uint16(len(s.Salt)))
	copy(b[88:], s.Salt)
}

// DeriveSalt makes a salt of 32 bytes from a digest of the content.
func DeriveSalt(digest []byte) []byte {
	sum := sha256.Sum256(append([]byte("slipway verity salt\x00"), digest...))
	return sum[:]
}
