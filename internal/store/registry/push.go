package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// OpenFunc opens a blob of the caller's, "sha256:<hex>". It may be called more
// than once for a blob, and from any goroutine.
type OpenFunc func(digest string) (io.ReadCloser, error)

// Push gives the registry a result: the blobs that it lacks, the signature, and
// last the manifest, so that whoever finds a result finds all of it. A result that
// is there already costs one request, and another where it is to be signed. What
// another machine made for the key is left as it is, unless this one's result is
// better: whole, or signed.
//
// Errors: ErrReadOnly, ErrDown, ErrCorrupt where the manifest is none of a result,
// and those of open.
func (r *Registry) Push(ctx context.Context, manifest []byte, open OpenFunc) error {
	m, err := parseResult(manifest)
	if err == nil {
		err = r.pushManifest(ctx, m.Config.Digest.Encoded(), "", manifest, m, open)
	}
	if err != nil {
		return fmt.Errorf("push a result to %s: %w", r.cfg.Ref, err)
	}
	return nil
}

func (r *Registry) pushManifest(ctx context.Context, tag, claim string, raw []byte, m *ocispec.Manifest, open OpenFunc) error {
	if err := r.writable(); err != nil {
		return err
	}
	return r.judgeWrite(ctx, func() error {
		client, err := r.connect(ctx, &r.push)
		if err != nil {
			return err
		}
		opts := []remote.Option{
			remote.WithTransport(client.Transport), remote.WithContext(ctx),
			remote.WithRetryPredicate(transient), remote.WithRetryBackoff(remote.Backoff{Duration: pause, Factor: 2, Steps: attempts}),
		}
		d := digest.FromBytes(raw)
		old, err := r.manifest(ctx, tag)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) {
			return err
		}
		there := digest.FromBytes(old) == d
		if !there && old != nil && claim == "" {
			if good, err := r.good(ctx, client, tag, old); good || err != nil {
				return err
			}
		}
		if !there {
			group, groupCtx := errgroup.WithContext(ctx)
			for _, b := range blobsOf(m) {
				group.Go(func() error { return r.upload(groupCtx, b, open, opts) })
			}
			if err := group.Wait(); err != nil {
				return err
			}
		}
		if r.cfg.SignKey != nil {
			if err := r.sign(ctx, d, claim, opts); err != nil {
				return err
			}
		}
		if !there {
			if err := remote.Put(r.repo.Tag(tag), rawManifest(raw), opts...); err != nil {
				return err
			}
			r.pushed.Add(1)
		}
		return nil
	}())
}

// good reports whether a manifest that others pushed answers its key: it is that of
// a result of the key, its blobs are there, and, where this machine signs, it is
// signed by a key that is known here. Who cannot sign has nothing better to give.
func (r *Registry) good(ctx context.Context, client *http.Client, key string, raw []byte) (bool, error) {
	m, err := parseResult(raw)
	if err != nil || m.Config.Digest.Encoded() != key {
		return false, nil
	}
	if r.cfg.SignKey != nil {
		own, err := r.cfg.SignKey.Public()
		if err != nil {
			return false, &localError{err}
		}
		err = r.verifyAny(ctx, digest.FromBytes(raw), "", append(slices.Clone(r.cfg.PublicKeys), own))
		if errors.Is(err, ErrUnsigned) || errors.Is(err, ErrBadSignature) || errors.Is(err, ErrCorrupt) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	for _, b := range blobsOf(m) {
		resp, err := r.do(ctx, client, http.MethodHead, "blobs/"+b.Digest.String(), nil, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return false, nil
		}
	}
	return true, nil
}

// upload gives the registry a blob, if it lacks it.
func (r *Registry) upload(ctx context.Context, d ocispec.Descriptor, open OpenFunc, opts []remote.Option) error {
	select {
	case r.puts <- struct{}{}:
		defer func() { <-r.puts }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.writable(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := &blob{of: r, desc: d, open: open, cancel: cancel}
	err := remote.WriteLayer(r.repo, l, append(opts[:len(opts):len(opts)], remote.WithContext(ctx))...)
	// the registry may answer, or hang up, before the request ends with this error
	if local := l.failed.Load(); local != nil && err != nil {
		return local
	}
	if err != nil {
		return cause(ctx, err)
	}
	r.pushedBytes.Add(d.Size)
	return nil
}

// rawManifest is an OCI image manifest, byte by byte.
type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)      { return m, nil }
func (rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// blob is a blob of the caller's as the library wants it.
type blob struct {
	of     *Registry
	desc   ocispec.Descriptor
	open   OpenFunc
	cancel context.CancelCauseFunc
	failed atomic.Pointer[localError]
}

func (b *blob) fail(err error) error {
	e := &localError{fmt.Errorf("read %s: %w", b.desc.Digest, err)}
	b.failed.Store(e)
	return e
}

func (b *blob) Digest() (v1.Hash, error)             { return v1.NewHash(b.desc.Digest.String()) }
func (b *blob) DiffID() (v1.Hash, error)             { return b.Digest() }
func (b *blob) Size() (int64, error)                 { return b.desc.Size, nil }
func (b *blob) MediaType() (types.MediaType, error)  { return types.MediaType(b.desc.MediaType), nil }
func (b *blob) Uncompressed() (io.ReadCloser, error) { return b.Compressed() }

// Compressed is the content of the blob, whatever it is.
func (b *blob) Compressed() (io.ReadCloser, error) {
	f, err := b.open(b.desc.Digest.String())
	if err != nil {
		return nil, b.fail(err)
	}
	timer := time.AfterFunc(b.of.cfg.Stall, func() { b.cancel(errStalled) })
	timer.Stop()
	return &upload{blob: b, file: f, timer: timer, span: newSpan(&b.of.sent)}, nil
}

// upload ends an upload that stands still or crawls: where nobody asks for more,
// the network takes no more.
type upload struct {
	blob  *blob
	file  io.ReadCloser
	timer *time.Timer
	sent  int64
	given time.Time // when the network was given something; zero at the beginning
	span  span
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	u.timer.Stop() // reading the file may take what it takes
	if !u.given.IsZero() && u.span.crawls(time.Since(u.given), u.blob.of.cfg.Stall) {
		u.blob.cancel(errStalled)
		return 0, errStalled
	}
	n, err := u.file.Read(p)
	u.given = time.Now()
	u.sent += int64(n)
	u.blob.of.sent.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		return n, u.blob.fail(err)
	}
	if u.sent > u.blob.desc.Size || err != nil && u.sent < u.blob.desc.Size {
		return n, u.blob.fail(fmt.Errorf("it has %d bytes or more, want %d", u.sent, u.blob.desc.Size))
	}
	if err == nil && u.sent < u.blob.desc.Size {
		u.timer.Reset(u.blob.of.cfg.Stall)
	}
	return n, err
}

// Close implements io.Closer.
func (u *upload) Close() error {
	u.timer.Stop()
	return u.file.Close()
}

var _ v1.Layer = (*blob)(nil)
