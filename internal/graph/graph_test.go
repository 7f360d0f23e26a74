package graph_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"slipway/internal/graph"
	"slipway/internal/workspace"
)

var update = flag.Bool("update", false, "write the golden files anew")

// base is what every case has; the files of a case replace its files.
const base = `
-- slipway.toml --
schema = 1
name = "dinghy"
vendor = "dinghy"
version = "0.1.0"
source-date-epoch = 1700000000
-- sdk/sdk.toml --
name = "test"
suite = "bookworm"
packages = ["gcc"]
`

const macros = "%_cross_os dinghy-\n"

// load lays a case out in a new folder and reads it.
func load(t *testing.T, ar *txtar.Archive) *workspace.Workspace {
	t.Helper()
	root := t.TempDir()
	for _, f := range append(txtar.Parse([]byte(base)).Files, ar.Files...) {
		name := filepath.Join(root, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ws, err := workspace.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func build(t *testing.T, file string) *graph.Graph {
	t.Helper()
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.Build(load(t, ar), graph.Options{Arch: "x86_64", Macros: macros})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// golden holds got against a golden file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func names(targets []*graph.Target) string {
	var list []string
	for _, t := range targets {
		list = append(list, t.Name)
	}
	return strings.Join(list, " ")
}

// Each archive is a workspace with mistakes; its file "want" is the error.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			last := len(ar.Files) - 1
			if ar.Files[last].Name != "want" {
				t.Fatal("the case does not end in a file named want")
			}
			ws := load(t, ar)
			_, err = graph.Build(ws, graph.Options{Arch: "x86_64", Macros: macros})
			if err == nil {
				t.Fatal("no error")
			}
			var list workspace.Errors
			if !errors.As(err, &list) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			got := err.Error() + "\n"
			if strings.Contains(got, ws.Root) {
				t.Errorf("an error names the absolute path:\n%s", got)
			}
			if *update {
				ar.Files[last].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(ar.Files[last].Data), got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	g := build(t, "testdata/small.txtar")
	for ext, write := range map[string]func(io.Writer, []*graph.Target) error{
		"txt": graph.WriteText, "dot": graph.WriteDOT, "json": graph.WriteJSON,
	} {
		var out bytes.Buffer
		if err := write(&out, g.Targets); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/small."+ext, out.String())
	}

	var out bytes.Buffer
	if err := graph.WriteJSON(&out, nil); err != nil || out.String() != "{\n  \"targets\": []\n}\n" {
		t.Errorf("no targets: %q, %v", out.String(), err)
	}
}

func TestQueries(t *testing.T) {
	g := build(t, "testdata/small.txtar")
	for name, want := range map[string]string{
		"sdk":               "sdk",
		"packages/filesys":  "sdk packages/filesys",
		"packages/glibc":    "sdk packages/headers packages/glibc",
		"packages/bash":     "sdk packages/filesys packages/headers packages/glibc packages/ncurses packages/bash",
		"packages/tools":    "sdk packages/filesys packages/headers packages/glibc packages/ncurses packages/bash packages/tools",
		"variants/minimal":  "sdk packages/filesys packages/headers packages/glibc variants/minimal",
		"variants/with-all": "sdk packages/filesys packages/headers packages/glibc packages/ncurses packages/bash packages/tools variants/with-all",
	} {
		target, err := g.Lookup(name)
		if err != nil {
			t.Errorf("Lookup(%s): %v", name, err)
			continue
		}
		closure := g.Closure(target)
		if !sameSet(want, names(closure)) {
			t.Errorf("closure of %s: %s\nwant %s", name, names(closure), want)
		}
		place := map[*graph.Target]int{}
		for i, c := range closure {
			place[c] = i
		}
		for _, c := range closure {
			for _, d := range c.Depends {
				if at, ok := place[d]; !ok || at > place[c] {
					t.Errorf("closure of %s has %s before or without %s", name, c.Name, d.Name)
				}
			}
			for _, r := range g.Installs(c) {
				if at, ok := place[r.Target]; !ok || at > place[c] {
					t.Errorf("closure of %s has %s before or without %s", name, c.Name, r.Target.Name)
				}
			}
		}
	}

	if topo := g.Topo(); topo[0].Name != "sdk" || len(topo) != len(g.Targets) {
		t.Errorf("topological order: %s", names(topo))
	}

	glibc, _ := g.Lookup("packages/glibc")
	if got, want := names(g.Dependents(glibc)), "packages/ncurses packages/bash packages/tools variants/minimal variants/with-all"; !sameSet(want, got) {
		t.Errorf("dependents of glibc: %s\nwant %s", got, want)
	}
	tools, _ := g.Lookup("packages/tools")
	var rpms []string
	for _, r := range g.Installs(tools) {
		rpms = append(rpms, r.Name)
	}
	want := []string{"dinghy-bash", "dinghy-filesys", "dinghy-glibc", "dinghy-glibc-devel", "dinghy-headers", "dinghy-ncurses", "dinghy-ncurses-static"}
	if diff := cmp.Diff(want, rpms); diff != "" {
		t.Errorf("installed to build tools (-want +got):\n%s", diff)
	}
	bash, _ := g.Lookup("packages/bash")
	if len(bash.Unresolved) != 1 || bash.Unresolved[0].Dep.Text != "libdl.so.2" || bash.Unresolved[0].RPM != "dinghy-bash" {
		t.Errorf("unresolved of bash: %+v", bash.Unresolved)
	}
}

func lookup(t *testing.T, g *graph.Graph, name string) *graph.Target {
	t.Helper()
	target, err := g.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// What depends on a target is what has it in its closure, and the target by which
// a change gets there is on the way.
func TestDependents(t *testing.T) {
	g := build(t, "testdata/small.txtar")
	for _, target := range g.Targets {
		by := g.Spread(target)
		var want []*graph.Target
		for _, d := range g.Topo() {
			closure := g.Closure(d)
			in := d != target && slices.Contains(closure, target)
			if in {
				want = append(want, d)
			}
			if via := by[d]; in != (via != nil) {
				t.Errorf("a change of %s gets to %s by %v", target.Name, d.Name, via)
			} else if in && (!slices.Contains(closure, via) || via != target && by[via] == nil) {
				t.Errorf("a change of %s does not get to %s by %s", target.Name, d.Name, via.Name)
			}
		}
		if diff := cmp.Diff(names(want), names(g.Dependents(target))); diff != "" {
			t.Errorf("dependents of %s (-want +got):\n%s", target.Name, diff)
		}
		for _, d := range g.Targets {
			if direct := slices.Contains(g.DirectDependents(target), d); direct != slices.Contains(d.Depends, target) {
				t.Errorf("%s is a direct dependent of %s: %v", d.Name, target.Name, direct)
			}
		}
	}
	two := g.Dependents(lookup(t, g, "packages/ncurses"), lookup(t, g, "packages/tools"))
	if want := "packages/bash variants/with-all"; !sameSet(want, names(two)) {
		t.Errorf("dependents of ncurses and tools: %s\nwant %s", names(two), want)
	}
	var out bytes.Buffer
	if err := graph.WriteText(&out, graph.Within(append(two, lookup(t, g, "packages/ncurses")))); err != nil {
		t.Fatal(err)
	}
	want := "packages/bash\n  packages/ncurses\npackages/ncurses\nvariants/with-all\n  packages/bash\n  packages/ncurses\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("within some targets (-want +got):\n%s", diff)
	}
}

// There is a path to whatever is in the closure and to nothing else, each step of
// it begins where the one before ended.
func TestPath(t *testing.T) {
	g := build(t, "testdata/small.txtar")
	for _, from := range g.Targets {
		closure := g.Closure(from)
		for _, to := range g.Targets {
			steps := g.Path(from, to)
			if in := from != to && slices.Contains(closure, to); in != (len(steps) > 0) {
				t.Errorf("from %s to %s: %d steps", from.Name, to.Name, len(steps))
			}
			at, rpm := from, ""
			for _, s := range steps {
				if s.From != at || s.RPM != "" && s.RPM != rpm {
					t.Errorf("from %s to %s: a step from %s %s, but the one before led to %s %s", from.Name, to.Name, s.From.Name, s.RPM, at.Name, rpm)
				}
				at, rpm = s.To, s.By
			}
			if len(steps) > 0 && at != to {
				t.Errorf("the path from %s to %s leads to %s", from.Name, to.Name, at.Name)
			}
		}
	}
	for _, c := range []struct{ from, to, want string }{
		{"packages/bash", "packages/filesys", `packages/bash needs packages/filesys because
  packages/bash has BuildRequires: dinghy-glibc-devel >= 2.30 at packages/bash/bash.spec:6 → RPM dinghy-glibc-devel of packages/glibc
  RPM dinghy-glibc-devel of packages/glibc has Requires: dinghy-glibc = 2.36 at packages/glibc/glibc.spec:13 → RPM dinghy-glibc of packages/glibc
  RPM dinghy-glibc of packages/glibc has Requires: dinghy-filesys at packages/glibc/glibc.spec:9 → RPM dinghy-filesys of packages/filesys
`},
		{"variants/with-all", "packages/headers", `variants/with-all needs packages/headers because
  variants/with-all has included-packages: dinghy-glibc-tools at variants/with-all/variant.toml:1:22 → RPM dinghy-glibc-tools of packages/glibc
  packages/glibc has BuildRequires: dinghy-headers at packages/glibc/glibc.spec:8 → RPM dinghy-headers of packages/headers
`},
		{"packages/tools", "sdk", "packages/tools needs sdk because\n  packages/tools is made in the SDK → sdk\n"},
	} {
		from, to := lookup(t, g, c.from), lookup(t, g, c.to)
		var out bytes.Buffer
		if err := graph.WritePath(&out, from, to, g.Path(from, to)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("from %s to %s (-want +got):\n%s", c.from, c.to, diff)
		}
	}
}

func sameSet(a, b string) bool {
	set := map[string]int{}
	for _, w := range strings.Fields(a) {
		set[w]++
	}
	for _, w := range strings.Fields(b) {
		set[w]--
	}
	for _, n := range set {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestLookup(t *testing.T) {
	g := build(t, "testdata/small.txtar")
	for name, want := range map[string]string{
		"packages/glbic": `unknown target "packages/glbic" (did you mean "packages/glibc"?)`,
		"glibc":          `unknown target "glibc" (did you mean "packages/glibc"?)`,
		"zzz":            `unknown target "zzz" (targets are named packages/<name>, variants/<name> and sdk)`,
		"variants/arm":   `variants/arm/variant.toml:2:1: variant "arm" is not made for x86_64 ("supported-arches" has aarch64)`,
	} {
		_, err := g.Lookup(name)
		if err == nil || err.Error() != want {
			t.Errorf("Lookup(%s):\n%v\nwant\n%s", name, err, want)
		}
		if unknown := errors.Is(err, graph.ErrUnknownTarget); unknown == (name == "variants/arm") {
			t.Errorf("Lookup(%s): ErrUnknownTarget is %v", name, unknown)
		}
	}
}

func TestArch(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/small.txtar")
	if err != nil {
		t.Fatal(err)
	}
	_, err = graph.Build(load(t, ar), graph.Options{Arch: "aarch64", Macros: macros})
	want := `sdk/sdk.toml: the SDK is not made for aarch64 ("arches" has x86_64)`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
