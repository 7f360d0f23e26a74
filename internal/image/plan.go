// Package image assembles bootable disks from parts that were made in a
// sandbox: it plans the partitions, builds the unified kernel image and the
// EFI system partition, checks that the parts fit together, and writes all of
// it into one sparse file. Everything is plain file access; nothing needs a
// loop device or a privilege, and the same input makes the same bytes.
package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/image/verity"
)

const mib = 1 << 20

// Names of partitions. Those of a filled root and hash partition end in the
// version: root_0.1.0, hash_0.1.0.
const (
	LabelESP   = "esp"
	LabelData  = "data"
	LabelEmpty = "_empty" // an unused slot, as systemd-sysupdate(8) marks it
	prefixRoot = "root_"
	prefixHash = "hash_"
)

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
	SizeMiB    int64
	Attributes uint64
	// File is the path of the content, which may be shorter than the
	// partition; FAT is a file system to be made in the partition. With
	// neither it stays blank.
	File string
	FAT  *fat.Volume
	// Setting is the manifest key that gives the size, for error messages.
	Setting string
}

// Layout is the image-layout table of a variant.
type Layout struct {
	ESPSizeMiB, RootSizeMiB, HashSizeMiB, DataSizeMiB int
	Slots                                             int // 1 or 2 pairs of root and hash
	DiskSizeGiB                                       int // 0: as small as the partitions allow
}

// Arch is an architecture as uname(1) and RPM call it.
type Arch string

// The architectures that disks can be made for.
const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

type archFacts struct {
	root, hash gpt.GUID
	boot       string // name of the boot loader by the UEFI specification
}

func (a Arch) facts() (archFacts, error) {
	switch a {
	case X86_64:
		return archFacts{gpt.TypeRootX86_64, gpt.TypeRootVerityX86_64, "BOOTX64.EFI"}, nil
	case AArch64:
		return archFacts{gpt.TypeRootARM64, gpt.TypeRootVerityARM64, "BOOTAA64.EFI"}, nil
	}
	return archFacts{}, fmt.Errorf("architecture %q: disks can be made for %s and %s", string(a), X86_64, AArch64)
}

// Contents is what the partitions of a plan are filled with.
type Contents struct {
	Version    string
	RootHash   verity.RootHash
	ESP        *fat.Volume
	Root, Hash string // files
	Data       string // file, or "" for a partition that is formatted at first boot
}

// NewPlan returns the layout of Slipway's disks: the EFI system partition, one
// or two slots of root and hash, data. The GUIDs of the filled slot are the
// two halves of the root hash, by which the kernel command line names them
// (Discoverable Partitions Specification); all others are derived from it.
func NewPlan(arch Arch, l Layout, c Contents) (*Plan, error) {
	facts, err := arch.facts()
	if err != nil {
		return nil, err
	}
	if l.Slots != 1 && l.Slots != 2 {
		return nil, fmt.Errorf("image-layout.slots is %d, want 1 or 2", l.Slots)
	}
	id := func(role string) gpt.GUID { return deriveGUID(c.RootHash, role) }
	rootGUID, hashGUID := PartitionGUIDs(c.RootHash)
	p := &Plan{DiskGUID: id("disk"), SizeMiB: int64(l.DiskSizeGiB) * 1024}
	add := func(label string, kind, uuid gpt.GUID, size int, setting string, ro bool) *Partition {
		var attributes uint64
		if ro {
			attributes = gpt.AttributeReadOnly
		}
		p.Partitions = append(p.Partitions, Partition{Label: label, Type: kind, UUID: uuid, SizeMiB: int64(size),
			Attributes: attributes, Setting: "image-layout." + setting})
		return &p.Partitions[len(p.Partitions)-1]
	}
	add(LabelESP, gpt.TypeESP, id("esp"), l.ESPSizeMiB, "esp-size-mib", false).FAT = c.ESP
	add(prefixRoot+c.Version, facts.root, rootGUID, l.RootSizeMiB, "root-size-mib", true).File = c.Root
	add(prefixHash+c.Version, facts.hash, hashGUID, l.HashSizeMiB, "hash-size-mib", true).File = c.Hash
	if l.Slots == 2 {
		add(LabelEmpty, facts.root, id("root-b"), l.RootSizeMiB, "root-size-mib", true)
		add(LabelEmpty, facts.hash, id("hash-b"), l.HashSizeMiB, "hash-size-mib", true)
	}
	add(LabelData, gpt.TypeVar, id("data"), l.DataSizeMiB, "data-size-mib", false).File = c.Data
	return p, nil
}

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
	tooLarge := func(what string, need int64) error {
		return fmt.Errorf("%s has %.1f MiB, partition %s holds %d MiB: raise %s to at least %d",
			what, float64(need)/mib, p.Label, p.SizeMiB, p.Setting, (need+mib-1)/mib)
	}
	switch {
	case p.FAT != nil:
		if need, err := p.FAT.Need(size); err != nil {
			return fmt.Errorf("partition %s: %w", p.Label, err)
		} else if need > size {
			return tooLarge("the EFI file system", need)
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
			return tooLarge(p.File, st.Size())
		}
	}
	return nil
}
