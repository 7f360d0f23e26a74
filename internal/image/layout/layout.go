// Package layout plans the partitions of disks from what a variant says, before
// anything is built: it finds everything that cannot fit.
package layout

import (
	"fmt"
	"strings"
	"unicode/utf16"

	"slipway/internal/image/ext4"
	"slipway/internal/image/gpt"
	"slipway/internal/image/verity"
)

const mib = 1 << 20

// minXFS is the size in MiB of the smallest file system that mkfs.xfs makes.
const minXFS = 300

// Plans of partitions.
const (
	Slipway      = "slipway"
	Bottlerocket = "bottlerocket"
	Custom       = "custom"
)

// Where the data partition lies.
const (
	Unified = "unified"
	Split   = "split"
)

// File systems: the root is EROFS or ext4, the data ext4 or XFS.
const (
	EROFS = "erofs"
	Ext4  = "ext4"
	XFS   = "xfs"
)

// Compressions of an EROFS root.
const (
	LZ4HC = "lz4hc"
	Zstd  = "zstd"
)

// Layout is the table image-layout of a variant. Sizes that are 0 were not
// given.
type Layout struct {
	Plan            string      `toml:"plan" enum:"slipway,bottlerocket,custom" default:"slipway" doc:"Partitions of the disk: slipway has the EFI system partition, one or two slots of root and hash, private and data; bottlerocket has Bottlerocket's names, types, order and sizes; custom has what partitions lists."`
	DataDisk        string      `toml:"data-disk" enum:"unified,split" default:"unified" doc:"Whether the data partition lies on the disk of the system or, split, on a disk of its own, in the file <image>-data.img."`
	RootFilesystem  string      `toml:"root-filesystem" enum:"erofs,ext4" default:"erofs" doc:"File system of the root: erofs, which is compressed, or ext4. The kernel must have it built in."`
	RootCompression string      `toml:"root-compression" enum:"lz4hc,zstd" default-doc:"lz4hc with erofs" doc:"Compression of an erofs root. zstd is smaller; it takes erofs-utils 1.8, of the SDK or in build.image-tools, and Linux 6.10 with CONFIG_EROFS_FS_ZIP_ZSTD."`
	ESPSizeMiB      int         `toml:"esp-size-mib" min:"1" max:"1048576" default-doc:"128; with the plan bottlerocket 5, or 10 with one slot" doc:"Size of the EFI system partition in MiB: it holds the boot loader and a unified kernel image, two of them with two slots. With the plan bottlerocket, what it takes beyond the default is taken from the reserved partition, so that with os-size-gib = 2 it can have 29, or 59 with one slot."`
	RootSizeMiB     int         `toml:"root-size-mib" min:"1" max:"1048576" default-doc:"512" doc:"Plan slipway: size of each root partition in MiB."`
	HashSizeMiB     int         `toml:"hash-size-mib" min:"1" max:"1048576" default-doc:"16" doc:"Plan slipway: size of each dm-verity hash partition in MiB."`
	PrivateSizeMiB  int         `toml:"private-size-mib" min:"1" max:"67108864" default-doc:"32" doc:"Plan slipway: size of the private partition in MiB, at least 8: an ext4 file system that is made with the disk, for what the system keeps of itself, apart from data that grows."`
	DataFilesystem  string      `toml:"data-filesystem" enum:"ext4,xfs" default:"ext4" doc:"File system that the system makes on the data partition at first boot, which the build leaves blank. Packages see it as data-filesystem(ext4) or data-filesystem(xfs)."`
	DataSizeMiB     int         `toml:"data-size-mib" min:"1" max:"1048576" default-doc:"256, or 300 with xfs" doc:"Plan slipway: size of the data partition in MiB as built; it grows to the end of the disk at first boot."`
	Slots           int         `toml:"slots" enum:"1,2" default-doc:"2" doc:"Plans slipway and bottlerocket: number of root and hash partition pairs: 2 for updates in place, 1 without."`
	DiskSizeGiB     int         `toml:"disk-size-gib" min:"0" max:"65536" default:"0" doc:"Plans slipway and custom: size of the disk in GiB; 0 is as small as its partitions allow."`
	OSSizeGiB       int         `toml:"os-size-gib" min:"1" max:"1024" default-doc:"2" doc:"Plan bottlerocket: size of the system's part of the disk in GiB; its partitions scale with it."`
	DataSizeGiB     int         `toml:"data-size-gib" min:"1" max:"65536" default-doc:"1" doc:"Plan bottlerocket: size of the data partition in GiB, or of the disk that it has for itself."`
	Partitions      []Partition `toml:"partitions" doc:"Plan custom: the partitions in their order on the disk. Exactly one each has the content esp, root and hash."`
}

