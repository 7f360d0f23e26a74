//go:build e2e

package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipway/internal/image/qemu"
)

// TestUpdate goes from a release to the next one, from a repository on the
// host's loopback, and back.
func TestUpdate(t *testing.T) {
	t.Parallel()
	r := makeReleases(t)
	g := start(t, qemu.Machine{Disk: overlay(t, filepath.Join(t.TempDir(), "disk.qcow2"), r.first, "raw")})
	g.settle(serve(t, r.update))
	g.is(before)

	if out := g.sh("updater check"); out != "0.2.0 can be installed\n" {
		g.fatal("updater check: %s", out)
	}
	t.Logf("%s", g.sh("updater prepare"))
	if status := g.is(before); status.Prepared != "0.2.0" || status.Next != "0.1.0" {
		g.fatal("the status is %+v, want 0.2.0 prepared and 0.1.0 next", status)
	}
	g.detached("updater activate --reboot")
	g.reboots(1)
	status := g.is(after)
	if want := (installedSystem{"0.1.0", true, -1}); status.Other == nil || *status.Other != want {
		g.fatal("the other slot has %+v, want %+v", status.Other, want)
	}
	if out := g.sh("updater check"); !strings.HasPrefix(out, "no update: ") {
		g.fatal("updater check: %s", out)
	}

	g.detached("updater revert --reboot")
	g.reboots(1)
	g.is(before)
	if out := g.sh("updater check"); !strings.Contains(out, "left out, since they did not become good here: [0.2.0]") {
		g.fatal("updater check: %s", out)
	}
	// and once more, by word of the administrator
	g.detached("updater activate --reboot")
	g.reboots(1)
	g.is(after)
}

// TestFallback takes a release that does not reach its target, from a repository
// on a disk. It migrates the settings, fails, and is left after three boots.
func TestFallback(t *testing.T) {
	t.Parallel()
	r := makeReleases(t)
	g := start(t, qemu.Machine{
		Disk:   overlay(t, filepath.Join(t.TempDir(), "disk.qcow2"), r.first, "raw"),
		Drives: medium(t, r.broken),
	})
	g.settle("/run/updates")
	g.sh(mountMedium)
	g.is(before)
	g.detached("updater prepare; updater activate --reboot")
	g.reboots(3 + 1)
	status := g.is(before)
	text, _ := g.screen.look()
	if want := "0.3.0 boots next, with 3 tries"; !strings.Contains(text, want) {
		g.fatal("not on the screen: %q", want)
	}
	if want := (installedSystem{"0.3.0", false, 0}); status.Other == nil || *status.Other != want || status.Next != "0.1.0" {
		g.fatal("the status is %+v, want %+v in the other slot", status, want)
	}
	if out := g.sh(mountMedium + "updater check"); !strings.Contains(out, "no update: ") || !strings.Contains(out, "did not become good here: [0.3.0]") {
		g.fatal("updater check: %s", out)
	}
	if status := g.is(before); !slices.Equal(status.Failed, []string{"0.3.0"}) {
		g.fatal("the status is %+v, want 0.3.0 failed", status)
	}
	if out, err := g.try("updater revert"); err == nil || !strings.Contains(out, "0.3.0 did not become good") {
		g.fatal("updater revert: %v: %s", err, out)
	}

	// With new tries, but a root file system that was changed since it was
	// written and read back, no program of the new system ever runs.
	g.sh("set -e; updater prepare --retry; updater activate; dd if=/dev/zero of=/dev/disk/by-partlabel/root_0.3.0 bs=4096 count=1 conv=fsync")
	g.detached("systemctl reboot")
	g.reboots(3 + 1)
	status = g.is(before)
	if want := (installedSystem{"0.3.0", false, 0}); status.Other == nil || *status.Other != want {
		g.fatal("the status is %+v, want %+v in the other slot", status, want)
	}
	text, _ = g.screen.look()
	if n := strings.Count(text, " is corrupted"); n < 3 {
		g.fatal("verity refused %d times, want 3", n)
	}
}

// TestRefusedKernel damages the kernel image of an update after it was placed, under
// Secure Boot: no kernel is started from it, and after its tries the old one is.
func TestRefusedKernel(t *testing.T) {
	t.Parallel()
	r := makeReleases(t)
	g := start(t, qemu.Machine{
		Disk:     overlay(t, filepath.Join(t.TempDir(), "disk.qcow2"), r.first, "raw"),
		Firmware: r.keys.firmware(t),
	})
	g.settle(serve(t, r.update))
	g.is(before)
	g.sh("set -e; updater prepare; updater activate; " +
		"printf tampered | dd of=/efi/EFI/Linux/dinghy_0.2.0+3.efi bs=1 seek=1000000 conv=notrunc,fsync")
	g.detached("systemctl reboot")
	g.reboots(1)
	status := g.is(before)
	if want := (installedSystem{"0.2.0", false, 0}); status.Other == nil || *status.Other != want || status.Next != "0.1.0" {
		g.fatal("the status is %+v, want %+v in the other slot", status, want)
	}
	text, _ := g.screen.look()
	if n := strings.Count(text, `Error loading \EFI\Linux\dinghy_0.2.0+`); n != 3 {
		g.fatal("the kernel image was refused %d times, want 3", n)
	}
}

// medium is a disk with an update repository, for machines without network.
func medium(t *testing.T, repository string) []qemu.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "updates.img")
	tool(t, "mkfs.ext4", "-q", "-d", repository, path, "512M")
	return []qemu.Drive{{Path: path, Serial: "updates"}}
}

// mountMedium begins a script that needs the medium at /run/updates.
const mountMedium = "set -e; mkdir -p /run/updates; mount -o ro /dev/disk/by-id/virtio-updates /run/updates; "
