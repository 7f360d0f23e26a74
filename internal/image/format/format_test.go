package format

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var options = Options{Name: "dinghy", Version: "0.1.0", Time: time.Unix(1700000000, 0), Seed: "seed"}

// sampleSize is no multiple of any format's blocks.
const sampleSize = 101 * mib

// sample makes a disk in which data and holes meet in blocks of every size.
func sample(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 300<<10)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(noise); err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		at   int64
		data []byte
	}{
		{0, []byte("boot")}, {mib, noise}, {5*mib + 512, bytes.Repeat([]byte("text "), 100<<10)},
		{40 * mib, make([]byte, 3*mib)}, // written, but zero
		{70*mib - 4096, noise}, {size - 512, []byte("backup table")},
	} {
		if w.at+int64(len(w.data)) > size {
			continue
		}
		if _, err := f.WriteAt(w.data, w.at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian: qemu-utils, zstd, lz4, libxml2-utils)", name)
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// readAll reads a disk through Data and ReadAt, as its users do.
func readAll(t testing.TB, d *Disk) []byte {
	t.Helper()
	out := make([]byte, d.Size())
	for off := int64(0); ; {
		start, end, err := d.Data(off)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil || start < off || end <= start {
			t.Fatalf("data at %d: %d to %d, %v", off, start, end, err)
		}
		if n, err := d.ReadAt(out[start:end], start); n < int(end-start) {
			t.Fatal(err)
		}
		off = end
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{sampleSize, 2 * mib} {
		src := sample(t, size)
		want := read(t, src)
		for _, kind := range Kinds() {
			t.Run(fmt.Sprint(kind, size), func(t *testing.T) {
				t.Parallel()
				dst := filepath.Join(t.TempDir(), "disk"+kind.Extension())
				if err := Write(t.Context(), kind, src, dst, options); err != nil {
					t.Fatal(err)
				}
				if got, err := Detect(dst); err != nil || got != kind {
					t.Errorf("detected %q, %v", got, err)
				}
				d, err := Open(t.Context(), dst)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if d.Kind != kind || d.Size() != size {
					t.Errorf("opened as %s of %d bytes", d.Kind, d.Size())
				}
				if !bytes.Equal(readAll(t, d), want) {
					t.Error("the disk read by its ranges of data differs")
				}
				whole := make([]byte, size+1)
				if n, err := d.ReadAt(whole, 0); int64(n) != size || !errors.Is(err, io.EOF) || !bytes.Equal(whole[:n], want) {
					t.Errorf("the disk read at once differs: %d, %v", n, err)
				}
				if err := d.Check(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// The same disk without holes, in another place and on another number of CPUs,
// makes the same file, and no temporary one stays. Not parallel, as the number
// is that of the whole process.
func TestReproducible(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	src := sample(t, sampleSize)
	full := filepath.Join(t.TempDir(), "full.img")
	if err := os.WriteFile(full, read(t, src), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			var sums [2][32]byte
			for i, from := range []string{src, full} {
				runtime.GOMAXPROCS(1 + 3*i)
				dir := t.TempDir()
				dst := filepath.Join(dir, fmt.Sprint("out", i))
				if err := Write(t.Context(), kind, from, dst, options); err != nil {
					t.Fatal(err)
				}
				sums[i] = sha256.Sum256(read(t, dst))
				if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
					t.Errorf("left: %v, %v", left, err)
				}
			}
			if sums[0] != sums[1] {
				t.Error("the files differ")
			}
		})
	}
}

// QEMU's own tools take the files for what they are.
func TestQEMU(t *testing.T) {
	t.Parallel()
	src := sample(t, sampleSize)
	for kind, name := range map[Kind]string{QCOW2: "qcow2", VMDK: "vmdk", VHD: "vpc", VHDDynamic: "vpc"} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			dst, back := filepath.Join(dir, "disk"), filepath.Join(dir, "back")
			if err := Write(t.Context(), kind, src, dst, options); err != nil {
				t.Fatal(err)
			}
			if kind == QCOW2 || kind == VMDK {
				out := run(t, "qemu-img", "check", "-f", name, dst)
				if !strings.Contains(out, "No errors were found") {
					t.Error(out)
				}
			}
			if out := run(t, "qemu-img", "compare", "-f", name, "-F", "raw", dst, src); !strings.Contains(out, "Images are identical") {
				t.Error(out)
			}
			run(t, "qemu-img", "convert", "-f", name, "-O", "raw", dst, back)
			if !bytes.Equal(read(t, back), read(t, src)) {
				t.Error("converted back it differs")
			}
		})
	}
}

// Variants that Write does not make can be read.
func TestOpenForeign(t *testing.T) {
	t.Parallel()
	src := sample(t, sampleSize)
	for _, args := range []string{
		"qcow2", "qcow2 -c", "qcow2 -c -o compression_type=zstd", "qcow2 -o compat=0.10", "qcow2 -o cluster_size=4096",
		"vmdk", "vmdk -o subformat=streamOptimized", "vmdk -o zeroed_grain=on",
		"vpc -o force_size=on", "vpc -o force_size=on,subformat=fixed",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			dst := filepath.Join(t.TempDir(), "disk")
			run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O"}, strings.Fields(args)...), src, dst)...)
			d, err := Open(t.Context(), dst)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if !bytes.Equal(readAll(t, d), read(t, src)) {
				t.Error("the disk differs")
			}
		})
	}
}

