//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/image/qemu"
)

var (
	cuts        = flag.Int("cuts", 25, "how often TestPowerCut cuts the power")
	finishEvery = flag.Int("finish-every", 5, "after every how many cuts TestPowerCut finishes the update")
	cutTable    = flag.String("cut-table", "", "file for TestPowerCut's table, in Markdown")
)

// checkpointEvery is how far the states of an update are apart from which the
// update goes on to where the power is cut.
const checkpointEvery = 10 * time.Second

// checkpoint is a machine in the midst of an update.
type checkpoint struct {
	at          time.Duration // since the update began
	screen      string        // what was on it until then
	state, disk string
}

// promises are what must hold from the moment on in which the machine says so.
var promises = []struct {
	screen string
	kept   func(s state, u updaterStatus) bool
}{
	{"0.2.0 is prepared", func(s state, u updaterStatus) bool { return s == before && u.Prepared == "0.2.0" }},
	{"0.2.0 boots next, with 3 tries", func(s state, _ updaterStatus) bool { return s == after }},
	{"Finished \x1b[0;1;39mKeep the running system for good", func(s state, _ updaterStatus) bool { return s == after }},
}

// TestPowerCut kills QEMU at points that are spread evenly over an update, from
// the look into the repository until the new system has become good, and then when
// the machine has just made a promise. It boots the disk that is left. QEMU may
// not write anything then that the guest had not flushed: the disk is QCOW2,
// whose tables it holds back until a flush. The repository is on a disk: connections
// would not outlive the saving from which the update goes on to each cut.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	r := makeReleases(t)
	dir := t.TempDir()
	drives := medium(t, r.update)
	g := start(t, qemu.Machine{Disk: overlay(t, filepath.Join(dir, "disk.qcow2"), r.first, "raw"), Drives: drives})
	g.settle("/run/updates")
	g.is(before)
	points, whole := g.record(dir)
	t.Logf("the update takes %s; it was saved %d times on the way", whole.Round(time.Second/10), len(points))
	g.off()

	versions := map[string]int{}
	table := "| cut | after | on the screen | version after | datastore | ok |\n|---:|---:|---|---|---|---|\n"
	for i := 1; i <= *cuts+len(promises); i++ {
		name, kept := fmt.Sprint(i), func(state, updaterStatus) bool { return true }
		p := points[0]
		reach := func(g *machine, p checkpoint) error {
			time.Sleep(whole*time.Duration(i)/time.Duration(*cuts) - p.at)
			return nil
		}
		past := func(p checkpoint) bool { return p.at > whole*time.Duration(i)/time.Duration(*cuts) }
		if i > *cuts {
			promise := promises[i-*cuts-1]
			name, kept = "promise", promise.kept
			reach = func(g *machine, _ checkpoint) error { return g.sees(promise.screen, 1) }
			past = func(p checkpoint) bool { return strings.Contains(p.screen, promise.screen) }
		}
		for _, later := range points {
			if !past(later) {
				p = later
			}
		}
		disk := overlay(t, filepath.Join(dir, "cut.qcow2"), p.disk, "qcow2")
		cut := start(t, qemu.Machine{Disk: disk, Drives: drives, State: p.state})
		begin := time.Now()
		err := reach(cut, p)
		if err := errors.Join(err, cut.vm.Kill()); err != nil {
			cut.fatal("cut %s: %v", name, err)
		}
		cut.vm = nil
		at := p.at + time.Since(begin)
		screen := cmp.Or(cut.screen.last(), lastLine(p.screen))
		found, status, err := afterCut(t, disk, drives, i%*finishEvery == 0)
		if err == nil && !kept(found, status) {
			err = fmt.Errorf("the machine has not kept its word: %+v, %+v", found, status)
		}
		versions[found.Version]++
		verdict := "yes"
		if err != nil {
			verdict = "NO"
			t.Errorf("cut %s, after %s, at %q: %v", name, at, screen, err)
		}
		row := fmt.Sprintf("| %s | %.1f s | %s | %s | %s | %s |", name, at.Seconds(), cell(screen), found.Version, found.Datastore, verdict)
		t.Log(row)
		table += row + "\n"
	}
	if versions["0.1.0"] == 0 || versions["0.2.0"] == 0 {
		t.Errorf("the cuts were not spread over the update: after them ran %v", versions)
	}
	if *cutTable != "" {
		writeFile(t, *cutTable, fmt.Sprintf(cutPage, *cuts, whole.Seconds())+table)
	}
}

