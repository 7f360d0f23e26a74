package tufrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sync/errgroup"

	"slipway/internal/update"
)

// ValidateOptions are the settings of Validate and ReadExpiries.
type ValidateOptions struct {
	// Root is the root that is trusted; nil is the first one of the repository.
	Root []byte
	// State is a folder in which what was seen is kept: a repository that is older
	// than when it was last looked at is refused. "" keeps nothing.
	State string
	// Now is the time at which nothing must have expired; zero is the present.
	Now time.Time
}

// Report is what Validate found to be good.
type Report struct {
	Expiries     []Expiry
	Manifest     *update.Manifest
	Targets      int      // targets that were read
	Bytes        int64    // their size
	Unreferenced []string // targets that the manifest does not name
}

// Validate does what a client does that starts from a trusted root and takes
// everything: it verifies the metadata with go-tuf's updater, reads all targets
// and compares length and digest, decompresses images, holds the manifest against
// the targets, and the images of a release against it and each other. Errors of targets and of the manifest come all at once;
// those of TUF are of the types of go-tuf's package metadata.
func Validate(ctx context.Context, source Source, o ValidateOptions) (*Report, error) {
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	s, err := o.read(ctx, source, now)
	if err != nil {
		return nil, err
	}
	report := &Report{Expiries: s.expiries(), Manifest: s.manifest}
	targets := s.targets.Signed.Targets
	named := map[string]bool{update.ManifestTarget: true}
	var errs []error
	for _, f := range s.manifest.Files() {
		if named[f.Target] {
			continue
		}
		named[f.Target] = true
		t, ok := targets[f.Target]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("the manifest names %s, which is not a target", f.Target))
		case !t.Equal(*input{file: f}.entry()):
			errs = append(errs, fmt.Errorf("target %s: size or digest is not that of the manifest", f.Target))
		}
	}
	// The images of a release are read one after the other, everything else apart.
	var group errgroup.Group
	group.SetLimit(4)
	found := make([]error, len(s.manifest.Updates))
	read := map[string]bool{}
	for n := range s.manifest.Updates {
		c := &content{release: &s.manifest.Updates[n]}
		for _, i := range c.images(ctx) {
			read[i.Target] = true
		}
		group.Go(func() error {
			for _, i := range c.images(ctx) {
				if t := targets[i.Target]; t != nil {
					found[n] = errors.Join(found[n], validateTarget(ctx, source, i.Target, t, *i.Image, i.look))
				}
			}
			return nil
		})
	}
	names := slices.Sorted(maps.Keys(targets))
	others := make([]error, len(names))
	for n, name := range names {
		if !read[name] {
			group.Go(func() error {
				others[n] = validateTarget(ctx, source, name, targets[name], update.Image{}, nil)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := errors.Join(append(append(errs, found...), others...)...); err != nil {
		return nil, err
	}
	for _, name := range names {
		report.Targets++
		report.Bytes += targets[name].Length
		if !named[name] {
			report.Unreferenced = append(report.Unreferenced, name)
		}
	}
	return report, nil
}

// read is a client's read from the trusted root.
func (o ValidateOptions) read(ctx context.Context, source Source, now time.Time) (*state, error) {
	root := o.Root
	if root == nil {
		var err error
		root, err = fetcher{ctx, source}.DownloadFile(base+"1.root.json", maxSmall, 0)
		if errors.Is(err, &metadata.ErrDownloadHTTP{}) {
			return nil, fmt.Errorf("%w: there is no 1.root.json", ErrNone)
		}
		if err != nil {
			return nil, fmt.Errorf("root to trust: %w", err)
		}
	}
	return read(ctx, source, root, o.State, now)
}

// validateTarget reads a target, and its content where it is an image.
func validateTarget(ctx context.Context, source Source, name string, target *metadata.TargetFiles, want update.Image, look func(io.Reader) error) error {
	r, err := openTarget(ctx, source, name, target)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := measure(r, want.Compression, func(r io.Reader) error {
		if look != nil {
			if err := look(r); err != nil {
				return fmt.Errorf("target %s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if want.Target != "" && (got.ContentSize != want.ContentSize || got.ContentSHA256 != want.ContentSHA256) {
		return fmt.Errorf("target %s: decompressed it has %d bytes with SHA-256 %s, and the manifest says %d and %s",
			name, got.ContentSize, got.ContentSHA256, want.ContentSize, want.ContentSHA256)
	}
	return nil
}

// ReadExpiries tells until when the metadata of a repository are good, which may
// have expired already.
func ReadExpiries(ctx context.Context, source Source, o ValidateOptions) ([]Expiry, error) {
	s, err := o.read(ctx, source, never)
	if err != nil {
		return nil, err
	}
	return s.expiries(), nil
}

// ReadManifest gives the manifest of a repository, which may have expired.
func ReadManifest(ctx context.Context, source Source, o ValidateOptions) (*update.Manifest, error) {
	s, err := o.read(ctx, source, never)
	if err != nil {
		return nil, err
	}
	return s.manifest, nil
}