// The usual tools unpack what Write packs.
func TestUnpack(t *testing.T) {
	t.Parallel()
	src := sample(t, sampleSize)
	for kind, tool := range map[Kind]string{RawZstd: "zstd", RawLZ4: "lz4"} {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			dst, back := filepath.Join(dir, "disk"+kind.Extension()), filepath.Join(dir, "back")
			if err := Write(t.Context(), kind, src, dst, options); err != nil {
				t.Fatal(err)
			}
			out := []string{"-q", "-d", dst, back}
			if tool == "zstd" {
				out = []string{"-q", "-d", dst, "-o", back}
			}
			run(t, tool, out...)
			if !bytes.Equal(read(t, back), read(t, src)) {
				t.Error("the disk differs")
			}
		})
	}
}

func TestOVA(t *testing.T) {
	t.Parallel()
	dst := filepath.Join(t.TempDir(), "disk.ova")
	o := options
	o.CPUs, o.MemoryMiB, o.Controller, o.Network = 4, 8192, PVSCSI, VMXNET3
	if err := Write(t.Context(), OVA, sample(t, sampleSize), dst, o); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Format != tar.FormatUSTAR || h.Mode != 0o644 || h.Uid != 0 || h.Uname != "" || !h.ModTime.Equal(o.Time) {
			t.Errorf("%+v", h)
		}
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"dinghy-0.1.0.ovf", "dinghy-0.1.0.mf", "dinghy-0.1.0.vmdk"}, names); d != "" {
		t.Error(d)
	}
	sum := func(name string) string { s := sha256.Sum256(files[name]); return hex.EncodeToString(s[:]) }
	want := fmt.Sprintf("SHA256(%s)= %s\nSHA256(%s)= %s\n", names[0], sum(names[0]), names[2], sum(names[2]))
	if d := cmp.Diff(want, string(files[names[1]])); d != "" {
		t.Error(d)
	}
	var envelope struct {
		File struct {
			Href string `xml:"href,attr"`
			Size int    `xml:"size,attr"`
		} `xml:"References>File"`
		Disk struct {
			Capacity int64 `xml:"capacity,attr"`
		} `xml:"DiskSection>Disk"`
		Items []struct {
			Type     int    `xml:"ResourceType"`
			Subtype  string `xml:"ResourceSubType"`
			Quantity int    `xml:"VirtualQuantity"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Item"`
		Config struct {
			Key   string `xml:"key,attr"`
			Value string `xml:"value,attr"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Config"`
	}
	if err := xml.Unmarshal(files[names[0]], &envelope); err != nil {
		t.Fatal(err)
	}
	if envelope.File.Href != names[2] || envelope.File.Size != len(files[names[2]]) || envelope.Disk.Capacity != sampleSize {
		t.Errorf("%+v", envelope)
	}
	if got, want := fmt.Sprint(envelope.Items), "[{3  4} {4  8192} {6 VirtualSCSI 0} {17  0} {10 VmxNet3 0}]"; got != want {
		t.Errorf("hardware %s", got)
	}
	if envelope.Config.Key != "firmware" || envelope.Config.Value != "efi" {
		t.Errorf("%+v", envelope.Config)
	}
	ovf := filepath.Join(t.TempDir(), "a.ovf")
	if err := os.WriteFile(ovf, files[names[0]], 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "xmllint", "--noout", "--nonet", ovf)
}

// The disk of the data comes second in an OVA, and the manifest covers it.
func TestOVAWithData(t *testing.T) {
	t.Parallel()
	src, dst := sample(t, sampleSize), filepath.Join(t.TempDir(), "disk.ova")
	o := options
	var err error
	if o.Data, err = OpenRaw(sample(t, 2*mib)); err != nil {
		t.Fatal(err)
	}
	defer o.Data.Close()
	if err := Write(t.Context(), OVA, src, dst, o); err != nil {
		t.Fatal(err)
	}
	archive := read(t, dst)
	files, r := map[string][]byte{}, tar.NewReader(bytes.NewReader(archive))
	var names []string
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{"dinghy-0.1.0.ovf", "dinghy-0.1.0.mf", "dinghy-0.1.0.vmdk", "dinghy-0.1.0-data.vmdk"}, names); d != "" {
		t.Fatal(d)
	}
	var envelope struct {
		Files []struct {
			ID   string `xml:"id,attr"`
			Href string `xml:"href,attr"`
			Size int    `xml:"size,attr"`
		} `xml:"References>File"`
		Disks []struct {
			ID       string `xml:"diskId,attr"`
			File     string `xml:"fileRef,attr"`
			Capacity int64  `xml:"capacity,attr"`
		} `xml:"DiskSection>Disk"`
		Items []struct {
			Type    int    `xml:"ResourceType"`
			ID      int    `xml:"InstanceID"`
			Address int    `xml:"AddressOnParent"`
			Host    string `xml:"HostResource"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Item"`
	}
	if err := xml.Unmarshal(files[names[0]], &envelope); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("{[{file1 %s %d} {file2 %s %d}] [{disk1 file1 %d} {disk2 file2 %d}] [{3 1 0 } {4 2 0 } {20 3 0 } {17 4 0 ovf:/disk/disk1} {17 6 1 ovf:/disk/disk2} {10 5 7 }]}",
		names[2], len(files[names[2]]), names[3], len(files[names[3]]), sampleSize, 2*mib)
	if d := cmp.Diff(want, fmt.Sprint(envelope)); d != "" {
		t.Error(d)
	}
	d, err := Open(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size())); err != nil || !bytes.Equal(got, read(t, src)) {
		t.Errorf("the disk of the system is another: %v", err)
	}
	if err := errors.Join(d.Check(t.Context()), d.Close()); err != nil {
		t.Error(err)
	}
	archive[bytes.Index(archive, files[names[3]])+60<<10] ^= 1 // in the padding
	if err := os.WriteFile(dst, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `"dinghy-0.1.0-data.vmdk" has SHA-256 digest`) {
		t.Errorf("the changed disk of the data is not found: %v", err)
	}
}