// Partition is one [[image-layout.partitions]] table.
type Partition struct {
	Label      string `toml:"label" required:"true" check:"text" doc:"Name of the partition, at most 36 characters; {version} stands for the version of the system. Labels must differ, but for _empty, the label of unused slots."`
	Type       string `toml:"type" required:"true" check:"text" doc:"Type of the partition: a GUID, or esp, xbootldr, root, hash (of the architecture that is built for), var, tmp, srv, home, swap, linux-generic or bios-boot."`
	SizeMiB    int    `toml:"size-mib" min:"1" max:"67108864" default-doc:"none; needed without grow" doc:"Size in MiB; with grow, the least size."`
	Grow       bool   `toml:"grow" default:"false" doc:"Whether the partition takes all that disk-size-gib leaves; only the last one can."`
	StartKiB   int    `toml:"start-kib" min:"1" max:"68719476736" default-doc:"right behind the partition before" doc:"Where the partition begins, in KiB: a multiple of 1024."`
	Content    string `toml:"content" enum:"esp,root,hash,data" default-doc:"nothing" doc:"What the build writes: the EFI system partition's files, the root file system, its hash tree. The content data only marks the partition that data-disk = split moves."`
	Filesystem string `toml:"filesystem" enum:"fat,erofs,ext4" default-doc:"that of the content" doc:"File system: esp is always fat, which is FAT12, FAT16 or, from 34 MiB on, FAT32; root has root-filesystem; a partition without content can get an empty fat or ext4. Any other, and that of data, is for the system to make at first boot."`
}

// Content is what a partition is filled with.
type Content string

// Contents.
const (
	Blank     Content = ""
	ESP       Content = "esp"
	Root      Content = "root"
	Hash      Content = "hash"
	Data      Content = "data"
	EmptyFAT  Content = "fat"
	EmptyExt4 Content = "ext4"
)

// Disk is a planned disk.
type Disk struct {
	SizeMiB int64 // of the disk
	// Fixed says that the size was asked for, and is not just as small as the
	// partitions allow.
	Fixed bool
	Areas []Area
}

// Area is a partition at its place.
type Area struct {
	Label             string
	Type              gpt.GUID
	StartMiB, SizeMiB int64
	Attributes        uint64
	Content           Content
	UUID              gpt.GUID // zero: it is derived from the root hash and Role
	Role              string
	Key               string // the manifest key that gives the size
}

func (a Area) end() int64 { return a.StartMiB + a.SizeMiB }

// Finding is something in a layout that cannot be. Key is the offending key of
// the manifest, such as image-layout.partitions[1].size-mib.
type Finding struct{ Key, Msg, Hint string }

// Error is the finding in one line.
func (f Finding) Error() string {
	if f.Hint != "" {
		return f.Msg + " (" + f.Hint + ")"
	}
	return f.Msg
}

const table = "image-layout."

