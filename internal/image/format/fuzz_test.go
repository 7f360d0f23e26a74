package format

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"
)

// fuzzOpen feeds files to a parser, starting from a good one: whatever they
// hold, opening and reading ends without a panic, reads stay inside the disk,
// and ranges of data go forward.
func fuzzOpen(f *testing.F, kind Kind) {
	dst := filepath.Join(f.TempDir(), "disk")
	if err := Write(f.Context(), kind, sample(f, mib), dst, options); err != nil {
		f.Fatal(err)
	}
	f.Add(read(f, dst))
	f.Fuzz(func(t *testing.T, b []byte) {
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
			if n, err := d.ReadAt(p, start); n < len(p) && (err == nil || err == io.EOF) {
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
