package compare

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"slipway/internal/image/erofs"
	"slipway/internal/image/ext4"
	"slipway/internal/image/fat"
	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/tree"
)

// Disks compares the content of two disks, whatever formats their files have, as
// Files does with raw ones. Paths begin with the name.
func Disks(name string, a, b *format.Disk) ([]Difference, error) {
	return blobs(name, diskBlob(a), diskBlob(b), maxSpool)
}

func diskBlob(d *format.Disk) blob { return blob{r: d, size: d.Size(), holes: diskHoles{d}} }

type diskHoles struct{ d *format.Disk }

func (h diskHoles) zeroUntil(off int64) int64 {
	start, _, err := h.d.Data(off)
	switch {
	case errors.Is(err, io.EOF):
		return math.MaxInt64
	case err != nil: // reading will meet it again
		return off
	}
	return max(off, start)
}

const (
	mbrBootCode = 446
	// gptSectors is what each copy of a table takes at its end of the disk, the
	// first with the protective MBR.
	gptSectors = 34
)

// openGPT lists the partitions of a disk with 512-byte sectors and a GUID
// partition table, and what lies between them.
func openGPT(_ *comparison, b blob) (content, error) {
	t, damage, err := gpt.Read(b, b.size)
	if err != nil {
		return content{}, err
	}
	intact := func(err error) string {
		if err == nil {
			return "intact"
		}
		return err.Error()
	}
	out := content{attrs: []attr{
		value("disk GUID", t.Disk), value("size in sectors", t.Sectors),
		value("primary partition table", intact(damage.Primary)), value("backup partition table", intact(damage.Backup)),
	}}
	boot, err := b.section(0, mbrBootCode)
	if err != nil {
		return content{}, err
	}
	mbr, err := b.section(mbrBootCode, gpt.SectorSize-mbrBootCode)
	if err != nil {
		return content{}, err
	}
	out.members = []member{{name: "boot code", data: boot}, {name: "protective MBR", data: mbr, derived: true}}
	var used []gpt.Entry
	for i, e := range t.Entries {
		if !e.Used() {
			continue
		}
		name := "partition " + e.Name
		if e.Name == "" {
			name = fmt.Sprintf("partition %d", i+1)
		}
		if e.First > e.Last || e.Last >= t.Sectors {
			return content{}, fmt.Errorf("%s: sectors %d to %d: %w", name, e.First, e.Last, errBeyond)
		}
		data, err := b.section(e.Start(), e.Size())
		if err != nil {
			return content{}, fmt.Errorf("%s: %w", name, err)
		}
		used = append(used, e)
		out.members = append(out.members, member{name: name, data: data, attrs: []attr{
			value("number", i+1), value("type", e.Type), value("GUID", e.GUID),
			value("first sector", e.First), value("last sector", e.Last), value("attributes", fmt.Sprintf("%#x", e.Attributes)),
		}})
	}
	slices.SortFunc(used, func(a, b gpt.Entry) int { return cmp.Compare(a.First, b.First) })
	at := uint64(gptSectors)
	gap := func(name string, end uint64) error {
		if end <= at {
			return nil
		}
		data, err := b.section(int64(at)*gpt.SectorSize, int64(end-at)*gpt.SectorSize)
		out.members = append(out.members, member{name: name, data: data, derived: true})
		return err
	}
	for _, e := range used {
		if err := gap("space before "+e.Name, e.First); err != nil {
			return content{}, err
		}
		at = max(at, e.Last+1)
	}
	return out, gap("space at the end", max(t.Sectors, gptSectors)-gptSectors)
}

// maxFAT bounds the volumes whose files are read into memory.
const maxFAT = 1 << 30

// openFAT lists the files of an EFI system partition.
func openFAT(_ *comparison, b blob) (content, error) {
	if b.size > maxFAT {
		return content{}, errors.New("too large to be read into memory")
	}
	files, err := fat.Read(b)
	if err != nil {
		return content{}, err
	}
	var out content
	for _, f := range files {
		out.members = append(out.members, member{name: f.Path, data: bytesBlob(f.Data)})
	}
	return out, nil
}

// openEROFS lists the files of a root file system.
func openEROFS(c *comparison, b blob) (content, error) {
	files, err := erofs.Tree(b)
	return c.tree(files), err
}

// isExt4 looks at more than the two bytes that mark a superblock: its revision and
// the size of inodes.
func isExt4(head []byte) bool {
	return magic(1080, "\x53\xef")(head) && magic(1100, "\x01\x00\x00\x00")(head) && len(head) > 1113 && head[1112] == 0 && head[1113] != 0
}

// openExt4 does the same for ext4.
func openExt4(c *comparison, b blob) (content, error) {
	files, err := ext4.Tree(b)
	return c.tree(files), err
}

// tree gives what files say of themselves, and digests of what they hold: a root has
// too many to look into each.
func (c *comparison) tree(files []tree.File) (out content) {
	left := c.spoolLimit // of bytes, against files that claim to be endless
	for _, f := range files {
		m := member{name: f.Path, data: bytesBlob(nil), attrs: []attr{
			value("mode", fmt.Sprintf("%#o", f.Mode)), value("owner", fmt.Sprintf("%d:%d", f.UID, f.GID)),
		}}
		if f.Device != 0 {
			m.attrs = append(m.attrs, value("device", fmt.Sprintf("%#x", f.Device)))
		}
		for _, name := range slices.Sorted(maps.Keys(f.Xattrs)) {
			m.attrs = append(m.attrs, value(name, f.Xattrs[name]))
		}
		if f.Open != nil {
			text, err := holds(f, left)
			if err != nil {
				text, out.unread = plural(f.Size, "byte"), true
			}
			left -= f.Size
			m.attrs = append(m.attrs, value("content", text))
		}
		out.members = append(out.members, m)
	}
	return out
}

// holds says what a file holds: the target of a link, a size and a digest of others.
func holds(f tree.File, limit int64) (string, error) {
	if f.Size > limit {
		return "", fmt.Errorf("holds more than %d bytes", limit)
	}
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	sum, target := sha256.New(), strings.Builder{}
	w := io.Writer(sum)
	if f.Type() == tree.Link && f.Size <= maxTarget {
		w = &target
	}
	n, err := io.Copy(w, r)
	if err == nil && n != f.Size {
		err = io.ErrUnexpectedEOF
	}
	if w == &target {
		return target.String(), err
	}
	return fmt.Sprintf("%s, sha256 %x", plural(n, "byte"), sum.Sum(nil)[:16]), err // not more than is shown
}

// maxTarget is the longest target of a symbolic link (PATH_MAX).
const maxTarget = 4096
