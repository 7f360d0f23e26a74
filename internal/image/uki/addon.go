package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// AddonVersion is the first version of systemd-stub that reads addons.
const AddonVersion = 254

// Addon is what goes into an addon of unified kernel images (UAPI.5, "PE
// Addons"): an EFI program that is only loaded, never started, so that firmware
// checks its signature.
type Addon struct {
	Machine uint16 // pe.IMAGE_FILE_MACHINE_*
	// Cmdline is what systemd-stub puts behind the command line of the image.
	Cmdline string
	// Uname makes the addon one for kernels of exactly this release; may be empty.
	Uname string
}

// sbat names the generation of addons, by which shim can revoke them.
const sbat = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n" +
	"slipway-addon,1,Slipway addon,slipway,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n"

// Build returns the addon, the same bytes for the same input.
func (a Addon) Build() ([]byte, error) {
	if a.Machine != pe.IMAGE_FILE_MACHINE_AMD64 && a.Machine != pe.IMAGE_FILE_MACHINE_ARM64 {
		return nil, fmt.Errorf("addon: machine %#x: want x86-64 or AArch64", a.Machine)
	}
	if a.Cmdline == "" {
		return nil, errors.New("addon: no kernel parameters")
	}
	for name, text := range map[string]string{"command line": a.Cmdline, "kernel release": a.Uname} {
		if strings.ContainsAny(text, "\x00\n") {
			return nil, fmt.Errorf("addon: %s %q holds a line break or a zero byte", name, text)
		}
	}
	sections := []Section{{Name: ".sbat", Data: []byte(sbat)}, {Name: ".cmdline", Data: []byte(a.Cmdline)}, {Name: ".uname", Data: []byte(a.Uname)}}
	sections = slices.DeleteFunc(sections, func(s Section) bool { return len(s.Data) == 0 })
	return Append(a.headers(), sections)
}

// headers makes a PE32+ file without sections. Its entry point is its first byte,
// which nothing starts.
func (a Addon) headers() []byte {
	const (
		coff      = 64
		opt       = coff + coffSize
		optSize   = optLeast + 11*8 // 16 data directories
		alignment = 512
		headers   = 1024
	)
	le := binary.LittleEndian
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[peOffset:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], a.Machine)
	le.PutUint16(b[coff+20:], optSize)
	le.PutUint16(b[coff+22:], pe.IMAGE_FILE_EXECUTABLE_IMAGE|pe.IMAGE_FILE_LARGE_ADDRESS_AWARE|pe.IMAGE_FILE_LINE_NUMS_STRIPPED|pe.IMAGE_FILE_DEBUG_STRIPPED)
	le.PutUint16(b[opt+optMagic:], magicPE32Plus)
	le.PutUint32(b[opt+optSectionAlign:], pageSize)
	le.PutUint32(b[opt+optFileAlign:], alignment)
	le.PutUint32(b[opt+optHeadersSize:], headers)
	le.PutUint16(b[opt+68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint16(b[opt+70:], pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT)
	le.PutUint32(b[opt+optRVACount:], 16)
	return b
}

// ReadAddon reads what Build makes, or another's addon: an EFI program with a
// .cmdline and without a kernel.
func ReadAddon(data []byte) (Addon, error) {
	f, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return Addon{}, fmt.Errorf("not an addon: no EFI program: %w", err)
	}
	defer f.Close()
	sections, err := Inspect(bytes.NewReader(data))
	if err != nil {
		return Addon{}, err
	}
	a := Addon{Machine: f.Machine}
	for _, s := range sections {
		text := strings.TrimRight(string(s.Data), "\x00")
		switch s.Name {
		case ".cmdline":
			a.Cmdline = text
		case ".uname":
			a.Uname = text
		case ".linux", ".initrd":
			return a, fmt.Errorf("not an addon: it has a section %s", s.Name)
		}
	}
	if a.Cmdline == "" {
		return a, errors.New("not an addon: it has no section .cmdline")
	}
	return a, nil
}
