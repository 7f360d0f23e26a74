package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/build"
	"slipway/internal/plan"
	"slipway/internal/recipe"
	"slipway/internal/rpm"
	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// mediaRPMs is the media type under which internal/build attaches to a result what
// dependency resolution needs to know of its RPMs. If it differs, a plan finds the
// results damaged, and bench/scale fails.
const mediaRPMs = "application/vnd.slipway.rpms.v1+json"

// seed puts results of all packages of the workspace in dir into the store below
// cache, as if everything had been built: with the keys that slipway finds, but
// RPMs that are a line of text. It pins an SDK that does not exist, since a plan
// needs only its digest.
func (w *wanted) seed(dir, cache string) error {
	ws, err := workspace.Load(dir)
	if err != nil {
		return err
	}
	arch := build.HostArch()
	macros, err := sdk.Macros(ws, arch)
	if err != nil {
		return err
	}
	pinned, err := pin(ws)
	if err != nil {
		return err
	}
	results, err := store.Open(filepath.Join(cache, "store"))
	if err != nil {
		return err
	}
	made := make([]map[string]*rpm.Metadata, len(w.deps)) // by number and file name
	for i := range w.deps {
		made[i] = w.metadata(i, arch)
	}
	var workers errgroup.Group
	workers.SetLimit(16) // most of the time goes to waiting for the disk
	for i := range w.deps {
		workers.Go(func() error {
			p := ws.Package(w.name(i))
			in := plan.Inputs{
				Recipe: recipe.PackageVersion, Target: "packages/" + p.Name, Arch: arch, SDK: pinned, Macros: digest.FromString(macros).String(),
				Settings: map[string]string{"source-date-epoch": strconv.FormatInt(ws.Config.ReleaseEpoch, 10)},
			}
			var err error
			if in.Files, in.Groups, err = plan.PackageFiles(ws, p); err != nil {
				return err
			}
			for d, devel := range w.installed(i) {
				for name, m := range made[d] {
					if devel || !strings.HasSuffix(m.Name, "-devel") {
						in.RPMs = append(in.RPMs, plan.File{Name: name, Digest: digest.FromString(content(name)).String()})
					}
				}
			}
			return put(results, in, made[i])
		})
	}
	return workers.Wait()
}

func put(results *store.Store, in plan.Inputs, made map[string]*rpm.Metadata) error {
	dir, err := os.MkdirTemp(filepath.Join(results.Dir(), "tmp"), "seed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name := range made {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content(name)), 0o644); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(made)
	if err != nil {
		return err
	}
	_, err = results.Put(context.Background(), store.Artifact{
		Target: in.Target, Arch: in.Arch, Inputs: in.Encode(), Dir: dir,
		Attachments: map[string][]byte{mediaRPMs: raw}, History: store.History{Wall: 1, CPU: 1, Memory: 1 << 20},
	})
	return err
}

// content is what stands in an RPM that is none.
func content(name string) string { return "RPM " + name + "\n" }

// metadata gives the RPMs of a package by file name.
func (w *wanted) metadata(i int, arch string) map[string]*rpm.Metadata {
	rpmName := func(j int) string { return "scale-" + w.name(j) }
	version := fmt.Sprintf("1.%d", i)
	main := &rpm.Metadata{Name: rpmName(i), Version: version, Release: "1", Arch: arch, SourceRPM: rpmName(i) + "-" + version + "-1.src.rpm"}
	main.Provides = []rpm.Dep{{Name: main.Name, Cmp: "=", EVR: version + "-1"}, {Name: "lib" + w.name(i) + ".so.1()(64bit)"}}
	if w.requires {
		for _, d := range w.deps[i] {
			main.Requires = append(main.Requires, rpm.Dep{Name: rpmName(d)})
		}
	}
	devel := &rpm.Metadata{Name: main.Name + "-devel", Version: version, Release: "1", Arch: arch, SourceRPM: main.SourceRPM}
	devel.Provides = []rpm.Dep{{Name: devel.Name, Cmp: "=", EVR: version + "-1"}}
	devel.Requires = []rpm.Dep{{Name: main.Name, Cmp: "=", EVR: version + "-1"}}
	all := map[string]*rpm.Metadata{}
	for _, m := range []*rpm.Metadata{main, devel} {
		all[m.String()+".rpm"] = m
	}
	return all
}

// installed gives the packages of which RPMs are installed for building one: true
// where this includes the devel subpackage.
func (w *wanted) installed(i int) map[int]bool {
	all := map[int]bool{}
	for _, d := range w.deps[i] {
		all[d] = true
	}
	if !w.requires {
		return all
	}
	for todo := slices.Collect(maps.Keys(all)); len(todo) > 0; {
		d := todo[0]
		todo = todo[1:]
		for _, r := range w.deps[d] {
			if _, ok := all[r]; !ok {
				all[r] = false
				todo = append(todo, r)
			}
		}
	}
	return all
}

// pin writes a slipway.lock and gives the digest of the SDK in it.
func pin(ws *workspace.Workspace) (string, error) {
	deb := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[build.HostArch()]
	lock := &sdk.Lock{
		Suite: ws.SDK.Suite, Components: ws.SDK.Components, Arch: deb, Requested: ws.SDK.Packages, Digest: digest.FromString("no SDK").String(),
	}
	for _, name := range ws.SDK.Packages {
		lock.Packages = append(lock.Packages, sdk.LockedPackage{
			Name: name, Version: "1", Arch: deb, SHA256: digest.FromString(name).Encoded(), Size: 1, Path: "pool/main/" + name + ".deb",
		})
	}
	key, err := sdk.Key(ws, lock)
	if err != nil {
		return "", err
	}
	lock.Key = key
	return lock.Digest, sdk.WriteLock(filepath.Join(ws.Root, sdk.LockFile), lock)
}
