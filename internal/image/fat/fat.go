// Package fat writes FAT file systems for EFI system partitions: a fixed tree of
// files, laid out in one pass, the same bytes for the same input. The format is
// that of Microsoft's FAT specification (fatgen103, 2000), which the UEFI
// specification refers to: FAT32 from 34 MiB on, FAT16 or FAT12 below.
package fat

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

const (
	sectorSize   = 512
	infoSector   = 1 // FAT32 only, as is the next
	backupSector = 6
	copies       = 2
	firstCluster = 2
	// Drivers tell FAT12, FAT16 and FAT32 apart by the number of clusters.
	minClusters16 = 4085
	minClusters32 = 65525
	maxClusters   = 0x0ffffff5 - firstCluster
	slotSize      = 32
	slotUnits     = 13 // UTF-16 units of a long name per slot
	maxNameUnits  = 255
	// The root directory of FAT12 and FAT16 has a place and a size of its own.
	rootSlots = 512

	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0f

	minSize   = 1 << 20
	minSize32 = 34 << 20 // bytes of the smallest volume that gets FAT32
)

// File is one file of a volume.
type File struct {
	// Path is absolute or relative to the root, with slashes. Directories
	// are made as needed. Paths that differ only in case are the same.
	Path string
	Data []byte
}

// Volume is a file system to be written.
type Volume struct {
	ID    uint32
	Label string // at most 11 characters, upper case ASCII
	// Time is the time of all entries, in UTC; FAT begins in 1980 and counts
	// in steps of two seconds.
	Time  time.Time
	Files []File
}

// ErrTooSmall is wrapped by the error of Write when the files do not fit.
var ErrTooSmall = errors.New("volume too small")

type node struct {
	name     string
	short    [11]byte
	data     []byte
	children []*node // nil for files
	dir      bool
	parent   *node
	cluster  uint32
	clusters uint32
}

// layout is a volume whose entries have their clusters.
type layout struct {
	geometry
	label       [11]byte
	date, clock uint16
	// nodes are in the order of their clusters: directories, then files,
	// each contiguous.
	nodes []*node
	used  int64 // clusters
}

func (v *Volume) layout(size int64) (*layout, error) {
	g, err := geometryFor(size)
	if err != nil {
		return nil, err
	}
	l := &layout{geometry: g}
	if l.label, err = v.label(); err != nil {
		return nil, err
	}
	if l.date, l.clock, err = stamp(v.Time); err != nil {
		return nil, err
	}
	root, err := tree(v.Files)
	if err != nil {
		return nil, err
	}
	for _, dirs := range []bool{true, false} {
		root.walk(func(n *node) {
			if n.dir == dirs {
				l.nodes = append(l.nodes, n)
			}
		})
	}
	for _, n := range l.nodes {
		length := int64(len(n.data))
		if n.dir {
			length = n.directorySize()
		}
		if n == root && g.bits != 32 {
			if length > rootSlots*slotSize {
				return nil, fmt.Errorf("the root directory has %d entries, that of a volume below %d MiB has room for %d", length/slotSize, minSize32>>20, rootSlots)
			}
			continue
		}
		n.clusters = uint32((length + g.clusterBytes() - 1) / g.clusterBytes())
		if n.clusters > 0 {
			n.cluster = uint32(firstCluster + l.used)
		}
		l.used += int64(n.clusters)
	}
	return l, nil
}

// Need returns the size in bytes that a volume must have for the files: size,
// where that is enough.
func (v *Volume) Need(size int64) (int64, error) {
	for {
		l, err := v.layout(size)
		if err != nil {
			return 0, err
		}
		lack := l.used - int64(l.clusters)
		if lack <= 0 {
			return size, nil
		}
		// The tables grow along, and a larger volume can have other clusters.
		size += lack * l.clusterBytes()
	}
}

