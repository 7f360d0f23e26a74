package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/graph"
	"slipway/internal/image"
	"slipway/internal/image/inspect"
	"slipway/internal/image/layout"
	"slipway/internal/image/verity"
	"slipway/internal/plan"
	"slipway/internal/recipe"
	"slipway/internal/rpm"
	"slipway/internal/rpmspec"
	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// efiArches are UEFI's names of architectures
// (https://uefi.org/specs/UEFI/2.10/03_Boot_Manager.html, table of removable media).
var efiArches = map[string]string{"x86_64": "x64", "aarch64": "aa64"}

// variantInputs fills in what the parts of an image are made from.
func (b *Builder) variantInputs(t *graph.Target, in *plan.Inputs) error {
	v := t.Variant
	if err := v.CheckArch(b.opt.Arch); err != nil {
		return err
	}
	in.Recipe = recipe.ImageVersion
	in.Settings["metadata"] = b.metadata(v)
	in.Settings["os-release"] = b.osRelease(v)
	in.Settings["root-filesystem"] = v.ImageLayout.RootFilesystem
	in.Settings["root-compression"] = v.ImageLayout.RootCompression
	return b.checkTools(v, b.graph.Tools(t))
}

// checkTools is an error of type *workspace.Error when neither the image tools nor
// the SDK that is pinned have what makes the root file system that a variant asks for.
func (b *Builder) checkTools(v *workspace.Variant, tools []*graph.RPM) error {
	l := v.ImageLayout
	key, value, name, least := "image-layout.root-filesystem", l.RootFilesystem, "e2fsprogs", "1.47"
	switch {
	case l.RootFilesystem == layout.Ext4:
	case l.RootCompression == layout.Zstd:
		key, value, name, least = "image-layout.root-compression", l.RootCompression, "erofs-utils", "1.8"
	default:
		return nil
	}
	for _, r := range tools {
		if r.Name == b.ws.Prefix()+name && rpmspec.CompareVersions(r.Target.Spec.Version, least) >= 0 {
			return nil
		}
	}
	lock, err := sdk.ReadLock(filepath.Join(b.ws.Root, sdk.LockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no SDK is pinned yet
	}
	if err != nil {
		return err
	}
	has := "no " + name
	if p := lock.Package(name); p != nil {
		upstream, _, _ := strings.Cut(p.Version, "-")
		if rpmspec.CompareVersions(upstream, least) >= 0 {
			return nil
		}
		has = name + " " + p.Version
	}
	return workspace.NewError(v.Position(key), key, fmt.Sprintf("%q is %s, which takes %s %s; the SDK has %s", key, value, name, least, has),
		"leave it out, give the SDK a newer one in "+workspace.SDKFile+", or build one and name it in build.image-tools of "+workspace.RootFile)
}

func (b *Builder) imagePackages(v *workspace.Variant) []string {
	names := []string{b.ws.Prefix() + "metadata"}
	for _, p := range v.IncludedPackages {
		names = append(names, b.ws.Prefix()+p)
	}
	return names
}

// metadata is the spec of the package that states the facts of a variant as
// capabilities. The rich dependencies of other packages choose by them, so that
// no package needs to know the variant while it is built.
func (b *Builder) metadata(v *workspace.Variant) string {
	var s strings.Builder
	prefix := b.ws.Prefix()
	fmt.Fprintf(&s, "Name: %smetadata\nVersion: %s\nRelease: 1\nSummary: Facts of the variant %s\nLicense: Apache-2.0\nBuildArch: noarch\n", prefix, b.ws.Config.Version, v.Name)
	for _, fact := range b.ws.Facts(v) {
		fmt.Fprintf(&s, "Provides: %s%s\n", prefix, fact)
	}
	s.WriteString("%description\n%{summary}.\n%files\n")
	return s.String()
}

// metadataPackage is what dependency resolution needs to know of the package that
// metadata is the spec of.
func (b *Builder) metadataPackage(v *workspace.Variant) *rpm.Package {
	m := &rpm.Metadata{Name: b.ws.Prefix() + "metadata", Version: b.ws.Config.Version, Release: "1", Arch: "noarch"}
	m.Provides = append(m.Provides, rpm.Dep{Name: m.Name, Cmp: "=", EVR: m.EVR()})
	for _, fact := range b.ws.Facts(v) {
		m.Provides = append(m.Provides, rpm.Dep{Name: b.ws.Prefix() + fact})
	}
	return &rpm.Package{Metadata: m}
}

// osRelease gives the lines that the variant adds to os-release(5).
func (b *Builder) osRelease(v *workspace.Variant) string {
	c := &b.ws.Config
	lines := fmt.Sprintf("VARIANT_ID=%s\nIMAGE_ID=%s-%s-%s\nIMAGE_VERSION=%s\n", v.Name, c.Name, v.Name, b.opt.Arch, c.Version)
	if c.PrettyName != "" {
		// of a name that is there twice the last holds, as in a shell
		lines += fmt.Sprintf("PRETTY_NAME=\"%s %s\"\n", quoted.Replace(c.PrettyName), c.Version)
	}
	return lines
}

// quoted escapes what a shell does not take literally in double quotes.
var quoted = strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "$", "\\$", "`", "\\`")

