package rpm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"slipway/internal/rpmspec"
)

// Solve tells which RPMs an installation of wanted consists of, sorted by name.
// It looks at an RPM of the index only if allowed says yes to its Source. The
// packages in extra are installed from the start, for this solve alone; the result
// leaves them out.
//
// Only what is demanded is installed: weak dependencies are not. A rich
// dependency (a if b) demands a as soon as b is provided; its else branch counts
// when b still is not after everything else is settled. (a or b) is satisfied by
// what is installed anyway, else by the first alternative that can be installed.
// A wanted plain name means the RPM of this name, if there is one, or the one
// that provides and obsoletes it.
//
// Choices are made last, when all that has no choice is installed. A demand that
// is satisfied then needs none. Where several RPMs satisfy one, the order is:
// those that provide the name before those that only hold a file of that path;
// the one whose own name it is; those from the same source package as the RPM
// that demands it; alphabetically by name; the highest version. RPMs that another
// of the candidates obsoletes, and those of which a plain requirement cannot be
// met, are left out. A candidate that leads to a missing dependency or a conflict
// gives way to the next one.
//
// The error is an [*Error].
func (x *Index) Solve(wanted []rpmspec.Term, allowed func(source string) bool, extra ...*Package) ([]*Package, error) {
	given := NewIndex()
	for _, p := range extra {
		if err := given.Add(p); err != nil {
			return nil, err
		}
	}
	s := &solver{layers: layers{x, given}, allowed: allowed, in: map[*Package]member{}, names: map[string]*Package{}}
	for _, p := range extra {
		if q := s.names[p.Name]; q != nil {
			return nil, &Error{Wanted: p.Name, Problem: fmt.Sprintf("is given twice: %s and %s", p, q)}
		}
		s.add(p, &demand{}, given)
	}
	for _, t := range wanted {
		s.todo = append(s.todo, &demand{term: t})
	}
	if f := s.run(); f != nil {
		return nil, f.err
	}
	result := slices.DeleteFunc(s.order, func(p *Package) bool { return slices.Contains(extra, p) })
	slices.SortFunc(result, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return result, nil
}

// solver searches depth first: it installs what has no alternative, then decides
// one choice, and so on. Every decision opens a level. Each member of the set and
// each demand knows the decisions it hangs on, so that a failure returns to the
// last decision that has a part in it.
type solver struct {
	layers
	allowed func(source string) bool
	in      map[*Package]member
	names   map[string]*Package // members by name: an RPM can be installed in one version only
	level   int
	tries   int
	state
}

// state is what a decision is tried from; the lists are only appended to and
// shortened at their beginning, so that a copy is cheap.
type state struct {
	order   []*Package
	todo    []*demand // to be looked at
	choices []*demand // more than one alternative
	conds   []*demand // if: the condition does not hold so far
	elses   []*demand // if with else, unless: to be looked at last
	bans    []ban
}

// member is why an RPM is in the set.
type member struct {
	why    *demand
	causes levels
}

// demand is a dependency of by, or a wanted one.
type demand struct {
	term   rpmspec.Term
	by     *Package
	causes levels
}

// sub is a part of d.
func (d *demand) sub(t rpmspec.Term, causes levels) *demand {
	return &demand{term: t, by: d.by, causes: d.causes.union(causes)}
}

// ban is a Conflicts or Obsoletes of by, or what unless excludes.
type ban struct {
	term   rpmspec.Term
	by     *Package
	verb   string
	causes levels
}

// failure is an error with the decisions that lead to it.
type failure struct {
	err    *Error
	causes levels
	final  bool
}

// maxTries bounds the search. Real sets need a handful of attempts.
const maxTries = 20000

// run solves what is left; on failure the caller restores the state.
func (s *solver) run() *failure {
	for {
		if f := s.propagate(); f != nil {
			return f
		}
		switch {
		case len(s.choices) > 0:
			d := s.choices[0]
			s.choices = s.choices[1:]
			if s.satisfied(d) {
				continue
			}
			if d.term.Op == "or" {
				return s.decide(d, nil, len(d.term.Args), func(i int, causes levels) {
					s.todo = append(s.todo, d.sub(d.term.Args[i], causes))
				})
			}
			candidates, causes, f := s.candidates(d)
			if f != nil {
				return f
			}
			return s.decide(d, causes, len(candidates), func(i int, causes levels) {
				s.install(candidates[i], d.sub(d.term, causes))
			})
		case len(s.elses) > 0:
			d := s.elses[0]
			s.elses = s.elses[1:]
			if f := s.settle(d); f != nil {
				return f
			}
		default:
			return nil
		}
	}
}

// decide tries n options in turn, until one leads to the end.
func (s *solver) decide(d *demand, causes levels, n int, option func(i int, causes levels)) *failure {
	before, level := s.state, s.level
	own := levels(nil).with(level + 1)
	causes = d.causes.union(causes)
	e := s.unmet(d, "no RPM that provides it can be installed")
	var failed []*Error
	for i := range n {
		if s.tries++; s.tries > maxTries {
			return &failure{err: s.unmet(d, fmt.Sprintf("gave up after %d attempts", maxTries)), final: true}
		}
		s.level = level + 1
		option(i, own)
		f := s.run()
		if f == nil {
			return nil
		}
		for _, p := range s.order[len(before.order):] {
			delete(s.in, p)
			delete(s.names, p.Name)
		}
		s.state, s.level = before, level
		if f.final || !f.causes.has(level+1) {
			return f
		}
		causes = causes.union(f.causes)
		failed = append(failed, f.err)
	}
	same := true
	for _, f := range failed {
		same = same && f.Error() == failed[0].Error()
		if len(e.Hints) < maxHints {
			e.Hints = append(e.Hints, f.last())
		}
	}
	if same { // whatever is chosen
		e = failed[0]
	}
	return &failure{err: e, causes: causes.without(level + 1)}
}

// propagate installs what has no alternative, to a fixpoint, and holds the set
// against its conflicts.
func (s *solver) propagate() *failure {
	for more := true; more; more = len(s.todo) > 0 {
		for len(s.todo) > 0 {
			d := s.todo[0]
			s.todo = s.todo[1:]
			if f := s.meet(d); f != nil {
				return f
			}
		}
		var open []*demand
		for _, c := range s.conds {
			if ok, causes := s.holds(c.term.Args[1], nil); ok {
				s.todo = append(s.todo, c.sub(c.term.Args[0], causes))
			} else {
				open = append(open, c)
			}
		}
		s.conds = open
	}
	for _, b := range s.bans {
		if f := s.check(b); f != nil {
			return f
		}
	}
	return nil
}

// meet handles one demand.
func (s *solver) meet(d *demand) *failure {
	t := d.term
	switch {
	case t.Op == "" && len(t.Args) == 1:
		return s.meet(d.sub(t.Args[0], nil))
	case t.Op == "and":
		for _, a := range t.Args {
			s.todo = append(s.todo, d.sub(a, nil))
		}
		return nil
	case t.Op == "if":
		if ok, causes := s.holds(t.Args[1], nil); ok {
			s.todo = append(s.todo, d.sub(t.Args[0], causes))
			return nil
		}
		s.conds = append(s.conds, d)
		if len(t.Args) == 3 {
			s.elses = append(s.elses, d)
		}
		return nil
	case t.Op == "unless":
		s.elses = append(s.elses, d)
		return nil
	}
	if s.satisfied(d) {
		return nil
	}
	if t.Op == "or" {
		s.choices = append(s.choices, d)
		return nil
	}
	candidates, causes, f := s.candidates(d)
	if f != nil {
		return f
	}
	if len(candidates) > 1 {
		s.choices = append(s.choices, d)
		return nil
	}
	s.install(candidates[0], d.sub(t, causes))
	return nil
}

// settle handles if-else and unless when nothing else is left to do. What it
// does hangs on what is not in the set, hence on all decisions.
func (s *solver) settle(d *demand) *failure {
	t := d.term
	ok, causes := s.holds(t.Args[1], nil)
	if !ok {
		causes = s.all()
	}
	switch {
	case t.Op == "if":
		if !ok {
			s.todo = append(s.todo, d.sub(t.Args[2], causes))
		}
	case !ok:
		s.todo = append(s.todo, d.sub(t.Args[0], causes))
		s.bans = append(s.bans, ban{term: t.Args[1], verb: "requires " + t.String() + ", which excludes", by: d.by, causes: d.causes.union(causes)})
	case len(t.Args) == 3:
		s.todo = append(s.todo, d.sub(t.Args[2], causes))
	default:
		return &failure{err: s.unmet(d, t.Args[1].String()+" is installed"), causes: d.causes.union(causes)}
	}
	return nil
}

// named lists the RPMs that a wanted plain name means: those of this name, and
// those that provide it and obsolete one of these.
func (s *solver) named(d *demand) (list []*Package) {
	if d.by != nil || len(d.term.Args) > 0 || d.term.Cmp != "" {
		return nil
	}
	for p := range s.satisfying(d.term) {
		if p.Name == d.term.Name && s.visible(p) {
			list = append(list, p)
		}
	}
	for p := range s.satisfying(d.term) {
		if slices.ContainsFunc(list, p.obsoletes) && s.visible(p) {
			list = append(list, p)
		}
	}
	return list
}

// satisfied reports whether the set meets d.
func (s *solver) satisfied(d *demand) bool {
	if named := s.named(d); named != nil {
		return slices.ContainsFunc(named, func(p *Package) bool { return s.names[p.Name] == p })
	}
	ok, _ := s.holds(d.term, nil)
	return ok
}

// visible reports whether this solve may use p.
func (s *solver) visible(p *Package) bool {
	_, in := s.in[p]
	return in || s.allowed(p.Source)
}

// candidates lists the RPMs that could satisfy d, best first. The causes are the
// decisions that exclude others.
func (s *solver) candidates(d *demand) (list []*Package, causes levels, _ *failure) {
	named := s.named(d)
	var installed []string
	for p := range s.satisfying(d.term) {
		if named != nil && !slices.Contains(named, p) || slices.Contains(list, p) || !s.visible(p) {
			continue
		}
		if q := s.names[p.Name]; q != nil {
			causes = causes.union(s.in[q].causes)
			installed = append(installed, fmt.Sprintf("%s provides it, but %s is installed", p, s.path(q)))
			continue
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		e := s.unmet(d, "nothing provides it")
		if installed != nil {
			e = s.unmet(d, "what provides it cannot be installed")
			e.Hints = installed
		} else {
			e.Hints = s.near(d.term)
		}
		return nil, nil, &failure{err: e, causes: d.causes.union(causes)}
	}
	if len(list) == 1 {
		return list, causes, nil
	}
	all := slices.Clone(list)
	possible := slices.DeleteFunc(list, func(p *Package) bool {
		return s.hopeless(p) || slices.ContainsFunc(all, func(q *Package) bool { return q.obsoletes(p) })
	})
	if len(possible) == 0 {
		possible = all
	}
	name := ""
	if names := d.term.Names(); len(names) > 0 {
		name = names[0]
	}
	first := func(p, q bool) int {
		switch {
		case p == q:
			return 0
		case p:
			return -1
		}
		return 1
	}
	slices.SortFunc(possible, func(p, q *Package) int {
		file := 0
		if strings.HasPrefix(name, "/") {
			file = first(s.explicit(p, name), s.explicit(q, name))
		}
		source := 0
		if d.by != nil {
			source = first(p.sameSource(d.by), q.sameSource(d.by))
		}
		return cmp.Or(
			file,
			first(p.Name == name, q.Name == name),
			source,
			strings.Compare(p.Name, q.Name),
			rpmspec.CompareEVR(q.EVR(), p.EVR()),
			strings.Compare(p.Arch, q.Arch),
			strings.Compare(p.FileName, q.FileName),
			strings.Compare(p.Digest, q.Digest),
		)
	})
	return possible, causes, nil
}

// obsoletes reports whether p replaces q, which has another name.
func (p *Package) obsoletes(q *Package) bool {
	if p.Name == q.Name {
		return false
	}
	return slices.ContainsFunc(p.Obsoletes, func(d Dep) bool {
		return d.Name == q.Name && rpmspec.Overlap(d.Cmp, d.EVR, "=", q.EVR())
	})
}

// hopeless reports whether a plain requirement of p is one that nothing provides.
func (s *solver) hopeless(p *Package) bool {
	return slices.ContainsFunc(p.Requires, func(r Dep) bool {
		if r.Rich() {
			return false
		}
		for q := range s.satisfying(rpmspec.Term{Name: r.Name, Cmp: r.Cmp, Version: r.EVR}) {
			if s.visible(q) {
				return false
			}
		}
		return true
	})
}

// install adds an RPM of the index to the set.
func (s *solver) install(p *Package, why *demand) { s.add(p, why, s.layers[0]) }

func (s *solver) add(p *Package, why *demand, x *Index) {
	s.in[p], s.names[p.Name] = member{why: why, causes: why.causes}, p
	s.order = append(s.order, p)
	for _, r := range p.Requires {
		s.todo = append(s.todo, &demand{term: x.term(r), by: p, causes: why.causes})
	}
	for _, c := range p.Conflicts {
		s.bans = append(s.bans, ban{term: x.term(c), by: p, verb: "conflicts with", causes: why.causes})
	}
	for _, o := range p.Obsoletes {
		s.bans = append(s.bans, ban{term: x.term(o), by: p, verb: "obsoletes", causes: why.causes})
	}
}

// holds reports whether the set, but for except, satisfies t, and which decisions
// that hangs on.
func (s *solver) holds(t rpmspec.Term, except *Package) (ok bool, causes levels) {
	switch t.Op {
	case "if", "unless":
		ok, _ = s.holds(t.Args[1], except)
		switch {
		case ok == (t.Op == "if"):
			ok, _ = s.holds(t.Args[0], except)
		case len(t.Args) == 3:
			ok, _ = s.holds(t.Args[2], except)
		default:
			ok = t.Op == "if"
		}
		return ok, s.all()
	case "or":
		for _, a := range t.Args {
			if ok, causes := s.holds(a, except); ok {
				return true, causes
			}
		}
		return false, nil
	case "with", "without":
	default:
		if len(t.Args) == 0 {
			break
		}
		for _, a := range t.Args {
			ok, c := s.holds(a, except)
			if !ok {
				return false, nil
			}
			causes = causes.union(c)
		}
		return true, causes
	}
	for p := range s.satisfying(t) {
		if m, in := s.in[p]; in && p != except {
			return true, m.causes
		}
	}
	return false, nil
}

// check holds the set against b.
func (s *solver) check(b ban) *failure {
	var ok bool
	var causes levels
	if b.verb == "obsoletes" { // a name, not what an RPM provides
		q := s.names[b.term.Name]
		if ok = q != nil && q != b.by && rpmspec.Overlap(b.term.Cmp, b.term.Version, "=", q.EVR()); ok {
			causes = s.in[q].causes
		}
	} else {
		ok, causes = s.holds(b.term, b.by)
	}
	if !ok {
		return nil
	}
	e := s.newError(&demand{term: b.term, by: b.by}, b.verb+" "+b.term.String())
	for _, name := range b.term.Names() {
		for p := range s.satisfying(rpmspec.Term{Name: name}) {
			if _, in := s.in[p]; in && p != b.by && len(e.Hints) < maxHints {
				e.Hints = append(e.Hints, s.path(p)+" is installed")
			}
		}
	}
	return &failure{err: e, causes: b.causes.union(causes)}
}

// levels is a set of decisions, by their level from 1; it does not change.
type levels []uint64

func (l levels) has(n int) bool { return n/64 < len(l) && l[n/64]&(1<<(n%64)) != 0 }

func (l levels) with(n int) levels {
	r := make(levels, max(len(l), n/64+1))
	copy(r, l)
	r[n/64] |= 1 << (n % 64)
	return r
}

func (l levels) without(n int) levels {
	if !l.has(n) {
		return l
	}
	r := slices.Clone(l)
	r[n/64] &^= 1 << (n % 64)
	return r
}

func (l levels) union(m levels) levels {
	if len(l) < len(m) {
		l, m = m, l
	}
	for i, w := range m {
		if w&^l[i] != 0 {
			r := slices.Clone(l)
			for i, w := range m {
				r[i] |= w
			}
			return r
		}
	}
	return l
}

// all is the set of all decisions so far.
func (s *solver) all() (l levels) {
	for n := 1; n <= s.level; n++ {
		l = l.with(n)
	}
	return l
}
