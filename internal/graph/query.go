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

// Dependents is every target that has t in its closure, t not included, each
// after what it needs.
func (g *Graph) Dependents(t *Target) []*Target {
	list := g.reach([]*Target{t}, func(n int32, visit func(int32)) {
		for _, from := range g.reverse[n] {
			visit(from)
		}
	})
	return slices.DeleteFunc(list, func(d *Target) bool { return d == t })
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
			if int(e.to) >= len(g.Targets) && !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, e.to)
				list = append(list, g.rpms[int(e.to)-len(g.Targets)])
			}
		}
	}
	slices.SortFunc(list, func(a, b *RPM) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
