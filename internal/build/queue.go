package build

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// pool is what bounds how many jobs of a kind run at once.
type pool int

const (
	poolBuild pool = iota // processors
	poolFetch             // the network
	pools
)

// job is a piece of work in the ready queue: building a target, or fetching its
// sources.
type job struct {
	name    string
	pool    pool
	run     func(context.Context) error
	skip    func() // instead of run, when something it needs failed
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
// first, of each pool as many at a time as it has slots. After a failure no
// further job is started, unless keepGoing, but those that run may end: their
// work is kept. Jobs that need a failed one are skipped. It returns the errors in
// the order in which they came up.
func runAll(ctx context.Context, jobs []*job, slots [pools]int, keepGoing bool) []error {
	measure(jobs)
	var ready [pools][]*job
	for _, j := range jobs {
		j.waiting = len(j.needs)
		if j.waiting == 0 {
			ready[j.pool] = append(ready[j.pool], j)
		}
	}
	done := make(chan outcome)
	var running [pools]int
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
				w.skip()
				release(w, true)
			} else {
				ready[w.pool] = append(ready[w.pool], w)
			}
		}
	}
	for {
		for p := range pools {
			slices.SortStableFunc(ready[p], func(a, b *job) int {
				return cmp.Or(cmp.Compare(b.path, a.path), strings.Compare(a.name, b.name))
			})
			for len(ready[p]) > 0 && running[p] < slots[p] {
				j := ready[p][0]
				ready[p] = ready[p][1:]
				if ctx.Err() != nil || (len(errs) > 0 && !keepGoing) {
					j.skip()
					release(j, true)
					continue
				}
				running[p]++
				go func() { done <- outcome{j, j.run(ctx)} }()
			}
		}
		if running == [pools]int{} {
			if slices.ContainsFunc(ready[:], func(r []*job) bool { return len(r) > 0 }) {
				continue // skipping made others ready
			}
			return errs
		}
		o := <-done
		running[o.job.pool]--
		if o.err != nil {
			errs = append(errs, o.err)
		}
		release(o.job, o.err != nil)
	}
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
