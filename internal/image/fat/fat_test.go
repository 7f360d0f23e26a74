package fat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func volume() *Volume {
	return &Volume{
		ID: 0x1234abcd, Label: "ESP", Time: time.Unix(1700000000, 0),
		Files: []File{
			{Path: "/EFI/BOOT/BOOTX64.EFI", Data: bytes.Repeat([]byte("boot"), 1000)},
			{Path: "/EFI/Linux/dinghy-qemu-dev_0.1.0+3.efi", Data: bytes.Repeat([]byte("kernel"), 100000)},
			{Path: "/EFI/Linux/dinghy-qemu-dev_0.2.0+3.efi", Data: []byte("second of a similar name")},
			{Path: "/EFI/Linux/thirteen.char", Data: []byte("a name that fills one slot")},
			{Path: "/loader/empty", Data: nil},
			{Path: "/loader/größe 😀.txt", Data: []byte("unicode")},
			{Path: "/loader/loader.conf", Data: []byte("timeout 0\neditor no\n")},
		},
	}
}

func image(t *testing.T, v *Volume, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := v.Write(f, size); err != nil {
		t.Fatal(err)
	}
	return f
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int64{minSize, 5 << 20, 29 << 20, minSize32, 64<<20 + 512, 300 << 20, 9 << 30} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			v := volume()
			got, err := Read(image(t, v, size))
			if err != nil {
				t.Fatal(err)
			}
			want := volume().Files
			for i := range want {
				want[i].Path = want[i].Path[1:]
			}
			if d := gocmp.Diff(want, got, gocmp.Comparer(bytes.Equal)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFsckAccepts(t *testing.T) {
	v := volume()
	// A directory of more than one cluster.
	for i := range 100 {
		v.Files = append(v.Files, File{Path: fmt.Sprintf("many/file-number-%03d.text", i), Data: []byte{byte(i)}})
	}
	for _, size := range []int64{minSize, 8400 * sectorSize, 5 << 20, 29 << 20, minSize32 - sectorSize, minSize32, 128 << 20, 300 << 20} {
		out := run(t, "fsck.fat", "-n", "-v", image(t, v, size).Name())
		for _, bad := range []string{"Fixing", "Reclaim", "differ", "should be", "wrong", "Wrong", "rror"} {
			if strings.Contains(out, bad) {
				t.Errorf("%d bytes: fsck.fat finds fault (%q):\n%s", size, bad, out)
			}
		}
		if !strings.Contains(out, "113 files") {
			t.Errorf("%d bytes: not 113 files and directories:\n%s", size, out)
		}
	}
}

func TestMtoolsReads(t *testing.T) {
	for _, size := range []int64{2 << 20, 5 << 20, 64 << 20} {
		f := image(t, volume(), size)
		list := run(t, "mdir", "-i", f.Name(), "-/", "::/")
		for _, want := range []string{"is ESP", "1234-ABCD", "DINGHY~1 EFI", "dinghy-qemu-dev_0.2.0+3.efi", "2023-11-14  22:13"} {
			if !strings.Contains(list, want) {
				t.Errorf("no %q in\n%s", want, list)
			}
		}
		if got := run(t, "mtype", "-i", f.Name(), "::/LOADER/loader.conf"); got != "timeout 0\neditor no\n" {
			t.Errorf("loader.conf is %q", got)
		}
	}
}

// The bytes of volumes are part of images, which must stay the same.
func TestReproducible(t *testing.T) {
	for size, want := range map[int64]string{
		2 << 20:      "5c2a1fb689d8896af28445f6749e0ad5401a89bf037d13b55f5254b86ead30ed",
		5 << 20:      "54f25831f9168e8f9bf4eb5cd536a2cef2552ac4edd9f41e4a98d7d59ae41fac",
		29 << 20:     "5bb61b580cb20945d3ca8eb27fc5a42b26870a49a1065ea5736f4a69445d605e",
		minSize32:    "6d632482571c9716904b57d9335868881dd3b77c913ed34c462b1d27d0bc7fa5",
		64<<20 + 512: "461bbb747b007c7c7ae4eb9509634fddc463e82fbd01946d30d2fa31ee493e48",
		128 << 20:    "5bbc45d7149a1e3838b05ed333f4f9576b1980d5f09997c9b1250f735f347191",
		300 << 20:    "b069897c70a4e14f8c3be589df21dacf9ccf11005b0a12d8aafa9e845ddcf57a",
	} {
		v := volume()
		v.Files[0], v.Files[3] = v.Files[3], v.Files[0] // the order of files is of no account
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(image(t, v, size), 0, size)); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("%d bytes: another volume, SHA-256 %s", size, got)
		}
	}
}

