package graph_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
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
