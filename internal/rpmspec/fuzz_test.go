package rpmspec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse looks for specs that break the parser or make it run away. What
// parses must parse the same way again.
func FuzzParse(f *testing.F) {
	for _, path := range corpus(f) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, b := range bad {
		f.Add(head + b.body + tail)
	}
	m := NewMacros()
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") || strings.Contains(text, "load") {
			t.Skip("reads files")
		}
		path := filepath.Join(dir, "fuzz.spec")
		s, err := ParseText(path, text, Options{Macros: m})
		if err != nil {
			if utf8.ValidString(text) && !strings.HasPrefix(err.Error(), path+":") {
				t.Fatalf("error without position: %v", err)
			}
			return
		}
		if len(s.NeedsRPM) == 0 && (s.Name == "" || s.Version == "" || s.Release == "") {
			t.Fatalf("accepted without name, version and release: %+v", s)
		}
		for _, p := range s.Packages {
			for _, d := range append(p.AllProvides(), p.AllRequires()...) {
				if strings.IndexByte(d.Text, unknown) >= 0 {
					t.Fatalf("unknown text in %q", d.Text)
				}
			}
			for _, d := range p.Requires {
				again, err := ParseDeps(d.Text)
				if err != nil || len(again) != 1 || again[0].Text != d.Text {
					t.Fatalf("%q reads as %v, %v", d.Text, again, err)
				}
			}
		}
	})
}

// FuzzExpand looks for texts that break the macro expander.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{
		"%{?a:b}%{!?a:c}%%%", "%define f(x:) %{-x*}%*%#%1\n%{f -x 1 2}", "%global a b\\\nc\n%a", "%[1+%{nil}2]", "%{expand:%%{shrink: a b}}",
		"%(x)%{lua:y}%{quote:a b}", "%define a %{a}\n%a", "%{load:x}", "%{S:1}%{P:2}", "%{a%{b%{c}}}", "%{define a b}%{undefine:a}", "\x1f%{quote:%1}\x1f",
	} {
		f.Add(s)
	}
	m := NewMacros()
	f.Fuzz(func(t *testing.T, s string) {
		out, err := m.Expand(s)
		if err == nil && strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, unknown) < 0 && out != s {
			t.Fatalf("%q became %q", s, out)
		}
		if strings.IndexByte(out, unknown) >= 0 {
			t.Fatalf("unknown text in %q", out)
		}
	})
}

// FuzzExpr looks for expressions that break the evaluator.
func FuzzExpr(f *testing.F) {
	for _, s := range []string{
		"1+2*3", `"a"=="b"||1`, `v"1:2-3"<v"4"`, "1?2:3", "!(1&&0)", "-5/-2", `0&&"%{nil}"==""`, "((((1))))", "%{nil}1", "-2147483648/-1", "!!!-1", "1?1?1:2:3", "lua:f(1)",
	} {
		f.Add(s)
	}
	m := NewMacros()
	f.Fuzz(func(t *testing.T, s string) {
		v, err := evaluate(s, nil)
		x := &expander{m: m.Child()}
		w, errMacro := evaluate(s, x.expandString)
		if strings.IndexByte(s, '%') < 0 && ((err == nil) != (errMacro == nil) || v != w) {
			t.Fatalf("%q: %v, %v without macros; %v, %v with", s, v, err, w, errMacro)
		}
	})
}
