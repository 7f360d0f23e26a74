package boot

import (
	"errors"
	"fmt"

	"dinghy/internal/gpt"
	"dinghy/internal/verity"
)

// Names of the partitions of a slot that holds a system, and of one that does
// not (systemd-sysupdate(8)).
const (
	labelRoot  = "root_"
	labelHash  = "hash_"
	labelEmpty = "_empty"
)

// Slot is a pair of partitions, as indices of the entries of a table.
type Slot struct{ Root, Hash int }

// Slots returns the slot with the root hash and the other one of a disk that
// has two.
func Slots(t *gpt.Table, running verity.RootHash) (active, other Slot, err error) {
	var roots, hashes []int
	for i, e := range t.Entries {
		switch e.Type {
		case gpt.TypeRootX86_64, gpt.TypeRootARM64, gpt.TypeBottlerocketRoot:
			roots = append(roots, i)
		case gpt.TypeRootVerityX86_64, gpt.TypeRootVerityARM64, gpt.TypeBottlerocketHash:
			hashes = append(hashes, i)
		}
	}
	if len(roots) != 2 || len(hashes) != 2 {
		return active, other, fmt.Errorf("the disk has %d root and %d hash partitions: an update in place needs two of each (image-layout.slots)", len(roots), len(hashes))
	}
	a, b := Slot{roots[0], hashes[0]}, Slot{roots[1], hashes[1]}
	switch {
	case a.Holds(t, running) && b.Holds(t, running):
		return active, other, errors.New("both slots have the root hash of the running system")
	case a.Holds(t, running):
		return a, b, nil
	case b.Holds(t, running):
		return b, a, nil
	}
	return active, other, fmt.Errorf("no slot of the disk has root hash %s of the running system", running)
}

// Holds tells whether the slot is marked as that of the root hash.
func (s Slot) Holds(t *gpt.Table, h verity.RootHash) bool {
	root, hash := PartitionGUIDs(h)
	return t.Entries[s.Root].GUID == root && t.Entries[s.Hash].GUID == hash
}

// Fill marks the slot as that of a root hash, for the version.
func (s Slot) Fill(t *gpt.Table, h verity.RootHash, version string) {
	root, hash := PartitionGUIDs(h)
	s.mark(t, root, hash, labelRoot+version, labelHash+version)
}

// Clear marks the slot as one that holds nothing, with new GUIDs.
func (s Slot) Clear(t *gpt.Table, root, hash gpt.GUID) {
	s.mark(t, root, hash, labelEmpty, labelEmpty)
}

// mark names the partitions anew, but for those of Bottlerocket's layout, which
// keep their names.
func (s Slot) mark(t *gpt.Table, root, hash gpt.GUID, rootName, hashName string) {
	r, v := &t.Entries[s.Root], &t.Entries[s.Hash]
	r.GUID, v.GUID = root, hash
	if r.Type != gpt.TypeBottlerocketRoot {
		r.Name, v.Name = rootName, hashName
	}
}
