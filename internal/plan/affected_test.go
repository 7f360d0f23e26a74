package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/graph"
	"slipway/internal/workspace"
)

func spec(name string, lines ...string) string {
	return "Name: v-" + name + "\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\n" + strings.Join(lines, "\n") + "\n%description\nx\n%files\n"
}

// system is the workspace that the cases change: app needs lib by way of the
// Requires of mid, and a shell, which is in bash.
func system() map[string]string {
	return map[string]string{
		"slipway.toml":               "schema = 1\nname = \"n\"\nvendor = \"v\"\nversion = \"1.0.0\"\nsource-date-epoch = 1\n",
		"sdk/sdk.toml":               "name = \"s\"\nsuite = \"bookworm\"\npackages = [\"gcc\"]\n",
		"packages/lib/package.toml":  "source-groups = [\"lib\"]\n",
		"packages/lib/lib.spec":      spec("lib"),
		"packages/mid/package.toml":  "",
		"packages/mid/mid.spec":      spec("mid", "Requires: v-lib"),
		"packages/app/package.toml":  "source-groups = [\"app/x\", \"all\"]\n",
		"packages/app/app.spec":      spec("app", "BuildRequires: v-mid", "BuildRequires: v-sh"),
		"packages/bash/package.toml": "",
		"packages/bash/bash.spec":    spec("bash", "Provides: v-sh"),
		"packages/dash/package.toml": "",
		"packages/dash/dash.spec":    spec("dash", "Provides: v-sh"),
		"variants/a/variant.toml":    "included-packages = [\"app\"]\n[image-features]\nfast = true\n",
		"variants/b/variant.toml":    "included-packages = [\"lib\"]\n",
		"sources/lib/l.c":            "", "sources/app/x/a.c": "", "sources/all/z.c": "",
	}
}

