package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Buckets of the index.
var (
	bucketResults = []byte("results") // key → entry
	bucketHistory = []byte("history") // arch NUL target → History of the last build
	bucketLast    = []byte("last")    // workspace root NUL arch NUL target → key
)

const (
	indexFile = "index.db"
	// indexWait bounds how long another process may hold the index; each does for
	// milliseconds, or while it plans. Results that took long to make wait longer.
	indexWait = time.Minute
	// indexTry is how often the end of the wait is looked at.
	indexTry = 100 * time.Millisecond
)

// entry is what the index knows of one result.
type entry struct {
	Digest string   `json:"digest"` // of the manifest
	Target string   `json:"target"`
	Made   int64    `json:"made"`           // seconds since 1970
	Used   int64    `json:"used"`           // likewise, exact to a day
	Lazy   bool     `json:"lazy,omitempty"` // files may be missing: they lie in the team cache
	Sigs   []string `json:"sigs"`           // of the files as they were when their digests were last checked
}

// index is a bbolt file. bbolt lets one process at a time write and holds a lock
// while the file is open, so it is opened for each transaction, or for a session
// of reads.
type index struct {
	dir string // of the store

	mu      sync.Mutex
	session *bbolt.DB // open for reading only
	pending []func(*bbolt.Tx) error
}

// open waits for other processes until ctx ends.
func (x *index) open(ctx context.Context, readOnly bool) (*bbolt.DB, error) {
	path := filepath.Join(x.dir, indexFile)
	for {
		db, err := bbolt.Open(path, 0o644, &bbolt.Options{Timeout: indexTry, ReadOnly: readOnly, FreelistType: bbolt.FreelistMapType})
		if !errors.Is(err, berrors.ErrTimeout) {
			return db, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("another process holds %s: end it: %w", path, context.Cause(ctx))
		}
	}
}

// guarded runs a transaction on a file that may be damaged: bbolt panics, or runs
// out of the mapped file, where a page is not what it should be.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrCorrupt, indexFile, r)
		}
	}()
	return f()
}

// create makes the index, anew from the manifests, where it is missing.
func (x *index) create() error {
	there := func() error {
		_, err := os.Stat(filepath.Join(x.dir, indexFile))
		return err
	}
	if there() == nil {
		return nil
	}
	return x.mend(there)
}

// mend makes the index anew where try still finds it damaged, and tries again. Of
// several processes one does: an index that another makes a moment later would
// lack what was stored meanwhile.
func (x *index) mend(try func() error) error {
	lock, err := os.OpenFile(filepath.Join(x.dir, "index.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := try(); !damaged(err) {
		return err
	}
	if err := x.rebuild(); err != nil {
		return err
	}
	return try()
}

// damaged tells whether an error means that the index file itself is no good.
func damaged(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) ||
		errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, unix.EBADF) // an empty file, which bbolt would fill
}

// rebuild writes a new index of all results whose manifests are in the store.
// What is not in manifests, such as when a result was last used, is lost.
func (x *index) rebuild() error {
	blobs, err := os.ReadDir(filepath.Join(x.dir, "blobs", "sha256"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Join(x.dir, "tmp"), "index-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := (&index{dir: dir}).open(context.Background(), false)
	if err != nil {
		return err
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketResults, bucketHistory, bucketLast} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		newest := map[string]int64{}
		for _, b := range blobs {
			info, err := b.Info()
			if err != nil || info.Size() > maxManifest {
				continue
			}
			raw, err := os.ReadFile(filepath.Join(x.dir, "blobs", "sha256", b.Name()))
			if err != nil || !strings.HasPrefix(string(raw), "{") || !strings.Contains(string(raw), ArtifactType) {
				continue
			}
			r, err := parse("sha256:"+b.Name(), raw)
			if at := info.ModTime().Unix(); err == nil && at >= newest[r.Key] {
				newest[r.Key] = at
				// whether files are missing for good shows when they are wanted
				e := entry{Digest: r.Digest, Target: r.Target, Made: at, Used: at, Lazy: true, Sigs: make([]string, len(r.Files))}
				if err := putJSON(tx, bucketResults, r.Key, e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, indexFile), filepath.Join(x.dir, indexFile))
}

// begin opens the index for many reads; writes are put off until end.
func (x *index) begin() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.session != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), indexWait)
	defer cancel()
	db, err := x.open(ctx, true)
	if err == nil {
		x.session = db
	}
	return err
}

