package tufrepo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"slices"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/inspect"
	"slipway/internal/image/verity"
	"slipway/internal/update"
)

// maxUKI bounds the size of a kernel image, and of a hash tree, which are held in
// memory, in bytes.
const maxUKI = 1 << 30

// machines are the architectures that releases name, as EFI programs have them.
var machines = map[string]uint16{"x86_64": pe.IMAGE_FILE_MACHINE_AMD64, "aarch64": pe.IMAGE_FILE_MACHINE_ARM64}

// content holds the images of a release, as they are decompressed, against the
// release and against each other.
type content struct {
	release *update.Update
	kernel  inspect.Kernel
	signers []*x509.Certificate // of the kernel
	tree    []byte
}

// image is one of a release.
type image struct {
	*update.Image
	kind string
	look func(io.Reader) error // reads its content
}

// images are those of the release in the order in which they must be looked at.
func (c *content) images(ctx context.Context) []image {
	i := &c.release.Images
	return []image{
		{&i.UKI, "uki", c.lookAtKernel}, {&i.Hash, "hash", c.lookAtTree},
		{&i.Root, "root", func(r io.Reader) error { return c.lookAtRoot(ctx, r) }},
	}
}

func (c *content) lookAtKernel(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxUKI))
	if err != nil {
		return err
	}
	c.kernel = inspect.ReadKernel("", data)
	if c.kernel.Error != "" {
		return fmt.Errorf("not a unified kernel image: %s", c.kernel.Error)
	}
	f, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if want, ok := machines[c.release.Arch]; !ok || f.Machine != want {
		return fmt.Errorf("it is a program for machine %#x: the release is for %s", f.Machine, c.release.Arch)
	}
	if got := c.kernel.OSRelease["VARIANT_ID"]; got != c.release.Variant {
		return fmt.Errorf("VARIANT_ID in its os-release is %q: the release is of variant %s", got, c.release.Variant)
	}
	if got := cmp.Or(c.kernel.OSRelease["IMAGE_VERSION"], c.kernel.OSRelease["VERSION_ID"]); got != c.release.Version.String() {
		return fmt.Errorf("the version in its os-release is %q: the release is %s", got, c.release.Version)
	}
	if c.kernel.RootHash == "" {
		return errors.New("its command line has no dm-mod.create= with a dm-verity root")
	}
	c.signers, err = authenticode.Signers(data)
	return err
}

func (c *content) lookAtTree(r io.Reader) (err error) {
	c.tree, err = io.ReadAll(io.LimitReader(r, maxUKI))
	return err
}

func (c *content) lookAtRoot(ctx context.Context, r io.Reader) error {
	if c.kernel.RootHash == "" {
		return nil // which was said of the kernel
	}
	hash, err := verity.ParseRootHash(c.kernel.RootHash)
	if err != nil {
		return err
	}
	super, err := verity.Verify(ctx, &inOrder{r: r}, bytes.NewReader(c.tree), hash)
	if err != nil {
		return fmt.Errorf("root, hash tree and the root hash in the kernel image do not fit: %w", err)
	}
	if n, err := io.Copy(io.Discard, r); n > 0 {
		return fmt.Errorf("the hash tree protects %d bytes of the root, it has %d more", super.DataBlocks*verity.BlockSize, n)
	} else if err != nil {
		return err
	}
	return nil
}

// inOrder is a stream that is read at offsets which follow each other.
type inOrder struct {
	r  io.Reader
	at int64
}

func (o *inOrder) ReadAt(b []byte, off int64) (int, error) {
	if off != o.at {
		return 0, fmt.Errorf("read at %d of a stream that is at %d", off, o.at)
	}
	n, err := io.ReadFull(o.r, b)
	o.at += int64(n)
	return n, err
}

// checkSigners refuses a kernel image that none of those has signed who signed that
// of the newest release: hosts with Secure Boot would refuse it.
func (r *Repo) checkSigners(ctx context.Context, c *content) error {
	var newest *update.Update
	for i := range r.current.manifest.Updates {
		u := &r.current.manifest.Updates[i]
		if u.Variant != c.release.Variant || u.Arch != c.release.Arch {
			continue
		}
		if u.Version == c.release.Version {
			return nil // it is published, and may be added again to mend it
		}
		if newest == nil || newest.Version.Compare(u.Version) < 0 {
			newest = u
		}
	}
	if newest == nil {
		return nil
	}
	uki := newest.Images.UKI
	target, err := openTarget(ctx, Folder(r.dir), uki.Target, r.current.targets.Signed.Targets[uki.Target])
	if err != nil {
		return err
	}
	defer target.Close()
	before := content{release: newest}
	if _, err := measure(target, uki.Compression, before.lookAtKernel); err != nil {
		return fmt.Errorf("target %s: %w", uki.Target, err)
	}
	switch signed := func(s *x509.Certificate) bool { return slices.ContainsFunc(before.signers, s.Equal) }; {
	case len(before.signers) == 0 || slices.ContainsFunc(c.signers, signed):
		return nil
	case len(c.signers) == 0:
		return fmt.Errorf("the kernel image of release %s is not signed, that of release %s is: hosts would refuse it (--other-signer publishes it nevertheless)", c.release, newest)
	}
	return fmt.Errorf("the kernel image of release %s is signed by %s, that of release %s by %s: hosts would refuse it (--other-signer publishes it nevertheless)",
		c.release, c.signers[0].Subject, newest, before.signers[0].Subject)
}
