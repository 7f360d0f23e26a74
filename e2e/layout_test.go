//go:build e2e

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/qemu"
)

// TestLayouts boots disks that are laid out otherwise than the default one.
func TestLayouts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		layout   string // of the variant
		packages []string
		want     mounts
	}{
		{
			"ext4 root, xfs data", "root-filesystem = \"ext4\"\ndata-filesystem = \"xfs\"\n", []string{"release-xfs"},
			mounts{"running", "/dev/dm-0 ext4", "/dev/vda7 xfs", "/dev/vda6 ext4", "4294967296"},
		},
		{
			"data on its own disk", "data-disk = \"split\"\n", nil,
			mounts{"running", "/dev/dm-0 erofs", "/dev/vdb1 ext4", "/dev/vda6 ext4", "4294967296"},
		},
		{
			"Bottlerocket's", "plan = \"bottlerocket\"\nesp-size-mib = 20\n", nil,
			mounts{"running", "/dev/dm-0 erofs", "/dev/vda13 ext4", "/dev/vda12 ext4", "4294967296"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := copyWorkspace(t, filepath.Join(t.TempDir(), "os"))
			variant := filepath.Join("variants", w.variant, "variant.toml")
			writeFile(t, filepath.Join(w.dir, variant), w.read(variant)+"\n[image-layout]\n"+c.layout)
			for _, p := range c.packages {
				w.include(p)
			}
			w.slipway("build")
			w.slipway("image", "verify", w.image())
			m := qemu.Machine{Disk: overlay(t, filepath.Join(t.TempDir(), "disk.qcow2"), w.image(), "raw")}
			if data := part(w.image(), "data.img"); exists(t, data) {
				disk := filepath.Join(t.TempDir(), "data.img")
				copySparse(t, data, disk)
				tool(t, "truncate", "-s", "4G", disk)
				m.Drives = []qemu.Drive{{Path: disk, Writable: true}}
			}
			g := start(t, m)
			g.reboots(1)
			out := g.sh(mountsScript)
			got := mounts{section(out, "system"), section(out, "root"), section(out, "data"), section(out, "private"), section(out, "disk")}
			if diff := cmp.Diff(c.want, got); diff != "" {
				g.fatal("-want +got:\n%s", diff)
			}
			if size, err := strconv.ParseInt(section(out, "size"), 10, 64); err != nil || size < 1500<<20 {
				g.fatal("the data partition has %d bytes (%v) and was not grown", size, err)
			}
		})
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// mounts are what systemctl is-system-running says, source and type of what is
// mounted, and the size of the disk that the data are on.
type mounts struct{ System, Root, Data, Private, Disk string }

const mountsScript = `
show() { echo "=== $1"; printf '%s' "$2"; }
show system "$(systemctl is-system-running --wait)"
show root "$(findmnt --noheadings --output SOURCE,FSTYPE /)"
show data "$(findmnt --noheadings --output SOURCE,FSTYPE /var)"
show private "$(findmnt --noheadings --output SOURCE,FSTYPE /var/lib/dinghy/datastore)"
data=$(findmnt --noheadings --output SOURCE /var)
show disk "$(lsblk --noheadings --nodeps --bytes --output SIZE "/dev/$(lsblk --noheadings --output PKNAME "$data")")"
show size "$(lsblk --noheadings --bytes --output SIZE "$data")"
touch /var/probe /var/lib/dinghy/datastore/probe
`
