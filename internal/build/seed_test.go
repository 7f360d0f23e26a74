package build

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/rpm"
	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

var (
	seedWorkspace = flag.String("seed-workspace", "", "workspace of which TestSeed stores made-up results")
	seedCache     = flag.String("seed-cache", "", "cache folder that TestSeed stores them in")
)

// TestSeed stores results of all packages of a workspace as if they had been
// built, for benchmarks of planning (see bench/scale): the RPMs are made up, all
// else is as a build leaves it. It also pins an SDK that does not exist.
func TestSeed(t *testing.T) {
	if *seedWorkspace == "" {
		t.Skip("only with -seed-workspace and -seed-cache")
	}
	ws, err := workspace.Load(*seedWorkspace)
	if err != nil {
		t.Fatal(err)
	}
	lock := &sdk.Lock{
		Digest: "sha256:" + strings.Repeat("5", 64), Suite: ws.SDK.Suite, Components: ws.SDK.Components, Arch: runtime.GOARCH, Requested: ws.SDK.Packages,
		Packages: []sdk.LockedPackage{{Name: "rpm", Version: "1", Arch: runtime.GOARCH, SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/rpm.deb"}},
	}
	if lock.Key, err = sdk.Key(ws, lock); err != nil {
		t.Fatal(err)
	}
	if err := sdk.WriteLock(filepath.Join(ws.Root, sdk.LockFile), lock); err != nil {
		t.Fatal(err)
	}
	b, err := New(ws, Options{Cache: *seedCache, Display: progress.New(os.Stderr, progress.Options{Mode: progress.Plain})})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.pin(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	err = b.results.Session(func() error { // one write of the index for all
		for _, target := range b.graph.Topo() {
			if target.Package == nil {
				continue
			}
			s, err := b.look(target)
			if err != nil {
				return err
			}
			dir := t.TempDir()
			all := map[string]*rpm.Metadata{}
			for _, sub := range target.Spec.Packages {
				m := &rpm.Metadata{Name: sub.Name, Version: target.Spec.Version, Release: target.Spec.Release, Arch: "noarch"}
				m.Provides = []rpm.Dep{{Name: m.Name, Cmp: "=", EVR: m.EVR()}}
				for _, d := range sub.AllRequires() {
					m.Requires = append(m.Requires, rpm.Dep{Name: d.Term.Name, Cmp: d.Term.Cmp, EVR: d.Term.Version})
				}
				if !sub.Files {
					continue
				}
				name := m.String() + ".rpm"
				all[name] = m
				if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
					return err
				}
			}
			a := store.Artifact{Target: target.Name, Arch: b.opt.Arch, Inputs: s.inputs.Encode(), Dir: dir, Attachments: map[string][]byte{}, History: store.History{Wall: 1, CPU: 1}}
			if a.Attachments[mediaRPMs], err = json.Marshal(all); err != nil {
				return err
			}
			if a.Attachments[plan.MediaTexts], err = plan.EncodeTexts(plan.Texts(ws, target.Package, s.inputs, b.macros)); err != nil {
				return err
			}
			r, err := b.results.Put(a)
			if err == nil {
				err = b.take(target, r)
			}
			if err != nil {
				return err
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
