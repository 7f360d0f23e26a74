// Package format turns a raw disk into the files that hypervisors and clouds
// take, and reads such files back as raw disks. Writing is streaming: holes of
// the source are neither read nor stored, and memory does not grow with the
// disk. The output depends on the bytes of the disk and on the options alone,
// not on where the source has holes, on the clock or on the number of CPUs.
package format

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Kind is a format of disk files.
type Kind string

// The formats.
const (
	// Raw is the disk itself, as a sparse file.
	Raw Kind = "raw"
	// RawZstd is the disk as zstd frames (RFC 8878) of 4 MiB of content each.
	RawZstd Kind = "raw.zst"
	// RawLZ4 is the disk as one LZ4 frame.
	RawLZ4 Kind = "raw.lz4"
	// QCOW2 is version 3 of QEMU's format, uncompressed.
	QCOW2 Kind = "qcow2"
	// VMDK is VMware's streamOptimized format: compressed, for import only.
	VMDK Kind = "vmdk"
	// OVA is a tar archive of an OVF descriptor, a manifest and VMDKs
	// (DMTF DSP0243).
	OVA Kind = "ova"
	// VHD is a fixed VHD, the only kind that Azure takes: the disk, a
	// multiple of 1 MiB, and a footer, as a sparse file.
	VHD Kind = "vhd"
	// VHDDynamic is a VHD without the blocks that are zero.
	VHDDynamic Kind = "vhd-dynamic"
)

type driver struct {
	kind      Kind
	extension string
	write     func(ctx context.Context, w *os.File, src *Disk, o Options) error
}

// drivers is filled by init, as the writer of OVA refers to it.
var drivers []driver

func init() {
	drivers = []driver{
		{Raw, ".img", writeRaw},
		{RawZstd, ".img.zst", writeZstd},
		{RawLZ4, ".img.lz4", writeLZ4},
		{QCOW2, ".qcow2", writeQCOW2},
		{VMDK, ".vmdk", writeVMDK},
		{OVA, ".ova", writeOVA},
		{VHD, ".vhd", writeVHD},
		{VHDDynamic, ".dynamic.vhd", writeVHDDynamic},
	}
}

func (k Kind) driver() (driver, error) {
	for _, d := range drivers {
		if d.kind == k {
			return d, nil
		}
	}
	var names []string
	for _, k := range Kinds() {
		names = append(names, string(k))
	}
	return driver{}, fmt.Errorf("image format %q: want one of %s", string(k), strings.Join(names, ", "))
}

// Kinds returns all formats.
func Kinds() []Kind {
	var out []Kind
	for _, d := range drivers {
		out = append(out, d.kind)
	}
	return out
}

// ParseKind returns the kind with this name; its error lists all of them.
func ParseKind(name string) (Kind, error) {
	d, err := Kind(name).driver()
	return d.kind, err
}

// Extension is how names of files of this kind end, with the dot; "" for an
// unknown kind.
func (k Kind) Extension() string {
	d, _ := k.driver()
	return d.extension
}

// Controller is the kind of disk controller of an OVA's machine.
type Controller string

// The controllers; AHCI, the default, is in every kernel for PCs.
const (
	AHCI   Controller = "ahci"
	NVMe   Controller = "nvme"
	PVSCSI Controller = "pvscsi"
)

// Network is the kind of network adapter of an OVA's machine.
type Network string

// The network adapters; E1000E is the default.
const (
	E1000E  Network = "e1000e"
	VMXNET3 Network = "vmxnet3"
)

// Options is what the formats hold beside the disk. The raw kinds and QCOW2
// use none of it.
type Options struct {
	// Name and Version name the machine of an OVA and the files in it.
	Name, Version string
	// Time is that of the files in an OVA and of a VHD, which cannot tell
	// times before the year 2000 and then has that.
	Time time.Time
	// Seed is what the identifiers in VMDK and VHD are derived from.
	Seed string
	// CPUs and MemoryMiB are the size of an OVA's machine, by default 2 CPUs
	// and 2048 MiB.
	CPUs, MemoryMiB int
	// Controller and Network are the devices of an OVA's machine.
	Controller Controller
	Network    Network
	// Data is the second disk of an OVA's machine, which the data has for itself;
	// nil where it has none.
	Data *Disk
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (o Options) complete(kind Kind) (Options, error) {
	bad := func(format string, a ...any) (Options, error) {
		return o, fmt.Errorf("%s image: "+format, append([]any{kind}, a...)...)
	}
	for what, s := range map[string]string{"name": o.Name, "version": o.Version} {
		if kind == OVA && s == "" || s != "" && !nameForm.MatchString(s) {
			return bad("%s %q: want letters, digits, dots, hyphens and underscores", what, s)
		}
	}
	if o.Time.IsZero() {
		o.Time = time.Unix(0, 0)
	}
	if o.Time.Unix() < 0 || o.Time.Year() > 2099 {
		return bad("time %s: want one from 1970 to 2099", o.Time.UTC().Format(time.RFC3339))
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 2048
	}
	if o.CPUs < 0 || o.MemoryMiB < 0 || o.MemoryMiB%4 != 0 {
		return bad("%d CPUs, %d MiB of memory: want at least one CPU and a multiple of 4 MiB", o.CPUs, o.MemoryMiB)
	}
	if o.Controller == "" {
		o.Controller = AHCI
	}
	if o.Network == "" {
		o.Network = E1000E
	}
	if _, ok := controllers[o.Controller]; !ok {
		return bad("disk controller %q: want %s, %s or %s", string(o.Controller), AHCI, NVMe, PVSCSI)
	}
	if _, ok := networks[o.Network]; !ok {
		return bad("network adapter %q: want %s or %s", string(o.Network), E1000E, VMXNET3)
	}
	return o, nil
}

// stem is what the names of files begin with.
func (o Options) stem() string {
	switch {
	case o.Name == "":
		return "disk"
	case o.Version == "":
		return o.Name
	}
	return o.Name + "-" + o.Version
}

// id derives 16 bytes from the seed, as a version 8 UUID (RFC 9562).
func (o Options) id(role string) [16]byte {
	sum := sha256.Sum256([]byte(role + "\x00" + o.Seed))
	id := [16]byte(sum[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Write writes the raw disk in the file or block device src to dst in another
// format; see Convert.
func Write(ctx context.Context, kind Kind, src, dst string, o Options) error {
	disk, err := OpenRaw(src)
	if err != nil {
		return err
	}
	err = Convert(ctx, kind, disk, dst, o)
	return errors.Join(err, disk.Close())
}

// Convert writes a disk to dst in a format. The file appears there only when
// it is complete and synced; on an error an older one stays and nothing else
// is left.
func Convert(ctx context.Context, kind Kind, src *Disk, dst string, o Options) (err error) {
	d, err := kind.driver()
	if err != nil {
		return err
	}
	if o, err = o.complete(kind); err != nil {
		return err
	}
	if src.size == 0 || src.size%sectorSize != 0 || src.size > maxSize {
		return fmt.Errorf("%s image: the disk has %d bytes, want a multiple of %d up to 64 TiB", kind, src.size, sectorSize)
	}
	f, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // closed already if the renaming failed
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := d.write(ctx, f, src, o); err != nil {
		return fmt.Errorf("%s image: %w", kind, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), dst)
}
