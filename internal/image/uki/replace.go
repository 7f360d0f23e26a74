package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// appended are the sections that Build puts behind those of the stub.
var appended = []string{".osrel", ".cmdline", ".uname", ".initrd", ".linux"}

// WithCmdline returns an unsigned unified kernel image with another command line:
// what Build makes of the same parts with that.
func WithCmdline(image []byte, cmdline string) ([]byte, error) {
	sections, err := Inspect(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	first := slices.IndexFunc(sections, func(s Section) bool { return slices.Contains(appended, s.Name) })
	if first < 0 {
		return nil, errors.New("PE image: it has no sections of a unified kernel image")
	}
	stub, kept := sections[:first], sections[first:]
	found := false
	for i, s := range kept {
		if !slices.Contains(appended, s.Name) {
			return nil, fmt.Errorf("PE image: section %s lies behind %s: this image was not made by slipway", s.Name, kept[0].Name)
		}
		if s.Name == ".cmdline" {
			kept[i].Data, found = []byte(cmdline), true
		}
	}
	if !found {
		return nil, errors.New("PE image: section .cmdline is missing")
	}
	// Inspect has checked the headers.
	le := binary.LittleEndian
	out := bytes.Clone(image)
	coff := int(le.Uint32(out[peOffset:]))
	opt := coff + coffSize
	table := opt + int(le.Uint16(out[coff+20:]))
	raw := uint32(0)
	for i := range kept {
		h := out[table+(len(stub)+i)*sectionHeader:][:sectionHeader]
		raw += le.Uint32(h[16:])
		clear(h)
	}
	le.PutUint16(out[coff+6:], uint16(len(stub)))
	le.PutUint32(out[opt+optInitialized:], le.Uint32(out[opt+optInitialized:])-raw)
	return Append(out, kept)
}

// StubVersion returns the version of systemd-stub in an image, such as
// 252.39-1~deb12u2, and its first number: 254 and later read addons.
func StubVersion(image []byte) (text string, major int, err error) {
	sections, err := Inspect(bytes.NewReader(image))
	if err != nil {
		return "", 0, err
	}
	for _, s := range sections {
		if s.Name != ".sdmagic" {
			continue
		}
		const before = "LoaderInfo: systemd-stub "
		_, after, ok := bytes.Cut(s.Data, []byte(before))
		if version, _, end := bytes.Cut(after, []byte(" ")); ok && end {
			if n, err := fmt.Sscanf(string(version), "%d", &major); n == 1 && err == nil {
				return string(version), major, nil
			}
		}
		return "", 0, fmt.Errorf("PE image: section .sdmagic names no version of systemd-stub: %q", s.Data)
	}
	return "", 0, errors.New("PE image: section .sdmagic is missing, its stub is not systemd's")
}