// A changed disk in an OVA is found.
func TestOVACheck(t *testing.T) {
	t.Parallel()
	dst := filepath.Join(t.TempDir(), "disk.ova")
	if err := Write(t.Context(), OVA, sample(t, 2*mib), dst, options); err != nil {
		t.Fatal(err)
	}
	b := read(t, dst)
	at := bytes.Index(b, []byte("KDMV")) + 60<<10 // in the padding
	b[at] ^= 1
	if err := os.WriteFile(dst, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `"dinghy-0.1.0.vmdk" has SHA-256 digest`) {
		t.Error(err)
	}
}

// The heads of the files, as text; they were checked with other tools once.
func TestGolden(t *testing.T) {
	t.Parallel()
	src := sample(t, 2*mib)
	var text strings.Builder
	for _, part := range []struct {
		kind    Kind
		at, len int // from the end, if negative
	}{{QCOW2, 0, 128}, {VMDK, 0, 1024}, {VMDK, -1536, 1536}, {VHD, -512, 512}, {VHDDynamic, 0, 2048}, {OVA, 0, 512}} {
		dst := filepath.Join(t.TempDir(), "disk")
		if err := Write(t.Context(), part.kind, src, dst, options); err != nil {
			t.Fatal(err)
		}
		b := read(t, dst)
		if part.kind == OVA { // whose descriptor is of use as text
			fmt.Fprintf(&text, "%s\n%s\n", part.kind, b[512:bytes.Index(b, []byte("</Envelope>"))])
			continue
		}
		at := (part.at + len(b)) % len(b)
		fmt.Fprintf(&text, "%s at %d of %d\n%s\n", part.kind, at, len(b), hex.Dump(b[at:at+part.len]))
	}
	golden := filepath.Join("testdata", "heads.golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(text.String()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(read(t, golden)), text.String()); d != "" {
		t.Error(d)
	}
}

