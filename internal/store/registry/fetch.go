package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"slipway/internal/store"
)

const (
	maxManifest = 4 << 20 // bytes, as registries have it
	attempts    = 3       // of a transfer that breaks off, in a row
	pause       = 200 * time.Millisecond
	// A transfer that brought this much does not count as failed.
	progress = 1 << 20
	// minRate is what the transfers of one direction move together at least, in
	// bytes per second, over each span of Config.Stall.
	minRate = 100_000
	// prompt is how soon answers begin. What takes longer uses up Config.Patience.
	prompt = time.Second
)

// localError is a failure of this machine, which says nothing of the registry.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// Lookup finds the manifest of the result of a key (64 hex digits), and verifies
// that it is one: that its config has the digest of the key, that it is a result,
// and, where keys are configured, that it is signed by one of them. The manifest
// is returned as it was pushed, byte by byte.
//
// Errors: ErrNotFound, ErrDown, ErrCorrupt, and a *SignatureError that is
// ErrUnsigned or ErrBadSignature. In every case the caller builds instead.
func (r *Registry) Lookup(ctx context.Context, key string) ([]byte, error) {
	if !r.cfg.Read {
		return nil, ErrNotFound
	}
	if err := digest.NewDigestFromEncoded(digest.SHA256, key).Validate(); err != nil {
		return nil, fmt.Errorf("look up key %q: %w", key, err)
	}
	raw, err := r.manifest(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("look up key %s in %s: %w", key, r.cfg.Ref, err)
	}
	m, err := parseResult(raw)
	if err == nil && m.Config.Digest.Encoded() != key {
		err = fmt.Errorf("%w: its manifest is that of key %s", ErrCorrupt, m.Config.Digest.Encoded())
	}
	if err != nil {
		return nil, fmt.Errorf("look up key %s in %s: %w", key, r.cfg.Ref, err)
	}
	if err := r.verify(ctx, digest.FromBytes(raw), m.Annotations[store.AnnotationTarget], key, ""); err != nil {
		return nil, err
	}
	return raw, nil
}

// parseResult reads the manifest of a result. It errors with ErrCorrupt.
func parseResult(raw []byte) (*ocispec.Manifest, error) {
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	if m.ArtifactType != store.ArtifactType {
		return nil, fmt.Errorf("%w: it is a %q, want %q", ErrCorrupt, m.ArtifactType, store.ArtifactType)
	}
	if named := m.Annotations[store.AnnotationKey]; named != m.Config.Digest.Encoded() {
		return nil, fmt.Errorf("%w: its annotation %s is %q, but its config is that of key %s", ErrCorrupt, store.AnnotationKey, named, m.Config.Digest.Encoded())
	}
	return m, nil
}

// parseManifest reads a manifest whose blobs are all of SHA-256, so that their
// digests may serve as file names.
func parseManifest(raw []byte) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	if m.MediaType != "" && m.MediaType != ocispec.MediaTypeImageManifest {
		return nil, fmt.Errorf("%w: its manifest is a %q, want %q", ErrCorrupt, m.MediaType, ocispec.MediaTypeImageManifest)
	}
	for _, d := range blobsOf(&m) {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
		}
	}
	return &m, nil
}

// blobsOf is every blob of a manifest: its config, then its layers, each once.
func blobsOf(m *ocispec.Manifest) []ocispec.Descriptor {
	seen := map[digest.Digest]bool{}
	var list []ocispec.Descriptor
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list = append(list, d)
		}
	}
	return list
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 || d.Size < 0 {
		return fmt.Errorf("blob %s of %d bytes: want a sha256 digest and a size", d.Digest, d.Size)
	}
	return nil
}

// manifest gets a manifest by tag.
func (r *Registry) manifest(ctx context.Context, tag string) ([]byte, error) {
	client, err := r.connect(ctx, &r.pull)
	if err != nil {
		return nil, r.judge(ctx, err)
	}
	var raw []byte
	err = again(ctx, func() (_ int64, err error) {
		raw, err = r.manifestOnce(ctx, client, tag)
		return 0, err
	})
	return raw, r.judge(ctx, err)
}

