package compare

import (
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const buildIDSection = ".note.gnu.build-id"

// openELF lists the sections. The build ID is a property by its name; offsets
// follow from the sections before.
func openELF(_ *comparison, b blob) (content, error) {
	var out content
	err := guard(func() error {
		f, err := elf.NewFile(b)
		if err != nil {
			return err
		}
		h := f.FileHeader
		out.attrs = []attr{
			value("class", h.Class), value("byte order", h.Data), value("OS ABI", fmt.Sprintf("%v %d", h.OSABI, h.ABIVersion)),
			value("type", h.Type), value("machine", h.Machine), derived(value("entry", fmt.Sprintf("%#x", h.Entry))),
		}
		var segments []string
		for _, p := range f.Progs {
			segments = append(segments, fmt.Sprintf("%v %v offset %#x address %#x size %#x in memory %#x align %#x",
				p.Type, p.Flags, p.Off, p.Vaddr, p.Filesz, p.Memsz, p.Align))
		}
		out.attrs = append(out.attrs, derived(attr{key: "program headers", values: segments}))
		for i, s := range f.Sections {
			if i == 0 {
				continue // the null section
			}
			m := member{name: s.Name, attrs: []attr{
				value("type", s.Type), value("flags", s.Flags), value("alignment", s.Addralign), value("entry size", s.Entsize),
				derived(value("address", fmt.Sprintf("%#x", s.Addr))), derived(value("offset", fmt.Sprintf("%#x", s.Offset))),
				derived(value("link", s.Link)), derived(value("info", s.Info)),
			}}
			if s.Type == elf.SHT_NOBITS {
				m.attrs = append(m.attrs, value("size", s.Size))
			} else if m.data, err = b.section(int64(s.Offset), int64(s.FileSize)); err != nil {
				return fmt.Errorf("section %s: %w", s.Name, err)
			}
			if s.Name == buildIDSection {
				if id, err := buildID(m.data, h.ByteOrder); err == nil {
					out.attrs = append(out.attrs, value("build ID", id))
					m.derived = true
				}
			}
			out.members = append(out.members, m)
		}
		return nil
	})
	return out, err
}

// buildID reads a note of owner GNU and type 3 (NT_GNU_BUILD_ID).
func buildID(b blob, order binary.ByteOrder) (string, error) {
	if b.size > 1024 {
		return "", errors.New("too large for a build ID")
	}
	n, err := b.bytes(0, b.size)
	if err != nil {
		return "", err
	}
	if len(n) < 16 || order.Uint32(n) != 4 || order.Uint32(n[8:]) != 3 || string(n[12:16]) != "GNU\x00" {
		return "", errors.New("not a build ID")
	}
	if size := order.Uint32(n[4:]); int64(size) <= int64(len(n)-16) {
		return hex.EncodeToString(n[16 : 16+size]), nil
	}
	return "", errors.New("build ID is truncated")
}

// isPE wants the signature that the DOS header points to within the head, as
// all linkers of EFI programs put it there.
func isPE(head []byte) bool {
	if len(head) < 64 || string(head[:2]) != "MZ" {
		return false
	}
	at := int64(binary.LittleEndian.Uint32(head[60:]))
	return at+4 <= int64(len(head)) && string(head[at:at+4]) == "PE\x00\x00"
}

// certificateTable is the index of a data directory (PE format, optional
// header); its address is an offset in the file.
const certificateTable = 4

// openPE lists the sections of an EFI program or unified kernel image, without
// their padding, and the Authenticode signature.
func openPE(_ *comparison, b blob) (content, error) {
	var out content
	err := guard(func() error {
		f, err := pe.NewFile(b)
		if err != nil {
			return err
		}
		h := f.FileHeader
		out.attrs = []attr{
			value("machine", fmt.Sprintf("%#x", h.Machine)),
			value("timestamp", timestamp(time.Unix(int64(h.TimeDateStamp), 0))),
			value("characteristics", fmt.Sprintf("%#x", h.Characteristics)),
			derived(value("symbols", fmt.Sprintf("%d at %#x", h.NumberOfSymbols, h.PointerToSymbolTable))),
		}
		var directories []pe.DataDirectory
		headers := int64(0)
		optional := func(sum, entry, image, stack, heap any, subsystem, characteristics uint16) {
			out.attrs = append(out.attrs,
				value("subsystem", subsystem), value("DLL characteristics", fmt.Sprintf("%#x", characteristics)),
				value("stack and heap", fmt.Sprintf("%d %d", stack, heap)),
				derived(value("entry", fmt.Sprintf("%#x", entry))), derived(value("image size", image)),
				derived(value("checksum", fmt.Sprintf("%#x", sum))))
		}
		switch o := f.OptionalHeader.(type) {
		case *pe.OptionalHeader32:
			directories, headers = o.DataDirectory[:], int64(o.SizeOfHeaders)
			optional(o.CheckSum, o.AddressOfEntryPoint, o.SizeOfImage, o.SizeOfStackReserve, o.SizeOfHeapReserve, o.Subsystem, o.DllCharacteristics)
		case *pe.OptionalHeader64:
			directories, headers = o.DataDirectory[:], int64(o.SizeOfHeaders)
			optional(o.CheckSum, o.AddressOfEntryPoint, o.SizeOfImage, o.SizeOfStackReserve, o.SizeOfHeapReserve, o.Subsystem, o.DllCharacteristics)
		}
		for _, s := range f.Sections {
			m := member{name: s.Name, attrs: []attr{
				value("characteristics", fmt.Sprintf("%#x", s.Characteristics)),
				derived(value("address", fmt.Sprintf("%#x", s.VirtualAddress))), derived(value("offset", fmt.Sprintf("%#x", s.Offset))),
				derived(value("padded size", s.Size)), derived(value("size in memory", s.VirtualSize)),
			}}
			size := int64(s.Size)
			if s.VirtualSize > 0 {
				size = min(size, int64(s.VirtualSize))
			}
			if s.Offset > 0 {
				if m.data, err = b.section(int64(s.Offset), size); err != nil {
					return fmt.Errorf("section %s: %w", s.Name, err)
				}
			}
			out.members = append(out.members, m)
		}
		if len(directories) > certificateTable && directories[certificateTable].Size > 0 {
			d := directories[certificateTable]
			signature, err := b.section(int64(d.VirtualAddress), int64(d.Size))
			if err != nil {
				return fmt.Errorf("signature: %w", err)
			}
			out.members = append(out.members, member{name: "signature", data: signature})
		}
		if head, err := b.section(0, headers); err == nil {
			out.members = append(out.members, member{name: "headers", data: head, derived: true})
		}
		return nil
	})
	for i, m := range out.members {
		out.members[i].name = strings.TrimRight(m.name, "\x00")
	}
	return out, err
}
