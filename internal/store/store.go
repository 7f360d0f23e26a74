// Package store keeps what builds made. It is an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md): a
// result is an OCI artifact manifest whose layers are the files of the result,
// and the folder keys/ maps the key of a target to the digest of its manifest.
//
// Everything is written to a temporary name, synced and renamed, so several
// processes may use one store and a crash leaves no half entry behind.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ArtifactType is the artifactType of a result's manifest.
const ArtifactType = "application/vnd.slipway.result.v1"

// Annotations on the manifest of a result.
const (
	AnnotationKey    = "dev.slipway.key"    // key of the target, 64 hex digits
	AnnotationTarget = "dev.slipway.target" // name of the target, "packages/glibc"
)

const fileMediaType = "application/octet-stream"

// ErrCorrupt says that an entry does not hold what its digest promises. Such an
// entry is dropped, so that the next build makes it again.
var ErrCorrupt = errors.New("corrupt store entry")

// Store is an open store.
type Store struct {
	dir string
}

// File is one file of a result.
type File struct {
	Name   string // slash-separated path below the result
	Digest string // "sha256:<hex>"
	Size   int64  // bytes
}

// Result is what a target made.
type Result struct {
	Key         string            // key it was made from
	Target      string            // "packages/glibc"
	Digest      string            // digest of the manifest, "sha256:<hex>"
	Files       []File            // sorted by Name
	Annotations map[string]string // further facts, such as the CPU time it took
}

// keepTemp is longer than any build takes: what is older in tmp was left by a
// process that was killed.
const keepTemp = 48 * time.Hour

