package inspect

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image"
	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/layout"
)

var update = flag.Bool("update", false, "write the golden files")

func assemble(t testing.TB) string {
	t.Helper()
	in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "disk.img")
	if _, err := image.Assemble(t.Context(), in, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t testing.TB, path string) *format.Disk {
	t.Helper()
	d, err := format.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDisk(t *testing.T) {
	t.Parallel()
	raw := assemble(t)
	got, err := Disk(open(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	golden := filepath.Join("testdata", "disk.json")
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(text)); d != "" {
		t.Error(d)
	}
	// What is on the disk does not depend on the format of its file.
	for _, kind := range format.Kinds() {
		out := filepath.Join(t.TempDir(), "disk"+kind.Extension())
		if err := format.Write(t.Context(), kind, raw, out, format.Options{Name: "testos", Version: "0.1.0", Seed: "s"}); err != nil {
			t.Fatal(err)
		}
		r, findings, err := Verify(t.Context(), open(t, out))
		if err != nil || len(findings) > 0 {
			t.Errorf("%s: %v, %v", kind, findings, err)
			continue
		}
		if r.Format != kind || len(r.Partitions) != 7 || r.Slots[0].RootHash != got.Slots[0].RootHash {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}

// Whatever the plan, the disk fits together.
func TestPlans(t *testing.T) {
	t.Parallel()
	part := func(label, kind string, size int, content string) layout.Partition {
		return layout.Partition{Label: label, Type: kind, SizeMiB: size, Content: content}
	}
	for name, l := range map[string]layout.Layout{
		"bottlerocket": {Plan: layout.Bottlerocket},
		"one bank":     {Plan: layout.Bottlerocket, Slots: 1},
		"custom": {Plan: layout.Custom, DiskSizeGiB: 1, Partitions: []layout.Partition{
			part("tree", "linux-generic", 1, "hash"), part("sys", "linux-generic", 8, "root"), part("efi", "esp", 40, "esp"),
			{Label: "opt", Type: "srv", SizeMiB: 40, Filesystem: "fat"}, {Label: "var", Type: "var", Grow: true}}},
	} {
		in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
		if err != nil {
			t.Fatal(err)
		}
		in.Layout = l
		out := filepath.Join(t.TempDir(), "disk.img")
		if _, err := image.Assemble(t.Context(), in, out); err != nil {
			t.Fatal(err)
		}
		r, findings, err := Verify(t.Context(), open(t, out))
		if err != nil || len(findings) > 0 {
			t.Errorf("%s: %v, %v", name, findings, err)
			continue
		}
		if len(r.Slots) == 0 || r.Slots[0].Empty || r.Slots[0].Version != "0.1.0" || len(r.Slots) == 2 && !r.Slots[1].Empty {
			t.Errorf("%s: slots %+v", name, r.Slots)
		}
		if sgdisk, err := exec.LookPath("sgdisk"); err == nil {
			if text, err := exec.Command(sgdisk, "-v", out).CombinedOutput(); err != nil || !strings.Contains(string(text), "No problems found") {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
		}
		if name == "custom" && r.Partitions[3].Content != "fat32" {
			t.Errorf("%+v", r.Partitions[3])
		}
	}
}

// patch changes the bytes at an offset of a file.
func patch(t testing.TB, path string, off int64, change func(b []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1024)
	_, rerr := f.ReadAt(b, off)
	change(b)
	_, werr := f.WriteAt(b, off)
	if err := errors.Join(rerr, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) { b[0] ^= 1 }
	clean := assemble(t)
	report, err := Disk(open(t, clean))
	if err != nil {
		t.Fatal(err)
	}
	start := func(i int) int64 { return report.Partitions[i].Start }
	raw, err := os.ReadFile(clean)
	if err != nil {
		t.Fatal(err)
	}
	find := func(text string) int64 {
		i := strings.Index(string(raw), text)
		if i < 0 {
			t.Fatalf("%q is not on the disk", text)
		}
		return int64(i)
	}
	relabel := func(change func(t *gpt.Table)) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			table, _, err := gpt.Read(f, report.Size)
			if err != nil {
				t.Fatal(err)
			}
			change(table)
			if err := errors.Join(table.Write(f), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(off int64, change func(b []byte)) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { patch(t, path, off, change) }
	}
	for _, tt := range []struct {
		name   string
		tamper func(t *testing.T, path string)
		want   []string
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"root byte", at(start(1)+2*4096, flip), []string{"slot A: verity mismatch: data block 2 has not the digest in the hash tree"}},
		{"behind root", at(start(1)+3*4096, flip), []string{"partition 2 (root_0.1.0): byte 12288 is not zero, though the hash tree protects only the 12288 before"}},
		{"hash byte", at(start(2)+4096+10, flip), []string{"slot A: verity mismatch: data block 0 has not"}},
		{"hash padding", at(start(2)+8000, flip), []string{"slot A: verity mismatch: the root hash is "}},
		{"behind hash", at(start(2)+2*4096+5, flip), []string{"partition 3 (hash_0.1.0): byte 8197 is not zero"}},
		{"superblock", at(start(2), flip), []string{"partition 3 (hash_0.1.0): no verity superblock"}},
		{"salt", at(start(2)+88, flip), []string{"its command line has the salt 00ff, the superblock of partition 3 has 01ff", "slot A: verity mismatch: data block 0"}},
		{"behind superblock", at(start(2)+600, flip), []string{"partition 3 (hash_0.1.0): there is something behind the superblock"}},
		{"primary table", at(1024+56, flip), []string{"primary partition table: entries at sector 2: checksum is"}},
		{"backup table", at(report.Size-1024, func(b []byte) { b[512+56] ^= 1 }), []string{"backup partition table: header at sector "}},
		{"both tables", func(t *testing.T, path string) {
			patch(t, path, 512, flip)
			patch(t, path, report.Size-1024, func(b []byte) { b[512] ^= 1 })
		}, []string{"partition table: no valid GUID partition table"}},
		{"MBR", at(450, flip), []string{"protective MBR: its first partition has type 0xef"}},
		{"UKI byte", at(find("6.1.176"), flip), []string{"/EFI/Linux/testos_0.1.0+3.efi: its checksum is "}},
		{"cmdline", at(find("dm-mod.create"), flip), []string{"its checksum is ", "its command line has no dm-mod.create=", "slot A: no kernel on the EFI system partition boots its root hash"}},
		{"FAT", at(start(0)+44, func(b []byte) { copy(b, "\xff\xff\xff\x0e") }), []string{"partition 1 (esp): the EFI system partition cannot be read, or is empty: it is damaged: directory /: cluster 251658239 lies outside", "slot A: no kernel"}},
		{"root UUID", relabel(func(t *gpt.Table) { t.Entries[1].GUID[0] ^= 1 }), []string{"partition 2 (root_0.1.0): its UUID is "}},
		{"both UUIDs", relabel(func(t *gpt.Table) { t.Entries[1].GUID[0] ^= 1; t.Entries[2].GUID[0] ^= 1 }),
			[]string{"/EFI/Linux/testos_0.1.0+3.efi: it boots the root hash ", "slot A: no kernel", "slot A: verity mismatch: the root hash is "}},
		{"label", relabel(func(t *gpt.Table) { t.Entries[1].Name = "root_0.2.0" }), []string{"slot A: its partitions are labelled root_0.2.0 and hash_0.1.0, the version is 0.1.0"}},
		{"no ESP", relabel(func(t *gpt.Table) { t.Entries[0].Type = gpt.TypeVar }), []string{"partition table: there is no EFI system partition", "slot A: no kernel"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.img")
			if err := format.Write(t.Context(), format.Raw, clean, path, format.Options{}); err != nil {
				t.Fatal(err)
			}
			tt.tamper(t, path)
			_, findings, err := Verify(t.Context(), open(t, path))
			if err != nil {
				t.Fatal(err)
			}
			if len(findings) != len(tt.want) {
				t.Errorf("findings: %v\nwant %d: %q", findings, len(tt.want), tt.want)
			}
			for i := range min(len(findings), len(tt.want)) {
				if !strings.Contains(findings[i].String(), tt.want[i]) {
					t.Errorf("got  %s\nwant %s", findings[i], tt.want[i])
				}
			}
		})
	}
}

func TestKernelName(t *testing.T) {
	t.Parallel()
	n := func(i int) *int { return &i }
	for base, want := range map[string]Kernel{
		"os_1.2.3":         {Name: "os", Version: "1.2.3"},
		"os_1.2.3+3":       {Name: "os", Version: "1.2.3", TriesLeft: n(3)},
		"os_1.2.3+0-3":     {Name: "os", Version: "1.2.3", TriesLeft: n(0), TriesDone: n(3)},
		"os-x+y":           {Name: "os-x+y"},
		"os_1+2-":          {Name: "os", Version: "1+2-"},
		"a\nb":             {Name: "a\nb"},
		"":                 {},
		"os_1+99999999999": {Name: "os", Version: "1+99999999999"},
	} {
		var got Kernel
		got.parseName(base)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(Kernel{}), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".verity" }, cmp.Ignore())); d != "" {
			t.Errorf("%q: %s", base, d)
		}
	}
}

func TestCmdline(t *testing.T) {
	t.Parallel()
	const id = "PARTUUID=00000000-0000-0000-0000-000000000001"
	hash := strings.Repeat("ab", 32)
	for _, tt := range []struct{ line, want string }{
		{`dm-mod.create="root,,,ro,0 8 verity 1 ` + id + ` /dev/sda 4096 4096 1 1 sha256 ` + hash + ` -"`, `"/dev/sda" is not the UUID of a partition`},
		{`x dm-mod.create="root,,,ro,0 8 verity 1 ` + id + `"`, "too few fields"},
		{`dm-mod.create="root,,,ro,0 8 verity 1 ` + id + " " + id + ` 4096 4096 x 1 sha256 ` + hash + ` -"`, "no number of blocks"},
		{`dm-mod.create="root,,,ro,0 8 verity 1 ` + id + " " + id + ` 4096 4096 1 1 sha1 ` + hash + ` -"`, "no root hash"},
		{`dm-mod.create="root,,,ro,0 8 verity 1 ` + id + " " + id + ` 4096 4096 1 1 sha256 ` + hash + ` xx"`, "no salt"},
	} {
		if _, err := parseCmdline(tt.line); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.line, err)
		}
	}
	v, err := parseCmdline(`quiet dm-mod.create="root,,,ro,0 8 verity 1 ` + id + " " + id + ` 4096 4096 1 1 sha256 ` + hash + ` 0aff 1 restart_on_corruption" x`)
	if err != nil || v.blocks != 1 || v.root.String() != hash || len(v.salt) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	for _, line := range []string{"", "root=/dev/sda", `dm-mod.create="x,,,ro,0 8 linear /dev/sda 0"`} {
		if v, err := parseCmdline(line); v != nil || err != nil {
			t.Errorf("%q: %+v, %v", line, v, err)
		}
	}
}

