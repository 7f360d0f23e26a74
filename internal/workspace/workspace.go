// Package workspace reads a Slipway workspace: slipway.toml and the manifests
// of its packages, its variants and its SDK. Reading is strict, and every
// finding of every file is reported at once, with its position.
package workspace

import (
	"fmt"
	"path"
	"strings"

	"slipway/internal/image/layout"
)

// File names and folders that make a workspace.
const (
	RootFile    = "slipway.toml" // marks the root of a workspace
	LockFile    = "slipway.lock" // beside it: what the SDK is made of
	PackageFile = "package.toml" // in packages/<name>/
	VariantFile = "variant.toml" // in variants/<name>/
	SDKFile     = "sdk/sdk.toml" // below the root

	packagesDir = "packages"
	variantsDir = "variants"
	sourcesDir  = "sources"
)

// Workspace is a whole workspace as its manifests describe it.
type Workspace struct {
	Root       string      // absolute path of the folder that holds slipway.toml
	Config     Config      // slipway.toml
	Packages   []*Package  // sorted by Name
	Variants   []*Variant  // sorted by Name
	SDK        *SDK        // sdk/sdk.toml
	Migrations *Migrations // migrations/migrations.toml; nil where there is none
}

// Config is slipway.toml: what the whole workspace shares.
type Config struct {
	Schema         int               `toml:"schema" required:"true" enum:"1" doc:"Version of the workspace format; this is version 1."`
	Name           string            `toml:"name" required:"true" check:"name" doc:"Short name of the operating system, as it stands in file names and in os-release ID."`
	PrettyName     string            `toml:"pretty-name" check:"text" default-doc:"none" doc:"Name of the operating system as people read it. With the version behind it, it is PRETTY_NAME in the os-release(5) of images, in place of what their packages say."`
	Vendor         string            `toml:"vendor" required:"true" check:"vendor" doc:"Vendor part of the target triple <arch>-<vendor>-linux-gnu, and with a dash the prefix of every RPM name."`
	Version        string            `toml:"version" required:"true" check:"version" doc:"Version of the operating system: three numbers with dots between."`
	DefaultVariant string            `toml:"default-variant" check:"folder" default-doc:"the only variant, where there is one" doc:"Variant that a command takes when none is named."`
	ReleaseEpoch   int64             `toml:"source-date-epoch" required:"true" min:"1" doc:"Time of the release in seconds since 1970-01-01 UTC: SOURCE_DATE_EPOCH of every build, hence the newest time stamp in any result."`
	Sources        Sources           `toml:"sources" doc:"Where external files come from."`
	Build          BuildOptions      `toml:"build" doc:"Settings of every package build."`
	Cache          Cache             `toml:"cache" doc:"The team's shared cache of results, in an OCI registry."`
	Macros         map[string]string `toml:"macros" keys:"macro" doc:"Further RPM macros: name = \"body\". They come after the SDK's macros, so they win."`

	positions
}

// Sources is the table [sources] of slipway.toml.
type Sources struct {
	Lookaside []string `toml:"lookaside" check:"lookaside" doc:"Base addresses of lookaside caches, tried in order before the upstream address: <base>/<file>/<sha512>/<file>."`
	Upstream  bool     `toml:"upstream" default:"true" doc:"Whether to go to a file's upstream address when no lookaside cache has it."`
}

// BuildOptions is the table [build] of slipway.toml.
type BuildOptions struct {
	Debuginfo  bool     `toml:"debuginfo" default:"false" doc:"Whether packages also make debuginfo and debugsource RPMs."`
	ImageTools []string `toml:"image-tools" check:"rpm" doc:"RPMs, without the vendor prefix, whose programs in /usr/bin and /usr/sbin come before the SDK's while images are made, such as a newer mkfs.erofs. That puts them in no image. What they require is not installed: they run in the SDK, so its own compiler, gcc, builds them with its own libraries."`
}

