package build

import (
	stdcmp "cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// diamond: top needs left and right, both need base; alone needs nothing.
func diamond() []*job {
	base := &job{name: "base", weight: 5}
	left := &job{name: "left", weight: 1}
	right := &job{name: "right", weight: 9}
	top := &job{name: "top", weight: 1}
	alone := &job{name: "alone", weight: 12}
	link(left, base)
	link(right, base, base)
	link(top, left, right)
	return []*job{alone, base, left, right, top}
}

func names(jobs []*job) (out []string) {
	for _, j := range jobs {
		out = append(out, j.name)
	}
	return out
}

func TestRunAll(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fail      string
		keepGoing bool
		ran       []string
		skipped   []string
		errs      int
	}{
		"all well, longest chain first": {ran: []string{"base", "alone", "right", "left", "top"}},
		"failure stops":                 {fail: "base", ran: []string{"base"}, skipped: []string{"alone", "left", "right", "top"}, errs: 1},
		"keep going":                    {fail: "base", keepGoing: true, ran: []string{"base", "alone"}, skipped: []string{"left", "right", "top"}, errs: 1},
		"failure in the middle":         {fail: "right", keepGoing: true, ran: []string{"base", "alone", "right", "left"}, skipped: []string{"top"}, errs: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var ran, skipped []*job
			jobs := diamond()
			for _, j := range jobs {
				j.run = func(context.Context) error {
					ran = append(ran, j)
					if j.name == c.fail {
						return boom
					}
					return nil
				}
				j.skip = func() { skipped = append(skipped, j) }
			}
			errs := limits{slots: [pools]int{1, 1}}.run(context.Background(), jobs, c.keepGoing)
			if diff := cmp.Diff(c.ran, names(ran)); diff != "" {
				t.Errorf("ran: %s", diff)
			}
			slices.SortFunc(skipped, func(a, b *job) int { return slices.Compare([]string{a.name}, []string{b.name}) })
			if diff := cmp.Diff(c.skipped, names(skipped)); diff != "" {
				t.Errorf("skipped: %s", diff)
			}
			if len(errs) != c.errs {
				t.Errorf("errors: %v", errs)
			}
		})
	}
}

// Of each pool as many run at once as it has slots, beside each other.
func TestRunAllKeepsToItsSlots(t *testing.T) {
	slots := [pools]int{poolBuild: 2, poolFetch: 3}
	var mu sync.Mutex
	var running, most [pools]int
	full := make(chan struct{})
	var jobs []*job
	for n := range 40 {
		j := &job{name: "j", pool: pool(n % 2), skip: func() {}}
		j.run = func(context.Context) error {
			mu.Lock()
			running[j.pool]++
			most[j.pool] = max(most[j.pool], running[j.pool])
			if running == slots {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			mu.Unlock()
			<-full // nothing ends before all slots were taken at once
			mu.Lock()
			running[j.pool]--
			mu.Unlock()
			return nil
		}
		jobs = append(jobs, j)
	}
	errs := limits{slots: slots}.run(context.Background(), jobs, false)
	if most != slots || errs != nil {
		t.Errorf("%v at once, errors %v", most, errs)
	}
}

func TestRunAllCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ran, skipped int
	jobs := diamond()
	for _, j := range jobs {
		j.run = func(context.Context) error {
			ran++
			cancel()
			return context.Cause(ctx)
		}
		j.skip = func() { skipped++ }
	}
	limits{slots: [pools]int{1, 1}}.run(ctx, jobs, true)
	if ran != 1 || skipped != 4 {
		t.Errorf("ran %d, skipped %d", ran, skipped)
	}
}

// timed makes a job that takes seconds of the test's own time, and notes in log
// when it starts: "name@second".
func timed(log *[]string, mu *sync.Mutex, name string, seconds int) *job {
	begin := time.Now()
	j := &job{name: name, weight: int64(seconds), skip: func() {}}
	j.run = func(context.Context) error {
		mu.Lock()
		*log = append(*log, fmt.Sprintf("%s@%d", name, int(time.Since(begin).Seconds())))
		mu.Unlock()
		time.Sleep(time.Duration(seconds) * time.Second)
		return nil
	}
	return j
}

