package recipe

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "write the golden files")

func sha(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func sandbox() Sandbox {
	return Sandbox{SDKDigest: sha("0"), Arch: "x86_64", Target: "x86_64-acme-linux-gnu", Epoch: 1700000000}
}

func pkg() Package {
	return Package{
		Sandbox: sandbox(), Name: "packages/hello", Spec: "hello.spec", Files: []string{"a.patch", "hello.spec"}, Dir: "/ws/packages/hello",
		Sources: []Blob{{Store: StoreSources, Digest: sha("2"), Name: "z.tar"}, {Store: StoreSources, Digest: sha("1"), Name: "a.tar"}},
		Groups:  []string{"tool"}, GroupsDir: "/ws/sources",
		RPMs: []Blob{{Store: StoreResults, Digest: sha("3"), Name: "acme-libc-1.x86_64.rpm"}},
	}
}

func variant() Image {
	return Image{
		Sandbox: sandbox(), Name: "variants/dev", Metadata: "Name: acme-metadata\n", Release: "VARIANT_ID=dev\n",
		RPMs:    []Blob{{Store: StoreResults, Digest: sha("3"), Name: "acme-libc-1.x86_64.rpm"}},
		Tools:   []Blob{{Store: StoreResults, Digest: sha("4"), Name: "acme-mkfs-1.x86_64.rpm"}},
		EFIArch: "x64", Filesystem: "erofs", Compression: "lz4hc", UUID: "01234567-89ab-8def-8123-456789abcdef",
	}
}

// describe prints the operations of a build in their order, without what only
// BuildKit cares for. Scripts are told by their digest.
func describe(t *testing.T, b Build) string {
	t.Helper()
	def, err := b.State.Marshal(context.Background(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	var out strings.Builder
	for _, raw := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(raw)
		name := def.Metadata[d].Description["llb.customname"]
		names[d.String()] = name
		from := func(i int64) string {
			if i < 0 {
				return "scratch"
			}
			in := op.Inputs[i]
			return fmt.Sprintf("%q[%d]", names[in.Digest], in.Index)
		}
		switch o := op.Op.(type) {
		case *pb.Op_Source:
			fmt.Fprintf(&out, "source %s\n", o.Source.Identifier)
			for _, k := range slices.Sorted(maps.Keys(o.Source.Attrs)) {
				if k != pb.AttrLocalUniqueID {
					fmt.Fprintf(&out, "  %s = %s\n", k, o.Source.Attrs[k])
				}
			}
		case *pb.Op_Exec:
			fmt.Fprintf(&out, "exec %q network %s user %q in %s\n", name, o.Exec.Network, o.Exec.Meta.User, o.Exec.Meta.Cwd)
			for _, a := range o.Exec.Meta.Args {
				if strings.Contains(a, "\n") {
					a = "<script>"
				}
				fmt.Fprintf(&out, "  arg %s\n", a)
			}
			for _, e := range o.Exec.Meta.Env {
				fmt.Fprintf(&out, "  env %s\n", e)
			}
			for _, m := range o.Exec.Mounts {
				mode := "rw"
				if m.Readonly {
					mode = "ro"
				}
				what := m.MountType.String()
				if m.MountType == pb.MountType_BIND {
					what = from(m.Input)
				}
				if m.CacheOpt != nil {
					what += " " + m.CacheOpt.ID
				}
				fmt.Fprintf(&out, "  mount %s %s %s%s\n", m.Dest, mode, what, m.Selector)
			}
		case *pb.Op_File:
			fmt.Fprintf(&out, "file %q\n", name)
			for _, a := range o.File.Actions {
				switch a := a.Action.(type) {
				case *pb.FileAction_Mkdir:
					fmt.Fprintf(&out, "  mkdir %s %o\n", a.Mkdir.Path, a.Mkdir.Mode)
				case *pb.FileAction_Mkfile:
					fmt.Fprintf(&out, "  mkfile %s %q\n", a.Mkfile.Path, a.Mkfile.Data)
				case *pb.FileAction_Copy:
					fmt.Fprintf(&out, "  copy %s to %s\n", a.Copy.Src, a.Copy.Dest)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Locals)) {
		fmt.Fprintf(&out, "local %s is %s\n", name, b.Locals[name])
	}
	return out.String()
}

func TestGolden(t *testing.T) {
	for name, b := range map[string]Build{
		"package": pkg().Build(),
		"image":   variant().Build(),
		"command": Command{Sandbox: sandbox(), Workspace: "/ws", Dir: "sources", Args: []string{"go", "test", "./..."}}.Build(),
	} {
		t.Run(name, func(t *testing.T) {
			got := describe(t, b)
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every sandbox is without network and has the SDK as a read-only root.
func TestSandboxesAreClosed(t *testing.T) {
	for _, b := range []Build{pkg().Build(), variant().Build(), Command{Sandbox: sandbox(), Args: []string{"true"}}.Build()} {
		def, err := b.State.Marshal(context.Background(), llb.LinuxAmd64)
		if err != nil {
			t.Fatal(err)
		}
		sandboxes := 0
		for _, raw := range def.Def {
			var op pb.Op
			if err := op.UnmarshalVT(raw); err != nil {
				t.Fatal(err)
			}
			exec, ok := op.Op.(*pb.Op_Exec)
			if !ok {
				continue
			}
			sandboxes++
			if exec.Exec.Network != pb.NetMode_NONE || exec.Exec.Security != pb.SecurityMode_SANDBOX {
				t.Errorf("network %s, security %s", exec.Exec.Network, exec.Exec.Security)
			}
			if root := exec.Exec.Mounts[0]; root.Dest != "/" || !root.Readonly {
				t.Errorf("root is %+v", root)
			}
		}
		if sandboxes == 0 {
			t.Error("no sandbox")
		}
	}
}

// What a build is made from, and nothing else, reaches the definition.
func TestDefinitionFollowsInputs(t *testing.T) {
	definition := func(change func(*Package)) string {
		p := pkg()
		change(&p)
		return describe(t, p.Build())
	}
	same := definition(func(*Package) {})
	for name, change := range map[string]func(*Package){
		"order of sources": func(p *Package) { p.Sources[0], p.Sources[1] = p.Sources[1], p.Sources[0] },
	} {
		if definition(change) != same {
			t.Errorf("%s changes the definition", name)
		}
	}
	for name, change := range map[string]func(*Package){
		"sdk":    func(p *Package) { p.SDKDigest = sha("9") },
		"arch":   func(p *Package) { p.Arch = "aarch64" },
		"triple": func(p *Package) { p.Target = "x86_64-other-linux-gnu" },
		"epoch":  func(p *Package) { p.Epoch++ },
		"source": func(p *Package) { p.Sources[0].Digest = sha("9") },
		"RPM":    func(p *Package) { p.RPMs[0].Digest = sha("9") },
		"spec":   func(p *Package) { p.Spec = "other.spec" },
		"files":  func(p *Package) { p.Files = p.Files[1:] },
		"hold":   func(p *Package) { p.Hold = true },
	} {
		if definition(change) == same {
			t.Errorf("%s does not reach the definition", name)
		}
	}
}

// The number of processors that builds are told is in their environment only where
// it is set.
func TestJobsSetting(t *testing.T) {
	p := pkg()
	if text := describe(t, p.Build()); strings.Contains(text, "OMP_NUM_THREADS") {
		t.Errorf("set without Jobs: %s", text)
	}
	p.Jobs = 5
	if text := describe(t, p.Build()); strings.Count(text, "  env OMP_NUM_THREADS=5\n") != 2 {
		t.Errorf("not in both sandboxes: %s", text)
	}
}

// Files have the epoch as their time, and another nanosecond whenever they change.
func TestPackageMtime(t *testing.T) {
	of := func(content string) time.Time {
		p := pkg()
		p.Content = content
		return p.Build().Mtime
	}
	if one := of("a"); one.Unix() != pkg().Epoch || !one.Equal(of("a")) || one.Equal(of("b")) {
		t.Errorf("%v, then %v, and %v after a change", one, of("a"), of("b"))
	}
}
