package tufrepo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"slipway/internal/update"
)

// Limits for metadata, which a reader takes without knowing their length. They
// hold for some 10,000 targets.
const (
	maxSmall = 1 << 20
	maxLarge = 64 << 20
)

// state is the metadata of a repository as a client has verified it.
type state struct {
	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	manifest  *update.Manifest // without updates where there is no such target
}

// never is a time at which no metadata has expired.
var never = time.Time{}

// read goes the way of a client (TUF specification, section 5) from a trusted
// root to the targets and the manifest. Metadata must not have expired at the
// time now. In the folder cache the client keeps what it has seen, so that
// later it refuses what is older; "" keeps nothing.
func read(ctx context.Context, source Source, root []byte, cache string, now time.Time) (*state, error) {
	if cache == "" {
		// go-tuf would look into the working folder
		dir, err := os.MkdirTemp("", "slipway-tuf-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		cache = dir
	}
	u, err := updater.New(&config.UpdaterConfig{
		MaxRootRotations: maxSmall, RootMaxLength: maxSmall, TimestampMaxLength: maxSmall, SnapshotMaxLength: maxSmall, TargetsMaxLength: maxLarge,
		Fetcher: fetcher{ctx, source}, LocalTrustedRoot: root, LocalMetadataDir: cache, LocalTargetsDir: cache,
		RemoteMetadataURL: base, RemoteTargetsURL: base + targetsDir, PrefixTargetsWithHash: true,
	})
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	u.UnsafeSetRefTime(now)
	if err := u.Refresh(); err != nil {
		return nil, err
	}
	trusted := u.GetTrustedMetadataSet()
	s := &state{trusted.Root, trusted.Timestamp, trusted.Snapshot, trusted.Targets[metadata.TARGETS], &update.Manifest{Schema: update.Schema}}
	if !s.root.Signed.ConsistentSnapshot {
		return nil, errors.New("the repository has no consistent snapshots")
	}
	target, ok := s.targets.Signed.Targets[update.ManifestTarget]
	if !ok {
		return s, nil
	}
	if target.Length > maxLarge {
		return nil, fmt.Errorf("target %s has %d bytes: want at most %d", update.ManifestTarget, target.Length, maxLarge)
	}
	r, err := openTarget(ctx, source, update.ManifestTarget, target)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s.manifest, err = update.Parse(data)
	return s, err
}

// targetsDir is the folder of a repository that holds the targets.
const targetsDir = "targets"

// targetPath is where a target lies in a repository with consistent snapshots.
func targetPath(name, sha256 string) string { return targetsDir + "/" + sha256 + "." + name }

// openTarget reads a target. Instead of its end comes an error where length or
// digest are not those of the metadata; at most one byte too many is read.
func openTarget(ctx context.Context, source Source, name string, target *metadata.TargetFiles) (io.ReadCloser, error) {
	want := hex.EncodeToString(target.Hashes["sha256"])
	if want == "" {
		return nil, fmt.Errorf("target %s: the metadata have no SHA-256 of it", name)
	}
	r, err := source.Open(ctx, targetPath(name, want))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("target %s: missing: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	return &targetReader{name: name, r: io.LimitReader(reader{ctx, r}, target.Length+1), close: r.Close, sum: sha256.New(), length: target.Length, want: want}, nil
}

type targetReader struct {
	name      string
	r         io.Reader
	close     func() error
	sum       hash.Hash
	n, length int64
	want      string
}

func (t *targetReader) Close() error { return t.close() }

func (t *targetReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.sum.Write(p[:n])
	t.n += int64(n)
	switch {
	case t.n > t.length:
		err = &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("it has more than %d bytes", t.length)}
	case err == nil:
		return n, nil
	case (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && t.n < t.length:
		err = &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("it ends after %d of %d bytes", t.n, t.length)}
	case err == io.EOF:
		if got := sumOf(t.sum); got != t.want {
			err = &metadata.ErrLengthOrHashMismatch{Msg: fmt.Sprintf("its SHA-256 is %s, not %s", got, t.want)}
			break
		}
		return n, io.EOF
	}
	return n, fmt.Errorf("target %s: %w", t.name, err)
}

func sumOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// reader stops reading when its context has ended.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
