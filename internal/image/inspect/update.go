package inspect

import (
	"errors"
	"io"

	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/verity"
)

// Update is what an update brings to another disk.
type Update struct {
	Disk       gpt.GUID // of the disk that it comes from
	RootHash   verity.RootHash
	Root, Hash *io.SectionReader // without what the partitions have behind them
	UKI        []byte
}

// ReadUpdate reads the first slot of a disk and the kernel that boots it, without
// verifying them. The disk must stay open while the parts are read.
func ReadUpdate(d *format.Disk) (*Update, error) {
	r, t, err := read(d)
	if err != nil {
		return nil, err
	}
	if len(r.Slots) == 0 || r.Slots[0].Verity == nil || r.Slots[0].Kernel == "" {
		return nil, errors.New("the first slot of the disk is blank, or no kernel boots it")
	}
	s := r.Slots[0]
	root, hash := section(d, t.Entries[s.Root-1]), section(d, t.Entries[s.Hash-1])
	if s.Verity.DataSize > root.Size() || s.Verity.HashSize > hash.Size() {
		return nil, errors.New("the first slot of the disk is smaller than its hash tree says")
	}
	u := &Update{Disk: t.Disk, RootHash: s.root, Root: io.NewSectionReader(root, 0, s.Verity.DataSize), Hash: io.NewSectionReader(hash, 0, s.Verity.HashSize)}
	for _, f := range r.ESP {
		if f.Path == s.Kernel {
			u.UKI = f.data
		}
	}
	return u, nil
}