func side(t *testing.T, files map[string]string) Side {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ws, err := workspace.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.Build(ws, graph.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	return Side{ws, g}
}

const everything = "sdk packages/lib packages/mid packages/bash packages/dash packages/app variants/a variants/b"

func TestFindAffected(t *testing.T) {
	t.Parallel()
	toml := system()["slipway.toml"]
	for name, c := range map[string]struct {
		change  map[string]string // new contents; "-" removes the file
		files   []string          // that changed besides
		want    string            // all that is affected, in any order
		removed string
	}{
		"nothing":                   {},
		"elsewhere":                 {files: []string{"README", "packages/README", "docs/packages/lib/x", "variants/a/README", "sourcesx/lib/l.c"}},
		"own file":                  {files: []string{"packages/lib/lib.spec"}, want: "packages/lib packages/app variants/a variants/b"},
		"package in the middle":     {files: []string{"packages/mid/fix.patch"}, want: "packages/mid packages/app variants/a"},
		"group":                     {files: []string{"sources/lib/l.c"}, want: "packages/lib packages/app variants/a variants/b"},
		"below a group":             {files: []string{"sources/app/x/deep/new.c"}, want: "packages/app variants/a"},
		"beside a group":            {files: []string{"sources/app/y.c", "sources/application", "sources/lib.c"}},
		"repository around a group": {files: []string{"sources/app"}, want: "packages/app variants/a"},
		"variant":                   {files: []string{"variants/b/variant.toml"}, want: "variants/b"},
		"sdk":                       {files: []string{"sdk/sdk.toml"}, want: everything},
		"lock":                      {files: []string{"slipway.lock"}, want: everything},
		"comment in slipway.toml":   {change: map[string]string{"slipway.toml": toml + "# x\n"}},
		"version":                   {change: map[string]string{"slipway.toml": strings.Replace(toml, "1.0.0", "1.0.1", 1)}, want: "variants/a variants/b"},
		"name":                      {change: map[string]string{"slipway.toml": strings.Replace(toml, `"n"`, `"m"`, 1)}, want: "variants/a variants/b"},
		"epoch":                     {change: map[string]string{"slipway.toml": strings.Replace(toml, "epoch = 1", "epoch = 2", 1)}, want: everything},
		"macros":                    {change: map[string]string{"slipway.toml": toml + "[macros]\nabc = \"1\"\n"}, want: everything},
		"debuginfo":                 {change: map[string]string{"slipway.toml": toml + "[build]\ndebuginfo = true\n"}, want: everything},
		"image tools":               {change: map[string]string{"slipway.toml": toml + "[build]\nimage-tools = [\"lib\"]\n"}, want: "variants/a variants/b"},
		"pretty name":               {change: map[string]string{"slipway.toml": toml + "pretty-name = \"N\"\n"}, want: "variants/a variants/b"},
		"lookaside":                 {change: map[string]string{"slipway.toml": toml + "[sources]\nupstream = false\n"}},
		"default variant":           {change: map[string]string{"slipway.toml": toml + "default-variant = \"a\"\n"}},
		"feature that is known":     {change: map[string]string{"variants/b/variant.toml": "included-packages = [\"lib\"]\n[image-features]\nfast = true\n"}, want: "variants/b"},
		"feature that is new":       {change: map[string]string{"variants/b/variant.toml": "included-packages = [\"lib\"]\n[image-features]\nnew = true\n"}, want: "variants/a variants/b"},
		"variant removed":           {change: map[string]string{"variants/a/variant.toml": "-"}, want: "variants/b", removed: "variants/a"},
		"package removed":           {change: map[string]string{"packages/dash/dash.spec": "-", "packages/dash/package.toml": "-"}, want: "packages/app variants/a", removed: "packages/dash"},
		"provide removed":           {change: map[string]string{"packages/dash/dash.spec": spec("dash")}, want: "packages/dash packages/app variants/a"},
		"requirement removed":       {change: map[string]string{"packages/mid/mid.spec": spec("mid")}, want: "packages/mid packages/app variants/a"},
		"package added":             {change: map[string]string{"packages/zsh/zsh.spec": spec("zsh", "Provides: v-sh"), "packages/zsh/package.toml": ""}, want: "packages/zsh packages/app variants/a"},
		"package renamed": {change: map[string]string{
			"packages/dash/dash.spec": "-", "packages/dash/package.toml": "-", "packages/ash/ash.spec": spec("ash", "Provides: v-sh"), "packages/ash/package.toml": "",
		}, want: "packages/ash packages/app variants/a", removed: "packages/dash"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := system()
			changed := c.files
			for f, content := range c.change {
				changed = append(changed, f)
				if files[f] = content; content == "-" {
					delete(files, f)
				}
			}
			now := side(t, files)
			list, removed := FindAffected(now, side(t, system()), changed)
			got, want := map[string]bool{}, map[string]bool{}
			place := map[string]int{}
			for i, a := range list {
				got[a.Name], place[a.Name] = true, i
				if (len(a.Files) > 0) == (a.Needs != "") {
					t.Errorf("%s has the files %v and needs %q: it must be one of both", a.Name, a.Files, a.Needs)
				}
			}
			for w := range strings.FieldsSeq(c.want) {
				want[w] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("affected (-want +got):\n%s", diff)
			}
			for _, target := range now.Graph.Targets {
				for _, d := range target.Depends {
					if got[target.Name] && got[d.Name] && place[d.Name] > place[target.Name] {
						t.Errorf("%s comes before %s, which it needs", target.Name, d.Name)
					}
				}
			}
			if strings.Join(removed, " ") != c.removed {
				t.Errorf("removed %q, want %q", removed, c.removed)
			}
		})
	}
}

