package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"
)

// Limits of Read, against volumes that are made to exhaust memory.
const (
	maxDepth    = 16
	maxFileRead = 1 << 30
	maxEntries  = 4096
)

// Read returns the files of the FAT volume at r, at most 1 GiB of them, in
// the order of their directories. It is meant for EFI system partitions:
// everything is read into memory.
func Read(r io.ReaderAt) ([]File, error) {
	v, err := ReadVolume(r)
	if v == nil {
		return nil, err
	}
	return v.Files, err
}

// ReadVolume is Read with what the volume says of itself: written again at the
// same size, a volume of Write has the same bytes. Time is that of the label.
func ReadVolume(r io.ReaderAt) (*Volume, error) {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("boot sector: %w", err)
	}
	le := binary.LittleEndian
	reserved, fatSectors, rootEntries, sectors := le.Uint16(b[14:]), uint32(le.Uint16(b[22:])), le.Uint16(b[17:]), uint32(le.Uint16(b[19:]))
	if sectors == 0 {
		sectors = le.Uint32(b[32:])
	}
	about := 36
	if fatSectors == 0 { // only FAT32 has the number elsewhere
		fatSectors, about = le.Uint32(b[36:]), 64
	}
	if b[510] != 0x55 || b[511] != 0xaa || le.Uint16(b[11:]) != sectorSize ||
		b[13] == 0 || b[13]&(b[13]-1) != 0 || b[16] != copies || reserved == 0 || fatSectors == 0 {
		return nil, errors.New("not a FAT file system with 512-byte sectors")
	}
	rd := &reader{r: r, bits: 32, fat: int64(reserved) * sectorSize, cluster: int64(b[13]) * sectorSize, budget: maxFileRead, entries: maxEntries}
	root := rd.fat + copies*int64(fatSectors)*sectorSize
	rd.data = root
	if about == 36 {
		rd.data += (int64(rootEntries)*slotSize + sectorSize - 1) / sectorSize * sectorSize
	}
	clusters := (int64(sectors)*sectorSize - rd.data) / rd.cluster
	switch {
	case clusters < 1 || clusters > maxClusters || about == 36 && clusters >= minClusters32:
		return nil, fmt.Errorf("a FAT file system of %d clusters", clusters)
	case about == 36 && clusters < minClusters16:
		rd.bits = 12
	case about == 36:
		rd.bits = 16
	}
	rd.clusters = uint32(clusters)
	v := &Volume{ID: le.Uint32(b[about+3:])}
	if label := strings.TrimRight(string(b[about+7:about+18]), " "); label != "NO NAME" {
		v.Label = label
	}
	var top []byte
	var err error
	if rd.bits == 32 {
		top, err = rd.chain(le.Uint32(b[44:]), -1)
	} else {
		top = make([]byte, int(rootEntries)*slotSize)
		_, err = r.ReadAt(top, root)
	}
	if err != nil {
		return v, fmt.Errorf("directory /: %w", err)
	}
	err = rd.directory(top, "", 0, &v.Files)
	v.Time = rd.time
	return v, err
}

type reader struct {
	r         io.ReaderAt
	fat, data int64 // offsets
	cluster   int64 // bytes
	clusters  uint32
	bits      uint32
	budget    int64
	entries   int
	time      time.Time // of the volume's label
}

// next is the cluster that follows one in its chain.
func (r *reader) next(c uint32) (uint32, error) {
	var b [4]byte
	width := (r.bits + 7) / 8
	if _, err := r.r.ReadAt(b[:width], r.fat+int64(c)*int64(r.bits)/8); err != nil {
		return 0, fmt.Errorf("FAT entry %d: %w", c, err)
	}
	entry := binary.LittleEndian.Uint32(b[:])
	if r.bits == 12 && c%2 == 1 {
		entry >>= 4
	}
	return entry & (1<<min(r.bits, 28) - 1), nil
}

// chain reads the clusters of a file or directory; size < 0 is a directory.
func (r *reader) chain(c uint32, size int64) ([]byte, error) {
	var out []byte
	end := uint32(1<<min(r.bits, 28) - 8)
	for c < end && (size < 0 || int64(len(out)) < size) {
		if c < firstCluster || c-firstCluster >= r.clusters {
			return nil, fmt.Errorf("cluster %d lies outside the volume", c)
		}
		if r.budget -= r.cluster; r.budget < 0 {
			return nil, fmt.Errorf("more than %d bytes of files, or a loop", maxFileRead)
		}
		b := make([]byte, r.cluster)
		if _, err := r.r.ReadAt(b, r.data+int64(c-firstCluster)*r.cluster); err != nil {
			return nil, fmt.Errorf("cluster %d: %w", c, err)
		}
		out = append(out, b...)
		var err error
		if c, err = r.next(c); err != nil {
			return nil, err
		}
	}
	if size < 0 {
		return out, nil
	}
	if int64(len(out)) < size {
		return nil, fmt.Errorf("file ends after %d of %d bytes", len(out), size)
	}
	return out[:size], nil
}

func (r *reader) directory(b []byte, at string, depth int, files *[]File) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", at, maxDepth)
	}
	var long []uint16
	le := binary.LittleEndian
	for ; len(b) >= slotSize && b[0] != 0; b = b[slotSize:] {
		e := b[:slotSize]
		if e[0] == 0xe5 {
			long = nil
			continue
		}
		if e[11]&0x3f == attrLongName {
			var part []uint16
			for _, off := range unitOffsets {
				u := le.Uint16(e[off:])
				if u == 0 || u == 0xffff {
					break
				}
				part = append(part, u)
			}
			if long = append(part, long...); len(long) > maxNameUnits+slotUnits {
				return fmt.Errorf("directory /%s: a name is too long", at)
			}
			continue
		}
		name := shortText(e)
		if len(long) > 0 {
			name = string(utf16.Decode(long))
		}
		long = nil
		if e[11]&attrVolume != 0 && depth == 0 {
			r.time = parseStamp(le.Uint16(e[24:]), le.Uint16(e[22:]))
		}
		if e[11]&attrVolume != 0 || e[0] == '.' {
			continue
		}
		if r.entries--; r.entries < 0 {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		full := at + name
		first := uint32(le.Uint16(e[26:]))
		if r.bits == 32 {
			first |= uint32(le.Uint16(e[20:])) << 16
		}
		if e[11]&attrDirectory != 0 {
			b, err := r.chain(first, -1)
			if err != nil {
				return fmt.Errorf("directory /%s/: %w", full, err)
			}
			if err := r.directory(b, full+"/", depth+1, files); err != nil {
				return err
			}
			continue
		}
		data, err := r.chain(first, int64(le.Uint32(e[28:])))
		if err != nil {
			return fmt.Errorf("/%s: %w", full, err)
		}
		*files = append(*files, File{Path: full, Data: data})
	}
	return nil
}

// parseStamp reads what stamp makes.
func parseStamp(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31), int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

func shortText(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext != "" {
		return base + "." + ext
	}
	return base
}
