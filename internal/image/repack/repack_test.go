package repack

import (
	"bytes"
	"context"
	"debug/pe"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/compare"
	"slipway/internal/image"
	"slipway/internal/image/erofs"
	"slipway/internal/image/fat"
	"slipway/internal/image/format"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/inspect"
	"slipway/internal/image/uki"
)

var files = map[string]string{"etc/motd": "hello\n", "etc/ssl/bundle": strings.Repeat("certificate\n", 3000), "usr/bin/tool": "#!/bin/sh\n"}

func build(t testing.TB, kind, systemd string, signer image.SignEFI) string {
	t.Helper()
	in, err := imagetest.RootInputs(t.TempDir(), kind, "0.1.0", systemd, files)
	if err != nil {
		t.Fatal(err)
	}
	in.Sign = signer
	out := filepath.Join(t.TempDir(), "disk.img")
	if _, err := image.Assemble(t.Context(), in, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func file(path, text string) erofs.Change {
	return erofs.Change{Path: path, Content: io.NewSectionReader(strings.NewReader(text), 0, int64(len(text)))}
}

// try repacks an image.
func try(t testing.TB, path string, c Changes) (string, *Report, error) {
	t.Helper()
	d, err := format.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "new.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r, err := Write(t.Context(), d, c, out)
	return out.Name(), r, err
}

func repacked(t testing.TB, path string, c Changes) (string, *Report) {
	t.Helper()
	out, r, err := try(t, path, c)
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

// verified checks a disk and gives what is on it.
func verified(t testing.TB, path string) (*inspect.Report, string) {
	t.Helper()
	d, err := format.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, findings, err := inspect.Verify(t.Context(), d)
	if err != nil || len(findings) > 0 {
		t.Fatalf("%v %v", findings, err)
	}
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, hash := filepath.Join(dir, "root"), filepath.Join(dir, "hash")
	for name, part := range map[string]io.Reader{root: u.Root, hash: u.Hash} {
		data, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("veritysetup", "verify", root, hash, u.RootHash.String()).CombinedOutput(); err != nil {
		t.Errorf("veritysetup: %v\n%s", err, out)
	}
	if out, err := exec.Command("sgdisk", "-v", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
	unpacked := filepath.Join(dir, "files")
	unpack := [][]string{{"fsck.erofs", "--extract=" + unpacked, root}}
	if r.Partitions[1].Content == "ext4" {
		unpack = [][]string{{"e2fsck", "-fn", root}, {"mkdir", unpacked}, {"debugfs", "-R", "rdump / " + unpacked, root}}
	}
	for _, args := range unpack {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	return r, unpacked
}

func TestFiles(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"erofs", "ext4"} {
		t.Run(kind, func(t *testing.T) { testFiles(t, kind) })
	}
}

func testFiles(t *testing.T, kind string) {
	t.Parallel()
	disk := build(t, kind, "252", nil)
	// what lies on the data partition stays
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), 59<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	before, _ := verified(t, disk)
	c := Changes{Files: []erofs.Change{file("etc/motd", "changed\n"), file("etc/new", "new"), {Path: "usr/bin/tool"}}, Parameters: []string{"quiet"}}
	out, report := repacked(t, disk, c)
	after, root := verified(t, out)
	for name, want := range map[string]string{"etc/motd": "changed\n", "etc/new": "new", "etc/ssl/bundle": files["etc/ssl/bundle"]} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %.20q %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/tool")); !os.IsNotExist(err) {
		t.Errorf("removed, but there: %v", err)
	}
	if got := after.Slots[0].RootHash; got != report.Hash.String() || report.OldHash.String() != before.Slots[0].RootHash || report.Hash == report.OldHash {
		t.Errorf("root hash %s, report %+v", got, report)
	}
	if !strings.HasPrefix(after.Kernels[0].Cmdline, "console=ttyS0 quiet root=/dev/dm-0 rootfstype="+kind+" ro ") {
		t.Errorf("command line %s", after.Kernels[0].Cmdline)
	}
	// all else is as before
	for i, p := range before.Partitions {
		q := after.Partitions[i]
		if p.Number == 2 || p.Number == 3 {
			q.UUID = p.UUID
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Error(d)
		}
	}
	if before.Table != after.Table || len(after.ESP) != len(before.ESP) {
		t.Errorf("%+v", after)
	}
	for i, f := range before.ESP {
		if f.Path != after.ESP[i].Path || strings.HasPrefix(f.Path, "EFI/Linux") == (f.SHA256 == after.ESP[i].SHA256) {
			t.Errorf("%s and %s", f.Path, after.ESP[i].Path)
		}
	}
	for _, s := range [][]inspect.Section{before.Kernels[0].Sections, after.Kernels[0].Sections} {
		for i := range s {
			s[i].Address = 0
			if s[i].Name == ".cmdline" {
				s[i] = inspect.Section{}
			}
		}
	}
	if d := cmp.Diff(before.Kernels[0].Sections, after.Kernels[0].Sections); d != "" {
		t.Error(d)
	}
	data, err := os.ReadFile(out)
	if err != nil || string(data[59<<20:][:4]) != "data" {
		t.Errorf("the data partition has changed (%v)", err)
	}
	// the same input makes the same disk, whatever format it has
	other := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := format.Write(t.Context(), format.QCOW2, disk, other, format.Options{}); err != nil {
		t.Fatal(err)
	}
	again, _ := repacked(t, other, c)
	if same, err := os.ReadFile(again); err != nil || !bytes.Equal(same, data) {
		t.Errorf("from another format it is another disk (%v)", err)
	}
}

// TestNoFiles: where no file changes, the root does not.
func TestNoFiles(t *testing.T) {
	t.Parallel()
	disk := build(t, "erofs", "252", nil)
	out, _ := repacked(t, disk, Changes{Unsigned: true})
	a, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(a, b) {
		t.Errorf("without a change it is another disk (%v)", err)
	}
	out, report := repacked(t, disk, Changes{Parameters: []string{"quiet"}})
	verified(t, out)
	if report.Hash != report.OldHash || !strings.Contains(report.Cmdline, " quiet ") {
		t.Errorf("%+v", report)
	}
}

func signer(t testing.TB, name string) image.SignEFI {
	t.Helper()
	certificate, key, err := imagetest.Signer(name)
	if err != nil {
		t.Fatal(err)
	}
	return image.SignWith(certificate, key)
}

func signers(r *inspect.Report) map[string]string {
	out := map[string]string{}
	for _, f := range r.ESP {
		if strings.HasSuffix(strings.ToLower(f.Path), ".efi") {
			out[f.Path] = strings.Join(f.Signers, " ")
		}
	}
	return out
}

const (
	loader = "EFI/BOOT/BOOTX64.EFI"
	kernel = "EFI/Linux/testos_0.1.0+3.efi"
)

func TestSignatures(t *testing.T) {
	t.Parallel()
	one, two := signer(t, "one"), signer(t, "two")
	signed := build(t, "erofs", "255.4", one)
	addon, err := uki.Addon{Machine: pe.IMAGE_FILE_MACHINE_AMD64, Cmdline: "site=1"}.Build()
	if err != nil {
		t.Fatal(err)
	}
	addonOfOne, err := one(t.Context(), "", addon)
	if err != nil {
		t.Fatal(err)
	}
	change := []erofs.Change{file("etc/motd", "changed\n")}
	for _, tt := range []struct {
		name string
		c    Changes
		want map[string]string // by "CN=one" and the like, or
		err  string
	}{
		{"no key", Changes{Files: change}, nil, "/" + kernel + " is signed and would change: give keys to sign it anew"},
		{"no key, parameters", Changes{Parameters: []string{"a"}}, nil, "is signed and would change"},
		{"key", Changes{Files: change, Sign: two}, map[string]string{loader: "CN=two", kernel: "CN=two"}, ""},
		{"key alone", Changes{Sign: two}, map[string]string{loader: "CN=two", kernel: "CN=two"}, ""},
		{"unsigned", Changes{Files: change, Unsigned: true}, map[string]string{loader: "", kernel: ""}, ""},
		{"addon, no key", Changes{Addons: []fat.File{{Path: "a.addon.efi", Data: addon}}},
			map[string]string{loader: "CN=one", kernel: "CN=one", "loader/addons/a.addon.efi": ""}, ""},
		{"addon, key", Changes{Sign: two, Addons: []fat.File{{Path: "a.addon.efi", Data: addon}, {Path: "b.addon.efi", Data: addonOfOne}}},
			map[string]string{loader: "CN=two", kernel: "CN=two", "loader/addons/a.addon.efi": "CN=two", "loader/addons/b.addon.efi": "CN=one"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _, err := try(t, signed, tt.c)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r, _ := verified(t, out)
			if d := cmp.Diff(tt.want, signers(r)); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("as built", func(t *testing.T) {
		// signed anew with the key of the build, it is the disk of the build
		out, _ := repacked(t, signed, Changes{Sign: one})
		a, err := format.OpenRaw(signed)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := format.OpenRaw(out)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if found, err := compare.Disks("disk", a, b); err != nil || len(found) > 0 {
			t.Errorf("%v %v", found, err)
		}
	})
}

func TestAddons(t *testing.T) {
	t.Parallel()
	addon := func(a uki.Addon) []fat.File {
		if a.Machine == 0 {
			a.Machine = pe.IMAGE_FILE_MACHINE_AMD64
		}
		data, err := a.Build()
		if err != nil {
			t.Fatal(err)
		}
		return []fat.File{{Path: "site.addon.efi", Data: data}}
	}
	for _, tt := range []struct {
		systemd string
		addons  []fat.File
		want    string
	}{
		{"254", addon(uki.Addon{Cmdline: "site=1 quiet"}), ""},
		{"257.9-1", addon(uki.Addon{Cmdline: "site=1", Uname: "6.1.176"}), ""},
		{"252.39-1~deb12u2", addon(uki.Addon{Cmdline: "site=1"}), "/" + kernel + ": the kernel has systemd-stub 252.39-1~deb12u2, which ignores addons: they are read from version 254 on"},
		{"254", addon(uki.Addon{Cmdline: "site=1", Uname: "6.1"}), `addon site.addon.efi: it is for kernel "6.1", the image has "6.1.176"`},
		{"254", addon(uki.Addon{Cmdline: "site=1", Machine: pe.IMAGE_FILE_MACHINE_ARM64}), "it is for machine 0xaa64, the kernel for 0x8664"},
		{"254", addon(uki.Addon{Cmdline: "root=/dev/sda1"}), "is set by the image build itself"},
		{"254", addon(uki.Addon{Cmdline: strings.Repeat("x", 1900)}), "the kernel takes 2047"},
		{"254", []fat.File{{Path: "a.addon.efi", Data: []byte("text")}}, "addon a.addon.efi: not an addon"},
	} {
		out, _, err := try(t, build(t, "erofs", tt.systemd, nil), Changes{Addons: tt.addons})
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r, _ := verified(t, out)
		if _, ok := signers(r)["loader/addons/site.addon.efi"]; !ok {
			t.Errorf("%v", signers(r))
		}
		// a second one of the name takes its place
		again, _ := repacked(t, out, Changes{Addons: addon(uki.Addon{Cmdline: "site=2"})})
		if r, _ := verified(t, again); len(r.ESP) != 4 {
			t.Errorf("%v", signers(r))
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	disk := build(t, "erofs", "252", nil)
	// uncompressed, as it is new
	large := strings.Repeat("x", 9<<20)
	damaged := filepath.Join(t.TempDir(), "damaged.img")
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	raw[41<<20+2000] ^= 1
	foreign := filepath.Join(t.TempDir(), "foreign.img")
	in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
	if err == nil {
		_, err = image.Assemble(context.Background(), in, foreign)
	}
	empty := filepath.Join(t.TempDir(), "empty.img")
	if err != nil || os.WriteFile(damaged, raw, 0o600) != nil || os.WriteFile(empty, make([]byte, 1<<20), 0o600) != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		disk string
		c    Changes
		want string
	}{
		{disk, Changes{Files: []erofs.Change{file("etc/large", large)}}, fmt.Sprintf("partition 2 (root_0.1.0) holds %d: ", 8<<20)},
		{disk, Changes{Files: []erofs.Change{file("../etc/motd", "")}}, "root file system: /../etc/motd: not a path"},
		{disk, Changes{Files: []erofs.Change{{Path: "etc/none"}}}, "root file system: /etc/none: file does not exist"},
		{disk, Changes{Parameters: []string{"root=/dev/sda"}}, "is set by the image build itself"},
		{damaged, Changes{Unsigned: true}, "the image is not as it was made: slot A: verity mismatch: data block 0"},
		{foreign, Changes{Files: []erofs.Change{file("a", "")}}, "the root file system is of the kind unknown: files can be changed in erofs and ext4 alone"},
		{empty, Changes{Unsigned: true}, "the image is not as it was made: partition table: no valid GUID partition table"},
	} {
		if _, _, err := try(t, tt.disk, tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
