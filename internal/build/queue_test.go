package build

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

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
			errs := runAll(context.Background(), jobs, [pools]int{1, 1}, c.keepGoing)
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
	errs := runAll(context.Background(), jobs, slots, false)
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
	runAll(ctx, jobs, [pools]int{1, 1}, true)
	if ran != 1 || skipped != 4 {
		t.Errorf("ran %d, skipped %d", ran, skipped)
	}
}
