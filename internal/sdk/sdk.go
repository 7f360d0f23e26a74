// Package sdk makes the root filesystem that every build runs in: pinned Debian
// packages, cross tools whose sysroot sees nothing of Debian, the RPM macro
// pack and a Go toolchain, as an OCI image layout on disk
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
//
// slipway.lock pins what goes in. The same lock gives the same image, bit for
// bit.
package sdk

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"slipway/internal/workspace"
)

// recipeVersion is part of every key: raise it whenever the code in this
// package changes what it makes of the same pins.
const recipeVersion = 1

// epoch is the modification time of every file of an SDK: 1980-01-01, the
// earliest time that zip archives can hold. It is not the workspace's
// source-date-epoch, so that a new release does not mean a new SDK.
const epoch = 315532800

//go:embed pack/mktoolchain
var mktoolchain string

//go:embed pack/customize
var customize string

// Options says where an SDK is made and who is told of it.
type Options struct {
	CacheDir string      // absolute; everything is kept below CacheDir/sdk
	Locked   bool        // slipway.lock must fit and stay as it is
	GoTool   string      // go command that downloads the toolchain; "go" when empty
	OnEvent  func(Event) // may be nil; is called from one goroutine at a time
	Log      io.Writer   // output of the programs that are run; may be nil
}

// Stages of making an SDK, in order.
const (
	StageResolve  = "resolve"  // package index read, versions chosen
	StageDownload = "download" // Debian packages, in bytes
	StageGo       = "go"       // Go toolchain
	StageRoot     = "root"     // packages installed into a root
	StageLayer    = "layer"    // root written as an image layer
)

// States of an Event.
const (
	StateStart    = "start"
	StateProgress = "progress"
	StateDone     = "done"
	StateChange   = "change"  // a pin moves; Change is set
	StateWarning  = "warning" // Text is set
)

// Event is news of an SDK being made.
type Event struct {
	Stage, State string
	Done, Total  int64 // bytes, or 0 where a stage cannot tell
	Change       Change
	Text         string
}

// Image is an SDK on disk.
type Image struct {
	Layout  string   // absolute path of an OCI image layout with one image
	Digest  string   // digest of its manifest, "sha256:<hex>"
	Size    int64    // bytes of the compressed layer
	Key     string   // what it was made from, see Key
	Cached  bool     // it was there already
	Changes []Change // pins that moved, already written to slipway.lock

	blobs []digest.Digest // manifest, config, layer
}

