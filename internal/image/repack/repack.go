// Package repack makes a finished disk image into another: with other files in
// its root file system, more kernel parameters, addons, other signatures. It needs
// none of what the image was built from, no privileges, and no programs but
// e2fsprogs for files in ext4; the same image and changes make the same bytes.
package repack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"slipway/internal/image"
	"slipway/internal/image/authenticode"
	"slipway/internal/image/erofs"
	"slipway/internal/image/ext4"
	"slipway/internal/image/fat"
	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/inspect"
	"slipway/internal/image/tree"
	"slipway/internal/image/uki"
	"slipway/internal/image/verity"
)

// Changes is what is to be different.
type Changes struct {
	Files []erofs.Change
	// Parameters are put behind those of the kernel's command line.
	Parameters []string
	// Addons are put into /loader/addons of the EFI system partition, in place of
	// one of the same name. Path is the name alone, and ends in .addon.efi.
	Addons []fat.File
	// Sign signs all EFI programs, in place of the signatures that they have; but
	// Addons that are signed stay as they are. Nil changes no signature, so that
	// nothing that is signed can be changed.
	Sign image.SignEFI
	// Unsigned takes all signatures away.
	Unsigned bool
}

// Report says what was made; sizes are in bytes.
type Report struct {
	OldHash, Hash      verity.RootHash
	RootSize, HashSize int64
	Version            string // of the system
	Cmdline            string
	Slots              int
}

// Write writes a disk with changes, raw, to the file out, which is empty. The disk
// must be whole, as inspect.Verify finds, and have one kernel, as one that was
// just built; its data, layout and labels stay.
func Write(ctx context.Context, d *format.Disk, c Changes, out *os.File) (*Report, error) {
	r, findings, err := inspect.Verify(ctx, d)
	if err != nil {
		return nil, err
	}
	if len(findings) > 0 {
		return nil, fmt.Errorf("the image is not as it was made: %s", findings[0])
	}
	t, _, err := gpt.Read(d, d.Size())
	if err != nil {
		return nil, err
	}
	p := &packer{Changes: c, d: d, t: t, report: &Report{Slots: len(r.Slots)}}
	if err := p.find(r); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "slipway-repack-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := p.root(ctx, dir); err != nil {
		return nil, err
	}
	if p.newRoot != nil {
		defer p.newRoot.Close()
	}
	if err := p.esp(ctx); err != nil {
		return nil, err
	}
	return p.report, p.write(ctx, out)
}

type packer struct {
	Changes
	d                     *format.Disk
	t                     *gpt.Table
	report                *Report
	rootAt, hashAt, espAt int    // index in the table
	kernel                string // path
	content               string // of the root partition
	volume                *fat.Volume
	from, to              image.VerityRoot
	newRoot               *os.File // nil where the root stays
	newHash               []byte
}

// List lists the regular files of a root of either kind.
func List(root io.ReaderAt) ([]tree.Entry, error) {
	files, err := erofs.List(root)
	if err == nil {
		return files, nil
	}
	files, errExt4 := ext4.List(root)
	if errExt4 != nil {
		return nil, fmt.Errorf("%w; %w", err, errExt4)
	}
	return files, nil
}

func (p *packer) section(at int) *io.SectionReader {
	e := p.t.Entries[at]
	return io.NewSectionReader(p.d, e.Start(), e.Size())
}

// find finds the parts that change.
func (p *packer) find(r *inspect.Report) error {
	filled := slices.DeleteFunc(slices.Clone(r.Slots), func(s inspect.Slot) bool { return s.Empty })
	if len(filled) != 1 || len(r.Kernels) != 1 {
		return fmt.Errorf("%d slots are filled and there are %d kernels, want one of each: give an image as it was built, not one that has run", len(filled), len(r.Kernels))
	}
	s := filled[0]
	p.rootAt, p.hashAt, p.kernel, p.report.Version = s.Root-1, s.Hash-1, s.Kernel, s.Version
	p.content = r.Partitions[slices.IndexFunc(r.Partitions, func(p inspect.Partition) bool { return p.Number == s.Root })].Content
	p.espAt = slices.IndexFunc(p.t.Entries, func(e gpt.Entry) bool { return e.Type == gpt.TypeESP })
	var err error
	if p.from.Hash, err = verity.ParseRootHash(s.RootHash); err != nil {
		return err
	}
	if p.from.Super, err = verity.ReadSuperblock(p.section(p.hashAt)); err != nil {
		return err
	}
	p.to = p.from
	if p.volume, err = fat.ReadVolume(p.section(p.espAt)); err != nil {
		return fmt.Errorf("EFI system partition: %w", err)
	}
	return nil
}