const cutPage = `# Power cuts

What boots after the power was cut in the midst of an update from 0.1.0 to 0.2.0, at %d
points that are spread evenly over it, and at once after the machine has said that the
update is prepared, that it boots next, and that it is kept. Without a cut the update
takes %.1f s under emulation. Every time the machine must boot one whole system at the
first try, with every block of its root readable, the settings of its version, and the
data that were there. ` + "`make power-cut-test`" + ` wrote this page.

`

// cell makes a line fit into a table.
func cell(s string) string {
	const width = 70
	if len(s) > width {
		s = s[:width-3] + "..."
	}
	return "`" + strings.NewReplacer("|", `\|`, "`", "'").Replace(s) + "`"
}

// record lets the machine update itself, saves it every now and then, and tells
// how long it took without the saving.
func (g *machine) record(dir string) (points []checkpoint, whole time.Duration) {
	g.t.Helper()
	var stood time.Duration
	var begin time.Time
	save := func() {
		g.t.Helper()
		stop := time.Now()
		n := len(points)
		screen, _ := g.screen.look()
		p := checkpoint{screen: screen, state: filepath.Join(dir, fmt.Sprintf("state-%d", n)), disk: filepath.Join(dir, fmt.Sprintf("disk-%d.qcow2", n))}
		if n > 0 {
			p.at = stop.Sub(begin) - stood
		}
		err := g.vm.Save(context.Background(), p.state, func() error {
			tool(g.t, "cp", "--sparse=always", filepath.Join(dir, "disk.qcow2"), p.disk)
			return nil
		})
		if err != nil {
			g.fatal("%v", err)
		}
		points = append(points, p)
		stood += time.Since(stop)
	}
	// it begins in the first state, from which the earliest cuts start
	g.detached("sleep 1; " + mountMedium + "updater prepare; updater activate --reboot")
	begin = time.Now()
	save()
	good := make(chan error, 1)
	go func() {
		err := g.sees(kernelStarts, g.boots+1)
		if err == nil {
			g.vm.Rebooted()
			_, err = g.try("until systemctl --quiet is-active mark-good.service; do sleep 0.2; done")
		}
		good <- err
	}()
	for {
		select {
		case err := <-good:
			if err != nil {
				g.fatal("the update without cuts: %v", err)
			}
			return points, time.Since(begin) - stood
		case <-time.After(checkpointEvery):
			save()
		}
	}
}

// afterCut boots a disk that was cut off and tells what runs. With finish, it
// makes the update happen then, if it has not.
func afterCut(t *testing.T, disk string, drives []qemu.Drive, finish bool) (found state, status updaterStatus, err error) {
	t.Helper()
	g := start(t, qemu.Machine{Disk: disk, Drives: drives})
	defer g.off()
	if found, status, err = g.look(); err != nil {
		return found, status, err
	}
	if !slices.Contains([]state{before, after}, found) {
		return found, status, fmt.Errorf("the machine is %+v", found)
	}
	text, _ := g.screen.look()
	if n := strings.Count(text, kernelStarts); n != 1 {
		return found, status, fmt.Errorf("%d kernels were started", n)
	}
	if !finish || found == after {
		return found, status, nil
	}
	g.boots = 1
	g.detached(mountMedium + "updater prepare; updater activate --reboot")
	g.reboots(1)
	now, _, err := g.look()
	if err == nil && now != after {
		err = fmt.Errorf("after the update was finished the machine is %+v", now)
	}
	return found, status, err
}
