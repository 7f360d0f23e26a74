// Package build makes targets: it finds out what is stale, fetches sources, and
// runs the recipes of stale targets on an engine, the longest chain first.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/graph"
	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/recipe"
	"slipway/internal/sdk"
	"slipway/internal/source"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// Options are the settings of a Builder.
type Options struct {
	Arch      string            // RPM architecture of the targets; the host's when empty
	Jobs      int               // packages at once; the number of CPUs when 0
	KeepGoing bool              // build what does not need a failed target
	Locked    bool              // fail rather than change slipway.lock
	Cache     string            // root of the caches; see CacheDir
	Engine    engine.Options    // how to reach the engine
	Display   *progress.Display // where to report to
}

// Builder builds the targets of one workspace.
type Builder struct {
	ws      *workspace.Workspace
	opt     Options
	graph   *graph.Graph
	sources *source.Store
	results *store.Store
	display *progress.Display

	mu   sync.Mutex
	done map[string]*store.Result // by target name
	rows map[string]*Row          // for the report

	engineOnce sync.Once
	engine     *engine.Client
	engineErr  error
	sdk        *sdk.Image
	hold       bool // recipes are to keep their sandboxes, see recipe.Sandbox
}

// CacheDir is the root of sources, results and SDKs: $SLIPWAY_CACHE, or the
// folder slipway of the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("SLIPWAY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w: set SLIPWAY_CACHE", err)
	}
	return filepath.Join(dir, "slipway"), nil
}

// HostArch is the RPM name of this machine's architecture.
func HostArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}

// Graph evaluates the specs of a workspace for an architecture.
func Graph(ws *workspace.Workspace, arch string) (*graph.Graph, error) {
	macros, err := sdk.Macros(ws, arch)
	if err != nil {
		return nil, err
	}
	return graph.Build(ws, graph.Options{Arch: arch, Macros: macros})
}

// New reads the graph of a workspace and opens the caches.
func New(ws *workspace.Workspace, opt Options) (*Builder, error) {
	if opt.Arch == "" {
		opt.Arch = HostArch()
	}
	if opt.Jobs <= 0 {
		opt.Jobs = runtime.NumCPU()
	}
	g, err := Graph(ws, opt.Arch)
	if err != nil {
		return nil, err
	}
	sources, err := source.Open(filepath.Join(opt.Cache, "sources"))
	if err != nil {
		return nil, cacheError(opt.Cache, err)
	}
	results, err := store.Open(filepath.Join(opt.Cache, "store"))
	if err != nil {
		return nil, cacheError(opt.Cache, err)
	}
	return &Builder{ws: ws, opt: opt, graph: g, sources: sources, results: results, display: opt.Display,
		done: map[string]*store.Result{}, rows: map[string]*Row{}}, nil
}

func cacheError(dir string, err error) error {
	return fmt.Errorf("cache folder %s: %w: set SLIPWAY_CACHE to a folder that can be written to", dir, err)
}

// Close lets go of the engine.
func (b *Builder) Close() error {
	if b.engine == nil {
		return nil
	}
	return b.engine.Close()
}

// Build makes the named targets and whatever they need. Without names it makes
// the default variant.
func (b *Builder) Build(ctx context.Context, names []string) error {
	started := time.Now()
	targets, err := b.closure(names)
	if err != nil {
		return err
	}
	b.display.Total(len(targets))
	err = b.build(ctx, targets)
	return errors.Join(err, b.writeReport(started, targets))
}

func (b *Builder) build(ctx context.Context, targets []*graph.Target) error {
	if err := b.ensureSDK(ctx, targets); err != nil {
		return err
	}
	stale := map[string]*job{}
	var jobs []*job
	for _, t := range targets {
		hit, err := b.lookup(ctx, t)
		if err != nil {
			return err
		}
		if hit {
			continue
		}
		j := &job{
			name: t.Name, weight: b.weight(t),
			run:  func(ctx context.Context) error { return b.make(ctx, t) },
			skip: func() { b.skip(t) },
		}
		for _, dep := range b.packages(t) {
			if n := stale[dep.Name]; n != nil {
				link(j, n)
			}
		}
		stale[t.Name] = j
		jobs = append(jobs, j)
		if t.Package != nil && len(t.Package.ExternalFiles) > 0 {
			f := &job{name: t.Name + " sources", pool: poolFetch, skip: func() {}, run: func(ctx context.Context) error { return b.fetchFor(ctx, t) }}
			link(j, f)
			jobs = append(jobs, f)
		}
	}
	errs := runAll(ctx, jobs, [pools]int{poolBuild: b.opt.Jobs, poolFetch: fetchSlots}, b.opt.KeepGoing)
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("interrupted (%w): what was built before is kept, and the next build goes on from there", cause)
	}
	if b.engineErr != nil { // once, not for each target
		errs = append(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, b.engineErr) }), b.engineErr)
	}
	return errors.Join(errs...)
}

