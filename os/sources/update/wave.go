package update

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// Seeds is how finely the hosts of a fleet are told apart: each has a seed of 0
// to Seeds-1 that it drew once.
const Seeds = 2048

// Waves say when which part of a fleet may update: bounds of seeds, 0 to Seeds,
// with the time at which the hosts below the bound have become ready. Between
// two bounds hosts become ready evenly by their seed. After the last bound all
// that remain are ready at its time. Without any bounds every host is ready.
// Times are whole seconds.
type Waves map[int]time.Time

// Check tells what is wrong with the waves: they begin at bound 0, stay within
// 0 to Seeds, and later bounds do not come earlier.
func (w Waves) Check() error {
	bounds := w.Bounds()
	if len(bounds) == 0 {
		return nil
	}
	if bounds[0] != 0 {
		return fmt.Errorf("the first bound of the waves is %d: want 0", bounds[0])
	}
	for i, b := range bounds {
		switch {
		case b > Seeds:
			return fmt.Errorf("bound %d of the waves: want at most %d", b, Seeds)
		case w[b].Nanosecond() != 0:
			return fmt.Errorf("bound %d of the waves: %s is not a whole second", b, w[b].Format(time.RFC3339Nano))
		case i > 0 && w[b].Before(w[bounds[i-1]]):
			return fmt.Errorf("bound %d of the waves (%s) comes before bound %d (%s)",
				b, w[b].Format(time.RFC3339), bounds[i-1], w[bounds[i-1]].Format(time.RFC3339))
		}
	}
	return nil
}

// Bounds are the bounds in ascending order.
func (w Waves) Bounds() []int {
	bounds := make([]int, 0, len(w))
	for b := range w {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	return bounds
}

// WaveTime is when a host with the seed becomes ready: the time of a bound
// exactly at the bound, and in between the share of the wave's duration that
// the seed's distance from the lower bound is of the wave's width, in whole
// seconds. Seeds outside 0 to Seeds-1 count as the nearest of these. The time is
// zero, hence in the past, without waves.
func (w Waves) WaveTime(seed int) time.Time {
	bounds := w.Bounds()
	if len(bounds) == 0 {
		return time.Time{}
	}
	seed = min(max(seed, 0), Seeds-1)
	next, found := slices.BinarySearch(bounds, seed)
	switch {
	case found:
		return w[seed]
	case next == 0:
		return w[bounds[0]]
	case next == len(bounds):
		return w[bounds[next-1]]
	}
	low, high := bounds[next-1], bounds[next]
	// Whole seconds, since nanoseconds times 2048 overflow after 52 days.
	seconds := w[high].Unix() - w[low].Unix()
	return w[low].Add(time.Duration(seconds*int64(seed-low)/int64(high-low)) * time.Second)
}

// Shift puts off what is still to come: hosts that were ready at the time pause
// are ready at resume, the others become ready later by the time between. Both
// times are cut to whole seconds.
func (w Waves) Shift(pause, resume time.Time) Waves {
	pause, resume = pause.UTC().Truncate(time.Second), resume.UTC().Truncate(time.Second)
	if len(w) == 0 || !resume.After(pause) {
		return w
	}
	waiting := sort.Search(Seeds, func(seed int) bool { return w.WaveTime(seed).After(pause) })
	if waiting == Seeds {
		return w
	}
	// A bound at the first host that waits cuts its wave in two: without it the
	// hosts before it would be put off as well.
	by := resume.Sub(pause)
	shifted := Waves{waiting: w.WaveTime(waiting).Add(by)}
	for b, t := range w {
		if b >= waiting {
			t = t.Add(by)
		}
		shifted[b] = t
	}
	return shifted
}
