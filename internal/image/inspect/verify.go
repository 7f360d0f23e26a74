package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/verity"
)

// Finding is something on a disk that is damaged or does not belong together.
type Finding struct {
	Where string `json:"where"` // "partition 2 (root_0.1.0)", "slot A", a path on the ESP
	What  string `json:"what"`
}

// String is the finding in one line.
func (f Finding) String() string { return f.Where + ": " + f.What }

// verification collects findings.
type verification struct {
	*Report
	d        *format.Disk
	t        *gpt.Table
	findings []Finding
}

func (v *verification) add(where, what string, a ...any) {
	v.findings = append(v.findings, Finding{where, fmt.Sprintf(what, a...)})
}

// Verify reads a whole disk and checks that it is what its makers made:
//
//   - the checksums of the file format, where it has some;
//   - both copies of the partition table, by their checksums and against each
//     other, the protective MBR, and that no partitions overlap;
//   - the checksums and the signatures of all EFI programs;
//   - that each kernel names a slot by its root hash, which is the UUIDs of the
//     two partitions, and the salt and size that the superblock gives;
//   - each slot that is not blank: the data block by block against the hash tree
//     up to the root hash, and that nothing lies behind them.
//
// The error is one of reading, not a finding.
func Verify(ctx context.Context, d *format.Disk) (*Report, []Finding, error) {
	v := &verification{d: d}
	if err := d.Check(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		v.add("file", "%v", err)
	}
	var err error
	if v.Report, v.t, err = read(d); err != nil {
		if errors.Is(err, gpt.ErrNoTable) {
			v.add("partition table", "%v", err)
			return nil, v.findings, nil
		}
		return nil, nil, err
	}
	v.table()
	v.programs()
	v.kernels()
	for _, s := range v.Slots {
		if err := v.slot(ctx, s); err != nil {
			return nil, nil, err
		}
	}
	return v.Report, v.findings, nil
}

func (v *verification) table() {
	for name, s := range map[string]string{"primary": v.Table.Primary, "backup": v.Table.Backup} {
		if s != intact {
			v.add(name+" partition table", "%s", s)
		}
	}
	if err := v.t.Check(); err != nil {
		v.add("partition table", "%v", err)
	}
	mbr := make([]byte, gpt.SectorSize)
	if _, err := v.d.ReadAt(mbr, 0); err != nil {
		v.add("protective MBR", "%v", err)
	} else if mbr[450] != 0xee || mbr[510] != 0x55 || mbr[511] != 0xaa {
		v.add("protective MBR", "its first partition has type %#x and its signature is %#x, want 0xee and 0x55aa", mbr[450], mbr[510:512])
	}
}

func (v *verification) programs() {
	var esp *Partition
	for i, p := range v.Partitions {
		if p.Type == gpt.TypeESP {
			esp = &v.Partitions[i]
			break
		}
	}
	switch {
	case esp == nil:
		v.add("partition table", "there is no EFI system partition")
		return
	case len(v.ESP) == 0:
		v.add(where(*esp), "the EFI system partition cannot be read, or is empty: it is %s", esp.Content)
		return
	}
	for _, f := range v.ESP {
		if f.Signatures != "" {
			v.add("/"+f.Path, "%s", f.Signatures)
		}
		if _, err := optional(f.data); err == nil {
			if err := checkSum(f.data); err != nil {
				v.add("/"+f.Path, "%v", err)
			}
		}
	}
	if len(v.Kernels) == 0 {
		v.add(where(*esp), "there is no unified kernel image in /EFI/Linux")
	}
}

func where(p Partition) string {
	if p.Label == "" {
		return fmt.Sprintf("partition %d", p.Number)
	}
	return fmt.Sprintf("partition %d (%s)", p.Number, p.Label)
}

func (v *verification) kernels() {
	for _, k := range v.Kernels {
		at := "/" + k.Path
		switch {
		case k.Error != "":
			v.add(at, "%s", k.Error)
			continue
		case k.verity == nil:
			v.add(at, "its command line has no dm-mod.create= with a dm-verity root")
			continue
		}
		rootID, hashID := halves(k.verity.root)
		if k.verity.rootID != rootID || k.verity.hashID != hashID {
			v.add(at, "its command line takes the partitions %s and %s, the root hash in it is for %s and %s", k.verity.rootID, k.verity.hashID, rootID, hashID)
		}
		found := false
		for _, s := range v.Slots {
			if s.Kernel != k.Path {
				continue
			}
			found = true
			if s.Verity == nil {
				break // reported with the slot
			}
			if got := fmt.Sprintf("%x", k.verity.salt); got != s.Verity.Salt {
				v.add(at, "its command line has the salt %s, the superblock of partition %d has %s", got, s.Hash, s.Verity.Salt)
			}
			if k.verity.blocks != s.Verity.DataBlocks {
				v.add(at, "its command line has %d blocks of data, the superblock of partition %d has %d", k.verity.blocks, s.Hash, s.Verity.DataBlocks)
			}
		}
		if !found {
			v.add(at, "it boots the root hash %s, but no partition has the UUID %s or %s", k.verity.root, rootID, hashID)
		}
	}
}

