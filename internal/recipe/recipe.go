// Package recipe turns one target into the LLB that makes it
// (https://github.com/moby/buildkit/blob/master/docs/dev/solver.md).
//
// Every recipe has the SDK as its read-only root, declared inputs as read-only
// mounts and no network. Packages leave their result through one copy onto scratch,
// so that BuildKit keys what follows by content.
package recipe

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
)

// ExitHeld is the exit status of a sandbox with Hold whose script did all its work.
const ExitHeld = 86

// ExitNoCompiler is the exit status of [Sandbox.Clock] in an SDK without cc.
const ExitNoCompiler = 127

// generation is part of every key: raise it whenever the Go part of a recipe
// changes what it makes. Changed scripts change keys by themselves.
const generation = "1"

// PackageVersion and ImageVersion are part of every key: what of the recipe
// itself decides what it makes.
var (
	PackageVersion = version(sysrootScript, rpmbuildScript)
	ImageVersion   = version(imageScript, filesystemScript)
)

func version(scripts ...string) string {
	sum := sha256.Sum256([]byte(generation + "\x00" + strings.Join(scripts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// Ids of the content stores that a build's client must serve to the engine.
const (
	StoreSDK     = "sdk"     // OCI layout of the SDK image
	StoreSources = "sources" // upstream sources
	StoreResults = "results" // results of other targets
)

const (
	builderUID = 1000
	homeDir    = "/home"
	jobsDir    = "/slipway/jobs"
	searchPath = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
)

//go:embed scripts/sysroot.sh
var sysrootScript string

//go:embed scripts/rpmbuild.sh
var rpmbuildScript string

//go:embed scripts/image.sh
var imageScript string

//go:embed scripts/filesystem.sh
var filesystemScript string

// ClockShift is by how much a fast clock is ahead: year, month, day, hour, minute
// and second are others.
const ClockShift = 400*24*time.Hour + 7*time.Hour + 11*time.Minute + 13*time.Second

// clockFile is where sandboxes see the library that shifts the clock.
const clockFile = "/slipway/clock.so"

//go:embed scripts/clock.c
var clockSource string

const clockScript = `cc -O2 -fPIC -shared -nostdlib -D_GNU_SOURCE -DSHIFT="$1L" -o /out/clock.so /slipway/source/clock.c
echo "$2" >/out/ld.so.preload`

// measureScript and jobsScript come before other scripts. They decide nothing of
// what is made and stay out of the versions.
var (
	//go:embed scripts/measure.sh
	measureScript string
	//go:embed scripts/jobs.sh
	jobsScript string
)

// Blob is a file in one of the content stores.
type Blob struct {
	Store  string // StoreSources or StoreResults
	Digest string // "sha256:<hex>"
	Name   string // file name in the sandbox
}

// Sandbox is what all recipes share.
type Sandbox struct {
	SDKDigest string // manifest digest of the SDK image, "sha256:<hex>"
	Arch      string // RPM architecture of the target, "x86_64"
	Target    string // compiler triple, "x86_64-dinghy-linux-gnu"
	Epoch     int64  // SOURCE_DATE_EPOCH, seconds
	Jobs      int    // processors that builds are told to have, see scripts/jobs.sh; those of the machine when 0
	Hold      bool   // fail at the end, so that the sandbox can be looked at
	FastClock bool   // shift the clock, see [Sandbox.Clock]
}

// Package is a spec file to be built.
type Package struct {
	Sandbox
	Name      string   // "packages/glibc"
	Spec      string   // file name of the spec
	Files     []string // own files, relative to Dir
	Dir       string   // folder of the package on the host
	Sources   []Blob   // upstream sources
	Groups    []string // first-party sources, slash-separated paths below GroupsDir; "." is all of it
	Content   string   // changes whenever an own file or a first-party source does
	GroupsDir string   // the workspace's sources/ folder on the host
	RPMs      []Blob   // what is installed into its sysroot
}

// Image is a variant whose image parts are to be made.
type Image struct {
	Sandbox
	Name     string // "variants/qemu-dev"
	Metadata string // text of the spec that states the variant's facts
	Release  string // lines to be appended to os-release
	RPMs     []Blob // what is installed but the metadata, which the recipe makes
	Tools    []Blob // RPMs whose programs come before the SDK's
	EFIArch  string // "x64", "aa64"
	// Filesystem of the root is "erofs" or "ext4", and Compression of an erofs
	// "lz4hc" or "zstd".
	Filesystem, Compression string
	UUID                    string // of the root file system
}

// Build is a recipe ready for an engine.
type Build struct {
	State  llb.State         // holds the result's files at its top
	Locals map[string]string // folders on the host by llb.Local name
	Mtime  time.Time         // of all files in Locals; their own when zero
}

// Build gives the LLB whose state holds the binary RPMs.
func (p Package) Build() Build {
	b := Build{Locals: map[string]string{}, Mtime: p.mtime()}
	local := func(name, dir string, patterns []string) llb.State {
		key := name + ":" + p.Name
		b.Locals[key] = dir
		return llb.Local(key, llb.IncludePatterns(patterns), llb.WithCustomName("[internal] "+key))
	}

	sysroot := p.sysroot()
	mounts := []llb.RunOption{
		llb.AddMount("/slipway/package", local("files", p.Dir, p.Files), llb.Readonly),
		llb.AddMount("/"+p.Target+"/sys-root", sysroot, llb.Readonly),
		p.cache("go-build", "/home/builder/.cache/go-build"),
		jobs(),
	}
	mounts = append(mounts, blobMounts("/slipway/sources", p.Sources)...)
	if len(p.Groups) > 0 {
		groups := p.Groups
		if slices.Contains(groups, ".") {
			groups = nil
		}
		mounts = append(mounts, llb.AddMount("/slipway/groups", local("groups", p.GroupsDir, groups), llb.Readonly))
	}
	run := p.run(p.Name+": rpmbuild", measureScript+jobsScript+rpmbuildScript, nil, append(mounts,
		llb.User("builder"),
		llb.Dir("/home/builder"),
		llb.AddEnv("HOME", "/home/builder"),
		llb.AddEnv("SLIPWAY_SPEC", p.Spec),
		llb.AddEnv("SLIPWAY_SYSROOT", "/"+p.Target+"/sys-root"),
		llb.AddEnv("SLIPWAY_JOBS", jobsDir),
	))
	built := run.AddMount(homeDir, home())
	b.State = llb.Scratch().File(llb.Copy(built, "/builder/rpmbuild/RPMS/*/*.rpm", "/",
		&llb.CopyInfo{AllowWildcard: true}), llb.WithCustomName("[internal] RPMs of "+p.Name))
	return b
}

// mtime is the time that own files and first-party sources have in the sandbox, as
// keys know nothing of times: the epoch, which RPMs keep. The nanoseconds follow
// from the content, since go takes a file in its build cache, which outlives the
// sandbox, for unchanged by time and size.
func (p Package) mtime() time.Time {
	sum := sha256.Sum256([]byte(p.Content))
	return time.Unix(p.Epoch, int64(binary.BigEndian.Uint32(sum[:])%1e9))
}

func (p Package) sysroot() llb.State {
	p.Hold = false
	run := p.run(p.Name+": dependencies", sysrootScript, nil, blobMounts("/slipway/rpms", p.RPMs))
	return run.AddMount("/sysroot", llb.Scratch())
}

// Build gives the LLB whose state holds root.<Filesystem>,
// boot/vmlinuz, boot/release, os-release, inventory.tsv and the EFI binaries.
func (i Image) Build() Build {
	metadata := llb.Scratch().File(
		llb.Mkfile("/metadata.spec", 0o644, []byte(i.Metadata)).
			Mkfile("/os-release", 0o644, []byte(i.Release)),
		llb.WithCustomName("[internal] facts of "+i.Name))
	run := i.run(i.Name+": image", measureScript+imageScript+filesystemScript, nil, append(append(blobMounts("/slipway/rpms", i.RPMs), blobMounts("/slipway/tools", i.Tools)...),
		llb.AddMount("/slipway/metadata", metadata, llb.Readonly),
		llb.AddEnv("HOME", "/tmp"),
		llb.AddEnv("SLIPWAY_EFI_ARCH", i.EFIArch),
		llb.AddEnv("SLIPWAY_FILESYSTEM", i.Filesystem),
		llb.AddEnv("SLIPWAY_COMPRESSION", i.Compression),
		llb.AddEnv("SLIPWAY_UUID", i.UUID),
	))
	run.AddMount("/image", llb.Scratch())
	return Build{State: run.AddMount("/parts", llb.Scratch())}
}

// run executes a script in the SDK with the settings that every sandbox has.
func (s Sandbox) run(name, script string, args []string, opts []llb.RunOption) llb.ExecState {
	argv := append([]string{"/bin/bash", "-euo", "pipefail", "-c", script, "slipway"}, args...)
	if s.Hold {
		opts = append(opts, llb.AddEnv("SLIPWAY_HOLD", "1"))
	}
	if s.Jobs > 0 {
		opts = append(opts, llb.AddEnv("OMP_NUM_THREADS", strconv.Itoa(s.Jobs))) // is what nproc(1) says
	}
	opts = append([]llb.RunOption{
		llb.Args(argv),
		llb.ReadonlyRootFS(),
		llb.Network(pb.NetMode_NONE),
		llb.WithCustomName(name),
		llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()),
		llb.AddMount("/var/tmp", llb.Scratch(), llb.Tmpfs()),
		llb.AddEnv("PATH", searchPath),
		llb.AddEnv("LANG", "C.UTF-8"),
		llb.AddEnv("TZ", "UTC"),
		llb.AddEnv("SOURCE_DATE_EPOCH", strconv.FormatInt(s.Epoch, 10)),
		llb.AddEnv("SLIPWAY_ARCH", s.Arch),
	}, opts...)
	if s.FastClock {
		shim := s.Clock().State
		opts = append(opts,
			llb.AddMount(clockFile, shim, llb.SourcePath("/clock.so"), llb.Readonly),
			llb.AddMount("/etc/ld.so.preload", shim, llb.SourcePath("/ld.so.preload"), llb.Readonly))
	}
	return s.sdk().Run(opts...)
}

// Clock gives the LLB of clock.so, which makes the clock ClockShift fast in
// programs that have it from the C library, and ld.so.preload, which names it. The
// SDK's cc compiles it. Kernels cannot shift the clock for some processes alone
// (time_namespaces(7)).
func (s Sandbox) Clock() Build {
	s.FastClock = false
	source := llb.Scratch().File(llb.Mkfile("/clock.c", 0o644, []byte(clockSource)), llb.WithCustomName("[internal] clock.c"))
	run := s.run("clock", clockScript, []string{strconv.FormatInt(int64(ClockShift/time.Second), 10), clockFile}, []llb.RunOption{
		llb.AddMount("/slipway/source", source, llb.Readonly),
	})
	return Build{State: run.AddMount("/out", llb.Scratch())}
}

func (s Sandbox) sdk() llb.State {
	return llb.OCILayout("slipway.local/sdk@"+s.SDKDigest, llb.OCIStore("", StoreSDK), llb.WithCustomName("[internal] SDK"))
}

// home is what lies in /home: the builder's home with the mount point of the
// caches, owned by the builder.
func home() llb.State {
	own := llb.WithUIDGID(builderUID, builderUID)
	return llb.Scratch().File(
		llb.Mkdir("/builder", 0o755, own).Mkdir("/builder/.cache", 0o755, own).Mkdir("/builder/.cache/go-build", 0o755, own),
		llb.WithCustomName("[internal] home"))
}

// cache is a folder that outlives the sandbox, owned by the builder. Its content
// is no input: only caches that are keyed by content themselves may live there.
func (s Sandbox) cache(name, dest string) llb.RunOption {
	return cacheMount(name, strings.Join([]string{"slipway", name, s.SDKDigest, s.Arch}, ":"), dest)
}

// jobs is the folder of the jobserver that all sandboxes of the engine share.
func jobs() llb.RunOption { return cacheMount("jobs", "slipway:jobs", jobsDir) }

func cacheMount(name, id, dest string) llb.RunOption {
	empty := llb.Scratch().File(llb.Mkdir("/"+name, 0o755, llb.WithUIDGID(builderUID, builderUID)), llb.WithCustomName("[internal] cache "+name))
	return llb.AddMount(dest, empty, llb.SourcePath("/"+name), llb.AsPersistentCacheDir(id, llb.CacheMountShared))
}

// blobMounts mounts each blob as a folder of its own, which holds one file.
func blobMounts(dir string, blobs []Blob) []llb.RunOption {
	blobs = slices.Clone(blobs)
	slices.SortFunc(blobs, func(a, b Blob) int { return strings.Compare(a.Name, b.Name) })
	var opts []llb.RunOption
	for n, b := range blobs {
		st := llb.OCILayoutBlob("slipway.local/"+b.Store+"@"+b.Digest,
			llb.ImageBlobOCIStore("", b.Store), llb.Filename(b.Name), llb.Chmod(0o644), llb.WithCustomName("[internal] "+b.Name))
		opts = append(opts, llb.AddMount(fmt.Sprintf("%s/%d", dir, n), st, llb.Readonly))
	}
	return opts
}
