//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/image/gpt"
	"slipway/internal/image/qemu"
)

// partition finds a partition of a disk by the beginning of its label.
func partition(t *testing.T, disk *os.File, label string) gpt.Entry {
	t.Helper()
	st, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, _, err := gpt.Read(disk, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range table.Entries {
		if strings.HasPrefix(e.Name, label) {
			return e
		}
	}
	t.Fatalf("no partition %s", label)
	return gpt.Entry{}
}

// part returns a file beside the disk image: its root file system, hash tree or
// kernel image.
func part(image, name string) string { return strings.TrimSuffix(image, ".img") + "-" + name }

func size(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// flip changes a bit of a file.
func flip(t *testing.T, f *os.File, at int64) {
	t.Helper()
	b := make([]byte, 1)
	_, err := f.ReadAt(b, at)
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTampering changes a disk where it is not looked at before it is used, and
// boots it. Firmware, boot loader and kernel refuse what was changed.
func TestTampering(t *testing.T) {
	t.Parallel()
	r := makeReleases(t)
	signed := r.first
	for _, c := range []struct {
		name   string
		change func(t *testing.T, disk *os.File)
		script string // reads what was changed, if the machine gets that far
		want   []string
		never  string // what comes on the screen of a machine that was not stopped there
	}{
		{"nothing", func(*testing.T, *os.File) {}, "cat /dev/dm-0 >/dev/null && echo '=== whole' >/dev/ttyS0", []string{kernelStarts, "Welcome to", "=== whole"}, ""},
		{"root byte", func(t *testing.T, disk *os.File) {
			flip(t, disk, partition(t, disk, "root_").Start()+size(t, part(signed, "root.img"))-1)
		}, "cat /dev/dm-0 >/dev/null && echo '=== whole' >/dev/ttyS0", []string{"device-mapper: verity: ", ": data block ", " is corrupted"}, "=== whole"},
		{"hash byte", func(t *testing.T, disk *os.File) {
			// the first block is the superblock, the second the top of the tree
			flip(t, disk, partition(t, disk, "hash_").Start()+4096)
		}, "", []string{"device-mapper: verity: ", ": metadata block 1 is corrupted"}, "Welcome to"},
		{"kernel image byte", func(t *testing.T, disk *os.File) {
			at, length := kernelImage(t, disk, signed)
			flip(t, disk, at+length/2)
		}, "", []string{"Error loading \\EFI\\Linux\\dinghy_0.1.0.efi: Access denied"}, kernelStarts},
		{"kernel image without signature", func(t *testing.T, disk *os.File) {
			at, _ := kernelImage(t, disk, signed)
			// PE/COFF: the fifth of the optional header's data directories says
			// where signatures are. Digests leave it out.
			header := make([]byte, 4)
			if _, err := disk.ReadAt(header, at+0x3c); err != nil {
				t.Fatal(err)
			}
			if _, err := disk.WriteAt(make([]byte, 8), at+int64(binary.LittleEndian.Uint32(header))+24+112+4*8); err != nil {
				t.Fatal(err)
			}
		}, "", []string{"Error loading \\EFI\\Linux\\dinghy_0.1.0.efi: Access denied"}, kernelStarts},
		{"boot loader byte", func(t *testing.T, disk *os.File) {
			esp := partition(t, disk, "esp")
			at := find(t, disk, esp, []byte("#### LoaderInfo: systemd-boot"))
			flip(t, disk, at)
		}, "", []string{"failed to load Boot", "Access Denied"}, kernelStarts},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.img")
			copySparse(t, signed, path)
			disk, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			c.change(t, disk)
			if err := disk.Close(); err != nil {
				t.Fatal(err)
			}
			g := start(t, qemu.Machine{Disk: overlay(t, filepath.Join(filepath.Dir(path), "disk.qcow2"), path, "raw"), Firmware: r.keys.firmware(t)})
			if vm := g.vm; c.script != "" {
				go func() { _, _ = vm.Exec(context.Background(), c.script, io.Discard) }() // does not come to its end
			}
			for _, want := range c.want {
				if err := g.sees(want, 1); err != nil {
					g.fatal("%v", err)
				}
			}
			t.Logf("%s", g.screen.line(c.want[len(c.want)-1]))
			if c.never == "" {
				return
			}
			time.Sleep(5 * time.Second) // what was not stopped would go on
			if text, _ := g.screen.look(); strings.Contains(text, c.never) {
				g.fatal("on the screen: %q", c.never)
			}
		})
	}
}

// kernelImage finds the kernel image on the disk's EFI system partition.
func kernelImage(t *testing.T, disk *os.File, image string) (at, length int64) {
	t.Helper()
	content, err := os.ReadFile(part(image, "uki.efi"))
	if err != nil {
		t.Fatal(err)
	}
	at = find(t, disk, partition(t, disk, "esp"), content[:1<<20])
	return at, int64(len(content))
}

// find gives the place of some bytes that a partition holds once.
func find(t *testing.T, disk *os.File, e gpt.Entry, what []byte) int64 {
	t.Helper()
	all := make([]byte, e.Size())
	if _, err := disk.ReadAt(all, e.Start()); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	at := bytes.Index(all, what)
	if at < 0 || bytes.Contains(all[at+1:], what) {
		t.Fatalf("partition %s does not hold the bytes once", e.Name)
	}
	return e.Start() + int64(at)
}
