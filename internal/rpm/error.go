package rpm

import (
	"fmt"
	"slices"
	"strings"

	"slipway/internal/rpmspec"
)

// Error tells why a set of dependencies cannot be installed.
type Error struct {
	// Wanted is the dependency asked for that the problem comes from; it is empty
	// when an extra package has it.
	Wanted string
	// Chain lists the RPMs from Wanted to the one that has the problem, as
	// name-evr.arch; it is empty when Wanted itself has it.
	Chain []string
	// Problem is what the last of the chain does: "requires x: nothing
	// provides it".
	Problem string
	// Hints are near misses, the alternatives that failed, or the RPMs in conflict.
	Hints []string
}

// Error is one line: the chain, the problem and the hints.
func (e *Error) Error() string {
	return e.path() + e.problem()
}

func (e *Error) path() string {
	if e.Wanted == "" {
		return strings.Join(e.Chain, " → ")
	}
	return strings.Join(append([]string{e.Wanted}, e.Chain...), " → ")
}

// last leaves out how it came to the problem.
func (e *Error) last() string {
	if n := len(e.Chain); n > 0 {
		return e.Chain[n-1] + e.problem()
	}
	return e.Wanted + e.problem()
}

func (e *Error) problem() string {
	separator := " "
	if len(e.Chain) == 0 {
		separator = ": "
	}
	return separator + e.Problem + e.hints()
}

func (e *Error) hints() string {
	if len(e.Hints) == 0 {
		return ""
	}
	return " (" + strings.Join(e.Hints, "; ") + ")"
}

// maxHints bounds the near misses of one error.
const maxHints = 5

// unmet is the error of a demand that cannot be satisfied.
func (s *solver) unmet(d *demand, problem string) *Error {
	if d.by != nil {
		problem = "requires " + d.term.String() + ": " + problem
	}
	return s.newError(d, problem)
}

// newError describes a problem of the RPM that d is a dependency of, or, when d is
// wanted, of d itself.
func (s *solver) newError(d *demand, problem string) *Error {
	e := &Error{Problem: problem}
	for d.by != nil {
		e.Chain = append(e.Chain, d.by.String())
		d = s.in[d.by].why
	}
	slices.Reverse(e.Chain)
	e.Wanted = d.term.String()
	return e
}

// path is how p came into the set: "wanted → rpm → rpm".
func (s *solver) path(p *Package) string {
	return s.newError(&demand{by: p}, "").path()
}

// near lists RPMs that almost satisfy t.
func (s *solver) near(t rpmspec.Term) (hints []string) {
	for _, name := range t.Names() {
		for _, x := range s.layers {
			for _, q := range x.provides[capability(name)] {
				if len(hints) == maxHints {
					return hints
				}
				if !s.visible(q.pkg) {
					hints = append(hints, fmt.Sprintf("%s provides %s, but %s is not among the dependencies", q.pkg, q.dep, q.pkg.Source))
				} else {
					hints = append(hints, fmt.Sprintf("%s provides %s", q.pkg, q.dep))
				}
			}
			for _, p := range x.files[capability(name)] {
				switch _, same := slices.BinarySearch(p.Files, name); {
				case len(hints) == maxHints:
				case !same:
					hints = append(hints, fmt.Sprintf("%s has the file by another name, so it should have Provides: %s", p, name))
				case !s.visible(p):
					hints = append(hints, fmt.Sprintf("%s has it, but %s is not among the dependencies", p, p.Source))
				}
			}
		}
	}
	return hints
}
