package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"slipway/internal/graph"
	"slipway/internal/image/layout"
	"slipway/internal/image/verity"
	"slipway/internal/provenance"
	"slipway/internal/rpmspec"
	"slipway/internal/sdk"
	"slipway/internal/workspace"
)

// What makes the root file system must be in the SDK, in a version that can.
func TestCheckTools(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		layout        layout.Layout
		name, version string
		want          string
	}{
		{layout.Layout{}, "rpm", "1", ""},
		{layout.Layout{RootFilesystem: layout.Ext4}, "rpm", "1", `"image-layout.root-filesystem" is ext4, which takes e2fsprogs 1.47; the SDK has no e2fsprogs`},
		{layout.Layout{RootFilesystem: layout.Ext4}, "e2fsprogs", "1.46.6-1", "the SDK has e2fsprogs 1.46.6-1"},
		{layout.Layout{RootFilesystem: layout.Ext4}, "e2fsprogs", "1.47.0-2+b2", ""},
		{layout.Layout{RootCompression: layout.Zstd}, "erofs-utils", "1.5-1", `"image-layout.root-compression" is zstd, which takes erofs-utils 1.8; the SDK has erofs-utils 1.5-1`},
		{layout.Layout{RootCompression: layout.Zstd}, "erofs-utils", "1.8.6-1", ""},
	} {
		b := &Builder{ws: &workspace.Workspace{Root: t.TempDir()}}
		v := &workspace.Variant{Name: "dev", ImageLayout: tt.layout.WithDefaults()}
		if err := b.checkTools(v, nil); err != nil {
			t.Errorf("without a lock: %v", err)
		}
		lock := &sdk.Lock{Suite: "bookworm", Components: []string{"main"}, Arch: "amd64", Requested: []string{tt.name}, Packages: []sdk.LockedPackage{
			{Name: tt.name, Version: tt.version, Arch: "amd64", SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/x.deb"}}}
		if err := sdk.WriteLock(filepath.Join(b.ws.Root, sdk.LockFile), lock); err != nil {
			t.Fatal(err)
		}
		switch err := b.checkTools(v, nil); {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// A tool of the workspace will do in place of one of the SDK, if it is new enough.
func TestCheckOwnTools(t *testing.T) {
	t.Parallel()
	b := &Builder{ws: &workspace.Workspace{Root: t.TempDir(), Config: workspace.Config{Vendor: "acme"}}}
	lock := &sdk.Lock{Suite: "bookworm", Components: []string{"main"}, Arch: "amd64", Requested: []string{"rpm"}, Packages: []sdk.LockedPackage{
		{Name: "rpm", Version: "1", Arch: "amd64", SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/x.deb"}}}
	if err := sdk.WriteLock(filepath.Join(b.ws.Root, sdk.LockFile), lock); err != nil {
		t.Fatal(err)
	}
	v := &workspace.Variant{Name: "dev", ImageLayout: layout.Layout{RootCompression: layout.Zstd}.WithDefaults()}
	for _, tt := range []struct {
		name, version string
		ok            bool
	}{{"acme-erofs-utils", "1.8.6", true}, {"acme-erofs-utils", "1.7.1", false}, {"acme-mkfs", "1.8.6", false}} {
		tool := &graph.RPM{Name: tt.name, Target: &graph.Target{Spec: &rpmspec.Spec{Version: tt.version}}}
		if err := b.checkTools(v, []*graph.RPM{tool}); (err == nil) != tt.ok {
			t.Errorf("%s %s: %v", tt.name, tt.version, err)
		}
	}
}

// A shell reads the name as it was written.
func TestPrettyName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", `A "B" \$(c) $d \ e` + " `f`"} {
		b := &Builder{ws: &workspace.Workspace{Config: workspace.Config{Name: "testos", PrettyName: name, Version: "1.2.3"}}, opt: Options{Arch: "x86_64"}}
		lines := "PRETTY_NAME=package\n" + b.osRelease(&workspace.Variant{Name: "dev"})
		out, err := exec.Command("sh", "-euc", lines+`printf '%s' "$IMAGE_ID/$IMAGE_VERSION/$PRETTY_NAME"`).CombinedOutput()
		want := "testos-dev-x86_64/1.2.3/package"
		if name != "" {
			want = "testos-dev-x86_64/1.2.3/" + name + " 1.2.3"
		}
		if err != nil || string(out) != want {
			t.Errorf("got %s, %v; want %s", out, err, want)
		}
	}
}

// An image depends on its tools, and does not have them; its provenance names them.
func TestImageTools(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	plain, err := os.ReadFile(filepath.Join(d.root, "slipway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	d.write("slipway.toml", string(plain)+"[build]\nimage-tools = [\"moves\"]\n")
	look := func() *step {
		t.Helper()
		if _, err := d.make(); err != nil {
			t.Fatal(err)
		}
		b := d.with()
		targets, err := b.closure([]string{"variants/dev"})
		if err != nil {
			t.Fatal(err)
		}
		steps, err := b.steps(t.Context(), targets)
		if err != nil {
			t.Fatal(err)
		}
		return steps[slices.IndexFunc(steps, func(s *step) bool { return s.target.Name == "variants/dev" })]
	}
	one := look()
	if in := one.inputs; len(in.Tools) != 1 || in.Tools[0].Name != "acme-moves-1.rpm" || len(in.RPMs) != 1 || in.RPMs[0].Name != "acme-os-1.rpm" {
		t.Errorf("tools %v, RPMs %v", in.Tools, in.RPMs)
	}
	provenances := d.show()[provenance.EndUnsigned]
	tool := fmt.Sprintf("%q", strings.TrimPrefix(one.inputs.Tools[0].Digest, "sha256:"))
	if !strings.Contains(provenances, tool) {
		t.Errorf("the provenance does not have %s:\n%s", tool, provenances)
	}

	d.programs["/usr/bin/mkfs"] = "new"
	two := look()
	if one.key == two.key {
		t.Error("the key of the image does not depend on the tool")
	}
	d.write("slipway.toml", string(plain))
	three := look()
	d.programs["/usr/bin/mkfs"] = "newer"
	if four := look(); len(three.inputs.Tools) > 0 || three.key != four.key {
		t.Errorf("what is no tool is in the key: %v", three.inputs.Tools)
	}
}

// Builds of one checkout show its image one after the other.
func TestImageAtOnce(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	d.show()
	views := filepath.Join(d.root, "build")
	images := filepath.Join(views, "images/x86_64-dev")
	if err := errors.Join(os.RemoveAll(views), os.MkdirAll(images, 0o755)); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(images)
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.with().Build(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another build shows the image: %v", err)
	}
	if entries, err := os.ReadDir(images); err != nil || len(entries) > 0 {
		t.Errorf("shown beside another build: %v, %v", entries, err)
	}
	other.Close()

	for range 5 {
		if err := os.RemoveAll(views); err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for _, b := range []*Builder{d.with(), d.with(), d.with()} {
			g.Go(func() error { return b.Build(t.Context(), nil) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(images, "*/*.new")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if !d.current() {
			t.Error("the next build is not a no-op")
		}
	}
	list, err := d.with().Verify(t.Context(), nil)
	for _, v := range list {
		if !v.Good() {
			t.Errorf("%+v", v)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := errors.Join(os.WriteFile(from, []byte("new"), 0o644), os.WriteFile(to, []byte("old"), 0o644), os.WriteFile(to+".new", []byte("left by a build that was killed"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time they are one file already
		if err := relink(from, to); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(to); err != nil || string(text) != "new" {
			t.Errorf("%q, %v", text, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("%v, %v", entries, err)
		}
	}
	if err := relink(filepath.Join(dir, "gone"), to); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if text, err := os.ReadFile(to); err != nil || string(text) != "new" {
		t.Errorf("after a failure: %q, %v", text, err)
	}
}

// What reaches only the disk is no part of the key, but plans say so.
func TestNewDisk(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	d.show()
	variant := func(text string) func() {
		return func() { d.write("variants/dev/variant.toml", text+migratingVariant) }
	}
	remove := func(end string) func() {
		return func() {
			if err := os.Remove(d.path(end)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"nothing", func() {}, nil},
		{"kernel parameters", variant("kernel-parameters = [\"quiet\", \"panic=1\"]\n"), []string{"added    setting kernel-parameters"}},
		{"some of them", variant("kernel-parameters = [\"quiet\", \"panic=2\"]\n"), []string{"changed  setting kernel-parameters\n-panic=1\n+panic=2\n"}},
		{"formats", variant("kernel-parameters = [\"quiet\", \"panic=2\"]\nimage-formats = [\"raw\", \"qcow2\"]\n"), []string{"changed  setting image-formats\n+qcow2\n"}},
		{"layout", func() {
			d.write("variants/dev/variant.toml", strings.Replace(migratingVariant, "data-size-mib = 4", "data-size-mib = 5\nprivate-size-mib = 33", 1))
		},
			[]string{"changed  setting image-formats\n-qcow2\n", "changed  setting image-layout.data-size-mib: 4 → 5", "changed  setting image-layout.private-size-mib: 32 → 33", "removed  setting kernel-parameters"}},
		{"signing", func() { d.signing = signingOf(t) }, []string{"added    setting signing"}},
		{"another key", func() { d.signing = signingOf(t) }, []string{"changed  setting signing"}},
		{"disk removed", remove(".img"), []string{"added    image build/images/x86_64-dev/1.2.3/testos-dev-x86_64-1.2.3.img"}},
		{"file beside it removed", remove(verity.SignatureEnding), []string{"added    image build/images/x86_64-dev/1.2.3/testos-dev-x86_64-1.2.3.img"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change()
			options := d.options()
			options.Signing = d.signing
			rows, ok := CurrentPlan(d.root, options, nil)
			if ok != (c.want == nil) {
				t.Errorf("there is a record: %v", ok)
			}
			if !ok {
				var err error
				if rows, err = d.with().Plan(t.Context(), nil, false); err != nil {
					t.Fatal(err)
				}
			}
			why, err := d.with().Why(t.Context(), "variants/dev")
			if err != nil {
				t.Fatal(err)
			}
			last := rows[len(rows)-1]
			var got []string
			for _, c := range why.Disk {
				line := c.String()
				if c.Diff != "" {
					line += "\n" + c.Diff
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(why.Disk, last.Disk); diff != "" || last.Status != PlanCached || why.Status != PlanCached {
				t.Errorf("%+v\n%s", last, diff)
			}
			if _, ok := CurrentPlan(d.root, options, nil); ok != (c.want == nil) {
				t.Errorf("after a plan there is a record: %v", ok)
			}
			if err := d.with().Build(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The record of a plan ends with the disk.
func TestRecordOfPlanHasTheDisk(t *testing.T) {
	t.Parallel()
	d := newDocumented(t)
	d.show()
	if err := os.RemoveAll(filepath.Join(d.root, "build/rpms")); err != nil {
		t.Fatal(err)
	}
	if _, ok := CurrentPlan(d.root, d.options(), nil); ok {
		t.Error("the record of a build holds without its views")
	}
	if _, err := d.with().Plan(t.Context(), nil, false); err != nil {
		t.Fatal(err)
	}
	if _, ok := CurrentPlan(d.root, d.options(), nil); !ok {
		t.Error("the plan left no record")
	}
	if err := os.Remove(d.path(".img")); err != nil {
		t.Fatal(err)
	}
	if _, ok := CurrentPlan(d.root, d.options(), nil); ok {
		t.Error("the record of a plan holds without the disk")
	}
}
