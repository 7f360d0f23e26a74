package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// minimal makes a small PE32+ image: DOS header, COFF header, optional header
// with 16 directories, room for `room` section headers, the given sections.
func minimal(machine uint16, room int, sections ...Section) []byte {
	const coff, opt = 64, 64 + coffSize
	const table = opt + 240
	headers := (table + room*sectionHeader + 511) / 512 * 512
	b := make([]byte, headers)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[peOffset:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], machine)
	le.PutUint16(b[coff+6:], uint16(len(sections)))
	le.PutUint16(b[coff+20:], 240)
	le.PutUint16(b[coff+22:], 0x206)
	le.PutUint16(b[opt:], magicPE32Plus)
	le.PutUint32(b[opt+optSectionAlign:], 512)
	le.PutUint32(b[opt+optFileAlign:], 512)
	le.PutUint32(b[opt+optHeadersSize:], uint32(headers))
	le.PutUint16(b[opt+68:], 10) // EFI application
	le.PutUint32(b[opt+optRVACount:], 16)
	for i, s := range sections {
		h := b[table+i*sectionHeader:]
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], s.Address)
		le.PutUint32(h[16:], uint32((len(s.Data)+511)/512*512))
		le.PutUint32(h[20:], uint32(len(b)))
		le.PutUint32(h[36:], 0x60000020)
		b = append(b, s.Data...)
		b = append(b, make([]byte, (512-len(s.Data)%512)%512)...)
	}
	return b
}

func stub() []byte {
	return minimal(pe.IMAGE_FILE_MACHINE_AMD64, 12,
		Section{Name: ".text", Address: 0x1000, Data: []byte("code")},
		Section{Name: ".sdmagic", Address: 0x2100, Data: []byte("#### LoaderInfo: systemd-stub 252 ####\x00")})
}

func input() Image {
	return Image{
		Stub:      stub(),
		Kernel:    minimal(pe.IMAGE_FILE_MACHINE_AMD64, 1, Section{Name: ".text", Address: 0x1000, Data: bytes.Repeat([]byte("k"), 10000)}),
		OSRelease: []byte("ID=dinghy\nVERSION_ID=0.1.0\n"),
		Cmdline:   "console=ttyS0 ro",
		Uname:     "6.1.176",
	}
}

func TestBuild(t *testing.T) {
	in := input()
	in.Initrd = []byte("initrd")
	got, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	sections, err := Inspect(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	want := []Section{
		{".text", 0x1000, []byte("code")},
		{".sdmagic", 0x2100, []byte("#### LoaderInfo: systemd-stub 252 ####\x00")},
		{".osrel", 0x3000, in.OSRelease},
		{".cmdline", 0x4000, []byte(in.Cmdline)},
		{".uname", 0x5000, []byte(in.Uname)},
		{".initrd", 0x6000, in.Initrd},
		{".linux", 0x7000, in.Kernel},
	}
	if d := cmp.Diff(want, sections); d != "" {
		t.Error(d)
	}
	f, err := pe.NewFile(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	if size := uint32(0x7000+len(in.Kernel)+511) / 512 * 512; h.SizeOfImage != size {
		t.Errorf("SizeOfImage %#x, want %#x", h.SizeOfImage, size)
	}
	for _, s := range f.Sections {
		if s.Offset%h.FileAlignment != 0 || s.Size%h.FileAlignment != 0 || int(s.Offset+s.Size) > len(got) {
			t.Errorf("%s: %d bytes at %d", s.Name, s.Size, s.Offset)
		}
	}
	again, err := Build(in)
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("second image differs (%v)", err)
	}
}

func TestObjdumpAccepts(t *testing.T) {
	tool, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed")
	}
	image, err := Build(input())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(name, image, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "-h", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pei-x86-64") || strings.Contains(string(out), "warning") {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range []string{".osrel        0000001b  0000000000003000", ".cmdline      00000010  0000000000004000", ".linux "} {
		if !strings.Contains(string(out), s) {
			t.Errorf("no %q in\n%s", s, out)
		}
	}
}

func TestChecksum(t *testing.T) {
	for _, tt := range []struct {
		data string
		want uint32
	}{
		{"", 0},
		{"\x01\x02", 0x0201 + 2},
		{"\xff\xff\x01\x00", 1 + 4},
		{"\x01\x02\x03", 0x0204 + 3},
	} {
		if got := Checksum([]byte(tt.data)); got != tt.want {
			t.Errorf("%x: %#x, want %#x", tt.data, got, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Image)
		want   string
	}{
		{"no stub", func(in *Image) { in.Stub = []byte("hello") }, "EFI stub"},
		{"other program", func(in *Image) {
			in.Stub = minimal(pe.IMAGE_FILE_MACHINE_AMD64, 9, Section{Name: ".sdmagic", Address: 0x1000, Data: []byte("systemd-boot")})
		}, "does not name systemd-stub"},
		{"no magic", func(in *Image) { in.Stub = in.Kernel }, ".sdmagic is missing"},
		{"no kernel", func(in *Image) { in.Kernel = []byte("\x7fELF") }, "CONFIG_EFI_STUB"},
		{"machine", func(in *Image) { in.Kernel = minimal(pe.IMAGE_FILE_MACHINE_ARM64, 1) }, "kernel is for machine 0xaa64"},
		{"command line", func(in *Image) { in.Cmdline = "a\nb" }, "line break"},
		{"room", func(in *Image) {
			in.Stub = minimal(pe.IMAGE_FILE_MACHINE_AMD64, 4, Section{Name: ".sdmagic", Address: 0x1000, Data: []byte("systemd-stub")})
		}, "no room in its 512 bytes"},
		{"signed", func(in *Image) { in.Stub[64+coffSize+optSecurity] = 1 }, "signed"},
		{"used", func(in *Image) { in.Stub[64+coffSize+240+2*sectionHeader] = 1 }, "in use"},
		{"there already", func(in *Image) {
			in.Stub = minimal(pe.IMAGE_FILE_MACHINE_AMD64, 12, Section{Name: ".sdmagic", Address: 0x1000, Data: []byte("systemd-stub")},
				Section{Name: ".osrel", Address: 0x2000, Data: []byte("x")})
		}, `section ".osrel"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			tt.change(&in)
			_, err := Build(in)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzAppend(f *testing.F) {
	f.Add(stub())
	f.Fuzz(func(t *testing.T, image []byte) {
		out, err := Append(image, []Section{{Name: ".linux", Data: []byte("kernel")}})
		if err != nil {
			return
		}
		if _, err := Inspect(bytes.NewReader(image)); err != nil {
			return // Append need not be stricter than its input was
		}
		sections, err := Inspect(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		last := sections[len(sections)-1]
		if last.Name != ".linux" || string(last.Data) != "kernel" {
			t.Fatalf("%+v", last)
		}
	})
}