// Write makes a volume of the given size in bytes on w, from offset 0. What it
// does not write must read as zero already.
func (v *Volume) Write(w io.WriterAt, size int64) error {
	l, err := v.layout(size)
	if err != nil {
		return err
	}
	if l.used > int64(l.clusters) {
		need, err := v.Need(size)
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: the files need %d bytes, not %d", ErrTooSmall, need, size)
	}
	g, order := l.geometry, l.nodes

	table := make([]byte, ((firstCluster+l.used)*int64(g.bits)+7)/8)
	g.link(table, 0, g.endOfChain()&^0xff|0xf8) // the media byte
	g.link(table, 1, g.endOfChain())
	for _, n := range order {
		for i := range n.clusters {
			value := n.cluster + i + 1
			if i == n.clusters-1 {
				value = g.endOfChain()
			}
			g.link(table, n.cluster+i, value)
		}
	}
	type piece struct {
		at   int64 // sector
		data []byte
	}
	boot := v.bootSector(g, l.label)
	pieces := []piece{{0, boot}, {g.reserved(), table}, {g.reserved() + int64(g.fatSectors), table}}
	if g.bits == 32 {
		info := infoBlock(g.clusters-uint32(l.used), uint32(firstCluster+l.used-1))
		pieces = append(pieces, piece{infoSector, info}, piece{backupSector, boot}, piece{backupSector + infoSector, info})
	}
	for _, n := range order {
		data := n.data
		if n.dir {
			data = n.directory(l.label, l.date, l.clock)
		}
		if len(data) > 0 {
			pieces = append(pieces, piece{g.sectorOf(n.cluster), data})
		}
	}
	for _, p := range pieces {
		if _, err := w.WriteAt(p.data, p.at*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

type geometry struct {
	bits              uint32 // of an entry of the tables: 12, 16 or 32
	sectors           uint32
	sectorsPerCluster uint32
	fatSectors        uint32
	clusters          uint32
}

func (g geometry) clusterBytes() int64 { return int64(g.sectorsPerCluster) * sectorSize }

// reserved is the number of sectors before the tables.
func (g geometry) reserved() int64 {
	if g.bits == 32 {
		return 32
	}
	return 1
}

// rootSectors is the size of a root directory that does not lie in clusters.
func (g geometry) rootSectors() int64 {
	if g.bits == 32 {
		return 0
	}
	return rootSlots * slotSize / sectorSize
}

// before is the number of sectors before the clusters without the tables.
func (g geometry) before() int64 { return g.reserved() + g.rootSectors() }

// sectorOf is where a cluster begins; 0 stands for the root directory of FAT12 and
// FAT16.
func (g geometry) sectorOf(cluster uint32) int64 {
	tables := copies * int64(g.fatSectors)
	if cluster == 0 {
		return g.reserved() + tables
	}
	return g.before() + tables + int64(cluster-firstCluster)*int64(g.sectorsPerCluster)
}

// endOfChain is the last value of an entry; FAT32 uses 28 bits of its 32.
func (g geometry) endOfChain() uint32 { return 1<<min(g.bits, 28) - 1 }

// link sets the entry of a cluster. Two entries of FAT12 share three bytes.
func (g geometry) link(table []byte, cluster, value uint32) {
	at := cluster * g.bits / 8
	if g.bits == 12 && cluster%2 == 1 {
		value <<= 4
	}
	for i := range (g.bits + 7) / 8 {
		table[at+i] |= byte(value >> (8 * i))
	}
}

func geometryFor(size int64) (geometry, error) {
	if size < minSize {
		return geometry{}, fmt.Errorf("%w: a FAT volume has at least %d MiB, not %d bytes", ErrTooSmall, int64(minSize)>>20, size)
	}
	if size/sectorSize > 0xffffffff {
		return geometry{}, fmt.Errorf("a FAT32 volume has at most 2 TiB, not %d bytes", size)
	}
	g := geometry{sectors: uint32(size / sectorSize)}
	// The cluster sizes that formatting tools choose. All keep well away from the
	// numbers of clusters where the width changes, as some drivers count wrong by
	// a few.
	for _, step := range []struct {
		from    int64
		bits    uint32
		sectors uint32
	}{
		{0, 12, 4}, {8400*sectorSize + 1, 16, 2}, {16<<20 + 1, 16, 4},
		{minSize32, 32, 1}, {260<<20 + 1, 32, 8}, {8<<30 + 1, 32, 16}, {16<<30 + 1, 32, 32}, {32<<30 + 1, 32, 64},
	} {
		if size >= step.from {
			g.bits, g.sectorsPerCluster = step.bits, step.sectors
		}
	}
	// A sector of a table has 4096 bits, and stands for its entries' clusters and
	// itself, twice. The first two entries have no cluster.
	data := int64(g.sectors) - g.before()
	spc, bits := int64(g.sectorsPerCluster), int64(g.bits)
	per := 8*sectorSize*spc + copies*bits
	g.fatSectors = uint32(((data+firstCluster*spc)*bits + per - 1) / per)
	g.clusters = uint32((data - copies*int64(g.fatSectors)) / spc)
	if g.clusters > maxClusters {
		return g, fmt.Errorf("%d bytes make %d clusters, FAT32 has at most %d", size, g.clusters, maxClusters)
	}
	return g, nil
}

func (v *Volume) label() ([11]byte, error) {
	var b [11]byte
	copy(b[:], "NO NAME    ")
	if v.Label == "" {
		return b, nil
	}
	if len(v.Label) > len(b) || strings.Trim(v.Label, shortChars+" ") != "" || strings.TrimSpace(v.Label) != v.Label {
		return b, fmt.Errorf("volume label %q: at most 11 upper case letters, digits and spaces", v.Label)
	}
	copy(b[:], v.Label+strings.Repeat(" ", len(b)))
	return b, nil
}

func stamp(t time.Time) (date, clock uint16, err error) {
	t = t.UTC()
	if t.Year() < 1980 || t.Year() > 2107 {
		return 0, 0, fmt.Errorf("time %s: FAT holds the years 1980 to 2107", t.Format(time.RFC3339))
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock = uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	return date, clock, nil
}

func (v *Volume) bootSector(g geometry, label [11]byte) []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b[3:], "SLIPWAY ")
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(g.sectorsPerCluster)
	le.PutUint16(b[14:], uint16(g.reserved()))
	b[16] = copies
	b[21] = 0xf8              // a fixed disk
	le.PutUint16(b[24:], 63)  // sectors per track and heads, for BIOS
	le.PutUint16(b[26:], 255) // callers only
	about := 36               // where drive number, id, label and name lie
	if g.bits == 32 {
		about = 64
		le.PutUint32(b[32:], g.sectors)
		le.PutUint32(b[36:], g.fatSectors)
		le.PutUint32(b[44:], firstCluster) // of the root directory
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], backupSector)
	} else {
		le.PutUint16(b[17:], rootSlots)
		le.PutUint16(b[22:], uint16(g.fatSectors))
		if g.sectors <= 0xffff {
			le.PutUint16(b[19:], uint16(g.sectors))
		} else {
			le.PutUint32(b[32:], g.sectors)
		}
	}
	b[about] = 0x80
	b[about+2] = 0x29
	le.PutUint32(b[about+3:], v.ID)
	copy(b[about+7:], label[:])
	copy(b[about+18:], fmt.Sprintf("FAT%d   ", g.bits))
	code := about + 26
	copy(b, []byte{0xeb, byte(code - 2), 0x90})
	copy(b[code:], "\xf4\xeb\xfd") // not bootable by a BIOS: halt
	b[510], b[511] = 0x55, 0xaa
	return b
}