// root makes the new root file system and its hash tree.
func (p *packer) root(ctx context.Context, dir string) error {
	if len(p.Files) == 0 {
		return nil
	}
	if p.content != "erofs" && p.content != "ext4" {
		return fmt.Errorf("the root file system is of the kind %s: files can be changed in erofs and ext4 alone", p.content)
	}
	old := io.NewSectionReader(p.section(p.rootAt), 0, int64(p.from.Super.DataBlocks)*verity.BlockSize)
	f, err := os.CreateTemp(dir, "root")
	if err != nil {
		return err
	}
	p.newRoot = f
	if _, err := io.Copy(f, &reader{ctx, old}); err != nil {
		return err
	}
	room := p.t.Entries[p.rootAt]
	var edited erofs.Edited
	if p.content == "ext4" {
		edited, err = editExt4(ctx, dir, f, room.Size(), p.Files)
	} else {
		edited, err = erofs.Edit(f, p.Files)
	}
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if edited.Size > room.Size() {
		return fmt.Errorf("the root file system would have %d bytes, partition %d (%s) holds %d: %d too many", edited.Size, p.rootAt+1, room.Name, room.Size(), edited.Size-room.Size())
	}
	if err := f.Truncate(edited.Size); err != nil { // what lay behind the file system
		return err
	}
	p.to.Super = verity.Superblock{UUID: edited.UUID, DataBlocks: uint64(edited.Size / verity.BlockSize), Salt: verity.DeriveSalt(edited.UUID[:])}
	if p.newHash, p.to.Hash, err = verity.Format(ctx, f, p.to.Super); err != nil {
		return err
	}
	room = p.t.Entries[p.hashAt]
	if int64(len(p.newHash)) > room.Size() {
		return fmt.Errorf("the hash tree would have %d bytes, partition %d (%s) holds %d: %d too many", len(p.newHash), p.hashAt+1, room.Name, room.Size(), int64(len(p.newHash))-room.Size())
	}
	p.t.Entries[p.rootAt].GUID, p.t.Entries[p.hashAt].GUID = image.PartitionGUIDs(p.to.Hash)
	return nil
}

// esp changes the files of the EFI system partition.
func (p *packer) esp(ctx context.Context) error {
	at := slices.IndexFunc(p.volume.Files, func(f fat.File) bool { return f.Path == p.kernel })
	kernel := &p.volume.Files[at]
	plain, err := authenticode.Strip(kernel.Data)
	if err != nil {
		return err
	}
	line, err := cmdline(plain)
	if err != nil {
		return fmt.Errorf("/%s: %w", kernel.Path, err)
	}
	newLine, err := image.ChangeRoot(line, p.from, p.to, p.Parameters)
	if err != nil {
		return fmt.Errorf("/%s: %w", kernel.Path, err)
	}
	p.report.OldHash, p.report.Hash, p.report.Cmdline = p.from.Hash, p.to.Hash, newLine
	p.report.RootSize, p.report.HashSize = int64(p.to.Super.DataBlocks)*verity.BlockSize, p.to.Super.HashSize()
	if newLine != line {
		if signed := len(plain) != len(kernel.Data); signed && p.Sign == nil && !p.Unsigned {
			return fmt.Errorf("/%s is signed and would change: give keys to sign it anew (table [signing] of the user's configuration), or --unsigned to take all signatures away", kernel.Path)
		}
		if kernel.Data, err = uki.WithCmdline(plain, newLine); err != nil {
			return fmt.Errorf("/%s: %w", kernel.Path, err)
		}
	}
	keep, err := p.addons(kernel.Data, newLine)
	if err != nil {
		return err
	}
	for i, f := range p.volume.Files {
		if !strings.EqualFold(path.Ext(f.Path), ".efi") || keep[f.Path] || p.Sign == nil && !p.Unsigned {
			continue
		}
		data, err := authenticode.Strip(f.Data)
		if err == nil && p.Sign != nil {
			data, err = p.Sign(ctx, f.Path, data)
		}
		if err != nil {
			return fmt.Errorf("sign /%s: %w", f.Path, err)
		}
		p.volume.Files[i].Data = data
	}
	room := p.t.Entries[p.espAt]
	need, err := p.volume.Need(room.Size())
	if err != nil {
		return err
	}
	if need > room.Size() {
		return fmt.Errorf("the EFI file system would have %d bytes, partition %d (%s) holds %d: %d too many", need, p.espAt+1, room.Name, room.Size(), need-room.Size())
	}
	return nil
}

