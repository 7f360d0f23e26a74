package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"testing"
)

// fuzzOpen feeds a parser good files in which bytes were changed at an offset,
// from the end if it is negative, and some were cut off: whatever they hold,
// opening and reading ends without a panic, reads stay inside the disk, and
// ranges of data go forward. Whole files would be too large to be mutated.
func fuzzOpen(f *testing.F, kind Kind) {
	dst := filepath.Join(f.TempDir(), "disk")
	if err := Write(f.Context(), kind, sample(f, mib), dst, options); err != nil {
		f.Fatal(err)
	}
	good := read(f, dst)
	size := len(good)
	for _, at := range []int{0, 512, 1536, 65536, size - 512, size - 1024, size - 1536, size - 2560, size - 65536} {
		if at >= 0 && at+128 <= size {
			f.Add(int32(at), good[at:at+128], uint32(0))
			f.Add(int32(at-size), bytes.Repeat([]byte{0xff}, 8), uint32(0))
		}
	}
	f.Add(int32(0), []byte{}, uint32(512))
	f.Fuzz(func(t *testing.T, at int32, patch []byte, cut uint32) {
		b := bytes.Clone(good[:max(0, len(good)-int(cut))])
		from := int(at)
		if from < 0 {
			from += len(b)
		}
		if from >= 0 && from < len(b) {
			copy(b[from:], patch)
		}
		// A checksum would hide all other checks.
		if kind == VHD || kind == VHDDynamic {
			mend(b, len(b)-512, 512, 64)
			mend(b, 512, 1024, 36)
		}
		got, size, m, check, err := openMapped(kind, bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		d := &Disk{Kind: got, size: size, check: check}
		if d.src = m; m == nil {
			if size > int64(len(b)) {
				t.Fatalf("a fixed disk of %d bytes in a file of %d", size, len(b))
			}
			return
		}
		for off, i := int64(0), 0; i < 8; i++ {
			start, end, err := d.Data(off)
			if err != nil {
				break
			}
			if start < off || end <= start || end > d.size {
				t.Fatalf("data behind %d: %d to %d", off, start, end)
			}
			p := make([]byte, min(end-start, 4096))
			if n, err := d.ReadAt(p, start); n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
				t.Fatalf("%d of %d bytes at %d: %v", n, len(p), start, err)
			}
			off = end
		}
		_ = d.Check(t.Context()) // whatever it finds
	})
}

func FuzzQCOW2(f *testing.F)      { fuzzOpen(f, QCOW2) }
func FuzzVMDK(f *testing.F)       { fuzzOpen(f, VMDK) }
func FuzzOVA(f *testing.F)        { fuzzOpen(f, OVA) }
func FuzzVHD(f *testing.F)        { fuzzOpen(f, VHD) }
func FuzzVHDDynamic(f *testing.F) { fuzzOpen(f, VHDDynamic) }

func mend(b []byte, at, size, field int) {
	if at < 0 || at+size > len(b) {
		return
	}
	part := b[at : at+size]
	clear(part[field : field+4])
	binary.BigEndian.PutUint32(part[field:], vhdChecksum(part))
}
