// Package graph knows what can be built in a workspace and what each needs. The
// edges come from the specs: a BuildRequires leads to the package whose spec
// makes or provides it.
//
// Dependencies are followed from RPM to RPM, not from package to package: a tool
// in one subpackage may require what is built later, as long as nobody needs
// that subpackage for building it.
package graph

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"slipway/internal/rpmspec"
	"slipway/internal/workspace"
)

// Kind is what a target is.
type Kind string

// The kinds of targets.
const (
	KindPackage Kind = "package"
	KindVariant Kind = "variant"
	KindSDK     Kind = "sdk"
)

// SDKName is the name of the target that every other target depends on.
const SDKName = "sdk"

// Target is anything that can be built.
type Target struct {
	Name string // such as packages/glibc, variants/qemu-dev or sdk
	Kind Kind
	Dir  string // folder relative to the workspace root, with slashes

	Package *workspace.Package // of a package
	Spec    *rpmspec.Spec      // of a package
	Variant *workspace.Variant // of a variant
	RPMs    []*RPM             // what a package makes, in the order of the spec

	// Depends are the direct dependencies, sorted by name: the SDK; for a package
	// the packages that provide its BuildRequires; for a variant all packages
	// that it installs by what the specs declare, the one that ships its migrations,
	// and those that make the image tools. That a package's direct dependencies are
	// built is not enough to build it: they may require others to be installed.
	// Closure has those too.
	Depends []*Target

	// Unresolved are Requires that nothing in the workspace provides: file names
	// and capabilities such as sonames, which are found only when RPMs are built.
	Unresolved []Requirement

	included []string // the RPM names that a variant includes
	index    int      // in Graph.Targets, and the number of its node
}

// Requirement is a dependency of a spec and the RPM that has it.
type Requirement struct {
	RPM string
	Dep rpmspec.Dep
}

// RPM is a binary package that a spec makes.
type RPM struct {
	Name   string
	Target *Target

	spec *rpmspec.Package
	node int
}

// Options are the settings of Build.
type Options struct {
	Arch   string // target architecture, such as x86_64
	Macros string // text of the SDK's RPM macro file
}

// Graph is the targets of a workspace for one architecture and their edges.
type Graph struct {
	Targets []*Target // sorted by name

	ws      *workspace.Workspace
	byName  map[string]*Target
	skipped map[string]error // variants that are not made for the architecture
	rpms    []*RPM
	nodes   [][]edge // by node: first the targets, then the RPMs
	topo    []*Target
	reverse [][]int32 // by node: the nodes that have an edge to it
}

// edge leads from a node to one that must be there before. The edge from an RPM
// to the target that builds it has no dependency text.
type edge struct {
	to   int32
	tag  string // BuildRequires, Requires, included-packages, image-tools or migrations
	text string // of the dependency
	pos  workspace.Position
}

// Build evaluates every spec of the workspace and links the targets. Findings
// come all at once as an error of type workspace.Errors. Variants that are not
// made for the architecture are left out; Lookup tells so.
func Build(ws *workspace.Workspace, opt Options) (*Graph, error) {
	if !slices.Contains(ws.SDK.Arches, opt.Arch) {
		return nil, workspace.Errors{workspace.NewError(ws.SDK.Position("arches"), "arches",
			fmt.Sprintf("the SDK is not made for %s", opt.Arch), "\"arches\" has "+strings.Join(ws.SDK.Arches, ", "))}
	}
	macros := rpmspec.NewMacros()
	if err := macros.Load("macros of the SDK", strings.NewReader(opt.Macros)); err != nil {
		return nil, fmt.Errorf("load the RPM macros: %w", err)
	}
	var findings workspace.Errors
	for name, body := range ws.Config.Macros {
		if err := macros.Define(name, body); err != nil {
			key := "macros." + name
			findings = append(findings, workspace.NewError(ws.Config.Position(key), key, fmt.Sprintf("%q is not a macro: %v", key, err), ""))
		}
	}
	specs := make([]*rpmspec.Spec, len(ws.Packages))
	failed := make([]error, len(ws.Packages))
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range ws.Packages {
		workers.Go(func() error {
			specs[i], failed[i] = rpmspec.Parse(p.Spec, rpmspec.Options{Macros: macros, Arch: opt.Arch, SourceDir: p.Dir})
			return nil
		})
	}
	_ = workers.Wait() // errors are findings
	for i, err := range failed {
		if err != nil {
			findings = append(findings, specFinding(ws, ws.Packages[i], err))
		}
	}
	return link(ws, opt.Arch, specs, findings)
}