// addons puts the addons on the EFI system partition, and gives those that are
// signed already.
func (p *packer) addons(kernel []byte, line string) (signed map[string]bool, err error) {
	signed = map[string]bool{}
	for _, a := range p.Addons {
		a.Path = image.AddonPath(a.Path)
		p.volume.Files = slices.DeleteFunc(p.volume.Files, func(f fat.File) bool { return strings.EqualFold(f.Path, a.Path) })
		p.volume.Files = append(p.volume.Files, a)
	}
	if err := image.CheckAddons(kernel, line, p.volume.Files); err != nil {
		return nil, fmt.Errorf("/%s: %w", p.kernel, err)
	}
	for _, a := range p.Addons {
		signers, err := authenticode.Signers(a.Data)
		if err != nil {
			return nil, fmt.Errorf("addon %s: %w", a.Path, err)
		}
		signed[image.AddonPath(a.Path)] = len(signers) > 0 && !p.Unsigned
	}
	return signed, nil
}

func cmdline(kernel []byte) (string, error) {
	sections, err := uki.Inspect(bytes.NewReader(kernel))
	if err != nil {
		return "", err
	}
	for _, s := range sections {
		if s.Name == ".cmdline" {
			return string(s.Data), nil
		}
	}
	return "", errors.New("it has no command line")
}

// write writes the disk: what is new, and the rest as it lies.
func (p *packer) write(ctx context.Context, out *os.File) error {
	if err := out.Truncate(p.d.Size()); err != nil {
		return err
	}
	fresh := []int{p.espAt}
	if p.newRoot != nil {
		fresh = append(fresh, p.rootAt, p.hashAt)
	}
	slices.SortFunc(fresh, func(a, b int) int { return int(p.t.Entries[a].First) - int(p.t.Entries[b].First) })
	at := int64(0)
	for _, i := range fresh {
		e := p.t.Entries[i]
		if err := p.copy(ctx, out, at, e.Start()); err != nil {
			return err
		}
		at = e.Start() + e.Size()
	}
	if err := p.copy(ctx, out, at, p.d.Size()); err != nil {
		return err
	}
	esp := p.t.Entries[p.espAt]
	if err := p.volume.Write(io.NewOffsetWriter(out, esp.Start()), esp.Size()); err != nil {
		return err
	}
	if p.newRoot != nil {
		if _, err := io.Copy(io.NewOffsetWriter(out, p.t.Entries[p.rootAt].Start()), &reader{ctx, io.NewSectionReader(p.newRoot, 0, p.report.RootSize)}); err != nil {
			return err
		}
		if _, err := out.WriteAt(p.newHash, p.t.Entries[p.hashAt].Start()); err != nil {
			return err
		}
	}
	return p.t.Write(out) // syncs
}

// copy copies a range of the disk without its holes.
func (p *packer) copy(ctx context.Context, out *os.File, from, to int64) error {
	for from < to {
		start, end, err := p.d.Data(from)
		if errors.Is(err, io.EOF) || err == nil && start >= to {
			return nil
		}
		if err != nil {
			return err
		}
		end = min(end, to)
		if _, err := io.Copy(io.NewOffsetWriter(out, start), &reader{ctx, io.NewSectionReader(p.d, start, end-start)}); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// reader is a reader that ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
