//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// debianPackages are where the programs come from that look at the image.
var debianPackages = map[string]string{
	"sgdisk": "gdisk", "fsck.erofs": "erofs-utils", "veritysetup": "cryptsetup-bin", "fsck.fat": "dosfstools", "e2fsck": "e2fsprogs",
	"qemu-img": "qemu-utils", "zstd": "zstd", "lz4": "lz4", "tar": "tar", "sha256sum": "coreutils",
}

// says runs a program that must be there and succeed, and gives what it printed.
func says(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		file, err = exec.LookPath("/usr/sbin/" + name) // not in the PATH of all users
	}
	if err != nil {
		t.Fatalf("%s is not installed: apt-get install %s", name, debianPackages[name])
	}
	cmd := exec.Command(file, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cut writes a partition of the image into a file of its own.
func cut(t *testing.T, image, label string) string {
	t.Helper()
	disk, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	e := partition(t, disk, label)
	path := filepath.Join(t.TempDir(), label)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(disk, e.Start(), e.Size())); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTools lets the programs that others use for it check what lies on the disk.
func TestTools(t *testing.T) {
	disk := image(t)
	if out := says(t, "", "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	root, hash := part(disk, "root.img"), part(disk, "hash.img")
	says(t, "", "fsck.erofs", "--extract", root)
	e := cut(t, disk, "root_")
	if !bytes.HasPrefix(readAll(t, e), readAll(t, root)) {
		t.Error("the root beside the disk is not the one on it")
	}
	kernel := readAll(t, part(disk, "uki.efi"))
	found := regexp.MustCompile(`sha256 ([0-9a-f]{64}) `).FindSubmatch(kernel)
	if found == nil {
		t.Fatal("the kernel's command line has no root hash")
	}
	says(t, "", "veritysetup", "verify", root, hash, string(found[1]))
	says(t, "", "fsck.fat", "-n", cut(t, disk, "esp"))
	says(t, "", "e2fsck", "-fn", cut(t, disk, "private"))
}

// TestFormats converts the disk into every other format: programs that read these
// find the same disk in them, and where and when it is done leaves no trace.
func TestFormats(t *testing.T) {
	disk := image(t)
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "another folder")
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(elsewhere, "renamed")
	copySparse(t, disk, copied)
	if err := os.Chtimes(copied, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"qcow2", "vmdk", "vhd", "vhd-dynamic", "raw.zst", "raw.lz4", "ova"} {
		t.Run(format, func(t *testing.T) {
			path, again := filepath.Join(dir, "disk."+format), filepath.Join(elsewhere, "disk."+format)
			command(t, nil, "image", "convert", disk, path, "--format", format, "--name", "disk", "--image-version", "1")
			command(t, []string{"TZ=Asia/Tokyo", "LC_ALL=C"}, "image", "convert", copied, again, "--format", format, "--name", "disk", "--image-version", "1")
			tool(t, "cmp", path, again)
			switch format {
			case "raw.zst":
				says(t, dir, "zstd", "-t", path)
				says(t, dir, "zstd", "-q", "-d", path, "-o", "back.zst.img")
				tool(t, "cmp", disk, filepath.Join(dir, "back.zst.img"))
			case "raw.lz4":
				says(t, dir, "lz4", "-t", path)
				says(t, dir, "lz4", "-q", "-d", path, "back.lz4.img")
				tool(t, "cmp", disk, filepath.Join(dir, "back.lz4.img"))
			case "ova":
				unpacked := t.TempDir()
				says(t, unpacked, "tar", "-xf", path)
				sums := regexp.MustCompile(`(?m)^SHA256\((.+)\)= ([0-9a-f]{64})$`).ReplaceAllString(string(readAll(t, filepath.Join(unpacked, "disk-1.mf"))), "$2  $1")
				if strings.Count(sums, "\n") != 2 {
					t.Errorf("the manifest has other than the description and the disk:\n%s", sums)
				}
				writeFile(t, filepath.Join(unpacked, "sums"), sums)
				says(t, unpacked, "sha256sum", "--strict", "-c", "sums")
				disks, err := filepath.Glob(filepath.Join(unpacked, "*.vmdk"))
				if err != nil || len(disks) != 1 {
					t.Fatalf("disks %v: %v", disks, err)
				}
				sameDisk(t, "vmdk", disks[0], disk)
			default:
				kind := map[string]string{"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhd-dynamic": "vpc"}[format]
				sameDisk(t, kind, path, disk)
			}
		})
	}
}

// sameDisk lets qemu-img check a disk and compare it with the raw one.
func sameDisk(t *testing.T, kind, path, raw string) {
	t.Helper()
	if kind != "vpc" { // which it cannot check
		if out := says(t, "", "qemu-img", "check", "-f", kind, path); !strings.Contains(out, "No errors were found") {
			t.Errorf("qemu-img check: %s", out)
		}
	}
	if out := says(t, "", "qemu-img", "compare", "-f", kind, "-F", "raw", path, raw); strings.TrimSpace(out) != "Images are identical." { // nor other in size
		t.Errorf("qemu-img compare: %s", out)
	}
}
