package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/image/uki"
	"slipway/internal/image/verity"
)

// Inputs is what a disk is made from. All paths are files that Assemble only
// reads.
type Inputs struct {
	Arch   Arch
	Layout Layout
	// Name and Version name the unified kernel image,
	// /EFI/Linux/<name>_<version>+<tries>.efi, and Version the slot.
	Name, Version string
	// Tries is the number of boots that systemd-boot grants the image until
	// it must have been marked good (boot counting); 0 is no counting.
	Tries int

	Root     string // root file system
	Hash     string // its verity hash tree with superblock
	RootHash verity.RootHash
	RootType string // file system of Root, such as erofs
	Data     string // content of the data partition, or ""

	Kernel, Initrd, OSRelease string // Initrd may be ""
	Uname                     string // kernel release, may be ""
	Stub, BootLoader          string // systemd's linux*.efi.stub and systemd-boot*.efi

	KernelParameters []string
	Addons           []Addon
	OnCorruption     Corruption
	Time             time.Time // of the files on the EFI system partition

	// Sign signs the boot loader, the unified kernel image and the addons; nil
	// leaves them unsigned.
	Sign SignEFI
}

// Report says what Assemble made; sizes are in bytes.
type Report struct {
	Size      int64 // of the disk
	Allocated int64 // what the sparse file takes
	UKI       int64
	Cmdline   string
	Table     *gpt.Table
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)

// Assemble verifies the root file system against its hash tree and root hash,
// checks that everything fits, and writes the disk to out. The file appears
// there only when it is complete, but for what the kernel has still to write to
// storage; on an error an older one stays.
func Assemble(ctx context.Context, in Inputs, out string) (*Report, error) {
	facts, err := in.Arch.facts()
	if err != nil {
		return nil, err
	}
	// An underscore divides name from version in the file's name, a plus sign
	// the version from the tries.
	for what, s := range map[string]string{"name": in.Name, "version": in.Version} {
		if !fileName.MatchString(s) {
			return nil, fmt.Errorf("%s of the image %q: want letters, digits, dots and hyphens", what, s)
		}
	}
	ctx, cancel := context.WithCancel(ctx) // of what verifies, on an error before it is awaited
	defer cancel()
	super, verified, err := verifyRoot(ctx, in)
	if err != nil {
		return nil, err
	}
	report := &Report{}
	report.Cmdline, err = Cmdline(in.KernelParameters, in.RootType, in.RootHash, super, in.OnCorruption)
	if err != nil {
		return nil, err
	}
	kernelImage, err := buildUKI(in, report.Cmdline)
	if err != nil {
		return nil, err
	}
	report.UKI = int64(len(kernelImage))
	addons, err := buildAddons(in.Addons, kernelImage)
	if err != nil {
		return nil, err
	}
	if err := CheckAddons(kernelImage, report.Cmdline, addons); err != nil {
		return nil, err
	}
	loader, err := os.ReadFile(in.BootLoader)
	if err != nil {
		return nil, fmt.Errorf("boot loader: %w", err)
	}
	name := in.Name + "_" + in.Version
	if in.Tries > 0 {
		name += fmt.Sprintf("+%d", in.Tries)
	}
	volumeID := deriveGUID(in.RootHash, "esp-volume")
	esp := &fat.Volume{
		ID: binary.BigEndian.Uint32(volumeID[:]), Label: "ESP", Time: in.Time,
		Files: append([]fat.File{
			{Path: dirBoot + facts.boot, Data: loader},
			{Path: dirLinux + name + ".efi", Data: kernelImage},
			{Path: "loader/loader.conf", Data: []byte("timeout 0\neditor no\n")},
		}, addons...),
	}
	if err := in.Sign.volume(ctx, esp); err != nil {
		return nil, err
	}
	plan, err := NewPlan(in.Arch, in.Layout, Contents{
		Version: in.Version, RootHash: in.RootHash, Root: in.Root, Hash: in.Hash, Data: in.Data, ESP: esp, Kernel: report.UKI,
	})
	if err != nil {
		return nil, err
	}
	report.Table, report.Allocated, err = plan.write(ctx, out, verified)
	if err != nil {
		return nil, err
	}
	report.Size = int64(report.Table.Sectors) * gpt.SectorSize
	return report, nil
}

