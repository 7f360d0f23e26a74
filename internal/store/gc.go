package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// ErrInUse says that builds use the store, so that nothing may be removed now.
var ErrInUse = errors.New("the store is in use")

// Use keeps others from pruning the store until release is called.
func (s *Store) Use() (release func(), err error) { return s.flock(unix.LOCK_SH) }

func (s *Store) flock(how int) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if how == unix.LOCK_SH {
		err = unix.Flock(int(f.Fd()), how) // pruning takes seconds at most
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Info describes one result of the store.
type Info struct {
	Key, Target string
	Size        int64     // bytes of the files that are here
	Made        time.Time // when it came into the store
	Used        time.Time // when a build last wanted it, exact to a day
	Reachable   bool      // a workspace that still exists had it last
}

// List gives all results, those longest unused first.
func (s *Store) List() ([]Info, error) {
	var list []Info
	var manifests []string
	err := s.index.read(func(tx *bbolt.Tx) error {
		roots, there := map[string]bool{}, map[string]bool{}
		err := tx.Bucket(bucketLast).ForEach(func(row, key []byte) error {
			root, _, _ := strings.Cut(string(row), "\x00")
			exists, known := there[root]
			if !known {
				_, err := os.Stat(root)
				exists = err == nil
				there[root] = exists
			}
			roots[string(key)] = roots[string(key)] || exists
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketResults).ForEach(func(key, _ []byte) error {
			var e entry
			if getJSON(tx, bucketResults, string(key), &e) {
				list = append(list, Info{Key: string(key), Target: e.Target, Made: time.Unix(e.Made, 0), Used: time.Unix(e.Used, 0), Reachable: roots[string(key)]})
				manifests = append(manifests, e.Digest)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		r, err := s.load(manifests[i])
		if err != nil {
			continue // is dropped when it is wanted
		}
		for _, f := range r.Files {
			if st, err := os.Stat(s.Path(f.Digest)); err == nil {
				list[i].Size += st.Size()
			}
		}
	}
	slices.SortFunc(list, func(a, b Info) int {
		return cmp.Or(a.Used.Compare(b.Used), a.Made.Compare(b.Made), strings.Compare(a.Target, b.Target), strings.Compare(a.Key, b.Key))
	})
	return list, nil
}

// PruneOptions say what may go. What is not reachable goes before what is.
type PruneOptions struct {
	OlderThan time.Duration // remove what no build has wanted for so long; 0: age is no reason
	MaxBytes  int64         // remove the longest unused until the results are no larger; 0: size is no reason
	Reachable bool          // also remove by age what workspaces that still exist had last
	DryRun    bool          // remove nothing
}

// Pruned is what Prune removed, or would remove.
type Pruned struct {
	Results []Info
	Bytes   int64 // of all blobs that went, those of dropped results included
}

// Prune removes results, and then the blobs that no result has. The error is
// ErrInUse while a build runs.
func (s *Store) Prune(opt PruneOptions) (Pruned, error) {
	release, err := s.flock(unix.LOCK_EX)
	if err != nil {
		return Pruned{}, err
	}
	defer release()
	list, err := s.List()
	if err != nil {
		return Pruned{}, err
	}
	var total int64
	for _, r := range list {
		total += r.Size
	}
	var p Pruned
	gone := map[string]bool{}
	remove := func(r Info) {
		if !gone[r.Key] {
			gone[r.Key] = true
			total -= r.Size
			p.Results = append(p.Results, r)
		}
	}
	for _, r := range list {
		if opt.OlderThan > 0 && time.Since(r.Used) > opt.OlderThan && (opt.Reachable || !r.Reachable) {
			remove(r)
		}
	}
	for _, reachable := range []bool{false, true} {
		for _, r := range list {
			if opt.MaxBytes > 0 && total > opt.MaxBytes && r.Reachable == reachable {
				remove(r)
			}
		}
	}
	if !opt.DryRun && len(gone) > 0 {
		err := s.index.write(func(tx *bbolt.Tx) error {
			for key := range gone {
				if err := tx.Bucket(bucketResults).Delete([]byte(key)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return p, err
		}
	}
	p.Bytes, err = s.sweep(gone, opt.DryRun)
	return p, err
}

// sweep removes the blobs that no result has; those of gone count as removed.
func (s *Store) sweep(gone map[string]bool, dryRun bool) (freed int64, err error) {
	wanted := map[string]bool{}
	err = s.index.read(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketResults).ForEach(func(key, _ []byte) error {
			var e entry
			if gone[string(key)] || !getJSON(tx, bucketResults, string(key), &e) {
				return nil
			}
			wanted[strings.TrimPrefix(e.Digest, "sha256:")], wanted[string(key)] = true, true
			r, err := s.load(e.Digest)
			if err != nil {
				return nil // is dropped when it is wanted
			}
			for _, f := range r.Files {
				wanted[strings.TrimPrefix(f.Digest, "sha256:")] = true
			}
			for _, a := range r.Attachments {
				wanted[strings.TrimPrefix(a.Digest, "sha256:")] = true
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	blobs, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256"))
	if err != nil {
		return 0, err
	}
	for _, b := range blobs {
		info, err := b.Info()
		if err != nil || wanted[b.Name()] {
			continue
		}
		freed += info.Size()
		if !dryRun {
			if err := os.Remove(filepath.Join(s.dir, "blobs", "sha256", b.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return freed, err
			}
		}
	}
	return freed, nil
}

// Damage is a result that Verify found damaged, and dropped.
type Damage struct {
	Target, Key string
	Err         error // wraps ErrCorrupt, or fs.ErrNotExist for a file that is missing
}

// VerifyAll reads every result of the store again. Damaged ones are dropped, so
// that the next build makes them again, and returned. ctx stops it between
// results.
func (s *Store) VerifyAll(ctx context.Context) (checked int, bad []Damage, err error) {
	list, err := s.List()
	if err != nil {
		return 0, nil, err
	}
	for _, info := range list {
		if err := ctx.Err(); err != nil {
			return checked, bad, context.Cause(ctx)
		}
		checked++
		if err := s.verifyEntry(info.Key); err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
				return checked, bad, err
			}
			bad = append(bad, Damage{Target: info.Target, Key: info.Key, Err: err})
			if err := s.Drop(info.Key); err != nil {
				return checked, bad, err
			}
		}
	}
	return checked, bad, nil
}

func (s *Store) verifyEntry(key string) error {
	var e entry
	ok := false
	err := s.index.read(func(tx *bbolt.Tx) error {
		ok = getJSON(tx, bucketResults, key, &e)
		return nil
	})
	if err != nil || !ok { // dropped meanwhile
		return err
	}
	r, err := s.load(e.Digest)
	if err != nil {
		return err
	}
	if _, err := s.Inputs(r); err != nil {
		return err
	}
	for _, a := range r.Attachments {
		if err := s.verifyBlob(a.Digest, a.Size); err != nil {
			return fmt.Errorf("%s: %w", a.MediaType, err)
		}
	}
	for _, f := range r.Files {
		if err := s.verifyBlob(f.Digest, f.Size); err != nil && (!e.Lazy || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}
