package compare

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// kind is a format that can be opened. A further one is a function here.
type kind struct {
	name string
	is   func(head []byte) bool
	// open lists what a blob of this kind consists of. An error means that
	// it is damaged, or uses what open does not know.
	open func(c *comparison, b blob) (content, error)
}

const headSize = 1152

var kinds = []*kind{
	{"RPM package", magic(0, "\xed\xab\xee\xdb"), openRPM},
	{"ELF object", magic(0, "\x7fELF"), openELF},
	{"PE image", isPE, openPE},
	{"GPT disk", magic(512, "EFI PART"), openGPT},
	{"FAT volume", isFAT, openFAT},
	{"EROFS", magic(1024, "\xe2\xe1\xf5\xe0"), openEROFS},
	{"ext4 file system", isExt4, openExt4},
	{"ar archive", magic(0, arMagic), openAr},
	{"cpio archive", magic(0, cpioMagic), openCpio},
	{"tar archive", magic(257, "ustar"), openTar},
	{gzipStream.name, gzipStream.is, gzipStream.content},
	{xzStream.name, xzStream.is, xzStream.content},
	{zstdStream.name, zstdStream.is, zstdStream.content},
	{bzip2Stream.name, bzip2Stream.is, bzip2Stream.content},
}

func (k *kind) String() string {
	if k == nil {
		return "data"
	}
	return k.name
}

func isFAT(head []byte) bool {
	return magic(82, "FAT32   ")(head) || magic(54, "FAT16   ")(head) || magic(54, "FAT12   ")(head)
}

func magic(off int, m string) func([]byte) bool {
	return func(head []byte) bool { return len(head) >= off && bytes.HasPrefix(head[off:], []byte(m)) }
}

func kindOf(b blob) (*kind, error) {
	head, err := b.bytes(0, min(headSize, b.size))
	if err != nil {
		return nil, err
	}
	for _, k := range kinds {
		if k.is(head) {
			return k, nil
		}
	}
	return nil, nil
}

// stream is a format of one compressed stream.
type stream struct {
	name string
	is   func(head []byte) bool
	// open returns a reader of the content, the properties of the stream,
	// and a function that frees the reader.
	open func(r io.Reader) (io.Reader, []attr, func(), error)
}

var (
	streams = []*stream{gzipStream, xzStream, zstdStream, bzip2Stream}

	gzipStream = &stream{"gzip stream", magic(0, "\x1f\x8b"), func(r io.Reader) (io.Reader, []attr, func(), error) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, nil, err
		}
		return z, []attr{
			value("original name", z.Name), value("comment", z.Comment), value("mtime", timestamp(z.ModTime)),
			value("extra field", fmt.Sprintf("%x", z.Extra)), value("operating system", z.OS),
		}, func() {}, nil
	}}
	// xz -9 needs 64 MiB.
	xzStream = &stream{"xz stream", magic(0, "\xfd7zXZ\x00"), func(r io.Reader) (io.Reader, []attr, func(), error) {
		z, err := xz.NewReader(r, xz.DefaultDictMax)
		return z, nil, func() {}, err
	}}
	zstdStream = &stream{"zstd stream", magic(0, "\x28\xb5\x2f\xfd"), func(r io.Reader) (io.Reader, []attr, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, nil, err
		}
		return z, nil, z.Close, nil
	}}
	bzip2Stream = &stream{"bzip2 stream", magic(0, "BZh"), func(r io.Reader) (io.Reader, []attr, func(), error) {
		return bzip2.NewReader(r), nil, func() {}, nil
	}}
)

func (s *stream) content(c *comparison, b blob) (content, error) {
	data, attrs, err := s.expand(c, b)
	return content{attrs: attrs, members: []member{{name: "content", data: data}}}, err
}

func (s *stream) expand(c *comparison, b blob) (data blob, attrs []attr, err error) {
	err = guard(func() error {
		r, as, free, err := s.open(b.reader())
		if err != nil {
			return err
		}
		defer free()
		attrs = as
		data, err = c.spool(r)
		return err
	})
	return data, attrs, err
}

// uncompressed returns what a stream of any known format holds; of everything
// else, the blob itself.
func (c *comparison) uncompressed(b blob) (blob, error) {
	head, err := b.bytes(0, min(headSize, b.size))
	if err != nil {
		return blob{}, err
	}
	for _, s := range streams {
		if s.is(head) {
			data, _, err := s.expand(c, b)
			return data, err
		}
	}
	return b, nil
}

// guard turns a panic of f into an error. It is for calls of parsers that do
// not promise to withstand damaged input: go-rpmutils, xz, debug/elf, debug/pe.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(errDamaged, fmt.Errorf("%v", p))
		}
	}()
	return f()
}

var errDamaged = errors.New("damaged")

func timestamp(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format(time.RFC3339Nano)
}
