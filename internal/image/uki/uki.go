// Package uki builds and reads unified kernel images: the systemd EFI stub
// with the kernel, its command line and os-release appended as PE sections
// (UAPI.5, Unified Kernel Image).
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Image is what goes into a unified kernel image.
type Image struct {
	Stub   []byte // systemd's linux<arch>.efi.stub
	Kernel []byte // a kernel with an EFI stub of its own, such as a bzImage
	Initrd []byte // may be nil
	// OSRelease is the text of os-release(5); boot menus show its
	// PRETTY_NAME and sort by its VERSION_ID.
	OSRelease []byte
	Cmdline   string
	Uname     string // kernel release; may be empty
}

// Section is one section of an image.
type Section struct {
	Name    string
	Address uint32 // relative to where the image is loaded
	Data    []byte
}

// Build returns the image, the same bytes for the same input.
func Build(in Image) ([]byte, error) {
	stub, err := pe.NewFile(bytes.NewReader(in.Stub))
	if err != nil {
		return nil, fmt.Errorf("EFI stub: %w", err)
	}
	defer stub.Close()
	// systemd-boot has the same form and another job; a kernel would never start.
	if s := stub.Section(".sdmagic"); s == nil {
		return nil, errors.New("EFI stub: section .sdmagic is missing, this is not a stub of systemd")
	} else if magic, err := s.Data(); err != nil || !bytes.Contains(magic, []byte("systemd-stub")) {
		return nil, errors.New("EFI stub: section .sdmagic does not name systemd-stub")
	}
	kernel, err := pe.NewFile(bytes.NewReader(in.Kernel))
	if err != nil {
		return nil, fmt.Errorf("kernel: no EFI executable (CONFIG_EFI_STUB is needed): %w", err)
	}
	defer kernel.Close()
	if kernel.Machine != stub.Machine {
		return nil, fmt.Errorf("kernel is for machine %#x, the EFI stub for %#x", kernel.Machine, stub.Machine)
	}
	for name, text := range map[string]string{"command line": in.Cmdline, "kernel release": in.Uname} {
		if strings.ContainsAny(text, "\x00\n") {
			return nil, fmt.Errorf("%s %q holds a line break or a zero byte", name, text)
		}
	}
	sections := []Section{
		{Name: ".osrel", Data: in.OSRelease},
		{Name: ".cmdline", Data: []byte(in.Cmdline)},
		{Name: ".uname", Data: []byte(in.Uname)},
		{Name: ".initrd", Data: in.Initrd},
		// Last, as the memory behind it is free for a kernel run in place.
		{Name: ".linux", Data: in.Kernel},
	}
	sections = slices.DeleteFunc(sections, func(s Section) bool { return len(s.Data) == 0 })
	return Append(in.Stub, sections)
}

// Offsets in the headers of a PE32+ file (PE Format, revision 11).
const (
	peOffset        = 0x3c
	coffSize        = 24 // with the signature
	coffSymbols     = 12 // offset and number
	sectionHeader   = 40
	optMagic        = 0
	optInitialized  = 8
	optSectionAlign = 32
	optFileAlign    = 36
	optImageSize    = 56
	optHeadersSize  = 60
	optChecksum     = 64
	optRVACount     = 108
	optSecurity     = 112 + 4*8
	optLeast        = optSecurity + 8
	magicPE32Plus   = 0x20b
	pageSize        = 4096

	sectionInitialized = 0x40000040 // initialised data, readable
)

