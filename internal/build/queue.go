package build

import (
	"context"
	"slices"
	"strings"
)

// job is a target in the ready queue.
type job struct {
	name    string
	weight  int64  // how long it takes, in whatever unit, as long as it is one
	needs   []*job // must end before it may start
	wanted  []*job // wait for it
	path    int64  // weight of the longest chain of jobs that begins with it
	waiting int    // how many of needs have not ended
	failed  bool   // it or something it needs failed
}

// link makes a wait for needs.
func link(j *job, needs ...*job) {
	for _, n := range needs {
		if !slices.Contains(j.needs, n) {
			j.needs = append(j.needs, n)
			n.wanted = append(n.wanted, j)
		}
	}
}

// outcome is what running a job came to.
type outcome struct {
	job *job
	err error
}

// runAll runs every job once what it needs has ended well, the longest chain
// first, at most slots at a time. After a failure no further job is started,
// unless keepGoing, but those that run may end: their work is kept. Jobs that
// need a failed one are skipped. It returns the errors in the order in which
// they came up.
func runAll(ctx context.Context, jobs []*job, slots int, keepGoing bool, run func(context.Context, *job) error, skip func(*job)) []error {
	measure(jobs)
	var ready []*job
	for _, j := range jobs {
		j.waiting = len(j.needs)
		if j.waiting == 0 {
			ready = append(ready, j)
		}
	}
	done := make(chan outcome)
	running := 0
	var errs []error
	var release func(j *job, failed bool)
	release = func(j *job, failed bool) {
		j.failed = j.failed || failed
		for _, w := range j.wanted {
			w.failed = w.failed || j.failed
			if w.waiting--; w.waiting > 0 {
				continue
			}
			if w.failed {
				skip(w)
				release(w, true)
			} else {
				ready = append(ready, w)
			}
		}
	}
	for len(ready) > 0 || running > 0 {
		for len(ready) > 0 && running < slots {
			slices.SortStableFunc(ready, func(a, b *job) int {
				if a.path != b.path {
					return int(min(max(b.path-a.path, -1), 1))
				}
				return strings.Compare(a.name, b.name)
			})
			j := ready[0]
			ready = ready[1:]
			if ctx.Err() != nil || (len(errs) > 0 && !keepGoing) {
				skip(j)
				release(j, true)
				continue
			}
			running++
			go func() { done <- outcome{j, run(ctx, j)} }()
		}
		if running == 0 {
			continue
		}
		o := <-done
		running--
		if o.err != nil {
			errs = append(errs, o.err)
		}
		release(o.job, o.err != nil)
	}
	return errs
}

// measure fills in path, from the jobs that nothing waits for downwards.
func measure(jobs []*job) {
	known := map[*job]bool{}
	var visit func(*job) int64
	visit = func(j *job) int64 {
		if !known[j] {
			known[j] = true
			var longest int64
			for _, w := range j.wanted {
				longest = max(longest, visit(w))
			}
			j.path = j.weight + longest
		}
		return j.path
	}
	for _, j := range jobs {
		visit(j)
	}
}