func TestPackageChanges(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		dir := t.TempDir()
		if text != "" {
			if err := os.WriteFile(filepath.Join(dir, InventoryFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(dir, "disk.img")
	}
	a := write(`{"packages":[{"name":"bash","version":"5","release":"1","size":10},{"name":"old","version":"1","release":"1","size":5},{"name":"same","version":"1","release":"1","size":7},{"name":"vim","version":"9","release":"1","epoch":2,"size":100}]}`)
	b := write(`{"packages":[{"name":"vim","version":"9","release":"2","epoch":2,"size":300},{"name":"same","version":"1","release":"1","size":7},{"name":"bash","version":"5","release":"1","size":11},{"name":"new","version":"3","release":"1","size":50}]}`)
	got, ok, err := PackageChanges(a, b)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := []PackageChange{{"vim", "2:9-1", "2:9-2", 100, 300}, {"new", "", "3-1", 0, 50}, {"old", "1-1", "", 5, 0}, {"bash", "5-1", "5-1", 10, 11}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, ok, err := PackageChanges(a, write("")); got != nil || ok || err != nil {
		t.Error(got, ok, err)
	}
	if _, _, err := PackageChanges(a, write("{")); err == nil || !strings.Contains(err.Error(), "inventory.json") {
		t.Error(err)
	}
}

// Whatever an EFI program and its name are, they are read or refused.
func FuzzKernel(f *testing.F) {
	f.Add("EFI/Linux/a_1+2-3.efi", imagetest.EFI(".cmdline", `dm-mod.create="root,,,ro,0 8 verity 1 PARTUUID="`))
	f.Add("EFI/Linux/.efi", imagetest.EFI(".osrel", "A=\"\\\"\nB='"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		k := ReadKernel(name, data)
		if k.Path != name || k.Error == "" && k.verity != nil && k.RootHash == "" {
			t.Errorf("%+v", k)
		}
		_, err := certificateTable(data)
		if sumErr := checkSum(data); err != nil && sumErr == nil {
			t.Errorf("%v, but its checksum is right", err)
		}
		file := File{data: data}
		file.signers()
	})
}
