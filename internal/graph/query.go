package graph

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"slipway/internal/workspace"
)

// ErrUnknownTarget is wrapped by the error of Lookup for a name that is not in
// the workspace.
var ErrUnknownTarget = errors.New("unknown target")

// Lookup is the target of that name. For a variant that is not made for the
// architecture the error is a *workspace.Error; for other names it wraps
// ErrUnknownTarget and names near ones.
func (g *Graph) Lookup(name string) (*Target, error) {
	if t := g.byName[name]; t != nil {
		return t, nil
	}
	if err := g.skipped[name]; err != nil {
		return nil, err
	}
	var near, names []string
	for _, t := range g.Targets {
		if t.Name == "packages/"+name || t.Name == "variants/"+name {
			near = append(near, t.Name)
		}
		names = append(names, t.Name)
	}
	if near == nil {
		near = workspace.Near(name, names)
	}
	hint := workspace.DidYouMean(near)
	if hint == "" {
		hint = "targets are named packages/<name>, variants/<name> and " + SDKName
	}
	return nil, fmt.Errorf("%w %q (%s)", ErrUnknownTarget, name, hint)
}

// Topo is all targets, each after everything in its closure.
func (g *Graph) Topo() []*Target { return slices.Clone(g.topo) }

// Closure is the targets with everything that must be built for them, each after
// what it needs: what they depend on, what that requires to be installed, what
// was needed to build those, and so on.
//
// It is also the targets whose RPMs a sandbox can need: sonames are found only
// when an RPM is built, but an RPM can only be linked to what was there then.
func (g *Graph) Closure(targets ...*Target) []*Target {
	return g.reach(targets, func(n int32, visit func(int32)) {
		for _, e := range g.nodes[n] {
			visit(e.to)
		}
	})
}

// Dependents is every target that has one of these in its closure, without
// these, each after what it needs.
func (g *Graph) Dependents(targets ...*Target) []*Target {
	by := g.Spread(targets...)
	return slices.DeleteFunc(g.Topo(), func(t *Target) bool { return by[t] == nil })
}

// Spread is what Dependents has, with the target by which a change gets to each
// on a shortest way: one of these, or another dependent.
func (g *Graph) Spread(targets ...*Target) map[*Target]*Target {
	seen := make([]bool, len(g.nodes))
	last := make([]int32, len(g.nodes)) // the target next on the way back
	queue := make([]int32, 0, len(targets))
	for _, t := range targets {
		seen[t.index] = true
		queue = append(queue, int32(t.index))
	}
	by := map[*Target]*Target{}
	for ; len(queue) > 0; queue = queue[1:] {
		n := queue[0]
		via := n
		if int(n) >= len(g.Targets) {
			via = last[n]
		}
		for _, from := range g.reverse[n] {
			if seen[from] {
				continue
			}
			seen[from], last[from] = true, via
			queue = append(queue, from)
			if int(from) < len(g.Targets) {
				by[g.Targets[from]] = g.Targets[via]
			}
		}
	}
	return by
}

// DirectDependents is every target that has t in its Depends, each after what it
// needs.
func (g *Graph) DirectDependents(t *Target) []*Target {
	return slices.DeleteFunc(g.Topo(), func(d *Target) bool {
		_, direct := slices.BinarySearchFunc(d.Depends, t, byTargetName)
		return !direct
	})
}

// Within gives copies of targets of which Depends has only those that are among
// them.
func Within(targets []*Target) []*Target {
	in := map[*Target]bool{}
	for _, t := range targets {
		in[t] = true
	}
	var list []*Target
	for _, t := range targets {
		c := *t
		c.Depends = nil
		for _, d := range t.Depends {
			if in[d] {
				c.Depends = append(c.Depends, d)
			}
		}
		list = append(list, &c)
	}
	return list
}

// Step is one dependency on the way from a target to another.
type Step struct {
	From *Target
	RPM  string // of From, that requires it; empty where From itself does, to be built or put together
	Tag  string // BuildRequires, Requires, included-packages, image-tools or migrations; empty where To is the SDK
	Text string // of the dependency
	Pos  workspace.Position
	By   string  // the RPM that meets it; empty where To is the SDK
	To   *Target // makes that RPM
}

// Path is a shortest way from a target to another that is in its closure: why
// the one needs the other. It is empty where it does not, or both are the same.
func (g *Graph) Path(from, to *Target) []Step {
	type arrival struct {
		from int32
		edge edge
	}
	start, end := int32(from.index), int32(to.index)
	came := map[int32]arrival{start: {}}
	queue := []int32{start}
	visit := func(n int32, e edge) {
		if _, seen := came[e.to]; !seen {
			came[e.to] = arrival{n, e}
			queue = append(queue, e.to)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.nodes[queue[0]] {
			visit(queue[0], e)
			if int(e.to) >= len(g.Targets) { // that an RPM is built is no step of its own
				visit(e.to, edge{to: int32(g.owner(e.to).index)})
			}
		}
	}
	if _, found := came[end]; !found || start == end {
		return nil
	}
	var steps []Step
	for n := end; n != start; n = came[n].from {
		c := came[n]
		if g.rpm(c.from) != nil && g.rpm(n) == nil {
			continue
		}
		s := Step{From: g.owner(c.from), Tag: c.edge.tag, Text: c.edge.text, Pos: c.edge.pos, To: g.owner(n)}
		if r := g.rpm(c.from); r != nil {
			s.RPM = r.Name
		}
		if r := g.rpm(n); r != nil {
			s.By = r.Name
		}
		steps = append(steps, s)
	}
	slices.Reverse(steps)
	return steps
}

// rpm is the RPM of a node; nil for a target.
func (g *Graph) rpm(node int32) *RPM {
	if int(node) < len(g.Targets) {
		return nil
	}
	return g.rpms[int(node)-len(g.Targets)]
}

// reach is the targets that can be reached from some, in the order of Topo.
func (g *Graph) reach(from []*Target, neighbours func(n int32, visit func(int32))) []*Target {
	seen := make([]bool, len(g.nodes))
	var queue []int32
	visit := func(n int32) {
		if !seen[n] {
			seen[n] = true
			queue = append(queue, n)
		}
	}
	for _, t := range from {
		visit(int32(t.index))
	}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		neighbours(n, visit)
	}
	var list []*Target
	for _, t := range g.topo {
		if seen[t.index] {
			list = append(list, t)
		}
	}
	return list
}

// Installs is the RPMs that are installed for a target, sorted by name: for
// building a package what its BuildRequires name, for a variant what it
// includes, and what those require in turn as far as their specs say. Where
// several RPMs provide a capability, all are named.
func (g *Graph) Installs(t *Target) []*RPM {
	seen := map[int32]bool{}
	var list []*RPM
	for queue := []int32{int32(t.index)}; len(queue) > 0; {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, e := range g.nodes[n] {
			if int(e.to) >= len(g.Targets) && !seen[e.to] && e.tag != tagMigrations && e.tag != tagTools {
				seen[e.to] = true
				queue = append(queue, e.to)
				list = append(list, g.rpms[int(e.to)-len(g.Targets)])
			}
		}
	}
	slices.SortFunc(list, func(a, b *RPM) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
