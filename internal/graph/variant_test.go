package graph_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"slipway/internal/graph"
)

// pkg is a package of a txtar archive, with further lines in its spec.
func pkg(name, lines string) string {
	return "-- packages/" + name + "/package.toml --\n-- packages/" + name + "/" + name + ".spec --\nName: %{_cross_os}" + name +
		"\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\n" + lines + "%files\n"
}

var migrated = `
-- migrations/migrations.toml --
package = "moves"
[[migration]]
from = "1.0.0"
to = "1.1.0"
files = ["x"]
` + pkg("tools", "") + pkg("moves", "BuildRequires: %{_cross_os}tools\n") + pkg("os", "") + `-- variants/dev/variant.toml --
included-packages = ["os"]
-- variants/once/variant.toml --
included-packages = ["os"]
[image-layout]
slots = 1
`

// What ships migrations is built with the variants whose hosts are updated, and
// installed in none.
func TestMigrations(t *testing.T) {
	g, err := graph.Build(load(t, txtar.Parse([]byte(migrated))), graph.Options{Arch: "x86_64", Macros: macros})
	if err != nil {
		t.Fatal(err)
	}
	dev, once, moves, tools := lookup(t, g, "variants/dev"), lookup(t, g, "variants/once"), lookup(t, g, "packages/moves"), lookup(t, g, "packages/tools")
	if r := g.Migrations(dev); r == nil || r.Name != "dinghy-moves" || r.Target != moves {
		t.Errorf("migrations of %s: %+v", dev.Name, r)
	}
	if r := g.Migrations(once); r != nil {
		t.Errorf("migrations of %s: %+v", once.Name, r)
	}
	for _, v := range []*graph.Target{dev, once} {
		if list := g.Installs(v); len(list) != 1 || list[0].Name != "dinghy-os" {
			t.Errorf("%s installs %v", v.Name, list)
		}
	}
	if got, want := names(dev.Depends), "packages/moves packages/os sdk"; got != want {
		t.Errorf("depends of dev: %s, want %s", got, want)
	}
	if got, want := names(once.Depends), "packages/os sdk"; got != want {
		t.Errorf("depends of once: %s, want %s", got, want)
	}
	if got, want := names(g.Closure(dev)), "sdk packages/tools packages/moves packages/os variants/dev"; !sameSet(want, got) {
		t.Errorf("closure of dev: %s, want %s", got, want)
	}
	if got, want := names(g.Dependents(tools)), "packages/moves variants/dev"; !sameSet(want, got) {
		t.Errorf("dependents of tools: %s, want %s", got, want)
	}
	var out bytes.Buffer
	if err := graph.WritePath(&out, dev, tools, g.Path(dev, tools)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`variants/dev needs packages/tools because
  variants/dev has migrations: dinghy-moves at migrations/migrations.toml:1:11 → RPM dinghy-moves of packages/moves
  packages/moves has BuildRequires: dinghy-tools at packages/moves/moves.spec:6 → RPM dinghy-tools of packages/tools
`, out.String()); diff != "" {
		t.Error(diff)
	}
}

// Image tools are built before the image and not installed in it, nor is what they
// require.
func TestTools(t *testing.T) {
	ws := txtar.Parse([]byte(`
-- slipway.toml --
schema = 1
name = "dinghy"
vendor = "dinghy"
version = "0.1.0"
source-date-epoch = 1
[build]
image-tools = ["mkfs"]
` + pkg("lib", "") + pkg("mkfs", "Requires: %{_cross_os}lib\n") + pkg("os", "") + `-- variants/dev/variant.toml --
included-packages = ["os"]
`))
	g, err := graph.Build(load(t, ws), graph.Options{Arch: "x86_64", Macros: macros})
	if err != nil {
		t.Fatal(err)
	}
	dev, mkfs := lookup(t, g, "variants/dev"), lookup(t, g, "packages/mkfs")
	if list := g.Tools(dev); len(list) != 1 || list[0].Name != "dinghy-mkfs" || list[0].Target != mkfs {
		t.Errorf("tools: %v", list)
	}
	if list := g.Installs(dev); len(list) != 1 || list[0].Name != "dinghy-os" {
		t.Errorf("installs %v", list)
	}
	if got, want := names(dev.Depends), "packages/mkfs packages/os sdk"; got != want {
		t.Errorf("depends: %s, want %s", got, want)
	}
	var out bytes.Buffer
	if err := graph.WritePath(&out, dev, mkfs, g.Path(dev, mkfs)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`variants/dev needs packages/mkfs because
  variants/dev has image-tools: dinghy-mkfs at slipway.toml:7:16 → RPM dinghy-mkfs of packages/mkfs
`, out.String()); diff != "" {
		t.Error(diff)
	}
}
