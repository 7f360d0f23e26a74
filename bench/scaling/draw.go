package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// panel is one diagram: a quantity against the number of packages.
type panel struct {
	label string
	x, y  []float64
	line  line
}

func newPanel(label string, points []point, of func(point) float64) panel {
	p := panel{label: label}
	for _, pt := range points {
		p.x, p.y = append(p.x, pt.n), append(p.y, of(pt))
	}
	p.line = fit(p.x, p.y)
	return p
}

// Sizes in the units of the drawing.
const (
	plotWidth, plotHeight = 300.0, 220.0
	marginLeft, marginTop = 64.0, 40.0
	panelWidth            = marginLeft + plotWidth + 24
	panelHeight           = marginTop + plotHeight + 48
)

// The colours serve on white and on black.
const style = `
text { font: 12px sans-serif; fill: #24292f }
.title { font-weight: bold }
.axis { stroke: #57606a; fill: none }
.grid { stroke: #d0d7de; fill: none }
.line { stroke: #0969da; stroke-width: 1.5; stroke-dasharray: 5 3; fill: none }
.point { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .axis { stroke: #8b949e }
  .grid { stroke: #30363d }
  .line { stroke: #58a6ff }
  .point { fill: #58a6ff }
}
`

// draw gives an SVG 1.1 document with the panels side by side.
func draw(title string, panels ...panel) string {
	var b strings.Builder
	width := panelWidth * float64(len(panels))
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" role=\"img\">\n", width, panelHeight, width, panelHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n<style>%s</style>\n", escape(title), style)
	fmt.Fprintf(&b, "<text class=\"title\" x=\"%g\" y=\"16\" text-anchor=\"middle\">%s</text>\n", width/2, escape(title))
	for i, p := range panels {
		fmt.Fprintf(&b, "<g transform=\"translate(%g %g)\">\n", marginLeft+float64(i)*panelWidth, marginTop)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder) {
	xs, ys := ticks(slices.Max(p.x)), ticks(max(slices.Max(p.y), p.line.at(slices.Max(p.x))))
	x := func(v float64) float64 { return plotWidth * v / xs[len(xs)-1] }
	y := func(v float64) float64 { return plotHeight * (1 - v/ys[len(ys)-1]) }
	for _, t := range ys {
		fmt.Fprintf(b, "<path class=\"grid\" d=\"M0 %.1fH%g\"/>\n", y(t), plotWidth)
		fmt.Fprintf(b, "<text x=\"-6\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", y(t)+4, number(t))
	}
	for _, t := range xs {
		fmt.Fprintf(b, "<path class=\"axis\" d=\"M%.1f %gv4\"/>\n", x(t), plotHeight)
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", x(t), plotHeight+18, number(t))
	}
	fmt.Fprintf(b, "<path class=\"axis\" d=\"M0 0V%gH%g\"/>\n", plotHeight, plotWidth)
	fmt.Fprintf(b, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">packages</text>\n", plotWidth/2, plotHeight+38)
	fmt.Fprintf(b, "<text x=\"0\" y=\"-10\">%s</text>\n", escape(p.label))
	first, last := p.x[0], p.x[len(p.x)-1]
	fmt.Fprintf(b, "<path class=\"line\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", x(first), y(p.line.at(first)), x(last), y(p.line.at(last)))
	for i := range p.x {
		fmt.Fprintf(b, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", x(p.x[i]), y(p.y[i]))
	}
}

// ticks are round numbers from 0 to the first that is not below greatest, which is
// positive.
func ticks(greatest float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(greatest)))
	for _, part := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if greatest <= 5.5*step*part {
			step *= part
			break
		}
	}
	list := []float64{0}
	for n := 1; list[len(list)-1] < greatest; n++ {
		list = append(list, float64(n)*step)
	}
	return list
}

// number writes a number as people read it: "10,000", "0.5".
func number(v float64) string {
	text := strconv.FormatFloat(v, 'g', 6, 64)
	whole, part, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if part != "" {
		whole += "." + part
	}
	return whole
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // to memory
	return b.String()
}
