package cli

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/qemu"
)

// The disk of the data is attached, and can be written to, where there is one.
func TestFurtherDisks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	split, unified, data := filepath.Join(dir, "split.img"), filepath.Join(dir, "unified.img"), filepath.Join(dir, "split-data.img")
	if err := errors.Join(os.WriteFile(split, nil, 0o600), os.WriteFile(unified, nil, 0o600), os.WriteFile(data, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	f := runFlags{drives: []string{"a=b"}}
	given := qemu.Drive{Path: "a", Serial: "b"}
	for image, want := range map[string][]qemu.Drive{split: {{Path: data, Writable: true}, given}, unified: {given}} {
		if d := cmp.Diff(want, f.further(image)); d != "" {
			t.Error(image, d)
		}
	}
}
