package tufrepo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"slipway/internal/provenance"
	"slipway/internal/update"
)

// compressions are the endings of file names by which images are known to be
// compressed.
var compressions = map[string]string{".lz4": update.LZ4, ".zst": update.Zstd}

// splitCompression takes the ending for a compression from a file name.
func splitCompression(name string) (rest, ending, compression string) {
	for ending, compression := range compressions {
		if rest, ok := strings.CutSuffix(name, ending); ok {
			return rest, ending, compression
		}
	}
	return name, "", update.None
}

// decompress reads through a compression.
func decompress(r io.Reader, compression string) (io.Reader, func(), error) {
	switch compression {
	case update.LZ4:
		return lz4.NewReader(r), func() {}, nil
	case update.Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	case update.None:
		return r, func() {}, nil
	}
	return nil, nil, fmt.Errorf("unknown compression %q", compression)
}

// measure reads an image to its end, and gives its size and digest as it is and
// decompressed. look, which may be nil, reads what is decompressed. An error of r
// comes before one of the decompression, and that before one of look.
func measure(r io.Reader, compression string, look func(io.Reader) error) (image update.Image, err error) {
	sum, contentSum := sha256.New(), sha256.New()
	counted := &counter{r: io.TeeReader(r, sum)}
	content, done, err := decompress(counted, compression)
	if err != nil {
		return image, err
	}
	defer done()
	plain := &counter{r: io.TeeReader(content, contentSum)}
	var seen error
	if look != nil {
		seen = look(plain)
	}
	_, err = io.Copy(io.Discard, plain)
	if _, rest := io.Copy(io.Discard, counted); rest != nil {
		return image, rest
	}
	if err != nil {
		return image, fmt.Errorf("decompress: %w", err)
	}
	image.Compression = compression
	image.Size, image.SHA256 = counted.n, sumOf(sum)
	image.ContentSize, image.ContentSHA256 = plain.n, sumOf(contentSum)
	return image, seen
}

// checkProvenance holds provenance to the images that it is published with: it must
// have the digests of all of them, decompressed. Statements of other kinds are left
// to those who know them.
func checkProvenance(paths []string, images update.Images) error {
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := provenance.Parse(data)
		if err != nil {
			continue
		}
		named := map[string]bool{}
		for _, s := range f.Statement.Subject {
			named[s.Digest["sha256"]] = true
		}
		for _, i := range []struct {
			kind  string
			image update.Image
		}{{"root", images.Root}, {"hash", images.Hash}, {"uki", images.UKI}} {
			if !named[i.image.ContentSHA256] {
				return fmt.Errorf("%s: it is the provenance of other files: no subject has the sha256 of the %s, %s", path, i.kind, i.image.ContentSHA256)
			}
		}
	}
	return nil
}

// counter counts what is read, and keeps the error that ended it.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.err = err
	return n, err
}

// measureFile measures a regular file, and looks at it.
func measureFile(ctx context.Context, path, compression string, look func(io.Reader) error) (update.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return update.Image{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil && info.Size() == 0 {
		err = errors.New("the file is empty")
	}
	var image update.Image
	if err == nil {
		image, err = measure(reader{ctx, f}, compression, look)
	}
	if err != nil {
		return update.Image{}, fmt.Errorf("%s: %w", path, err)
	}
	return image, nil
}