func TestAdmission(t *testing.T) {
	type spec struct {
		name         string
		seconds      int
		cpus, memory int
		needs        string
	}
	for name, c := range map[string]struct {
		limits limits
		jobs   []spec
		want   string
	}{
		"slots bound packages": {
			limits: limits{slots: [pools]int{2, 1}, cpus: 64},
			jobs:   []spec{{name: "a", seconds: 4}, {name: "b", seconds: 3}, {name: "c", seconds: 2}},
			want:   "a@0 b@0 c@3",
		},
		"as many packages as idle processors, the last may want more": {
			limits: limits{slots: [pools]int{9, 1}, cpus: 4},
			jobs:   []spec{{name: "a", seconds: 9, cpus: 2}, {name: "b", seconds: 8}, {name: "c", seconds: 7, cpus: 3}, {name: "d", seconds: 1}},
			want:   "a@0 b@0 c@0 d@7",
		},
		"one that keeps all busy is alone": {
			limits: limits{slots: [pools]int{9, 1}, cpus: 2},
			jobs:   []spec{{name: "a", seconds: 9, cpus: 2}, {name: "b", seconds: 8}},
			want:   "a@0 b@9",
		},
		"measured below one processor counts as one": {
			limits: limits{slots: [pools]int{9, 1}, cpus: 2},
			jobs:   []spec{{name: "a", seconds: 9}, {name: "b", seconds: 8}, {name: "c", seconds: 1}},
			want:   "a@0 b@0 c@8",
		},
		"memory by sum": {
			limits: limits{slots: [pools]int{9, 1}, memory: 10},
			jobs:   []spec{{name: "a", seconds: 9, memory: 6}, {name: "b", seconds: 8, memory: 4}, {name: "c", seconds: 1, memory: 1}},
			want:   "a@0 b@0 c@8",
		},
		"smaller ones pass one without room": {
			limits: limits{slots: [pools]int{9, 1}, memory: 10},
			jobs:   []spec{{name: "a", seconds: 9, memory: 6}, {name: "b", seconds: 8, memory: 6}, {name: "c", seconds: 2, memory: 4}, {name: "d", seconds: 1, memory: 4}},
			want:   "a@0 c@0 d@2 b@9",
		},
		"but leave the room that it waits for": {
			limits: limits{slots: [pools]int{9, 1}, memory: 10},
			jobs:   []spec{{name: "a", seconds: 9, memory: 6}, {name: "b", seconds: 8, memory: 8}, {name: "c", seconds: 2, memory: 4}, {name: "d", seconds: 1, memory: 2}, {name: "e", seconds: 1}},
			want:   "a@0 d@0 e@0 b@9 c@17",
		},
		"more than there is runs alone": {
			limits: limits{slots: [pools]int{9, 1}, memory: 10},
			jobs:   []spec{{name: "a", seconds: 9, memory: 2}, {name: "b", seconds: 8, memory: 99}, {name: "c", seconds: 2, memory: 1}, {name: "d", seconds: 1}},
			want:   "a@0 b@9 c@17 d@17",
		},
		"a chain without room is not starved by what becomes ready": {
			limits: limits{slots: [pools]int{2, 1}, memory: 10},
			jobs: []spec{
				{name: "a", seconds: 3, memory: 5}, {name: "long", seconds: 100, memory: 9},
				{name: "s1", seconds: 2, memory: 5}, {name: "s2", seconds: 2, memory: 5}, {name: "s3", seconds: 2, memory: 5},
			},
			want: "long@0 a@100 s1@100 s2@102 s3@103",
		},
		"ready later, it waits only for what runs": {
			limits: limits{slots: [pools]int{2, 1}, memory: 10},
			jobs: []spec{
				{name: "first", seconds: 1, memory: 5}, {name: "long", seconds: 100, memory: 9, needs: "first"},
				{name: "s1", seconds: 5, memory: 5}, {name: "s2", seconds: 5, memory: 5}, {name: "s3", seconds: 5, memory: 5}, {name: "s4", seconds: 3, memory: 1},
			},
			want: "first@0 s1@0 s4@1 long@5 s2@105 s3@105",
		},
		"no limits": {
			limits: limits{slots: [pools]int{9, 1}},
			jobs:   []spec{{name: "a", seconds: 9, memory: 99, cpus: 99}, {name: "b", seconds: 8, memory: 99}},
			want:   "a@0 b@0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log []string
				var mu sync.Mutex
				byName := map[string]*job{}
				var jobs []*job
				for _, s := range c.jobs {
					j := timed(&log, &mu, s.name, s.seconds)
					j.cpus, j.memory = float64(s.cpus), int64(s.memory)
					if s.needs != "" {
						link(j, byName[s.needs])
					}
					byName[s.name] = j
					jobs = append(jobs, j)
				}
				if errs := c.limits.run(t.Context(), jobs, false); errs != nil {
					t.Fatal(errs)
				}
				// those that start in the same second start in any order
				slices.SortStableFunc(log, func(a, b string) int {
					at := func(s string) (n int) { fmt.Sscanf(s[strings.Index(s, "@"):], "@%d", &n); return n }
					return stdcmp.Or(at(a)-at(b), strings.Compare(a, b))
				})
				if diff := cmp.Diff(strings.Fields(c.want), log); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A job knows how long it was ready before it ran.
func TestWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		var mu sync.Mutex
		a, b, c := timed(&log, &mu, "a", 5), timed(&log, &mu, "b", 3), timed(&log, &mu, "c", 1)
		link(c, b)
		limits{slots: [pools]int{1, 1}}.run(t.Context(), []*job{c, b, a}, false)
		got := []time.Duration{a.waited, b.waited, c.waited}
		if diff := cmp.Diff([]time.Duration{0, 5 * time.Second, 0}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// However jobs and limits are, each job runs once, after what it needs, and the
// limits are kept.
func TestLimitsHold(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			l := limits{slots: [pools]int{1 + r.IntN(6), 1 + r.IntN(3)}, cpus: float64(r.IntN(8)), memory: int64(r.IntN(3) * 10)}
			var mu sync.Mutex
			running, ended := map[*job]bool{}, map[*job]bool{}
			var jobs []*job
			for n := range 40 {
				j := &job{name: fmt.Sprint("j", n), weight: int64(r.IntN(9)), pool: pool(r.IntN(int(pools))), cpus: 3 * r.Float64(), memory: int64(r.IntN(12)), skip: func() {}}
				if n > 0 && r.IntN(2) == 0 {
					link(j, jobs[r.IntN(n)], jobs[r.IntN(n)])
				}
				took := time.Duration(1+r.IntN(9)) * time.Second
				j.run = func(context.Context) error {
					mu.Lock()
					running[j] = true
					var count [pools]int
					var builds, memory int64
					for o := range running {
						count[o.pool]++
						if o.pool == poolBuild {
							builds++
							memory += o.memory
						}
					}
					for p := range pools {
						if count[p] > l.slots[p] {
							t.Errorf("seed %d: %d jobs in %d slots", seed, count[p], l.slots[p])
						}
					}
					if l.memory > 0 && memory > l.memory && builds > 1 {
						t.Errorf("seed %d: %d bytes of %d", seed, memory, l.memory)
					}
					if l.cpus > 0 && float64(builds) > max(l.cpus, 1) {
						t.Errorf("seed %d: %d builds on %v processors", seed, builds, l.cpus)
					}
					for _, n := range j.needs {
						if !ended[n] {
							t.Errorf("seed %d: %s before %s", seed, j.name, n.name)
						}
					}
					mu.Unlock()
					time.Sleep(took)
					mu.Lock()
					defer mu.Unlock()
					delete(running, j)
					if ended[j] {
						t.Errorf("seed %d: %s ran twice", seed, j.name)
					}
					ended[j] = true
					return nil
				}
				jobs = append(jobs, j)
			}
			if errs := l.run(t.Context(), jobs, false); errs != nil || len(ended) != len(jobs) {
				t.Errorf("seed %d: %d of %d ran, %v", seed, len(ended), len(jobs), errs)
			}
		})
	}
}
