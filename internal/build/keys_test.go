package build

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/sdk"
	"slipway/internal/workspace"
)

const keyedConfig = `schema = 1
name = "testos"
vendor = "acme"
version = "1.2.3"
source-date-epoch = 1700000000
default-variant = "min"
`

const keyedManifest = `source-groups = ["tool"]
[[external-files]]
url = "https://example.org/a-1.tar"
sha512 = "`

// keyed writes a workspace with everything that can reach a build.
func keyed(t *testing.T) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "checkout")
	const spec = "Version: 1\nRelease: 1\nSummary: x\nLicense: x\n"
	for name, text := range map[string]string{
		"slipway.toml":              keyedConfig,
		"sdk/sdk.toml":              "name = \"s\"\nsuite = \"bookworm\"\npackages = [\"rpm\"]\narches = [\"x86_64\"]\n",
		"packages/a/package.toml":   keyedManifest + strings.Repeat("ab", 64) + "\"\n",
		"packages/a/a.spec":         "Name: acme-a\n" + spec + "Source0: a-1.tar\nSource1: run.sh\nPatch0: a.patch\n%description\nx\n%files\n",
		"packages/a/run.sh":         "#!/bin/sh\n",
		"packages/a/a.patch":        "--- a\n+++ b\n",
		"packages/b/package.toml":   "",
		"packages/b/b.spec":         "Name: acme-b\n" + spec + "%description\nx\n%files\n",
		"sources/tool/main.go":      "package main\n",
		"sources/tool/run.sh":       "#!/bin/sh\n",
		"sources/other/main.go":     "package other\n",
		"variants/dev/variant.toml": "included-packages = [\"a\"]\n",
		"variants/min/variant.toml": "included-packages = [\"b\"]\n",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"packages/a/run.sh", "sources/tool/run.sh"} {
		if err := os.Chmod(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pinSDK(t, root, "0")
	return root
}

// pinSDK pins an SDK whose digest consists of a digit.
func pinSDK(t *testing.T, root, digit string) {
	t.Helper()
	ws, err := workspace.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	lock := &sdk.Lock{Digest: "sha256:" + strings.Repeat(digit, 64), Suite: "bookworm", Components: ws.SDK.Components, Arch: runtime.GOARCH, Requested: ws.SDK.Packages}
	for name, version := range map[string]string{"rpm": "4", "e2fsprogs": "1.47", "erofs-utils": "1.8"} {
		lock.Packages = append(lock.Packages, sdk.LockedPackage{Name: name, Version: version, Arch: runtime.GOARCH, SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/" + name + ".deb"})
	}
	if lock.Key, err = sdk.Key(ws, lock); err == nil {
		err = sdk.WriteLock(filepath.Join(root, sdk.LockFile), lock)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// keysOf gives the keys of all targets by name, as far as no RPMs reach them.
func keysOf(t *testing.T, root, arch string) map[string]string {
	t.Helper()
	ws, err := workspace.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(ws, Options{Arch: arch, Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(t.Context())
	if b.pinned, err = sdk.Pinned(ws); err != nil || b.pinned == "" {
		t.Fatalf("SDK %q, %v", b.pinned, err)
	}
	keys := map[string]string{}
	for _, target := range b.graph.Topo() {
		if isSDK(target) {
			continue
		}
		in, err := b.ownInputs(target)
		if err != nil {
			t.Fatal(err)
		}
		keys[target.Name] = in.Key()
	}
	return keys
}

// Every file and every setting that reaches a build changes the keys of the targets
// that it reaches, and nothing else changes any.
func TestKeysOfWorkspace(t *testing.T) {
	t.Parallel()
	replace := func(name, old, with string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			t.Helper()
			path := filepath.Join(root, name)
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), old) {
				t.Fatalf("%s has no %q: %v", name, old, err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, with, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	add := func(name, text string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			t.Helper()
			path := filepath.Join(root, name)
			old, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(old, text...), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	mode := func(name string, mode fs.FileMode) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			if err := os.Chmod(filepath.Join(root, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	pinned := func(edit func(t *testing.T, root string)) func(t *testing.T, root string) { // the SDK has it too
		return func(t *testing.T, root string) {
			edit(t, root)
			pinSDK(t, root, "0")
		}
	}
	a, b, dev, minimal := "packages/a", "packages/b", "variants/dev", "variants/min"
	all, variants := []string{a, b, dev, minimal}, []string{dev, minimal}
	for name, c := range map[string]struct {
		edit func(t *testing.T, root string)
		want []string
	}{
		"nothing":                 {func(*testing.T, string) {}, nil},
		"spec":                    {add("packages/a/a.spec", "# x\n"), []string{a}},
		"own file":                {add("packages/a/run.sh", "true\n"), []string{a}},
		"own file not executable": {mode("packages/a/run.sh", 0o644), []string{a}},
		"own file executable":     {mode("packages/a/a.patch", 0o755), []string{a}},
		"patch":                   {add("packages/a/a.patch", "@@\n"), []string{a}},
		"new own file":            {add("packages/a/new.conf", ""), []string{a}},
		"external file digest":    {replace("packages/a/package.toml", "ab", "cd"), []string{a}},
		"source group":            {add("sources/tool/main.go", "// x\n"), []string{a}},
		"source group mode":       {mode("sources/tool/run.sh", 0o644), []string{a}},
		"source group new file":   {add("sources/tool/new.go", ""), []string{a}},
		"source group left out":   {replace("packages/a/package.toml", "source-groups", "#"), []string{a}},
		"source group link": {func(t *testing.T, root string) {
			if err := os.Symlink("main.go", filepath.Join(root, "sources/tool/link.go")); err != nil {
				t.Fatal(err)
			}
		}, []string{a}},
		"macros":             {pinned(add("slipway.toml", "[macros]\nflavour = \"sweet\"\n")), all},
		"vendor":             {pinned(func(t *testing.T, root string) { rename(t, root, "acme", "other") }), all},
		"source-date-epoch":  {replace("slipway.toml", "1700000000", "1700000001"), all},
		"build.debuginfo":    {pinned(add("slipway.toml", "[build]\ndebuginfo = true\n")), all},
		"SDK":                {func(t *testing.T, root string) { pinSDK(t, root, "1") }, all},
		"name":               {replace("slipway.toml", "testos", "otheros"), variants},
		"version":            {replace("slipway.toml", "1.2.3", "1.2.4"), variants},
		"included-packages":  {replace("variants/dev/variant.toml", `"a"`, `"a", "b"`), nil}, // the RPMs that are installed for them are, as any others
		"pretty-name":        {replace("slipway.toml", "vendor", "pretty-name = \"Test OS\"\nvendor"), variants},
		"image-features":     {add("variants/dev/variant.toml", "[image-features]\nx = true\n"), variants}, // the other has no-x
		"root-filesystem":    {add("variants/dev/variant.toml", "[image-layout]\nroot-filesystem = \"ext4\"\n"), []string{dev}},
		"root-compression":   {add("variants/dev/variant.toml", "[image-layout]\nroot-compression = \"zstd\"\n"), []string{dev}},
		"data-filesystem":    {add("variants/dev/variant.toml", "[image-layout]\ndata-filesystem = \"xfs\"\n"), []string{dev}},
		"name of a variant":  {move("variants/dev", "variants/development"), []string{dev, "variants/development"}},
		"kernel-parameters":  {add("variants/dev/variant.toml", "kernel-parameters = [\"quiet\"]\n"), nil},     // see TestNewDisk
		"slots":              {add("variants/dev/variant.toml", "[image-layout]\nslots = 1\n"), []string{dev}}, // in-place-updates
		"data-size-mib":      {add("variants/dev/variant.toml", "[image-layout]\ndata-size-mib = 300\n"), nil},
		"image-formats":      {add("variants/dev/variant.toml", "image-formats = [\"qcow2\"]\n"), nil},
		"supported-arches":   {add("variants/dev/variant.toml", "supported-arches = [\"x86_64\"]\n"), nil},
		"default-variant":    {replace("slipway.toml", `"min"`, `"dev"`), nil},
		"sources":            {add("slipway.toml", "[sources]\nupstream = false\n"), nil},
		"cache":              {add("slipway.toml", "[cache]\nread = false\n"), nil},
		"other source group": {add("sources/other/main.go", "// x\n"), nil},
		"comment":            {add("packages/a/package.toml", "# x\n"), nil},
		"releases-url":       {replace("packages/a/package.toml", "source-groups", "releases-url = \"https://example.org/\"\nsource-groups"), nil},
		"build.cpus":         {add("packages/a/package.toml", "[build]\ncpus = 2\nmemory = \"2GiB\"\n"), nil},
		"external file host": {replace("packages/a/package.toml", "example.org", "example.com"), nil},
		"dot file":           {add("packages/a/.swp", "x"), nil},
		"views":              {func(t *testing.T, root string) { add("views", "")(t, root); move("views", "build/x")(t, root) }, nil},
		"times": {func(t *testing.T, root string) {
			walk(t, root, func(path string, _ fs.FileMode) error { return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)) })
		}, nil},
		"umask": {func(t *testing.T, root string) {
			walk(t, root, func(path string, mode fs.FileMode) error { return os.Chmod(path, mode.Perm()&0o700) })
		}, nil},
		"folder renamed": {func(t *testing.T, root string) {
			if err := errors.Join(os.Rename(root, root+"-2"), os.Symlink(root+"-2", root)); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := keyed(t)
			before := keysOf(t, root, "x86_64")
			c.edit(t, root)
			after := keysOf(t, root, "x86_64")
			var changed []string
			for _, name := range slices.Sorted(maps.Keys(before)) {
				if after[name] != before[name] {
					changed = append(changed, name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(after)) {
				if before[name] == "" {
					changed = append(changed, name)
				}
			}
			if diff := cmp.Diff(c.want, changed); diff != "" {
				t.Error(diff)
			}
		})
	}

	// another checkout, another architecture
	root := keyed(t)
	x86 := keysOf(t, root, "x86_64")
	if diff := cmp.Diff(x86, keysOf(t, keyed(t), "x86_64")); diff != "" || len(x86) != len(all) {
		t.Errorf("another checkout: %s", diff)
	}
	if err := os.WriteFile(filepath.Join(root, workspace.SDKFile), []byte("name = \"s\"\nsuite = \"bookworm\"\npackages = [\"rpm\"]\narches = [\"x86_64\", \"aarch64\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pinSDK(t, root, "0")
	for name, key := range keysOf(t, root, "aarch64") {
		if key == x86[name] {
			t.Errorf("%s has one key for two architectures", name)
		}
	}
}

// rename replaces a word in all files.
func rename(t *testing.T, root, old, with string) {
	walk(t, root, func(path string, mode fs.FileMode) error {
		text, err := os.ReadFile(path)
		if mode.IsDir() {
			return nil
		}
		return errors.Join(err, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, with)), 0o644))
	})
}

func move(from, to string) func(t *testing.T, root string) {
	return func(t *testing.T, root string) {
		to := filepath.Join(root, to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.Rename(filepath.Join(root, from), to)); err != nil {
			t.Fatal(err)
		}
	}
}

func walk(t *testing.T, root string, f func(path string, mode fs.FileMode) error) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		return errors.Join(err, f(path, info.Mode()))
	})
	if err != nil {
		t.Fatal(err)
	}
}