// WithDefaults fills in what was not given.
func (l Layout) WithDefaults() Layout {
	set := func(to *int, value int) {
		if *to == 0 {
			*to = value
		}
	}
	if l.Plan == "" {
		l.Plan = Slipway
	}
	if l.DataDisk == "" {
		l.DataDisk = Unified
	}
	if l.DataFilesystem == "" {
		l.DataFilesystem = Ext4
	}
	if l.RootFilesystem == "" {
		l.RootFilesystem = EROFS
	}
	if l.RootFilesystem == EROFS && l.RootCompression == "" {
		l.RootCompression = LZ4HC
	}
	switch l.Plan {
	case Slipway:
		set(&l.ESPSizeMiB, 128)
		set(&l.RootSizeMiB, 512)
		set(&l.HashSizeMiB, 16)
		set(&l.PrivateSizeMiB, 32)
		if l.DataFilesystem == XFS {
			set(&l.DataSizeMiB, minXFS)
		}
		set(&l.DataSizeMiB, 256)
		set(&l.Slots, 2)
	case Bottlerocket:
		set(&l.Slots, 2)
		set(&l.ESPSizeMiB, 5*(3-l.Slots))
		set(&l.OSSizeGiB, 2)
		set(&l.DataSizeGiB, 1)
	}
	return l
}

// Updates says whether the disk has a slot for an update beside the one that is
// filled.
func (l Layout) Updates() bool {
	l = l.WithDefaults()
	if l.Plan != Custom {
		return l.Slots == 2
	}
	roots, hashes := l.pairs()
	return roots == 2 && hashes == 2
}

// pairs counts the root and hash partitions of the plan custom by their types.
func (l Layout) pairs() (roots, hashes int) {
	for _, p := range l.Partitions {
		t, err := gpt.ParseType(p.Type, "x86_64")
		switch {
		case err != nil:
		case gpt.IsRoot(t):
			roots++
		case gpt.IsHash(t):
			hashes++
		}
	}
	return roots, hashes
}

// planner collects the areas of disks and what is wrong with them.
type planner struct {
	Layout
	arch, version string
	disks         []Disk
	findings      []Finding
}

func (p *planner) find(key, hint, msg string, a ...any) {
	p.findings = append(p.findings, Finding{table + key, fmt.Sprintf(msg, a...), hint})
}

// Disks plans the disk of the system, and behind it that of the data where it has
// one, for an architecture as uname(1) calls it. With findings the disks are of
// no use.
func (l Layout) Disks(arch, version string) ([]Disk, []Finding) {
	p := &planner{Layout: l, arch: arch, version: version}
	p.foreign()
	p.Layout = l.WithDefaults()
	if p.RootFilesystem != EROFS && p.RootCompression != "" {
		p.find("root-compression", "remove it, or set image-layout.root-filesystem", "\"image-layout.root-compression\" does not go with the root file system %s: it is for %s", p.RootFilesystem, EROFS)
	}
	if p.Plan != Custom && p.Slots != 1 && p.Slots != 2 {
		p.find("slots", "", "image-layout.slots is %d, want 1 or 2", p.Slots)
		return nil, p.findings
	}
	switch p.Plan {
	case Slipway:
		p.slipway()
	case Bottlerocket:
		p.bottlerocket()
	case Custom:
		p.custom()
	default:
		p.find("plan", "", "image-layout.plan %q is not known", p.Plan)
	}
	for i := range p.disks {
		p.place(&p.disks[i])
	}
	p.contents()
	return p.disks, p.findings
}