func (r *Registry) manifestOnce(ctx context.Context, client *http.Client, tag string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := r.do(ctx, client, http.MethodGet, "manifests/"+tag, http.Header{"Accept": {ocispec.MediaTypeImageManifest}}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body := r.watch(resp.Body, cancel)
	defer body.stop()
	raw, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err != nil {
		return nil, cut(cause(ctx, err))
	}
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("%w: its manifest is larger than %d bytes", ErrCorrupt, maxManifest)
	}
	if d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest")); err == nil && d.Algorithm() == digest.SHA256 && d != digest.FromBytes(raw) {
		return nil, fmt.Errorf("%w: its manifest does not have the digest %s", ErrCorrupt, d)
	}
	return raw, nil
}

// again repeats what fails in passing, after a pause. try tells how many bytes it
// brought.
func again(ctx context.Context, try func() (int64, error)) error {
	for failed := 0; ; {
		n, err := try()
		if err == nil {
			return nil
		}
		if n >= progress {
			failed = 0
		}
		if failed++; failed == attempts || !transient(err) {
			return err
		}
		select {
		case <-time.After(pause << failed):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// do sends a request for something in the repository. Whoever gets a response
// closes its body.
func (r *Registry) do(ctx context.Context, client *http.Client, method, path string, header http.Header, accepted ...int) (*http.Response, error) {
	u := fmt.Sprintf("%s://%s/v2/%s/%s", r.repo.Scheme(), r.repo.RegistryStr(), r.repo.RepositoryStr(), path)
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	began := time.Now()
	resp, err := client.Do(req)
	r.late(time.Since(began) - prompt)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, accepted...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// Fetch writes a blob to w, as it arrives. Where the transfer breaks off, it is
// taken up again from there. The blob is what its descriptor promises when Fetch
// returns nil; otherwise the caller drops what was written. At most Config.Jobs
// blobs are fetched at a time.
//
// Errors: ErrNotFound, ErrDown, ErrCorrupt, and those of w.
func (r *Registry) Fetch(ctx context.Context, d ocispec.Descriptor, w io.Writer) error {
	if err := checkDescriptor(d); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	select {
	case r.gets <- struct{}{}:
		defer func() { <-r.gets }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.judge(ctx, r.fetch(ctx, d, w)); err != nil {
		return fmt.Errorf("fetch %s from %s: %w", d.Digest, r.cfg.Ref, err)
	}
	r.fetchedBytes.Add(d.Size)
	return nil
}

func (r *Registry) fetch(ctx context.Context, d ocispec.Descriptor, w io.Writer) error {
	client, err := r.connect(ctx, &r.pull)
	if err != nil {
		return err
	}
	verifier := d.Digest.Verifier()
	out := io.MultiWriter(&localWriter{w}, verifier)
	var offset int64
	err = again(ctx, func() (int64, error) {
		n, err := r.part(ctx, client, d, offset, out)
		offset += n
		return n, err
	})
	if err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("%w: its content does not have its digest", ErrCorrupt)
	}
	return nil
}

// part copies what a blob has after offset, and tells how much that was.
func (r *Registry) part(ctx context.Context, client *http.Client, d ocispec.Descriptor, offset int64, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{}
	if offset > 0 {
		if offset == d.Size {
			return 0, nil
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, d.Size-1))
	}
	resp, err := r.do(ctx, client, http.MethodGet, "blobs/"+d.Digest.String(), header,
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return 0, cause(ctx, err)
	}
	defer resp.Body.Close()
	body := r.watch(resp.Body, cancel)
	defer body.stop()

	rest := d.Size - offset
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return 0, fmt.Errorf("%w: it has fewer than %d bytes", ErrCorrupt, d.Size)
	case resp.StatusCode == http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return 0, fmt.Errorf("%w: asked for bytes from %d, got %q", ErrCorrupt, offset, resp.Header.Get("Content-Range"))
		}
	case resp.ContentLength >= 0 && resp.ContentLength != d.Size:
		return 0, fmt.Errorf("%w: it has %d bytes instead of %d", ErrCorrupt, resp.ContentLength, d.Size)
	case offset > 0: // the registry knows no ranges
		if _, err := io.CopyN(io.Discard, body, offset); err != nil {
			return 0, cut(cause(ctx, err))
		}
	}
	n, err := io.Copy(w, io.LimitReader(body, rest))
	if err != nil {
		return n, cut(cause(ctx, err))
	}
	if n < rest {
		return n, io.ErrUnexpectedEOF
	}
	if more, _ := io.CopyN(io.Discard, body, 1); more > 0 {
		return n, fmt.Errorf("%w: it has more than %d bytes", ErrCorrupt, d.Size)
	}
	return n, nil
}

// FetchAll fetches blobs in parallel. open gives the file that a blob is written
// to, and is called when its turn has come; the file is closed afterwards. The
// errors are those of Fetch, of open and of closing, in the order of the
// descriptors: nil where the blob is whole.
func (r *Registry) FetchAll(ctx context.Context, list []ocispec.Descriptor, open func(ocispec.Descriptor) (io.WriteCloser, error)) []error {
	errs := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(r.cfg.Jobs)
	for i, d := range list {
		group.Go(func() error {
			if errs[i] = r.Down(); errs[i] != nil {
				return nil
			}
			w, err := open(d)
			if err != nil {
				errs[i] = fmt.Errorf("fetch %s: %w", d.Digest, err)
				return nil
			}
			errs[i] = errors.Join(r.Fetch(ctx, d, w), w.Close())
			return nil
		})
	}
	_ = group.Wait() // errs has them
	return errs
}

// fetchSmall fetches a blob of at most limit bytes into memory.
func (r *Registry) fetchSmall(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%w: blob %s has %d bytes, want at most %d", ErrCorrupt, d.Digest, d.Size, limit)
	}
	var b bytes.Buffer
	err := r.Fetch(ctx, d, &b)
	return b.Bytes(), err
}

