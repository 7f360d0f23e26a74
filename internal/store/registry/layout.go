package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushLayout gives the registry the image of an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md) with
// one manifest, under a tag such as "sdk-<key>". A signature binds the tag as
// well, since the manifest does not name it. It returns the manifest's digest,
// "sha256:<hex>". Errors are those of Push.
func (r *Registry) PushLayout(ctx context.Context, tag, dir string) (string, error) {
	raw, m, err := readLayout(dir)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", dir, err)
	}
	err = r.pushManifest(ctx, tag, tag, raw, m, func(d string) (io.ReadCloser, error) {
		return os.Open(blobPath(dir, digest.Digest(d)))
	})
	if err != nil {
		return "", fmt.Errorf("push %s to %s:%s: %w", dir, r.cfg.Ref, tag, err)
	}
	return digest.FromBytes(raw).String(), nil
}

// PullLayout makes dir, which must be absent or empty, the OCI image layout of the
// image under a tag, and returns the digest of its manifest, "sha256:<hex>". Where
// want is not empty, the image must have that digest. The index is written last:
// what was left by an interruption is no layout. Errors are those of Lookup and
// Fetch.
func (r *Registry) PullLayout(ctx context.Context, tag, want, dir string) (string, error) {
	d, err := r.pullLayout(ctx, tag, want, dir)
	if err != nil && !errors.As(err, new(*SignatureError)) {
		err = fmt.Errorf("pull %s:%s: %w", r.cfg.Ref, tag, err)
	}
	return d, err
}

func (r *Registry) pullLayout(ctx context.Context, tag, want, dir string) (string, error) {
	if !r.cfg.Read {
		return "", ErrNotFound
	}
	raw, err := r.manifest(ctx, tag)
	if err != nil {
		return "", err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(raw)
	if want != "" && d.String() != want {
		return "", fmt.Errorf("%w: it is %s, want %s", ErrCorrupt, d, want)
	}
	if err := r.verify(ctx, d, tag, tag, tag); err != nil {
		return "", err
	}
	if old, err := os.ReadDir(dir); err == nil && len(old) > 0 {
		return "", fmt.Errorf("%s is not empty", dir)
	}
	if err := os.MkdirAll(filepath.Dir(blobPath(dir, d)), 0o755); err != nil {
		return "", err
	}
	errs := r.FetchAll(ctx, blobsOf(m), func(b ocispec.Descriptor) (io.WriteCloser, error) {
		f, err := os.OpenFile(blobPath(dir, b.Digest), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		return synced{f}, nil
	})
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))}
	if m.Config.MediaType == ocispec.MediaTypeImageConfig {
		text, err := os.ReadFile(blobPath(dir, m.Config.Digest))
		if err != nil {
			return "", err
		}
		desc.Platform = new(ocispec.Platform)
		if err := json.Unmarshal(text, desc.Platform); err != nil {
			return "", fmt.Errorf("%w: config: %w", ErrCorrupt, err)
		}
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{desc},
	})
	if err != nil {
		return "", err
	}
	for _, f := range []struct {
		path string
		text []byte
	}{
		{blobPath(dir, d), raw},
		{filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)},
		{filepath.Join(dir, ocispec.ImageIndexFile), index},
	} {
		if err := os.WriteFile(f.path, f.text, 0o644); err != nil {
			return "", err
		}
	}
	return d.String(), nil
}

// readLayout reads the manifest of a layout.
func readLayout(dir string) ([]byte, *ocispec.Manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	if len(index.Manifests) != 1 {
		return nil, nil, fmt.Errorf("%s has %d manifests, want 1", ocispec.ImageIndexFile, len(index.Manifests))
	}
	d := index.Manifests[0].Digest
	if err := checkDescriptor(index.Manifests[0]); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	raw, err := os.ReadFile(blobPath(dir, d))
	if err != nil {
		return nil, nil, err
	}
	if digest.FromBytes(raw) != d {
		return nil, nil, fmt.Errorf("its manifest does not have the digest %s", d)
	}
	m, err := parseManifest(raw)
	return raw, m, err
}

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// synced is a file that is on the disk once it is closed.
type synced struct{ *os.File }

// Close implements io.Closer.
func (s synced) Close() error { return errors.Join(s.Sync(), s.File.Close()) }