// foreign finds keys that belong to other plans.
func (p *planner) foreign() {
	plan := p.WithDefaults().Plan
	for _, k := range []struct {
		key   string
		given bool
		plans string
	}{
		{"esp-size-mib", p.ESPSizeMiB != 0, Slipway + " " + Bottlerocket}, {"root-size-mib", p.RootSizeMiB != 0, Slipway},
		{"hash-size-mib", p.HashSizeMiB != 0, Slipway}, {"private-size-mib", p.PrivateSizeMiB != 0, Slipway}, {"data-size-mib", p.DataSizeMiB != 0, Slipway},
		{"slots", p.Slots != 0, Slipway + " " + Bottlerocket}, {"disk-size-gib", p.DiskSizeGiB != 0, Slipway + " " + Custom},
		{"os-size-gib", p.OSSizeGiB != 0, Bottlerocket}, {"data-size-gib", p.DataSizeGiB != 0, Bottlerocket},
		{"partitions", len(p.Partitions) > 0, Custom},
	} {
		if k.given && !strings.Contains(k.plans, plan) {
			p.find(k.key, "remove it, or set image-layout.plan", "%q does not go with the plan %s: it is for %s", table+k.key, plan, strings.ReplaceAll(k.plans, " ", " and "))
		}
	}
}

func (p *planner) rootType() gpt.GUID { return p.typed("root") }

func (p *planner) typed(name string) gpt.GUID {
	t, err := gpt.ParseType(name, p.arch)
	if err != nil {
		p.find("plan", "", "%v", err)
	}
	return t
}

// dataDisk is the disk that the data partition belongs to.
func (p *planner) dataDisk() *Disk {
	if p.DataDisk == Split && len(p.disks) == 1 {
		p.disks = append(p.disks, Disk{})
	}
	return &p.disks[len(p.disks)-1]
}

func (p *planner) slipway() {
	p.disks = []Disk{{SizeMiB: int64(p.DiskSizeGiB) * 1024}}
	add := func(d *Disk, label string, kind gpt.GUID, role string, size int, content Content, key string, attributes uint64) {
		d.Areas = append(d.Areas, Area{Label: label, Type: kind, SizeMiB: int64(size), Attributes: attributes, Content: content, Role: role, Key: table + key})
	}
	root, hash := p.rootType(), p.typed("hash")
	os := &p.disks[0]
	const ro = gpt.AttributeReadOnly
	add(os, "esp", gpt.TypeESP, "esp", p.ESPSizeMiB, ESP, "esp-size-mib", 0)
	add(os, "root_"+p.version, root, "root-a", p.RootSizeMiB, Root, "root-size-mib", ro)
	add(os, "hash_"+p.version, hash, "hash-a", p.HashSizeMiB, Hash, "hash-size-mib", ro)
	if p.Slots == 2 {
		add(os, "_empty", root, "root-b", p.RootSizeMiB, Blank, "root-size-mib", ro)
		add(os, "_empty", hash, "hash-b", p.HashSizeMiB, Blank, "hash-size-mib", ro)
	}
	add(os, "private", p.typed("linux-generic"), "private", p.PrivateSizeMiB, EmptyExt4, "private-size-mib", 0)
	add(p.dataDisk(), "data", gpt.TypeVar, "data", p.DataSizeMiB, Data, "data-size-mib", 0)
}

// UUIDs by which Bottlerocket knows its data partition: the preferred one, and
// the one that is used where there is no other.
var dataPreferred, dataFallback = guid("5b94e8df-28b8-485c-9d19-362263b5944c"), guid("69040874-417d-4e26-a764-7885f22007ea")

