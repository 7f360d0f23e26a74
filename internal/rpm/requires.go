package rpm

import (
	"errors"

	"slipway/internal/rpmspec"
)

// IsLink tells whether a file of an RPM could not be read because it is a hard
// link to a later one, which has the content; see Files.
func IsLink(err error) bool { return errors.Is(err, errLink) }

// Requires are the RPMs of the index that p requires by itself, each once: all that
// satisfy a dependency, in no order. The conditions of rich dependencies are not
// evaluated: what is required under one counts if it is there.
func (x *Index) Requires(p *Package) []*Package {
	found := map[*Package]bool{p: true}
	var list []*Package
	var walk func(rpmspec.Term)
	walk = func(t rpmspec.Term) {
		switch t.Op {
		case "if", "unless": // the second is the condition
			for i, a := range t.Args {
				if i != 1 {
					walk(a)
				}
			}
			return
		case "and", "or":
			for _, a := range t.Args {
				walk(a)
			}
			return
		}
		for q := range (layers{x, NewIndex()}).satisfying(t) {
			if !found[q] {
				found[q] = true
				list = append(list, q)
			}
		}
	}
	for _, d := range p.Requires {
		walk(x.term(d))
	}
	return list
}
