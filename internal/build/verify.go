package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"slipway/internal/compare"
	"slipway/internal/graph"
	"slipway/internal/image"
	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// States of a Verified.
const (
	VerifiedOK      = "ok"      // result and view are what they should be
	VerifiedSame    = "same"    // a second build made the same
	VerifiedDiffers = "differs" // a second build made something else
	VerifiedDamaged = "damaged" // result or view are not what they should be
	VerifiedMissing = "missing" // there is no result
	VerifiedUnknown = "unknown" // what it needs has no result, so its own is not known
	VerifiedFailed  = "failed"  // it could not be built a second time
)

// Verified is what a verification found of one target.
type Verified struct {
	Target      string       `json:"target"`
	Status      string       `json:"status"`
	Files       int          `json:"files"`                 // of the stored result
	Bytes       int64        `json:"bytes"`                 // of these files
	Findings    []string     `json:"findings,omitempty"`    // what is wrong, and what to do
	Differences []Difference `json:"differences,omitempty"` // of a second build
	Kept        string       `json:"kept,omitempty"`        // folder of what the second build made
	Clock       string       `json:"clock,omitempty"`       // of the second build: "ahead", or "unshifted" where the SDK has no C compiler
}

// Good tells whether nothing is wrong.
func (v *Verified) Good() bool { return v.Status == VerifiedOK || v.Status == VerifiedSame }

func (v *Verified) damaged(format string, args ...any) {
	v.Status = VerifiedDamaged
	v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
}

// Difference is one member in which two builds differ, see compare.Difference.
type Difference struct {
	Path string `json:"path"` // file and members: "x.rpm: /usr/bin/x: .text"
	What string `json:"what"` // the property that differs
	A    string `json:"a"`    // in the stored result
	B    string `json:"b"`    // in the second build
}

// String is the difference in one line.
func (d Difference) String() string { return compare.Difference(d).String() }

func verified(t *graph.Target, r *store.Result) *Verified {
	v := &Verified{Target: t.Name, Status: VerifiedOK}
	if r != nil {
		v.Files = len(r.Files)
		for _, f := range r.Files {
			v.Bytes += f.Size
		}
	}
	return v
}

// Verify reads the results of the named targets, and of all that they need, and
// what build/ shows of them. Damaged results are dropped, so that the next build
// makes them again; views that are not what they should be are marked, so that it
// shows them again.
func (b *Builder) Verify(ctx context.Context, names []string) ([]*Verified, error) {
	wanted, err := b.lookupNames(names)
	if err != nil {
		return nil, err
	}
	targets, err := b.closure(names)
	if err != nil {
		return nil, err
	}
	release, err := b.results.Use()
	if err != nil {
		return nil, cacheError(b.opt.Cache, err)
	}
	defer release()
	if b.pinned, err = sdk.Pinned(b.ws); err != nil {
		return nil, fmt.Errorf("sdk: %w", err)
	}
	if b.pinned == "" {
		return nil, errors.New("slipway.lock pins no SDK for this workspace, so no result is known: run slipway build")
	}
	var list []*Verified
	for _, t := range targets {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		v, err := b.verify(ctx, t, slices.Contains(wanted, t))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		list = append(list, v)
	}
	return list, nil
}

func (b *Builder) verify(ctx context.Context, t *graph.Target, wanted bool) (*Verified, error) {
	v := verified(t, nil)
	s, err := b.look(t)
	if err != nil {
		return nil, err
	}
	if len(s.waits) > 0 {
		v.Status = VerifiedUnknown
		v.Findings = append(v.Findings, fmt.Sprintf("not checked: its result depends on %s, which has none", s.waits[0].Name))
		return v, nil
	}
	r, bad, err := b.results.Check(s.key)
	if err != nil {
		return nil, cacheError(b.opt.Cache, err)
	}
	if r == nil && len(bad) == 0 {
		v.Status = VerifiedMissing
		v.Findings = append(v.Findings, "there is no result of what it is made from now: slipway build "+t.Name+" makes it")
		return v, nil
	}
	if r != nil {
		v = verified(t, r)
		err := b.take(t, r) // from the manifest, so that what needs it can be checked too
		if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, wrong := range bad {
		v.damaged("stored result: %v: it is dropped, slipway build %s makes it again", wrong, t.Name)
	}
	if len(bad) > 0 {
		if err := b.results.Drop(s.key); err != nil {
			return nil, cacheError(b.opt.Cache, err)
		}
	}
	switch {
	case r == nil:
	case t.Variant != nil:
		if err = b.verifyImage(ctx, t.Variant, r, v); err == nil {
			err = b.verifyMigrations(ctx, t, r, v)
		}
		if err == nil {
			err = b.verifyDocuments(ctx, t, r, v)
		}
	default:
		err = b.verifyRPMs(t, r, wanted, v)
	}
	return v, err
}

// verifyRPMs checks the folder that shows a package's result.
func (b *Builder) verifyRPMs(t *graph.Target, r *store.Result, wanted bool, v *Verified) error {
	dir := b.rpmDir(t)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if wanted || len(b.results.Missing(r)) == 0 { // else it lies in the team cache
			v.damaged("%s is not there: slipway build %s shows it", b.show(dir), t.Name)
		}
		return nil
	}
	wrong := false
	note := func(path, what string) {
		wrong = true
		v.damaged("%s %s: slipway build %s shows it again", b.show(path), what, t.Name)
	}
	want := map[string]bool{}
	for _, f := range r.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		want[path] = true
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			note(path, "is missing")
			continue
		}
		if err != nil {
			return err
		}
		if blob, err := os.Stat(b.results.Path(f.Digest)); err == nil && os.SameFile(info, blob) {
			continue // has been read
		}
		same, err := hasDigest(path, info, f)
		if err != nil {
			return err
		}
		if !same {
			note(path, "has changed")
			// older than the blob, so that a copy of it does not pass for right
			if err := os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
				return err
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !want[path] {
			note(path, "is not of the result")
		}
		return err
	})
	if err == nil && wrong {
		now := time.Now()
		err = os.Chtimes(dir, now, now) // no record of a build holds any more
	}
	return err
}

