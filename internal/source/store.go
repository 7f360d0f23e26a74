package source

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Store is a directory of verified files, named by digest. Any number of processes may use it at once.
//
//	blobs/sha256/<hex>   the files, mode 0444; with oci-layout and index.json an OCI image layout, which engines read as it is
//	sha512/<hex>         the SHA-256 of the file that has this SHA-512
//	sha256/<hex>         the reverse
//	tmp/                 downloads under way or broken off
//	locks/               one for each digest being fetched
type Store struct{ dir string }

// Blob is a verified file of the store.
type Blob struct {
	Path           string // absolute
	SHA256, SHA512 string // lower-case hex
	Size           int64  // bytes
}

// keepParts is how long a broken-off download waits to be resumed.
const keepParts = 7 * 24 * time.Hour

// Open uses the store in dir and makes it if need be.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open source store: %w", err)
	}
	s := &Store{dir: dir}
	for _, d := range []string{"blobs/sha256", "sha512", "sha256", "tmp", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open source store: %w", err)
		}
	}
	for name, content := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			if err := s.writeFile(name, content); err != nil {
				return nil, fmt.Errorf("open source store: %w", err)
			}
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return nil, fmt.Errorf("open source store: %w", err)
	}
	for _, e := range left {
		if info, err := e.Info(); err == nil && time.Since(changed(info)) > keepParts {
			_ = os.RemoveAll(filepath.Join(dir, "tmp", e.Name()))
		}
	}
	return s, nil
}

// changed is the inode change time: apt sets a download's modification time to the server's.
func changed(info fs.FileInfo) time.Time {
	st := info.Sys().(*syscall.Stat_t)
	return time.Unix(st.Ctim.Unix())
}

// key names the file in locks and parts.
func (i *Item) key() string {
	if i.SHA512 != "" {
		return i.SHA512
	}
	return i.SHA256
}

// Lookup finds an item by its digests, without reading the file: it was verified when it came in (see Verify for later damage).
func (s *Store) Lookup(item Item) (Blob, bool) {
	b := Blob{SHA256: item.SHA256, SHA512: item.SHA512}
	if b.SHA512 != "" {
		sum, ok := s.readIndex("sha512", b.SHA512, 64)
		if !ok || b.SHA256 != "" && b.SHA256 != sum {
			return Blob{}, false
		}
		b.SHA256 = sum
	}
	if !isHex(b.SHA256, 64) {
		return Blob{}, false
	}
	// Both directions must agree, so that a damaged index file is a miss and never the wrong file.
	sum, ok := s.readIndex("sha256", b.SHA256, 128)
	if !ok || b.SHA512 != "" && b.SHA512 != sum {
		return Blob{}, false
	}
	b.SHA512 = sum
	b.Path = s.blobPath(b.SHA256)
	st, err := os.Stat(b.Path)
	if err != nil || !st.Mode().IsRegular() {
		return Blob{}, false
	}
	b.Size = st.Size()
	return b, true
}

func (s *Store) blobPath(sha256 string) string { return filepath.Join(s.dir, "blobs/sha256", sha256) }

func (s *Store) readIndex(kind, digest string, n int) (string, bool) {
	if strings.ContainsRune(digest, '/') {
		return "", false
	}
	data, err := os.ReadFile(filepath.Join(s.dir, kind, digest))
	return string(data), err == nil && isHex(string(data), n)
}

// Add takes a file into the store that r gives. The error is a *DigestError where it does not have the SHA-256 (64 hex digits). What
// is there already, undamaged, is not written again. ctx ends the wait for another process that brings the same file.
func (s *Store) Add(ctx context.Context, sum string, r io.Reader) error {
	if !isHex(sum, 64) {
		return fmt.Errorf("add to source store: %q is not a SHA-256", sum)
	}
	item := &Item{Name: sum, SHA256: sum}
	unlock, err := s.lock(ctx, item.key())
	if err != nil {
		return err
	}
	defer unlock()
	if b, ok := s.Lookup(*item); ok {
		if b, err = HashFile(b.Path); err == nil && b.SHA256 == sum {
			h := sha256.New()
			n, err := io.Copy(h, r)
			if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != sum {
				err = &DigestError{Item: item, URL: "what is given", Algorithm: "sha256", Want: sum, Got: got, Size: n}
			}
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "new-*")
	if err != nil {
		return &storeError{err: err}
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return s.failed(f.Name(), err, n, 0)
	}
	_, err = s.admit(item, f.Name(), "what is given")
	return err
}

// Damage is a file of the store that no longer has the content that its name says.
type Damage struct {
	Path      string
	Want, Got string // SHA-256, hex
}

// Verify reads every file of the store again, counts them, removes those that are damaged and returns them; they are fetched again when next
// needed. Lost or damaged index files are mended. ctx stops it between files.
func (s *Store) Verify(ctx context.Context) (checked int, bad []Damage, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "blobs/sha256"))
	if err != nil {
		return 0, nil, fmt.Errorf("verify source store: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return checked, bad, fmt.Errorf("verify source store: %w", err)
		}
		path := s.blobPath(e.Name())
		b, err := HashFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return checked, bad, fmt.Errorf("verify source store: %w", err)
		}
		checked++
		if b.SHA256 != e.Name() {
			bad = append(bad, Damage{Path: path, Want: e.Name(), Got: b.SHA256})
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return checked, bad, fmt.Errorf("verify source store: %w", err)
			}
			continue
		}
		if _, ok := s.Lookup(Item{SHA256: b.SHA256, SHA512: b.SHA512}); !ok {
			if err := s.writeIndex(b); err != nil {
				return checked, bad, fmt.Errorf("verify source store: %w", err)
			}
		}
	}
	return checked, bad, nil
}