func guid(s string) gpt.GUID {
	g, err := gpt.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// gptPriority marks a boot partition as successful, with priority 1, for boot
// loaders that choose by these attributes.
const gptPriority = 1<<48 | 1<<56

// bottlerocket is the plan of Bottlerocket's partyplanner: sizes in MiB for each
// GiB of the system's disk, in two banks or one of twice the size.
func (p *planner) bottlerocket() {
	gib := int64(p.OSSizeGiB)
	p.disks = []Disk{{SizeMiB: gib * 1024, Fixed: true}}
	os := &p.disks[0]
	add := func(label, kind string, size int64, content Content, key string) *Area {
		os.Areas = append(os.Areas, Area{Label: label, Type: p.typed(kind), SizeMiB: size, Content: content, Role: label, Key: table + key})
		return &os.Areas[len(os.Areas)-1]
	}
	add("BIOS-BOOT", "bios-boot", 4, Blank, "os-size-gib")
	times := int64(3 - p.Slots)
	esp := int64(p.ESPSizeMiB)
	reserved := times*15*gib - esp
	if reserved < 1 {
		p.find("esp-size-mib", fmt.Sprintf("make it at most %d, or raise image-layout.os-size-gib", times*15*gib-1),
			"the EFI system partition has %d MiB, it and the reserved partition have %d together", esp, times*15*gib)
		p.disks = nil
		return
	}
	for bank := range p.Slots {
		x := string(rune('A' + bank))
		root, hash, efi, label, kind := Root, Hash, ESP, "EFI-SYSTEM", "esp"
		if bank > 0 {
			root, hash, efi, label, kind = Blank, Blank, Blank, "EFI-BACKUP", "bottlerocket-efi-backup"
		}
		add(label, kind, esp, efi, "esp-size-mib")
		boot := add("BOTTLEROCKET-BOOT-"+x, "bottlerocket-boot", times*20*gib, Blank, "os-size-gib")
		if bank == 0 {
			boot.Attributes = gptPriority
		}
		add("BOTTLEROCKET-ROOT-"+x, "bottlerocket-root", times*460*gib, root, "os-size-gib")
		add("BOTTLEROCKET-HASH-"+x, "bottlerocket-hash", times*5*gib, hash, "os-size-gib")
		add("BOTTLEROCKET-RESERVED-"+x, "bottlerocket-reserved", reserved, Blank, "os-size-gib")
	}
	add("BOTTLEROCKET-PRIVATE", "bottlerocket-private", 24*gib-6-1, EmptyExt4, "os-size-gib")
	size := int64(p.DataSizeGiB) * 1024
	if p.DataDisk == Unified {
		add("", "bottlerocket-data", size, Data, "data-size-gib").UUID = dataPreferred
		os.SizeMiB += size
		return
	}
	add("", "bottlerocket-data", 1, Blank, "os-size-gib").UUID = dataFallback
	p.disks = append(p.disks, Disk{SizeMiB: size, Fixed: true, Areas: []Area{
		{Type: p.typed("bottlerocket-data"), SizeMiB: size - 2, Content: Data, UUID: dataPreferred, Key: table + "data-size-gib"},
	}})
}

func (p *planner) custom() {
	p.disks = []Disk{{SizeMiB: int64(p.DiskSizeGiB) * 1024}}
	if len(p.Partitions) == 0 {
		p.find("plan", "write [[image-layout.partitions]] tables with label, type and size-mib", "the plan custom has no partitions")
	}
	if roots, hashes := p.pairs(); max(roots, hashes) > 1 && (roots != 2 || hashes != 2) {
		p.find("partitions", "give two of each, or one without updates in place", "there are %d partitions of the type root and %d of the type hash: an update in place takes two of each", roots, hashes)
	}
	roles := map[string]int{}
	for i, part := range p.Partitions {
		key := fmt.Sprintf("partitions[%d]", i)
		name := part.Label
		kind, err := gpt.ParseType(part.Type, p.arch)
		if err != nil {
			p.find(key+".type", "", "partition %q: %v", name, err)
		}
		a := Area{Label: strings.ReplaceAll(name, "{version}", p.version), Type: kind, SizeMiB: int64(part.SizeMiB), Content: Content(part.Content), Key: table + key + ".size-mib"}
		if gpt.IsRoot(kind) || gpt.IsHash(kind) {
			a.Attributes = gpt.AttributeReadOnly
		}
		if roles[name]++; roles[name] > 1 {
			name += fmt.Sprintf("#%d", roles[name])
		}
		a.Role = "partition " + name
		switch fs := part.Filesystem; {
		case fs == "", fs == string(EmptyFAT) && a.Content == ESP, fs == p.RootFilesystem && a.Content == Root:
		case a.Content == Blank && (fs == string(EmptyFAT) || fs == string(EmptyExt4)):
			a.Content = Content(fs)
		default:
			p.find(key+".filesystem", fmt.Sprintf("esp is fat, root has root-filesystem, which is %s, hash and data have none", p.RootFilesystem), "partition %q cannot have the file system %s", part.Label, fs)
		}
		if a.Content == ESP && kind != gpt.TypeESP {
			p.find(key+".type", `write "esp"`, "partition %q has the content esp, but the type %s: firmware would not find it", part.Label, gpt.TypeName(kind))
		}
		if part.SizeMiB == 0 && !part.Grow {
			p.find(key, "give size-mib, or grow = true", "partition %q has no size", part.Label)
		}
		disk := &p.disks[0]
		if a.Content == Data && p.DataDisk == Split {
			disk = p.dataDisk()
		}
		if part.StartKiB != 0 {
			if part.StartKiB%1024 != 0 {
				down := part.StartKiB / 1024 * 1024
				p.find(key+".start-kib", fmt.Sprintf("write %d or %d", max(down, 1024), down+1024), "partition %q begins at %d KiB, which is not a multiple of 1 MiB", part.Label, part.StartKiB)
			} else {
				a.StartMiB = int64(part.StartKiB) / 1024
			}
		}
		if part.Grow {
			p.grow(&a, disk, i, key)
		}
		disk.Areas = append(disk.Areas, a)
	}
	if p.DataDisk == Split && len(p.disks) == 1 {
		p.find("data-disk", `give a partition content = "data"`, "the data lies on a disk of its own, but no partition has the content data")
	}
}

// grow makes an area take what is left of its disk.
func (p *planner) grow(a *Area, d *Disk, i int, key string) {
	last := true
	for _, other := range p.Partitions[i+1:] {
		if p.DataDisk != Split || (other.Content == string(Data)) == (a.Content == Data) {
			last = false
		}
	}
	switch {
	case !last:
		p.find(key+".grow", "put it at the end of the list", "partition %q is to grow, but is not the last one", a.Label)
	case d.SizeMiB == 0:
		p.find(key+".grow", "set image-layout.disk-size-gib", "partition %q is to grow, but the size of its disk is not given", a.Label)
	default:
		start := a.StartMiB
		if start == 0 {
			start = 1
			for _, o := range d.Areas {
				start = max(start, o.StartMiB)
				start += o.SizeMiB
			}
		}
		if left := d.SizeMiB - 1 - start; left > a.SizeMiB {
			a.SizeMiB = left
		} else if a.SizeMiB == 0 {
			p.find(key+".grow", "raise image-layout.disk-size-gib", "partition %q is to grow, but nothing is left of the %d MiB of the disk", a.Label, d.SizeMiB)
		}
	}
}

// place puts the areas of a disk one behind the other, and finds what overlaps
// or reaches beyond the disk. The first and the last MiB hold the tables.
func (p *planner) place(d *Disk) {
	next := int64(1)
	var before Area
	labels := map[string]string{}
	for i := range d.Areas {
		a := &d.Areas[i]
		key := strings.TrimSuffix(strings.TrimPrefix(a.Key, table), ".size-mib")
		switch {
		case a.StartMiB == 0:
			a.StartMiB = next
		case a.StartMiB < next:
			within := before
			for _, o := range d.Areas[:i] {
				if o.StartMiB <= a.StartMiB && a.StartMiB < o.end() {
					within = o
				}
			}
			p.find(key+".start-kib", fmt.Sprintf("begin at %d KiB or later, or leave start-kib out", next*1024),
				"partition %q begins at %d MiB, not behind partition %q, which takes %d to %d MiB", a.Label, a.StartMiB, within.Label, within.StartMiB, within.end())
		}
		next, before = max(next, a.end()), *a
		if n := len(utf16.Encode([]rune(a.Label))); n > gpt.MaxName {
			p.find(key+".label", "", "partition label %q has %d characters, at most %d fit", a.Label, n, gpt.MaxName)
		}
		if a.Label != "_empty" && a.Label != "" {
			if first, ok := labels[a.Label]; ok {
				p.find(key+".label", "rename one; only unused slots share the label _empty", "two partitions have the label %q; the first is %s", a.Label, strings.TrimSuffix(first, ".size-mib"))
			}
			labels[a.Label] = a.Key
		}
	}
	if len(d.Areas) > gpt.MaxEntries {
		p.find("partitions", "", "%d partitions; at most %d fit in the table", len(d.Areas), gpt.MaxEntries)
	}
	switch need := next + 1; {
	case d.SizeMiB == 0:
		d.SizeMiB = need
	case d.SizeMiB < need:
		p.find("disk-size-gib", fmt.Sprintf("raise image-layout.disk-size-gib to at least %d, or set it to 0 for what is needed", (need+1023)/1024), "the disk has %d MiB, its partitions need %d", d.SizeMiB, need)
	default:
		d.Fixed = true
	}
}

// contents finds missing and repeated contents, and partitions that no content
// can fit in.
func (p *planner) contents() {
	found := map[Content]Area{}
	for _, d := range p.disks {
		for _, a := range d.Areas {
			first, ok := found[a.Content]
			if ok && a.Content != Blank && a.Content != EmptyFAT && a.Content != EmptyExt4 && p.Plan == Custom {
				p.find(strings.TrimPrefix(strings.TrimSuffix(a.Key, ".size-mib"), table)+".content", "leave it out in one", "two partitions have the content %s: %q and %q", a.Content, first.Label, a.Label)
			}
			if !ok {
				found[a.Content] = a
			}
			if a.Content == Data && p.DataFilesystem == XFS && a.SizeMiB > 0 && a.SizeMiB < minXFS {
				p.find(strings.TrimPrefix(a.Key, table), fmt.Sprintf("raise %s to at least %d", a.Key, minXFS),
					"partition %q has %d MiB, an XFS file system has at least %d", a.Label, a.SizeMiB, minXFS)
			}
			if a.Content == EmptyExt4 && a.SizeMiB*mib > ext4.MaxSize {
				p.find(strings.TrimPrefix(a.Key, table), fmt.Sprintf("make it at most %d", ext4.MaxSize/mib),
					"partition %q has %d MiB, an empty ext4 file system has at most %d", a.Label, a.SizeMiB, ext4.MaxSize/mib)
			}
			if a.Content == EmptyExt4 && a.SizeMiB > 0 && a.SizeMiB*mib < ext4.MinSize {
				p.find(strings.TrimPrefix(a.Key, table), fmt.Sprintf("raise %s to at least %d", a.Key, ext4.MinSize/mib),
					"partition %q has %d MiB, an ext4 file system has at least %d", a.Label, a.SizeMiB, ext4.MinSize/mib)
			}
		}
	}
	if p.Plan == Custom && len(p.Partitions) > 0 {
		for _, c := range []Content{ESP, Root, Hash} {
			if _, ok := found[c]; !ok {
				p.find("partitions", fmt.Sprintf("give one partition content = %q", c), "no partition has the content %s", c)
			}
		}
	}
	root, hash := found[Root], found[Hash]
	if root.SizeMiB > 0 && hash.SizeMiB > 0 {
		tree := verity.Superblock{DataBlocks: uint64(root.SizeMiB) * mib / verity.BlockSize}.HashSize()
		if tree > hash.SizeMiB*mib {
			p.find(strings.TrimPrefix(hash.Key, table), fmt.Sprintf("raise %s to at least %d", hash.Key, (tree+mib-1)/mib),
				"partition %q has %d MiB, the hash tree of a root of %d MiB takes %.1f", hash.Label, hash.SizeMiB, root.SizeMiB, float64(tree)/mib)
		}
	}
}
