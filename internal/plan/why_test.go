package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	if got := Compare(inputs(), inputs(), nil, nil); got != nil {
		t.Errorf("equal inputs differ: %v", got)
	}
	now := inputs()
	now.SDK, now.Macros = "sha256:newsdk", "sha256:m2"
	now.Settings = map[string]string{"epoch": "2", "metadata": "one\ntwo\n"}
	now.Files = []File{{Name: "a.spec", Digest: "sha256:x"}, {Name: "c.patch", Digest: "sha256:2"}}
	now.Groups[0].Executable = true
	now.Sources[0].Digest = "sha512:5"
	now.RPMs = now.RPMs[:1]
	now.Tools[0].Digest = "sha256:8"
	old := inputs()
	old.Macros = "sha256:m1"
	got := Compare(old, now,
		map[string]string{"files/a.spec": "Name: a\nVersion: 1\n", "macros": "%a 1\n"},
		map[string]string{"files/a.spec": "Name: a\nVersion: 2\n", "macros": "%a 2\n", "files/c.patch": "new"})
	want := []Change{
		{Kind: KindSDK, Old: "sha256:sdk", New: "sha256:newsdk"},
		{Kind: KindMacros, Old: "sha256:m1", New: "sha256:m2", Diff: "@@ -1,1 +1,1 @@\n-%a 1\n+%a 2\n"},
		{Kind: KindSetting, Name: "epoch", Old: "1", New: "2"},
		{Kind: KindSetting, Name: "metadata", New: "one\ntwo\n", Diff: "@@ -0,0 +1,2 @@\n+one\n+two\n"},
		{Kind: KindFile, Name: "a.spec", Old: "sha256:1", New: "sha256:x", Diff: "@@ -1,2 +1,2 @@\n Name: a\n-Version: 1\n+Version: 2\n"},
		{Kind: KindFile, Name: "c.patch", New: "sha256:2"},
		{Kind: KindFile, Name: "b.patch", Old: "sha256:2"},
		{Kind: KindGroup, Name: "tool/main.go", Old: "sha256:3", New: "sha256:3 executable"},
		{Kind: KindSource, Name: "a.tar.xz", Old: "sha512:4", New: "sha512:5"},
		{Kind: KindDependency, Name: "y-1.rpm", Old: "sha256:6"},
		{Kind: KindTool, Name: "t-1.rpm", Old: "sha256:7", New: "sha256:8"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, c.String())
	}
	if diff := cmp.Diff([]string{
		"changed  SDK", "changed  macros", "changed  setting epoch: 1 → 2", "added    setting metadata",
		"changed  own file a.spec", "added    own file c.patch", "removed  own file b.patch", "changed  first-party source tool/main.go",
		"changed  external file a.tar.xz", "removed  dependency RPM y-1.rpm",
		"changed  image tool t-1.rpm",
	}, lines); diff != "" {
		t.Error(diff)
	}
}

func TestCompareLists(t *testing.T) {
	setting := func(a, b string) (old, now Inputs) {
		return Inputs{Settings: map[string]string{"packages": a}}, Inputs{Settings: map[string]string{"packages": b}}
	}
	names := func(change func(*Inputs, []File), old, now []string) (a, b Inputs) {
		files := func(names []string) (list []File) {
			for _, name := range names {
				list = append(list, File{Name: name, Digest: "sha256:" + name})
			}
			return list
		}
		change(&a, files(old))
		change(&b, files(now))
		return a, b
	}
	sources := func(old, now []string) (a, b Inputs) {
		return names(func(in *Inputs, f []File) { in.Sources = f }, old, now)
	}
	rpms := func(old, now []string) (a, b Inputs) {
		return names(func(in *Inputs, f []File) { in.RPMs = f }, old, now)
	}
	long := strings.Repeat("acme-some-package ", 20)
	pair := func(a, b Inputs) [2]Inputs { return [2]Inputs{a, b} }
	for name, c := range map[string]struct {
		in   [2]Inputs
		want string
	}{
		"word added":   {pair(setting(long, long+"acme-vim")), "changed  setting packages\n+acme-vim\n"},
		"word removed": {pair(setting("acme-vim "+long, long)), "changed  setting packages\n-acme-vim\n"},
		"both":         {pair(setting("a b c", "a c d e")), "changed  setting packages\n-b\n+d\n+e\n"},
		"one word":     {pair(setting(strings.Repeat("a", 99), strings.Repeat("b", 99))), "changed  setting packages: " + strings.Repeat("a", 99) + " → " + strings.Repeat("b", 99) + "\n"},
		"order":        {pair(setting("a b", "b a")), "changed  setting packages: a b → b a\n"},
		"source of another version": {pair(sources([]string{"a-1.2.tar.xz", "b.tar"}, []string{"a-1.10.3.tar.xz", "b.tar"})),
			"changed  external file a-1.10.3.tar.xz, which was a-1.2.tar.xz\n"},
		"another source":    {pair(sources([]string{"a-1.tar"}, []string{"b-1.tar"})), "added    external file b-1.tar\nremoved  external file a-1.tar\n"},
		"which is not sure": {pair(sources([]string{"a-1.tar"}, []string{"a-2.tar", "a-3.tar"})), "added    external file a-2.tar\nadded    external file a-3.tar\nremoved  external file a-1.tar\n"},
		"a second one":      {pair(sources([]string{"a-1.tar"}, []string{"a-1.tar", "a-2.tar"})), "added    external file a-2.tar\n"},
		"RPM of another version": {pair(rpms([]string{"acme-a-1.2-1.x86_64.rpm", "acme-a-devel-1.2-1.x86_64.rpm"}, []string{"acme-a-2~rc1-3.x86_64.rpm", "acme-a-devel-1.2-1.x86_64.rpm"})),
			"changed  dependency RPM acme-a-2~rc1-3.x86_64.rpm, which was acme-a-1.2-1.x86_64.rpm\n"},
		"RPM of another name": {pair(rpms([]string{"acme-a1-1-1.x86_64.rpm"}, []string{"acme-a2-1-1.x86_64.rpm"})),
			"added    dependency RPM acme-a2-1-1.x86_64.rpm\nremoved  dependency RPM acme-a1-1-1.x86_64.rpm\n"},
		"own files": {pair(names(func(in *Inputs, f []File) { in.Files = f }, []string{"1.patch"}, []string{"2.patch"})),
			"added    own file 2.patch\nremoved  own file 1.patch\n"},
	} {
		got := ""
		for _, change := range Compare(c.in[0], c.in[1], nil, nil) {
			got += change.String() + "\n" + change.Diff
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestTexts(t *testing.T) {
	ws, p := tree(t)
	files, groups, err := PackageFiles(ws, p)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"macros": "%x 1\n", "files/a.spec": "Name: a\n", "files/run.sh": "#!/bin/sh\n",
		"groups/tool/main.go": "package main\n", "groups/tool/sub/x.go": "package sub\n", // a link is none
	}
	texts := Texts(ws, p, Inputs{Files: files, Groups: groups}, "%x 1\n")
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
	raw, err := EncodeTexts(texts)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeTexts(raw)
	if diff := cmp.Diff(want, back); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := DecodeTexts(raw[:len(raw)/2]); err == nil {
		t.Error("half of it is no error")
	}
	if none, err := DecodeTexts(nil); none != nil || err != nil {
		t.Error(none, err)
	}
}