// rootUUID gives the UUID of a variant's root file system and of its hash tree, which
// follows from what goes in.
func rootUUID(in plan.Inputs) (uuid [16]byte) {
	sum := sha256.Sum256([]byte("slipway image " + in.Key()))
	copy(uuid[:], sum[:])
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // RFC 9562, version 8
	return uuid
}

func (b *Builder) imageRecipe(t *graph.Target, in plan.Inputs) recipe.Build {
	uuid := rootUUID(in)
	return recipe.Image{
		Sandbox: b.sandbox(), Name: t.Name,
		Metadata: b.metadata(t.Variant), Release: b.osRelease(t.Variant),
		RPMs: rpmBlobs(in.RPMs), Tools: rpmBlobs(in.Tools), EFIArch: efiArches[b.opt.Arch],
		Filesystem: t.Variant.ImageLayout.RootFilesystem, Compression: t.Variant.ImageLayout.RootCompression,
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", uuid[0:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:16]),
	}.Build()
}

// Files of a variant's result beside its root file system.
const (
	hashTreeFile = "root.verity"
	rootHashFile = "root.hash"
)

// hashTree adds the hash tree of a variant's root file system and its root hash to
// the files that the sandbox made.
func (b *Builder) hashTree(ctx context.Context, t *graph.Target, in plan.Inputs, dir string) error {
	root, err := os.Open(filepath.Join(dir, "root."+t.Variant.ImageLayout.RootFilesystem))
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat()
	if err != nil {
		return err
	}
	uuid := rootUUID(in)
	tree, hash, err := verity.Format(ctx, root, verity.Superblock{UUID: uuid, DataBlocks: uint64(info.Size() / verity.BlockSize), Salt: verity.DeriveSalt(uuid[:])})
	if err != nil {
		return fmt.Errorf("%s: hash tree of the root file system: %w", t.Name, err)
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, hashTreeFile), tree, 0o644),
		os.WriteFile(filepath.Join(dir, rootHashFile), []byte(hash.String()), 0o644))
}

// ImageDir is where the disk image of a variant lies: latest is a link to it.
func (b *Builder) ImageDir(v *workspace.Variant) string {
	return filepath.Join(b.ws.Root, "build", "images", b.opt.Arch+"-"+v.Name, b.ws.Config.Version)
}

// ImageName is the file name of a variant's disk image without its suffix.
func (b *Builder) ImageName(v *workspace.Variant) string {
	return strings.Join([]string{b.ws.Config.Name, v.Name, b.opt.Arch, b.ws.Config.Version}, "-")
}

// ImagePath is the disk image of a variant.
func (b *Builder) ImagePath(v *workspace.Variant) string {
	return filepath.Join(b.ImageDir(v), b.ImageName(v)+".img")
}

// lockImage has one build of the checkout at a time show an image of a variant,
// where the file system can lock folders.
func (b *Builder) lockImage(ctx context.Context, v *workspace.Variant) (unlock func(), err error) {
	dir := filepath.Dir(b.ImageDir(v)) // latest lies there
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f); err != nil && ctx.Err() != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// diskVersion stands in the stamp of a disk: raise it when a disk is put
// together in another way from the same parts.
const diskVersion = "3"