func infoBlock(free, last uint32) []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	le.PutUint32(b[0:], 0x41615252)
	le.PutUint32(b[484:], 0x61417272)
	le.PutUint32(b[488:], free)
	le.PutUint32(b[492:], last)
	le.PutUint32(b[508:], 0xaa550000)
	return b
}

// tree builds the directories, sorted, with their short names.
func tree(files []File) (*node, error) {
	root := &node{dir: true}
	for _, f := range files {
		clean := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if clean == "" || strings.HasSuffix(f.Path, "/") {
			return nil, fmt.Errorf("%q is not the path of a file", f.Path)
		}
		if int64(len(f.Data)) > 0xffffffff {
			return nil, fmt.Errorf("%s: a file on FAT has less than 4 GiB", f.Path)
		}
		at := root
		parts := strings.Split(clean, "/")
		for i, name := range parts {
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			last := i == len(parts)-1
			child := at.child(name)
			switch {
			case child == nil:
				child = &node{name: name, dir: !last, parent: at}
				at.children = append(at.children, child)
			case last || !child.dir:
				return nil, fmt.Errorf("%s: there are two entries of this name", f.Path)
			}
			at = child
		}
		at.data = f.Data
	}
	var err error
	root.walk(func(n *node) {
		slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
		err = errors.Join(err, n.nameChildren())
	})
	return root, err
}

