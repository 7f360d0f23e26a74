package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/workspace"
)

func inputs() Inputs {
	return Inputs{
		Recipe: "1", Target: "packages/a", Arch: "x86_64", SDK: "sha256:sdk",
		Settings: map[string]string{"epoch": "1"},
		Files:    []File{{Name: "a.spec", Digest: "sha256:1"}, {Name: "b.patch", Digest: "sha256:2"}},
		Groups:   []File{{Name: "tool/main.go", Digest: "sha256:3"}},
		Sources:  []File{{Name: "a.tar.xz", Digest: "sha512:4"}},
		RPMs:     []File{{Name: "x-1.rpm", Digest: "sha256:5"}, {Name: "y-1.rpm", Digest: "sha256:6"}},
		Tools:    []File{{Name: "t-1.rpm", Digest: "sha256:7"}},
	}
}

func TestKeyChangesWithEveryInput(t *testing.T) {
	changes := map[string]func(*Inputs){
		"nothing":         func(*Inputs) {},
		"recipe":          func(in *Inputs) { in.Recipe = "2" },
		"target":          func(in *Inputs) { in.Target = "packages/b" },
		"arch":            func(in *Inputs) { in.Arch = "aarch64" },
		"sdk":             func(in *Inputs) { in.SDK = "sha256:other" },
		"macros":          func(in *Inputs) { in.Macros = "sha256:other" },
		"setting":         func(in *Inputs) { in.Settings["epoch"] = "2" },
		"new setting":     func(in *Inputs) { in.Settings["x"] = "" },
		"file content":    func(in *Inputs) { in.Files[0].Digest = "sha256:x" },
		"file name":       func(in *Inputs) { in.Files[0].Name = "c.spec" },
		"file mode":       func(in *Inputs) { in.Files[0].Executable = true },
		"file added":      func(in *Inputs) { in.Files = append(in.Files, File{Name: "c", Digest: "sha256:7"}) },
		"file removed":    func(in *Inputs) { in.Files = in.Files[:1] },
		"contents swap":   func(in *Inputs) { in.Files[0].Digest, in.Files[1].Digest = in.Files[1].Digest, in.Files[0].Digest },
		"group content":   func(in *Inputs) { in.Groups[0].Digest = "sha256:x" },
		"source content":  func(in *Inputs) { in.Sources[0].Digest = "sha512:x" },
		"dependency":      func(in *Inputs) { in.RPMs[0].Digest = "sha256:x" },
		"dependency name": func(in *Inputs) { in.RPMs[0].Name = "x-2.rpm" },
		"image tool":      func(in *Inputs) { in.Tools[0].Digest = "sha256:x" },
		"from dependency to tool": func(in *Inputs) {
			in.Tools, in.RPMs = append(in.Tools, in.RPMs[0]), in.RPMs[1:]
		},
		"from own to group": func(in *Inputs) {
			in.Groups, in.Files = append(in.Groups, in.Files[0]), in.Files[1:]
		},
	}
	seen := map[string]string{}
	for name, change := range changes {
		in := inputs()
		change(&in)
		key := in.Key()
		if len(key) != 64 {
			t.Errorf("%s: key %q", name, key)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key", name, other)
		}
		seen[key] = name
	}
}

// leaves calls f for every text and switch below a value, by its path; f changes
// it for as long as it runs.
func leaves(t *testing.T, path string, v reflect.Value, f func(path string)) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		old := v.String()
		v.SetString(old + "x")
		f(path)
		v.SetString(old)
	case reflect.Bool:
		v.SetBool(!v.Bool())
		f(path)
		v.SetBool(!v.Bool())
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(t, path+"."+v.Type().Field(i).Name, v.Field(i), f)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			t.Errorf("inputs has no %s", path)
		}
		for i := range v.Len() {
			leaves(t, fmt.Sprintf("%s[%d]", path, i), v.Index(i), f)
		}
	case reflect.Map:
		if v.Len() == 0 {
			t.Errorf("inputs has no %s", path)
		}
		for _, key := range v.MapKeys() {
			old := v.MapIndex(key)
			v.SetMapIndex(key, reflect.ValueOf(old.String()+"x"))
			f(path + "[" + key.String() + "]")
			v.SetMapIndex(key, old)
		}
	default:
		t.Errorf("%s is a %v: the test does not know how to change it", path, v.Kind())
	}
}

