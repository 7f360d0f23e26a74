package ext4

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Written is when a file system was last written, as its superblock says.
func Written(r io.ReaderAt) (time.Time, error) {
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, superOffset); err != nil {
		return time.Time{}, fmt.Errorf("ext4 superblock: %w", err)
	}
	return time.Unix(int64(le.Uint32(b[0x30:])), 0), nil
}

// ZeroFree overwrites the blocks that are not in use, so that nothing is left of
// files that were removed. It takes file systems with blocks of 4096 bytes.
func ZeroFree(f *os.File) error {
	b := make([]byte, superSize)
	if _, err := f.ReadAt(b, superOffset); err != nil {
		return fmt.Errorf("ext4 superblock: %w", err)
	}
	if le.Uint32(b[0x18:]) != 2 || le.Uint32(b[0x20:]) != blocksPerGroup {
		return errors.New("ext4 with blocks of other than 4096 bytes is not handled")
	}
	size := int64(descSize)
	blocks := uint64(le.Uint32(b[0x04:]))
	if le.Uint32(b[0x60:])&0x80 != 0 { // 64bit
		size = int64(le.Uint16(b[0xfe:]))
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	desc, bitmap, zero := make([]byte, 64), make([]byte, blockSize), make([]byte, blockSize)
	for first := uint64(0); first < blocks; first += blocksPerGroup {
		if _, err := f.ReadAt(desc[:min(size, 64)], blockSize+int64(first/blocksPerGroup)*size); err != nil {
			return err
		}
		if le.Uint16(desc[0x12:])&groupBlocksUnused != 0 {
			continue // never was in use
		}
		at := int64(le.Uint32(desc))
		if size >= 64 {
			at |= int64(le.Uint32(desc[0x20:])) << 32
		}
		if _, err := f.ReadAt(bitmap, at*blockSize); err != nil {
			return err
		}
		for i := uint64(0); i < blocksPerGroup && first+i < blocks; i++ {
			if bitmap[i/8]&(1<<(i%8)) != 0 {
				continue
			}
			if _, err := f.WriteAt(zero, int64(first+i)*blockSize); err != nil {
				return err
			}
		}
	}
	return nil
}
