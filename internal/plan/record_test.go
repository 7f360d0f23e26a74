package plan

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/workspace"
)

// recorded makes a workspace whose files are old, and a record of it.
func recorded(t *testing.T) (root, path string) {
	t.Helper()
	began := time.Now()
	ws, p := tree(t)
	root = ws.Root
	for _, name := range []string{"slipway.toml", "slipway.lock", "sdk/sdk.toml", "packages/a/package.toml", "variants/v/variant.toml", "build/rpms/a/a.rpm"} {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p.Manifest = filepath.Join(p.Dir, "package.toml")
	ws.Packages = []*workspace.Package{p}
	ws.Variants = []*workspace.Variant{{Name: "v", Dir: root + "/variants/v", Manifest: root + "/variants/v/variant.toml"}}
	ws.SDK = &workspace.SDK{Manifest: root + "/sdk/sdk.toml"}
	if err := os.Remove(root + "/slipway.lock"); err != nil { // not all files need to be there
		t.Fatal(err)
	}
	r := &Record{Made: "by me", Targets: []Planned{{"packages/a", "k", "sha256:m", "here", 1249.25, 1 << 31}}, Outputs: []string{root + "/build/rpms/a"}}
	if err := r.Watch(ws, began); !errors.Is(err, ErrRacy) {
		t.Errorf("files that have just been written: %v", err)
	}
	r.inputs = nil
	if err := r.Watch(ws, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Show(root+"/build/rpms/a"), r.Show(root+"/build/rpms/a/a.rpm")); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "plans", "x")
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	back, ok := ReadRecord(path, "by me")
	if !ok {
		t.Fatal("not read")
	}
	if diff := cmp.Diff(r, back, cmp.AllowUnexported(Record{}, seen{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	return root, path
}

func TestRecord(t *testing.T) {
	write := func(name string) func(root string) error {
		return func(root string) error { return os.WriteFile(filepath.Join(root, name), []byte("new"), 0o644) }
	}
	for name, c := range map[string]struct {
		change func(root string) error
		holds  bool
	}{
		"nothing":        {func(string) error { return nil }, true},
		"spec":           {write("packages/a/a.spec"), false},
		"new own file":   {write("packages/a/new.patch"), false},
		"new package":    {func(root string) error { return os.Mkdir(root+"/packages/b", 0o755) }, false},
		"new variant":    {func(root string) error { return os.Mkdir(root+"/variants/w", 0o755) }, false},
		"lock":           {write("slipway.lock"), false},
		"settings":       {write("slipway.toml"), false},
		"sdk":            {write("sdk/sdk.toml"), false},
		"manifest":       {write("packages/a/package.toml"), false},
		"variant":        {write("variants/v/variant.toml"), false},
		"source":         {write("sources/tool/sub/x.go"), false},
		"new source":     {write("sources/tool/sub/y.go"), false},
		"mode":           {func(root string) error { return os.Chmod(root+"/packages/a/a.spec", 0o755) }, false},
		"other source":   {write("sources/other/y.go"), true},
		"elsewhere":      {write("README"), true},
		"removed":        {func(root string) error { return os.Remove(root + "/packages/a/a.spec") }, false},
		"view changed":   {write("build/rpms/a/a.rpm"), false},
		"view removed":   {func(root string) error { return os.Remove(root + "/build/rpms/a/a.rpm") }, false},
		"added to views": {write("build/rpms/a/b.rpm"), false},
		"view linked":    {func(root string) error { return os.Link(root+"/build/rpms/a/a.rpm", root+"/a.rpm") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, path := recorded(t)
			r, ok := ReadRecord(path, "by me")
			if !ok || !r.Holds() {
				t.Fatal("it does not hold from the start")
			}
			time.Sleep(5 * time.Millisecond) // the clock of the file system
			if err := c.change(root); err != nil {
				t.Fatal(err)
			}
			if got := r.Holds(); got != c.holds {
				t.Errorf("holds: %v", got)
			}
		})
	}
}

func TestReadRecordRefuses(t *testing.T) {
	_, path := recorded(t)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(raw) {
		if err := os.WriteFile(path, raw[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := ReadRecord(path, "by me"); ok {
			t.Errorf("the first %d of %d bytes pass as a whole record", n, len(raw))
		}
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := ReadRecord(path, "by another"); ok {
		t.Error("made by another")
	}
	if _, ok := ReadRecord(path+"x", "by me"); ok {
		t.Error("no file")
	}
}
