package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"slipway/internal/graph"
	"slipway/internal/image"
	"slipway/internal/image/verity"
	"slipway/internal/plan"
	"slipway/internal/recipe"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// efiArches are UEFI's names of architectures
// (https://uefi.org/specs/UEFI/2.10/03_Boot_Manager.html, table of removable media).
var efiArches = map[string]string{"x86_64": "x64", "aarch64": "aa64"}

// variantInputs fills in what the parts of an image are made from.
func (b *Builder) variantInputs(v *workspace.Variant, in *plan.Inputs) error {
	if err := v.CheckArch(b.opt.Arch); err != nil {
		return err
	}
	in.Recipe = recipe.ImageVersion
	in.Settings["metadata"] = b.metadata(v)
	in.Settings["os-release"] = b.osRelease(v)
	in.Settings["packages"] = strings.Join(b.imagePackages(v), " ")
	return nil
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

// osRelease gives the lines that the variant adds to os-release(5).
func (b *Builder) osRelease(v *workspace.Variant) string {
	return fmt.Sprintf("VARIANT_ID=%s\nIMAGE_ID=%s-%s-%s\nIMAGE_VERSION=%s\n", v.Name, b.ws.Config.Name, v.Name, b.opt.Arch, b.ws.Config.Version)
}

func (b *Builder) imageRecipe(t *graph.Target, in plan.Inputs) recipe.Build {
	// file system identity and salt follow from what goes in
	sum := sha256.Sum256([]byte("slipway image " + in.Key()))
	uuid := sum[:16]
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // RFC 9562, version 8
	salt := sha256.Sum256(sum[:])
	return recipe.Image{
		Sandbox: b.sandbox(), Name: t.Name,
		Metadata: b.metadata(t.Variant), Release: b.osRelease(t.Variant), Packages: b.imagePackages(t.Variant),
		RPMs: rpmBlobs(in), EFIArch: efiArches[b.opt.Arch],
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", uuid[0:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:16]),
		Salt: hex.EncodeToString(salt[:]),
	}.Build()
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

// diskVersion stands in the stamp of a disk: raise it when a disk is put
// together in another way from the same parts.
const diskVersion = "1"

// image puts a variant's disk together from its parts, unless the disk that is
// there was made from the same.
func (b *Builder) image(ctx context.Context, v *workspace.Variant, r *store.Result) error {
	disk := b.ImagePath(v)
	settings, err := json.Marshal([]any{diskVersion, r.Digest, v.KernelParameters, v.ImageLayout, b.ImageName(v)})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(settings)
	stamp, stampFile := hex.EncodeToString(sum[:])+"\n", filepath.Join(b.ImageDir(v), ".stamp")
	if old, err := os.ReadFile(stampFile); err == nil && string(old) == stamp {
		if st, err := os.Stat(disk); err == nil && st.Mode().IsRegular() {
			return nil
		}
	}
	b.display.Phase("variants/"+v.Name, "disk")
	in, table, err := b.diskInputs(v, r)
	if err != nil {
		return fmt.Errorf("variants/%s: %w", v.Name, err)
	}
	if err := os.MkdirAll(b.ImageDir(v), 0o755); err != nil {
		return err
	}
	if err := os.Remove(stampFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := image.Assemble(ctx, in, disk); err != nil {
		return fmt.Errorf("variants/%s: %w", v.Name, err)
	}
	if err := os.WriteFile(filepath.Join(b.ImageDir(v), "inventory.json"), table, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(stampFile, []byte(stamp), 0o644); err != nil {
		return err
	}
	return latest(b.ImageDir(v))
}

// latest makes the link "latest" beside a folder lead to it.
func latest(dir string) error {
	name := filepath.Join(filepath.Dir(dir), "latest")
	if to, err := os.Readlink(name); err == nil && to == filepath.Base(dir) {
		return nil
	}
	temp := name + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(dir), temp); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// diskInputs gives what a disk is put together from, and its inventory.
func (b *Builder) diskInputs(v *workspace.Variant, r *store.Result) (in image.Inputs, table []byte, err error) {
	parts := map[string]string{}
	for _, f := range r.Files {
		parts[f.Name] = b.results.Path(f.Digest)
	}
	efi := efiArches[b.opt.Arch]
	in = image.Inputs{
		Arch: image.Arch(b.opt.Arch), Layout: image.Layout(v.ImageLayout), Name: b.ws.Config.Name, Version: b.ws.Config.Version,
		RootType: "erofs", KernelParameters: v.KernelParameters, OnCorruption: image.RestartOnCorruption, Time: time.Unix(b.ws.Config.ReleaseEpoch, 0),
	}
	for name, path := range map[string]*string{
		"root.erofs": &in.Root, "root.verity": &in.Hash, "boot/vmlinuz": &in.Kernel, "os-release": &in.OSRelease,
		"linux" + efi + ".efi.stub": &in.Stub, "systemd-boot" + efi + ".efi": &in.BootLoader,
	} {
		if *path = parts[name]; *path == "" {
			return in, nil, fmt.Errorf("the image recipe made no %s", name)
		}
	}
	text := map[string]string{}
	for _, name := range []string{"root.hash", "boot/release", "inventory.tsv"} {
		raw, err := os.ReadFile(parts[name])
		if err != nil && name != "boot/release" {
			return in, nil, fmt.Errorf("the image recipe made no %s: %w", name, err)
		}
		text[name] = string(raw)
	}
	in.Uname = strings.TrimSpace(text["boot/release"])
	if in.RootHash, err = verity.ParseRootHash(strings.TrimSpace(text["root.hash"])); err != nil {
		return in, nil, err
	}
	table, err = inventory([]byte(text["inventory.tsv"]))
	return in, table, err
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