// HashFile reads a file once and returns its path, both digests and its size.
func HashFile(path string) (Blob, error) {
	f, err := os.Open(path)
	if err != nil {
		return Blob{}, err
	}
	defer f.Close()
	h256, h512 := sha256.New(), sha512.New()
	n, err := io.Copy(io.MultiWriter(h256, h512), f)
	if err != nil {
		return Blob{}, err
	}
	return Blob{Path: path, SHA256: hex.EncodeToString(h256.Sum(nil)), SHA512: hex.EncodeToString(h512.Sum(nil)), Size: n}, nil
}

// admit verifies a complete download and moves it into the store; what does not fit is removed.
func (s *Store) admit(item *Item, part, from string) (Blob, error) {
	b, err := HashFile(part)
	if err != nil {
		return Blob{}, &storeError{err: err}
	}
	for _, d := range []struct{ algorithm, want, got string }{{"sha512", item.SHA512, b.SHA512}, {"sha256", item.SHA256, b.SHA256}} {
		if d.want != "" && d.want != d.got {
			removePart(part)
			return Blob{}, &DigestError{Item: item, URL: from, Algorithm: d.algorithm, Want: d.want, Got: d.got, Size: b.Size}
		}
	}
	// The index goes first: what it says is true with or without the file, so a file in place always has its index.
	if err := s.writeIndex(b); err != nil {
		return Blob{}, s.failed(part, err, b.Size, b.Size)
	}
	path := s.blobPath(b.SHA256)
	if err := publish(part, path, 0o444); err != nil {
		return Blob{}, s.failed(part, err, b.Size, b.Size)
	}
	b.Path = path
	return b, nil
}

func (s *Store) writeIndex(b Blob) error {
	if err := s.writeFile("sha256/"+b.SHA256, b.SHA512); err != nil {
		return err
	}
	return s.writeFile("sha512/"+b.SHA512, b.SHA256)
}

// writeFile writes a small file that other processes see whole or not at all.
func (s *Store) writeFile(name, content string) error {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = publish(f.Name(), filepath.Join(s.dir, name), 0o644)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// publish makes a finished temporary file durable and gives it its name.
func publish(tmp, path string, mode fs.FileMode) error {
	f, err := os.Open(tmp)
	if err != nil {
		return err
	}
	err = errors.Join(f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// A part is a download under way: one for each digest and address, as the bytes at another address may differ.
func (s *Store) partPath(item *Item, address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(s.dir, "tmp", item.key()+"-"+hex.EncodeToString(sum[:8])+".part")
}

// validatorPath is beside a part and holds the ETag or date that the server gave for it.
func validatorPath(part string) string { return part + ".validator" }

func removePart(part string) {
	_ = os.Remove(part)
	_ = os.Remove(validatorPath(part))
}

// dropParts removes what other addresses left of a file that is now here.
func (s *Store) dropParts(item *Item) {
	parts, _ := filepath.Glob(filepath.Join(s.dir, "tmp", item.key()+"-*"))
	for _, p := range parts {
		_ = os.Remove(p)
	}
}

// lock makes the caller the only one that fetches key, in this process and all others. It waits until ctx ends.
func (s *Store) lock(ctx context.Context, key string) (unlock func(), err error) {
	path := filepath.Join(s.dir, "locks", key)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, s.failed("", err, 0, 0)
		}
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case nil:
			// The holder before may have removed the name between our open and lock.
			mine, err1 := f.Stat()
			named, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(mine, named) {
				return func() {
					_ = os.Remove(path)
					_ = f.Close()
				}, nil
			}
			_ = f.Close()
			continue
		case syscall.EWOULDBLOCK, syscall.EINTR:
			_ = f.Close()
		default:
			_ = f.Close()
			return nil, s.failed("", fmt.Errorf("lock %s: %w", path, err), 0, 0)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// storeError is trouble with the store itself, which no other address can mend.
type storeError struct {
	msg string
	err error
}

func (e *storeError) Error() string {
	if e.msg != "" {
		return e.msg
	}
	return fmt.Sprintf("source store: %v", e.err)
}
func (e *storeError) Unwrap() error { return e.err }

// failed wraps an error of writing to the store; done and total are the bytes of the file so far and in all (0 when unknown). When
// the disk is full the part is removed, so that what is free for others is what the message says.
func (s *Store) failed(part string, err error, done, total int64) error {
	e := &storeError{err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		need := fmt.Sprintf("more than %d bytes", done)
		if total > 0 {
			need = fmt.Sprintf("%d bytes", total)
		}
		if part != "" {
			_ = os.Truncate(part, 0) // it may still be open
			removePart(part)
		}
		e.msg = fmt.Sprintf("no space left in %s: the file needs %s", s.dir, need)
		var st syscall.Statfs_t
		if syscall.Statfs(s.dir, &st) == nil {
			e.msg += fmt.Sprintf(", %d are free", st.Bavail*uint64(st.Bsize))
		}
		e.msg += "; make room there or put the store on another disk"
	}
	return e
}
