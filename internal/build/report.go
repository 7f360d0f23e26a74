package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"slipway/internal/graph"
	"slipway/internal/progress"
)

// Report is what a build did, as written to build/reports/<time>.json. Times are
// in seconds.
type Report struct {
	Started       time.Time `json:"started"`
	Wall          float64   `json:"wall"`
	CPU           float64   `json:"cpu"`           // sum over the targets that were built
	Cores         int       `json:"cores"`         // processors of the machine
	Parallelism   float64   `json:"parallelism"`   // targets that were worked on at once, on average
	CacheHitRatio float64   `json:"cacheHitRatio"` // part of the targets that were found in a cache, 0 to 1
	CriticalPath  Path      `json:"criticalPath"`
	Targets       []*Row    `json:"targets"` // dependencies first
}

// Path is the chain of targets, each waiting for the one before it, that took the
// longest: more processors do not make a build quicker than that.
type Path struct {
	Targets []string `json:"targets"`
	Wall    float64  `json:"wall"` // seconds
}

// Row is one target of a Report.
type Row struct {
	Name   string          `json:"name"`
	Status progress.Status `json:"status"`
	Wall   float64         `json:"wall"`   // seconds of this build, without Wait
	CPU    float64         `json:"cpu"`    // seconds of user and system time when it was built
	Memory int64           `json:"memory"` // bytes at its peak when it was built; 0 when not known
	Wait   float64         `json:"wait"`   // seconds that it was ready, but had no slot or was locked by another build
	Source string          `json:"source"` // FromLocal or FromTeam for a result that was not built, else empty
}

// worked tells whether the build spent time on the target itself.
func (r *Row) worked() bool {
	return r.Status == progress.Built || r.Status == progress.Failed || r.Status == progress.Fetched
}

// sum fills in what follows from the rows. needs gives the names of all targets
// that a target waits for, whether by itself or by others.
func (r *Report) sum(needs func(target string) []string) {
	busy, hits, wanted := 0.0, 0, 0
	r.CriticalPath = Path{Targets: []string{}}
	chains := map[string]Path{} // the longest that ends with a target
	for _, row := range r.Targets {
		if row.Status != progress.Skipped {
			wanted++
		}
		if row.Status == progress.Cached || row.Status == progress.Fetched {
			hits++
		}
		if !row.worked() {
			continue
		}
		busy += row.Wall
		if row.Status != progress.Fetched {
			r.CPU += row.CPU
		}
		var before Path
		for _, name := range needs(row.Name) {
			if p := chains[name]; p.Wall > before.Wall {
				before = p
			}
		}
		chain := Path{append(slices.Clone(before.Targets), row.Name), before.Wall + row.Wall}
		chains[row.Name] = chain
		if chain.Wall > r.CriticalPath.Wall || len(r.CriticalPath.Targets) == 0 {
			r.CriticalPath = chain
		}
	}
	if r.Wall > 0 {
		r.Parallelism = busy / r.Wall
	}
	if wanted > 0 {
		r.CacheHitRatio = float64(hits) / float64(wanted)
	}
}

// newReport makes the report of a build that began then and has ended now. needs
// is that of sum.
func newReport(began time.Time, rows []*Row, needs func(target string) []string) *Report {
	r := &Report{Started: began.UTC(), Wall: time.Since(began).Seconds(), Cores: runtime.NumCPU(), Targets: rows}
	r.sum(needs)
	return r
}

// writeReport writes the report of a build, however it ended, unless that was before
// it came to a target: what is refused leaves nothing behind.
func (b *Builder) writeReport(began time.Time, targets []*graph.Target) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rows) == 0 {
		return nil
	}
	var rows []*Row
	byName := map[string]*graph.Target{}
	for _, t := range targets {
		byName[t.Name] = t
		row := b.rows[t.Name]
		if row == nil { // the build ended before it came to this one
			row = &Row{Name: t.Name, Status: progress.Skipped}
		}
		rows = append(rows, row)
	}
	return newReport(began, rows, func(target string) (names []string) {
		for _, t := range b.needs(byName[target]) {
			names = append(names, t.Name)
		}
		return names
	}).write(reportsDir(b.ws.Root))
}

// keptReports is how many reports a workspace keeps: one of many targets takes a
// megabyte or more, and every build writes one.
const keptReports = 100

// write puts the report into a folder, whole or not at all, and removes the
// oldest there if they are more than keptReports.
func (r *Report) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	temp, err := os.CreateTemp(dir, ".report-")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(append(raw, '\n'))
	if err = errors.Join(err, temp.Chmod(0o644), temp.Close()); err == nil {
		// builds begin in the same millisecond, but not in the same nanosecond
		err = os.Rename(temp.Name(), filepath.Join(dir, r.Started.Format("20060102T150405.000000000Z")+".json"))
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	names, err := reportNames(dir)
	if err != nil {
		return err
	}
	for _, old := range names[min(len(names), keptReports):] {
		if err := os.Remove(filepath.Join(dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) { // another build removes it too
			return fmt.Errorf("remove old report: %w", err)
		}
	}
	return nil
}

// reportNames lists the files of reports in a folder, the newest first.
func reportNames(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir) // sorted by name, hence by time
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read reports: %w", err)
	}
	for _, e := range slices.Backward(entries) {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func reportsDir(root string) string { return filepath.Join(root, "build", "reports") }

// Reports reads the reports of a workspace's last builds, the newest first; there
// may be fewer than last, or none. What cannot be read is left out, and damaged
// says which files and why.
func Reports(root string, last int) (reports []*Report, damaged []error, err error) {
	dir := reportsDir(root)
	names, err := reportNames(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if len(reports) >= last {
			break
		}
		raw, err := os.ReadFile(filepath.Join(dir, name))
		var r *Report
		if err == nil {
			r, err = parseReport(raw)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // a build has just removed it
		}
		if err != nil {
			damaged = append(damaged, fmt.Errorf("report %s is damaged: %w", filepath.Join(dir, name), err))
			continue
		}
		reports = append(reports, r)
	}
	return reports, damaged, nil
}

func parseReport(raw []byte) (*Report, error) {
	r := new(Report)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, err
	}
	if r.Started.IsZero() {
		return nil, errors.New(`"started" is missing`)
	}
	for i, row := range r.Targets {
		if row == nil || row.Name == "" || row.Status == "" {
			return nil, fmt.Errorf("targets[%d] has no name or no status", i)
		}
	}
	return r, nil
}