// Key is the SHA-256, in hex, over all that the SDK is made from: the recipe,
// the pinned packages and Go toolchain, the toolchain script, and the macro
// file of each target architecture.
func Key(ws *workspace.Workspace, lock *Lock) (string, error) {
	lock = lock.sorted()
	in := struct {
		Recipe    int
		Scripts   []string
		Suite     string
		Arch      string
		Packages  []LockedPackage
		Requested []string
		Go        GoPin
		Vendor    string
		Targets   []string
		Macros    []string
	}{
		Recipe:    recipeVersion,
		Scripts:   []string{mktoolchain, customize},
		Suite:     lock.Suite,
		Arch:      lock.Arch,
		Packages:  lock.Packages,
		Requested: lock.Requested,
		Go:        lock.Go,
		Vendor:    ws.Config.Vendor,
		Targets:   ws.SDK.Arches,
	}
	for _, a := range ws.SDK.Arches {
		text, err := Macros(ws, a)
		if err != nil {
			return "", err
		}
		in.Macros = append(in.Macros, text)
	}
	text, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Ensure gives the SDK that slipway.lock of the workspace pins, from the cache
// or newly made. Where there is no lock, or it does not fit sdk.toml, or the
// archive has lost a pinned package, the newest signed packages are pinned
// instead and slipway.lock is written; with opt.Locked that is an error.
func Ensure(ctx context.Context, ws *workspace.Workspace, opt Options) (*Image, error) {
	opt = opt.withDefaults()
	path := filepath.Join(ws.Root, LockFile)
	lock, err := ReadLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		lock, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	stale := lock.stale(ws.SDK)
	if opt.Locked && stale == "" && lock.Digest == "" {
		stale = "it has no digest of the SDK"
	}
	if opt.Locked && stale != "" {
		return nil, fmt.Errorf("%s: %s: run once without --locked to write it", LockFile, stale)
	}
	if stale == "" {
		img, err := cached(ws, lock, opt)
		if img != nil || err != nil {
			return img, err
		}
	}
	if err := checkHost(); err != nil {
		return nil, err
	}

	var changes []Change
	resolve := func() error {
		if lock, changes, err = Resolve(ctx, ws, opt); err != nil {
			return err
		}
		for _, c := range changes {
			opt.OnEvent(Event{Stage: StageResolve, State: StateChange, Change: c})
		}
		return nil
	}
	if stale != "" {
		if err := resolve(); err != nil {
			return nil, err
		}
	}
	img, err := Build(ctx, ws, lock, opt)
	var gone *GoneError
	if errors.As(err, &gone) && stale == "" {
		if opt.Locked {
			return nil, fmt.Errorf("%w; run once without --locked to pin the newest packages", err)
		}
		opt.OnEvent(Event{Stage: StageDownload, State: StateWarning, Text: gone.Error()})
		if err := resolve(); err != nil {
			return nil, err
		}
		img, err = Build(ctx, ws, lock, opt)
	}
	if err != nil {
		return nil, err
	}
	img.Changes = changes
	return img, record(path, lock, img, opt)
}

// Pinned gives the digest of the SDK that slipway.lock has, without the SDK being
// there; "" where the lock does not fit the workspace, or has none.
func Pinned(ws *workspace.Workspace) (string, error) {
	lock, err := ReadLock(filepath.Join(ws.Root, LockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil || lock.stale(ws.SDK) != "" {
		return "", err
	}
	key, err := Key(ws, lock)
	if err != nil || key != lock.Key {
		return "", err
	}
	return lock.Digest, nil
}

// Layout is the folder where the SDK that slipway.lock pins is kept, whether it is
// there or not, and its key.
func Layout(ws *workspace.Workspace, cacheDir string) (dir, key string, err error) {
	lock, err := ReadLock(filepath.Join(ws.Root, LockFile))
	if err != nil {
		return "", "", err
	}
	key, err = Key(ws, lock)
	return filepath.Join(cacheDir, "sdk", key), key, err
}

// record writes the digest of an image to the lock. A digest that the same
// inputs had another time must come again.
func record(path string, lock *Lock, img *Image, opt Options) error {
	if lock.Digest == img.Digest && lock.Key == img.Key {
		return nil
	}
	if opt.Locked {
		why := "the workspace's vendor, macros or build settings have changed since, or another slipway wrote it"
		if lock.Key == img.Key {
			why = "although it is made of the same parts, so something of this machine gets into it"
		}
		return fmt.Errorf("the SDK is %s, but %s has %s: %s; run once without --locked to record the new digest", img.Digest, LockFile, lock.Digest, why)
	}
	if lock.Key == img.Key && lock.Digest != "" {
		opt.OnEvent(Event{Stage: StageLayer, State: StateWarning, Text: fmt.Sprintf(
			"the SDK is not reproducible: it is %s, but was %s of the same parts", img.Digest, lock.Digest)})
	}
	lock.Digest, lock.Key = img.Digest, img.Key
	return WriteLock(path, lock)
}

// cached gives the SDK of the lock if it is on disk, else nil.
func cached(ws *workspace.Workspace, lock *Lock, opt Options) (*Image, error) {
	key, err := Key(ws, lock)
	if err != nil {
		return nil, err
	}
	img, err := readLayout(filepath.Join(opt.CacheDir, "sdk", key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	img.Key, img.Cached = key, true
	return img, record(filepath.Join(ws.Root, LockFile), lock, img, opt)
}

func (o Options) withDefaults() Options {
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.GoTool == "" {
		o.GoTool = "go"
	}
	return o.oneAtATime()
}

// hostNeeds are the programs and files that making an SDK takes, with the
// Debian package that has them.
var hostNeeds = []struct{ path, pkg string }{
	{"/usr/bin/mmdebstrap", "mmdebstrap"},
	{"/usr/bin/apt-get", "apt"},
	{aptHelper, "apt"},
	{"/usr/bin/dpkg-deb", "dpkg"},
	{debianKeyring, "debian-archive-keyring"},
}

func checkHost() error {
	if os.Geteuid() != 0 {
		return errors.New("making the SDK needs root, because its files belong to several users: run this as root")
	}
	var files, pkgs []string
	for _, need := range hostNeeds {
		if _, err := os.Stat(need.path); err != nil {
			files = append(files, need.path)
			pkgs = append(pkgs, need.pkg)
		}
	}
	if len(files) > 0 {
		return fmt.Errorf("making the SDK needs %s: run apt-get install -y %s", strings.Join(files, ", "), strings.Join(pkgs, " "))
	}
	return nil
}
