// Package store keeps what builds made. It is an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md): a
// result is an OCI artifact manifest whose config is the target's inputs, in
// their canonical form, and whose layers are the files of the result and what is
// attached to it. The SHA-256 of the inputs is the key of the target, so a
// manifest proves by itself which key it answers. A bbolt index leads from keys
// to manifests; it can be made anew from them.
//
// Everything is written to a temporary name, synced and renamed, so several
// processes may use one store and a crash leaves no half entry behind.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Media types of a result's manifest.
const (
	ArtifactType = "application/vnd.slipway.result.v1"      // of the manifest
	MediaInputs  = "application/vnd.slipway.inputs.v1+json" // config: what the target was made from
	MediaFile    = "application/octet-stream"               // layer: a file of the result
)

// Annotations on the manifest of a result.
const (
	AnnotationKey    = "dev.slipway.key"          // key of the target, 64 hex digits
	AnnotationTarget = "dev.slipway.target"       // name of the target, "packages/glibc"
	AnnotationArch   = "dev.slipway.arch"         // "x86_64"
	AnnotationWall   = "dev.slipway.wall-seconds" // how long its sandbox took
	AnnotationCPU    = "dev.slipway.cpu-seconds"  // user and system time of its sandbox
	AnnotationMemory = "dev.slipway.memory-bytes" // peak of its sandbox
)

// maxManifest bounds the size of manifests.
const maxManifest = 4 << 20

// ErrCorrupt says that an entry does not hold what its digest promises. Such an
// entry is dropped, so that the next build makes it again.
var ErrCorrupt = errors.New("corrupt store entry")

// Store is an open store.
type Store struct {
	dir   string
	index index
}

// File is one file of a result.
type File struct {
	Name   string // slash-separated path below the result
	Digest string // "sha256:<hex>"
	Size   int64  // bytes
}

// Attachment is something small that belongs to a result without being one of
// its files.
type Attachment struct {
	MediaType string
	Digest    string // "sha256:<hex>"
	Size      int64  // bytes
}

// Result is what a target made.
type Result struct {
	Key         string            // key it was made from: the SHA-256 of its inputs
	Target      string            // "packages/glibc"
	Digest      string            // digest of the manifest, "sha256:<hex>"
	Files       []File            // sorted by Name
	Attachments []Attachment      // in the order of their media types
	InputsSize  int64             // bytes of what it was made from
	Annotations map[string]string // further facts, such as the CPU time it took
}

// Artifact is a result to be stored.
type Artifact struct {
	Target      string            // "packages/glibc"
	Arch        string            // "x86_64"
	Inputs      []byte            // what it was made from, canonical JSON; the SHA-256 is the key
	Dir         string            // every regular file below it is a file of the result; they are moved from there
	Attachments map[string][]byte // by media type
	History     History           // how its build went; Key is ignored
}

// TempResult begins the names of folders in tmp that builds have results put into.
// Only who uses the store may make them, see Use.
const TempResult = "result-"

