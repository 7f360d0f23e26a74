package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const diskSize = 64 << 20

func sample() *Table {
	return &Table{
		Disk:    mustParse("01234567-89ab-8def-8123-456789abcdef"),
		Sectors: diskSize / SectorSize,
		Entries: []Entry{
			{Type: TypeESP, GUID: mustParse("11111111-2222-8333-8444-555555555555"), First: 2048, Last: 4095, Name: "esp"},
			{},
			{Type: TypeRootX86_64, GUID: mustParse("ee49a4cd-b519-f4c9-b5b2-f5508101e614"), First: 4096, Last: 8191, Attributes: AttributeReadOnly, Name: "root_0.1.0 é😀"},
			{Type: TypeVar, GUID: mustParse("ffffffff-2222-8333-8444-555555555555"), First: 8192, Last: diskSize/SectorSize - 34, Name: strings.Repeat("x", MaxName)},
		},
	}
}

func diskFile(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func sgdisk(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Skip("sgdisk is not installed")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestWriteRead(t *testing.T) {
	f := diskFile(t, diskSize)
	boot := bytes.Repeat([]byte{0x90}, mbrBootCode)
	if _, err := f.WriteAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	want := sample()
	if err := want.Write(f); err != nil {
		t.Fatal(err)
	}
	got, damage, err := Read(f, diskSize)
	if err != nil || damage != (Damage{}) {
		t.Fatalf("Read: %v, %v", damage, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	kept := make([]byte, mbrBootCode)
	if _, err := f.ReadAt(kept, 0); err != nil || !bytes.Equal(kept, boot) {
		t.Errorf("boot code changed (%v)", err)
	}
	if got.Find("esp") != 0 || got.Find("root_0.1.0 é😀") != 2 || got.Find("") != -1 {
		t.Error("Find")
	}
}

func TestSgdiskAccepts(t *testing.T) {
	f := diskFile(t, diskSize)
	if err := sample().Write(f); err != nil {
		t.Fatal(err)
	}
	if out := sgdisk(t, "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	out := sgdisk(t, "-i", "3", f.Name())
	for _, want := range []string{"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "EE49A4CD-B519-F4C9-B5B2-F5508101E614",
		"First sector: 4096", "Last sector: 8191", "Attribute flags: 1000000000000000", "root_0.1.0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestReadsSgdisk(t *testing.T) {
	f := diskFile(t, diskSize)
	sgdisk(t, "-a", "2048", "-U", "01234567-89ab-8def-8123-456789abcdef",
		"-n", "1:2048:+1M", "-t", "1:ef00", "-c", "1:esp", "-u", "1:11111111-2222-8333-8444-555555555555",
		"-n", "3:0:+2M", "-t", "3:"+TypeRootX86_64.String(), "-c", "3:root", "-u", "3:ee49a4cd-b519-f4c9-b5b2-f5508101e614", "-A", "3:set:60", f.Name())
	got, damage, err := Read(f, diskSize)
	if err != nil || damage != (Damage{}) {
		t.Fatalf("Read: %v, %v", damage, err)
	}
	want := sample()
	want.Entries = want.Entries[:3]
	want.Entries[2].Name = "root"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A slot update: one copy is broken, an entry changes, both are whole again.
func TestRepairAndModify(t *testing.T) {
	for name, lba := range map[string]int64{"primary": 1, "backup": diskSize/SectorSize - 1} {
		t.Run(name, func(t *testing.T) {
			f := diskFile(t, diskSize)
			if err := sample().Write(f); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{0xff}, lba*SectorSize+60); err != nil {
				t.Fatal(err)
			}
			got, damage, err := Read(f, diskSize)
			if err != nil {
				t.Fatal(err)
			}
			if (damage.Primary != nil) != (name == "primary") || (damage.Backup != nil) != (name == "backup") {
				t.Errorf("damage %+v", damage)
			}
			got.Entries[2].Name = "root_0.2.0"
			if err := got.Write(f); err != nil {
				t.Fatal(err)
			}
			again, damage, err := Read(f, diskSize)
			if err != nil || damage != (Damage{}) {
				t.Fatalf("after repair: %v, %v", damage, err)
			}
			if d := cmp.Diff(got, again); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestGrownDisk(t *testing.T) {
	f := diskFile(t, diskSize)
	if err := sample().Write(f); err != nil {
		t.Fatal(err)
	}
	const grown = 2 * diskSize
	if err := f.Truncate(grown); err != nil {
		t.Fatal(err)
	}
	got, damage, err := Read(f, grown)
	if err != nil || damage != (Damage{}) {
		t.Fatalf("Read: %v, %v", damage, err)
	}
	got.Entries[3].Last = got.Sectors - 34
	if err := got.Write(f); err != nil {
		t.Fatal(err)
	}
	if out := sgdisk(t, "-v", f.Name()); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Table)
		want   string
	}{
		{"overlap", func(t *Table) { t.Entries[0].Last = 4096 }, "partitions 1 (esp) and 3"},
		{"too low", func(t *Table) { t.Entries[0].First = 33 }, "sectors 33 to 4095, usable are 34 to"},
		{"too high", func(t *Table) { t.Entries[3].Last++ }, "partition 4"},
		{"ends before start", func(t *Table) { t.Entries[0].Last = 2047 }, "partition 1 (esp): sectors 2048 to 2047"},
		{"name", func(t *Table) { t.Entries[0].Name = strings.Repeat("😀", 19) }, "at most 36"},
		{"guid", func(t *Table) { t.Entries[0].GUID = t.Entries[2].GUID }, "same GUID"},
		{"disk", func(t *Table) { t.Sectors = 67 }, "too small"},
		{"count", func(t *Table) {
			t.Entries = append(make([]Entry, 128), t.Entries[0])
		}, "129 partitions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := sample()
			tt.change(table)
			err := table.Write(nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReadNothing(t *testing.T) {
	for _, size := range []int{0, 512, minSectors * SectorSize, 1 << 20} {
		_, _, err := Read(bytes.NewReader(make([]byte, size)), int64(size))
		if !errors.Is(err, ErrNoTable) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestGUID(t *testing.T) {
	const text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	g, err := ParseGUID(strings.ToUpper(text))
	if err != nil || g.String() != text || g != TypeESP {
		t.Errorf("%v, %v", g, err)
	}
	if s := g.swap(); !bytes.Equal(s[:4], []byte{0x28, 0x73, 0x2a, 0xc1}) || s.swap() != g {
		t.Errorf("disk order %x", s)
	}
	for _, bad := range []string{"", "c12a7328f81f11d2ba4b00a0c93ec93b", text + "0", "-12a7328-f81f-11d2-ba4b-00a0c93ec93b", "g12a7328-f81f-11d2-ba4b-00a0c93ec93b"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// FuzzRead: whatever the bytes, Read returns; what it accepts and Check
// passes survives a round trip.
func FuzzRead(f *testing.F) {
	const size = 128 * SectorSize
	m := make(memory, size)
	t := &Table{Sectors: size / SectorSize, Entries: []Entry{{Type: TypeESP, GUID: TypeVar, First: 40, Last: 50, Name: "esp"}}}
	if err := t.Write(m); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(m)[:(2+tableSectors)*SectorSize], uint8(0))
	f.Add([]byte(m)[:3*SectorSize], uint8(1))
	f.Add([]byte(m), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, fix uint8) {
		d := make(memory, size)
		copy(d, b)
		if fix&1 != 0 { // let mutated entries through
			fixChecksums(d)
		}
		table, _, err := Read(bytes.NewReader(d), size)
		if err != nil || table.Check() != nil {
			return
		}
		out := make(memory, size)
		if err := table.Write(out); err != nil {
			t.Fatal(err)
		}
		again, damage, err := Read(bytes.NewReader(out), size)
		if err != nil || damage != (Damage{}) {
			t.Fatal(damage, err)
		}
		if d := cmp.Diff(table, again); d != "" {
			t.Fatal(d)
		}
	})
}

func fixChecksums(d []byte) {
	le := binary.LittleEndian
	h := d[SectorSize : 2*SectorSize]
	fresh := (&Table{Disk: GUID(h[56:72]).swap(), Sectors: uint64(len(d)) / SectorSize}).
		header(1, le.Uint64(h[32:]), 2, d[2*SectorSize:firstUsable*SectorSize])
	copy(h, fresh)
}
