package format

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	sectorSize = 512
	mib        = 1 << 20
	// maxSize bounds the size of disks, so that sums of offsets never overflow.
	maxSize = 64 << 40
)

// Disk is a disk in a file of any format, read as raw bytes.
type Disk struct {
	// Kind is the format of the file.
	Kind  Kind
	size  int64
	src   source
	close func() error
	// check reads what the format itself has to protect the disk.
	check func(ctx context.Context) error
}

// source is the content of a disk.
type source interface {
	io.ReaderAt
	// data returns the first range at or behind off that may hold something
	// other than zero; io.EOF if there is none.
	data(off int64) (start, end int64, err error)
}

// Size is the size of the disk in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt. Holes read as zero.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= d.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.size-off
	if short {
		p = p[:d.size-off]
	}
	n, err := d.src.ReadAt(p, off)
	switch {
	case n == len(p) && short:
		return n, io.EOF
	case n == len(p):
		return n, nil
	case errors.Is(err, io.EOF): // the file is shorter than it says
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Data returns the ends of the first range at or behind off that may hold
// something other than zero, and io.EOF if there is none up to the end of the
// disk. What lies before start reads as zero.
func (d *Disk) Data(off int64) (start, end int64, err error) {
	if off >= d.size {
		return 0, 0, io.EOF
	}
	start, end, err = d.src.data(off)
	if err == nil && start >= d.size {
		err = io.EOF
	}
	return start, min(end, d.size), err
}

// Check verifies the checksums with which the format protects the whole disk:
// the manifest of an OVA. Other formats have none, or Open has checked them.
func (d *Disk) Check(ctx context.Context) error {
	if d.check == nil {
		return nil
	}
	return d.check(ctx)
}

// Close closes the file.
func (d *Disk) Close() error { return d.close() }

// rawFile is a source whose bytes are those of a file.
type rawFile struct{ *os.File }

func (f rawFile) data(off int64) (start, end int64, err error) {
	// The offset of the file that this moves is of no use to ReadAt.
	fd := int(f.Fd())
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	}
	if err != nil { // a block device or a file system without holes
		return off, maxSize, nil
	}
	return start, end, nil
}

// place is where a block of a mapped disk is stored.
type place struct {
	state  state
	off, n int64 // offset in the file; bytes, if packed
	run    int64 // if zero: this many blocks from here on are
}

type state int

const (
	zero state = iota
	plain
	packed
)

// mapped is a source of blocks of one size that a table locates in a file.
type mapped struct {
	size, block int64
	file        io.ReaderAt
	find        func(block int64) (place, error)
	// unpack fills dst with what the packed block at p holds.
	unpack func(dst []byte, p place, block int64) error

	mu     sync.Mutex
	cached int64 // block in cache
	cache  []byte
}

func (m *mapped) ReadAt(b []byte, off int64) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n < len(b) {
		i, skip := (off+int64(n))/m.block, (off+int64(n))%m.block
		part := b[n:min(int64(len(b)), int64(n)+m.block-skip)]
		p, err := m.find(i)
		if err != nil {
			return n, err
		}
		switch p.state {
		case zero:
			clear(part)
		case plain:
			if k, err := m.file.ReadAt(part, p.off+skip); k < len(part) {
				return n, fmt.Errorf("block %d at offset %d of the file: %w", i, p.off, noEOF(err))
			}
		case packed:
			if m.cache == nil {
				m.cache, m.cached = make([]byte, m.block), -1
			}
			if m.cached != i {
				m.cached = -1
				if err := m.unpack(m.cache, p, i); err != nil {
					return n, fmt.Errorf("compressed block %d at offset %d of the file: %w", i, p.off, noEOF(err))
				}
				m.cached = i
			}
			copy(part, m.cache[skip:])
		}
		n += len(part)
	}
	return n, nil
}

