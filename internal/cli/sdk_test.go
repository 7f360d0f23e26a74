package cli

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/sdk"
	"slipway/internal/workspace"
)

// sdkPackages are the packages of this machine whose files make the fixture
// SDK, with the libraries that their programs need. It has no dnf, and a compiler
// only where a test asks for one.
var sdkPackages = []string{"bash", "dash", "coreutils", "sed", "grep", "diffutils", "file", "findutils", "tar", "gzip", "mawk", "util-linux", "libmagic-mgc", "rpm", "rpm-common"}

// compilerPackages make a C compiler.
var compilerPackages = []string{"gcc", "gcc-12", "cpp-12", "binutils", "binutils-x86-64-linux-gnu", "libgcc-12-dev", "libc6-dev", "linux-libc-dev"}

var sdkPruned = regexp.MustCompile(`^usr/share/(doc|man|locale|info|lintian|bash-completion|bug)(/|$)|/lto1$|/[^/]*lto-dump[^/]*$`)

// The fixture SDKs: OCI image layouts for workspaces that have the settings of
// testdata/base, made once.
var (
	fixtureSDK  = sync.OnceValues(func() (*sdk.Image, error) { return makeSDK("sdk", sdkPackages) })
	compilerSDK = sync.OnceValues(func() (*sdk.Image, error) {
		return makeSDK("sdk-compiler", slices.Concat(sdkPackages, compilerPackages))
	})
)

func makeSDK(name string, packages []string) (*sdk.Image, error) {
	ws, err := workspace.Load("testdata/base")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(scratch, name)
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	layer, err := os.Create(filepath.Join(dir, "layer"))
	if err != nil {
		return nil, err
	}
	defer layer.Close()
	sum := sha256.New()
	if err := writeSDK(io.MultiWriter(layer, sum), ws, packages); err != nil {
		return nil, err
	}
	info, err := layer.Stat()
	if err != nil {
		return nil, err
	}
	desc := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.NewDigest(digest.SHA256, sum), Size: info.Size()}
	if err := os.Rename(layer.Name(), filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())); err != nil {
		return nil, err
	}
	put := func(mediaType string, v any) v1.Descriptor {
		text, merr := json.Marshal(v)
		d := digest.FromBytes(text)
		err = errors.Join(err, merr, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), text, 0o644))
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(text))}
	}
	config := put(v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{desc.Digest}},
	})
	manifest := put(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{desc},
	})
	index, merr := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest}})
	return &sdk.Image{Layout: dir, Digest: manifest.Digest.String(), Size: desc.Size},
		errors.Join(err, merr, os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
}

// sdk [compiler]: writes a slipway.lock that pins a fixture SDK, and puts the SDK
// into the cache under the key of that lock.
func cmdSDK(ts *testscript.TestScript, _ bool, args []string) {
	fixture := fixtureSDK
	if slices.Equal(args, []string{"compiler"}) {
		fixture = compilerSDK
	}
	ts.Check(pinSDK(ts.MkAbs("."), ts.Getenv("SLIPWAY_CACHE"), fixture))
}