func (n *node) child(name string) *node {
	for _, c := range n.children {
		if strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

func (n *node) walk(do func(*node)) {
	do(n)
	for _, c := range n.children {
		c.walk(do)
	}
}

func checkName(name string) error {
	if len(utf16.Encode([]rune(name))) > maxNameUnits {
		return fmt.Errorf("name %q is longer than %d characters", name, maxNameUnits)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(`"*:<>?\|`, r) }); i >= 0 {
		return fmt.Errorf("name %q holds %q, which FAT does not allow", name, name[i])
	}
	if strings.TrimRight(name, ". ") != name || strings.TrimLeft(name, " ") != name {
		return fmt.Errorf("name %q begins or ends with a space, or ends with a dot", name)
	}
	return nil
}

const shortChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$%'-_@~`!(){}^#&"

// exactShort returns the 8.3 form of a name that needs no long name.
func exactShort(name string) (s [11]byte, ok bool) {
	base, ext, dotted := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dotted && ext == "" || strings.Trim(base+ext, shortChars) != "" {
		return s, false
	}
	copy(s[:], base+"        ")
	copy(s[8:], ext+"   ")
	return s, true
}

// nameChildren gives every entry its short name: its own name where that is
// one, else a numbered one (LONGNA~1.EXT).
func (n *node) nameChildren() error {
	taken := map[[11]byte]bool{}
	for _, c := range n.children {
		if s, ok := exactShort(c.name); ok {
			c.short, taken[s] = s, true
		}
	}
	keep := func(s string, most int) string {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '.':
				return -1
			case strings.ContainsRune(shortChars, r):
				return r
			}
			return '_'
		}, strings.ToUpper(s))
		return s[:min(len(s), most)]
	}
	for _, c := range n.children {
		if _, ok := exactShort(c.name); ok {
			continue
		}
		ext := path.Ext(c.name)
		base := keep(strings.TrimSuffix(c.name, ext), 8)
		ext = keep(ext, 3)
		for i := 1; ; i++ {
			tail := fmt.Sprintf("~%d", i)
			if i > 999999 {
				return fmt.Errorf("%s: too many similar names in one directory", c.name)
			}
			var s [11]byte
			copy(s[:], base[:min(len(base), 8-len(tail))]+tail+"        ")
			copy(s[8:], ext+"   ")
			if !taken[s] {
				c.short, taken[s] = s, true
				break
			}
		}
	}
	return nil
}

func (n *node) longSlots() int {
	if _, ok := exactShort(n.name); ok {
		return 0
	}
	return (len(utf16.Encode([]rune(n.name))) + slotUnits - 1) / slotUnits
}

// directorySize is the size in bytes of a directory's entries: the volume
// label in the root, "." and ".." elsewhere.
func (n *node) directorySize() int64 {
	slots := 2
	if n.parent == nil {
		slots = 1
	}
	for _, c := range n.children {
		slots += 1 + c.longSlots()
	}
	return int64(slots) * slotSize
}

func (n *node) directory(label [11]byte, date, clock uint16) []byte {
	var b []byte
	slot := func(name [11]byte, attr byte, cluster, size uint32) {
		e := make([]byte, slotSize)
		le := binary.LittleEndian
		copy(e, name[:])
		e[11] = attr
		le.PutUint16(e[14:], clock)
		le.PutUint16(e[16:], date)
		le.PutUint16(e[18:], date)
		le.PutUint16(e[20:], uint16(cluster>>16))
		le.PutUint16(e[22:], clock)
		le.PutUint16(e[24:], date)
		le.PutUint16(e[26:], uint16(cluster))
		le.PutUint32(e[28:], size)
		b = append(b, e...)
	}
	if n.parent == nil {
		slot(label, attrVolume, 0, 0)
	} else {
		up := n.parent.cluster
		if n.parent.parent == nil {
			up = 0 // the root is written as 0 here
		}
		slot([11]byte([]byte(".          ")), attrDirectory, n.cluster, 0)
		slot([11]byte([]byte("..         ")), attrDirectory, up, 0)
	}
	for _, c := range n.children {
		b = append(b, c.longName()...)
		if c.dir {
			slot(c.short, attrDirectory, c.cluster, 0)
		} else {
			slot(c.short, attrArchive, c.cluster, uint32(len(c.data)))
		}
	}
	return b
}

// longName returns the slots of the long name, last part first, as they stand
// before the entry itself.
func (n *node) longName() []byte {
	slots := n.longSlots()
	units := utf16.Encode([]rune(n.name))
	sum := shortSum(n.short)
	var b []byte
	for i := slots; i > 0; i-- {
		e := make([]byte, slotSize)
		e[0] = byte(i)
		if i == slots {
			e[0] |= 0x40
		}
		e[11], e[13] = attrLongName, sum
		for j, off := range unitOffsets {
			u := uint16(0xffff)
			switch k := (i-1)*slotUnits + j; {
			case k < len(units):
				u = units[k]
			case k == len(units):
				u = 0
			}
			binary.LittleEndian.PutUint16(e[off:], u)
		}
		b = append(b, e...)
	}
	return b
}

var unitOffsets = [slotUnits]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

func shortSum(name [11]byte) (sum byte) {
	for _, c := range name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}