// Open makes the layout below dir where it is missing.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"blobs/sha256", "keys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	s := &Store{dir: dir}
	for name, content := range map[string]string{
		ocispec.ImageLayoutFile: `{"imageLayoutVersion":"1.0.0"}`,
		"index.json":            `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			continue
		}
		if err := s.write(filepath.Join(dir, name), []byte(content)); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for _, e := range left {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keepTemp {
			_ = os.RemoveAll(filepath.Join(dir, "tmp", e.Name()))
		}
	}
	return s, nil
}

// Dir is the folder of the OCI layout.
func (s *Store) Dir() string { return s.dir }

// Path is the file that holds the blob of a digest "sha256:<hex>".
func (s *Store) Path(d string) string {
	return filepath.Join(s.dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))
}

// Get finds the result of a key. It reports false where there is none, or where
// the entry is incomplete: the manifest is verified by digest, the files by size.
// A wrong entry is dropped.
func (s *Store) Get(key string) (*Result, bool, error) {
	ref, err := os.ReadFile(s.keyPath(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read store: %w", err)
	}
	r, err := s.load(strings.TrimSpace(string(ref)))
	if err == nil && r.Key != key {
		err = fmt.Errorf("%w: entry of key %s names key %s", ErrCorrupt, key, r.Key)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		return nil, false, os.Remove(s.keyPath(key))
	}
	if err != nil {
		return nil, false, err
	}
	return r, true, nil
}

func (s *Store) load(manifestDigest string) (*Result, error) {
	d, err := digest.Parse(manifestDigest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	raw, err := os.ReadFile(s.Path(d.String()))
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(raw) != d {
		_ = os.Remove(s.Path(d.String()))
		return nil, fmt.Errorf("%w: manifest %s", ErrCorrupt, d)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", ErrCorrupt, d, err)
	}
	r := &Result{Key: m.Annotations[AnnotationKey], Target: m.Annotations[AnnotationTarget], Digest: d.String(), Annotations: m.Annotations}
	for _, l := range m.Layers {
		f := File{Name: l.Annotations[ocispec.AnnotationTitle], Digest: l.Digest.String(), Size: l.Size}
		st, err := os.Stat(s.Path(f.Digest))
		if err != nil {
			return nil, err
		}
		if st.Size() != f.Size {
			_ = os.Remove(s.Path(f.Digest))
			return nil, fmt.Errorf("%w: %s of %s has %d bytes instead of %d", ErrCorrupt, f.Name, r.Target, st.Size(), f.Size)
		}
		r.Files = append(r.Files, f)
	}
	return r, nil
}

// Put takes every regular file below dir into the store (the files are moved
// where they lie on the same file system) and records them as the result of key.
func (s *Store) Put(key, target, dir string, annotations map[string]string) (*Result, error) {
	r := &Result{Key: key, Target: target, Annotations: map[string]string{}}
	for k, v := range annotations {
		r.Annotations[k] = v
	}
	r.Annotations[AnnotationKey], r.Annotations[AnnotationTarget] = key, target
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := s.add(path)
		f.Name = filepath.ToSlash(rel)
		r.Files = append(r.Files, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store result of %s: %w", target, err)
	}
	slices.SortFunc(r.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })

	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       ocispec.DescriptorEmptyJSON,
		Annotations:  r.Annotations,
	}
	m.Config.Data = nil
	for _, f := range r.Files {
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: fileMediaType, Digest: digest.Digest(f.Digest), Size: f.Size,
			Annotations: map[string]string{ocispec.AnnotationTitle: f.Name},
		})
	}
	if err := s.write(s.Path(ocispec.DescriptorEmptyJSON.Digest.String()), ocispec.DescriptorEmptyJSON.Data); err != nil {
		return nil, fmt.Errorf("store result of %s: %w", target, err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("store result of %s: %w", target, err)
	}
	r.Digest = digest.FromBytes(raw).String()
	if err := s.write(s.Path(r.Digest), raw); err != nil {
		return nil, fmt.Errorf("store result of %s: %w", target, err)
	}
	if err := s.write(s.keyPath(key), []byte(r.Digest+"\n")); err != nil {
		return nil, fmt.Errorf("store result of %s: %w", target, err)
	}
	return r, nil
}

func (s *Store) keyPath(key string) string { return filepath.Join(s.dir, "keys", key) }

// add hashes a file and moves it to its blob's place.
func (s *Store) add(path string) (File, error) {
	in, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return File{}, err
	}
	f := File{Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: n}
	if st, err := os.Stat(s.Path(f.Digest)); err == nil && st.Size() == n {
		return f, nil
	}
	if err := in.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return File{}, err
	}
	if err := os.Chmod(path, 0o444); err != nil {
		return File{}, err
	}
	err = os.Rename(path, s.Path(f.Digest))
	if !errors.Is(err, syscall.EXDEV) {
		return f, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return File{}, err
	}
	return f, s.writeFrom(s.Path(f.Digest), in)
}

func (s *Store) write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	return s.writeFrom(path, strings.NewReader(string(data)))
}

func (s *Store) writeFrom(path string, r io.Reader) error {
	t, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "write-")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = io.Copy(t, r)
	if err = errors.Join(err, t.Chmod(0o444), t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}

// View makes dir hold exactly the files of a result, as hard links to the blobs
// (copies where dir lies on another file system). A view that is right already
// is left as it is.
func (s *Store) View(r *Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("view of %s: %w", r.Target, err)
	}
	want := map[string]bool{}
	for _, f := range r.Files {
		want[f.Name] = true
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if same(path, s.Path(f.Digest)) {
			continue
		}
		if err := s.link(f, path); err != nil {
			return fmt.Errorf("view of %s: %w", r.Target, err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil && !want[filepath.ToSlash(rel)] {
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("view of %s: %w", r.Target, err)
	}
	return nil
}

func (s *Store) link(f File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(s.Path(f.Digest), path)
	if !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EPERM) {
		return err
	}
	in, err := os.Open(s.Path(f.Digest))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// same reports whether path is the blob itself, or a copy of its size not older than it.
func same(path, blob string) bool {
	a, err := os.Stat(path)
	if err != nil {
		return false
	}
	b, err := os.Stat(blob)
	if err != nil {
		return false
	}
	return os.SameFile(a, b) || (a.Size() == b.Size() && !a.ModTime().Before(b.ModTime()) && deviceOf(a) != deviceOf(b))
}

func deviceOf(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Dev
	}
	return 0
}