// image puts a variant's disk together from its parts, unless the disk that is
// there was made from the same. Of a new disk it gives what waits for its SHA-256,
// which takes longer than all that is made of the disk meanwhile.
func (b *Builder) image(ctx context.Context, v *workspace.Variant, r *store.Result) (sum func() (string, error), err error) {
	stamp, err := b.stamp(v, r)
	if err != nil {
		return nil, err
	}
	if len(b.diskChanges(v, stamp)) == 0 {
		return nil, nil
	}
	disk, stampFile := b.ImagePath(v), b.stampFile(v)
	if err := os.MkdirAll(b.ImageDir(v), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(stampFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	table, err := b.disk(ctx, v, r, disk, stamp)
	if err != nil {
		return nil, fmt.Errorf("variants/%s: %w", v.Name, err)
	}
	sum = startDigest(ctx, disk)
	if err := b.writeCompanions(ctx, v, disk); err != nil {
		return nil, fmt.Errorf("variants/%s: %w", v.Name, err)
	}
	if err := os.WriteFile(filepath.Join(b.ImageDir(v), "inventory.json"), table, 0o644); err != nil {
		return nil, err
	}
	if err := syncFile(disk); err != nil { // or the stamp might outlive it
		return nil, err
	}
	if err := os.WriteFile(stampFile, shownFrom(stamp, v).Encode(), 0o644); err != nil {
		return nil, err
	}
	return sum, latest(b.ImageDir(v))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// startDigest begins to take the SHA-256 of a file, and gives what waits for it.
func startDigest(ctx context.Context, path string) (wait func() (string, error)) {
	wait = sync.OnceValues(func() (string, error) { return inspect.Digest(ctx, path) })
	go func() { _, _ = wait() }()
	return wait
}

// stampFile notes what an image was put together from.
func (b *Builder) stampFile(v *workspace.Variant) string {
	return filepath.Join(b.ImageDir(v), ".stamp")
}

// stamp is what a variant's disk is put together from.
func (b *Builder) stamp(v *workspace.Variant, r *store.Result) (plan.Inputs, error) {
	in := plan.Inputs{Recipe: diskVersion, Settings: map[string]string{"image": b.ImageName(v), "parts": r.Digest, "kernel-parameters": strings.Join(v.KernelParameters, " ")}}
	l := reflect.ValueOf(v.ImageLayout)
	for i := range l.NumField() {
		value, err := json.Marshal(l.Field(i).Interface())
		if err != nil {
			return in, err
		}
		in.Settings["image-layout."+l.Type().Field(i).Tag.Get("toml")] = strings.Trim(string(value), `"`)
	}
	for _, a := range v.BootAddons {
		in.Settings["boot-addons."+a.Name] = strings.Join(a.KernelParameters, " ")
	}
	var err error
	in.Settings["signing"], err = signingID(b.opt.Signing)
	return in, err
}

// diskChanges tells why a variant's disk, or what lies beside it, is put together
// anew: what differs from what the stamp file says, and what is missing. There is
// no change where the image is that of the stamp.
func (b *Builder) diskChanges(v *workspace.Variant, stamp plan.Inputs) (changes []plan.Change) {
	var old plan.Inputs
	raw, err := os.ReadFile(b.stampFile(v))
	if err == nil {
		old, err = plan.Decode(raw)
	}
	now := shownFrom(stamp, v)
	if err == nil && !bytes.Equal(raw, now.Encode()) {
		changes = plan.Compare(old, now, nil, nil)
	}
	if err != nil || changes == nil && !allRegular(append(b.companions(v), b.ImagePath(v))) {
		changes = []plan.Change{{Kind: plan.KindImage, Name: b.show(b.ImagePath(v)), New: "put together"}}
	}
	return changes
}

// addons are the addons of a variant without the places of their tables.
func addons(v *workspace.Variant) (out []image.Addon) {
	for _, a := range v.BootAddons {
		out = append(out, image.Addon{Name: a.Name, KernelParameters: a.KernelParameters})
	}
	return out
}

// disk puts a disk together, or links to one that was put together from the same
// for another checkout. A disk that was written to since has another modification
// time than the release's, and is not used.
func (b *Builder) disk(ctx context.Context, v *workspace.Variant, r *store.Result, disk string, stamp plan.Inputs) (table []byte, err error) {
	kept := b.keptDisk(stamp)
	made := time.Unix(b.ws.Config.ReleaseEpoch, 0)
	if info, err := os.Stat(kept); err == nil && info.ModTime().Equal(made) {
		raw, err := b.inventory(r)
		if err == nil {
			err = relink(kept, disk)
		}
		if err == nil {
			return raw, nil
		}
	}
	b.display.Phase("variants/"+v.Name, "disk")
	if err := b.ready(ctx, r, r.Files); err != nil {
		return nil, err
	}
	in, err := b.diskInputs(v, r)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return nil, err
	}
	temp := kept + "." + strconv.Itoa(os.Getpid())
	defer os.Remove(temp)
	if _, err := image.Assemble(ctx, in, temp); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(temp, 0o444), os.Chtimes(temp, made, made)); err != nil {
		return nil, err
	}
	err = relink(temp, disk)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) { // the caches lie on another file system
		_, err = image.Assemble(ctx, in, disk)
	} else if err == nil {
		err = os.Rename(temp, kept)
	}
	if err != nil {
		return nil, err
	}
	return b.inventory(r)
}

func (b *Builder) keptDisk(stamp plan.Inputs) string {
	return filepath.Join(b.opt.Cache, "disks", stamp.Key()+".img")
}

// relink makes to another name of from.
func relink(from, to string) error {
	return replace(to, func(temp string) error { return os.Link(from, temp) })
}

// replace puts what make makes under another name into the place of a file, which
// is never missing.
func replace(path string, make func(temp string) error) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := make(temp); err != nil {
		return err
	}
	defer os.Remove(temp) // still there where both are names of one file
	return os.Rename(temp, path)
}

