package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

func executorRoot(state, snapshotter string) string {
	return filepath.Join(workerRoot(state, snapshotter), "executor")
}

// clearLeftovers ends what a killed daemon left: containers that still run,
// mounts below the state root and temporary files. The caller holds the lock
// of the state root. Failures are logged; they cost space, not correctness.
func clearLeftovers(ctx context.Context, f files, runc string) {
	for _, snapshotter := range []string{"overlayfs", "native"} {
		bundles, _ := filepath.Glob(filepath.Join(executorRoot(f.state, snapshotter), "*", "config.json"))
		for _, bundle := range bundles {
			dir := filepath.Dir(bundle)
			id := filepath.Base(dir)
			logrus.Warnf("removing container %s of an engine that was killed", id)
			if out, err := exec.CommandContext(ctx, runc, "delete", "--force", id).CombinedOutput(); err != nil &&
				!strings.Contains(string(out), "does not exist") {
				logrus.Warnf("runc delete %s: %v: %s", id, err, out)
			}
		}
	}
	unmountBelow(f.state)
	for _, snapshotter := range []string{"overlayfs", "native"} {
		bundles, _ := filepath.Glob(filepath.Join(executorRoot(f.state, snapshotter), "*", "config.json"))
		for _, bundle := range bundles {
			if err := os.RemoveAll(filepath.Dir(bundle)); err != nil {
				logrus.Warn(err)
			}
		}
	}
	if err := os.RemoveAll(f.tmp); err != nil {
		logrus.Warn(err)
	}
}

// unmountBelow detaches every mount below dir, the deepest first.
func unmountBelow(dir string) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		logrus.Warnf("reading the mount table: %v", err)
		return
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
	for _, m := range mounts {
		if m.Mountpoint == dir {
			continue // the state root may be a volume of its own
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			logrus.Warnf("unmount %s: %v", m.Mountpoint, err)
		}
	}
}