// Drivers tell FAT12, FAT16 and FAT32 apart by the number of clusters, and some
// count wrong by a few; the tables have room for all.
func TestGeometry(t *testing.T) {
	for size := int64(minSize); size < 600<<20; size += 64<<10 + 512 {
		g, err := geometryFor(size)
		if err != nil {
			t.Fatal(err)
		}
		const margin = 16
		ranges := map[uint32][2]uint32{12: {margin, minClusters16 - margin}, 16: {minClusters16 + margin, minClusters32 - margin}, 32: {minClusters32 + margin, maxClusters}}
		if r := ranges[g.bits]; g.clusters < r[0] || g.clusters >= r[1] {
			t.Errorf("%d bytes: FAT%d of %d clusters", size, g.bits, g.clusters)
		}
		if int64(g.fatSectors)*sectorSize*8 < int64(g.clusters+firstCluster)*int64(g.bits) {
			t.Errorf("%d bytes: tables of %d sectors for %d clusters", size, g.fatSectors, g.clusters)
		}
		if end := g.sectorOf(g.clusters + firstCluster); end > int64(g.sectors) {
			t.Errorf("%d bytes: %d sectors, clusters to %d", size, g.sectors, end)
		}
	}
}

// Need is enough, and not much more than enough.
func TestNeed(t *testing.T) {
	for _, content := range []int64{100 << 10, 3 << 20, 8 << 20, 20 << 20, 33 << 20, 40 << 20, 400 << 20} {
		v := volume()
		v.Files[0].Data = make([]byte, content)
		for _, size := range []int64{minSize, 5 << 20, minSize32, 512 << 20} {
			need, err := v.Need(size)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Write(discard{}, need); err != nil {
				t.Errorf("%d bytes of %d: %v", content, size, err)
			}
			// tables and clusters that are not full
			if spare := need - content; need > size && spare > 1<<20+content/64 {
				t.Errorf("%d bytes of %d need %d", content, size, need)
			}
			if less := need - 16*sectorSize; need > size && less > size {
				if err := v.Write(discard{}, less); !errors.Is(err, ErrTooSmall) {
					t.Errorf("%d bytes of %d fit %d: %v", content, size, less, err)
				}
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		size   int64
		change func(*Volume)
		want   string
	}{
		{"small", minSize - 1, func(*Volume) {}, "at least 1 MiB"},
		{"many in the root", minSize, func(v *Volume) {
			for i := range 300 {
				v.Files = append(v.Files, File{Path: fmt.Sprintf("file %d", i)})
			}
		}, "the root directory has 604 entries, that of a volume below 34 MiB has room for 512"},
		{"large", 2<<40 + 512, func(*Volume) {}, "at most 2 TiB"},
		{"full", minSize32, func(v *Volume) { v.Files[0].Data = make([]byte, minSize32) }, "the files need"},
		{"label", minSize32, func(v *Volume) { v.Label = "esp" }, "volume label"},
		{"time", minSize32, func(v *Volume) { v.Time = time.Unix(0, 0) }, "1980 to 2107"},
		{"twice", minSize32, func(v *Volume) { v.Files[1].Path = "efi/boot/bootx64.efi" }, "two entries"},
		{"file and directory", minSize32, func(v *Volume) { v.Files[1].Path = "EFI/BOOT" }, "two entries"},
		{"below a file", minSize32, func(v *Volume) { v.Files[1].Path = "EFI/BOOT/BOOTX64.EFI/x" }, "two entries"},
		{"character", minSize32, func(v *Volume) { v.Files[1].Path = "a:b" }, "does not allow"},
		{"dot", minSize32, func(v *Volume) { v.Files[1].Path = "a." }, "ends with a dot"},
		{"length", minSize32, func(v *Volume) { v.Files[1].Path = strings.Repeat("x", 256) }, "longer than 255"},
		{"empty", minSize32, func(v *Volume) { v.Files[1].Path = "" }, "not the path of a file"},
		{"directory", minSize32, func(v *Volume) { v.Files[1].Path = "x/" }, "not the path of a file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := volume()
			tt.change(v)
			err := v.Write(discard{}, tt.size)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if (tt.name == "small" || tt.name == "full") && !errors.Is(err, ErrTooSmall) {
				t.Error("not ErrTooSmall")
			}
		})
	}
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func FuzzRead(f *testing.F) {
	f.Add(int64(minSize), []byte{}, []byte{}, []byte{})
	v := Volume{Time: time.Unix(1700000000, 0), Files: []File{{Path: "EFI/BOOT/a long name.efi", Data: []byte("x")}}}
	volumes := map[int64]memory{}
	for _, size := range []int64{minSize, 5 << 20, minSize32} {
		m := make(memory, min(size, 2<<20))
		if err := v.Write(m, size); err != nil {
			f.Fatal(err)
		}
		g, err := geometryFor(size)
		if err != nil {
			f.Fatal(err)
		}
		table, dirs := g.reserved()*sectorSize, (g.before()+copies*int64(g.fatSectors))*sectorSize
		f.Add(size, []byte(m[:90]), []byte(m[table:table+16]), []byte(m[dirs:dirs+4*sectorSize]))
		volumes[size] = m
	}
	f.Fuzz(func(t *testing.T, size int64, boot, table, dirs []byte) {
		m := volumes[size]
		if m == nil {
			return
		}
		g, err := geometryFor(size)
		if err != nil {
			t.Fatal(err)
		}
		d := make(memory, len(m))
		copy(d, m)
		copy(d, boot)
		copy(d[g.reserved()*sectorSize:], table)
		copy(d[(g.before()+copies*int64(g.fatSectors))*sectorSize:], dirs)
		_, _ = Read(bytes.NewReader(d))
	})
}

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// Read and written again, a volume has the same bytes.
func TestReadVolume(t *testing.T) {
	t.Parallel()
	v := &Volume{ID: 0x1234abcd, Label: "ESP", Time: time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC), Files: []File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: []byte("loader")}, {Path: "EFI/Linux/a long name_1+3.efi", Data: bytes.Repeat([]byte("kernel"), 1000)}, {Path: "loader/loader.conf", Data: []byte("x\n")},
	}}
	for _, label := range []string{"ESP", ""} {
		for _, size := range []int64{minSize, 5 << 20, minSize32} {
			v.Label = label
			first, second := make(memory, size), make(memory, size)
			if err := v.Write(first, size); err != nil {
				t.Fatal(err)
			}
			got, err := ReadVolume(bytes.NewReader(first))
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != v.ID || got.Label != v.Label || !got.Time.Equal(v.Time) {
				t.Errorf("%x %q %s", got.ID, got.Label, got.Time)
			}
			if err := got.Write(second, size); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, second) {
				t.Errorf("%d bytes: the volume is another one", size)
			}
		}
	}
}

// Volumes of other programs are read.
func TestReadForeign(t *testing.T) {
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "2"}, {"-F", "32"}, nil} {
		f := filepath.Join(t.TempDir(), "esp")
		run(t, "mkfs.fat", append(args, "-n", "OTHER", "-i", "1234abcd", "-C", f, "5120")...)
		r, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if v, err := ReadVolume(r); err != nil || v.ID != 0x1234abcd || v.Label != "OTHER" || len(v.Files) != 0 {
			t.Errorf("%v: %+v, %v", args, v, err)
		}
	}
}