func (x *index) end() error {
	x.mu.Lock()
	db, pending := x.session, x.pending
	x.session, x.pending = nil, nil
	x.mu.Unlock()
	var err error
	if db != nil { // else it was damaged
		err = db.Close()
	}
	if len(pending) > 0 {
		err = errors.Join(err, x.write(func(tx *bbolt.Tx) error {
			for _, f := range pending {
				if err := f(tx); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return err
}

func (x *index) read(f func(*bbolt.Tx) error) error {
	for {
		x.mu.Lock()
		db := x.session
		if db == nil {
			defer x.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), indexWait)
			defer cancel()
			return x.repairing(ctx, true, func(db *bbolt.DB) error { return db.View(f) })
		}
		x.mu.Unlock()
		err := guarded(func() error { return db.View(f) })
		if !damaged(err) && !errors.Is(err, berrors.ErrDatabaseNotOpen) { // not open: it was for others that it ended
			return err
		}
		x.mu.Lock()
		if x.session == db {
			x.session = nil // without one, the index is mended
			_ = db.Close()  // waits for who reads it
		}
		x.mu.Unlock()
	}
}

func (x *index) write(f func(*bbolt.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), indexWait)
	defer cancel()
	return x.writeWithin(ctx, f)
}

// writeWithin waits for other processes until ctx ends.
func (x *index) writeWithin(ctx context.Context, f func(*bbolt.Tx) error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.session != nil {
		x.pending = append(x.pending, f)
		return nil
	}
	return x.repairing(ctx, false, func(db *bbolt.DB) error { return db.Update(f) })
}

// repairing runs f on the open index, and again on a new one where it is damaged.
func (x *index) repairing(ctx context.Context, readOnly bool, f func(*bbolt.DB) error) error {
	try := func() error {
		return guarded(func() error {
			db, err := x.open(ctx, readOnly)
			if err != nil {
				return err
			}
			defer db.Close()
			return f(db)
		})
	}
	err := try()
	if damaged(err) {
		err = x.mend(try)
	}
	if err != nil {
		return fmt.Errorf("index of the store: %w", err)
	}
	return nil
}

func putJSON(tx *bbolt.Tx, bucket []byte, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(key), raw)
}

// getJSON reads a value; what cannot be read counts as missing.
func getJSON(tx *bbolt.Tx, bucket []byte, key string, v any) bool {
	b := tx.Bucket(bucket)
	if b == nil {
		return false
	}
	raw := b.Get([]byte(key))
	return raw != nil && json.Unmarshal(raw, v) == nil
}

// History is how the last build of a target went.
type History struct {
	Key    string  `json:"key"`
	Wall   float64 `json:"wall"`   // seconds that its sandbox took
	CPU    float64 `json:"cpu"`    // seconds of user and system time
	Memory int64   `json:"memory"` // peak, bytes; 0 where it is not known
}

// remember takes how the build of a result went on another machine for the history
// of its target, where this one has none: that is better than knowing nothing.
func remember(tx *bbolt.Tx, r *Result) error {
	row := r.Annotations[AnnotationArch] + "\x00" + r.Target
	if getJSON(tx, bucketHistory, row, new(History)) {
		return nil
	}
	h := History{Key: r.Key}
	var errs [3]error
	h.Wall, errs[0] = strconv.ParseFloat(r.Annotations[AnnotationWall], 64)
	h.CPU, errs[1] = strconv.ParseFloat(r.Annotations[AnnotationCPU], 64)
	h.Memory, errs[2] = strconv.ParseInt(r.Annotations[AnnotationMemory], 10, 64)
	const most = 1e9 // seconds; also tells what is not a number
	if errors.Join(errs[:]...) != nil || !(h.Wall >= 0 && h.Wall < most) || !(h.CPU >= 0 && h.CPU < most) || h.Memory < 0 {
		return nil
	}
	return putJSON(tx, bucketHistory, row, h)
}

// History gives how the last build of a target went, on this machine if it built
// it.
func (s *Store) History(arch, target string) (History, bool) {
	var h History
	ok := false
	err := s.index.read(func(tx *bbolt.Tx) error {
		ok = getJSON(tx, bucketHistory, arch+"\x00"+target, &h)
		return nil
	})
	return h, ok && err == nil
}

// Last is the key of the result that a workspace had of a target last, or "".
func (s *Store) Last(root, arch, target string) string {
	key := ""
	_ = s.index.read(func(tx *bbolt.Tx) error {
		key = string(tx.Bucket(bucketLast).Get([]byte(root + "\x00" + arch + "\x00" + target)))
		return nil
	})
	return key
}

// SetLast records the keys of the results that a workspace has now, by target.
func (s *Store) SetLast(root, arch string, keys map[string]string) error {
	changed := map[string]string{}
	err := s.index.read(func(tx *bbolt.Tx) error {
		for target, key := range keys {
			if row := root + "\x00" + arch + "\x00" + target; string(tx.Bucket(bucketLast).Get([]byte(row))) != key {
				changed[row] = key
			}
		}
		return nil
	})
	if err != nil || len(changed) == 0 {
		return err
	}
	return s.index.write(func(tx *bbolt.Tx) error {
		for row, key := range changed {
			if err := tx.Bucket(bucketLast).Put([]byte(row), []byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
}
