package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/internal/compare"
	"slipway/internal/image"
	"slipway/internal/image/format"
	"slipway/internal/image/inspect"
	"slipway/internal/image/layout"
	"slipway/internal/image/verity"
	"slipway/internal/plan"
	"slipway/internal/workspace"
)

// Endings of the files that lie beside a variant's disk: the disk of the data, and
// the parts of an update, as slipway repo add --image-dir finds them.
const (
	endData = "-data"
	endRoot = "-root.img"
	endHash = "-hash.img"
	endUKI  = image.UKIEnding
)

// companionVersion stands in the stamp: raise it when companions are made in
// another way from the same disk.
const companionVersion = "2"

// shownFrom is what a variant's disk and what lies beside it are made from.
func shownFrom(disk plan.Inputs, v *workspace.Variant) plan.Inputs {
	disk.Recipe += "." + companionVersion
	disk.Settings = maps.Clone(disk.Settings)
	disk.Settings["image-formats"] = strings.Join(v.ImageFormats, " ")
	return disk
}

// DataDisk is where the disk lies that the data has for itself, beside the raw disk
// of the system.
func DataDisk(system string) string {
	return strings.TrimSuffix(system, format.Raw.Extension()) + endData + format.Raw.Extension()
}

func allRegular(paths []string) bool {
	for _, p := range paths {
		if st, err := os.Stat(p); err != nil || !st.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// formatted are the files of a disk in other formats than raw, by the path of
// the raw disk without its ending. An OVA is one file for both disks.
func formatted(v *workspace.Variant, stem string, data bool) map[format.Kind]string {
	files := map[format.Kind]string{}
	for _, name := range v.ImageFormats {
		if k := format.Kind(name); k != format.Raw && (k != format.OVA || !data) {
			files[k] = stem + k.Extension()
		}
	}
	return files
}

// companions are the files that lie beside a variant's disk.
func (b *Builder) companions(v *workspace.Variant) []string {
	stem := filepath.Join(b.ImageDir(v), b.ImageName(v))
	var files []string
	for _, path := range formatted(v, stem, false) {
		files = append(files, path)
	}
	if v.ImageLayout.DataDisk == layout.Split {
		files = append(files, DataDisk(b.ImagePath(v)))
		for _, path := range formatted(v, stem+endData, true) {
			files = append(files, path)
		}
	}
	if v.ImageLayout.Updates() {
		files = append(files, stem+endRoot, stem+endHash, stem+endUKI)
	}
	if key, _ := b.opt.Signing.RootHash(); key != "" {
		files = append(files, stem+verity.HashEnding, stem+verity.SignatureEnding)
	}
	slices.Sort(files)
	return files
}

// writeCompanions makes what lies beside a variant's disk from the disk, and
// removes what an earlier layout or list of formats had there.
func (b *Builder) writeCompanions(ctx context.Context, v *workspace.Variant, disk string) error {
	stem := strings.TrimSuffix(disk, format.Raw.Extension())
	wanted := b.companions(v)
	var all []string
	for _, k := range format.Kinds() {
		all = append(all, stem+k.Extension(), stem+endData+k.Extension())
	}
	for _, path := range append(all, stem+endRoot, stem+endHash, stem+endUKI, stem+verity.HashEnding, stem+verity.SignatureEnding) {
		if path != disk && !slices.Contains(wanted, path) {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	b.display.Phase("variants/"+v.Name, "formats")
	d, err := format.OpenRaw(disk)
	if err != nil {
		return err
	}
	defer d.Close()
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		return err
	}
	made := time.Unix(b.ws.Config.ReleaseEpoch, 0)
	o := format.Options{
		Name: strings.TrimSuffix(b.ImageName(v), "-"+b.ws.Config.Version), Version: b.ws.Config.Version,
		Time: made, Seed: u.Disk.String(),
	}
	if v.ImageLayout.DataDisk == layout.Split {
		if err := b.dataDisk(ctx, v, u, stem+endData, o); err != nil {
			return err
		}
		if o.Data, err = format.OpenRaw(DataDisk(disk)); err != nil {
			return err
		}
		defer o.Data.Close()
	}
	for k, path := range formatted(v, stem, false) {
		if err := format.Convert(ctx, k, d, path, o); err != nil {
			return err
		}
	}
	if v.ImageLayout.Updates() {
		err = errors.Join(writeFile(ctx, stem+endRoot, u.Root), writeFile(ctx, stem+endHash, u.Hash), writeFile(ctx, stem+endUKI, bytes.NewReader(u.UKI)))
		if err != nil {
			return err
		}
	}
	if slices.Contains(wanted, stem+verity.SignatureEnding) {
		signing, err := b.signing()
		if err == nil {
			err = signing.writeRootHash(ctx, stem, u.RootHash)
		}
		if err != nil {
			return err
		}
	}
	for _, path := range wanted {
		if err := errors.Join(os.Chmod(path, 0o444), os.Chtimes(path, made, made)); err != nil {
			return err
		}
	}
	return nil
}

// verifyCompanions gives the files beside a variant's disk, which has been
// verified, that are missing or not of that disk. Of a disk for the data alone only
// its partition table is read, as it is made without content.
func (b *Builder) verifyCompanions(ctx context.Context, v *workspace.Variant, disk string) (wrong []string, err error) {
	wanted := b.companions(v)
	if len(wanted) == 0 {
		return nil, nil
	}
	stem := strings.TrimSuffix(disk, format.Raw.Extension())
	d, err := format.OpenRaw(disk)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		return nil, err
	}
	parts := map[string]io.Reader{stem + endRoot: u.Root, stem + endHash: u.Hash, stem + endUKI: bytes.NewReader(u.UKI), stem + verity.HashEnding: bytes.NewReader(u.RootHash.SignedText())}
	for _, path := range wanted {
		var ok bool
		if part := parts[path]; part != nil {
			ok = sameContent(path, &cancelable{ctx, part})
		} else if path == stem+verity.SignatureEnding {
			signing, err := b.signing()
			if err != nil {
				return nil, err
			}
			ok = signing.signedRootHash(path, u.RootHash)
		} else {
			ok = sameDisk(ctx, path, d, strings.HasPrefix(path, stem+endData+"."))
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !ok {
			wrong = append(wrong, path)
		}
	}
	return wrong, nil
}

func sameContent(path string, want io.Reader) bool {
	got, err := os.Open(path)
	if err != nil {
		return false
	}
	defer got.Close()
	a, b := sha256.New(), sha256.New()
	_, errA := io.Copy(a, got)
	_, errB := io.Copy(b, want)
	return errA == nil && errB == nil && bytes.Equal(a.Sum(nil), b.Sum(nil))
}

func sameDisk(ctx context.Context, path string, want *format.Disk, data bool) bool {
	d, err := format.Open(ctx, path)
	if err != nil {
		return false
	}
	defer d.Close()
	if data {
		r, err := inspect.Disk(d)
		return err == nil && r.Table.Primary == r.Table.Backup && len(r.Partitions) == 1
	}
	if d.Check(ctx) != nil {
		return false
	}
	found, err := compare.Disks("disk", want, d)
	return err == nil && len(found) == 0
}

// dataDisk writes the disk that the data partition has for itself.
func (b *Builder) dataDisk(ctx context.Context, v *workspace.Variant, u *inspect.Update, stem string, o format.Options) error {
	plan, err := image.NewDataPlan(image.Arch(b.opt.Arch), v.ImageLayout, image.Contents{Version: b.ws.Config.Version, RootHash: u.RootHash})
	if err != nil {
		return err
	}
	raw := stem + format.Raw.Extension()
	if _, _, err := plan.Write(ctx, raw); err != nil {
		return err
	}
	o.Seed += endData
	for k, path := range formatted(v, stem, true) {
		if err := format.Write(ctx, k, raw, path, o); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file that is there only when it is complete.
func writeFile(ctx context.Context, path string, r io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &cancelable{ctx, r})
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// cancelable is a reader that ends with its context.
type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
