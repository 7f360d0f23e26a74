// Package repo reads update repositories (TUF, see docs/update-repositories.md)
// from a web server or folder, and keeps what is needed of one for later use
// without it.
package repo

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
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"dinghy/internal/durable"
	"dinghy/update"
)

// Limits for metadata, which are read without knowing their length, and for the
// manifest, which is held in memory.
const (
	maxSmall = 1 << 20
	maxLarge = 16 << 20
)

// Repo is a repository whose metadata have been verified.
type Repo struct {
	Manifest *update.Manifest

	source  source
	targets map[string]*metadata.TargetFiles
	dir     string
	ops     durable.Ops
	files   map[string][]byte // metadata by name, timestamp.json left out
	stamp   []byte
}

// Open goes the way of a TUF client (specification 1.0.34, section 5) from the
// trusted root to the manifest of the repository at a place: a folder or an
// address. Below dir it keeps what it saw, so that it later refuses what is
// older, and it keeps downloads there. A server from which for the time idle not a
// byte comes is given up; downloads are taken up again a few times.
func Open(ctx context.Context, place string, root []byte, dir string, ops durable.Ops, idle time.Duration) (*Repo, error) {
	src, err := openSource(place, idle)
	if err != nil {
		return nil, err
	}
	return read(ctx, src, root, filepath.Join(dir, "seen"), dir, ops, time.Now())
}

// OpenKept reads what Keep kept in dir. It needs no network and goes by
// signatures alone: what was once valid serves a machine that comes back to it
// after a long time.
func OpenKept(ctx context.Context, root []byte, dir string) (*Repo, error) {
	seen, err := os.MkdirTemp("", "repo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(seen)
	return read(ctx, folder(dir), root, seen, dir, durable.Ops{}, time.Time{})
}

func read(ctx context.Context, src source, root []byte, seen, dir string, ops durable.Ops, now time.Time) (*Repo, error) {
	f := &fetcher{ctx, src, map[string][]byte{}}
	fail := func(err error) (*Repo, error) { return nil, fmt.Errorf("repository %s: %w", src, err) }
	if err := forgetDamaged(seen); err != nil {
		return fail(err)
	}
	u, err := updater.New(&config.UpdaterConfig{
		MaxRootRotations: 1024, RootMaxLength: maxSmall, TimestampMaxLength: maxSmall, SnapshotMaxLength: maxSmall, TargetsMaxLength: maxLarge,
		Fetcher: f, LocalTrustedRoot: root, LocalMetadataDir: seen, LocalTargetsDir: seen,
		RemoteMetadataURL: base, RemoteTargetsURL: base + "targets", PrefixTargetsWithHash: true,
	})
	if err != nil {
		return fail(fmt.Errorf("trusted root: %w", err))
	}
	u.UnsafeSetRefTime(now)
	if err := u.Refresh(); err != nil {
		return fail(err)
	}
	if err := durable.SyncTree(seen); err != nil {
		return fail(err)
	}
	trusted := u.GetTrustedMetadataSet()
	if !trusted.Root.Signed.ConsistentSnapshot {
		return fail(errors.New("it has no consistent snapshots"))
	}
	r := &Repo{source: src, targets: u.GetTopLevelTargets(), dir: dir, ops: ops, files: f.roots}
	for name, file := range map[string]string{
		"": metadata.TIMESTAMP,
		fmt.Sprintf("%d.snapshot.json", trusted.Snapshot.Signed.Version):                 metadata.SNAPSHOT,
		fmt.Sprintf("%d.targets.json", trusted.Targets[metadata.TARGETS].Signed.Version): metadata.TARGETS,
	} {
		data, err := os.ReadFile(filepath.Join(seen, file+".json"))
		if err != nil {
			return fail(err)
		}
		if name == "" {
			r.stamp = data
		} else {
			r.files[name] = data
		}
	}
	manifest, err := r.read(ctx, update.ManifestTarget)
	if err != nil {
		return fail(err)
	}
	if r.Manifest, err = update.Parse(manifest); err != nil {
		return fail(err)
	}
	return r, nil
}

// forgetDamaged removes metadata of which a power cut left only a part: go-tuf
// does not go on when it finds such.
func forgetDamaged(seen string) error {
	files, err := filepath.Glob(filepath.Join(seen, "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && !json.Valid(data) {
			err = os.Remove(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// target is what the signed metadata say of a target. Its name in the
// repository begins with its digest.
func (r *Repo) target(name string) (f update.File, path string, err error) {
	t, ok := r.targets[name]
	if !ok {
		return f, "", fmt.Errorf("target %s: the signed metadata have none of this name", name)
	}
	if err := update.CheckTarget(name); err != nil {
		return f, "", err
	}
	sum, ok := t.Hashes["sha256"]
	if !ok {
		return f, "", fmt.Errorf("target %s: the signed metadata have no SHA-256", name)
	}
	f = update.File{Target: name, Size: t.Length, SHA256: hex.EncodeToString(sum)}
	return f, "targets/" + f.SHA256 + "." + name, nil
}

// read returns a small target.
func (r *Repo) read(ctx context.Context, name string) ([]byte, error) {
	f, path, err := r.target(name)
	if err != nil {
		return nil, err
	}
	if f.Size > maxLarge {
		return nil, fmt.Errorf("target %s has %d bytes, at most %d are read", name, f.Size, maxLarge)
	}
	in, _, err := r.source.open(ctx, path, 0)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, f.Size+1))
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	sum := sha256.Sum256(data)
	return data, check(f, int64(len(data)), sum[:])
}

func check(f update.File, size int64, sum []byte) error {
	switch {
	case size > f.Size:
		return fmt.Errorf("target %s: more than the %d bytes that the signed metadata give it", f.Target, f.Size)
	case size < f.Size:
		return fmt.Errorf("target %s: %d bytes, the signed metadata give it %d", f.Target, size, f.Size)
	case hex.EncodeToString(sum) != f.SHA256:
		return fmt.Errorf("target %s: SHA-256 is %x, the signed metadata say %s", f.Target, sum, f.SHA256)
	}
	return nil
}

// named finds a file of the manifest in the metadata, which must agree with it.
func (r *Repo) named(f update.File) (string, error) {
	signed, path, err := r.target(f.Target)
	if err != nil {
		return "", err
	}
	if signed != f {
		return "", fmt.Errorf("target %s: the manifest and the signed metadata name different sizes or digests", f.Target)
	}
	return path, nil
}

// attempts is how often a download is taken up again without any progress.
const attempts = 3

// Download brings a file of the manifest to this machine, verified, and returns
// its path. What an earlier attempt has left is taken up.
func (r *Repo) Download(ctx context.Context, f update.File) (string, error) {
	name, err := r.named(f)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.dir, name)
	part := path + ".part"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	if in, err := os.Open(path); err == nil {
		sum := sha256.New()
		size, err := io.Copy(sum, in)
		in.Close()
		if err == nil && check(f, size, sum.Sum(nil)) == nil {
			return path, nil
		}
		if err := r.ops.Remove(path); err != nil {
			return "", err
		}
	}
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	sum := sha256.New()
	have, err := io.Copy(sum, out)
	if err != nil {
		return "", err
	}
	for tries := 0; have < f.Size; {
		got, err := r.download(ctx, name, f.Size, have, out, sum)
		if got > have {
			tries = 0
		}
		have = got
		if err == nil {
			break
		}
		if tries++; tries == attempts || errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return "", fmt.Errorf("target %s, after %d of %d bytes: %w", f.Target, have, f.Size, err)
		}
	}
	if err := check(f, have, sum.Sum(nil)); err != nil {
		if have < f.Size {
			return "", err // what follows may come later
		}
		return "", errors.Join(err, os.Remove(part))
	}
	if err := out.Sync(); err != nil {
		return "", err
	}
	return path, r.ops.Rename(part, path)
}

// download appends to out, which holds the first have bytes that sum has seen,
// at most one byte more than the whole size. It returns how many there are then.
func (r *Repo) download(ctx context.Context, name string, size, have int64, out *os.File, sum hash.Hash) (int64, error) {
	in, from, err := r.source.open(ctx, name, have)
	if err != nil {
		return have, err
	}
	defer in.Close()
	if from != have { // the server sends all of it
		sum.Reset()
		if err := out.Truncate(from); err != nil {
			return have, err
		}
		if have = from; have != 0 {
			return have, fmt.Errorf("got bytes from %d on", from)
		}
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return have, err
	}
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, size-have+1))
	return have + n, err
}