func TestKeyChangesWithEveryField(t *testing.T) {
	in := inputs()
	in.Macros = "sha256:macros"
	key := in.Key()
	seen := map[string]string{key: "nothing"}
	leaves(t, "", reflect.ValueOf(&in).Elem(), func(path string) {
		if twin := seen[in.Key()]; twin != "" {
			t.Errorf("%s and %s have the same key", path, twin)
		}
		seen[in.Key()] = path
	})
	if in.Key() != key {
		t.Error("the inputs are not what they were")
	}
}

func TestDecode(t *testing.T) {
	want := inputs()
	got, err := Decode(want.Encode())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got.Key() != want.Key() {
		t.Error("decoding changes the key")
	}
}

func TestKeyIgnoresOrder(t *testing.T) {
	a, b := inputs(), inputs()
	b.Files[0], b.Files[1] = b.Files[1], b.Files[0]
	b.RPMs[0], b.RPMs[1] = b.RPMs[1], b.RPMs[0]
	if a.Key() != b.Key() {
		t.Error("the order of lists reaches the key")
	}
}

// tree makes a small workspace on disk; the content is the same each time.
func tree(t *testing.T) (*workspace.Workspace, *workspace.Package) {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"packages/a/a.spec": "Name: a\n", "packages/a/run.sh": "#!/bin/sh\n",
		"sources/tool/main.go": "package main\n", "sources/tool/sub/x.go": "package sub\n", "sources/other/y.go": "package other\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "packages/a/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("main.go", filepath.Join(root, "sources/tool/link.go")); err != nil {
		t.Fatal(err)
	}
	p := &workspace.Package{Name: "a", Dir: filepath.Join(root, "packages/a"), Files: []string{"a.spec", "run.sh"}, SourceGroups: []string{"tool"}}
	return &workspace.Workspace{Root: root}, p
}

func TestPackageFiles(t *testing.T) {
	ws, p := tree(t)
	files, groups, err := PackageFiles(ws, p)
	if err != nil {
		t.Fatal(err)
	}
	names := func(files []File) (out []string) {
		for _, f := range files {
			if f.Executable {
				f.Name += "*"
			}
			out = append(out, f.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"a.spec", "run.sh*"}, names(files)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"tool/link.go", "tool/main.go", "tool/sub/x.go"}, names(groups)); diff != "" {
		t.Error(diff)
	}

	// another checkout, other times: the same inputs
	ws2, p2 := tree(t)
	old := time.Unix(1, 0)
	if err := os.Chtimes(filepath.Join(p2.Dir, "a.spec"), old, old); err != nil {
		t.Fatal(err)
	}
	files2, groups2, err := PackageFiles(ws2, p2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, files2); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(groups, groups2); diff != "" {
		t.Error(diff)
	}

	p.SourceGroups = []string{"gone"}
	if _, _, err := PackageFiles(ws, p); err == nil {
		t.Error("a missing source group is no error")
	}
}

func TestSources(t *testing.T) {
	p := &workspace.Package{ExternalFiles: []workspace.ExternalFile{
		{URL: "https://example.com/dir/a.tar.xz", SHA512: "aa"},
		{URL: "https://example.com/get?id=1", Path: "b.tar", SHA256: "bb"},
	}}
	want := []File{{Name: "a.tar.xz", Digest: "sha512:aa"}, {Name: "b.tar", Digest: "sha256:bb"}}
	if diff := cmp.Diff(want, Sources(p)); diff != "" {
		t.Error(diff)
	}
}
