package plan

import (
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
	}, lines); diff != "" {
		t.Error(diff)
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
