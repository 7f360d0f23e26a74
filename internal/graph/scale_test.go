package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"slipway/internal/rpmspec"
	"slipway/internal/workspace"
)

// chain is a workspace of n packages, each of which needs the one before to be
// built and to be of use, and a variant that has the last one.
func chain(n int) (*workspace.Workspace, []*rpmspec.Spec) {
	ws := &workspace.Workspace{SDK: &workspace.SDK{Arches: []string{"x86_64"}}}
	ws.Config.Vendor = "v"
	specs := make([]*rpmspec.Spec, n)
	for i := range n {
		name := fmt.Sprintf("p%06d", i)
		ws.Packages = append(ws.Packages, &workspace.Package{Name: name})
		main := rpmspec.Package{Name: "v-" + name, Files: true}
		devel := rpmspec.Package{Name: "v-" + name + "-devel", Files: true, Requires: []rpmspec.Dep{dep("v-"+name, 9)}}
		s := &rpmspec.Spec{Name: "v-" + name, Version: "1", Release: "1"}
		if i > 0 {
			before := fmt.Sprintf("v-p%06d", i-1)
			s.BuildRequires = []rpmspec.Dep{dep(before+"-devel", 3)}
			main.Requires = []rpmspec.Dep{dep(before, 4)}
		}
		s.Packages = []rpmspec.Package{main, devel}
		specs[i] = s
	}
	ws.Variants = []*workspace.Variant{{Name: "last", IncludedPackages: []string{fmt.Sprintf("p%06d", n-1)}, SupportedArches: []string{"x86_64"}}}
	return ws, specs
}

func dep(name string, line int) rpmspec.Dep {
	return rpmspec.Dep{Text: name, Line: line, Term: rpmspec.Term{Name: name}}
}

// Anything quadratic would make this test take hours.
func TestScale(t *testing.T) {
	const n = 50_000
	ws, specs := chain(n)
	g, err := link(ws, "x86_64", specs, nil)
	if err != nil {
		t.Fatal(err)
	}
	topo := g.Topo()
	if len(topo) != n+2 || topo[0].Name != "sdk" || topo[1].Name != "packages/p000000" || topo[n].Name != "packages/p049999" {
		t.Errorf("topological order of %d targets: %s, %s … %s", len(topo), topo[0].Name, topo[1].Name, topo[n].Name)
	}
	last, err := g.Lookup("variants/last")
	if err != nil {
		t.Fatal(err)
	}
	if c := g.Closure(last); len(c) != n+2 {
		t.Errorf("closure of %d targets", len(c))
	}
	if len(last.Depends) != n+1 {
		t.Errorf("the variant has %d dependencies", len(last.Depends))
	}
	first, err := g.Lookup("packages/p000000")
	if err != nil {
		t.Fatal(err)
	}
	if d := g.Dependents(first); len(d) != n || d[n-1] != last {
		t.Errorf("%d dependents of the first package", len(d))
	}
	if d := g.Dependents(g.Targets[:n]...); len(d) != 1 || d[0] != last {
		t.Errorf("%d dependents of all packages", len(d))
	}
	if p := g.Path(last, first); len(p) != n || p[0].From != last || p[n-1].To != first {
		t.Errorf("path of %d steps", len(p))
	}
	var out bytes.Buffer
	if err := WriteJSON(&out, g.Targets); err != nil {
		t.Fatal(err)
	}
	var back struct{ Targets []jsonTarget }
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Targets) != n+2 {
		t.Errorf("JSON of %d targets: %v", len(back.Targets), err)
	}

	// Every package misspells something, and the first closes a cycle over all.
	for _, s := range specs {
		s.BuildRequires = append(s.BuildRequires, dep("v-absent", 5))
	}
	specs[0].BuildRequires = append(specs[0].BuildRequires, dep(fmt.Sprintf("v-p%06d", n-1), 6))
	_, err = link(ws, "x86_64", specs, nil)
	var findings workspace.Errors
	if !errors.As(err, &findings) || len(findings) != n+1 {
		t.Errorf("%d findings of type %T", len(findings), err)
	}
}

func BenchmarkLink(b *testing.B) {
	for _, n := range []int{5_000, 50_000} {
		ws, specs := chain(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, err := link(ws, "x86_64", specs, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
