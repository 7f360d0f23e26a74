package rpm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/rpmspec"
)

// pkg makes an RPM of "name[=version] [source]" and, each after a ";", Provides
// (P:), Requires (R:), Conflicts (C:), Obsoletes (O:) and files (F:).
func pkg(t testing.TB, text string) *Package {
	t.Helper()
	parts := strings.Split(text, ";")
	head := strings.Fields(parts[0])
	name, version, ok := strings.Cut(head[0], "=")
	if !ok {
		version = "1"
	}
	p := &Package{Metadata: &Metadata{Name: name, Version: version, Release: "1", Arch: "noarch"}}
	if len(head) > 1 {
		p.Source = head[1]
	}
	for _, part := range parts[1:] {
		kind, value, _ := strings.Cut(strings.TrimSpace(part), ":")
		if kind == "F" {
			p.Files = append(p.Files, value)
			continue
		}
		d, err := ParseDep(value)
		if err != nil {
			t.Fatal(err)
		}
		to := map[string]*[]Dep{"P": &p.Provides, "R": &p.Requires, "C": &p.Conflicts, "O": &p.Obsoletes}[kind]
		*to = append(*to, d)
	}
	return p
}

func index(t testing.TB, pkgs ...string) *Index {
	t.Helper()
	x := NewIndex()
	for _, p := range pkgs {
		if err := x.Add(pkg(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func terms(t testing.TB, wanted ...string) (list []rpmspec.Term) {
	t.Helper()
	for _, w := range wanted {
		term, err := rpmspec.ParseTerm(w)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, term)
	}
	return list
}

func names(list []*Package) string {
	var s []string
	for _, p := range list {
		if p.Version == "1" {
			s = append(s, p.Name)
		} else {
			s = append(s, p.Name+"="+p.Version)
		}
	}
	return strings.Join(s, " ")
}

func TestSolve(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		pkgs   string // by lines
		wanted string // separated by commas
		extra  string
		want   string
		err    string
	}{
		{name: "nothing"},
		{name: "requires", pkgs: "a;R:b\nb;R:c(x)\nc;P:c(x)\nd", wanted: "a", want: "a b c"},
		{name: "cycle", pkgs: "a;R:b\nb;R:a", wanted: "b", want: "a b"},
		{name: "self", pkgs: "a;R:x;P:x\nb;P:x", wanted: "a", want: "a"},
		{name: "best version", pkgs: "a=2\na=10\na=9", wanted: "a", want: "a=10"},
		{name: "versioned", pkgs: "a=2\na=3\na=4", wanted: "a < 4", want: "a=3"},
		{name: "one version for all", pkgs: "a=2\na=3\nb;R:a < 3", wanted: "a,b", want: "a=2 b"},
		{name: "any version of an unversioned provides", pkgs: "a;P:x", wanted: "x >= 7", want: "a"},

		{name: "provider in the set", pkgs: "a;P:x\nb;P:x\nu;R:x", wanted: "u,b", want: "b u"},
		{name: "provider that comes in later", pkgs: "a;P:x\nb;P:x\nu;R:x\nv;R:w\nw;R:b", wanted: "u,v", want: "b u v w"},
		{name: "own name", pkgs: "a;P:x\nx\nu;R:x", wanted: "u", want: "u x"},
		{name: "wanted name", pkgs: "a;P:x\nx", wanted: "a,x", want: "a x"},
		{name: "same source", pkgs: "a s1;P:x\nb s2;P:x\nu s2;R:x", wanted: "u", want: "b u"},
		{name: "own name before same source", pkgs: "x s1\nb s2;P:x\nu s2;R:x", wanted: "u", want: "u x"},
		{name: "name before version", pkgs: "b=9;P:x\na;P:x\nu;R:x", wanted: "u", want: "a u"},
		{name: "version of one name", pkgs: "a=2;P:x\na=3;P:x\nu;R:x", wanted: "u", want: "a=3 u"},
		{name: "obsoleted candidate", pkgs: "a;P:x\nb=2;P:x;O:a < 2\nu;R:x", wanted: "u", want: "b=2 u"},
		{name: "wanted name is obsolete", pkgs: "a\nb=2;P:a = 2;O:a < 2", wanted: "a", want: "b=2"},

		{name: "file", pkgs: "a;F:/usr/bin/x", wanted: "/usr/bin/x", want: "a"},
		{name: "provides before file", pkgs: "a;F:/usr/bin/x\nb;P:/usr/bin/x\nu;R:/usr/bin/x", wanted: "u", want: "b u"},
		{name: "name without /usr", pkgs: "a;F:/usr/bin/x\nb;P:/lib/y", wanted: "/bin/x", err: "nothing provides it (a-1-1.noarch has the file by another name, so it should have Provides: /bin/x)"},
		{name: "no other /usr", pkgs: "a;F:/usr/etc/x", wanted: "/etc/x", err: "nothing provides it"},

		{name: "and", pkgs: "a;R:(b and c and d)\nb\nc\nd", wanted: "a", want: "a b c d"},
		{name: "or: first", pkgs: "a;R:(c or b)\nb\nc", wanted: "a", want: "a c"},
		{name: "or: first that can be had", pkgs: "a;R:(c or b)\nb\nc;R:none", wanted: "a", want: "a b"},
		{name: "or: present", pkgs: "a;R:(c or b)\nb\nc", wanted: "a,b", want: "a b"},
		{name: "or: comes in later", pkgs: "a;R:(c or b)\nb\nc\nd;R:e\ne;R:b", wanted: "a,d", want: "a b d e"},
		{name: "or with and", pkgs: "a;R:((b and none) or (c and d))\nb\nc\nd", wanted: "a", want: "a c d"},
		{name: "if: absent", pkgs: "a;R:(b if c)\nb\nc", wanted: "a", want: "a"},
		{name: "if: present", pkgs: "a;R:(b if c)\nb\nc", wanted: "a,c", want: "a b c"},
		{name: "if: provided later", pkgs: "a;R:(b if x)\nb;R:d\nc;P:x\nd\ne;R:c", wanted: "a,e", want: "a b c d e"},
		{name: "if: provided by a choice", pkgs: "a;R:(b if c)\nb\nc;P:x\nd;P:x\nu;R:x", wanted: "a,u", want: "a b c u"},
		{name: "if: chain", pkgs: "a;R:(b if c);R:(d if b)\nb\nc\nd", wanted: "a,c", want: "a b c d"},
		{name: "if: versioned condition", pkgs: "a;R:(b if c >= 2)\nb\nc", wanted: "a,c", want: "a c"},
		{name: "if: compound condition", pkgs: "a;R:(b if (c and (d or e)))\nb\nc\nd\ne", wanted: "a,c,e", want: "a b c e"},
		{name: "if: demand not to be had", pkgs: "a;R:(none if c)\nc", wanted: "a", want: "a"},
		{name: "else: absent", pkgs: "a;R:(b if c else d)\nb\nc\nd", wanted: "a", want: "a d"},
		{name: "else: present", pkgs: "a;R:(b if c else d)\nb\nc\nd\ne;R:c", wanted: "a,e", want: "a b c e"},
		{name: "else: after choices", pkgs: "a;R:(b if c else d)\nb\nc;P:x\nd\ne;P:x\nu;R:x", wanted: "a,u", want: "a b c u"},
		{name: "unless: absent", pkgs: "a;R:(none or (b unless c))\nb\nc", wanted: "a", want: "a b"},
		{name: "unless: present", pkgs: "a;R:(none or (b unless c))\nb\nc", wanted: "a,c", err: "c is installed"},
		{name: "unless: else", pkgs: "a;R:(none or (b unless c else d))\nb\nc\nd", wanted: "a,c", want: "a c d"},
		{name: "unless: brings it in", pkgs: "a;R:(none or (b unless c))\nb;R:c\nc", wanted: "a", err: "which excludes c"},
		{name: "with", pkgs: "a;P:x\nb;P:x;P:y\nc;P:y\nu;R:(x with y)", wanted: "u", want: "b u"},
		{name: "with versions", pkgs: "a;P:x = 1\nb;P:x = 2\nc;P:x = 3\nu;R:(x >= 2 with x < 3)", wanted: "u", want: "b u"},
		{name: "without", pkgs: "a;P:x;P:y\nb;P:x\nu;R:(x without y)", wanted: "u", want: "b u"},
		{name: "without: present is not enough", pkgs: "a;P:x;P:y\nb;P:x\nu;R:(x without y)", wanted: "u,a", want: "a b u"},
		{name: "wanted rich", pkgs: "a\nb", wanted: "(a if b),b", want: "a b"},

		{name: "conflict decides", pkgs: "a;P:x;C:c\nb;P:x\nc\nu;R:x", wanted: "u,c", want: "b c u"},
		{name: "conflict with own provides", pkgs: "a;P:x;C:x", wanted: "a", want: "a"},
		{name: "candidate that misses something", pkgs: "a;P:x;R:a2\na2;R:none\nb;P:x\nu;R:x", wanted: "u", want: "b u"},
		{name: "back over two choices", pkgs: "a;P:x\nb;P:x\nc;P:y;C:a\nd;P:y;R:e\ne;C:a\nu;R:x;R:y", wanted: "u", want: "b c u"},
		{name: "choice of features", extra: "meta;P:feature(no-fips)",
			pkgs:   "t;R:t(bin)\nt-bin;P:t(bin);R:(feature(no-fips) and t);C:(feature(fips) or t-fips)\nt-fips;P:t(bin);R:(feature(fips) and t);C:(feature(no-fips) or t-bin)",
			wanted: "t", want: "t t-bin"},
		{name: "choice of the other feature", extra: "meta;P:feature(fips)",
			pkgs:   "t;R:t(bin)\nt-bin;P:t(bin);R:(feature(no-fips) and t);C:(feature(fips) or t-fips)\nt-fips;P:t(bin);R:(feature(fips) and t);C:(feature(no-fips) or t-bin)",
			wanted: "t", want: "t t-fips"},
		{name: "extra", pkgs: "a;R:(b if feature(x));R:(c if feature(y))\nb\nc\nd", extra: "meta;P:feature(x);R:d", wanted: "a", want: "a b d"},

		{name: "missing", pkgs: "a", wanted: "a,b", err: "b: nothing provides it"},
		{name: "missing below", pkgs: "a;R:b\nb;R:c >= 2\nc", wanted: "a",
			err: "a → a-1-1.noarch → b-1-1.noarch requires c >= 2: nothing provides it (c-1-1.noarch provides c = 1-1)"},
		{name: "not allowed", pkgs: "a;R:b\nb forbidden", wanted: "a",
			err: "a → a-1-1.noarch requires b: nothing provides it (b-1-1.noarch provides b = 1-1, but forbidden is not among the dependencies)"},
		{name: "not allowed file", pkgs: "a;R:/bin/b\nb forbidden;F:/bin/b", wanted: "a",
			err: "b-1-1.noarch has it, but forbidden is not among the dependencies"},
		{name: "other provider is allowed", pkgs: "x forbidden\nb;P:x", wanted: "x", want: "b"},
		{name: "missing for extra", extra: "meta;R:b", err: "meta-1-1.noarch requires b: nothing provides it"},
		{name: "two versions", pkgs: "a;R:l < 2\nb;R:l >= 2\nl\nl=2", wanted: "a,b",
			err: "b → b-1-1.noarch requires l >= 2: what provides it cannot be installed (l-2-1.noarch provides it, but a → a-1-1.noarch → l-1-1.noarch is installed)"},
		{name: "conflict", pkgs: "a;R:b\nb;C:c\nc", wanted: "a,c", err: "a → a-1-1.noarch → b-1-1.noarch conflicts with c (c → c-1-1.noarch is installed)"},
		{name: "obsoletes", pkgs: "a;O:b\nb", wanted: "a,b", err: "a → a-1-1.noarch obsoletes b (b → b-1-1.noarch is installed)"},
		{name: "no candidate", pkgs: "a;P:x;R:m\nb;P:x;R:n\nu;R:x", wanted: "u",
			err: "u → u-1-1.noarch requires x: no RPM that provides it can be installed (a-1-1.noarch requires m: nothing provides it; b-1-1.noarch requires n: nothing provides it)"},
		{name: "same problem for all candidates", pkgs: "a\na=2\nb;C:c\nc", wanted: "a,b,c", err: "b → b-1-1.noarch conflicts with c (c → c-1-1.noarch is installed)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			split := func(s, separator string) []string {
				if s == "" {
					return nil
				}
				return strings.Split(s, separator)
			}
			lines := split(tt.pkgs, "\n")
			var extra []*Package
			for _, e := range split(tt.extra, "\n") {
				extra = append(extra, pkg(t, e))
			}
			allowed := func(source string) bool { return source != "forbidden" }
			for range 2 { // whatever the order in which the RPMs came
				got, err := index(t, lines...).Solve(terms(t, split(tt.wanted, ",")...), allowed, extra...)
				if tt.err != "" {
					var e *Error
					if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.err) {
						t.Errorf("%v, %v; want %q", names(got), err, tt.err)
					}
				} else if err != nil || names(got) != tt.want {
					t.Errorf("%q, %v; want %q", names(got), err, tt.want)
				}
				slices.Reverse(lines)
			}
		})
	}
}

