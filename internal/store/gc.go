package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// ErrInUse says that builds use the store, so that nothing may be removed now.
var ErrInUse = errors.New("the store is in use")

// Use keeps others from pruning the store until release is called. If nobody else
// uses the store, it first removes what builds that were killed left in tmp.
func (s *Store) Use() (release func(), err error) {
	if release, err := s.flock(unix.LOCK_EX); err == nil {
		s.tidy()
		release()
	}
	return s.flock(unix.LOCK_SH)
}

// keepTemp is longer than anything takes that writes to tmp without using the
// store, such as the making of a new index.
const keepTemp = time.Hour

// tidy empties tmp. What it cannot remove costs space only.
func (s *Store) tidy() {
	tmp := filepath.Join(s.dir, "tmp")
	left, _ := os.ReadDir(tmp)
	for _, e := range left {
		info, err := e.Info()
		if err == nil && (strings.HasPrefix(e.Name(), TempResult) || time.Since(info.ModTime()) > keepTemp) {
			_ = os.RemoveAll(filepath.Join(tmp, e.Name()))
		}
	}
}

func (s *Store) flock(how int) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if how == unix.LOCK_EX {
		how |= unix.LOCK_NB // the others wait: pruning takes seconds at most
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
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

// listed is a result with the digests of all that it has, its manifest included.
type listed struct {
	Info
	blobs []string
}

// List gives all results, those longest unused first.
func (s *Store) List() ([]Info, error) {
	list, err := s.list()
	infos := make([]Info, len(list))
	for i, r := range list {
		infos[i] = r.Info
	}
	return infos, err
}

func (s *Store) list() ([]listed, error) {
	var list []listed
	err := s.index.read(func(tx *bbolt.Tx) error {
		roots := map[string]bool{}
		err := eachLast(tx, func(_, key string, exists bool) { roots[key] = roots[key] || exists })
		if err != nil {
			return err
		}
		return tx.Bucket(bucketResults).ForEach(func(key, _ []byte) error {
			var e entry
			if getJSON(tx, bucketResults, string(key), &e) {
				info := Info{Key: string(key), Target: e.Target, Made: time.Unix(e.Made, 0), Used: time.Unix(e.Used, 0), Reachable: roots[string(key)]}
				list = append(list, listed{info, []string{e.Digest}})
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		r, err := s.load(list[i].blobs[0])
		if err != nil {
			continue // is dropped when it is wanted
		}
		for _, f := range r.Files {
			list[i].Size += s.blobSize(f.Digest)
		}
		list[i].blobs = append(list[i].blobs, r.Blobs()...)
	}
	slices.SortFunc(list, func(a, b listed) int {
		return cmp.Or(a.Used.Compare(b.Used), a.Made.Compare(b.Made), strings.Compare(a.Target, b.Target), strings.Compare(a.Key, b.Key))
	})
	return list, nil
}

// blobSize is how many bytes a blob has, 0 where it is not here.
func (s *Store) blobSize(d string) int64 {
	info, err := os.Stat(s.Path(d))
	if err != nil {
		return 0
	}
	return info.Size()
}

// eachLast gives what workspaces had last, and whether they still exist.
func eachLast(tx *bbolt.Tx, f func(root, key string, exists bool)) error {
	there := map[string]bool{}
	return tx.Bucket(bucketLast).ForEach(func(row, key []byte) error {
		root, _, _ := strings.Cut(string(row), "\x00")
		exists, known := there[root]
		if !known {
			_, err := os.Stat(root)
			exists = err == nil
			there[root] = exists
		}
		f(root, string(key), exists)
		return nil
	})
}

// Roots are the folders of the workspaces that had results here and still exist,
// sorted.
func (s *Store) Roots() ([]string, error) {
	roots := map[string]bool{}
	err := s.index.read(func(tx *bbolt.Tx) error {
		return eachLast(tx, func(root, _ string, exists bool) {
			if exists {
				roots[root] = true
			}
		})
	})
	return slices.Sorted(maps.Keys(roots)), err
}

// Usage is what results take up, in bytes that are allocated on the disk. A blob
// that several results have counts once.
type Usage struct {
	Results, Reachable int // how many; of them those that a workspace that still exists had last
	Bytes              int64
	ReachableBytes     int64     // of Bytes: what reachable results have
	UnusedBytes        int64     // of Bytes: what no result has; it goes with the next Prune
	Oldest             time.Time // when the longest unused was last wanted, exact to a day; zero without results
}

// Usage measures the results.
func (s *Store) Usage() (Usage, error) {
	list, err := s.list()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Results: len(list)}
	if len(list) > 0 {
		u.Oldest = list[0].Used
	}
	const wanted, reachable = 1, 2
	state := map[string]int{}
	for _, r := range list {
		as := wanted
		if r.Reachable {
			u.Reachable++
			as = reachable
		}
		for _, d := range r.blobs {
			name := strings.TrimPrefix(d, "sha256:")
			state[name] = max(state[name], as)
		}
	}
	blobs, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256"))
	if err != nil {
		return Usage{}, err
	}
	for _, b := range blobs {
		info, err := b.Info()
		if err != nil {
			continue // removed meanwhile
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		size := st.Blocks * 512 // the unit of st_blocks, see stat(2)
		u.Bytes += size
		switch state[b.Name()] {
		case reachable:
			u.ReachableBytes += size
		case 0:
			u.UnusedBytes += size
		}
	}
	return u, nil
}

// PruneOptions say what may go. What is not reachable goes before what is.
type PruneOptions struct {
	OlderThan time.Duration      // remove what no build has wanted for so long; 0: age is no reason
	MaxBytes  int64              // remove the longest unused until all blobs of results together are no larger; 0: size is no reason
	Reachable bool               // also remove by age what workspaces that still exist had last
	DryRun    bool               // remove nothing
	Also      func(Pruned) error // runs before builds may use the store again; may be nil
}

// Pruned is what Prune removed, or would remove.
type Pruned struct {
	Results []Info
	Bytes   int64 // of all blobs that went, those of dropped results included; not of those that a view still holds
}

// Prune removes results, and then the blobs that no result has. The error is
// ErrInUse while a build runs.
func (s *Store) Prune(opt PruneOptions) (Pruned, error) {
	release, err := s.flock(unix.LOCK_EX)
	if err != nil {
		return Pruned{}, err
	}
	defer release()
	list, err := s.list()
	if err != nil {
		return Pruned{}, err
	}
	var total int64
	uses := map[string]int{} // of blobs
	for _, r := range list {
		for _, d := range r.blobs {
			if uses[d]++; uses[d] == 1 {
				total += s.blobSize(d)
			}
		}
	}
	var p Pruned
	gone := map[string]bool{}
	remove := func(r listed) {
		if gone[r.Key] {
			return
		}
		gone[r.Key] = true
		for _, d := range r.blobs {
			if uses[d]--; uses[d] == 0 {
				total -= s.blobSize(d)
			}
		}
		p.Results = append(p.Results, r.Info)
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
	if p.Bytes, err = s.sweep(gone, opt.DryRun); err == nil && opt.Also != nil {
		err = opt.Also(p)
	}
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
			for _, d := range r.Blobs() {
				wanted[strings.TrimPrefix(d, "sha256:")] = true
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
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink == 1 { // else a view still holds it
			freed += info.Size()
		}
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
	_, bad, err := s.Check(key)
	if err == nil && len(bad) > 0 {
		err = bad[0]
	}
	return err
}

// Check reads all of the result of a key: manifest, inputs, attachments and files.
// It gives the result as far as the manifest can be read, nil where there is none,
// and what is damaged or missing; these errors wrap ErrCorrupt or fs.ErrNotExist.
// Files of results that came from the team cache may be missing, see Missing.
// Damaged blobs are removed, the entry is left to Drop.
func (s *Store) Check(key string) (r *Result, bad []error, err error) {
	var e entry
	ok := false
	err = s.index.read(func(tx *bbolt.Tx) error {
		ok = getJSON(tx, bucketResults, key, &e)
		return nil
	})
	if err != nil || !ok {
		return nil, nil, err
	}
	note := func(what string, wrong error) {
		switch {
		case errors.Is(wrong, ErrCorrupt), errors.Is(wrong, fs.ErrNotExist):
			bad = append(bad, fmt.Errorf("%s: %w", what, wrong))
		case wrong != nil:
			err = errors.Join(err, fmt.Errorf("%s: %w", what, wrong))
		}
	}
	r, wrong := s.load(e.Digest)
	if note("manifest", wrong); r == nil {
		return nil, bad, err
	}
	if r.Key != key {
		note("manifest", fmt.Errorf("%w: it is that of key %s", ErrCorrupt, r.Key))
		return nil, bad, err
	}
	_, wrong = s.Inputs(r)
	note("inputs", wrong)
	for _, a := range r.Attachments {
		note(a.MediaType, s.verifyBlob(a.Digest, a.Size))
	}
	for _, f := range r.Files {
		if wrong := s.verifyBlob(f.Digest, f.Size); !e.Lazy || !errors.Is(wrong, fs.ErrNotExist) {
			note(f.Name, wrong)
		}
	}
	return r, bad, err
}
