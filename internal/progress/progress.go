// Package progress shows a build while it runs: a live table on a terminal,
// whole lines with the target's name in front elsewhere.
package progress

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Status is how a target ended.
type Status string

// The ways in which a target ends.
const (
	Built   Status = "built"   // made by this build
	Cached  Status = "cached"  // found in the store
	Fetched Status = "fetched" // found in the team cache
	Failed  Status = "failed"  // its recipe failed
	Skipped Status = "skipped" // not tried, since something it needs failed
)

// Mode is the form of the display.
type Mode string

// The forms of the display.
const (
	Auto  Mode = "auto"  // Live on a terminal, Plain elsewhere
	Live  Mode = "live"  // a table that is drawn again and again
	Plain Mode = "plain" // one line for each event
)

// Display is where a build reports to. Its methods may be called concurrently.
type Display struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	logs  bool
	now   func() time.Time
	width func() int

	start     time.Time
	total     int
	ended     map[string]Status // by target
	running   []*row
	downloads []*download
	drawn     int // lines of the table that stand on the screen
	stop      chan struct{}
	stopped   sync.WaitGroup
}

type row struct {
	target, phase string
	start         time.Time
}

type download struct {
	name        string
	done, total int64
	start       time.Time
}

// Options are the settings of a Display.
type Options struct {
	Mode  Mode             // Auto when empty
	Logs  bool             // also show every line that builds print
	Now   func() time.Time // time.Now when nil
	Width func() int       // columns; the terminal's when nil
}

// New makes a display that writes to w.
func New(w io.Writer, opt Options) *Display {
	d := &Display{w: w, logs: opt.Logs, now: opt.Now, width: opt.Width, ended: map[string]Status{}, stop: make(chan struct{})}
	if d.now == nil {
		d.now = time.Now
	}
	f, isFile := w.(*os.File)
	isTerminal := isFile && term.IsTerminal(int(f.Fd()))
	d.live = opt.Mode == Live || (opt.Mode != Plain && isTerminal && os.Getenv("TERM") != "dumb")
	if d.width == nil {
		d.width = func() int {
			if isTerminal {
				if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
					return columns
				}
			}
			return 80
		}
	}
	d.start = d.now()
	if d.live {
		d.stopped.Go(d.tick)
	}
	return d
}

// Close ends the display; what stands on the screen of the table is removed.
func (d *Display) Close() {
	close(d.stop)
	d.stopped.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
}

func (d *Display) tick() {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-t.C:
			d.mu.Lock()
			d.redraw()
			d.mu.Unlock()
		}
	}
}

// Total says how many targets the build has.
func (d *Display) Total(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total = n
}

// Restart says that all targets are gone through again: how those ended that were
// not worked on is forgotten.
func (d *Display) Restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.ended, func(_ string, s Status) bool { return s == Cached || s == Skipped })
	d.running = nil
}

// Start says that a target runs now.
func (d *Display) Start(target, phase string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = append(d.running, &row{target: target, phase: phase, start: d.now()})
	if !d.live {
		d.print(fmt.Sprintf("%s: %s", target, phase))
	}
}

// Pause takes a target from the table that has not ended: it waits for others.
func (d *Display) Pause(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = slices.DeleteFunc(d.running, func(r *row) bool { return r.target == target })
}

// Phase says what a running target does now.
func (d *Display) Phase(target, phase string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.running {
		if r.target == target && r.phase != phase {
			r.phase = phase
			if !d.live {
				d.print(fmt.Sprintf("%s: %s (%s)", target, phase, elapsed(d.now().Sub(r.start))))
			}
		}
	}
}

