package image

import (
	"bytes"
	"context"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/ext4"
	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/image/uki"
	"slipway/internal/image/verity"
)

// efi makes the smallest EFI program that has room for more sections: one
// section with the given content.
func efi(name string, content string) []byte {
	const coff, opt, table, headers = 64, 88, 328, 1024
	b := make([]byte, headers+512)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[coff+6:], 1)
	le.PutUint16(b[coff+20:], table-opt)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+32:], 512)
	le.PutUint32(b[opt+36:], 512)
	le.PutUint32(b[opt+60:], headers)
	le.PutUint32(b[opt+108:], 16)
	copy(b[table:], name)
	le.PutUint32(b[table+8:], uint32(len(content)))
	le.PutUint32(b[table+12:], 4096)
	le.PutUint32(b[table+16:], 512)
	le.PutUint32(b[table+20:], headers)
	copy(b[headers:], content)
	return b
}

// inputs writes a set of parts: a root of three blocks, the middle one zero.
func inputs(t *testing.T) Inputs {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	root := make([]byte, 3*verity.BlockSize)
	copy(root, "first")
	copy(root[2*verity.BlockSize:], "third")
	rootFile := write("root.erofs", root)
	hashFile := filepath.Join(dir, "root.verity")
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("veritysetup is not installed")
	}
	out, err := exec.Command(tool, "format", "--salt=00ff", "--uuid=11111111-2222-8333-8444-555555555555", rootFile, hashFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, after, _ := strings.Cut(string(out), "Root hash:")
	hash, err := verity.ParseRootHash(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return Inputs{
		Arch: X86_64, Layout: Layout{ESPSizeMiB: 40, RootSizeMiB: 8, HashSizeMiB: 1, DataSizeMiB: 4, Slots: 2},
		Name: "dinghy-qemu-dev", Version: "0.1.0", Tries: 3,
		Root: rootFile, Hash: hashFile, RootHash: hash, RootType: "erofs",
		Kernel: write("bzImage", efi(".text", "kernel")), OSRelease: write("os-release", []byte("ID=dinghy\n")), Uname: "6.1.176",
		Stub: write("stub", efi(".sdmagic", "systemd-stub")), BootLoader: write("loader", []byte("systemd-boot")),
		KernelParameters: []string{"console=ttyS0"}, OnCorruption: RestartOnCorruption, Time: time.Unix(1700000000, 0),
	}
}

func TestAssemble(t *testing.T) {
	in := inputs(t)
	out := filepath.Join(t.TempDir(), "disk.img")
	report, err := Assemble(t.Context(), in, out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != report.Size || report.Size != (1+40+2*9+32+4+1)*mib {
		t.Errorf("size %d, reported %d (%v)", st.Size(), report.Size, err)
	}
	if report.Allocated > 4*mib {
		t.Errorf("%d bytes are allocated: not sparse", report.Allocated)
	}
	table, damage, err := gpt.Read(f, st.Size())
	if err != nil || damage != (gpt.Damage{}) {
		t.Fatal(damage, err)
	}
	var labels []string
	for _, e := range table.Entries {
		labels = append(labels, e.Name)
	}
	if d := cmp.Diff([]string{"esp", "root_0.1.0", "hash_0.1.0", "_empty", "_empty", "private", "data"}, labels); d != "" {
		t.Error(d)
	}
	section := func(i int) *io.SectionReader {
		return io.NewSectionReader(f, table.Entries[i].Start(), table.Entries[i].Size())
	}
	// What is on the disk verifies, with the hash that the GUIDs spell.
	guids := append(table.Entries[1].GUID[:], table.Entries[2].GUID[:]...)
	if _, err := verity.Verify(t.Context(), section(1), section(2), verity.RootHash(guids)); err != nil {
		t.Error(err)
	}
	files, err := fat.Read(section(0))
	if err != nil || len(files) != 3 {
		t.Fatal(len(files), err)
	}
	if files[0].Path != "EFI/BOOT/BOOTX64.EFI" || string(files[0].Data) != "systemd-boot" ||
		files[1].Path != "EFI/Linux/dinghy-qemu-dev_0.1.0+3.efi" || files[2].Path != "loader/loader.conf" {
		t.Errorf("%s %s %s", files[0].Path, files[1].Path, files[2].Path)
	}
	sections, err := uki.Inspect(bytes.NewReader(files[1].Data))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, s := range sections {
		found[s.Name] = string(s.Data)
	}
	if found[".cmdline"] != report.Cmdline || found[".osrel"] != "ID=dinghy\n" || found[".uname"] != "6.1.176" || !strings.HasPrefix(found[".linux"], "MZ") {
		t.Errorf("%q", found)
	}
	private, err := ext4.List(section(5))
	if err != nil || len(private) != 0 {
		t.Errorf("private: %v, %v", private, err)
	}
	alone := filepath.Join(t.TempDir(), "private")
	content, err := io.ReadAll(section(5))
	if err := errors.Join(err, os.WriteFile(alone, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("e2fsck", "-fn", alone).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if path, err := exec.LookPath("sgdisk"); err == nil {
		if text, err := exec.Command(path, "-v", out).CombinedOutput(); err != nil || !strings.Contains(string(text), "No problems found") {
			t.Errorf("%v\n%s", err, text)
		}
	}
}

func TestAssembleReproducible(t *testing.T) {
	var disks [2][]byte
	for i := range disks {
		out := filepath.Join(t.TempDir(), "disk.img")
		if _, err := Assemble(t.Context(), inputs(t), out); err != nil {
			t.Fatal(err)
		}
		var err error
		if disks[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("the same parts made different disks")
	}
}

// With the plan bottlerocket two kernels of 12 MiB fit at the smallest os-size-gib.
func TestAssembleBottlerocket(t *testing.T) {
	in := inputs(t)
	in.Layout = Layout{Plan: "bottlerocket", ESPSizeMiB: 29}
	truncate(t, in.Kernel, 12*mib)
	if _, err := Assemble(t.Context(), in, filepath.Join(t.TempDir(), "disk.img")); err != nil {
		t.Error(err)
	}
}

// Whatever goes wrong, the older disk stays and nothing else is left.
func TestAssembleErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, in *Inputs)
		want   string
	}{
		{"no size", func(t *testing.T, in *Inputs) { in.Layout.HashSizeMiB = -1 }, "partition hash_0.1.0: its size is -1 MiB: image-layout.hash-size-mib"},
		{"root changed", func(t *testing.T, in *Inputs) { patch(t, in.Root, verity.BlockSize) }, "data block 1 has not the digest"},
		{"root longer", func(t *testing.T, in *Inputs) { truncate(t, in.Root, 4*verity.BlockSize) }, "has 16384 bytes, its hash tree is for 12288"},
		{"other hash", func(t *testing.T, in *Inputs) { in.RootHash[0]++ }, "the root hash is"},
		{"no hash tree", func(t *testing.T, in *Inputs) { in.Hash = in.Root }, "no verity superblock"},
		{"no loader", func(t *testing.T, in *Inputs) { in.BootLoader += "x" }, "boot loader: open"},
		{"kernel for ESP", func(t *testing.T, in *Inputs) { in.Layout.ESPSizeMiB = 35; truncate(t, in.Kernel, 50*mib) }, "the EFI file system with the kernel of an update has 101.6 MiB, partition esp holds 35 MiB: raise image-layout.esp-size-mib to at least 102; the largest in it: EFI/Linux/dinghy-qemu-dev_0.1.0+3.efi 50.0 MiB, EFI/Linux/the next version.efi 50.0 MiB, loader/loader.conf 0.0 MiB, EFI/BOOT/BOOTX64.EFI 0.0 MiB"},
		{"kernel for ESP, no updates", func(t *testing.T, in *Inputs) {
			in.Layout.ESPSizeMiB, in.Layout.Slots = 35, 1
			truncate(t, in.Kernel, 50*mib)
		}, "the EFI file system has 50.8 MiB, partition esp holds 35 MiB: raise image-layout.esp-size-mib to at least 51"},
		{"kernel for the plan bottlerocket", func(t *testing.T, in *Inputs) {
			in.Layout = Layout{Plan: "bottlerocket"}
			truncate(t, in.Kernel, 9*mib)
		}, "partition EFI-SYSTEM holds 5 MiB: raise image-layout.esp-size-mib to at least 19"},
		{"ext4 root", func(t *testing.T, in *Inputs) {
			in.Layout.RootSizeMiB = 1
			rootOf(t, in, "mke2fs", "-q", "-t", "ext4", "-d")
		},
			"partition root_0.1.0 holds 1 MiB: raise image-layout.root-size-mib to at least 8; the largest in it: usr/lib/large 2.0 MiB, usr/small 0.0 MiB"},
		{"root", func(t *testing.T, in *Inputs) { in.Layout.RootSizeMiB = 1; rootOf(t, in, "mkfs.erofs", "--quiet") },
			"partition root_0.1.0 holds 1 MiB: raise image-layout.root-size-mib to at least 3; the largest in it: usr/lib/large 2.0 MiB, usr/small 0.0 MiB"},
		{"data", func(t *testing.T, in *Inputs) {
			in.Data = filepath.Join(filepath.Dir(in.Root), "data")
			truncate(t, in.Data, 5*mib+1)
		}, "has 5.0 MiB, partition data holds 4 MiB: raise image-layout.data-size-mib to at least 6"},
		{"version", func(t *testing.T, in *Inputs) { in.Version = "1+2" }, `version of the image "1+2"`},
		{"architecture", func(t *testing.T, in *Inputs) { in.Arch = "mips" }, "x86_64 and aarch64"},
		{"parameter", func(t *testing.T, in *Inputs) { in.KernelParameters = []string{"rw"} }, "set by the image build itself"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, dir := inputs(t), t.TempDir()
			tt.change(t, &in)
			out := filepath.Join(dir, "disk.img")
			if err := os.WriteFile(out, []byte("older"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Assemble(t.Context(), in, out)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %q", err, tt.want)
			}
			if kept, err := os.ReadFile(out); err != nil || string(kept) != "older" {
				t.Errorf("the older disk is gone: %.20q, %v", kept, err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// rootOf makes the root a file system of some files, with a program that takes
// the folder and the file in the order of mke2fs or of mkfs.erofs.
func rootOf(t *testing.T, in *Inputs, mkfs ...string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	truncate(t, filepath.Join(dir, "usr/lib/large"), 2*mib)
	truncate(t, filepath.Join(dir, "usr/small"), 100)
	mkfs = append(mkfs, in.Root, dir)
	if mkfs[0] == "mke2fs" {
		truncate(t, in.Root, 8*mib)
		mkfs[len(mkfs)-1], mkfs[len(mkfs)-2] = in.Root, dir
	}
	for _, args := range [][]string{
		mkfs,
		{"veritysetup", "format", "--salt=00ff", "--root-hash-file=" + in.Root + ".hash", in.Root, in.Hash},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip(args[0] + " is not installed")
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(in.Root + ".hash")
	if err != nil {
		t.Fatal(err)
	}
	if in.RootHash, err = verity.ParseRootHash(strings.TrimSpace(string(text))); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func patch(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, werr := f.WriteAt([]byte{1}, off)
	if err := errors.Join(werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestWriteCancelled(t *testing.T) {
	dir := t.TempDir()
	content := filepath.Join(dir, "content")
	truncate(t, content, mib)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Plan{Partitions: []Partition{{Label: "data", Type: gpt.TypeVar, SizeMiB: 1, File: content}}}
	_, _, err := p.Write(ctx, filepath.Join(dir, "disk"))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestPlanLayout(t *testing.T) {
	layout := Layout{ESPSizeMiB: 64, RootSizeMiB: 100, HashSizeMiB: 2, DataSizeMiB: 10, Slots: 1, DiskSizeGiB: 1}
	p, err := NewPlan(AArch64, layout, Contents{Version: "1.2.3", RootHash: verity.RootHash{0: 0xee, 31: 0x44}})
	if err != nil {
		t.Fatal(err)
	}
	table, err := p.Table()
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name, Type, GUID string
		StartMiB, MiB    int64
		ReadOnly         bool
	}
	var got []row
	for _, e := range table.Entries {
		got = append(got, row{e.Name, e.Type.String(), e.GUID.String(), e.Start() / mib, e.Size() / mib, e.Attributes == gpt.AttributeReadOnly})
	}
	// The derived GUIDs were computed apart from this code; a change of them
	// changes every image.
	want := []row{
		{"esp", gpt.TypeESP.String(), "b21feb88-89fa-8edd-af47-6439a878ec34", 1, 64, false},
		{"root_1.2.3", gpt.TypeRootARM64.String(), "ee000000-0000-0000-0000-000000000000", 65, 100, true},
		{"hash_1.2.3", gpt.TypeRootVerityARM64.String(), "00000000-0000-0000-0000-000000000044", 165, 2, true},
		{"private", "0fc63daf-8483-4772-8e79-3d69d8477de4", "f2301fa3-0cc4-86f2-855c-b15a23e94cb3", 167, 32, false},
		{"data", gpt.TypeVar.String(), "f6303c12-100c-8827-af99-d9c9f5f7d746", 199, 10, false},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if table.Sectors != 1<<30/gpt.SectorSize {
		t.Errorf("%d sectors", table.Sectors)
	}
}

func TestPlanErrors(t *testing.T) {
	layout := Layout{ESPSizeMiB: 64, RootSizeMiB: 1000, HashSizeMiB: 2, DataSizeMiB: 10, Slots: 2, DiskSizeGiB: 1}
	_, err := NewPlan(X86_64, layout, Contents{Version: "1", RootHash: verity.RootHash{1, 31: 2}})
	for _, want := range []string{
		"its partitions need 2112 (raise image-layout.disk-size-gib to at least 3",
		`partition "hash_1" has 2 MiB, the hash tree of a root of 1000 MiB takes 7.9 (raise image-layout.hash-size-mib to at least 8)`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	layout.Slots = 3
	if _, err := NewPlan(X86_64, layout, Contents{}); err == nil || !strings.Contains(err.Error(), "image-layout.slots is 3") {
		t.Error(err)
	}
}

func TestCmdline(t *testing.T) {
	hash, err := verity.ParseRootHash("ee49a4cdb519f4c9b5b2f5508101e614cd4f91aac0a2987c0190b2cbfb7b5744")
	if err != nil {
		t.Fatal(err)
	}
	sb := verity.Superblock{DataBlocks: 1217, Salt: []byte{0xc5, 0x34}}
	const (
		head = "console=ttyS0 a=\"b c\" root=/dev/dm-0 rootfstype=erofs ro rootwait dm-mod.waitfor=PARTUUID=ee49a4cd-b519-f4c9-b5b2-f5508101e614,PARTUUID=cd4f91aa-c0a2-987c-0190-b2cbfb7b5744 "
		tab  = "dm-mod.create=\"root,,,ro,0 9736 verity 1 PARTUUID=ee49a4cd-b519-f4c9-b5b2-f5508101e614 PARTUUID=cd4f91aa-c0a2-987c-0190-b2cbfb7b5744 4096 4096 1217 1 sha256 ee49a4cdb519f4c9b5b2f5508101e614cd4f91aac0a2987c0190b2cbfb7b5744 "
	)
	for _, tt := range []struct {
		mode Corruption
		salt []byte
		tail string
	}{
		{RestartOnCorruption, sb.Salt, "c534 1 restart_on_corruption\""},
		{PanicOnCorruption, sb.Salt, "c534 1 panic_on_corruption\""},
		{ErrorOnCorruption, nil, "-\""},
	} {
		sb.Salt = tt.salt
		got, err := Cmdline([]string{"console=ttyS0", `a="b c"`}, "erofs", hash, sb, tt.mode)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(head+tab+tt.tail, got); d != "" {
			t.Error(d)
		}
	}
	for want, p := range map[string]string{
		`"\"ro\"" is set by`: `"ro"`, "empty": "", "ends with a space": "a ", "printable": "ü", "open quote": `a="b`, "hide": "--",
		"set by the image build itself": "root=/dev/sda", "shorten kernel-parameters": "a=" + strings.Repeat("x", 1700),
	} {
		if _, err := Cmdline([]string{p}, "erofs", hash, sb, RestartOnCorruption); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", p, err, want)
		}
	}
	if _, err := Cmdline(nil, "erofs", hash, sb, "ignore_corruption"); err == nil {
		t.Error("mode accepted")
	}
}

func TestCopySparse(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 3*4096 + 7, mib, mib + 5, 2*mib + 4096*3} {
		data := make([]byte, size)
		for i := 0; i < size; i += 3 * 4096 {
			data[i] = 1
		}
		if size > 0 {
			data[size-1] = 9
		}
		got := make(memory, size)
		if err := copySparse(t.Context(), got, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes differ", size)
		}
	}
}

type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }
