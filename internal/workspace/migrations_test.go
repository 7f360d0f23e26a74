package workspace_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"
	"github.com/rogpeppe/go-internal/txtar"

	updates "slipway/internal/update"
	"slipway/internal/workspace"
)

const migrated = `
-- migrations/migrations.toml --
# settings of hosts
package = "os-migrations"

[[migration]]
from = "0.9.0"
to = "0.10.0"
files = ["rename", "add-x"]

[[migration]]
from = "0.10.0"
to = "1.0.0"

[[migration]]
from = "0.9.0"
to = "1.0.0"
files = ["all_at.once"]
-- variants/dev/variant.toml --
included-packages = ["release"]
-- variants/once/variant.toml --
included-packages = ["release"]
[image-layout]
slots = 1
`

func TestMigrations(t *testing.T) {
	ar := txtar.Parse([]byte(migrated))
	w, err := workspace.Load(write(t, txtar.Parse([]byte(base)), ar))
	if err != nil {
		t.Fatal(err)
	}
	at := func(line int) workspace.Position {
		return workspace.Position{File: "migrations/migrations.toml", Line: line, Column: 3}
	}
	want := &workspace.Migrations{Package: "os-migrations", Text: ar.Files[0].Data, Steps: []workspace.Migration{
		{From: "0.9.0", To: "0.10.0", Files: []string{"rename", "add-x"}, Pos: at(4)},
		{From: "0.10.0", To: "1.0.0", Pos: at(9)},
		{From: "0.9.0", To: "1.0.0", Files: []string{"all_at.once"}, Pos: at(13)},
	}}
	if diff := cmp.Diff(want, w.Migrations, cmpopts.IgnoreUnexported(workspace.Migrations{})); diff != "" {
		t.Errorf("migrations (-want +got):\n%s", diff)
	}
	if got := w.Migrations.Steps[2].File("all_at.once"); got != "0.9.0_1.0.0_all_at.once" {
		t.Error(got)
	}
	versions := []updates.Version{{Minor: 9}, {Minor: 10}, {Major: 1}}
	if diff := cmp.Diff(versions, w.Migrations.Versions()); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"dev": "dinghy-os-migrations", "once": ""} {
		v := w.Variant(name)
		if got := w.MigrationsRPM(v); got != want || w.Migrates(v) != (want != "") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// steps without programs need no package, and a workspace no steps
	for text, want := range map[string]bool{"[[migration]]\nfrom = '1.0.0'\nto = '2.0.0'\n": true, "": true} {
		ar := txtar.Parse([]byte(migrated))
		ar.Files[0].Data = []byte(text)
		w, err := workspace.Load(write(t, txtar.Parse([]byte(base)), ar))
		if err != nil {
			t.Fatal(err)
		}
		if v := w.Variant("dev"); w.Migrates(v) != want || w.MigrationsRPM(v) != "" {
			t.Errorf("%q: %v, %q", text, w.Migrates(v), w.MigrationsRPM(v))
		}
	}
}

// Every finding has a place inside the file, and what is accepted means the same
// to the TOML library; steps go up and stand once.
func FuzzMigrations(f *testing.F) {
	ar := txtar.Parse([]byte(migrated))
	f.Add(ar.Files[0].Data)
	for _, seed := range []string{
		"", "package = 1", "migration = [{ from = '1.0.0', to = '1.0.1' }]", "[[migration]]\nfrom = '1.0.0'\nto = '1.0.0'\n",
		"[[migration]]\nfrom = '4294967296.0.0'\nto = '4294967297.0.0'\nfiles = ['4294967296.0.0_4294967297.0.0_x', '_']\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + strings.Count(string(data), "\n")
		m, findings := workspace.DecodeMigrations("f.toml", data)
		for _, e := range findings {
			if e.File != "f.toml" || e.Line < 1 || e.Line > lines || e.Column < 1 || e.Msg == "" {
				t.Errorf("finding without a place: %+v", e)
			}
		}
		if len(findings) > 0 {
			return
		}
		other := &workspace.Migrations{}
		if err := toml.Unmarshal(data, other); err != nil {
			t.Fatalf("accepted, but the library says: %v", err)
		}
		if m.Package != other.Package || len(m.Steps) != len(other.Steps) {
			t.Errorf("%+v, the library has %+v", m, other)
		}
		seen := map[[2]updates.Version]bool{}
		for i := range m.Steps {
			s := &m.Steps[i]
			if s.From != other.Steps[i].From || s.To != other.Steps[i].To || !slices.Equal(s.Files, other.Steps[i].Files) {
				t.Errorf("%+v, the library has %+v", s, other.Steps[i])
			}
			from, to, err := s.Versions()
			key := [2]updates.Version{from, to}
			if err != nil || from.Compare(to) >= 0 || seen[key] {
				t.Errorf("accepted: %+v", s)
			}
			seen[key] = true
			for _, name := range s.Files {
				if err := updates.CheckTarget(s.File(name)); err != nil {
					t.Error(err)
				}
			}
		}
		if !reflect.DeepEqual(m.Text, data) && len(data) > 0 {
			t.Error("the text is another")
		}
	})
}
