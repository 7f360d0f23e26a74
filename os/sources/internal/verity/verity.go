// Package verity reads the superblock of a dm-verity hash device, as
// veritysetup(8) writes it, and checks data against its hash tree. The format
// is described in the kernel's Documentation/admin-guide/device-mapper/verity.rst
// and in cryptsetup's wiki page "DMVerity".
package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	superblockSize = 512
	// BlockSize is the only size of data and hash blocks that is handled.
	BlockSize = 4096
	maxSalt   = 256

	digestSize = sha256.Size
	perBlock   = BlockSize / digestSize
)

// RootHash is the SHA-256 digest at the top of a hash tree.
type RootHash [sha256.Size]byte

// ParseRootHash reads 64 hexadecimal digits.
func ParseRootHash(s string) (RootHash, error) {
	var h RootHash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("root hash %q: want %d hexadecimal digits", s, 2*len(h))
	}
	copy(h[:], b)
	return h, nil
}

// String returns the hash as 64 lower case hexadecimal digits.
func (h RootHash) String() string { return hex.EncodeToString(h[:]) }

// Superblock is the head of a hash device. Only hash format 1 with SHA-256 and
// blocks of 4096 bytes is handled; the hash tree begins in block 1.
type Superblock struct {
	UUID [16]byte
	// DataBlocks is the size of the protected data in blocks.
	DataBlocks uint64
	Salt       []byte
}

// ReadSuperblock reads the superblock from the first 512 bytes of a hash
// device and checks that it is of the kind this package handles.
func ReadSuperblock(r io.ReaderAt) (Superblock, error) {
	var s Superblock
	b := make([]byte, superblockSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return s, fmt.Errorf("verity superblock: %w", err)
	}
	le := binary.LittleEndian
	if string(b[:8]) != "verity\x00\x00" {
		return s, errors.New("no verity superblock (the hash file must be made by veritysetup without --no-superblock)")
	}
	algorithm, _, _ := bytes.Cut(b[32:64], []byte{0})
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"superblock version", le.Uint32(b[8:]), uint32(1)},
		{"hash format", le.Uint32(b[12:]), uint32(1)},
		{"hash algorithm", string(algorithm), "sha256"},
		{"data block size", le.Uint32(b[64:]), uint32(BlockSize)},
		{"hash block size", le.Uint32(b[68:]), uint32(BlockSize)},
	} {
		if f.got != f.want {
			return s, fmt.Errorf("verity superblock: %s is %v, only %v is handled", f.name, f.got, f.want)
		}
	}
	s.UUID = [16]byte(b[16:32])
	s.DataBlocks = le.Uint64(b[72:])
	n := le.Uint16(b[80:])
	if n > maxSalt {
		return s, fmt.Errorf("verity superblock: salt of %d bytes, at most %d are possible", n, maxSalt)
	}
	s.Salt = bytes.Clone(b[88 : 88+n])
	const most = 1<<63/BlockSize - 1
	if s.DataBlocks == 0 || s.DataBlocks > most {
		return s, fmt.Errorf("verity superblock: %d data blocks", s.DataBlocks)
	}
	return s, nil
}

// levels returns the number of hash blocks of each level, from that above the
// data up to the single one at the top; none for a single data block.
func (s Superblock) levels() []int64 {
	var out []int64
	for n := int64(s.DataBlocks); n > 1; {
		n = (n + perBlock - 1) / perBlock
		out = append(out, n)
	}
	return out
}

// HashSize is the size in bytes of the hash device: superblock and tree.
func (s Superblock) HashSize() int64 {
	n := int64(1)
	for _, l := range s.levels() {
		n += l
	}
	return n * BlockSize
}

// ErrMismatch is wrapped by the errors of Verify that say that data, tree and
// root hash do not belong together.
var ErrMismatch = errors.New("verity mismatch")

// Verify reads all data and the whole hash device and checks that each data
// block has the digest in the tree, each hash block that of its parent, and the
// top block the root hash.
func Verify(ctx context.Context, data, hash io.ReaderAt, root RootHash) (Superblock, error) {
	s, err := ReadSuperblock(hash)
	if err != nil {
		return s, err
	}
	levels := s.levels()
	// The top level is stored first, right behind the superblock.
	starts := make([]int64, len(levels))
	at := int64(1)
	for i := len(levels) - 1; i >= 0; i-- {
		starts[i] = at
		at += levels[i]
	}
	below, belowName := block{data, 0}, "data"
	count := int64(s.DataBlocks)
	for i, n := range levels {
		level := block{hash, starts[i]}
		if err := s.checkLevel(ctx, below, count, level, belowName); err != nil {
			return s, err
		}
		below, belowName, count = level, fmt.Sprintf("level %d hash", i), n
	}
	buf := make([]byte, BlockSize)
	if err := below.read(buf, 0); err != nil {
		return s, fmt.Errorf("%s block 0: %w", belowName, err)
	}
	if got := s.digest(buf); got != root {
		return s, fmt.Errorf("%w: the root hash is %s, not %s", ErrMismatch, got, root)
	}
	return s, nil
}

type block struct {
	r     io.ReaderAt
	start int64
}

func (b block) read(buf []byte, n int64) error {
	got, err := b.r.ReadAt(buf, (b.start+n)*BlockSize)
	if got == len(buf) {
		return nil // ReadAt may say EOF at the very end
	}
	return err
}

func (s Superblock) digest(b []byte) RootHash {
	h := sha256.New()
	h.Write(s.Salt)
	h.Write(b)
	return RootHash(h.Sum(nil))
}

// checkLevel compares the digests of count blocks with those in the level
// above them.
func (s Superblock) checkLevel(ctx context.Context, below block, count int64, level block, name string) error {
	buf, hashes := make([]byte, BlockSize), make([]byte, BlockSize)
	for i := range count {
		entry := i % perBlock * digestSize
		if entry == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := level.read(hashes, i/perBlock); err != nil {
				return fmt.Errorf("hash block %d: %w", level.start+i/perBlock, err)
			}
		}
		if err := below.read(buf, i); err != nil {
			return fmt.Errorf("%s block %d: %w", name, i, err)
		}
		if got := s.digest(buf); !bytes.Equal(got[:], hashes[entry:entry+digestSize]) {
			return fmt.Errorf("%w: %s block %d has not the digest in the hash tree", ErrMismatch, name, i)
		}
	}
	return nil
}