func hasDigest(path string, info fs.FileInfo, f store.File) (bool, error) {
	if !info.Mode().IsRegular() || info.Size() != f.Size {
		return false, nil
	}
	in, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer in.Close()
	h := sha256.New()
	_, err = io.Copy(h, in)
	return "sha256:"+hex.EncodeToString(h.Sum(nil)) == f.Digest, err
}

// show is a path as messages name it.
func (b *Builder) show(path string) string {
	if rel, err := filepath.Rel(b.ws.Root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// verifyImage checks the disk of a variant and what lies beside it.
func (b *Builder) verifyImage(ctx context.Context, variant *workspace.Variant, r *store.Result, v *Verified) error {
	dir, disk := b.ImageDir(variant), b.ImagePath(variant)
	stamp, err := b.stamp(variant, r)
	if err != nil {
		return err
	}
	again := ": slipway build " + v.Target + " shows it again"
	before := len(v.Findings)
	if old, err := os.ReadFile(b.stampFile(variant)); err != nil || !bytes.Equal(old, shownFrom(stamp, variant).Encode()) {
		v.damaged("%s is not the disk of this result%s", b.show(disk), again)
	} else if info, err := os.Stat(disk); err != nil || !info.Mode().IsRegular() {
		v.damaged("%s is missing%s", b.show(disk), again)
	} else if len(b.results.Missing(r)) == 0 { // else its parts are damaged, or in the team cache
		want, err := b.inventory(r)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "inventory.json")
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			v.damaged("%s is not the list of what is in the image%s", b.show(file), again)
		}
		wrong, err := b.verifyDisk(ctx, variant, r, disk)
		if err != nil {
			return err
		}
		for _, w := range wrong {
			v.damaged("%s: %s%s", b.show(disk), w, again)
		}
		if len(wrong) == 0 { // they are made from the disk
			beside, err := b.verifyCompanions(ctx, variant, disk)
			if err != nil {
				return err
			}
			for _, path := range beside {
				v.damaged("%s is missing, or is not of the disk beside it%s", b.show(path), again)
			}
		}
		if len(wrong) > 0 { // it may be the same file
			if err := os.Remove(b.keptDisk(stamp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if len(v.Findings) == before {
		return nil
	}
	// without the stamp the next build shows all of it again
	if err := os.Remove(b.stampFile(variant)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// verifyDisk compares a disk with one that is newly put together from the parts of
// its result, for which their hash tree is checked against the root hash.
func (b *Builder) verifyDisk(ctx context.Context, variant *workspace.Variant, r *store.Result, disk string) (wrong []string, err error) {
	in, err := b.diskInputs(variant, r)
	if err != nil {
		return nil, err
	}
	dir, err := b.temp()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	fresh := filepath.Join(dir, filepath.Base(disk))
	if _, err := image.Assemble(ctx, in, fresh); err != nil {
		return nil, err
	}
	list, err := compare.Files(fresh, disk)
	for _, d := range list {
		wrong = append(wrong, "has changed: "+d.String())
	}
	return wrong, err
}

// temp makes a folder on the file system of the store.
func (b *Builder) temp() (string, error) {
	return os.MkdirTemp(filepath.Join(b.results.Dir(), "tmp"), store.TempResult)
}