// TestSolveConsults checks that a solve asks only for what it looks at.
func TestSolveConsults(t *testing.T) {
	t.Parallel()
	x := index(t, "a s-a;R:b", "b s-b")
	for i := range 1000 {
		if err := x.Add(pkg(t, fmt.Sprintf("other%d s-%d;P:x;R:a", i, i))); err != nil {
			t.Fatal(err)
		}
	}
	asked := map[string]bool{}
	if _, err := x.Solve(terms(t, "a"), func(source string) bool { asked[source] = true; return true }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"s-a": true, "s-b": true}, asked); diff != "" {
		t.Error(diff)
	}
}

func TestSolveConcurrently(t *testing.T) {
	t.Parallel()
	x := index(t, "a;R:(b if x);R:y", "b", "c;P:y", "d;P:y")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			extra, want := []*Package{pkg(t, "meta;P:x")}, "a b c"
			if i%2 == 0 {
				extra, want = nil, "a c"
			}
			if got, err := x.Solve(terms(t, "a"), everything, extra...); err != nil || names(got) != want {
				t.Errorf("%q, %v; want %q", names(got), err, want)
			}
		})
	}
	wg.Wait()
}

// TestSolveReturns has many independent choices before one that fails: it must
// not try all combinations of the former.
func TestSolveReturns(t *testing.T) {
	t.Parallel()
	var pkgs, wanted []string
	for i := range 40 {
		pkgs = append(pkgs, fmt.Sprintf("a%02d;P:x%02[1]d", i), fmt.Sprintf("b%02d;P:x%02[1]d", i))
		wanted = append(wanted, fmt.Sprintf("x%02d", i))
	}
	pkgs = append(pkgs, "p;P:y;R:p2", "p2;R:none", "q;P:y;R:q2", "q2;R:none")
	x := index(t, pkgs...)
	_, err := x.Solve(terms(t, append(wanted, "y")...), everything)
	if want := "y: no RPM that provides it can be installed"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; want %q", err, want)
	}
	if got, err := x.Solve(terms(t, wanted...), everything); err != nil || len(got) != 40 || got[39].Name != "a39" {
		t.Errorf("%s, %v", names(got), err)
	}
}

func TestAddError(t *testing.T) {
	t.Parallel()
	if err := NewIndex().Add(pkg(t, "a;R:(b maybe c)")); err == nil || !strings.Contains(err.Error(), "a-1-1.noarch") {
		t.Error(err)
	}
}

// BenchmarkSolve solves for 200 RPMs of an index of 5000.
func BenchmarkSolve(b *testing.B) {
	x := NewIndex()
	for i := range 5000 {
		p := pkg(b, fmt.Sprintf("p%d;P:lib%[1]d.so()(64bit)", i))
		for _, j := range []int{i + 1, i + 2, i + 7} {
			if j/200 == i/200 {
				p.Requires = append(p.Requires, Dep{Name: fmt.Sprintf("lib%d.so()(64bit)", j)}, Dep{Name: fmt.Sprintf("p%d", j), Cmp: ">=", EVR: "1"})
			}
		}
		if err := x.Add(p); err != nil {
			b.Fatal(err)
		}
	}
	wanted := terms(b, "p400")
	b.ReportAllocs()
	for b.Loop() {
		if got, err := x.Solve(wanted, everything); err != nil || len(got) != 200 {
			b.Fatal(len(got), err)
		}
	}
}