func (m *mapped) data(off int64) (start, end int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	blocks := (m.size + m.block - 1) / m.block
	i := off / m.block
	for i < blocks {
		p, err := m.find(i)
		if err != nil {
			return 0, 0, err
		}
		if p.state != zero {
			break
		}
		i += max(p.run, 1)
	}
	if i >= blocks {
		return 0, 0, io.EOF
	}
	first := i
	// A limit, as the caller may want the first bytes only.
	for i++; i < blocks && i-first < 1024; i++ {
		if p, err := m.find(i); err != nil || p.state == zero {
			break // an error comes back when the block is read
		}
	}
	return max(off, first*m.block), i * m.block, nil
}

// tables reads tables of one size from a file and keeps the last ones.
type tables struct {
	file io.ReaderAt
	size int64
	kept map[int64][]byte
}

func (t *tables) at(off int64) ([]byte, error) {
	if b, ok := t.kept[off]; ok {
		return b, nil
	}
	b := make([]byte, t.size)
	if n, err := t.file.ReadAt(b, off); n < len(b) {
		return nil, fmt.Errorf("table at offset %d of the file: %w", off, noEOF(err))
	}
	if t.kept == nil || len(t.kept) > 64 {
		t.kept = map[int64][]byte{}
	}
	t.kept[off] = b
	return b, nil
}

// noEOF keeps callers from taking a file that is cut short for the end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// blankBlock is compared with and written in place of what is blank.
var blankBlock [4 * mib]byte

func blank(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), 4096)
		if !bytes.Equal(b[:n], blankBlock[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// blocks calls f in order with each block of the disk that is not blank, by
// number; a last one that is shorter is filled up with zeros. The data is
// valid until f returns.
func blocks(ctx context.Context, d *Disk, size int64, f func(block int64, data []byte) error) error {
	buf := make([]byte, size)
	for i := int64(0); i*size < d.size; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, _, err := d.Data(i * size)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		i = start / size
		n := int(min(size, d.size-i*size))
		if k, err := d.ReadAt(buf[:n], i*size); k < n {
			return fmt.Errorf("read the disk at %d: %w", i*size, noEOF(err))
		}
		clear(buf[n:])
		if blank(buf) {
			continue
		}
		if err := f(i, buf); err != nil {
			return err
		}
	}
	return nil
}

// packedBlocks is like blocks, but calls pack on several blocks at a time and
// f, again in order, with what it appended to dst. Each of pack's callers has a
// worker number of its own, below runtime.GOMAXPROCS(0).
func packedBlocks(ctx context.Context, d *Disk, size int64, pack func(worker int, dst, data []byte) ([]byte, error), f func(block int64, packed []byte) error) error {
	type job struct {
		block  int64
		in     []byte
		out    []byte
		packed chan struct{}
	}
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *job, 2*workers)
	for range cap(free) {
		free <- &job{in: make([]byte, size)}
	}
	work, ordered := make(chan *job, cap(free)), make(chan *job, cap(free))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(work)
		defer close(ordered)
		return blocks(ctx, d, size, func(i int64, data []byte) error {
			select {
			case j := <-free:
				j.block, j.packed = i, make(chan struct{})
				copy(j.in, data)
				work <- j
				ordered <- j
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for w := range workers {
		group.Go(func() (err error) {
			for j := range work {
				if j.out, err = pack(w, j.out[:0], j.in); err != nil {
					return err
				}
				close(j.packed)
			}
			return nil
		})
	}
	group.Go(func() error {
		for j := range ordered {
			select {
			case <-j.packed:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := f(j.block, j.out); err != nil {
				return err
			}
			free <- j
		}
		return nil
	})
	return group.Wait()
}

// writeSparse writes b at off and leaves out blank pages; the file must read as
// zero there.
func writeSparse(w io.WriterAt, b []byte, off int64) error {
	const page = 4096
	for i := 0; i < len(b); {
		// One write for each run of pages that are not blank.
		end := i
		for end < len(b) && !blank(b[end:min(end+page, len(b))]) {
			end = min(end+page, len(b))
		}
		if end > i {
			if _, err := w.WriteAt(b[i:end], off+int64(i)); err != nil {
				return err
			}
		}
		i = end + page
	}
	return nil
}