// Whatever is wrong, the older file stays and nothing else is left.
func TestWriteErrors(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		kind Kind
		size int64
		o    Options
		want string
	}{
		{t.Context(), "vdi", mib, options, `image format "vdi": want one of raw, raw.zst,`},
		{t.Context(), Raw, 1000, options, "the disk has 1000 bytes, want a multiple of 512"},
		{t.Context(), Raw, 0, options, "the disk has 0 bytes"},
		{t.Context(), VHD, mib + 512, options, "Azure takes multiples of 1 MiB only"},
		{t.Context(), OVA, mib, Options{Version: "1"}, `name ""`},
		{t.Context(), OVA, mib, Options{Name: "a", Version: "<"}, `version "<"`},
		{t.Context(), VMDK, mib, Options{Name: "a\"b"}, "want letters"},
		{t.Context(), OVA, mib, Options{Name: "a", Version: "1", Time: time.Unix(-1, 0)}, "want one from 1970"},
		{t.Context(), OVA, mib, Options{Name: "a", Version: "1", MemoryMiB: 5}, "multiple of 4 MiB"},
		{t.Context(), OVA, mib, Options{Name: "a", Version: "1", Controller: "ide"}, `disk controller "ide"`},
		{t.Context(), OVA, mib, Options{Name: "a", Version: "1", Network: "ne2k"}, `network adapter "ne2k"`},
		{cancelled, QCOW2, mib, options, "context canceled"},
		{cancelled, VMDK, mib, options, "context canceled"},
		{cancelled, RawLZ4, mib, options, "context canceled"},
	} {
		src, dir := sample(t, 8*mib), t.TempDir()
		if err := os.Truncate(src, tt.size); err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(dir, "out")
		if err := os.WriteFile(dst, []byte("older"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Write(tt.ctx, tt.kind, src, dst, tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.kind, err, tt.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || string(read(t, dst)) != "older" {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// Files that are cut short are never taken for whole disks.
func TestOpenCut(t *testing.T) {
	t.Parallel()
	src := sample(t, 8*mib)
	for _, kind := range []Kind{RawZstd, RawLZ4, QCOW2, VMDK, OVA, VHD, VHDDynamic} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dst := filepath.Join(t.TempDir(), "disk")
			if err := Write(t.Context(), kind, src, dst, options); err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(dst)
			if err != nil {
				t.Fatal(err)
			}
			cut := st.Size() * 2 / 5 / 512 * 512
			if kind == RawZstd {
				cut-- // within a frame
			}
			if err := os.Truncate(dst, cut); err != nil {
				t.Fatal(err)
			}
			d, err := Open(t.Context(), dst)
			if err == nil {
				defer d.Close()
				if d.Kind == Raw { // a fixed VHD without its footer
					if kind != VHD {
						t.Error("taken for a raw disk")
					}
					return
				}
				_, err = io.Copy(io.Discard, io.NewSectionReader(d, 0, d.Size()))
			}
			if err == nil {
				t.Error("no error")
			}
			t.Log(err)
		})
	}
}

func TestDetectErrors(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                        "this file has 0 bytes",
		"x":                       "this file has 1 bytes",
		"# Disk DescriptorFile\n": "whose disk is in other files",
		"vhdxfile":                "VHDX",
		"\x1f\x8b":                "gzip",
		strings.Repeat("\x00", 257) + "ustar" + strings.Repeat("\x00", 300): "a tar archive",
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Detect(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", content, err, want)
		}
	}
	if _, err := Open(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
}
