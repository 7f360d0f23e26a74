package build

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/procfs"

	"slipway/internal/store"
	"slipway/internal/workspace"
)

// usualRate is how long a byte of packed sources takes to build where nothing is
// known yet: the median of the packages of a small system on a slow machine, 8
// seconds per megabyte.
const usualRate = 8e-6

// expect tells how long targets will take: as long as the last time, which past
// knows, else as the size of their sources in bytes lets guess. One rate turns
// sizes into times, the median of those of the targets that have both, with
// usualRate among them: so guesses and measurements can be compared, on any
// machine, and no odd package spoils the guesses. No time is less than a second.
func expect(sizes map[string]int64, past func(target string) (time.Duration, bool)) map[string]time.Duration {
	rates := []float64{usualRate}
	times := map[string]time.Duration{}
	for name, size := range sizes {
		took, ok := past(name)
		if !ok {
			continue
		}
		times[name] = max(took, time.Second)
		if size > 0 {
			rates = append(rates, took.Seconds()/float64(size))
		}
	}
	slices.Sort(rates)
	rate := (rates[(len(rates)-1)/2] + rates[len(rates)/2]) / 2
	for name, size := range sizes {
		if _, ok := times[name]; !ok {
			times[name] = max(time.Duration(rate*float64(size)*float64(time.Second)), time.Second)
		}
	}
	return times
}

// demand tells how many processors and how many bytes of memory a target keeps
// busy: as its manifest says, else as the last time. Both are 0 when not known.
func demand(declared workspace.PackageBuild, past store.History) (cpus float64, memory int64) {
	if past.Wall > 0 {
		cpus = past.CPU / past.Wall
	}
	return cmp.Or(float64(declared.CPUs), cpus), cmp.Or(declared.MemoryBytes(), past.Memory)
}

// memoryBudget is how many bytes builds may take together on this machine: nine
// tenths of what is available without swapping
// (https://www.kernel.org/doc/html/latest/filesystems/proc.html#meminfo).
func memoryBudget() (int64, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, fmt.Errorf("available memory: %w", err)
	}
	info, err := proc.Meminfo()
	if err != nil {
		return 0, fmt.Errorf("available memory: %w", err)
	}
	if info.MemAvailableBytes == nil {
		return 0, errors.New("available memory: /proc/meminfo has no MemAvailable: give --max-memory")
	}
	return int64(*info.MemAvailableBytes / 10 * 9), nil
}