// Append returns the PE32+ image with sections behind those that it has, each
// at the next page. Addresses in sections are ignored. What lies behind the last
// section, symbols for debuggers, is left out: sections must follow each other
// for all implementations to agree on the image's Authenticode hash.
func Append(image []byte, sections []Section) ([]byte, error) {
	le := binary.LittleEndian
	bad := func(format string, a ...any) ([]byte, error) {
		return nil, fmt.Errorf("PE image: "+format, a...)
	}
	if len(image) < 64 || string(image[:2]) != "MZ" {
		return bad("no DOS header")
	}
	coff := int64(le.Uint32(image[peOffset:]))
	opt := coff + coffSize
	if opt+optLeast > int64(len(image)) || string(image[coff:coff+4]) != "PE\x00\x00" {
		return bad("no PE header")
	}
	count := int64(le.Uint16(image[coff+6:]))
	table := opt + int64(le.Uint16(image[coff+20:]))
	if le.Uint16(image[opt+optMagic:]) != magicPE32Plus || table < opt+optLeast || le.Uint32(image[opt+optRVACount:]) < 5 {
		return bad("not of the 64-bit format PE32+")
	}
	if le.Uint64(image[opt+optSecurity:]) != 0 {
		return bad("it is signed; sections can only be added to an unsigned one")
	}
	fileAlign, sectionAlign := int64(le.Uint32(image[opt+optFileAlign:])), int64(le.Uint32(image[opt+optSectionAlign:]))
	if fileAlign < 512 || fileAlign > 65536 || fileAlign&(fileAlign-1) != 0 || sectionAlign < fileAlign || sectionAlign > 1<<24 || sectionAlign&(sectionAlign-1) != 0 {
		return bad("file alignment %d, section alignment %d", fileAlign, sectionAlign)
	}
	end, tableEnd := table+count*sectionHeader, table+(count+int64(len(sections)))*sectionHeader
	if headers := int64(le.Uint32(image[opt+optHeadersSize:])); tableEnd > headers || headers > int64(len(image)) {
		return bad("no room in its %d bytes of headers for %d more sections", headers, len(sections))
	}
	if slices.ContainsFunc(image[end:tableEnd], func(b byte) bool { return b != 0 }) {
		return bad("the space behind the section table is in use")
	}
	contentEnd := int64(le.Uint32(image[opt+optHeadersSize:]))
	address := contentEnd // the headers are loaded too
	taken := map[string]bool{}
	for at := table; at < end; at += sectionHeader {
		h := image[at:]
		address = max(address, int64(le.Uint32(h[12:]))+int64(max(le.Uint32(h[8:]), le.Uint32(h[16:]))))
		if raw := int64(le.Uint32(h[20:])); raw != 0 && raw < tableEnd {
			return bad("the content of a section begins in the section table")
		} else if raw != 0 {
			contentEnd = max(contentEnd, raw+int64(le.Uint32(h[16:])))
		}
		taken[strings.TrimRight(string(h[:8]), "\x00")] = true
	}

	if contentEnd > int64(len(image)) {
		return bad("a section ends at %d of %d bytes", contentEnd, len(image))
	}
	for name := range taken {
		if strings.HasPrefix(name, "/") {
			return bad("section %s has its name in the table of symbols", name)
		}
	}
	out := slices.Clone(image[:contentEnd])
	le.PutUint64(out[coff+coffSymbols:], 0)
	grow := func(to, align int64) int64 { return (to + align - 1) / align * align }
	initialized := int64(le.Uint32(out[opt+optInitialized:]))
	for i, s := range sections {
		if s.Name == "" || len(s.Name) > 8 || taken[s.Name] || len(s.Data) == 0 {
			return bad("section %q: it is empty, there already, or its name is not of 1 to 8 bytes", s.Name)
		}
		taken[s.Name] = true
		address = grow(address, max(sectionAlign, pageSize))
		offset := grow(int64(len(out)), fileAlign)
		raw := grow(int64(len(s.Data)), fileAlign)
		if offset+raw > 1<<31-1 || address+raw > 1<<31-1 {
			return bad("section %s would end above 2 GiB", s.Name)
		}
		h := out[end+int64(i)*sectionHeader:]
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], uint32(address))
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(offset))
		le.PutUint32(h[36:], sectionInitialized)
		padded := make([]byte, offset+raw)
		copy(padded, out)
		copy(padded[offset:], s.Data)
		out = padded
		address += int64(len(s.Data))
		initialized += raw
	}
	le.PutUint16(out[coff+6:], uint16(count+int64(len(sections))))
	le.PutUint32(out[opt+optInitialized:], uint32(initialized))
	le.PutUint32(out[opt+optImageSize:], uint32(grow(address, sectionAlign)))
	le.PutUint32(out[opt+optChecksum:], 0)
	le.PutUint32(out[opt+optChecksum:], Checksum(out))
	return out, nil
}

// Checksum is that of the optional header of a PE file, whose own field must be
// zero: the sum of all 16-bit words with the carry added back, plus the length.
func Checksum(b []byte) uint32 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i])
		if i+1 < len(b) {
			word |= uint32(b[i+1]) << 8
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	return sum + uint32(len(b))
}

// Inspect returns all sections of the image at r.
func Inspect(r io.ReaderAt) ([]Section, error) {
	f, err := pe.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("PE image: %w", err)
	}
	defer f.Close()
	var out []Section
	for _, s := range f.Sections {
		data, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("PE image: section %s: %w", s.Name, err)
		}
		// The file holds whole alignment units; the virtual size is the true one.
		if int64(s.VirtualSize) < int64(len(data)) {
			data = data[:s.VirtualSize]
		}
		out = append(out, Section{Name: s.Name, Address: s.VirtualAddress, Data: data})
	}
	return out, nil
}