// Open makes the layout below dir where it is missing.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"blobs/sha256", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	s := &Store{dir: dir, index: index{dir: dir}}
	for name, content := range map[string]string{
		ocispec.ImageLayoutFile: `{"imageLayoutVersion":"1.0.0"}`,
		ocispec.ImageIndexFile:  `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			continue
		}
		if err := s.write(filepath.Join(dir, name), []byte(content)); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	if err := s.index.create(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Dir is the folder of the OCI layout.
func (s *Store) Dir() string { return s.dir }

// Path is the file that holds the blob of a digest "sha256:<hex>".
func (s *Store) Path(d string) string {
	return filepath.Join(s.dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))
}

// Session runs f, during which look-ups are cheap: the index stays open. Other
// processes can store nothing meanwhile.
func (s *Store) Session(f func() error) error {
	if err := s.index.begin(); err != nil {
		if err := s.index.read(func(*bbolt.Tx) error { return nil }); err != nil { // mends it
			return err
		}
		if err := s.index.begin(); err != nil {
			return err
		}
	}
	return errors.Join(f(), s.index.end())
}

// Has tells whether the index leads from a key to this manifest. It reads no
// file of the result.
func (s *Store) Has(key, manifest string) bool {
	ok := false
	err := s.index.read(func(tx *bbolt.Tx) error {
		ok = bytes.HasPrefix(tx.Bucket(bucketResults).Get([]byte(key)), []byte(`{"digest":"`+manifest+`"`))
		return nil
	})
	return err == nil && ok
}

// Get finds the result of a key. It reports false where there is none, or where
// the entry is incomplete or damaged; such an entry is dropped. The manifest is
// verified by its digest and the key. A file that is not as it was when its
// digest was last checked (inode, size, modification time) is read and checked
// again. Files of results that came from the team cache may be missing, see
// Missing.
func (s *Store) Get(key string) (*Result, bool, error) {
	var e entry
	ok := false
	err := s.index.read(func(tx *bbolt.Tx) error {
		ok = getJSON(tx, bucketResults, key, &e)
		return nil
	})
	if err != nil || !ok {
		return nil, false, err
	}
	r, err := s.load(e.Digest)
	if err == nil && r.Key != key {
		err = fmt.Errorf("%w: entry of key %s leads to key %s", ErrCorrupt, key, r.Key)
	}
	if err == nil {
		old := slices.Clone(e.Sigs)
		if err = s.check(r, &e); err == nil {
			if now := time.Now().Unix(); now-e.Used > int64((24*time.Hour).Seconds()) || !slices.Equal(old, e.Sigs) {
				e.Used = now
				err = s.index.write(func(tx *bbolt.Tx) error { return putJSON(tx, bucketResults, key, e) })
			}
		}
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		return nil, false, s.Drop(key)
	}
	if err != nil {
		return nil, false, fmt.Errorf("read store: %w", err)
	}
	return r, true, nil
}

// Drop forgets the result of a key; what only it had goes with the next Prune.
func (s *Store) Drop(key string) error {
	return s.index.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketResults).Delete([]byte(key)) })
}

// check compares the files of a result with what the entry knows of them.
func (s *Store) check(r *Result, e *entry) error {
	if len(e.Sigs) != len(r.Files) {
		e.Sigs = make([]string, len(r.Files))
	}
	for i, f := range r.Files {
		now, err := signature(s.Path(f.Digest))
		if errors.Is(err, fs.ErrNotExist) && e.Lazy {
			e.Sigs[i] = ""
			continue
		}
		if err != nil {
			return err
		}
		if now == e.Sigs[i] {
			continue
		}
		if err := s.verifyBlob(f.Digest, f.Size); err != nil {
			return fmt.Errorf("%s of %s: %w", f.Name, r.Target, err)
		}
		e.Sigs[i] = now
	}
	return nil
}

// signature stands for the state of a file: it changes with every write. Changes
// of links to it do not matter.
func signature(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: %s is not a regular file", ErrCorrupt, path)
	}
	return strconv.FormatUint(st.Ino, 16) + "." + strconv.FormatInt(st.Size, 16) + "." + strconv.FormatInt(info.ModTime().UnixNano(), 16), nil
}

// verifyBlob reads a blob. If it is damaged, it is removed and the error is an
// ErrCorrupt.
func (s *Store) verifyBlob(d string, size int64) error {
	f, err := os.Open(s.Path(d))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); n != size || got != d {
		_ = os.Remove(s.Path(d))
		return fmt.Errorf("%w: %s has %d bytes with digest %s instead of %d bytes", ErrCorrupt, d, n, got, size)
	}
	return nil
}

// Verify reads files of a result. If one is damaged or missing, the result is
// dropped, and the error names the file and wraps ErrCorrupt or fs.ErrNotExist.
func (s *Store) Verify(r *Result, files []File) error {
	for _, f := range files {
		err := s.verifyBlob(f.Digest, f.Size)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("%s of %s: %w", f.Name, r.Target, err), s.Drop(r.Key))
		}
		if err != nil {
			return fmt.Errorf("verify %s: %w", r.Target, err)
		}
	}
	return nil
}

// Missing are the files of a result that are not here but in the team cache.
func (s *Store) Missing(r *Result) []File {
	return slices.DeleteFunc(slices.Clone(r.Files), func(f File) bool {
		_, err := os.Stat(s.Path(f.Digest))
		return err == nil
	})
}

// load reads and verifies a manifest.
func (s *Store) load(manifest string) (*Result, error) {
	d, err := digest.Parse(manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	raw, err := os.ReadFile(s.Path(d.String()))
	if err != nil {
		return nil, err
	}
	r, err := parse(d.String(), raw)
	if errors.Is(err, ErrCorrupt) {
		_ = os.Remove(s.Path(d.String()))
	}
	return r, err
}

// Parse reads the manifest of a result; the error is an ErrCorrupt.
func Parse(manifest []byte) (*Result, error) {
	return parse(digest.FromBytes(manifest).String(), manifest)
}

// parse reads a manifest and holds it to its digest.
func parse(manifest string, raw []byte) (*Result, error) {
	if digest.FromBytes(raw).String() != manifest {
		return nil, fmt.Errorf("%w: manifest %s", ErrCorrupt, manifest)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", ErrCorrupt, manifest, err)
	}
	if m.ArtifactType != ArtifactType || m.Config.MediaType != MediaInputs || m.Config.Digest.Validate() != nil {
		return nil, fmt.Errorf("%w: manifest %s is not that of a result", ErrCorrupt, manifest)
	}
	r := &Result{Key: m.Config.Digest.Encoded(), InputsSize: m.Config.Size, Target: m.Annotations[AnnotationTarget], Digest: manifest, Annotations: m.Annotations}
	for _, l := range m.Layers {
		if l.Digest.Validate() != nil || l.Digest.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("%w: manifest %s: digest %q", ErrCorrupt, manifest, l.Digest)
		}
		if l.MediaType != MediaFile {
			r.Attachments = append(r.Attachments, Attachment{MediaType: l.MediaType, Digest: l.Digest.String(), Size: l.Size})
			continue
		}
		f := File{Name: l.Annotations[ocispec.AnnotationTitle], Digest: l.Digest.String(), Size: l.Size}
		if !fs.ValidPath(f.Name) || f.Name == "." {
			return nil, fmt.Errorf("%w: manifest %s: file name %q", ErrCorrupt, manifest, f.Name)
		}
		r.Files = append(r.Files, f)
	}
	return r, nil
}

// Attached reads an attachment of a result; nil where it has none of that type.
func (s *Store) Attached(r *Result, mediaType string) ([]byte, error) {
	for _, a := range r.Attachments {
		if a.MediaType == mediaType {
			return s.read(a.Digest)
		}
	}
	return nil, nil
}

// Made reads what the result of a key was made from, and an attachment of it, even
// if the result's files are gone; nil where nothing is left of it.
func (s *Store) Made(key, mediaType string) (inputs, attached []byte, err error) {
	inputs, err = s.read("sha256:" + key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var e entry
	err = s.index.read(func(tx *bbolt.Tx) error {
		getJSON(tx, bucketResults, key, &e)
		return nil
	})
	if err != nil || e.Digest == "" {
		return inputs, nil, err
	}
	if r, err := s.load(e.Digest); err == nil {
		attached, _ = s.Attached(r, mediaType)
	}
	return inputs, attached, nil
}

// Inputs reads what a result was made from.
func (s *Store) Inputs(r *Result) ([]byte, error) { return s.read("sha256:" + r.Key) }

// Manifest reads the manifest of a result.
func (s *Store) Manifest(r *Result) ([]byte, error) { return s.read(r.Digest) }

// read gives the verified content of a small blob.
func (s *Store) read(d string) ([]byte, error) {
	raw, err := os.ReadFile(s.Path(d))
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(raw).String() != d {
		_ = os.Remove(s.Path(d))
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, d)
	}
	return raw, nil
}

// Put stores a result. It waits for other processes that use the index until ctx
// ends: what took long to make is not lost.
func (s *Store) Put(ctx context.Context, a Artifact) (*Result, error) {
	r, err := s.put(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("store result of %s: %w", a.Target, err)
	}
	return r, nil
}

func (s *Store) put(ctx context.Context, a Artifact) (*Result, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Annotations: map[string]string{
			AnnotationTarget: a.Target, AnnotationArch: a.Arch,
			AnnotationWall: strconv.FormatFloat(a.History.Wall, 'f', 1, 64), AnnotationCPU: strconv.FormatFloat(a.History.CPU, 'f', 1, 64),
			AnnotationMemory: strconv.FormatInt(a.History.Memory, 10),
		},
	}
	inputs, err := s.addBytes(a.Inputs)
	if err != nil {
		return nil, err
	}
	m.Config = ocispec.Descriptor{MediaType: MediaInputs, Digest: digest.Digest(inputs), Size: int64(len(a.Inputs))}
	m.Annotations[AnnotationKey] = m.Config.Digest.Encoded()
	err = filepath.WalkDir(a.Dir, func(path string, e fs.DirEntry, err error) error { // in the order of names
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		rel, err := filepath.Rel(a.Dir, path)
		if err != nil {
			return err
		}
		d, n, err := s.add(path)
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: MediaFile, Digest: digest.Digest(d), Size: n, Annotations: map[string]string{ocispec.AnnotationTitle: filepath.ToSlash(rel)},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(m.Layers, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Annotations[ocispec.AnnotationTitle], b.Annotations[ocispec.AnnotationTitle])
	})
	for _, mediaType := range slices.Sorted(maps.Keys(a.Attachments)) {
		d, err := s.addBytes(a.Attachments[mediaType])
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(a.Attachments[mediaType]))})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	r, err := s.register(ctx, raw, false, func(tx *bbolt.Tx, r *Result) error {
		a.History.Key = r.Key
		return putJSON(tx, bucketHistory, a.Arch+"\x00"+a.Target, a.History)
	})
	return r, err
}

// Adopt records a result of which the manifest is at hand, but not necessarily
// the files: they lie in the team cache, and are brought by AddBlob when needed. It
// waits as Put does.
func (s *Store) Adopt(ctx context.Context, manifest []byte) (*Result, error) {
	return s.register(ctx, manifest, true, remember)
}

// Register records a result of which the manifest is at hand, and everything that
// it names is here: its inputs, its files and what is attached to it. Otherwise the
// error wraps fs.ErrNotExist, and nothing is recorded. The caller has verified the
// blobs, as AddBlob does.
func (s *Store) Register(ctx context.Context, manifest []byte) (*Result, error) {
	r, err := Parse(manifest)
	if err != nil {
		return nil, err
	}
	for _, d := range r.Blobs() {
		if _, err := os.Stat(s.Path(d)); err != nil {
			return nil, fmt.Errorf("%s is not complete: %w", r.Target, err)
		}
	}
	return s.register(ctx, manifest, false, remember)
}

// Blobs are the digests of everything that a manifest names, "sha256:<hex>".
func (r *Result) Blobs() []string {
	list := []string{"sha256:" + r.Key}
	for _, f := range r.Files {
		list = append(list, f.Digest)
	}
	for _, a := range r.Attachments {
		list = append(list, a.Digest)
	}
	return list
}

// register writes a manifest and leads its key to it.
func (s *Store) register(ctx context.Context, manifest []byte, lazy bool, also func(*bbolt.Tx, *Result) error) (*Result, error) {
	d, err := s.addBytes(manifest)
	if err != nil {
		return nil, err
	}
	r, err := parse(d, manifest)
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	e := entry{Digest: d, Target: r.Target, Made: now, Used: now, Lazy: lazy, Sigs: make([]string, len(r.Files))}
	if !lazy {
		for i, f := range r.Files {
			if e.Sigs[i], err = signature(s.Path(f.Digest)); err != nil {
				return nil, err
			}
		}
	}
	return r, s.index.writeWithin(ctx, func(tx *bbolt.Tx) error {
		if err := also(tx, r); err != nil {
			return err
		}
		return putJSON(tx, bucketResults, r.Key, e)
	})
}

// AddBlob stores what r gives under its digest; other content is an ErrCorrupt. What
// is there already, undamaged, is not written again.
func (s *Store) AddBlob(d string, r io.Reader) error {
	if info, err := os.Stat(s.Path(d)); err == nil && s.verifyBlob(d, info.Size()) == nil {
		h := sha256.New()
		_, err := io.Copy(h, r)
		if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); err == nil && got != d {
			err = fmt.Errorf("%w: content of digest %s instead of %s", ErrCorrupt, got, d)
		}
		return err
	}
	w, err := s.NewBlob(d)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		_ = w.Close() // removes it: it is not whole
		return err
	}
	return w.Close()
}

// NewBlob gives a writer for the content of a digest. Closing it stores the blob;
// other content is an ErrCorrupt, and is not stored.
func (s *Store) NewBlob(d string) (io.WriteCloser, error) {
	t, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "write-")
	return &blobWriter{file: t, sum: sha256.New(), digest: d, path: s.Path(d)}, err
}

type blobWriter struct {
	file         *os.File // not embedded: io.Copy would call its ReadFrom
	sum          hash.Hash
	digest, path string
}

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	w.sum.Write(p)
	return w.file.Write(p)
}

// Close implements io.Closer.
func (w *blobWriter) Close() error {
	defer os.Remove(w.file.Name())
	err := errors.Join(w.file.Chmod(0o444), w.file.Sync(), w.file.Close())
	if got := "sha256:" + hex.EncodeToString(w.sum.Sum(nil)); err == nil && got != w.digest {
		err = fmt.Errorf("%w: content of digest %s instead of %s", ErrCorrupt, got, w.digest)
	}
	if err != nil {
		return err
	}
	return os.Rename(w.file.Name(), w.path)
}

// add hashes a file and moves it to its blob's place, unless that has it already.
func (s *Store) add(path string) (d string, size int64, err error) {
	in, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	h := sha256.New()
	if size, err = io.Copy(h, in); err != nil {
		return "", 0, err
	}
	d = "sha256:" + hex.EncodeToString(h.Sum(nil))
	if err := s.verifyBlob(d, size); err == nil {
		return d, size, nil
	}
	if err := in.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return "", 0, err
	}
	if err := os.Chmod(path, 0o444); err != nil {
		return "", 0, err
	}
	err = os.Rename(path, s.Path(d))
	if !errors.Is(err, syscall.EXDEV) {
		return d, size, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	return d, size, s.AddBlob(d, in)
}

func (s *Store) addBytes(data []byte) (string, error) {
	d := digest.FromBytes(data).String()
	return d, s.write(s.Path(d), data)
}

func (s *Store) write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	t, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "write-")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = t.Write(data)
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
	// one build of the checkout at a time, where the file system can lock folders
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("view of %s: %w", r.Target, err)
	}
	defer lock.Close()
	_ = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	want := map[string]bool{}
	for _, f := range r.Files {
		want[f.Name] = true
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if os.Link(s.Path(f.Digest), path) == nil { // most often nothing is there
			continue
		}
		if same(path, s.Path(f.Digest)) {
			continue
		}
		if err := s.link(f, path); err != nil {
			return fmt.Errorf("view of %s: %w", r.Target, err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
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