// inventory gives the list of an image's packages as JSON.
func (b *Builder) inventory(r *store.Result) ([]byte, error) {
	for _, f := range r.Files {
		if f.Name == "inventory.tsv" {
			raw, err := os.ReadFile(b.results.Path(f.Digest))
			if err != nil {
				return nil, err
			}
			return inventory(raw)
		}
	}
	return nil, errors.New("the image recipe made no inventory.tsv")
}

// imageFiles are the files that show a variant's image.
func (b *Builder) imageFiles(v *workspace.Variant) []string {
	dir := b.ImageDir(v)
	return append([]string{dir, b.ImagePath(v), filepath.Join(dir, "inventory.json"), b.stampFile(v), filepath.Join(filepath.Dir(dir), "latest")}, slices.Concat(b.companions(v), b.migrationFiles(v), b.documentFiles(v))...)
}

// latest makes the link "latest" beside a folder lead to it.
func latest(dir string) error {
	name := filepath.Join(filepath.Dir(dir), "latest")
	if to, err := os.Readlink(name); err == nil && to == filepath.Base(dir) {
		return nil
	}
	return replace(name, func(temp string) error { return os.Symlink(filepath.Base(dir), temp) })
}

// diskInputs gives what a disk is put together from.
func (b *Builder) diskInputs(v *workspace.Variant, r *store.Result) (in image.Inputs, err error) {
	parts := map[string]string{}
	for _, f := range r.Files {
		parts[f.Name] = b.results.Path(f.Digest)
	}
	return b.diskOf(v, parts)
}

// diskOf is diskInputs with the paths of the parts by their names.
func (b *Builder) diskOf(v *workspace.Variant, parts map[string]string) (in image.Inputs, err error) {
	signing, err := b.signing()
	if err != nil {
		return in, err
	}
	efi := efiArches[b.opt.Arch]
	in = image.Inputs{
		Arch: image.Arch(b.opt.Arch), Layout: v.ImageLayout, Name: b.ws.Config.Name, Version: b.ws.Config.Version,
		RootType: v.ImageLayout.RootFilesystem, KernelParameters: v.KernelParameters, Addons: addons(v), OnCorruption: image.RestartOnCorruption, Time: time.Unix(b.ws.Config.ReleaseEpoch, 0),
		Sign: signing.signer(),
	}
	for name, path := range map[string]*string{
		"root." + in.RootType: &in.Root, hashTreeFile: &in.Hash, "boot/vmlinuz": &in.Kernel, "os-release": &in.OSRelease,
		"linux" + efi + ".efi.stub": &in.Stub, "systemd-boot" + efi + ".efi": &in.BootLoader,
	} {
		if *path = parts[name]; *path == "" {
			return in, fmt.Errorf("the image recipe made no %s", name)
		}
	}
	text := map[string]string{}
	for _, name := range []string{rootHashFile, "boot/release"} {
		raw, err := os.ReadFile(parts[name])
		if err != nil && name != "boot/release" {
			return in, fmt.Errorf("the image recipe made no %s: %w", name, err)
		}
		text[name] = string(raw)
	}
	in.Uname = strings.TrimSpace(text["boot/release"])
	in.RootHash, err = verity.ParseRootHash(strings.TrimSpace(text[rootHashFile]))
	return in, err
}

// inventoryEntry is one package of an image.
type inventoryEntry struct {
	Name    string `json:"name"`
	Epoch   int    `json:"epoch"`
	Version string `json:"version"`
	Release string `json:"release"`
	Arch    string `json:"arch"`
	License string `json:"license"`
	URL     string `json:"url,omitempty"`
	Size    int64  `json:"size"` // installed, bytes
	Summary string `json:"summary"`
}

// inventory turns the image recipe's table of packages into JSON.
func inventory(table []byte) ([]byte, error) {
	entries := []inventoryEntry{}
	for n, line := range strings.Split(strings.TrimSuffix(string(table), "\n"), "\n") {
		f := strings.SplitN(line, "\t", 9)
		if len(f) != 9 {
			return nil, fmt.Errorf("inventory: line %d has %d fields instead of 9", n+1, len(f))
		}
		epoch, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("inventory: epoch of %s: %w", f[0], err)
		}
		size, err := strconv.ParseInt(f[7], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inventory: size of %s: %w", f[0], err)
		}
		if f[6] == "(none)" {
			f[6] = ""
		}
		entries = append(entries, inventoryEntry{Name: f[0], Epoch: epoch, Version: f[2], Release: f[3], Arch: f[4], License: f[5], URL: f[6], Size: size, Summary: f[8]})
	}
	raw, err := json.MarshalIndent(map[string]any{"packages": entries}, "", "  ")
	return append(raw, '\n'), err
}
