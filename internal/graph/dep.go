package graph

import "slipway/internal/rpmspec"

// wanted yields the capabilities that a dependency may pull in: all
// alternatives, but not what is only a condition.
func wanted(t rpmspec.Term, yield func(name string)) {
	if len(t.Args) == 0 {
		yield(t.Name)
	}
	for i, a := range t.Args {
		if condition := i == 1 && (t.Op == "if" || t.Op == "unless" || t.Op == "without"); !condition {
			wanted(a, yield)
		}
	}
}

// missing are the capabilities for lack of which a dependency cannot be met;
// known tells which capabilities there are.
func missing(t rpmspec.Term, known func(name string) bool) []string {
	if len(t.Args) == 0 {
		if known(t.Name) {
			return nil
		}
		return []string{t.Name}
	}
	var all []string
	switch t.Op {
	case "or":
		for _, a := range t.Args {
			m := missing(a, known)
			if len(m) == 0 {
				return nil
			}
			all = append(all, m...)
		}
	case "if", "unless":
		// A condition on what does not exist never comes true; one on what does
		// may or may not, so both sides must be there.
		possible := len(missing(t.Args[1], known)) == 0
		if t.Op == "unless" || possible {
			all = missing(t.Args[0], known)
		}
		if len(t.Args) == 3 && (t.Op == "if" || possible) {
			all = append(all, missing(t.Args[2], known)...)
		}
	case "without":
		return missing(t.Args[0], known)
	default:
		for _, a := range t.Args {
			all = append(all, missing(a, known)...)
		}
	}
	return all
}