// The migrations are made beside the images of the variants.
func TestFindAffectedMigrations(t *testing.T) {
	t.Parallel()
	with := func(change ...string) map[string]string {
		files := system()
		files["migrations/migrations.toml"] = "package = \"dash\"\n[[migration]]\nfrom = \"1.0.0\"\nto = \"1.1.0\"\nfiles = [\"x\"]\n"
		files["variants/b/variant.toml"] += "[image-layout]\nslots = 1\n"
		for i := 0; i < len(change); i += 2 {
			files[change[i]] = change[i+1]
		}
		return files
	}
	plain := with()
	delete(plain, "migrations/migrations.toml")
	for name, c := range map[string]struct {
		now, then map[string]string
		file      string
		want      string
	}{
		"a program": {with(), with(), "packages/dash/x.c", "packages/dash packages/app variants/a"},
		"the list":  {with(), with(), "migrations/migrations.toml", "variants/a variants/b"},
		"elsewhere": {with(), with(), "migrations/README", ""},
		"added":     {with(), plain, "migrations/migrations.toml", "variants/a variants/b"},
		"removed":   {plain, with(), "migrations/migrations.toml", "variants/a variants/b"},
	} {
		list, removed := FindAffected(side(t, c.now), side(t, c.then), []string{c.file})
		var got []string
		for _, a := range list {
			got = append(got, a.Name)
		}
		if strings.Join(got, " ") != c.want || len(removed) > 0 {
			t.Errorf("%s: %v affected, want %s; %v removed", name, got, c.want, removed)
		}
		if manifests := (&Range{Files: []string{c.file}}).Manifests(); !manifests {
			t.Errorf("%s: no manifests", name)
		}
	}
	// by the migrations alone
	now := with("packages/app/app.spec", spec("app", "BuildRequires: v-mid"))
	list, _ := FindAffected(side(t, now), side(t, now), []string{"packages/dash/x.c"})
	if len(list) != 2 || list[1].Name != "variants/a" || list[1].Needs != "packages/dash" {
		t.Errorf("%+v", list)
	}
}

func TestFindAffectedReasons(t *testing.T) {
	t.Parallel()
	then := side(t, system())
	files := system()
	files["slipway.toml"] = strings.NewReplacer("1.0.0", "1.1.0", `"n"`, `"m"`).Replace(files["slipway.toml"])
	list, _ := FindAffected(side(t, files), then, []string{"slipway.toml", "packages/lib/b.patch", "packages/lib/a.patch", "packages/lib/a.patch"})
	got := map[string]Affected{}
	for _, a := range list {
		got[a.Name] = a
	}
	want := map[string]Affected{
		"packages/lib": {Name: "packages/lib", Files: []string{"packages/lib/a.patch", "packages/lib/b.patch"}},
		"packages/app": {Name: "packages/app", Needs: "packages/lib"}, // mid itself is made without lib
		// the pretty name is the name where it is not given
		"variants/a": {Name: "variants/a", Files: []string{"slipway.toml"}, Keys: []string{"name", "version"}},
		"variants/b": {Name: "variants/b", Files: []string{"slipway.toml"}, Keys: []string{"name", "version"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	all, removed := FindAffected(then, Side{}, nil)
	if len(all) != len(then.Graph.Targets) || removed != nil {
		t.Errorf("without a workspace before: %d of %d targets affected, %v removed", len(all), len(then.Graph.Targets), removed)
	}
}

// Anything quadratic would make this test take minutes.
func TestFindAffectedScale(t *testing.T) {
	t.Parallel()
	const n = 10_000
	dir := t.TempDir()
	ws := &workspace.Workspace{Root: dir, SDK: &workspace.SDK{Arches: []string{"x86_64"}}}
	ws.Config.Vendor = "v"
	for i := range n {
		p := &workspace.Package{Name: fmt.Sprintf("p%d", i), Dir: dir, Spec: fmt.Sprintf("%s/p%d.spec", dir, i)}
		ws.Packages = append(ws.Packages, p)
		needs := ""
		if i > 0 {
			needs = fmt.Sprintf("BuildRequires: v-p%d", i-1)
		}
		if err := os.WriteFile(p.Spec, []byte(spec(p.Name, needs)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(ws.Packages, func(a, b *workspace.Package) int { return strings.Compare(a.Name, b.Name) })
	g, err := graph.Build(ws, graph.Options{Arch: "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	s := Side{ws, g}
	changed := []string{"packages/p0/p0.spec"}
	list, _ := FindAffected(s, s, changed)
	if len(list) != n || list[0].Name != "packages/p0" || list[n-1].Name != "packages/p9999" || list[n-1].Needs != "packages/p9998" {
		t.Errorf("%d of %d packages affected", len(list), n)
	}
	for i := range n {
		changed = append(changed, fmt.Sprintf("packages/p%d/x", i))
	}
	if list, _ := FindAffected(s, s, changed); len(list) != n || list[n-1].Needs != "" {
		t.Errorf("%d of %d packages affected", len(list), n)
	}
}
