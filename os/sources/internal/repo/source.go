package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// source is where the files of a repository are read from. Names are relative
// to it, with slashes.
type source interface {
	// open reads a file from the offset on, or from its start: from says which.
	// The error wraps fs.ErrNotExist where there is no such file.
	open(ctx context.Context, name string, offset int64) (r io.ReadCloser, from int64, err error)
	String() string
}

// openSource is the source for a folder, such as that of a mounted disk, or an
// address with file://, http:// or https://.
func openSource(place string, idle time.Duration) (source, error) {
	u, err := url.Parse(place)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", place, err)
	}
	switch {
	case u.Scheme == "http" || u.Scheme == "https":
		return web{place, idle}, nil
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost"):
		return folder(u.Path), nil
	case filepath.IsAbs(place):
		return folder(place), nil
	}
	return nil, fmt.Errorf("repository %q: want an absolute path or an address with https://, http:// or file:///", place)
}

type folder string

func (f folder) String() string { return string(f) }

func (f folder) open(_ context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	file, err := os.Open(filepath.Join(string(f), filepath.FromSlash(name)))
	if err != nil {
		return nil, 0, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, offset, nil
}

// web is a server, whose answers are given up when for the time idle not a byte
// comes. A download as a whole has no limit: an image may take hours.
type web struct {
	address string
	idle    time.Duration
}

func (w web) String() string { return w.address }

func (w web) open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	address, err := url.JoinPath(w.address, name)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b := &body{ctx: ctx, cancel: cancel, idle: w.idle}
	b.timer = time.AfterFunc(w.idle, func() { cancel(fmt.Errorf("nothing came for %s", w.idle)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, errors.Join(err, b.Close())
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := http.DefaultClient.Do(req)
	b.timer.Stop()
	if err != nil {
		return nil, 0, errors.Join(b.cause(err), b.Close())
	}
	b.ReadCloser = res.Body
	switch res.StatusCode {
	case http.StatusOK:
		return b, 0, nil
	case http.StatusPartialContent:
		if strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return b, offset, nil
		}
		err = fmt.Errorf("asked for what follows byte %d, got range %q", offset, res.Header.Get("Content-Range"))
	case http.StatusNotFound, http.StatusForbidden: // some servers do not tell what they lack
		err = fs.ErrNotExist
	default:
		err = errors.New("the server does not give it out")
	}
	b.Close()
	return nil, 0, fmt.Errorf("%s: %s: %w", address, res.Status, err)
}

// body is an answer; the timer runs while something is waited for.
type body struct {
	io.ReadCloser // nil before there is one
	ctx           context.Context
	cancel        context.CancelCauseFunc
	timer         *time.Timer
	idle          time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	return n, b.cause(err)
}

// cause is why the request was given up, where that is what an error comes from.
func (b *body) cause(err error) error {
	if cause := context.Cause(b.ctx); err != nil && err != io.EOF && cause != nil {
		return cause
	}
	return err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	if b.ReadCloser == nil {
		return nil
	}
	return b.ReadCloser.Close()
}

// fetcher lets go-tuf's updater read metadata from a source. It remembers the
// roots, which are the way from the one the machine was built with to the last.
type fetcher struct {
	ctx    context.Context // go-tuf's interface has no place for one
	source source
	roots  map[string][]byte
}

// base stands before every name that go-tuf asks for.
const base = "repository:/"

func (f *fetcher) DownloadFile(address string, limit int64, _ time.Duration) ([]byte, error) {
	name := strings.TrimPrefix(address, base)
	r, _, err := f.source.open(f.ctx, name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: f.source.String() + "/" + name}
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is larger than %d bytes", name, limit)}
	}
	if strings.HasSuffix(name, ".root.json") {
		f.roots[name] = data
	}
	return data, nil
}
