package rpmspec

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// ranges are versioned dependencies on one capability, all pairs of which the
// tests compare.
func ranges() (list [][2]string) {
	list = append(list, [2]string{})
	for _, version := range []string{"1", "1-1", "1-2", "1-", "2", "2~rc1-1", "0:1-2", "1:1", "1:1-1"} {
		for _, cmp := range []string{"<", "<=", "=", ">=", ">"} {
			list = append(list, [2]string{cmp, version})
		}
	}
	return list
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "> 1", true},
		{"= 1-1", ">= 1", true},
		{"= 1-1", "> 1", false},
		{"= 1-1", "< 1", false},
		{"= 1-1", "<= 1", true},
		{"= 1-1", "= 1-2", false},
		{"= 2", "< 3", true},
		{"= 2", "> 3", false},
		{"= 1:1", "> 9", true},
		{"= 1~rc1", "< 1", true},
		{"> 1", "< 2", true},
		{">= 2", "<= 2", true},
		{"> 2", "< 2", false},
	} {
		a, b := strings.Fields(tt.a+" . ."), strings.Fields(tt.b+" . .")
		cut := func(f []string) (string, string) {
			if f[0] == "." {
				return "", ""
			}
			return f[0], f[1]
		}
		ca, va := cut(a)
		cb, vb := cut(b)
		if got := Overlap(ca, va, cb, vb); got != tt.want {
			t.Errorf("%q and %q: %v", tt.a, tt.b, got)
		}
		if got := Overlap(cb, vb, ca, va); got != tt.want {
			t.Errorf("%q and %q: %v", tt.b, tt.a, got)
		}
	}
}

// TestOverlapAgainstRPM compares with rpm's own library, through its Python
// binding.
func TestOverlapAgainstRPM(t *testing.T) {
	t.Parallel()
	var script, want strings.Builder
	script.WriteString("import rpm\ns = {'': 0, '<': 2, '<=': 10, '=': 8, '>=': 12, '>': 4}\n" +
		"def ds(c, v): return rpm.ds(('x', s[c], v), 'Requirename')\n")
	for _, a := range ranges() {
		for _, b := range ranges() {
			fmt.Fprintf(&script, "print('%s %s, %s %s:', bool(ds('%[1]s', '%[2]s').Compare(ds('%[3]s', '%[4]s'))))\n", a[0], a[1], b[0], b[1])
			result := "False"
			if Overlap(a[0], a[1], b[0], b[1]) {
				result = "True"
			}
			fmt.Fprintf(&want, "%s %s, %s %s: %s\n", a[0], a[1], b[0], b[1], result)
		}
	}
	python := "/usr/bin/python3" // the system's, which the binding belongs to
	if err := exec.Command(python, "-c", "import rpm").Run(); err != nil {
		t.Skipf("rpm's Python binding is not installed: %v", err)
	}
	cmd := exec.Command(python, "-")
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantLines := strings.Split(want.String(), "\n")
	for i, line := range strings.Split(string(out), "\n") {
		if line != wantLines[i] {
			t.Errorf("rpm says %q, Overlap %q", line, wantLines[i])
		}
	}
}

func TestParseTerm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		" foo  =>  1.2 ":     "foo >= 1.2",
		"(a if b else c)":    "(a if b else c)",
		"libc.so.6()(64bit)": "libc.so.6()(64bit)",
	} {
		if got, err := ParseTerm(in); err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if got, err := ParseConflict("(a unless b)"); err != nil || got.String() != "(a unless b)" {
		t.Errorf("conflict: %q, %v", got, err)
	}
	for _, in := range []string{"", "(a unless b)", "a b", "a >=", "(a if"} {
		if got, err := ParseTerm(in); err == nil {
			t.Errorf("%q: %q instead of an error", in, got)
		}
	}
}