// verifyRoot gives the superblock of the hash tree, and what waits until the root file
// system has been verified, which takes as long as writing the disk.
func verifyRoot(ctx context.Context, in Inputs) (super verity.Superblock, verified func() error, err error) {
	root, err := os.Open(in.Root)
	if err != nil {
		return super, nil, fmt.Errorf("root file system: %w", err)
	}
	hash, err := os.Open(in.Hash)
	if err != nil {
		return super, nil, errors.Join(fmt.Errorf("verity hash tree: %w", err), root.Close())
	}
	mismatch := func(err error) error { return fmt.Errorf("%s does not fit %s: %w", in.Root, in.Hash, err) }
	if super, err = verity.ReadSuperblock(hash); err != nil {
		return super, nil, errors.Join(mismatch(err), root.Close(), hash.Close())
	}
	verified = sync.OnceValue(func() error {
		defer root.Close()
		defer hash.Close()
		if _, err := verity.Verify(ctx, root, hash, in.RootHash); err != nil {
			return mismatch(err)
		}
		// Bytes behind the tree's reach would go unprotected.
		st, err := root.Stat()
		if err != nil {
			return err
		}
		if want := int64(super.DataBlocks) * verity.BlockSize; st.Size() != want {
			return fmt.Errorf("%s has %d bytes, its hash tree is for %d", in.Root, st.Size(), want)
		}
		return nil
	})
	go func() { _ = verified() }()
	return super, verified, nil
}

func buildUKI(in Inputs, cmdline string) ([]byte, error) {
	img := uki.Image{Cmdline: cmdline, Uname: in.Uname}
	for _, f := range []struct {
		what, path string
		to         *[]byte
	}{
		{"EFI stub", in.Stub, &img.Stub},
		{"kernel", in.Kernel, &img.Kernel},
		{"os-release", in.OSRelease, &img.OSRelease},
		{"initrd", in.Initrd, &img.Initrd},
	} {
		if f.what == "initrd" && f.path == "" {
			continue
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		*f.to = data
	}
	return uki.Build(img)
}

// Write checks the plan and writes the disk to the file out, sparsely, by way
// of a temporary file beside it. It returns the table and the bytes that the
// file takes. The file is not synced.
func (p *Plan) Write(ctx context.Context, out string) (table *gpt.Table, allocated int64, err error) {
	return p.write(ctx, out, func() error { return nil })
}

// write is Write that keeps the file only if ready has no error.
func (p *Plan) write(ctx context.Context, out string, ready func() error) (table *gpt.Table, allocated int64, err error) {
	table, err = p.Table()
	if err != nil {
		return nil, 0, err
	}
	err = create(out, int64(table.Sectors)*gpt.SectorSize, func(f *os.File) error {
		for i, part := range p.Partitions {
			if err := part.write(ctx, io.NewOffsetWriter(f, table.Entries[i].Start()), table.Entries[i].Size()); err != nil {
				return fmt.Errorf("partition %s: %w", part.Label, err)
			}
		}
		if err := table.Write(io.NewOffsetWriter(f, 0)); err != nil { // would sync f itself
			return err
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			allocated = sys.Blocks * 512
		}
		return ready()
	})
	if err != nil {
		return nil, 0, err
	}
	return table, allocated, nil
}

// create makes a file of a size, sparse, that is at out only when write has
// returned.
func create(out string, size int64, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), os.Remove(f.Name()))
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (p Partition) write(ctx context.Context, w io.WriterAt, size int64) error {
	switch {
	case p.FAT != nil:
		return p.FAT.Write(w, size)
	case p.Ext4 != nil:
		return p.Ext4.Write(w, size)
	case p.File != "":
		f, err := os.Open(p.File)
		if err != nil {
			return err
		}
		defer f.Close()
		return copySparse(ctx, w, io.LimitReader(f, size))
	}
	return nil
}

// copySparse copies r to the start of w, which reads as zero, and leaves out
// what is zero in whole blocks of 4 KiB.
func copySparse(ctx context.Context, w io.WriterAt, r io.Reader) error {
	const block = 4096
	buf, zero := make([]byte, mib), make([]byte, block)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		for i := 0; i < n; {
			// One write for each run of blocks that are not zero.
			end := i
			for end < n && !bytes.Equal(buf[end:min(end+block, n)], zero[:min(block, n-end)]) {
				end = min(end+block, n)
			}
			if end > i {
				if _, err := w.WriteAt(buf[i:end], at+int64(i)); err != nil {
					return err
				}
			}
			i = end + block
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