// Cache is the table [cache] of slipway.toml and of the user's configuration.
type Cache struct {
	Ref        string   `toml:"ref" check:"repository" default-doc:"no team cache" doc:"Repository of the cache in an OCI registry, such as registry.example.com/team/slipway-cache. Credentials are those of docker login, with its credential helpers."`
	Read       bool     `toml:"read" default:"true" doc:"Whether results are looked up in the cache."`
	Write      bool     `toml:"write" default:"false" doc:"Whether results of builds are pushed to the cache."`
	Insecure   bool     `toml:"insecure" default:"false" doc:"Whether plain HTTP will do. Registries of this machine need no such leave."`
	PublicKeys []string `toml:"public-keys" check:"text" doc:"Files with public keys in PEM, ed25519 or ECDSA P-256, as openssl and cosign make them; relative to the file that names them. Where there are some, results of the cache must be signed with one of them; others are refused."`
	SignKey    string   `toml:"sign-key" check:"text" default-doc:"results are not signed" doc:"File with the private key with which pushed results are signed: PKCS #8, or an encrypted key of cosign, whose password is in $COSIGN_PASSWORD; or the pkcs11: URI of a key in a token. It belongs into the user's configuration."`

	Places map[string]Position // of TeamCache: where ref, public-keys and sign-key are set
}

// Package is one folder of packages/: a manifest and a spec.
type Package struct {
	Name     string   // folder name
	Dir      string   // absolute path
	Manifest string   // absolute path of package.toml
	Spec     string   // absolute path of <name>.spec
	Files    []string // names of the regular files directly in Dir, sorted, without dot files and package.toml

	ReleasesURL   string         `toml:"releases-url" check:"web" doc:"Page where upstream announces releases; for people."`
	SourceGroups  []string       `toml:"source-groups" check:"group" doc:"Folders below sources/, or a dot for all of it, that the build sees and whose content is part of the package's key."`
	ExternalFiles []ExternalFile `toml:"external-files" doc:"Files of the spec that are fetched rather than kept in the package folder. Each must be a Source or Patch of the spec."`
	Build         PackageBuild   `toml:"build" doc:"What the build takes of the machine, for deciding how many packages are built at once. It is no part of the package's key."`

	positions
}

// PackageBuild is the table [build] of a package.toml.
type PackageBuild struct {
	CPUs   int    `toml:"cpus" min:"1" max:"65536" default-doc:"as measured the last time, else 1" doc:"Processors that the build keeps busy on average."`
	Memory string `toml:"memory" check:"size" default-doc:"as measured the last time" doc:"Memory that the build needs at its peak: a whole number and KiB, MiB, GiB or TiB. A package that needs more than the machine has is built alone."`
}

// MemoryBytes is Memory in bytes, 0 where the manifest does not give it.
func (b PackageBuild) MemoryBytes() int64 {
	n, _, _ := size(b.Memory) // the decoder has checked it
	return n
}

// ExternalFile is one [[external-files]] table of a package.toml.
type ExternalFile struct {
	URL           string `toml:"url" required:"true" check:"url" doc:"Where the file comes from: https://…, http://…, file:///…, debian:<source>/<tarball> (upstream tarball of a Debian source package) go:<module>@<version> (a Go module with its dependencies vendored) or go:./<folder> (the vendored dependencies of a Go module in the workspace)."`
	SHA512        string `toml:"sha512" check:"sha512" default-doc:"" doc:"SHA-512 of the file, 128 lower-case hexadecimal digits. Exactly one of sha512 and sha256 is needed."`
	SHA256        string `toml:"sha256" check:"sha256" default-doc:"" doc:"SHA-256 of the file, 64 lower-case hexadecimal digits."`
	Path          string `toml:"path" check:"filename" default-doc:"last segment of the url" doc:"Name of the file as the spec's Source or Patch has it. Needed for go: addresses, where it ends in .tar."`
	ForceUpstream bool   `toml:"force-upstream" default:"false" doc:"Allows the upstream address for this file even where sources.upstream is false."`

	Pos Position // of the table's header
}

// FileName is the name under which the spec knows the file: Path, or the last
// segment of the URL without query and fragment.
func (f *ExternalFile) FileName() string {
	if f.Path != "" {
		return f.Path
	}
	return urlFileName(f.URL)
}

