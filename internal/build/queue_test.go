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
			errs := runAll(context.Background(), diamond(), 1, c.keepGoing, func(_ context.Context, j *job) error {
				ran = append(ran, j)
				if j.name == c.fail {
					return boom
				}
				return nil
			}, func(j *job) { skipped = append(skipped, j) })
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

func TestRunAllKeepsToItsSlots(t *testing.T) {
	var jobs []*job
	for range 20 {
		jobs = append(jobs, &job{name: "j"})
	}
	var mu sync.Mutex
	running, most := 0, 0
	both := make(chan struct{})
	var once sync.Once
	errs := runAll(context.Background(), jobs, 2, false, func(context.Context, *job) error {
		mu.Lock()
		running++
		most = max(most, running)
		if running == 2 {
			once.Do(func() { close(both) })
		}
		mu.Unlock()
		<-both // nothing ends before two have run at once
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	}, func(*job) {})
	if most != 2 || errs != nil {
		t.Errorf("%d at once, errors %v", most, errs)
	}
}

func TestRunAllCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var ran, skipped int
	runAll(ctx, diamond(), 1, true, func(context.Context, *job) error {
		ran++
		cancel()
		return context.Cause(ctx)
	}, func(*job) { skipped++ })
	if ran != 1 || skipped != 4 {
		t.Errorf("ran %d, skipped %d", ran, skipped)
	}
}