// specFile is the spec of a package relative to the workspace root.
func specFile(p *workspace.Package) string { return "packages/" + p.Name + "/" + p.Name + ".spec" }

// link makes the graph of evaluated specs, in the order of ws.Packages; a spec
// that has findings already is nil.
func link(ws *workspace.Workspace, arch string, specs []*rpmspec.Spec, findings workspace.Errors) (*Graph, error) {
	g := &Graph{ws: ws, byName: map[string]*Target{}, skipped: map[string]error{}}
	for i, p := range ws.Packages {
		g.Targets = append(g.Targets, &Target{Name: "packages/" + p.Name, Kind: KindPackage, Dir: "packages/" + p.Name, Package: p, Spec: specs[i]})
	}
	for _, v := range ws.Variants {
		name := "variants/" + v.Name
		if err := v.CheckArch(arch); err != nil {
			g.skipped[name] = err
			continue
		}
		g.Targets = append(g.Targets, &Target{Name: name, Kind: KindVariant, Dir: name, Variant: v})
	}
	g.Targets = append(g.Targets, &Target{Name: SDKName, Kind: KindSDK, Dir: filepath.ToSlash(filepath.Dir(workspace.SDKFile))})
	slices.SortFunc(g.Targets, byTargetName)
	l := &linker{Graph: g, Errors: findings, provides: map[string][]*RPM{}, noFiles: map[string]workspace.Position{}, near: maxNear}
	for i, t := range g.Targets {
		t.index = i
		g.byName[t.Name] = t
		if t.Spec == nil {
			l.partial = l.partial || t.Kind == KindPackage
			continue
		}
		l.checkSpec(t)
	}
	l.index()
	l.edges()
	l.order()
	if err := l.Err(); err != nil {
		return nil, err
	}
	l.depends()
	g.reverse = make([][]int32, len(g.nodes))
	for n, edges := range g.nodes {
		for _, e := range edges {
			g.reverse[e.to] = append(g.reverse[e.to], int32(n))
		}
	}
	return g, nil
}

func byTargetName(a, b *Target) int { return cmp.Compare(a.Name, b.Name) }

// linker is what is needed only while the edges are made.
type linker struct {
	*Graph
	workspace.Errors
	provides map[string][]*RPM             // by RPM name and by capability without version
	noFiles  map[string]workspace.Position // packages of specs of which no RPM is made
	partial  bool                          // a spec has findings, so what is not provided may be made by it

	near        int      // searches for near names that are left
	names, bare []string // of provides, and those with the vendor prefix without it; made for the searches
}

func (l *linker) find(pos workspace.Position, key, msg, hint string) {
	l.Errors = append(l.Errors, workspace.NewError(pos, key, msg, hint))
}

// index gathers the RPMs and what they provide.
func (l *linker) index() {
	makers := map[string]*RPM{}
	for _, t := range l.Targets {
		if t.Spec == nil {
			continue
		}
		for i := range t.Spec.Packages {
			sub := &t.Spec.Packages[i]
			if !sub.Files {
				l.noFiles[sub.Name] = workspace.Position{File: specFile(t.Package), Line: sub.Line}
				continue // rpmbuild makes no RPM of it
			}
			r := &RPM{Name: sub.Name, Target: t, spec: sub, node: len(l.Targets) + len(l.rpms)}
			if first, ok := makers[r.Name]; ok {
				pos := workspace.Position{File: specFile(t.Package), Line: sub.Line}
				l.find(pos, "", fmt.Sprintf("the RPM %q is also made by %s", r.Name, first.Target.Name), "give one of them another name")
				continue
			}
			makers[r.Name] = r
			t.RPMs = append(t.RPMs, r)
			l.rpms = append(l.rpms, r)
			l.provide(r.Name, r)
			for _, dep := range sub.AllProvides() {
				if dep.Term.Name != r.Name {
					l.provide(dep.Term.Name, r)
				}
			}
		}
	}
}

func (l *linker) provide(name string, r *RPM) {
	list := l.provides[name]
	if len(list) > 0 && list[len(list)-1] == r {
		return // the same capability in two versions
	}
	l.provides[name] = append(list, r)
}

// known tells whether anything in the workspace, or the metadata package that
// every image gets, provides a capability.
func (l *linker) known(name string) bool {
	if len(l.provides[name]) > 0 {
		return true
	}
	fact, ok := strings.CutPrefix(name, l.ws.Prefix())
	if !ok {
		return false
	}
	fact, _, ok = strings.Cut(fact, "(")
	return ok && slices.Contains(metadataFacts, fact)
}