// Variant is one folder of variants/: a named image.
type Variant struct {
	Name     string // folder name
	Dir      string // absolute path
	Manifest string // absolute path of variant.toml

	IncludedPackages []string        `toml:"included-packages" required:"true" check:"rpm" doc:"RPMs to install, without the vendor prefix; what they require comes with them."`
	KernelParameters []string        `toml:"kernel-parameters" check:"cmdline" doc:"Parameters that come first on the kernel command line, one an entry."`
	BootAddons       []BootAddon     `toml:"boot-addons" doc:"Kernel parameters that lie beside the kernel, not in it, as addons in /loader/addons of the EFI system partition: they hold for all kernels, also those of updates. The EFI stub must be of systemd 254 or later."`
	SupportedArches  []string        `toml:"supported-arches" enum:"x86_64,aarch64" default:"x86_64,aarch64" doc:"Architectures for which the variant can be built."`
	ImageFormats     []string        `toml:"image-formats" enum:"raw,raw.zst,raw.lz4,qcow2,vmdk,ova,vhd,vhd-dynamic" default:"raw" doc:"Formats in which the disk image is written. The raw image is always made, the others lie beside it."`
	ImageLayout      ImageLayout     `toml:"image-layout" doc:"Partitions and sizes of the disk."`
	ImageFeatures    map[string]bool `toml:"image-features" keys:"feature" doc:"Features by name, on or off. Packages see them as image-feature(x) and image-feature(no-x). The feature in-place-updates need not be named: it is on where image-layout has two slots, else off, and nothing else is allowed."`

	positions
}

// BootAddon is one [[boot-addons]] table of a variant.toml.
type BootAddon struct {
	Name             string   `toml:"name" required:"true" check:"addon" doc:"Name of the addon; its file is <name>.addon.efi. The stub puts addons behind the kernel's command line in the order of their names."`
	KernelParameters []string `toml:"kernel-parameters" required:"true" check:"cmdline" doc:"Parameters, one an entry."`

	Pos Position // of the table's header
}

// ImageLayout is the table [image-layout] of a variant.toml. Load fills in what
// the plan has for sizes that were not given.
type ImageLayout = layout.Layout

// SDK is sdk/sdk.toml: the root filesystem that every build runs in.
type SDK struct {
	Manifest string // absolute path of sdk.toml

	Name       string   `toml:"name" required:"true" check:"name" doc:"Name of the SDK."`
	Suite      string   `toml:"suite" required:"true" check:"suite" doc:"Debian suite, such as bookworm."`
	Components []string `toml:"components" check:"suite" default:"main" doc:"Components of the suite."`
	Packages   []string `toml:"packages" required:"true" check:"deb" doc:"Debian packages to install beside the essential ones; their versions are pinned in slipway.lock."`
	Arches     []string `toml:"arches" enum:"x86_64,aarch64" default:"x86_64" doc:"Target architectures for which the SDK has a cross toolchain."`
	Go         string   `toml:"go" check:"goversion" default-doc:"no Go" doc:"Version of the Go toolchain, such as 1.26.8."`

	positions
}

// Prefix is what every RPM name of the workspace begins with: the vendor and a
// dash.
func (w *Workspace) Prefix() string { return w.Config.Vendor + "-" }

// Package is the package of that name, or nil.
func (w *Workspace) Package(name string) *Package { return byName(w.Packages, name) }

// Variant is the variant of that name, or nil.
func (w *Workspace) Variant(name string) *Variant { return byName(w.Variants, name) }

func (p *Package) name() string { return p.Name }
func (v *Variant) name() string { return v.Name }

// urlFileName is the last segment of an address without query and fragment;
// empty when there is none.
func urlFileName(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		url = url[:i]
	}
	_, rest, ok := strings.Cut(url, ":")
	if !ok || strings.HasSuffix(rest, "/") || strings.HasPrefix(url, "go:") {
		return ""
	}
	if host, ok := strings.CutPrefix(rest, "//"); ok && !strings.Contains(host, "/") {
		return ""
	}
	return path.Base(rest)
}

// Position is a place in a file of the workspace.
type Position struct {
	File         string // relative to the workspace root, with slashes
	Line, Column int    // from 1, in bytes; 0 when the finding is about the file as a whole
}

func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}
