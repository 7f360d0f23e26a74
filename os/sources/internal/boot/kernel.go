package boot

import (
	"bytes"
	"debug/pe"
	"fmt"
	"io"

	"dinghy/internal/verity"
)

// Kernel is what a unified kernel image says of itself.
type Kernel struct {
	Arch      string // as uname -m
	OSRelease string // text of os-release(5)
	RootHash  verity.RootHash
}

// maxSection bounds what is read of a section of text; the kernel takes 2 KiB of
// command line.
const maxSection = 64 << 10

// ReadKernel reads a unified kernel image.
func ReadKernel(r io.ReaderAt) (k Kernel, err error) {
	f, err := pe.NewFile(r)
	if err != nil {
		return k, fmt.Errorf("not a unified kernel image: %w", err)
	}
	text := map[string]string{}
	for _, name := range []string{".osrel", ".cmdline"} {
		s := f.Section(name)
		if s == nil || s.Size > maxSection {
			return k, fmt.Errorf("not a unified kernel image: no section %s, or one that is too large", name)
		}
		data, err := s.Data()
		if err != nil {
			return k, fmt.Errorf("unified kernel image: %w", err)
		}
		data, _, _ = bytes.Cut(data, []byte{0})
		text[name] = string(data)
	}
	switch f.Machine {
	case pe.IMAGE_FILE_MACHINE_AMD64:
		k.Arch = "x86_64"
	case pe.IMAGE_FILE_MACHINE_ARM64:
		k.Arch = "aarch64"
	default:
		return k, fmt.Errorf("unified kernel image: for an unknown machine %#x", f.Machine)
	}
	k.OSRelease = text[".osrel"]
	k.RootHash, err = RootHash(text[".cmdline"])
	return k, err
}
