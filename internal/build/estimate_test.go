package build

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"slipway/internal/store"
	"slipway/internal/workspace"
)

func TestExpect(t *testing.T) {
	const mega = 1_000_000
	s := time.Second
	for name, c := range map[string]struct {
		sizes map[string]int64
		past  map[string]time.Duration
		want  map[string]time.Duration
	}{
		"nothing known": {
			sizes: map[string]int64{"linux": 100 * mega, "own": 0},
			want:  map[string]time.Duration{"linux": 800 * s, "own": s},
		},
		"all known, some without sources": {
			sizes: map[string]int64{"linux": 100 * mega, "image": 0, "tiny": 10},
			past:  map[string]time.Duration{"linux": 30 * s, "image": 9 * s, "tiny": time.Millisecond},
			want:  map[string]time.Duration{"linux": 30 * s, "image": 9 * s, "tiny": s},
		},
		"a machine that is ten times faster": {
			sizes: map[string]int64{"a": mega, "b": 2 * mega, "c": 3 * mega, "new": 10 * mega},
			past:  map[string]time.Duration{"a": 1 * s, "b": 2 * s, "c": 3 * s},
			want:  map[string]time.Duration{"a": 1 * s, "b": 2 * s, "c": 3 * s, "new": 10 * s},
		},
		"one odd package": {
			sizes: map[string]int64{"a": mega, "b": mega, "odd": mega, "new": 10 * mega},
			past:  map[string]time.Duration{"a": 2 * s, "b": 4 * s, "odd": 4000 * s},
			want:  map[string]time.Duration{"a": 2 * s, "b": 4 * s, "odd": 4000 * s, "new": 60 * s},
		},
		"history of others": {
			sizes: map[string]int64{"new": 10 * mega},
			past:  map[string]time.Duration{"gone": 1 * s},
			want:  map[string]time.Duration{"new": 80 * s},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := expect(c.sizes, func(name string) (time.Duration, bool) { d, ok := c.past[name]; return d, ok })
			for name := range got {
				got[name] = got[name].Round(time.Millisecond)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDemand(t *testing.T) {
	measured := store.History{Wall: 100, CPU: 250, Memory: 5 << 30}
	for name, c := range map[string]struct {
		declared workspace.PackageBuild
		past     store.History
		cpus     float64
		memory   int64
	}{
		"not known":             {},
		"measured":              {past: measured, cpus: 2.5, memory: 5 << 30},
		"declared":              {declared: workspace.PackageBuild{CPUs: 8, Memory: "6GiB"}, past: measured, cpus: 8, memory: 6 << 30},
		"memory alone declared": {declared: workspace.PackageBuild{Memory: "512MiB"}, past: measured, cpus: 2.5, memory: 512 << 20},
		"took no time":          {past: store.History{CPU: 1}},
	} {
		if cpus, memory := demand(c.declared, c.past); cpus != c.cpus || memory != c.memory {
			t.Errorf("%s: %v processors, %d bytes", name, cpus, memory)
		}
	}
}

func TestMemoryBudget(t *testing.T) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	total := int64(info.Totalram) * int64(info.Unit)
	if n, err := memoryBudget(); err != nil || n < 1<<20 || n > total {
		t.Errorf("%d of %d bytes, %v", n, total, err)
	}
}
