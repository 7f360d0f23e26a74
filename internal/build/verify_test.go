package build

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/graph"
	"slipway/internal/image/imagetest"
	"slipway/internal/progress"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// imageBuilder gives a builder whose store has the parts of a variant's image, with
// the disk shown.
func imageBuilder(t *testing.T) (*Builder, *workspace.Variant, *store.Result) {
	t.Helper()
	in, err := imagetest.Inputs(t.TempDir(), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	parts := t.TempDir()
	put := func(name string, data []byte) {
		path := filepath.Join(parts, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range map[string]string{
		"root.erofs": in.Root, "root.verity": in.Hash, "boot/vmlinuz": in.Kernel, "os-release": in.OSRelease,
		"linuxx64.efi.stub": in.Stub, "systemd-bootx64.efi": in.BootLoader,
	} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		put(name, raw)
	}
	put("root.hash", []byte(in.RootHash.String()))
	put("inventory.tsv", []byte("acme-a\t0\t1\t1\tx86_64\tMIT\t(none)\t10\tsummary\n"))

	v := &workspace.Variant{Name: "dev", ImageLayout: in.Layout.WithDefaults()}
	cache := t.TempDir()
	results, err := store.Open(filepath.Join(cache, "store"))
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{
		ws:  &workspace.Workspace{Root: t.TempDir(), Config: workspace.Config{Name: "acme", Vendor: "acme", Version: "1.2.3", ReleaseEpoch: 1700000000}},
		opt: Options{Arch: "x86_64", Cache: cache}, results: results, verified: map[string]bool{}, rows: map[string]*Row{},
		display: progress.New(io.Discard, progress.Options{Mode: progress.Plain}),
		signing: func() (*signing, error) { return openSigning(Options{}.Signing) },
	}
	b.forget()
	t.Cleanup(b.display.Close)
	r, err := results.Put(t.Context(), store.Artifact{Target: "variants/dev", Arch: "x86_64", Inputs: []byte("{}"), Dir: parts})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.image(t.Context(), v, r); err != nil {
		t.Fatal(err)
	}
	return b, v, r
}

// Damage of an image is named, and the next build mends it, even where size and
// time of the file are as before.
func TestVerifyImage(t *testing.T) {
	t.Parallel()
	b, v, r := imageBuilder(t)
	disk := b.ImagePath(v)
	good, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(at int) func() error {
		return func() error {
			info, err := os.Stat(disk)
			if err != nil {
				return err
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if err := os.WriteFile(disk, bad, 0o644); err != nil {
				return err
			}
			return os.Chtimes(disk, info.ModTime(), info.ModTime())
		}
	}
	root := bytes.Index(good, []byte("first"))
	loader := bytes.Index(good, []byte("timeout 0\n"))
	if root < 0 || loader < 0 {
		t.Fatal("the test's disk has no root or no boot loader entry")
	}
	table := b.ImageDir(v)
	for _, tt := range []struct {
		name  string
		spoil func() error
		want  string // "" for nothing wrong
	}{
		{"nothing", func() error { return nil }, ""},
		{"root", spoil(root), "acme-dev-x86_64-1.2.3.img: has changed: "},
		{"boot loader", spoil(loader), "acme-dev-x86_64-1.2.3.img: has changed: "},
		{"table", spoil(512 + 60), "acme-dev-x86_64-1.2.3.img: has changed: "},
		{"no disk", func() error { return os.Remove(disk) }, "is missing: slipway build variants/dev shows it again"},
		{"other result", func() error { return os.WriteFile(filepath.Join(table, ".stamp"), []byte("x\n"), 0o644) }, "is not the disk of this result"},
		{"inventory", func() error { return os.WriteFile(filepath.Join(table, "inventory.json"), []byte("{}"), 0o644) }, "inventory.json is not the list of what is in the image"},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{tt.want, ""} {
			found := verified(&graph.Target{Name: "variants/dev"}, r)
			if err := b.verifyImage(t.Context(), v, r, found); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			text := strings.Join(found.Findings, "\n")
			if found.Good() != (want == "") || !strings.Contains(text, want) {
				t.Errorf("%s: %s: %s, want %q", tt.name, found.Status, text, want)
			}
			if _, err := b.image(t.Context(), v, r); err != nil { // what a build does
				t.Fatal(err)
			}
		}
	}
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, good) {
		t.Errorf("the disk is another in the end: %v", err)
	}
}

// The disks of a second build are compared, also where the shown one is not the
// stored result's.
func TestCompareDisks(t *testing.T) {
	t.Parallel()
	b, v, r := imageBuilder(t)
	one := &step{target: &graph.Target{Name: "variants/dev", Variant: v}, result: r}
	out := filepath.Join(t.TempDir(), "out")
	if err := b.results.View(r, out); err != nil {
		t.Fatal(err)
	}
	compareTo := func(want string) {
		t.Helper()
		list, err := b.compareDisks(t.Context(), one, t.TempDir(), out)
		if err != nil {
			t.Fatal(err)
		}
		if (len(list) == 0) != (want == "") {
			t.Errorf("got %v, want %q", list, want)
		}
		for _, d := range list {
			if !strings.Contains(d.Path, want) {
				t.Errorf("got %s, want %q", d, want)
			}
		}
	}
	compareTo("")
	if err := os.Remove(b.ImagePath(v)); err != nil {
		t.Fatal(err)
	}
	compareTo("")
	path := filepath.Join(out, "systemd-bootx64.efi")
	if err := os.Remove(path); err != nil { // it is a link to the stored one
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	compareTo("BOOTX64.EFI")
}
