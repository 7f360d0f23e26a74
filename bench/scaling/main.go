// Command scaling reads lines of three numbers from standard input: packages, wall
// seconds, peak resident bytes. It fits a straight line to time and to memory,
// prints how far the measured points are from them, and draws both as an SVG file.
//
// What it prints are three fields a line, with tabs between, for time and memory:
// the name, the slope with its unit, and the greatest deviation of a point from the
// line as a fraction of the line.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// point is one measurement.
type point struct {
	n       float64 // packages
	seconds float64 // wall
	bytes   float64 // peak resident size
}

func main() {
	out := flag.String("svg", "", "SVG file to write")
	title := flag.String("title", "", "what was measured")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Stdout, *out, *title); err != nil {
		fmt.Fprintln(os.Stderr, "scaling:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, svg, title string) error {
	points, err := read(in)
	if err != nil {
		return err
	}
	time := newPanel("wall time, seconds", points, func(p point) float64 { return p.seconds })
	memory := newPanel("peak resident memory, MB", points, func(p point) float64 { return p.bytes / 1e6 })
	fmt.Fprintf(out, "time\t%.4g µs\t%.3f\n", time.line.slope*1e6, time.line.deviation)
	fmt.Fprintf(out, "memory\t%.4g kB\t%.3f\n", memory.line.slope*1e3, memory.line.deviation)
	if svg == "" {
		return nil
	}
	return os.WriteFile(svg, []byte(draw(title, time, memory)), 0o644)
}

func read(in io.Reader) ([]point, error) {
	var points []point
	for {
		var p point
		_, err := fmt.Fscan(in, &p.n, &p.seconds, &p.bytes)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("point %d: %w: want packages, seconds and bytes", len(points)+1, err)
		}
		if p.n <= 0 || p.seconds <= 0 || p.bytes <= 0 {
			return nil, fmt.Errorf("point %d: %v: all numbers are positive", len(points)+1, p)
		}
		points = append(points, p)
	}
	if len(points) < 3 {
		return nil, fmt.Errorf("%d points: a line through fewer than three says nothing", len(points))
	}
	slices.SortFunc(points, func(a, b point) int { return int(math.Copysign(1, a.n-b.n)) })
	return points, nil
}

// line is y = base + slope·x.
type line struct {
	base, slope float64
	deviation   float64 // greatest |y - line| / line of the points
}

func (l line) at(x float64) float64 { return l.base + l.slope*x }

// fit gives the line of least squares of relative errors, so that small x count as
// much as great ones.
func fit(x, y []float64) line {
	var w, wx, wy, wxx, wxy float64
	for i := range x {
		k := 1 / (y[i] * y[i])
		w += k
		wx += k * x[i]
		wy += k * y[i]
		wxx += k * x[i] * x[i]
		wxy += k * x[i] * y[i]
	}
	l := line{slope: (w*wxy - wx*wy) / (w*wxx - wx*wx)}
	l.base = (wy - l.slope*wx) / w
	for i := range x {
		l.deviation = max(l.deviation, math.Abs(y[i]-l.at(x[i]))/math.Abs(l.at(x[i])))
	}
	return l
}
