package graph

import (
	"strings"
	"testing"

	"slipway/internal/rpmspec"
)

func TestDep(t *testing.T) {
	// In these cases, all names that begin with a small letter are known.
	known := func(name string) bool { return name[0] >= 'a' && name[0] <= 'z' }
	for _, c := range []struct{ text, wanted, missing string }{
		{"a", "a", ""},
		{"a >= 1:2.3-4", "a", ""},
		{"X", "X", "X"},
		{"a(b)", "a(b)", ""},
		{"(a)", "a", ""},
		{"(a or X)", "a X", ""},
		{"(X or Y)", "X Y", "X Y"},
		{"(a and X and Y)", "a X Y", "X Y"},
		{"(a = 1 and b < 2)", "a b", ""},
		{"(a if b)", "a", ""},
		{"(X if b)", "X", "X"},
		{"(X if Y)", "X", ""},
		{"(X if Y else a)", "X a", ""},
		{"(a if b else X)", "a X", "X"},
		{"(b or (X unless a))", "b X", ""},
		{"(Y or (X unless a))", "Y X", "Y X"},
		{"(Y or (X unless a else Y))", "Y X Y", "Y X Y"},
		{"(Y or (a unless X else Y))", "Y a Y", ""},
		{"(a with X)", "a X", "X"},
		{"(a without X)", "a", ""},
		{"(a(x) or (X and (b if c(y) >= 2)))", "a(x) X b", ""},
		{" ( a  or\tb ) ", "a b", ""},
	} {
		deps, err := rpmspec.ParseDeps(c.text)
		if err != nil || len(deps) != 1 {
			t.Errorf("%s: %d dependencies, %v", c.text, len(deps), err)
			continue
		}
		var pulled []string
		wanted(deps[0].Term, func(name string) { pulled = append(pulled, name) })
		if got := strings.Join(pulled, " "); got != c.wanted {
			t.Errorf("%s wants %q, want %q", c.text, got, c.wanted)
		}
		if got := strings.Join(missing(deps[0].Term, known), " "); got != c.missing {
			t.Errorf("%s misses %q, want %q", c.text, got, c.missing)
		}
	}
}
