package format

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Detect tells the format of a file by its content. Whatever has no mark of
// another format and whole sectors is a raw disk.
func Detect(path string) (Kind, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	kind, _, err := detect(f)
	return kind, err
}

// detect also returns the size of the file or block device.
func detect(f *os.File) (Kind, int64, error) {
	if st, err := f.Stat(); err != nil {
		return "", 0, err
	} else if st.IsDir() {
		return "", 0, fmt.Errorf("%s is a directory, not a disk image", f.Name())
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", 0, err
	}
	kind, err := detectIn(f, size)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return kind, size, err
}

func detectIn(f io.ReaderAt, size int64) (Kind, error) {
	head, tail := make([]byte, min(size, sectorSize)), make([]byte, min(size, sectorSize))
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return "", noEOF(err)
	}
	if n, err := f.ReadAt(tail, size-int64(len(tail))); n < len(tail) {
		return "", noEOF(err)
	}
	starts := func(mark string) bool { return bytes.HasPrefix(head, []byte(mark)) }
	switch {
	case starts(qcow2Magic):
		return QCOW2, nil
	case starts(vmdkMagic):
		return VMDK, nil
	case starts("\x28\xb5\x2f\xfd"):
		return RawZstd, nil
	case starts("\x04\x22\x4d\x18"):
		return RawLZ4, nil
	case starts(vhdCookie):
		return VHDDynamic, nil
	case bytes.HasPrefix(tail, []byte(vhdCookie)):
		return VHD, nil
	case len(head) == sectorSize && string(head[257:262]) == "ustar":
		name, _, _ := strings.Cut(string(head[:100]), "\x00")
		if strings.HasSuffix(strings.ToLower(name), ".ovf") {
			return OVA, nil
		}
		return "", fmt.Errorf("a tar archive that begins with %q, not with an OVF descriptor", name)
	case starts("# Disk DescriptorFile"):
		return "", errors.New("a VMDK descriptor whose disk is in other files, which cannot be read")
	case starts("vhdxfile"), starts("\x1f\x8b"), starts("\xfd7zXZ\x00"):
		return "", errors.New("VHDX, gzip and xz cannot be read; convert or unpack the file first")
	case size == 0 || size%sectorSize != 0:
		return "", fmt.Errorf("no disk image: a raw disk has whole sectors of %d bytes, this file has %d bytes", sectorSize, size)
	}
	return Raw, nil
}

// OpenRaw opens a file or block device as a raw disk, whatever it holds.
func OpenRaw(path string) (*Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &Disk{Kind: Raw, size: size, src: rawFile{f}, close: f.Close}, nil
}

// Open opens a disk image in any of the formats. The compressed raw kinds are
// unpacked into a sparse file in os.TempDir, which Close gives back; all others
// are read in place. Other variants of the formats that can be read are VMDK
// of type monolithicSparse and QCOW2 of version 2 or with compressed clusters;
// disks that are based on other disks are refused.
func Open(ctx context.Context, path string) (*Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	kind, size, err := detect(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d := &Disk{Kind: kind, size: size, close: f.Close}
	switch kind {
	case Raw:
		d.src = rawFile{f}
	case RawZstd, RawLZ4:
		open := openZstd
		if kind == RawLZ4 {
			open = openLZ4
		}
		raw, size, uerr := open(ctx, f)
		d.src, d.size = rawFile{raw}, size
		if err = errors.Join(uerr, f.Close()); err == nil {
			d.close = raw.Close
		} else if uerr == nil {
			raw.Close()
		}
	default:
		var m *mapped
		d.Kind, d.size, m, d.check, err = openMapped(kind, f, size)
		if m != nil {
			d.src = m
		} else {
			d.src = rawFile{f}
		}
	}
	if err != nil {
		f.Close() // a second time for the compressed kinds, which does no harm
		return nil, fmt.Errorf("%s: %s image: %w", path, kind, err)
	}
	return d, nil
}

// openMapped opens the formats that have tables; a nil source is a fixed VHD.
func openMapped(kind Kind, f io.ReaderAt, fileSize int64) (_ Kind, size int64, m *mapped, check func(context.Context) error, err error) {
	switch kind {
	case QCOW2:
		m, err = openQCOW2(f, fileSize)
	case VMDK:
		m, err = openVMDK(f, fileSize)
	case OVA:
		var disk *io.SectionReader
		if disk, check, err = openOVA(f, fileSize); err == nil {
			m, err = openVMDK(disk, disk.Size())
		}
	case VHD, VHDDynamic:
		kind, size, m, err = openVHD(f, fileSize)
	}
	if err == nil && m != nil {
		size = m.size
	}
	return kind, size, m, check, err
}
