package migration

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"dinghy/internal/datastore"
)

// values are the files below a folder.
func values(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func store(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSteps(t *testing.T) {
	t.Parallel()
	type files = map[string]string
	for name, c := range map[string]struct {
		steps        []Step
		before, want files
		// change is made in the new version before going back
		change func(d datastore.Tree) error
		after  files // nil: as before
	}{
		"add": {
			steps:  []Step{Add("settings.host.domain", "local")},
			before: files{"live/settings/host/name": `"a"`},
			want:   files{"live/settings/host/name": `"a"`, "live/settings/host/domain": `"local"`},
			after:  files{"live/settings/host/name": `"a"`, "aside/settings/host/domain": `"local"`},
		},
		"add what was set aside": {
			steps:  []Step{Add("settings.x", 1)},
			before: files{"aside/settings/x": `7`},
			want:   files{"live/settings/x": `7`},
		},
		"add what is there": {
			steps:  []Step{Add("settings.x", 1)},
			before: files{"live/settings/x": `2`},
			want:   files{"live/settings/x": `2`},
			after:  files{"aside/settings/x": `2`},
		},
		"remove with all below and what is about it": {
			steps:  []Step{Remove("settings.net")},
			before: files{"live/settings/net/mtu": `1500`, "live/settings/net/mtu.generator": `"g"`, "live/settings/net.strength": `"weak"`, "live/settings/network": `1`},
			want:   files{"aside/settings/net/mtu": `1500`, "aside/settings/net/mtu.generator": `"g"`, "aside/settings/net.strength": `"weak"`, "live/settings/network": `1`},
		},
		"remove what is missing": {
			steps:  []Step{Remove("settings.net")},
			before: files{"live/settings/a": `1`},
			want:   files{"live/settings/a": `1`},
		},
		"rename": {
			steps:  []Step{Rename("settings.net", `settings."a.b/c"`)},
			before: files{"live/settings/net/mtu": `1500`, "live/settings/net.strength": `"weak"`},
			want:   files{"live/settings/a%2Eb%2Fc/mtu": `1500`, "live/settings/a%2Eb%2Fc.strength": `"weak"`},
		},
		"replace prefix": {
			steps:  []Step{ReplacePrefix("settings.url", "http://", "https://"), ReplacePrefix("settings.none", "a", "b")},
			before: files{"live/settings/url": `"http://host/"`},
			want:   files{"live/settings/url": `"https://host/"`},
		},
		"in order, and back in reverse": {
			steps:  []Step{Rename("settings.a", "settings.b"), Add("settings.a", 1), Rename("settings.b", "settings.c")},
			before: files{"live/settings/a": `"old"`},
			want:   files{"live/settings/a": `1`, "live/settings/c": `"old"`},
			change: func(d datastore.Tree) error { return d.Set("settings.c", "new") },
			after:  files{"live/settings/a": `"new"`, "aside/settings/a": `1`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, middle, back := store(t, c.before), t.TempDir(), t.TempDir()
			if err := Run([]string{"--source", source, "--target", middle, "--forward"}, c.steps...); err != nil {
				t.Fatal(err)
			}
			if got := values(t, middle); !reflect.DeepEqual(got, c.want) {
				t.Errorf("forward: %v, want %v", got, c.want)
			}
			if c.change != nil {
				if err := c.change(datastore.Tree(filepath.Join(middle, datastore.Live))); err != nil {
					t.Fatal(err)
				}
			}
			if err := Run([]string{"--source", middle, "--target", back, "--backward"}, c.steps...); err != nil {
				t.Fatal(err)
			}
			want := c.after
			if want == nil {
				want = c.before
			}
			if got := values(t, back); !reflect.DeepEqual(got, want) {
				t.Errorf("backward: %v, want %v", got, want)
			}
			if got := values(t, source); !reflect.DeepEqual(got, c.before) {
				t.Errorf("the source became %v", got)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	files := map[string]string{"live/settings/a": `1`, "live/settings/b": `2`}
	for name, c := range map[string]struct {
		step Step
		want string
	}{
		"rename onto another": {Rename("settings.a", "settings.b"), "settings.a cannot become settings.b, which has a value already"},
		"rename into itself":  {Rename("settings", "settings.b.c"), "cannot be moved"},
		"prefix of a number":  {ReplacePrefix("settings.a", "x", "y"), "settings.a is not a string"},
		"empty segment":       {Add("settings..a", 1), `key "settings..a" has an empty segment`},
		"open quote":          {Add(`settings."a`, 1), `key settings."a`},
		"value above a key":   {Add("settings.a.b", 1), "not a directory"},
	} {
		err := Run([]string{"--source", store(t, files), "--target", t.TempDir(), "--forward"}, c.step)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	source := store(t, files)
	for _, args := range [][]string{
		{}, {"--source", source}, {"--source", source, "--target", t.TempDir()},
		{"--source", source, "--target", t.TempDir(), "--forward", "--backward"},
		{"--source", source, "--target", t.TempDir(), "--forward", "more"},
		{"--source", source, "--target", source, "--forward"},
	} {
		if err := Run(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