// closure gives the targets and all that they need, dependencies first.
func (b *Builder) closure(names []string) ([]*graph.Target, error) {
	targets, err := b.lookupNames(names)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(b.graph.Closure(targets...), isSDK), nil
}

// lookupNames finds targets by name; none stands for the default variant.
func (b *Builder) lookupNames(names []string) ([]*graph.Target, error) {
	if len(names) == 0 {
		v := b.ws.Config.DefaultVariant
		if v == "" {
			return nil, errors.New("no target given, and slipway.toml names no default-variant: name a target, or set it")
		}
		names = []string{"variants/" + v}
	}
	var targets []*graph.Target
	for _, name := range names {
		t, err := b.graph.Lookup(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func isSDK(t *graph.Target) bool { return t.Kind == graph.KindSDK }

// Outputs are the files and folders below build/ that show what targets made.
func (b *Builder) Outputs(names []string) []string {
	targets, err := b.lookupNames(names)
	if err != nil {
		return nil
	}
	var paths []string
	for _, t := range targets {
		switch {
		case t.Variant != nil:
			paths = append(paths, b.ImagePath(t.Variant))
		case t.Package != nil:
			paths = append(paths, b.rpmDir(t))
		}
	}
	return paths
}

func (b *Builder) rpmDir(t *graph.Target) string {
	return filepath.Join(b.ws.Root, "build", "rpms", t.Package.Name)
}

// weight guesses how long a target takes from the size of its sources in bytes.
func (b *Builder) weight(t *graph.Target) int64 {
	w := int64(1)
	if t.Package != nil {
		for _, item := range items(t.Package) {
			blob, _ := b.sources.Lookup(item)
			if strings.HasPrefix(item.URL, "go:") {
				blob.Size /= packing // the others are packed
			}
			w += blob.Size
		}
	}
	return w
}

// packing is about how many times smaller than plain a packed source archive is.
const packing = 6

// lookup finds a target in the store. It can only tell when all that the target
// needs is known.
func (b *Builder) lookup(ctx context.Context, t *graph.Target) (bool, error) {
	for _, dep := range b.packages(t) {
		if b.result(dep.Name) == nil {
			return false, nil
		}
	}
	in, err := b.inputs(t)
	if err != nil {
		return false, err
	}
	r, ok, err := b.results.Get(in.Key())
	if err != nil || !ok {
		return false, err
	}
	if err := b.view(ctx, t, r); err != nil {
		return false, err
	}
	b.end(t, progress.Cached, r, 0)
	return true, nil
}

// packages are the packages that a target needs, itself not included.
func (b *Builder) packages(t *graph.Target) []*graph.Target {
	return slices.DeleteFunc(b.graph.Closure(t), func(d *graph.Target) bool { return d == t || d.Kind != graph.KindPackage })
}

func (b *Builder) result(name string) *store.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[name]
}

// inputs are what a target is made from; the results of its closure are known.
func (b *Builder) inputs(t *graph.Target) (plan.Inputs, error) {
	var results []*store.Result
	for _, dep := range b.packages(t) {
		results = append(results, b.result(dep.Name))
	}
	in := plan.Inputs{
		Recipe: recipe.PackageVersion, Target: t.Name, Arch: b.opt.Arch, SDK: b.sdk.Digest,
		Settings: map[string]string{"source-date-epoch": strconv.FormatInt(b.ws.Config.ReleaseEpoch, 10)},
		RPMs:     plan.RPMs(results),
	}
	var err error
	if t.Variant != nil {
		err = b.variantInputs(t.Variant, &in)
		return in, err
	}
	in.Files, in.Groups, err = plan.PackageFiles(b.ws, t.Package)
	in.Sources = plan.Sources(t.Package)
	return in, err
}

// make builds one target that was not in the store when the build began.
func (b *Builder) make(ctx context.Context, t *graph.Target) (err error) {
	started := time.Now()
	defer func() {
		if err != nil {
			b.end(t, progress.Failed, nil, time.Since(started))
		}
	}()
	in, err := b.inputs(t)
	if err != nil {
		return err
	}
	key := in.Key()
	b.display.Start(t.Name, phaseWait)
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	// another process may have made it meanwhile, or a changed dependency may
	// have come out as it was
	if r, ok, err := b.results.Get(key); err != nil || ok {
		if err == nil {
			err = b.view(ctx, t, r)
		}
		if err == nil {
			b.end(t, progress.Cached, r, time.Since(started))
		}
		return err
	}
	rec, err := b.recipe(ctx, t, in)
	if err != nil {
		return err
	}
	r, err := b.solve(ctx, t, key, rec)
	if err != nil {
		return err
	}
	if err := b.view(ctx, t, r); err != nil {
		return err
	}
	b.end(t, progress.Built, r, time.Since(started))
	return nil
}

// lock holds a target's key, so that of several processes that want the same
// target one builds it and the others find it in the store.
func (b *Builder) lock(ctx context.Context, key string) (unlock func(), err error) {
	// the file stays: removing it would let two holders of one name exist
	dir := filepath.Join(b.opt.Cache, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, key), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// solve runs a recipe and takes what it made into the store.
func (b *Builder) solve(ctx context.Context, t *graph.Target, key string, rec recipe.Build) (*store.Result, error) {
	client, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	out, err := os.MkdirTemp(filepath.Join(b.results.Dir(), "tmp"), "result-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(out)
	log, err := newBuildLog(b.logPath(t),
		func(phase string) { b.display.Phase(t.Name, phase) },
		func(line string) { b.display.Log(t.Name, line) })
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", t.Name, err)
	}
	log.setPhase(phaseDeps)
	started := time.Now()
	_, err = client.Solve(ctx, b.engineJob(t, rec, out, log))
	if cerr := log.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		var exit *engine.ExitError
		if errors.As(err, &exit) {
			return nil, &TargetError{Target: t.Name, Phase: log.phase, Tail: log.tail, Log: b.logPath(t), ExitCode: exit.ExitCode, Err: err}
		}
		if errors.Is(err, engine.ErrLost) {
			return nil, fmt.Errorf("%w: what was built before is kept, and the next build starts another engine", err)
		}
		return nil, b.spaceError(t, err) // the engine has named the target
	}
	b.display.Phase(t.Name, phaseStore)
	r, err := b.results.Put(key, t.Name, out, map[string]string{
		AnnotationWall: strconv.FormatFloat(time.Since(started).Seconds(), 'f', 1, 64),
		AnnotationCPU:  strconv.FormatFloat(log.cpu, 'f', 1, 64),
	})
	return r, b.spaceError(t, err)
}

// spaceError says what to do when the disk of the caches is full. The transfer of
// a result may break off without telling why, so the disk itself is asked too.
func (b *Builder) spaceError(t *graph.Target, err error) error {
	if err == nil {
		return nil
	}
	var disk unix.Statfs_t
	full := unix.Statfs(b.opt.Cache, &disk) == nil && disk.Bavail == 0
	if !full && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return fmt.Errorf("%s was built, but its result cannot be kept: no space left in %s: make room there, or set SLIPWAY_CACHE to a folder on another disk: %w",
		t.Name, b.opt.Cache, err)
}

func (b *Builder) engineJob(t *graph.Target, rec recipe.Build, out string, log *buildLog) engine.Job {
	return engine.Job{Name: t.Name, Def: rec.State, ExportDir: out, Locals: rec.Locals, Stores: b.stores(), Log: log}
}

// stores are the content stores that recipes refer to.
func (b *Builder) stores() map[string]string {
	return map[string]string{
		recipe.StoreSDK: b.sdk.Layout, recipe.StoreSources: filepath.Join(b.opt.Cache, "sources"), recipe.StoreResults: b.results.Dir(),
	}
}

// connect reaches the engine, once.
func (b *Builder) connect(ctx context.Context) (*engine.Client, error) {
	b.engineOnce.Do(func() { b.engine, b.engineErr = engine.Connect(ctx, b.opt.Engine) })
	return b.engine, b.engineErr
}

func (b *Builder) logPath(t *graph.Target) string {
	return filepath.Join(b.ws.Root, "build", "logs", filepath.FromSlash(t.Name)+".log")
}

// view shows a result below build/.
func (b *Builder) view(ctx context.Context, t *graph.Target, r *store.Result) error {
	if t.Variant != nil {
		return b.image(ctx, t.Variant, r)
	}
	return b.results.View(r, b.rpmDir(t))
}

// end notes how a target ended.
func (b *Builder) end(t *graph.Target, status progress.Status, r *store.Result, took time.Duration) {
	b.mu.Lock()
	row := &Row{Name: t.Name, Status: status, Wall: took.Seconds()}
	if r != nil {
		b.done[t.Name] = r
		row.CPU, _ = strconv.ParseFloat(r.Annotations[AnnotationCPU], 64)
	}
	b.rows[t.Name] = row
	b.mu.Unlock()
	b.display.Done(t.Name, status)
}

// skip notes that a target was not tried, unless its own sources are why.
func (b *Builder) skip(t *graph.Target) {
	b.mu.Lock()
	ended := b.rows[t.Name] != nil
	b.mu.Unlock()
	if !ended {
		b.end(t, progress.Skipped, nil, 0)
	}
}

func (b *Builder) triple() string { return b.opt.Arch + "-" + b.ws.Config.Vendor + "-linux-gnu" }

func (b *Builder) sandbox() recipe.Sandbox {
	return recipe.Sandbox{SDKDigest: b.sdk.Digest, Arch: b.opt.Arch, Target: b.triple(), Epoch: b.ws.Config.ReleaseEpoch, Jobs: runtime.NumCPU(), Hold: b.hold}
}

// rpmBlobs are the RPMs among a target's inputs, as blobs of the result store.
func rpmBlobs(in plan.Inputs) []recipe.Blob {
	var blobs []recipe.Blob
	for _, f := range in.RPMs {
		blobs = append(blobs, recipe.Blob{Store: recipe.StoreResults, Digest: f.Digest, Name: f.Name})
	}
	return blobs
}

// recipe turns a target into LLB; what it needs from upstream is fetched first.
func (b *Builder) recipe(ctx context.Context, t *graph.Target, in plan.Inputs) (recipe.Build, error) {
	if t.Variant != nil {
		return b.imageRecipe(t, in), nil
	}
	p := t.Package
	blobs, err := b.fetch(ctx, items(p))
	if err != nil {
		return recipe.Build{}, err
	}
	r := recipe.Package{
		Sandbox: b.sandbox(), Name: t.Name, Spec: filepath.Base(p.Spec), Files: p.Files, Dir: p.Dir,
		Groups: p.SourceGroups, GroupsDir: filepath.Join(b.ws.Root, "sources"),
		RPMs: rpmBlobs(in), BuildRequires: buildRequires(t),
	}
	for i := range p.ExternalFiles {
		r.Sources = append(r.Sources, recipe.Blob{Store: recipe.StoreSources, Digest: "sha256:" + blobs[i].SHA256, Name: p.ExternalFiles[i].FileName()})
	}
	return r.Build(), nil
}

func items(p *workspace.Package) []source.Item {
	var items []source.Item
	for _, f := range p.ExternalFiles {
		items = append(items, source.Item{Name: f.FileName(), URL: f.URL, SHA512: f.SHA512, SHA256: f.SHA256, ForceUpstream: f.ForceUpstream,
			Owner: "packages/" + p.Name, File: strings.TrimPrefix(f.Pos.File, "./"), Line: f.Pos.Line})
	}
	return items
}

func buildRequires(t *graph.Target) []string {
	var list []string
	for _, d := range t.Spec.BuildRequires {
		list = append(list, d.Text)
	}
	return list
}
