package fat

import (
	"bytes"
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
	for _, size := range []int64{MinSize, 64<<20 + 512, 300 << 20, 9 << 30} {
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
	for _, size := range []int64{MinSize, 128 << 20, 300 << 20} {
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
	f := image(t, volume(), 64<<20)
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

func TestReproducible(t *testing.T) {
	a, b := image(t, volume(), 64<<20), image(t, volume(), 64<<20)
	other := volume()
	other.Files[0], other.Files[3] = other.Files[3], other.Files[0] // the order of files is of no account
	c := image(t, other, 64<<20)
	read := func(f *os.File) []byte {
		data, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<20))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if first := read(a); !bytes.Equal(first, read(b)) || !bytes.Equal(first, read(c)) {
		t.Error("the same input made different volumes")
	}
}

// Need is enough, and not much more than enough.
func TestNeed(t *testing.T) {
	v := volume()
	v.Files[0].Data = make([]byte, 40<<20)
	need, err := v.Need(MinSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Write(discard{}, (need+sectorSize-1)/sectorSize*sectorSize); err != nil {
		t.Error(err)
	}
	if err := v.Write(discard{}, need-8*sectorSize); !errors.Is(err, ErrTooSmall) {
		t.Errorf("%d bytes less: %v", 8*sectorSize, err)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		size   int64
		change func(*Volume)
		want   string
	}{
		{"small", MinSize - 1, func(*Volume) {}, "at least 34 MiB"},
		{"large", 2<<40 + 512, func(*Volume) {}, "at most 2 TiB"},
		{"full", MinSize, func(v *Volume) { v.Files[0].Data = make([]byte, MinSize) }, "the files need"},
		{"label", MinSize, func(v *Volume) { v.Label = "esp" }, "volume label"},
		{"time", MinSize, func(v *Volume) { v.Time = time.Unix(0, 0) }, "1980 to 2107"},
		{"twice", MinSize, func(v *Volume) { v.Files[1].Path = "efi/boot/bootx64.efi" }, "two entries"},
		{"file and directory", MinSize, func(v *Volume) { v.Files[1].Path = "EFI/BOOT" }, "two entries"},
		{"below a file", MinSize, func(v *Volume) { v.Files[1].Path = "EFI/BOOT/BOOTX64.EFI/x" }, "two entries"},
		{"character", MinSize, func(v *Volume) { v.Files[1].Path = "a:b" }, "does not allow"},
		{"dot", MinSize, func(v *Volume) { v.Files[1].Path = "a." }, "ends with a dot"},
		{"length", MinSize, func(v *Volume) { v.Files[1].Path = strings.Repeat("x", 256) }, "longer than 255"},
		{"empty", MinSize, func(v *Volume) { v.Files[1].Path = "" }, "not the path of a file"},
		{"directory", MinSize, func(v *Volume) { v.Files[1].Path = "x/" }, "not the path of a file"},
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
	f.Add([]byte{}, []byte{})
	v := Volume{Time: time.Unix(1700000000, 0), Files: []File{{Path: "EFI/BOOT/a long name.efi", Data: []byte("x")}}}
	m := make(memory, 2<<20)
	if err := v.Write(m, MinSize); err != nil {
		f.Fatal(err)
	}
	g, err := geometryFor(MinSize)
	if err != nil {
		f.Fatal(err)
	}
	data := g.sectorOf(rootCluster) * sectorSize
	f.Add([]byte(m[:90]), []byte(m[data:data+4*sectorSize]))
	f.Fuzz(func(t *testing.T, boot, dirs []byte) {
		d := make([]byte, len(m))
		copy(d, m)
		copy(d, boot)
		copy(d[data:], dirs)
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
		v.Label = label
		first, second := make(memory, MinSize), make(memory, MinSize)
		if err := v.Write(first, MinSize); err != nil {
			t.Fatal(err)
		}
		got, err := ReadVolume(bytes.NewReader(first))
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != v.ID || got.Label != v.Label || !got.Time.Equal(v.Time) {
			t.Errorf("%x %q %s", got.ID, got.Label, got.Time)
		}
		if err := got.Write(second, MinSize); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Error("the volume is another one")
		}
	}
}
