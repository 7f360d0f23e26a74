package build

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/progress"
)

var update = flag.Bool("update", false, "write the golden files")

// report is one of a build of which parts failed: tools and libs were ready at
// once, image needs app, which needs all; broken kept orphan from being tried.
func report() *Report {
	r := &Report{
		Started: time.Date(2026, 11, 23, 10, 20, 30, 456_000_000, time.UTC), Wall: 200, Cores: 4,
		Targets: []*Row{
			{Name: "packages/libc", Status: progress.Cached, CPU: 900, Source: FromLocal},
			{Name: "packages/libs", Status: progress.Built, Wall: 100, CPU: 150, Memory: 3 << 30, Wait: 2.5},
			{Name: "packages/tools", Status: progress.Fetched, Wall: 4, CPU: 70, Memory: 1 << 20, Source: FromTeam},
			{Name: "packages/broken", Status: progress.Failed, Wall: 120, CPU: 90},
			{Name: "packages/orphan", Status: progress.Skipped},
			{Name: "packages/app", Status: progress.Built, Wall: 50, CPU: 50},
			{Name: "variants/image", Status: progress.Built, Wall: 26, CPU: 10},
		},
	}
	r.sum(func(target string) []string {
		return map[string][]string{
			"packages/libs": {"packages/libc"}, "packages/tools": {"packages/libc"}, "packages/broken": {"packages/libc"},
			"packages/orphan": {"packages/broken", "packages/libc"}, "packages/app": {"packages/libc", "packages/tools", "packages/libs"},
			"variants/image": {"packages/libc", "packages/libs", "packages/tools", "packages/app"},
		}[target]
	})
	return r
}

func TestReport(t *testing.T) {
	root := t.TempDir()
	if err := report().write(reportsDir(root)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "build", "reports", "*"))
	if diff := cmp.Diff([]string{filepath.Join(root, "build/reports/20261123T102030.456000000Z.json")}, files); err != nil || diff != "" {
		t.Fatal(diff, err)
	}
	got, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.json")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	read, damaged, err := Reports(root, 1)
	if diff := cmp.Diff([]*Report{report()}, read); diff != "" || damaged != nil || err != nil {
		t.Error(diff, damaged, err)
	}
}

func TestReportOfNothing(t *testing.T) {
	r := &Report{Targets: []*Row{{Name: "a", Status: progress.Skipped}}}
	r.sum(func(string) []string { return nil })
	if diff := cmp.Diff(&Report{Targets: r.Targets, CriticalPath: Path{Targets: []string{}}}, r); diff != "" {
		t.Error(diff)
	}
}

