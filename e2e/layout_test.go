//go:build e2e

package e2e

import (
	"path/filepath"
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
			mounts{"running", "/dev/dm-0 ext4", "/dev/vda7 xfs", "/dev/vda6 ext4"},
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
			g := start(t, qemu.Machine{Disk: overlay(t, filepath.Join(t.TempDir(), "disk.qcow2"), w.image(), "raw")})
			g.reboots(1)
			out := g.sh(mountsScript)
			if diff := cmp.Diff(c.want, mounts{section(out, "system"), section(out, "root"), section(out, "data"), section(out, "private")}); diff != "" {
				g.fatal("-want +got:\n%s", diff)
			}
		})
	}
}

// mounts are what systemctl is-system-running says, and source and type of what is
// mounted.
type mounts struct{ System, Root, Data, Private string }

const mountsScript = `
show() { echo "=== $1"; printf '%s' "$2"; }
show system "$(systemctl is-system-running --wait)"
show root "$(findmnt --noheadings --output SOURCE,FSTYPE /)"
show data "$(findmnt --noheadings --output SOURCE,FSTYPE /var)"
show private "$(findmnt --noheadings --output SOURCE,FSTYPE /var/lib/dinghy/datastore)"
touch /var/probe /var/lib/dinghy/datastore/probe
`
