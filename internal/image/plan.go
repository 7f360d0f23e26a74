// Package image assembles bootable disks from parts that were made in a
// sandbox: it plans the partitions, builds the unified kernel image and the
// EFI system partition, checks that the parts fit together, and writes all of
// it into one sparse file. Everything is plain file access; nothing needs a
// loop device or a privilege, and the same input makes the same bytes.
package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"slipway/internal/image/erofs"
	"slipway/internal/image/ext4"
	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/image/layout"
	"slipway/internal/image/verity"
)

const mib = 1 << 20

// Plan is the layout of a disk.
type Plan struct {
	DiskGUID gpt.GUID
	// SizeMiB is the size of the disk; 0 is as small as the partitions allow.
	SizeMiB    int64
	Partitions []Partition
}

// Partition is one partition of a plan. Partitions follow each other in
// order, each at a multiple of 1 MiB, the first at 1 MiB.
type Partition struct {
	Label      string
	Type, UUID gpt.GUID
	// StartMiB is where the partition begins; 0 is right behind the one before.
	StartMiB   int64
	SizeMiB    int64
	Attributes uint64
	// File is the path of the content, which may be shorter than the
	// partition; FAT and Ext4 are file systems to be made in the partition.
	// With none of them it stays blank.
	File string
	FAT  *fat.Volume
	Ext4 *ext4.Volume
	// Spare is the size in bytes of one more file that FAT must have room for.
	Spare int64
	// Setting is the manifest key that gives the size, for error messages.
	Setting string
}

// Layout is the image-layout table of a variant.
type Layout = layout.Layout

// Arch is an architecture as uname(1) and RPM call it.
type Arch string

// The architectures that disks can be made for.
const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

type archFacts struct {
	boot string // name of the boot loader by the UEFI specification
}

func (a Arch) facts() (archFacts, error) {
	switch a {
	case X86_64:
		return archFacts{"BOOTX64.EFI"}, nil
	case AArch64:
		return archFacts{"BOOTAA64.EFI"}, nil
	}
	return archFacts{}, fmt.Errorf("architecture %q: disks can be made for %s and %s", string(a), X86_64, AArch64)
}

// Contents is what the partitions of a plan are filled with.
type Contents struct {
	Version    string
	RootHash   verity.RootHash
	ESP        *fat.Volume
	Kernel     int64  // bytes of the kernel image on the ESP
	Root, Hash string // files
	Data       string // file, or "" for a partition that is formatted at first boot
}

// NewPlan returns the plan of the system's disk. The GUIDs of the filled slot are
// the two halves of the root hash, by which the kernel command line names them
// (Discoverable Partitions Specification); all others are derived from it, but
// for those that the layout fixes.
func NewPlan(arch Arch, l Layout, c Contents) (*Plan, error) {
	plans, err := newPlans(arch, l, c)
	if err != nil {
		return nil, err
	}
	return plans[0], nil
}

// NewDataPlan returns the plan of the disk that a layout has for the data alone;
// nil where it has none.
func NewDataPlan(arch Arch, l Layout, c Contents) (*Plan, error) {
	plans, err := newPlans(arch, l, c)
	if err != nil || len(plans) < 2 {
		return nil, err
	}
	return plans[1], nil
}