func (v *verification) partition(number int) Partition {
	for _, p := range v.Partitions {
		if p.Number == number {
			return p
		}
	}
	return Partition{Number: number}
}

func (v *verification) slot(ctx context.Context, s Slot) error {
	if s.Empty {
		return nil
	}
	root, hash := v.partition(s.Root), v.partition(s.Hash)
	name := "slot " + s.Name
	rootID, hashID := halves(s.root)
	for _, half := range []struct {
		p    Partition
		want gpt.GUID
	}{{root, rootID}, {hash, hashID}} {
		if half.p.UUID != half.want {
			v.add(where(half.p), "its UUID is %s, the root hash in /%s makes it %s", half.p.UUID, s.Kernel, half.want)
		}
	}
	if s.Kernel == "" {
		v.add(name, "no kernel on the EFI system partition boots its root hash %s", s.RootHash)
	}
	if root.Label != hash.Label {
		_, rootVersion, a := bytes.Cut([]byte(root.Label), []byte("_"))
		_, hashVersion, b := bytes.Cut([]byte(hash.Label), []byte("_"))
		if a && b && (!bytes.Equal(rootVersion, hashVersion) || s.Version != string(rootVersion)) {
			v.add(name, "its partitions are labelled %s and %s, the version is %s", root.Label, hash.Label, s.Version)
		}
	}
	if s.Verity == nil {
		v.add(where(hash), "%s", s.VeritySuperblock)
		return nil
	}
	if s.Verity.DataSize > root.Size || s.Verity.HashSize > hash.Size {
		v.add(where(hash), "its superblock is for %d bytes of data and %d of tree; the partitions have %d and %d", s.Verity.DataSize, s.Verity.HashSize, root.Size, hash.Size)
		return nil
	}
	data, tree := section(v.d, v.t.Entries[s.Root-1]), section(v.d, v.t.Entries[s.Hash-1])
	if _, err := verity.Verify(ctx, data, tree, s.root); errors.Is(err, verity.ErrMismatch) {
		v.add(name, "%v", err)
	} else if err != nil {
		return err
	}
	padding := make([]byte, verity.BlockSize)
	if _, err := tree.ReadAt(padding, 0); err != nil {
		return err
	}
	if !blank(padding[superblockEnd:]) {
		v.add(where(hash), "there is something behind the superblock in its block")
	}
	for _, tail := range []struct {
		p    Partition
		r    *io.SectionReader
		from int64
	}{{root, data, s.Verity.DataSize}, {hash, tree, s.Verity.HashSize}} {
		at, err := v.nonzero(ctx, tail.r, tail.p.Start, tail.from)
		if err != nil {
			return err
		}
		if at >= 0 {
			v.add(where(tail.p), "byte %d is not zero, though the hash tree protects only the %d before", at, tail.from)
		}
	}
	return nil
}

// superblockEnd is where the superblock of dm-verity ends: behind the fields up
// to the salt, which has 256 bytes of room.
const superblockEnd = 512

// nonzero returns the offset of the first byte at or behind from that is not
// zero, -1 if there is none. It skips the disk's holes.
func (v *verification) nonzero(ctx context.Context, r *io.SectionReader, start, from int64) (int64, error) {
	buf := make([]byte, 1<<20)
	for from < r.Size() {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		data, _, err := v.d.Data(start + from)
		if errors.Is(err, io.EOF) {
			return -1, nil
		}
		if err != nil {
			return 0, err
		}
		if data > start+from {
			from = data - start
			continue
		}
		n, err := r.ReadAt(buf[:min(int64(len(buf)), r.Size()-from)], from)
		if n == 0 {
			return 0, err
		}
		if !blank(buf[:n]) {
			return from + int64(bytes.IndexFunc(buf[:n], func(c rune) bool { return c != 0 })), nil
		}
		from += int64(n)
	}
	return -1, nil
}
