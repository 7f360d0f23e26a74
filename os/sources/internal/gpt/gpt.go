// Package gpt reads and writes GUID partition tables (UEFI specification 2.10,
// chapter 5) of disks with 512-byte sectors. It needs no privileges and works
// on files and block devices alike, so that the image builder and an updater
// in the running system can share it.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	// SectorSize is the only sector size that this package handles, in bytes.
	SectorSize = 512
	// MaxEntries is the number of entries in a table that Write makes.
	MaxEntries = 128
	// MaxName is the longest name of a partition, in UTF-16 code units.
	MaxName = 36

	// AttributeReadOnly is the flag of the Discoverable Partitions
	// Specification for partitions that are never written to.
	AttributeReadOnly uint64 = 1 << 60

	headerSize   = 92
	entrySize    = 128
	tableSectors = MaxEntries * entrySize / SectorSize
	firstUsable  = 2 + tableSectors
	minSectors   = firstUsable + 1 + tableSectors + 1
	// A header may announce more than MaxEntries; this bounds what is read.
	maxTableBytes = 1 << 20
)

// Entry is one partition. The zero Entry is an unused one.
type Entry struct {
	Type, GUID GUID
	// First and Last are the sectors of its ends, both inclusive.
	First, Last uint64
	Attributes  uint64
	Name        string
}

// Used says whether the entry describes a partition.
func (e Entry) Used() bool { return e.Type != GUID{} }

// Start is the offset of the partition in bytes.
func (e Entry) Start() int64 { return int64(e.First) * SectorSize }

// Size is the size of the partition in bytes.
func (e Entry) Size() int64 { return int64(e.Last-e.First+1) * SectorSize }

// Table is a partition table.
type Table struct {
	Disk GUID
	// Sectors is the size of the disk; Write puts the backup at its end.
	Sectors uint64
	// Entries holds partition N at index N-1; unused ones may lie between,
	// none follow the last partition.
	Entries []Entry
}

// ErrNoTable is wrapped by the error of Read for a disk without any valid
// table.
var ErrNoTable = errors.New("no valid GUID partition table")

// Damage tells which of the two copies of a table did not pass its checks;
// nil is a good copy.
type Damage struct{ Primary, Backup error }

// Read returns the table of a disk of the given size in bytes. One good copy
// is enough; damage tells what is wrong with the other. Write repairs it, and
// moves the backup to the end of a disk that has grown.
func Read(r io.ReaderAt, size int64) (t *Table, damage Damage, err error) {
	if size < minSectors*SectorSize {
		return nil, damage, fmt.Errorf("%w: a disk of %d bytes is too small for one", ErrNoTable, size)
	}
	sectors := uint64(size) / SectorSize
	primary, alternate, err := readCopy(r, sectors, 1)
	damage.Primary = err
	if err != nil {
		alternate = sectors - 1
	}
	backup, _, err := readCopy(r, sectors, alternate)
	damage.Backup = err
	switch {
	case primary != nil:
		if backup != nil && !equal(primary, backup) {
			damage.Backup = errors.New("differs from the primary table")
		}
		return primary, damage, nil
	case backup != nil:
		return backup, damage, nil
	}
	return nil, damage, fmt.Errorf("%w: primary: %w; backup: %w", ErrNoTable, damage.Primary, damage.Backup)
}

func equal(a, b *Table) bool {
	return a.Disk == b.Disk && slices.Equal(a.Entries, b.Entries)
}