func newPlans(arch Arch, l Layout, c Contents) ([]*Plan, error) {
	if _, err := arch.facts(); err != nil {
		return nil, err
	}
	disks, findings := l.Disks(string(arch), c.Version)
	if len(findings) > 0 {
		errs := make([]error, len(findings))
		for i, f := range findings {
			errs[i] = f
		}
		return nil, errors.Join(errs...)
	}
	rootGUID, hashGUID := PartitionGUIDs(c.RootHash)
	var plans []*Plan
	for i, d := range disks {
		p := &Plan{DiskGUID: deriveGUID(c.RootHash, []string{"disk", "data-disk"}[i]), SizeMiB: d.SizeMiB}
		for _, a := range d.Areas {
			part := Partition{Label: a.Label, Type: a.Type, UUID: a.UUID, StartMiB: a.StartMiB, SizeMiB: a.SizeMiB, Attributes: a.Attributes, Setting: a.Key}
			volume := deriveGUID(c.RootHash, a.Role+" volume")
			switch a.Content {
			case layout.ESP:
				part.FAT = c.ESP
				if l.Updates() { // the kernel of an update lies beside the running one
					part.Spare = c.Kernel
				}
			case layout.Root:
				part.File, part.UUID = c.Root, rootGUID
			case layout.Hash:
				part.File, part.UUID = c.Hash, hashGUID
			case layout.Data:
				part.File = c.Data
			case layout.EmptyFAT:
				part.FAT = &fat.Volume{ID: binary.BigEndian.Uint32(volume[:]), Label: "EMPTY", Time: emptyTime}
			case layout.EmptyExt4:
				part.Ext4 = &ext4.Volume{UUID: volume, Time: emptyTime}
			}
			if part.UUID == (gpt.GUID{}) {
				part.UUID = deriveGUID(c.RootHash, a.Role)
			}
			p.Partitions = append(p.Partitions, part)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// emptyTime is that of empty file systems: 1980, when FAT begins.
var emptyTime = time.Unix(315532800, 0)

// PartitionGUIDs returns the two halves of a root hash as the GUIDs of its
// root and hash partitions.
func PartitionGUIDs(h verity.RootHash) (root, hash gpt.GUID) {
	return gpt.GUID(h[:16]), gpt.GUID(h[16:])
}

// deriveGUID makes a version 8 UUID (RFC 9562) from the root hash.
func deriveGUID(h verity.RootHash, role string) gpt.GUID {
	sum := sha256.Sum256(append(h[:], role...))
	g := gpt.GUID(sum[:16])
	g[6] = g[6]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}

// Table checks the plan and turns it into a partition table. Its errors name
// every partition that is too small for its content and the setting to raise.
func (p *Plan) Table() (*gpt.Table, error) {
	var errs []error
	t := &gpt.Table{Disk: p.DiskGUID}
	at := int64(1) // the first MiB holds the primary table
	for _, part := range p.Partitions {
		if part.SizeMiB <= 0 {
			errs = append(errs, fmt.Errorf("partition %s: its size is %d MiB: %s must be at least 1", part.Label, part.SizeMiB, part.Setting))
			continue
		}
		if err := part.fits(); err != nil {
			errs = append(errs, err)
		}
		if part.StartMiB != 0 {
			at = part.StartMiB
		}
		t.Entries = append(t.Entries, gpt.Entry{
			Type: part.Type, GUID: part.UUID, Attributes: part.Attributes, Name: part.Label,
			First: uint64(at) * mib / gpt.SectorSize,
			Last:  uint64(at+part.SizeMiB)*mib/gpt.SectorSize - 1,
		})
		at += part.SizeMiB
	}
	at++ // the last MiB holds the backup table
	size := p.SizeMiB
	switch {
	case size == 0:
		size = at
	case size < at:
		errs = append(errs, fmt.Errorf("the disk has %d MiB, its partitions need %d: raise image-layout.disk-size-gib to at least %d, or 0 for what is needed",
			size, at, (at+1023)/1024))
	}
	t.Sectors = uint64(size) * mib / gpt.SectorSize
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, t.Check()
}

func (p Partition) fits() error {
	size := p.SizeMiB * mib
	tooLarge := func(what string, need int64, largest string) error {
		if largest != "" {
			largest = "; the largest in it: " + largest
		}
		return fmt.Errorf("%s has %.1f MiB, partition %s holds %d MiB: raise %s to at least %d%s",
			what, float64(need)/mib, p.Label, p.SizeMiB, p.Setting, (need+mib-1)/mib, largest)
	}
	switch {
	case p.FAT != nil:
		v, what := *p.FAT, "the EFI file system"
		if p.Spare > 0 {
			v.Files = append(slices.Clip(v.Files), fat.File{Path: dirLinux + "the next version.efi", Data: make([]byte, p.Spare)})
			what += " with the kernel of an update"
		}
		if need, err := v.Need(size); err != nil {
			return fmt.Errorf("partition %s: %w", p.Label, err)
		} else if need > size {
			files := map[string]int64{}
			for _, f := range v.Files {
				files[f.Path] = int64(len(f.Data))
			}
			return tooLarge(what, need, largest(files))
		}
	case p.File != "":
		st, err := os.Stat(p.File)
		if err != nil {
			return fmt.Errorf("partition %s: %w", p.Label, err)
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("partition %s: %s is not a regular file", p.Label, p.File)
		}
		if st.Size() > size {
			return tooLarge("the content", st.Size(), largestIn(p.File))
		}
	}
	return nil
}

// largestIn lists the largest files of an EROFS or ext4 file system, with their
// sizes before compression; nothing of other files, as it only adds to an error.
func largestIn(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sizes := map[string]int64{}
	files, err := erofs.List(f)
	if err != nil {
		files, _ = ext4.List(f)
	}
	for _, f := range files {
		sizes[f.Path] = f.Size
	}
	return largest(sizes)
}

// largest lists the five largest files.
func largest(sizes map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	var out []string
	for _, name := range names[:min(5, len(names))] {
		out = append(out, fmt.Sprintf("%s %.1f MiB", name, float64(sizes[name])/mib))
	}
	return strings.Join(out, ", ")
}