// cause is why a request ended: a stalled transfer looks like a cancelled one.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// cut marks a body that broke off, however it did, as worth another try.
func cut(err error) error {
	if errors.Is(err, errStalled) || errors.As(err, new(*localError)) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

// transient says whether a request may well succeed when sent again.
func transient(err error) bool {
	var status *transport.Error
	if errors.As(err, &status) {
		return status.StatusCode >= 500 || status.Temporary()
	}
	var timeout net.Error
	if errors.As(err, new(*localError)) || errors.As(err, &timeout) && timeout.Timeout() {
		return false // waiting even longer helps nobody
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// localWriter marks errors as those of this machine.
type localWriter struct{ w io.Writer }

// Write implements io.Writer.
func (l *localWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil {
		return n, &localError{err}
	}
	return n, nil
}

// late takes from the patience that a build has with its registry: one whose every
// answer is just in time is slow all the same.
func (r *Registry) late(by time.Duration) {
	if by > 0 && r.waited.Add(int64(by)) > int64(r.cfg.Patience) {
		_ = r.giveUp(fmt.Errorf("its answers took %v too long in all", r.cfg.Patience), "is slow", "building without it; see [cache] in slipway.toml")
	}
}

// watched ends a download that stands still or crawls. Only the time spent in
// reading counts: a slow disk is not the registry's fault.
type watched struct {
	of     *Registry
	r      io.Reader
	cancel context.CancelCauseFunc
	timer  *time.Timer
	span   span
}

func (r *Registry) watch(body io.Reader, cancel context.CancelCauseFunc) *watched {
	w := &watched{of: r, r: body, cancel: cancel, span: newSpan(&r.arrived)}
	w.timer = time.AfterFunc(r.cfg.Stall, func() { cancel(errStalled) })
	w.timer.Stop()
	return w
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	start := time.Now()
	w.timer.Reset(w.of.cfg.Stall)
	n, err := w.r.Read(p)
	w.timer.Stop()
	w.of.arrived.Add(int64(n))
	if w.span.crawls(time.Since(start), w.of.cfg.Stall) && err == nil {
		w.cancel(errStalled)
		return n, errStalled
	}
	return n, err
}

func (w *watched) stop() {
	w.timer.Stop()
	w.of.late(w.span.due() - prompt)
}

// span is a time over which the rate of a direction is looked at.
type span struct {
	moved *atomic.Int64 // bytes, of all transfers of the direction
	from  int64         // moved at its beginning
	spent time.Duration // by the network
}

func newSpan(moved *atomic.Int64) span { return span{moved: moved, from: moved.Load()} }

// due is how much longer it took than it should have.
func (s *span) due() time.Duration {
	return s.spent - time.Duration(float64(s.moved.Load()-s.from)/minRate*float64(time.Second))
}

// crawls adds time to the span. When it is full, a new one begins, and crawls says
// whether the old one was too slow.
func (s *span) crawls(spent, full time.Duration) bool {
	if s.spent += spent; s.spent < full {
		return false
	}
	slow := s.due() > 0
	*s = newSpan(s.moved)
	return slow
}

// sigTag is where cosign looks for the signatures of a digest.
func sigTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded() + ".sig"
}