func TestReports(t *testing.T) {
	root := t.TempDir()
	if reports, damaged, err := Reports(root, 9); len(reports)+len(damaged) != 0 || err != nil {
		t.Errorf("no folder: %v, %v, %v", reports, damaged, err)
	}
	for file, text := range map[string]string{
		"20260101T000000.000Z.json":     `{"started": "2026-01-01T00:00:00Z", "targets": [{"name": "a", "status": "built", "wall": 1}, {"name": "b", "status": "built", "wall": 2}, {"name": "c", "status": "failed", "wall": 9}]}`,
		"20260102T000000.000Z.json":     `{"started": "2026-01-02T00:00:00Z", "targets": [{"name": "a", "status": "built", "wall": 3}, {"name": "b", "status": "cached"}], "later": "unknown"}`,
		"20260103T000000.000Z.json":     `{"started": "2026-01-03T00:00`,
		"20260104T000000.000Z.json":     `{"targets": []}`,
		"20260105T000000.000Z.json":     `{"started": "2026-01-05T00:00:00Z", "targets": [null]}`,
		"20260106T000000.000Z.json":     ``,
		"20260107T000000.000Z.json":     `{"started": "2026-01-07T00:00:00Z", "targets": [{"name": "a", "status": "failed", "wall": 1}]}`,
		"20260108T000000.000Z.json.new": `{`,
		"notes.txt":                     `x`,
	} {
		if err := errors.Join(os.MkdirAll(reportsDir(root), 0o755), os.WriteFile(filepath.Join(reportsDir(root), file), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	reports, damaged, err := Reports(root, 9)
	if err != nil {
		t.Fatal(err)
	}
	var days []int
	for _, r := range reports {
		days = append(days, r.Started.Day())
	}
	if diff := cmp.Diff([]int{7, 2, 1}, days); diff != "" {
		t.Error(diff)
	}
	var text []string
	for _, err := range damaged {
		text = append(text, strings.ReplaceAll(err.Error(), root+"/", ""))
	}
	if diff := cmp.Diff([]string{
		"report build/reports/20260106T000000.000Z.json is damaged: unexpected end of JSON input",
		"report build/reports/20260105T000000.000Z.json is damaged: targets[0] has no name or no status",
		`report build/reports/20260104T000000.000Z.json is damaged: "started" is missing`,
		"report build/reports/20260103T000000.000Z.json is damaged: unexpected end of JSON input",
	}, text); diff != "" {
		t.Error(diff)
	}
	if reports, damaged, _ := Reports(root, 1); len(reports) != 1 || damaged != nil {
		t.Errorf("the last: %v, %v", reports, damaged)
	}
}

// The oldest reports make room; other files are nobody's to remove.
func TestOldReportsGo(t *testing.T) {
	root := t.TempDir()
	dir := reportsDir(root)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	first := time.Date(2026, 11, 23, 10, 20, 30, 0, time.UTC)
	for i := range keptReports + 2 {
		r := newReport(first.Add(time.Duration(i)*time.Second), []*Row{{Name: "packages/a", Status: progress.Cached}}, nil)
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	reports, damaged, err := Reports(root, keptReports+2)
	if err != nil || damaged != nil || len(reports) != keptReports {
		t.Fatalf("%d reports, %v, %v", len(reports), damaged, err)
	}
	if diff := cmp.Diff(first.Add(2*time.Second), reports[keptReports-1].Started); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(dir, "notes.txt")); err != nil {
		t.Error(err)
	}
}

// Builds that begin at once have a report each, and what cannot be written leaves
// none that is half.
func TestReportIsWhole(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"packages/a", "packages/b"} {
		r := newReport(time.Unix(0, int64(i)), []*Row{{Name: name, Status: progress.Cached}}, nil)
		if err := r.write(reportsDir(root)); err != nil {
			t.Fatal(err)
		}
	}
	reports, damaged, err := Reports(root, 3)
	if err != nil || damaged != nil || len(reports) != 2 || reports[0].Targets[0].Name == reports[1].Targets[0].Name {
		t.Errorf("%v, %v, %v", reports, damaged, err)
	}
	entries, err := os.ReadDir(reportsDir(root))
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
	inTheWay := filepath.Join(reportsDir(root), "19700101T000000.000000002Z.json")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := newReport(time.Unix(0, 2), nil, nil).write(reportsDir(root)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if entries, err := os.ReadDir(reportsDir(root)); err != nil || len(entries) != 3 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// The critical path is no longer than all work, no shorter than any target, and a
// chain in which each needs the one before it.
func FuzzReport(f *testing.F) {
	raw, err := json.Marshal(report())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"started": "2026-01-01T00:00:00Z", "targets": [{"name": "a", "status": "built", "wall": 1}, {"name": "a", "status": "failed", "wall": -1}]}`))
	f.Add([]byte(`{"started": "2026-01-01T00:00:00Z", "targets": [null, {}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseReport(raw)
		if err != nil {
			return
		}
		needs := map[string][]string{}
		total, longest := 0.0, 0.0
		for i, row := range r.Targets {
			row.Wall = math.Abs(math.Mod(row.Wall, 1e6))
			for _, other := range r.Targets[:i] {
				if len(other.Name)%2 == i%2 {
					needs[row.Name] = append(needs[row.Name], other.Name)
				}
			}
			if row.worked() {
				total += row.Wall
				longest = max(longest, row.Wall)
			}
		}
		r.sum(func(target string) []string { return needs[target] })
		if p := r.CriticalPath; p.Wall > total*1.000001 || p.Wall < longest {
			t.Errorf("critical path of %v; longest %v, all %v", p.Wall, longest, total)
		}
		for i, name := range r.CriticalPath.Targets {
			if i > 0 && !slices.Contains(needs[name], r.CriticalPath.Targets[i-1]) {
				t.Errorf("%s does not need %s", name, r.CriticalPath.Targets[i-1])
			}
		}
		if r.CacheHitRatio < 0 || r.CacheHitRatio > 1 {
			t.Errorf("cache hit ratio %v", r.CacheHitRatio)
		}
	})
}
