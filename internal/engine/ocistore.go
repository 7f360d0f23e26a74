package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobDir serves the blobs of an OCI image layout directory, read-only. It
// stands in for containerd's local store, which creates files in the directory
// and logs to the terminal.
//
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
type blobDir string

func openBlobDir(dir string) (blobDir, error) {
	if _, err := os.Stat(filepath.Join(dir, "blobs")); err != nil {
		return "", fmt.Errorf("not an OCI layout directory: %w", err)
	}
	return blobDir(dir), nil
}

func (b blobDir) path(dgst digest.Digest) (string, error) {
	if err := dgst.Validate(); err != nil {
		return "", fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return filepath.Join(string(b), "blobs", dgst.Algorithm().String(), dgst.Encoded()), nil
}

func (b blobDir) Info(_ context.Context, dgst digest.Digest) (content.Info, error) {
	path, err := b.path(dgst)
	if err != nil {
		return content.Info{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return content.Info{}, asNotFound(err)
	}
	return content.Info{Digest: dgst, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

func (b blobDir) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	path, err := b.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, asNotFound(err)
	}
	fi, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return blobReader{io.NewSectionReader(file, 0, fi.Size()), file}, nil
}

func asNotFound(err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return err
}

type blobReader struct {
	*io.SectionReader
	io.Closer
}

// The rest of [content.Store] is for writers.

func (b blobDir) Walk(context.Context, content.WalkFunc, ...string) error { return b.readOnly() }
func (b blobDir) Delete(context.Context, digest.Digest) error             { return b.readOnly() }
func (b blobDir) Abort(context.Context, string) error                     { return b.readOnly() }
func (b blobDir) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, b.readOnly()
}
func (b blobDir) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, b.readOnly()
}
func (b blobDir) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, b.readOnly()
}
func (b blobDir) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, b.readOnly()
}
func (b blobDir) readOnly() error {
	return fmt.Errorf("%s is read-only: %w", string(b), errdefs.ErrNotImplemented)
}
