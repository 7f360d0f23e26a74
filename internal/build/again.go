package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/compare"
	"slipway/internal/engine"
	"slipway/internal/graph"
	"slipway/internal/image"
	"slipway/internal/progress"
	"slipway/internal/recipe"
	"slipway/internal/workspace"
)

// phaseCompare is when the second build of a target is compared with the first.
const phaseCompare = "comparing"

// ageOfCopy is by how much the files of a second build are older than the epoch, so
// that RPMs would keep the difference.
const ageOfCopy = 24 * time.Hour

// RebuildOptions say what is built a second time.
type RebuildOptions struct {
	All  bool // also what the named targets need
	Keep bool // keep what is built, below build/verify
}

// Rebuild builds the named targets a second time and compares what comes out, bit
// by bit, with their stored results. The second build is from nothing: an engine
// of its own with empty caches, a copy of the workspace elsewhere, another clock, and
// another number of processors. RPMs of other targets are the stored ones. Nothing of
// it is stored.
func (b *Builder) Rebuild(ctx context.Context, names []string, opt RebuildOptions) (list []*Verified, err error) {
	targets, err := b.closure(names)
	if err != nil {
		return nil, err
	}
	wanted := targets
	if !opt.All {
		if wanted, err = b.lookupNames(names); err != nil {
			return nil, err
		}
		wanted = slices.DeleteFunc(wanted, isSDK)
	}
	release, err := b.results.Use()
	if err != nil {
		return nil, cacheError(b.opt.Cache, err)
	}
	defer release()
	steps, err := b.steps(ctx, targets)
	if err != nil {
		return nil, err
	}
	byName := map[string]*step{}
	for _, s := range steps {
		byName[s.target.Name] = s
	}
	first := map[string]*step{}
	for _, t := range wanted {
		s := byName[t.Name]
		v := verified(t, s.result)
		if list = append(list, v); s.result != nil {
			first[t.Name] = s
			continue
		}
		v.Status = VerifiedMissing
		v.Findings = append(v.Findings, "there is no result to compare with: slipway build "+t.Name+" makes it")
	}
	if len(first) == 0 {
		return list, nil
	}
	if err := b.ensureSDK(ctx, nil); err != nil {
		return nil, err
	}
	again, remove, err := b.elsewhere(ctx)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return nil, err
	}
	copies, err := again.closure(names)
	if err != nil {
		return nil, err
	}
	second, err := again.steps(ctx, copies)
	if err != nil {
		return nil, err
	}
	b.display.Total(len(first))
	clock := fmt.Sprintf("clock %d days ahead", recipe.ClockShift/(24*time.Hour))
	if !again.fastClock {
		clock = "clock as it is, since the SDK has no C compiler"
	}
	b.display.Print("second build: %d processors instead of %d, %s, workspace and engine in %s",
		again.cpus, runtime.NumCPU(), clock, filepath.Dir(again.ws.Root))
	jobs := map[string]*job{}
	var all []*job
	var todo []*graph.Target
	for _, s := range second {
		one := first[s.target.Name]
		if one == nil {
			continue
		}
		v := list[slices.IndexFunc(list, func(v *Verified) bool { return v.Target == s.target.Name })]
		j := &job{name: s.target.Name, skip: func() {}, run: func(ctx context.Context) error { return b.rebuild(ctx, again, one, s, opt.Keep, v) }}
		jobs[j.name], all, todo = j, append(all, j), append(todo, s.target)
	}
	b.weigh(todo, jobs)
	l, err := b.limits()
	if err != nil {
		return nil, err
	}
	errs := l.run(ctx, all, false) // a target that cannot be built is no error
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return list, errors.Join(errs...)
}