// Keep writes what OpenKept reads, with the manifest and the downloads so far.
// The timestamp is last: until then the older state is what is kept.
func (r *Repo) Keep() error {
	manifest, _, err := r.target(update.ManifestTarget)
	if err != nil {
		return err
	}
	if _, err := r.Download(context.Background(), manifest); err != nil {
		return err
	}
	for name, data := range r.files {
		if err := r.keep(name, data); err != nil {
			return err
		}
	}
	return r.keep("timestamp.json", r.stamp)
}

func (r *Repo) keep(name string, data []byte) error {
	path := filepath.Join(r.dir, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return r.ops.WriteFile(path, data, 0o600)
}

// Prune removes downloads, whole and partial, but for these files and the
// manifest.
func (r *Repo) Prune(keep []update.File) error {
	manifest, _, err := r.target(update.ManifestTarget)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, f := range append(keep, manifest) {
		names[f.SHA256+"."+f.Target] = true
	}
	dir := filepath.Join(r.dir, "targets")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !names[e.Name()] {
			if err := r.ops.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copy copies a file of the manifest that was downloaded, and verifies what it
// copies.
func (r *Repo) Copy(w io.Writer, f update.File) error {
	name, err := r.named(f)
	if err != nil {
		return err
	}
	in, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(in, f.Size+1))
	if err != nil {
		return err
	}
	return check(f, n, sum.Sum(nil))
}