func readCopy(r io.ReaderAt, sectors, lba uint64) (t *Table, alternate uint64, err error) {
	if lba >= sectors {
		return nil, 0, fmt.Errorf("header at sector %d lies behind the end of the disk (%d sectors)", lba, sectors)
	}
	h := make([]byte, SectorSize)
	if _, err := r.ReadAt(h, int64(lba)*SectorSize); err != nil {
		return nil, 0, fmt.Errorf("header at sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" {
		return nil, 0, fmt.Errorf("header at sector %d: signature missing", lba)
	}
	hsize := le.Uint32(h[12:])
	if hsize < headerSize || hsize > SectorSize {
		return nil, 0, fmt.Errorf("header at sector %d: header size %d", lba, hsize)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if got := crc32.ChecksumIEEE(h[:hsize]); got != sum {
		return nil, 0, fmt.Errorf("header at sector %d: checksum is %08x, not %08x", lba, got, sum)
	}
	if self := le.Uint64(h[24:]); self != lba {
		return nil, 0, fmt.Errorf("header at sector %d says that it belongs at %d", lba, self)
	}
	start, count, width := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	bytesNeeded := uint64(count) * uint64(width)
	if width < entrySize || width&(width-1) != 0 || count == 0 || bytesNeeded > maxTableBytes {
		return nil, 0, fmt.Errorf("header at sector %d: %d entries of %d bytes", lba, count, width)
	}
	if start < 2 || start >= sectors || (sectors-start)*SectorSize < bytesNeeded {
		return nil, 0, fmt.Errorf("header at sector %d: entries at sector %d do not fit on the disk", lba, start)
	}
	raw := make([]byte, bytesNeeded)
	if _, err := r.ReadAt(raw, int64(start)*SectorSize); err != nil {
		return nil, 0, fmt.Errorf("entries at sector %d: %w", start, err)
	}
	if got, want := crc32.ChecksumIEEE(raw), le.Uint32(h[88:]); got != want {
		return nil, 0, fmt.Errorf("entries at sector %d: checksum is %08x, not %08x", start, got, want)
	}
	t = &Table{Disk: GUID(h[56:72]).swap(), Sectors: sectors}
	for ; len(raw) > 0; raw = raw[width:] {
		t.Entries = append(t.Entries, decode(raw))
	}
	t.Entries = trim(t.Entries)
	return t, le.Uint64(h[32:]), nil
}

func trim(es []Entry) []Entry {
	for len(es) > 0 && !es[len(es)-1].Used() {
		es = es[:len(es)-1]
	}
	return es
}

func decode(b []byte) Entry {
	le := binary.LittleEndian
	e := Entry{
		Type: GUID(b[0:16]).swap(), GUID: GUID(b[16:32]).swap(),
		First: le.Uint64(b[32:]), Last: le.Uint64(b[40:]), Attributes: le.Uint64(b[48:]),
	}
	if !e.Used() {
		return Entry{}
	}
	var units []uint16
	for i := 56; i < entrySize; i += 2 {
		u := le.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	e.Name = string(utf16.Decode(units))
	return e
}

func (e Entry) encode(b []byte) {
	if !e.Used() {
		return
	}
	t, g := e.Type.swap(), e.GUID.swap()
	copy(b[0:], t[:])
	copy(b[16:], g[:])
	le := binary.LittleEndian
	le.PutUint64(b[32:], e.First)
	le.PutUint64(b[40:], e.Last)
	le.PutUint64(b[48:], e.Attributes)
	for i, u := range utf16.Encode([]rune(e.Name)) {
		le.PutUint16(b[56+2*i:], u)
	}
}

// Check says why the table cannot be written: partitions that overlap, lie
// outside the usable sectors or share a GUID, and names that are too long.
func (t *Table) Check() error {
	var errs []error
	if t.Sectors < minSectors {
		return fmt.Errorf("a disk of %d sectors is too small for a partition table", t.Sectors)
	}
	entries := trim(t.Entries)
	if len(entries) > MaxEntries {
		errs = append(errs, fmt.Errorf("%d partitions, at most %d fit in the table", len(entries), MaxEntries))
	}
	lastUsable := t.Sectors - tableSectors - 2
	for i, e := range entries {
		if !e.Used() {
			continue
		}
		if e.First > e.Last || e.First < firstUsable || e.Last > lastUsable {
			errs = append(errs, fmt.Errorf("partition %d (%s): sectors %d to %d, usable are %d to %d",
				i+1, e.Name, e.First, e.Last, uint64(firstUsable), lastUsable))
		}
		if strings.ContainsRune(e.Name, 0) || len(utf16.Encode([]rune(e.Name))) > MaxName {
			errs = append(errs, fmt.Errorf("partition %d: name %q: at most %d UTF-16 code units, none of them zero", i+1, e.Name, MaxName))
		}
		for j, o := range entries[:i] {
			if !o.Used() {
				continue
			}
			if e.First <= o.Last && o.First <= e.Last {
				errs = append(errs, fmt.Errorf("partitions %d (%s) and %d (%s) overlap", j+1, o.Name, i+1, e.Name))
			}
			if e.GUID == o.GUID {
				errs = append(errs, fmt.Errorf("partitions %d (%s) and %d (%s) have the same GUID %s", j+1, o.Name, i+1, e.Name, e.GUID))
			}
		}
	}
	return errors.Join(errs...)
}

// Write checks the table and writes both copies and the protective MBR; the
// boot code in the first 446 bytes is left alone. The backup comes first: if
// the machine stops in between, one of the copies is whole at any moment. A
// writer with a method Sync() error is synced between the two and at the end.
func (t *Table) Write(w io.WriterAt) error {
	if err := t.Check(); err != nil {
		return err
	}
	raw := make([]byte, MaxEntries*entrySize)
	for i, e := range trim(t.Entries) {
		e.encode(raw[i*entrySize:])
	}
	last := t.Sectors - 1
	backup := bytes.Join([][]byte{raw, t.header(last, 1, last-tableSectors, raw)}, nil)
	primary := bytes.Join([][]byte{t.mbr(), t.header(1, last, 2, raw), raw}, nil)
	if err := writeSync(w, backup, int64(last-tableSectors)*SectorSize); err != nil {
		return fmt.Errorf("backup partition table: %w", err)
	}
	if err := writeSync(w, primary, mbrBootCode); err != nil {
		return fmt.Errorf("primary partition table: %w", err)
	}
	return nil
}

func writeSync(w io.WriterAt, b []byte, off int64) error {
	if _, err := w.WriteAt(b, off); err != nil {
		return err
	}
	if s, ok := w.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return nil
}

const mbrBootCode = 446

// mbr returns the part of the protective MBR behind the boot code: one
// partition of type 0xEE over the whole disk.
func (t *Table) mbr() []byte {
	b := make([]byte, SectorSize-mbrBootCode)
	copy(b, []byte{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff, 0x01})
	binary.LittleEndian.PutUint32(b[12:], uint32(min(t.Sectors-1, 0xffffffff)))
	b[64], b[65] = 0x55, 0xaa
	return b
}

func (t *Table) header(self, other, entries uint64, raw []byte) []byte {
	h := make([]byte, SectorSize)
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], headerSize)
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], firstUsable)
	le.PutUint64(h[48:], t.Sectors-tableSectors-2)
	disk := t.Disk.swap()
	copy(h[56:], disk[:])
	le.PutUint64(h[72:], entries)
	le.PutUint32(h[80:], MaxEntries)
	le.PutUint32(h[84:], entrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(raw))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
	return h
}

// Find returns the index in Entries of the first partition with this name,
// -1 if there is none.
func (t *Table) Find(name string) int {
	return slices.IndexFunc(t.Entries, func(e Entry) bool { return e.Used() && e.Name == name })
}
