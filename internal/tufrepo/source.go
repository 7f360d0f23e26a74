package tufrepo

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

// Source is where the files of a repository are read from. Names are relative
// to the repository, with slashes.
type Source interface {
	// Open reads a file; the error wraps fs.ErrNotExist where there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	String() string
}

// OpenSource is the source for a folder, or an address with http:// or https://.
func OpenSource(place string) (Source, error) {
	if strings.HasPrefix(place, "http://") || strings.HasPrefix(place, "https://") {
		if _, err := url.Parse(place); err != nil {
			return nil, err
		}
		return Web{Base: place}, nil
	}
	if strings.Contains(place, "://") {
		return nil, fmt.Errorf("%s: want a folder or an address with http:// or https://", place)
	}
	return Folder(place), nil
}

// Folder is a source: a repository in the file system.
type Folder string

// Open opens a file.
func (f Folder) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), filepath.FromSlash(name)))
}

func (f Folder) String() string { return string(f) }

// Web is a source: a repository behind an HTTP server that serves its files.
type Web struct {
	Base   string
	Client *http.Client // nil: http.DefaultClient
}

// Open asks for a file. Servers that do not tell who may read nothing what
// there is answer 403 for what is missing.
func (w Web) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	address, err := url.JoinPath(w.Base, name)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := w.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		return res.Body, nil
	case http.StatusNotFound, http.StatusForbidden:
		err = fs.ErrNotExist
	default:
		err = errors.New("the server does not have it")
	}
	res.Body.Close()
	return nil, fmt.Errorf("%s: %s: %w", address, res.Status, err)
}

func (w Web) String() string { return w.Base }

// fetcher lets go-tuf's updater read from a source.
type fetcher struct {
	ctx    context.Context // go-tuf's interface has no place for one
	source Source
}

// base stands before every name that the updater asks for.
const base = "repository:/"

func (f fetcher) DownloadFile(address string, limit int64, _ time.Duration) ([]byte, error) {
	name := strings.TrimPrefix(address, base)
	r, err := f.source.Open(f.ctx, name)
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
	return data, nil
}
