package build

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image"
	"slipway/internal/image/format"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/inspect"
	"slipway/internal/image/layout"
	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/tufrepo"
	"slipway/internal/workspace"
)

func TestCompanions(t *testing.T) {
	t.Parallel()
	in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	in.Layout.DataDisk = layout.Split
	in.Layout = in.Layout.WithDefaults()
	display := progress.New(io.Discard, progress.Options{Mode: progress.Plain})
	defer display.Close()
	ws := &workspace.Workspace{Root: t.TempDir(), Config: workspace.Config{Name: "testos", Version: "0.1.0", ReleaseEpoch: 1700000000}}
	b := &Builder{ws: ws, opt: Options{Arch: "x86_64"}, display: display}
	v := &workspace.Variant{Name: "dev", ImageFormats: []string{"raw", "qcow2", "ova", "raw.zst"}, ImageLayout: in.Layout}
	dir := b.ImageDir(v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Assemble(t.Context(), in, b.ImagePath(v)); err != nil {
		t.Fatal(err)
	}
	files := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, strings.TrimPrefix(e.Name(), "testos-dev-x86_64-0.1.0"))
		}
		return names
	}
	if err := b.writeCompanions(t.Context(), v, b.ImagePath(v)); err != nil {
		t.Fatal(err)
	}
	want := []string{"-data.img", "-data.img.zst", "-data.qcow2", "-hash.img", "-root.img", "-uki.efi", ".img", ".img.zst", ".ova", ".qcow2"}
	if d := cmp.Diff(want, files()); d != "" {
		t.Error(d)
	}
	if !allRegular(append(b.companions(v), b.ImagePath(v))) {
		t.Error("a companion is missing")
	}
	stem := strings.TrimSuffix(b.ImagePath(v), ".img")
	for _, ending := range []string{".qcow2", ".ova", ".img.zst"} {
		d, err := format.Open(t.Context(), stem+ending)
		if err != nil {
			t.Fatal(err)
		}
		if _, findings, err := inspect.Verify(t.Context(), d); err != nil || len(findings) > 0 {
			t.Errorf("%s: %v, %v", ending, findings, err)
		}
		d.Close()
	}
	if ova, err := os.ReadFile(stem + ".ova"); err != nil || !bytes.Contains(ova, []byte("testos-dev-x86_64-0.1.0-data.vmdk")) {
		t.Errorf("the OVA lacks the disk of the data: %v", err)
	}
	d, err := format.Open(t.Context(), stem+"-data.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if r, err := inspect.Disk(d); err != nil || len(r.Partitions) != 1 || r.Partitions[0].Label != "data" || r.Size != 6<<20 {
		t.Errorf("%+v, %v", r, err)
	}

	// An update repository finds the parts of the update, which are those of the disk.
	var rel tufrepo.Release
	if err := rel.FromDir(dir); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{stem + "-root.img", stem + "-hash.img", stem + "-uki.efi"}, []string{rel.Root, rel.Hash, rel.UKI}); d != "" {
		t.Error(d)
	}
	for got, want := range map[string]string{rel.Root: in.Root, rel.Hash: in.Hash} {
		a, errA := os.ReadFile(got)
		b, errB := os.ReadFile(want)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s is not %s", got, want)
		}
	}
	if raw, err := os.ReadFile(rel.UKI); err != nil || !bytes.Contains(raw, []byte(in.RootHash.String())) {
		t.Errorf("the kernel does not name the root hash: %v", err)
	}

	// Every damage is found.
	if wrong, err := b.verifyCompanions(t.Context(), v, b.ImagePath(v)); err != nil || len(wrong) > 0 {
		t.Error(wrong, err)
	}
	for _, ending := range []string{"-root.img", "-uki.efi", ".qcow2", "-data.img", ".ova", ".img.zst"} {
		path := stem + ending
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// the content of a blank disk is not compared, its partition table is
		at := map[string]int{"-root.img": 10, "-uki.efi": 600, ".qcow2": bytes.Index(good, []byte("6.1.176")), "-data.img": 520, ".ova": len(good) / 2}[ending]
		bad := bytes.Clone(good)
		bad[at] ^= 0x55
		if ending == ".img.zst" {
			bad = good[:len(good)/2]
		}
		if err := errors.Join(os.Remove(path), os.WriteFile(path, bad, 0o600)); err != nil {
			t.Fatal(err)
		}
		if wrong, err := b.verifyCompanions(t.Context(), v, b.ImagePath(v)); err != nil || len(wrong) != 1 || wrong[0] != path {
			t.Errorf("%s: %v, %v", ending, wrong, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	// What another layout does not have is gone, and the stamp is another.
	before := shownFrom(plan.Inputs{Settings: map[string]string{}}, v).Key()
	v.ImageFormats, v.ImageLayout.DataDisk, v.ImageLayout.Slots = []string{"raw"}, layout.Unified, 1
	if err := b.writeCompanions(t.Context(), v, b.ImagePath(v)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{".img"}, files()); d != "" {
		t.Error(d)
	}
	if before == shownFrom(plan.Inputs{Settings: map[string]string{}}, v).Key() {
		t.Error("the formats are not part of the stamp")
	}
}
