// Command rusage runs a command several times, after a first time that only warms
// the caches, and prints the median wall time in seconds and the greatest peak
// resident size in bytes, with a tab between. The command's standard output is
// thrown away.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

func main() {
	times := flag.Int("times", 3, "how often to measure")
	flag.Parse()
	if *times < 1 || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: rusage [-times N] COMMAND [ARG...]")
		os.Exit(2)
	}
	if err := measure(*times, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "rusage:", err)
		os.Exit(1)
	}
}

func measure(times int, args []string) error {
	var walls []time.Duration
	var peak int64
	for i := range times + 1 {
		wall, rss, err := run(args)
		if err != nil {
			return err
		}
		if i > 0 {
			walls, peak = append(walls, wall), max(peak, rss)
		}
	}
	slices.Sort(walls)
	median := (walls[(times-1)/2] + walls[times/2]) / 2
	_, err := fmt.Fprintf(os.Stdout, "%.6f\t%d\n", median.Seconds(), peak)
	return err
}

// run gives the wall time of one run and its peak resident size as wait4(2) tells
// it. That is at least this program's own size, from which it is forked.
func run(args []string) (wall time.Duration, rss int64, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begin := time.Now()
	err = cmd.Run()
	wall = time.Since(begin)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes())
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, errors.New("this system does not tell the resource use of processes")
	}
	return wall, usage.Maxrss << 10, nil
}
