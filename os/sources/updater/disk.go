package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"dinghy/internal/gpt"
	"dinghy/internal/repo"
	"dinghy/update"
)

// device is a disk of the machine.
type device struct {
	*os.File
	size int64
}

// openDevice opens the disk that has the partition.
func openDevice(partition gpt.GUID, flag int) (*device, error) {
	link := "/dev/disk/by-partuuid/" + partition.String()
	node, err := filepath.EvalSymlinks(link)
	if err != nil {
		return nil, fmt.Errorf("root partition: %w", err)
	}
	sys, err := filepath.EvalSymlinks("/sys/class/block/" + filepath.Base(node))
	if err != nil {
		return nil, fmt.Errorf("root partition: %w", err)
	}
	f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(sys)), flag, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &device{f, size}, nil
}

func (d *device) Size() int64 { return d.size }

// Exclusive calls change under the lock that keeps udev from reading the disk
// meanwhile.
func (d *device) Exclusive(change func() error) error {
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("%s: %w", d.Name(), err)
	}
	return errors.Join(change(), syscall.Flock(int(d.Fd()), syscall.LOCK_UN))
}

const fadvDontNeed = 4 // POSIX_FADV_DONTNEED of <fcntl.h>

// Forget drops the pages of the disk that are cached and written back.
func (d *device) Forget() error {
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, d.Fd(), 0, 0, fadvDontNeed, 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", d.Name(), errno)
	}
	return nil
}

const (
	chunk     = 1 << 20   // bytes written at a time
	maxWindow = 128 << 20 // bytes that a zstd frame may ask the decoder to hold
)

// writeImage decompresses an image that was downloaded to the start of a
// partition, and checks on the way that it is what the manifest says.
func (h *host) writeImage(ctx context.Context, r *repo.Repo, image update.Image, e gpt.Entry) (err error) {
	in, done := io.Pipe()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		done.CloseWithError(r.Copy(done, image.File))
	}()
	defer func() {
		in.Close() // ends the copy, should it still go on
		<-finished
	}()
	plain, err := decompress(in, image.Compression)
	if err != nil {
		return err
	}
	if c, ok := plain.(io.Closer); ok {
		defer c.Close()
	}
	sum := sha256.New()
	out := &partition{ctx: ctx, disk: h.disk, start: e.Start(), room: min(e.Size(), image.ContentSize)}
	at, err := io.CopyBuffer(io.MultiWriter(sum, out), struct{ io.Reader }{plain}, make([]byte, chunk))
	if errors.Is(err, errFull) {
		return fmt.Errorf("target %s: more than the %d bytes that the manifest gives its content", image.Target, image.ContentSize)
	}
	if err != nil {
		return fmt.Errorf("target %s: %w", image.Target, err)
	}
	if at != image.ContentSize {
		return fmt.Errorf("target %s: its content has %d bytes, the manifest gives it %d", image.Target, at, image.ContentSize)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != image.ContentSHA256 {
		return fmt.Errorf("target %s: SHA-256 of its content is %s, the manifest says %s", image.Target, got, image.ContentSHA256)
	}
	return nil
}

func decompress(r io.Reader, compression string) (io.Reader, error) {
	switch compression {
	case update.None:
		return r, nil
	case update.LZ4:
		return lz4.NewReader(r), nil
	case update.Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("unknown compression %q", compression)
}

var errFull = errors.New("no room left")

// partition writes a part of a disk from its start on.
type partition struct {
	ctx         context.Context
	disk        io.WriterAt
	start, room int64
}

func (p *partition) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(b)) > p.room {
		return 0, errFull
	}
	n, err := p.disk.WriteAt(b, p.start)
	p.start += int64(n)
	p.room -= int64(n)
	return n, err
}
