package format

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const chunkSize = 4 * mib // of what is compressed as one

func writeRaw(ctx context.Context, w *os.File, src *Disk, _ Options) error {
	if err := w.Truncate(src.size); err != nil {
		return err
	}
	return blocks(ctx, src, mib, func(i int64, data []byte) error {
		return writeSparse(w, data[:min(mib, src.size-i*mib)], i*mib)
	})
}

// writeZstd makes one frame of every chunk. Frames may follow each other
// (RFC 8878, section 3); they are independent, so that they can be made at the
// same time, and that of a blank chunk needs to be made only once.
func writeZstd(ctx context.Context, w *os.File, src *Disk, _ Options) error {
	encoders := make([]*zstd.Encoder, runtime.GOMAXPROCS(0))
	for i := range encoders {
		var err error
		if encoders[i], err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true)); err != nil {
			return err
		}
		defer encoders[i].Close()
	}
	void := encoders[0].EncodeAll(blankBlock[:chunkSize], nil)
	out := bufio.NewWriterSize(w, mib)
	next := int64(0)
	fill := func(to int64) error {
		for ; next < to; next++ {
			if _, err := out.Write(void); err != nil {
				return err
			}
		}
		return nil
	}
	whole, rest := src.size/chunkSize, src.size%chunkSize
	err := packedBlocks(ctx, src, chunkSize,
		func(worker int, dst, data []byte) ([]byte, error) {
			return encoders[worker].EncodeAll(data, dst), nil
		},
		func(i int64, packed []byte) error {
			if i == whole { // the shorter one at the end, which follows
				return nil
			}
			if err := fill(i); err != nil {
				return err
			}
			next++
			_, err := out.Write(packed)
			return err
		})
	if err != nil {
		return err
	}
	if err := fill(whole); err != nil {
		return err
	}
	if rest > 0 {
		last := make([]byte, rest)
		if n, err := src.ReadAt(last, whole*chunkSize); n < len(last) {
			return noEOF(err)
		}
		if _, err := out.Write(encoders[0].EncodeAll(last, nil)); err != nil {
			return err
		}
	}
	return out.Flush()
}

// writeLZ4 makes a single frame of independent blocks, as not every reader of
// LZ4 goes on behind the first frame. The frame tells the size of the disk and
// ends in a checksum of it.
func writeLZ4(ctx context.Context, w *os.File, src *Disk, _ Options) error {
	buffered := bufio.NewWriterSize(w, mib)
	out := lz4.NewWriter(buffered)
	if err := out.Apply(lz4.BlockSizeOption(lz4.Block4Mb), lz4.SizeOption(uint64(src.size)), lz4.ChecksumOption(true),
		lz4.CompressionLevelOption(lz4.Fast), lz4.ConcurrencyOption(runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	next := int64(0)
	fill := func(to int64) error { // with zeros, up to an offset
		for next < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := out.Write(blankBlock[:min(to-next, chunkSize)])
			next += int64(n)
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := blocks(ctx, src, chunkSize, func(i int64, data []byte) error {
		if err := fill(i * chunkSize); err != nil {
			return err
		}
		n, err := out.Write(data[:min(chunkSize, src.size-next)])
		next += int64(n)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(fill(src.size), out.Close(), buffered.Flush())
}

// unpack reads a compressed disk into a temporary file that has no name.
func unpack(ctx context.Context, r io.Reader) (f *os.File, size int64, err error) {
	if f, err = os.CreateTemp("", "slipway-disk-*"); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, mib)
	for {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		// Not io.ReadFull, which says ErrUnexpectedEOF of a short last read as
		// readers do of a file that is cut short.
		var n int
		var err error
		for n < len(buf) && err == nil {
			var k int
			k, err = r.Read(buf[n:])
			n += k
		}
		if size+int64(n) > maxSize {
			return nil, 0, errors.New("the disk in it has more than 64 TiB")
		}
		if err := writeSparse(f, buf[:n], size); err != nil {
			return nil, 0, err
		}
		size += int64(n)
		if err == io.EOF {
			return f, size, f.Truncate(size)
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

func openZstd(ctx context.Context, f *os.File) (*os.File, int64, error) {
	r, err := zstd.NewReader(bufio.NewReaderSize(f, mib), zstd.WithDecoderMaxMemory(256*mib))
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	return unpack(ctx, r)
}

func openLZ4(ctx context.Context, f *os.File) (*os.File, int64, error) {
	r := lz4.NewReader(bufio.NewReaderSize(f, mib))
	raw, size, err := unpack(ctx, r)
	if err == nil && r.Size() != 0 && int64(r.Size()) != size {
		return nil, 0, errors.Join(fmt.Errorf("it holds %d bytes and says %d", size, r.Size()), raw.Close())
	}
	return raw, size, err
}