// metadataFacts are the capabilities, with an argument in brackets, by which the
// metadata package tells the facts of a variant.
var metadataFacts = []string{"image-feature", "variant", "variant-platform", "variant-runtime", "variant-family", "variant-flavor", "data-filesystem"}

// edges links the nodes.
func (l *linker) edges() {
	l.nodes = make([][]edge, len(l.Targets)+len(l.rpms))
	sdk := int32(l.byName[SDKName].index)
	for _, t := range l.Targets {
		if t.Kind != KindSDK {
			l.nodes[t.index] = append(l.nodes[t.index], edge{to: sdk})
		}
		switch {
		case t.Spec != nil:
			for _, dep := range t.Spec.BuildRequires {
				l.dependency(t.index, t, "BuildRequires", dep)
			}
		case t.Kind == KindVariant:
			l.included(t)
			l.migrations(t)
			l.tools(t)
		}
	}
	l.unknownMigrations()
	l.unknownTools()
	for _, r := range l.rpms {
		l.nodes[r.node] = append(l.nodes[r.node], edge{to: int32(r.Target.index)})
		for _, dep := range r.spec.AllRequires() {
			if !l.dependency(r.node, r.Target, "Requires", dep) {
				r.Target.Unresolved = append(r.Target.Unresolved, Requirement{r.Name, dep})
			}
		}
	}
}

// dependency links a node to everything that may meet one dependency. It is
// false when nothing does.
func (l *linker) dependency(node int, t *Target, tag string, dep rpmspec.Dep) bool {
	pos := workspace.Position{File: specFile(t.Package), Line: dep.Line}
	missing := missing(dep.Term, l.known)
	wanted(dep.Term, func(name string) {
		for _, r := range l.provides[name] {
			if r.node != node {
				l.nodes[node] = append(l.nodes[node], edge{int32(r.node), tag, dep.Text, pos})
			}
		}
	})
	for _, name := range missing {
		if !l.partial && (tag == "BuildRequires" || strings.HasPrefix(name, l.ws.Prefix())) {
			of := ""
			if len(dep.Term.Args) > 0 {
				of = fmt.Sprintf(" of %q", dep.Text)
			}
			l.unresolved(pos, tag, name, of)
		}
	}
	return len(missing) == 0
}

func (l *linker) included(t *Target) {
	for i, short := range t.Variant.IncludedPackages {
		key := fmt.Sprintf("included-packages[%d]", i)
		pos := t.Variant.Position(key)
		name := l.ws.Prefix() + short
		if m := l.ws.Migrations; m != nil && short == m.Package {
			l.find(pos, key, fmt.Sprintf("\"included-packages\" names %q, which ships the migrations", short),
				"remove it: migrations are never in an image, hosts get them from the update repository")
		}
		t.included = append(t.included, name)
		for _, r := range l.provides[name] {
			l.nodes[t.index] = append(l.nodes[t.index], edge{int32(r.node), "included-packages", name, pos})
		}
		if len(l.provides[name]) == 0 && !l.partial {
			l.unresolved(pos, "included-packages", name, "")
		}
	}
}

// tagMigrations is the tag of the edge from a variant to the RPM that ships the
// programs of its migrations. They are built with it, but not installed.
const tagMigrations = "migrations"

// migrations links a variant to the RPM with the programs of its migrations.
func (l *linker) migrations(t *Target) {
	name := l.ws.MigrationsRPM(t.Variant)
	if r := l.named(name); r != nil {
		l.nodes[t.index] = append(l.nodes[t.index], edge{int32(r.node), tagMigrations, name, l.ws.Migrations.Position("package")})
	}
}

