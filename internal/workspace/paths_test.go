package workspace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPaths(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"sources/a/x.go", "sources/a/b/y.go", "sources/other/z.go"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := &Workspace{
		Root:     root,
		Packages: []*Package{{Dir: root + "/packages/p", Manifest: root + "/packages/p/package.toml", Files: []string{"p.spec"}, SourceGroups: []string{"a", "a/b"}}},
		Variants: []*Variant{{Dir: root + "/variants/v", Manifest: root + "/variants/v/variant.toml"}},
		SDK:      &SDK{Manifest: root + "/sdk/sdk.toml"},

		Migrations: &Migrations{},
	}
	files, dirs, err := w.Paths()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(strings.Join(append(append(files, "--"), dirs...), "\n"), root+"/", "")
	want := `migrations/migrations.toml
packages/p/p.spec
packages/p/package.toml
sdk/sdk.toml
slipway.lock
slipway.toml
sources/a/b/y.go
sources/a/x.go
variants/v/variant.toml
--
migrations
packages
packages/p
sources/a
sources/a/b
variants
variants/v`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Error(diff)
	}
	w.Packages[0].SourceGroups = []string{"gone"}
	if _, _, err := w.Paths(); err == nil {
		t.Error("a missing group is no error")
	}
}