// rebuild builds one target a second time and notes in v how it compares.
func (b *Builder) rebuild(ctx context.Context, again *Builder, one, two *step, keep bool, v *Verified) (err error) {
	t := two.target
	status := progress.Failed
	b.display.Start(t.Name, phaseDeps)
	defer func() { b.display.Done(t.Name, status) }()
	if one.key != two.key {
		v.Status = VerifiedDiffers
		v.Findings = append(v.Findings, fmt.Sprintf("its key depends on where the workspace lies: %s, and %s for a copy", one.key, two.key))
		return nil
	}
	err = b.ready(ctx, one.result, one.result.Files)
	if err == nil {
		err = again.readyRPMs(ctx, slices.Concat(two.rpms, two.tools))
	}
	if errors.Is(err, errReplan) {
		v.damaged("a stored result is damaged and dropped: slipway build %s makes it again", t.Name)
		return nil
	}
	if err != nil {
		return err
	}
	temp, err := b.temp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	out := filepath.Join(temp, "second")
	if keep {
		out = filepath.Join(b.ws.Root, "build", "verify", filepath.FromSlash(t.Name))
		if err := os.RemoveAll(out); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	v.Clock = "unshifted"
	if again.fastClock {
		v.Clock = "ahead"
	}
	rec, err := again.recipe(ctx, t, two.inputs)
	if err != nil {
		return err
	}
	if _, err := again.export(ctx, t, two.inputs, rec, out); err != nil {
		var failed *TargetError
		if ctx.Err() != nil || !errors.As(err, &failed) {
			return err
		}
		v.Status = VerifiedFailed
		v.Findings = append(v.Findings, err.Error())
		return nil
	}
	if keep {
		v.Kept = out
	}
	b.display.Phase(t.Name, phaseCompare)
	stored := filepath.Join(temp, "first")
	if err := b.results.View(one.result, stored); err != nil {
		return err
	}
	differences, err := compare.Dirs(stored, out)
	if err != nil {
		return err
	}
	if t.Variant != nil {
		more, err := b.compareDisks(ctx, one, filepath.Join(temp, "disk"), out)
		if err != nil {
			return err
		}
		differences = append(differences, more...)
	}
	status, v.Status = progress.Built, VerifiedSame
	for _, d := range differences {
		switch d.What {
		case "only in A":
			d.What = "only in the stored result"
		case "only in B":
			d.What = "only in the second build"
		}
		v.Status = VerifiedDiffers
		v.Differences = append(v.Differences, Difference(d))
	}
	return nil
}

// compareDisks puts a disk together from the parts in the folder out and compares
// it with the one that is shown, or, if that is not of the stored result, with one
// that is put together from that. Disks are made in the folder dir.
func (b *Builder) compareDisks(ctx context.Context, one *step, dir, out string) ([]compare.Difference, error) {
	variant := one.target.Variant
	parts := map[string]string{}
	for _, f := range one.result.Files {
		parts[f.Name] = filepath.Join(out, filepath.FromSlash(f.Name))
	}
	for _, path := range parts {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil // that the part is missing is a difference by itself
		}
	}
	assemble := func(name string, in image.Inputs) (string, error) {
		to := filepath.Join(dir, name, b.ImageName(variant)+".img")
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		_, err := image.Assemble(ctx, in, to)
		return to, err
	}
	in, err := b.diskOf(variant, parts)
	if err != nil {
		return nil, err
	}
	second, err := assemble("second", in)
	if err != nil {
		return nil, err
	}
	first := b.ImagePath(variant)
	shown := verified(one.target, one.result)
	if err := b.verifyImage(ctx, variant, one.result, shown); err != nil {
		return nil, err
	}
	if !shown.Good() {
		if in, err = b.diskInputs(variant, one.result); err != nil {
			return nil, err
		}
		if first, err = assemble("first", in); err != nil {
			return nil, err
		}
	}
	return compare.Files(first, second)
}

// elsewhere gives a builder of a copy of the workspace with an engine of its own.
// remove ends the engine and takes everything away; it is never nil.
func (b *Builder) elsewhere(ctx context.Context) (again *Builder, remove func() error, err error) {
	remove = func() error { return nil }
	state := b.opt.Engine.State
	if state == "" {
		state = engine.DefaultState()
	}
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		return nil, remove, err
	}
	prefix := filepath.Base(state) + ".verify-"
	sweepElsewhere(filepath.Join(filepath.Dir(state), prefix))
	dir, err := os.MkdirTemp(filepath.Dir(state), prefix)
	if err != nil {
		return nil, remove, err
	}
	held, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(held.Fd()), unix.LOCK_EX)
	}
	remove = func() error {
		var err error
		if again != nil && again.engine != nil {
			// also after Ctrl-C; the containers end with it
			err = again.engine.Stop(context.WithoutCancel(ctx))
		}
		return errors.Join(err, os.RemoveAll(dir), held.Close())
	}
	if err != nil {
		return nil, remove, err
	}
	root := filepath.Join(dir, "workspace")
	if err := copyWorkspace(b.ws, root, time.Unix(b.ws.Config.ReleaseEpoch, 0).Add(-ageOfCopy)); err != nil {
		return nil, remove, fmt.Errorf("copy the workspace: %w", err)
	}
	ws, err := workspace.Load(root)
	if err != nil {
		return nil, remove, err
	}
	opt := b.opt
	opt.Locked, opt.Team = true, workspace.Cache{}
	opt.Engine.State = filepath.Join(dir, "engine")
	if again, err = New(ws, opt); err != nil {
		return nil, remove, err
	}
	again.logs = filepath.Join(b.ws.Root, "build", "logs", "verify")
	again.cpus = runtime.NumCPU() + 1
	again.sdk = b.sdk
	// not to be interrupted: a daemon that has been started must be ended
	client, err := again.connect(context.WithoutCancel(ctx))
	if err != nil {
		return nil, remove, err
	}
	_, err = client.Solve(ctx, engine.Job{Name: "clock", Def: again.sandbox().Clock().State, Stores: again.stores()})
	var exit *engine.ExitError
	if again.fastClock = err == nil; errors.As(err, &exit) && exit.ExitCode == recipe.ExitNoCompiler {
		err = nil
	}
	return again, remove, err
}

// sweepElsewhere takes away what killed processes left.
func sweepElsewhere(prefix string) {
	left, _ := filepath.Glob(prefix + "*")
	for _, dir := range left {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			if client, err := engine.Find(ctx, filepath.Join(dir, "engine")); err == nil {
				_ = client.Stop(ctx)
			}
			cancel()
			_ = os.RemoveAll(dir) // costs space at worst, and is tried again
		}
		f.Close()
	}
}

// copyWorkspace copies what builds read of a workspace to the folder to, as a
// checkout of another time with another umask.
func copyWorkspace(ws *workspace.Workspace, to string, mtime time.Time) error {
	files, _, err := ws.Paths()
	for _, path := range files {
		if err == nil {
			var rel string
			if rel, err = filepath.Rel(ws.Root, path); err == nil {
				err = copyFile(path, filepath.Join(to, rel), mtime)
			}
		}
	}
	return err
}

// copyFile copies a regular file, with the group's right to write it turned round,
// or a symbolic link.
func copyFile(from, to string, mtime time.Time) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(info.Mode().Perm()^0o020), out.Close(), os.Chtimes(to, mtime, mtime))
}