// named is the RPM of that name; nil where no spec makes it.
func (l *linker) named(name string) *RPM {
	for _, r := range l.provides[name] {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// unknownMigrations reports that no spec makes the RPM with the programs of
// migrations, also where no variant asks for it.
func (l *linker) unknownMigrations() {
	m := l.ws.Migrations
	if m == nil || m.Package == "" || l.partial {
		return
	}
	name := l.ws.Prefix() + m.Package
	if l.named(name) == nil {
		l.unresolved(m.Position("package"), "package", name, "")
	}
}

// tagTools is the tag of the edges from a variant to the RPMs with which its image
// is made.
const tagTools = "image-tools"

// tools links a variant to the RPMs of the image tools.
func (l *linker) tools(t *Target) {
	for i := range l.ws.Config.Build.ImageTools {
		name, pos := l.tool(i)
		if r := l.named(name); r != nil {
			l.nodes[t.index] = append(l.nodes[t.index], edge{int32(r.node), tagTools, name, pos})
		}
	}
}

// unknownTools reports image tools that no spec makes, once for all variants.
func (l *linker) unknownTools() {
	for i := range l.ws.Config.Build.ImageTools {
		if name, pos := l.tool(i); l.named(name) == nil && !l.partial {
			l.unresolved(pos, tagTools, name, "")
		}
	}
}

// tool gives the name of the RPM of an image tool, and where it is asked for.
func (l *linker) tool(i int) (rpm string, pos workspace.Position) {
	return l.ws.Prefix() + l.ws.Config.Build.ImageTools[i], l.ws.Config.Position(fmt.Sprintf("build.%s[%d]", tagTools, i))
}

// Tools are the RPMs whose programs come before the SDK's while the image of a
// variant is made, in the order in which they are named.
func (g *Graph) Tools(t *Target) (list []*RPM) {
	for _, e := range g.nodes[t.index] {
		if e.tag == tagTools {
			list = append(list, g.rpm(e.to))
		}
	}
	return list
}

// Migrations is the RPM with the programs of a variant's migrations; nil where it
// has none.
func (g *Graph) Migrations(t *Target) *RPM {
	for _, e := range g.nodes[t.index] {
		if e.tag == tagMigrations {
			return g.rpm(e.to)
		}
	}
	return nil
}

// maxNear bounds the searches for near names, each of which looks at all names:
// who has more findings than this has another trouble than misspelling.
const maxNear = 20

// unresolved reports a name that nothing provides, or that is not that of an RPM
// where it must be; of says which dependency it is a part of.
func (l *linker) unresolved(pos workspace.Position, tag, name, of string) {
	var near []string
	prefix, rpm := l.ws.Prefix(), name
	if by := l.provides[name]; len(by) > 0 {
		l.find(pos, tag, fmt.Sprintf("%s: %q is not the name of an RPM, but %s provides it", tag, strings.TrimPrefix(name, prefix), by[0].Name),
			fmt.Sprintf("write %q", strings.TrimPrefix(by[0].Name, prefix)))
		return
	}
	switch {
	case len(l.provides[prefix+name]) > 0:
		near = []string{prefix + name}
	case l.near > 0:
		l.near--
		if l.names == nil {
			l.names = slices.Collect(maps.Keys(l.provides))
			l.bare = strip(l.names, prefix)
		}
		// The prefix would make every name long enough to be near.
		if bare, ok := strings.CutPrefix(name, prefix); ok {
			near = workspace.Near(bare, l.bare)
			for i := range near {
				near[i] = prefix + near[i]
			}
		} else {
			near = workspace.Near(name, l.names)
		}
	}
	if tag == "included-packages" || tag == tagTools || tag == "package" {
		name = strings.TrimPrefix(name, prefix)
		near = strip(near, prefix)
	}
	hint := workspace.DidYouMean(near)
	if at, ok := l.noFiles[rpm]; ok {
		hint = fmt.Sprintf("%s describes it, but without %%files no RPM is made", at)
	} else if hint == "" {
		hint = "add a package whose spec makes or provides it, or remove the line"
	}
	l.find(pos, tag, fmt.Sprintf("%s: nothing provides %q%s; searched %d packages with %d provides", tag, name, of, len(l.ws.Packages), len(l.provides)), hint)
}

// strip returns the names that begin with prefix, without it.
func strip(names []string, prefix string) []string {
	var list []string
	for _, n := range names {
		if bare, ok := strings.CutPrefix(n, prefix); ok {
			list = append(list, bare)
		}
	}
	return list
}

// depends fills in the direct dependencies of the targets.
func (l *linker) depends() {
	for _, t := range l.Targets {
		if t.Kind == KindSDK {
			continue
		}
		seen := map[*Target]bool{l.byName[SDKName]: true}
		if t.Kind == KindVariant {
			for _, r := range l.Installs(t) {
				seen[r.Target] = true
			}
			if r := l.Migrations(t); r != nil {
				seen[r.Target] = true
			}
			for _, r := range l.Tools(t) {
				seen[r.Target] = true
			}
		} else {
			for _, e := range l.nodes[t.index] {
				seen[l.owner(e.to)] = true
			}
		}
		for d := range seen {
			t.Depends = append(t.Depends, d)
		}
		slices.SortFunc(t.Depends, byTargetName)
	}
}

// owner is the target of a node: itself, or the one that makes the RPM.
func (g *Graph) owner(node int32) *Target {
	if int(node) < len(g.Targets) {
		return g.Targets[node]
	}
	return g.rpms[int(node)-len(g.Targets)].Target
}