// Log takes a line that a target's build printed.
func (d *Display) Log(target, line string) {
	if !d.logs {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.print(target + " | " + line)
}

// Done says how a target ended.
func (d *Display) Done(target string, status Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended[target] = status
	took := ""
	if i := slices.IndexFunc(d.running, func(r *row) bool { return r.target == target }); i >= 0 {
		took = " in " + elapsed(d.now().Sub(d.running[i].start))
		d.running = slices.Delete(d.running, i, i+1)
	}
	if status != Cached && status != Fetched {
		d.print(fmt.Sprintf("%s: %s%s", target, status, took))
	}
}

// Download tells how far a transfer is, in bytes; total is 0 or less when it is
// not known. A transfer that has ended is reported by Downloaded.
func (d *Display) Download(name string, done, total int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.downloads, func(x *download) bool { return x.name == name })
	if i < 0 {
		d.downloads = append(d.downloads, &download{name: name, start: d.now()})
		i = len(d.downloads) - 1
	}
	d.downloads[i].done, d.downloads[i].total = done, total
}

// Downloaded says that a transfer has ended, with its size in bytes.
func (d *Display) Downloaded(name string, size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rate := ""
	if i := slices.IndexFunc(d.downloads, func(x *download) bool { return x.name == name }); i >= 0 {
		if s := d.now().Sub(d.downloads[i].start).Seconds(); s > 0 {
			rate = ", " + bytes(int64(float64(size)/s)) + "/s"
		}
		d.downloads = slices.Delete(d.downloads, i, i+1)
	}
	d.print(fmt.Sprintf("fetched %s (%s%s)", name, bytes(size), rate))
}

// Print puts a line of its own above the table.
func (d *Display) Print(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.print(fmt.Sprintf(format, args...))
}

// Summary is the line of counts and time, as it also stands in the table; empty
// before a target has ended.
func (d *Display) Summary() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ended) == 0 {
		return ""
	}
	return d.summary()
}

func (d *Display) summary() string {
	counts := map[Status]int{}
	for _, s := range d.ended {
		counts[s]++
	}
	parts := []string{}
	for _, s := range []Status{Built, Fetched, Cached, Failed, Skipped} {
		if n := counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if left := d.total - len(d.ended); left > 0 {
		parts = append(parts, fmt.Sprintf("%d left", left))
	}
	return fmt.Sprintf("%s in %s", strings.Join(parts, ", "), elapsed(d.now().Sub(d.start)))
}

// print writes whole lines above the table in one write.
func (d *Display) print(line string) {
	d.erase()
	_, _ = io.WriteString(d.w, strings.TrimRight(line, "\n")+"\n")
	d.redraw()
}

func (d *Display) erase() {
	if d.drawn > 0 {
		// up to the first line of the table, and clear to the end of the screen
		_, _ = fmt.Fprintf(d.w, "\x1b[%dA\x1b[J", d.drawn)
		d.drawn = 0
	}
}

func (d *Display) redraw() {
	if !d.live {
		return
	}
	lines := []string{}
	for _, r := range d.running {
		lines = append(lines, fmt.Sprintf("  %-32s %-12s %8s", r.target, r.phase, elapsed(d.now().Sub(r.start))))
	}
	for _, x := range d.downloads {
		line := fmt.Sprintf("  ↓ %-30s %s", x.name, bytes(x.done))
		if x.total > 0 {
			line += fmt.Sprintf(" of %s, %d %%", bytes(x.total), 100*x.done/x.total)
		}
		if s := d.now().Sub(x.start).Seconds(); s >= 1 {
			line += fmt.Sprintf(", %s/s", bytes(int64(float64(x.done)/s)))
		}
		lines = append(lines, line)
	}
	if d.total > 0 {
		lines = append(lines, d.summary())
	}
	var out strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA\x1b[J", d.drawn)
	}
	width := d.width()
	for _, l := range lines {
		if r := []rune(l); len(r) >= width {
			l = string(r[:max(width-1, 0)])
		}
		out.WriteString(l + "\n")
	}
	d.drawn = len(lines)
	_, _ = io.WriteString(d.w, out.String())
}

func elapsed(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

func bytes(n int64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}
