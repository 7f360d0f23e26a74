package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sizes = []float64{1000, 2000, 5000, 10000, 20000, 50000}

func TestFit(t *testing.T) {
	tests := []struct {
		name         string
		y            func(x float64) float64
		below, above float64 // bounds of the deviation
	}{
		{"straight", func(x float64) float64 { return 0.05 + 2e-5*x }, 1e-9, -1},
		{"five percent of noise", func(x float64) float64 { return 1 + 0.01*x*(1+0.05*math.Sin(x)) }, 0.1, -1},
		{"growing with the logarithm", func(x float64) float64 { return x * math.Log2(x) }, 1, 0.08},
		{"5/3", func(x float64) float64 { return math.Pow(x, 5.0/3) }, math.Inf(1), 0.5},
		{"square", func(x float64) float64 { return x * x }, math.Inf(1), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var y []float64
			for _, x := range sizes {
				y = append(y, tt.y(x))
			}
			if l := fit(sizes, y); l.deviation >= tt.below || l.deviation <= tt.above {
				t.Errorf("deviation %g, want between %g and %g", l.deviation, tt.above, tt.below)
			}
		})
	}
}

func TestTicks(t *testing.T) {
	tests := []struct {
		greatest float64
		want     []float64
	}{
		{50000, []float64{0, 10000, 20000, 30000, 40000, 50000}},
		{1, []float64{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1}},
		{6.2, []float64{0, 2, 4, 6, 8}},
		{480, []float64{0, 100, 200, 300, 400, 500}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, ticks(tt.greatest)); diff != "" {
			t.Errorf("ticks(%g): %s", tt.greatest, diff)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.6000000000000001: "0.6", 500: "500", 10000: "10,000", 1250.5: "1,250.5"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %q, want %q", v, got, want)
		}
	}
}

func TestRun(t *testing.T) {
	var out strings.Builder
	svg := t.TempDir() + "/out.svg"
	if err := run(strings.NewReader("1000 0.1 10e6\n3000 0.3 30e6\n2000 0.2 20e6\n"), &out, svg, "a < b"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("time\t100 µs\t0.000\nmemory\t10 kB\t0.000\n", out.String()); diff != "" {
		t.Error(diff)
	}
	if err := run(strings.NewReader("1000 0.1 10e6\n"), &out, "", ""); err == nil {
		t.Error("no error for a single point")
	}
	if err := run(strings.NewReader("1000 x 10e6\n"), &out, "", ""); err == nil {
		t.Error("no error for what is no number")
	}
}

func TestDrawIsXML(t *testing.T) {
	points := []point{{1000, 0.1, 1e7}, {2000, 0.2, 2e7}, {4000, 0.41, 4e7}}
	d := xml.NewDecoder(strings.NewReader(draw("a < b", newPanel("t", points, func(p point) float64 { return p.seconds }))))
	circles := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if circles != len(points) {
		t.Errorf("%d points are drawn, want %d", circles, len(points))
	}
}