// pinSDK does what the command sdk does for the workspace at root.
func pinSDK(root, cache string, fixture func() (*sdk.Image, error)) error {
	image, err := fixture()
	if err != nil {
		return err
	}
	ws, err := workspace.Load(root)
	if err != nil {
		return err
	}
	lock := &sdk.Lock{
		Digest: image.Digest, Suite: ws.SDK.Suite, Components: ws.SDK.Components, Arch: runtime.GOARCH, Requested: ws.SDK.Packages,
		Packages: []sdk.LockedPackage{{Name: "rpm", Version: "1", Arch: runtime.GOARCH, SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/rpm.deb"}},
	}
	if lock.Key, err = sdk.Key(ws, lock); err != nil {
		return err
	}
	dir := filepath.Join(cache, "sdk")
	return errors.Join(sdk.WriteLock(filepath.Join(ws.Root, sdk.LockFile), lock),
		os.MkdirAll(dir, 0o755), os.Symlink(image.Layout, filepath.Join(dir, lock.Key)))
}

// writeSDK writes the root filesystem as a tar.
func writeSDK(w io.Writer, ws *workspace.Workspace, packages []string) error {
	root := map[string]string{} // path in the SDK to file of this machine
	var programs []string
	// fails where one is not installed; what builds cannot do without,
	// engineMissing looks for
	list, err := exec.Command("dpkg", append([]string{"-L"}, packages...)...).Output()
	if len(list) == 0 {
		return fmt.Errorf("dpkg -L: %w", err)
	}
	add := func(name string) error {
		dir, err := filepath.EvalSymlinks(filepath.Dir(name)) // /bin is usr/bin
		if err != nil {
			return err
		}
		to := strings.TrimPrefix(filepath.Join(dir, filepath.Base(name)), "/")
		if !sdkPruned.MatchString(to) {
			root[to] = name
		}
		return nil
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		info, err := os.Lstat(name)
		if err != nil || info.IsDir() || !strings.HasPrefix(name, "/") {
			continue
		}
		if err := add(name); err != nil {
			return err
		}
		if info.Mode().IsRegular() && isLinked(name) {
			programs = append(programs, name)
		}
	}
	libraries, err := exec.Command("ldd", programs...).Output()
	if err != nil {
		return fmt.Errorf("ldd: %w", err)
	}
	for _, m := range regexp.MustCompile(`(?m)\s(/\S+) \(0x`).FindAllSubmatch(libraries, -1) {
		if err := add(string(m[1])); err != nil {
			return err
		}
	}

	tw := tar.NewWriter(w)
	mtime := time.Unix(ws.Config.ReleaseEpoch, 0)
	dirs := map[string]bool{".": true}
	entry := func(h tar.Header, content io.Reader) error {
		h.ModTime = mtime
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	}
	none := strings.NewReader("")
	var mkdir func(name string, uid int, mode int64) error
	mkdir = func(name string, uid int, mode int64) error {
		if dirs[name] {
			return nil
		}
		dirs[name] = true
		return errors.Join(mkdir(path.Dir(name), 0, 0o755), entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: uid, Gid: uid}, none))
	}
	for _, name := range slices.Sorted(maps.Keys(root)) {
		err := errors.Join(mkdir(path.Dir(name), 0, 0o755), copyInto(entry, name, root[name]))
		if err != nil {
			return err
		}
	}
	links := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/bin/awk": "mawk", "usr/bin/cc": "gcc"}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nbuilder:x:1000:1000::/home/builder:/bin/bash\n",
		"etc/group":  "root:x:0:\nbuilder:x:1000:\n",
	}
	for _, arch := range ws.SDK.Arches {
		text, err := sdk.Macros(ws, arch)
		if err != nil {
			return err
		}
		files["usr/lib/slipway/macros."+arch] = text
		if err := mkdir(arch+"-"+ws.Config.Vendor+"-linux-gnu/sys-root", 0, 0o755); err != nil {
			return err
		}
	}
	links["etc/rpm/macros.slipway"] = "/usr/lib/slipway/macros." + ws.SDK.Arches[0]
	for name, to := range links {
		if err := errors.Join(mkdir(path.Dir(name), 0, 0o755), entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, none)); err != nil {
			return err
		}
	}
	for name, text := range files {
		err := errors.Join(mkdir(path.Dir(name), 0, 0o755), entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, strings.NewReader(text)))
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"dev", "proc", "sys", "root", "run", "slipway", "sysroot", "work", "parts", "var/tmp", "tmp"} {
		mode := int64(0o755)
		if path.Base(name) == "tmp" {
			mode = 0o1777
		}
		if err := mkdir(name, 0, mode); err != nil {
			return err
		}
	}
	if err := errors.Join(mkdir("home/builder", 1000, 0o755), mkdir("home/builder/.cache", 1000, 0o755)); err != nil {
		return err
	}
	return tw.Close()
}

func copyInto(entry func(tar.Header, io.Reader) error, name, from string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(from)
		if err != nil {
			return err
		}
		// a library's name often leads to one with more of its version, which is not listed
		if !strings.Contains(path.Base(name), ".so") {
			return entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, strings.NewReader(""))
		}
		if info, err = os.Stat(from); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: int64(len(text))}, bytes.NewReader(text))
}

// isLinked tells whether a file is a program or library in ELF, which may need
// libraries.
func isLinked(name string) bool {
	f, err := elf.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Type == elf.ET_EXEC || f.Type == elf.ET_DYN
}
