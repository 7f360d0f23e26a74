package compare

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// blob is a sequence of bytes with random access: a file, or a part of one.
type blob struct {
	r    io.ReaderAt
	off  int64
	size int64
	// holes knows what of r is zero without being read; nil if nothing is.
	holes holes
}

// holes returns the end of the hole at an offset, math.MaxInt64 where the rest
// is one, and the offset itself where there is none.
type holes interface{ zeroUntil(off int64) int64 }

func bytesBlob(b []byte) blob { return blob{r: bytes.NewReader(b), size: int64(len(b))} }

func fileBlob(f *os.File, size int64) blob {
	return blob{r: f, size: size, holes: &sparse{f: f}}
}

var errBeyond = errors.New("reaches beyond the end")

// section returns the n bytes from off on.
func (b blob) section(off, n int64) (blob, error) {
	if off < 0 || n < 0 || off > b.size || n > b.size-off {
		return blob{}, fmt.Errorf("%d bytes from %d: %w (%d bytes)", n, off, errBeyond, b.size)
	}
	b.off, b.size = b.off+off, n
	return b, nil
}

// ReadAt implements io.ReaderAt.
func (b blob) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(b.r, b.off, b.size).ReadAt(p, off)
}

func (b blob) reader() *io.SectionReader { return io.NewSectionReader(b.r, b.off, b.size) }

// bytes returns the n bytes from off on, in memory.
func (b blob) bytes(off, n int64) ([]byte, error) {
	s, err := b.section(off, n)
	if err != nil {
		return nil, err
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(s.reader(), out); err != nil {
		return nil, err
	}
	return out, nil
}

// zeroUntil returns the end of the hole at off, which may lie behind the end
// of the blob; off itself if there is none.
func (b blob) zeroUntil(off int64) int64 {
	if b.holes == nil {
		return off
	}
	end := b.holes.zeroUntil(b.off + off)
	if end == math.MaxInt64 {
		return end
	}
	return end - b.off
}

// sparse finds holes by lseek(2), and remembers the last extent of data.
type sparse struct {
	f        *os.File
	from, to int64
}

func (s *sparse) zeroUntil(off int64) int64 {
	if s.from <= off && off < s.to {
		return off
	}
	fd := int(s.f.Fd())
	data, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return math.MaxInt64
	case err == nil && data > off:
		return data
	}
	// A file system without holes has one extent.
	s.from, s.to = off, math.MaxInt64
	if err == nil {
		if hole, err := unix.Seek(fd, off, unix.SEEK_HOLE); err == nil {
			s.to = hole
		}
	}
	return off
}

// differing compares the length that both blobs have. It returns the offset of
// the first byte that differs, -1 if none does, and how many do; without all
// it stops at the first.
func differing(a, b blob, all bool) (first, count int64, err error) {
	n := min(a.size, b.size)
	first = -1
	bufA := make([]byte, min(n, 256<<10))
	bufB := make([]byte, len(bufA))
	for off := int64(0); off < n; {
		if hole := min(a.zeroUntil(off), b.zeroUntil(off)); hole > off {
			off = min(hole, n)
			continue
		}
		k := min(int64(len(bufA)), n-off)
		pa, pb := bufA[:k], bufB[:k]
		if err := readFull(a, pa, off); err != nil {
			return 0, 0, err
		}
		if err := readFull(b, pb, off); err != nil {
			return 0, 0, err
		}
		if !bytes.Equal(pa, pb) {
			for i := range pa {
				if pa[i] == pb[i] {
					continue
				}
				if first < 0 {
					first = off + int64(i)
				}
				count++
				if !all {
					return first, count, nil
				}
			}
		}
		off += k
	}
	return first, count, nil
}

func readFull(b blob, p []byte, off int64) error {
	n, err := b.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the file shrank
	}
	return fmt.Errorf("read at %d: %w", off, err)
}

// errSpool is wrapped by errors of temporary files, which say nothing about
// the compared ones.
var errSpool = errors.New("temporary file")

const spoolInMemory = 1 << 20

// spool takes what r holds to where it can be read at random: memory, or a
// sparse temporary file if it is large. release frees it.
func (c *comparison) spool(r io.Reader) (blob, error) {
	w := &spoolWriter{limit: c.spoolLimit}
	// Without its methods: a reader's WriteTo may write in tiny steps.
	_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 64<<10))
	if w.f == nil {
		return bytesBlob(w.memory), err
	}
	c.spools = append(c.spools, w.f)
	if err != nil {
		return blob{}, err
	}
	if err := w.f.Truncate(w.size); err != nil {
		return blob{}, fmt.Errorf("%w: %w", errSpool, err)
	}
	return fileBlob(w.f, w.size), nil
}

type spoolWriter struct {
	memory      []byte
	f           *os.File
	size, limit int64
}

var zeros [64 << 10]byte

func (w *spoolWriter) Write(p []byte) (int, error) {
	if w.size+int64(len(p)) > w.limit {
		return 0, fmt.Errorf("holds more than %d bytes", w.limit)
	}
	if w.f == nil && len(w.memory)+len(p) <= spoolInMemory {
		w.memory = append(w.memory, p...)
		w.size += int64(len(p))
		return len(p), nil
	}
	if w.f == nil {
		f, err := os.CreateTemp("", "slipway-compare-")
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errSpool, err)
		}
		w.f = f
		if err := errors.Join(os.Remove(f.Name()), writeAt(f, w.memory, 0)); err != nil {
			return 0, fmt.Errorf("%w: %w", errSpool, err)
		}
		w.memory = nil
	}
	if !bytes.Equal(p, zeros[:len(p)]) {
		if err := writeAt(w.f, p, w.size); err != nil {
			return 0, fmt.Errorf("%w: %w", errSpool, err)
		}
	}
	w.size += int64(len(p))
	return len(p), nil
}

func writeAt(f *os.File, p []byte, off int64) error {
	_, err := f.WriteAt(p, off)
	return err
}

// release closes the temporary files but the first keep.
func (c *comparison) release(keep int) {
	for _, f := range c.spools[keep:] {
		f.Close()
	}
	c.spools = c.spools[:keep]
}
