package build

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
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
	skip    func()        // instead of run, when something it needs failed
	weight  int64         // how long it takes, in whatever unit, as long as it is one
	cpus    float64       // processors that it keeps busy; less than 1 counts as 1
	memory  int64         // bytes that it needs at its peak; 0 when not known
	waited  time.Duration // how long it was ready before it ran; known to run
	needs   []*job        // must end before it may start
	wanted  []*job        // wait for it
	path    int64         // weight of the longest chain of jobs that begins with it
	waiting int           // how many of needs have not ended
	since   time.Time     // when it became ready
	passed  *job          // the job without room that it was started before
	failed  bool          // it or something it needs failed
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

// limits are what bounds the jobs that run at once.
type limits struct {
	slots  [pools]int // jobs of each pool
	cpus   float64    // processors that builds share; 0 is no bound
	memory int64      // bytes that builds may need at their peaks together; 0 is no bound
}

// run runs every job once what it needs has ended well, the longest chain first,
// as many at a time as the limits admit. After a failure no further job is
// started, unless keepGoing, but those that run may end: their work is kept. Jobs
// that need a failed one are skipped. It returns the errors in the order in which
// they came up.
func (l limits) run(ctx context.Context, jobs []*job, keepGoing bool) []error {
	measure(jobs)
	q := &queue{limits: l}
	for _, j := range jobs {
		if j.waiting = len(j.needs); j.waiting == 0 {
			q.add(j)
		}
	}
	done := make(chan outcome)
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
				q.add(w)
			}
		}
	}
	for {
		for p := range pools {
			if ctx.Err() != nil || (len(errs) > 0 && !keepGoing) {
				for len(q.ready[p]) > 0 {
					j := q.ready[p][0]
					q.ready[p] = q.ready[p][1:]
					j.skip()
					release(j, true)
				}
				continue
			}
			for j := q.next(p); j != nil; j = q.next(p) {
				j.waited = time.Since(j.since)
				go func() { done <- outcome{j, j.run(ctx)} }()
			}
		}
		if len(q.running) == 0 {
			return errs // a job that runs alone always has room, so none is ready
		}
		o := <-done
		q.running = slices.DeleteFunc(q.running, func(j *job) bool { return j == o.job })
		if o.err != nil {
			errs = append(errs, o.err)
		}
		release(o.job, o.err != nil)
	}
}

// queue holds the jobs that may start, and those that have.
type queue struct {
	limits
	ready   [pools][]*job // the longest chain first
	running []*job
}

func (q *queue) add(j *job) {
	j.since = time.Now()
	r := q.ready[j.pool]
	at, _ := slices.BinarySearchFunc(r, j, func(a, b *job) int {
		return cmp.Or(cmp.Compare(b.path, a.path), strings.Compare(a.name, b.name))
	})
	q.ready[j.pool] = slices.Insert(r, at, j)
}

// next takes the job of a pool that is to start now; nil when there is none.
//
// Builds are admitted as long as a processor is expected to be idle, even if the
// next keeps more than that one busy: the sandboxes share one budget of jobs, so
// that too many packages at once cost little, and idle processors much. Every
// package counts as one processor or more, because what it was measured to use
// beside others is less than what it could use.
//
// Memory is admitted by sum. A job with the longest chain but without room does
// not keep smaller ones from starting, as long as they leave the room that it
// waits for.
func (q *queue) next(p pool) *job {
	n := 0
	cpus := 0.0
	for _, j := range q.running {
		if j.pool == p {
			n++
			cpus += max(j.cpus, 1)
		}
	}
	if n >= q.slots[p] || (p == poolBuild && q.cpus > 0 && n > 0 && cpus >= q.cpus) {
		return nil
	}
	var held *job
	for i, j := range q.ready[p] {
		if q.room(j, held) {
			q.ready[p] = slices.Delete(q.ready[p], i, i+1)
			q.running = append(q.running, j)
			j.passed = held
			return j
		}
		if held == nil {
			held = j
		}
	}
	return nil
}

// room tells whether there is memory for a job, and afterwards still for held
// once those have ended that ran when held was first passed over. A job that
// needs more than there is runs alone.
func (q *queue) room(j, held *job) bool {
	if j.pool != poolBuild || q.memory <= 0 {
		return true
	}
	used, beside, alone := j.memory, j.memory, true
	for _, r := range q.running {
		if r.pool != poolBuild {
			continue
		}
		alone = false
		used += r.memory
		if r.passed == held {
			beside += r.memory
		}
	}
	switch {
	case alone:
		return true
	case used > q.memory:
		return false
	}
	return held == nil || held.memory+beside <= q.memory
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
