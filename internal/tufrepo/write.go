package tufrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Below the repository is a folder for what readers never need: the lock, and
// changes that wait for signatures.
const (
	privateDir = ".slipway"
	lockFile   = privateDir + "/lock"
	stagedDir  = privateDir + "/staged"
)

// ErrBusy says that another process is changing the repository.
var ErrBusy = errors.New("another process is changing the repository")

// ErrNone says that a folder holds no repository.
var ErrNone = errors.New("no update repository")

// Repo is a repository that is open for changes, by this process alone.
type Repo struct {
	dir     string
	lock    *flock.Flock
	now     func() time.Time
	step    func(string) error // called before each change in the file system
	current *state             // nil before Init was published
}

// Options are the settings of Open.
type Options struct {
	Create bool             // make the folder where there is none
	Now    func() time.Time // nil: time.Now
}

// Open takes the lock of the repository in a folder, and verifies its metadata
// from 1.root.json on. Expired metadata are no error. The error wraps ErrBusy
// while another process holds the lock.
func Open(ctx context.Context, dir string, o Options) (*Repo, error) {
	r := &Repo{dir: dir, now: o.Now, step: func(string) error { return nil }}
	if r.now == nil {
		r.now = time.Now
	}
	if !o.Create {
		if _, err := os.Stat(filepath.Join(dir, privateDir)); errors.Is(err, fs.ErrNotExist) {
			return nil, r.none()
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, privateDir), 0o755); err != nil {
		return nil, err
	}
	r.lock = flock.New(filepath.Join(dir, lockFile))
	locked, err := r.lock.TryLock()
	if err != nil {
		return nil, err
	}
	if !locked {
		return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
	}
	if err := r.load(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Repo) none() error {
	return fmt.Errorf("%w in %s: slipway repo init makes one", ErrNone, r.dir)
}

// load reads the published state; without a timestamp nothing was published.
func (r *Repo) load(ctx context.Context) error {
	if _, err := os.Stat(r.path(metadata.TIMESTAMP + ".json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	root, err := os.ReadFile(r.path("1.root.json"))
	if err != nil {
		return err
	}
	r.current, err = read(ctx, Folder(r.dir), root, "", never)
	if err != nil {
		return fmt.Errorf("the repository in %s is damaged: %w", r.dir, err)
	}
	return nil
}

// Close gives the lock back.
func (r *Repo) Close() error { return r.lock.Close() }

func (r *Repo) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

// write puts a file into the repository: readers see either the old one or
// all of the new one, also after a crash. With check, the file comes into being
// only when that finds nothing.
func (r *Repo) write(ctx context.Context, name string, content io.Reader, check func() error) (err error) {
	dest := r.path(name)
	if err := r.step("make the folder of " + name); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return err
	}
	if err := r.step("create " + name); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(dest), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil && r.step("clean up "+name) == nil {
			os.Remove(f.Name())
		}
	}()
	if err := r.step("fill " + name); err != nil {
		return err
	}
	if _, err := io.Copy(f, reader{ctx, content}); err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	if check != nil {
		if err := check(); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", dest, err)
	}
	if err := r.step("rename " + name); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), dest); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dest))
}

func (r *Repo) writeBytes(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, bytes.NewReader(data), nil)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

var numbered = regexp.MustCompile(`^([0-9]+)\.([a-z]+)\.json$`)

// nextVersion is the version that follows for a role. What a crash left behind
// is never reused: somebody may have copied it.
func (r *Repo) nextVersion(role string, current int64) (int64, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if m := numbered.FindStringSubmatch(e.Name()); m != nil && m[2] == role {
			if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
				current = max(current, n)
			}
		}
	}
	return current + 1, nil
}
