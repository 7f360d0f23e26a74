package graph

import (
	"fmt"
	"slices"
	"strings"
)

// order sorts the targets so that each comes after its dependencies, and reports
// the cycles. It is Tarjan's algorithm, which yields the strongly connected
// components of the nodes with the dependencies first. RPMs may require each
// other in a circle; a component that also holds a target is a real cycle.
func (l *linker) order() {
	var (
		number = make([]int32, len(l.nodes)) // order of discovery, from 1
		low    = make([]int32, len(l.nodes))
		open   = make([]bool, len(l.nodes))
		stack  []int32
		next   int32
		visit  func(n int32)
	)
	visit = func(n int32) {
		next++
		number[n], low[n] = next, next
		stack, open[n] = append(stack, n), true
		for _, e := range l.nodes[n] {
			if number[e.to] == 0 {
				visit(e.to)
				low[n] = min(low[n], low[e.to])
			} else if open[e.to] {
				low[n] = min(low[n], number[e.to])
			}
		}
		if low[n] != number[n] {
			return
		}
		at := len(stack) - 1
		for stack[at] != n {
			at--
		}
		component := stack[at:]
		stack = stack[:at]
		for _, c := range component {
			open[c] = false
		}
		l.component(component)
	}
	for n := range l.nodes {
		if number[n] == 0 {
			visit(int32(n))
		}
	}
}

func (l *linker) component(nodes []int32) {
	slices.Sort(nodes) // targets first
	if len(nodes) > 1 && int(nodes[0]) < len(l.Targets) {
		l.cycle(nodes)
	}
	for _, n := range nodes {
		if int(n) < len(l.Targets) {
			l.topo = append(l.topo, l.Targets[n])
		}
	}
}

// cycle reports the shortest way from the first target of a component back to
// itself.
func (l *linker) cycle(nodes []int32) {
	type step struct {
		from int32
		edge edge
	}
	within := map[int32]bool{}
	for _, n := range nodes {
		within[n] = true
	}
	start := nodes[0]
	came := map[int32]step{}
	for queue := []int32{start}; len(queue) > 0; queue = queue[1:] {
		for _, e := range l.nodes[queue[0]] {
			if _, seen := came[e.to]; !seen && within[e.to] {
				came[e.to] = step{queue[0], e}
				queue = append(queue, e.to)
			}
		}
	}
	var steps []step
	for n := start; len(steps) == 0 || n != start; {
		s := came[n]
		steps = append(steps, s)
		n = s.from
	}
	slices.Reverse(steps)

	path := []string{l.owner(start).Name}
	var lines []string
	for _, s := range steps {
		to := l.owner(s.edge.to)
		if s.edge.text == "" || s.edge.tag == "Requires" && to == l.owner(s.from) {
			continue // from an RPM to its own spec, or within it
		}
		path = append(path, to.Name)
		lines = append(lines, fmt.Sprintf("%s %s: %s", s.edge.pos, s.edge.tag, s.edge.text))
	}
	l.find(steps[0].edge.pos, steps[0].edge.tag, "dependency cycle: "+strings.Join(path, " → "),
		strings.Join(lines, "; ")+"; one of these must go")
}
