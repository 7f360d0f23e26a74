// Package build makes targets: it finds out what is stale, fetches sources, and
// runs the recipes of stale targets on an engine, the longest chain first.
package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/graph"
	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/recipe"
	"slipway/internal/rpm"
	"slipway/internal/sbom"
	"slipway/internal/sdk"
	"slipway/internal/sign"
	"slipway/internal/source"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// Options are the settings of a Builder.
type Options struct {
	Arch      string            // RPM architecture of the targets; the host's when empty
	Jobs      int               // packages at once; the number of CPUs when 0
	Memory    int64             // bytes that builds may take together; most of what is available when 0
	KeepGoing bool              // build what does not need a failed target
	Locked    bool              // fail rather than change slipway.lock
	Cache     string            // root of the caches; see CacheDir
	Engine    engine.Options    // how to reach the engine
	Team      workspace.Cache   // the team cache; none where it has no Ref
	Display   *progress.Display // where to report to
	Signing   workspace.Signing // how disk images are signed; not at all where it is empty
	Version   string            // of this program, for the documents of images
}

// Builder builds the targets of one workspace.
type Builder struct {
	ws      *workspace.Workspace
	opt     Options
	graph   *graph.Graph
	macros  string // RPM macro file of the SDK
	sources *source.Store
	results *store.Store
	display *progress.Display
	team    *team // nil without a team cache
	signing func() (*signing, error)
	// provenance is what signs it; nil for nothing.
	provenance func() (sign.Signer, error)

	mu       sync.Mutex
	done     map[string]*store.Result // by target name
	rows     map[string]*Row          // for the report
	failed   map[string]error         // why targets failed, by name
	took     map[string]store.History // of the sandboxes that have run
	verified map[string]bool          // digests of blobs that were read and found right

	compared map[[2]string]string // what differs in pairs of RPMs, see openRPMs

	needsMu sync.Mutex
	needed  map[*graph.Target][]*graph.Target // what needs has found out

	indexMu sync.RWMutex
	index   *rpm.Index // RPMs of the results in done

	engineOnce sync.Once
	engine     *engine.Client
	engineErr  error
	pinned     string     // digest of the SDK that keys have
	sdk        *sdk.Image // nil until it is needed
	hold       bool       // recipes are to keep their sandboxes, see recipe.Sandbox
	cpus       int        // Jobs of recipe.Sandbox
	fastClock  bool       // FastClock of recipe.Sandbox
	logs       string     // folder of logs
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
	opt = opt.withDefaults()
	macros, err := sdk.Macros(ws, opt.Arch)
	if err != nil {
		return nil, err
	}
	g, err := graph.Build(ws, graph.Options{Arch: opt.Arch, Macros: macros})
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
	b := &Builder{ws: ws, opt: opt, graph: g, macros: macros, sources: sources, results: results, display: opt.Display, verified: map[string]bool{}, rows: map[string]*Row{}, failed: map[string]error{}, took: map[string]store.History{}, compared: map[[2]string]string{}, needed: map[*graph.Target][]*graph.Target{}, logs: filepath.Join(ws.Root, "build", "logs")}
	b.forget()
	b.provenance = sync.OnceValues(func() (sign.Signer, error) { return openProvenance(opt.Signing) })
	b.signing = sync.OnceValues(func() (*signing, error) { return openSigning(opt.Signing) })
	b.team, err = openTeam(opt.Team, func(message string) { b.display.Print("%s", message) })
	return b, err
}

func (o Options) withDefaults() Options {
	if o.Arch == "" {
		o.Arch = HostArch()
	}
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	return o
}

// forget drops what is known of results, so that a plan begins anew, but not what
// was worked on.
func (b *Builder) forget() {
	b.done, b.index = map[string]*store.Result{}, rpm.NewIndex()
	maps.DeleteFunc(b.rows, func(_ string, row *Row) bool { return !row.worked() })
}

func cacheError(dir string, err error) error {
	return fmt.Errorf("cache folder %s: %w: set SLIPWAY_CACHE to a folder that can be written to", dir, err)
}

// Close waits for what is still to be pushed to the team cache, not for long once
// ctx has ended, and lets go of the engine.
func (b *Builder) Close(ctx context.Context) error {
	err := b.closeTeam(ctx)
	if b.engine != nil {
		err = errors.Join(err, b.engine.Close())
	}
	return err
}

// Build makes the named targets and whatever they need. Without names it makes
// the default variant.
func (b *Builder) Build(ctx context.Context, names []string) error {
	began := time.Now()
	targets, err := b.closure(names)
	if err != nil {
		return err
	}
	wanted, err := b.lookupNames(names)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(targets, func(t *graph.Target) bool { return t.Variant != nil }) {
		signing, err := b.signing()
		if err == nil {
			err = signing.ready(ctx)
		}
		if err != nil { // rather now than after hours
			return err
		}
		if _, err := b.provenance(); err != nil {
			return err
		}
	}
	release, err := b.results.Use()
	if err != nil {
		return cacheError(b.opt.Cache, err)
	}
	defer release()
	b.display.Total(len(targets))
	err = b.build(ctx, targets, wanted)
	err = errors.Join(err, b.writeReport(began, targets), b.remember(targets))
	if err == nil {
		err = b.record(began, names, targets)
	}
	return err
}

// errReplan says that a plan no longer holds: something that it counted on was
// found damaged or gone. It is never shown.
var errReplan = errors.New("plan again")

// dropped drops a result of which files cannot be had; the error is errReplan.
func (b *Builder) dropped(r *store.Result) error {
	if err := b.results.Drop(r.Key); err != nil {
		return cacheError(b.opt.Cache, err)
	}
	return errReplan
}

// build makes targets, of which the wanted ones are to be shown below build/.
func (b *Builder) build(ctx context.Context, targets, wanted []*graph.Target) error {
	for try := 1; ; try++ {
		again := false
		errs := slices.DeleteFunc(b.attempt(ctx, targets, wanted), func(err error) bool {
			again = again || errors.Is(err, errReplan)
			return errors.Is(err, errReplan)
		})
		if cause := context.Cause(ctx); cause != nil && again && len(errs) == 0 {
			errs = append(errs, cause)
		}
		if !again || ctx.Err() != nil || len(errs) > 0 && !b.opt.KeepGoing {
			return errors.Join(errs...)
		}
		// each time something is dropped; when the team cache vanishes, that may be
		// one target of a chain at a time
		if try == 4+len(targets) {
			return errors.Join(append(errs, fmt.Errorf("results in %s are damaged or vanish again and again, as was said above: see whether its disk is well, and whether something else deletes files there", b.opt.Cache))...)
		}
		b.display.Restart()
	}
}

// attempt plans and builds. Targets that failed in an attempt before fail again
// without being tried.
func (b *Builder) attempt(ctx context.Context, targets, wanted []*graph.Target) []error {
	b.forget()
	if err := b.pin(ctx, targets); err != nil {
		return []error{err}
	}
	steps, err := b.plan(ctx, targets)
	if err != nil {
		return []error{err}
	}
	stale := map[string]*job{}
	var jobs []*job
	var left []*graph.Target
	var shown errgroup.Group
	shown.SetLimit(fetchSlots)
	for _, s := range steps {
		t := s.target
		// an image waits for its migrations to be shown with it
		waits := slices.ContainsFunc(b.needs(t), func(d *graph.Target) bool { return stale[d.Name] != nil })
		if s.result != nil && !waits {
			shown.Go(func() error { return b.found(ctx, s, slices.Contains(wanted, t), 0) })
			continue
		}
		j := &job{name: t.Name, skip: func() { b.skip(t) }}
		j.run = func(ctx context.Context) error { return b.make(ctx, t, slices.Contains(wanted, t), j.waited) }
		for _, dep := range b.needs(t) {
			if n := stale[dep.Name]; n != nil {
				link(j, n)
			}
		}
		stale[t.Name] = j
		jobs = append(jobs, j)
		if err := b.failed[t.Name]; err != nil {
			j.run = func(context.Context) error { return err }
			continue
		}
		left = append(left, t)
		if t.Package != nil && len(t.Package.ExternalFiles) > 0 {
			f := &job{name: t.Name + " sources", pool: poolFetch, skip: func() {}, run: func(ctx context.Context) error { return b.fetchFor(ctx, t) }}
			link(j, f)
			jobs = append(jobs, f)
		}
	}
	if err := shown.Wait(); err != nil {
		return []error{err}
	}
	if len(jobs) == 0 {
		return nil
	}
	if len(left) > 0 {
		if err := b.ensureSDK(ctx, left); err != nil {
			return []error{err}
		}
		if b.sdk.Digest != b.pinned {
			return []error{errReplan}
		}
		b.weigh(left, stale)
	}
	l, err := b.limits()
	if err != nil {
		return []error{err}
	}
	errs := l.run(ctx, jobs, b.opt.KeepGoing)
	if cause := context.Cause(ctx); cause != nil {
		return []error{fmt.Errorf("interrupted (%w): what was built before is kept, and the next build goes on from there", cause)}
	}
	if b.engineErr != nil { // once, not for each target
		errs = append(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, b.engineErr) }), b.engineErr)
	}
	return errs
}

// limits bound what runs at once on this machine.
func (b *Builder) limits() (l limits, err error) {
	l = limits{slots: [pools]int{poolBuild: b.opt.Jobs, poolFetch: fetchSlots}, cpus: float64(runtime.NumCPU()), memory: b.opt.Memory}
	if l.memory == 0 {
		l.memory, err = memoryBudget()
	}
	return l, err
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

// weigh tells the queue what to expect of the jobs of targets: times and needs of
// their last builds, else what manifests and the sizes of sources say.
func (b *Builder) weigh(targets []*graph.Target, jobs map[string]*job) {
	sizes, past := map[string]int64{}, map[string]store.History{}
	for _, t := range targets {
		sizes[t.Name] = 0
		if t.Package != nil {
			sizes[t.Name] = b.sourceSize(t.Package)
		}
		if h, ok := b.results.History(b.opt.Arch, t.Name); ok {
			past[t.Name] = h
		}
	}
	times := expect(sizes, func(name string) (time.Duration, bool) {
		h, ok := past[name]
		return time.Duration(h.Wall * float64(time.Second)), ok
	})
	for _, t := range targets {
		j := jobs[t.Name]
		var declared workspace.PackageBuild
		if t.Package != nil {
			declared = t.Package.Build
		}
		j.weight = int64(times[t.Name])
		j.cpus, j.memory = demand(declared, past[t.Name])
	}
}

// sourceSize is about how many bytes a package's sources have when they are packed.
func (b *Builder) sourceSize(p *workspace.Package) (size int64) {
	for _, item := range items(p) {
		blob, _ := b.sources.Lookup(item)
		if strings.HasPrefix(item.URL, "go:") {
			blob.Size /= packing // the others are packed
		}
		size += blob.Size
	}
	return size
}

// packing is about how many times smaller than plain a packed source archive is.
const packing = 6

func (b *Builder) result(name string) *store.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[name]
}

// make builds one target that had no result when the build began.
func (b *Builder) make(ctx context.Context, t *graph.Target, wanted bool, waited time.Duration) (err error) {
	began := time.Now()
	defer func() {
		if err != nil && !errors.Is(err, errReplan) {
			b.fail(t, err, time.Since(began))
		}
		b.waited(t, waited)
	}()
	s, err := b.look(t)
	if err != nil {
		return err
	}
	b.display.Start(t.Name, phaseWait)
	unlock, err := b.lock(ctx, s.key)
	if err != nil {
		return err
	}
	waited += time.Since(began)
	began = time.Now()
	defer unlock()
	// another process may have made it meanwhile, or a changed dependency may
	// have come out as it was
	if err := b.lookup(ctx, s); err != nil {
		return err
	}
	if s.result != nil {
		return b.found(ctx, s, wanted, time.Since(began))
	}
	if err := b.readyRPMs(ctx, slices.Concat(s.rpms, s.tools)); err != nil {
		return err
	}
	rec, err := b.recipe(ctx, t, s.inputs)
	if err != nil {
		return err
	}
	if s.result, err = b.solve(ctx, t, s.inputs, rec); err != nil {
		return err
	}
	if err := b.take(t, s.result); err != nil {
		return err
	}
	b.push(s.result)
	if err := b.view(ctx, t, s.result); err != nil {
		return err
	}
	b.end(t, progress.Built, s.result, "", time.Since(began))
	return nil
}

// lock holds a target's key, so that of several processes that want the same
// target one builds it and the others find it in the store.
func (b *Builder) lock(ctx context.Context, key string) (unlock func(), err error) {
	// the file stays until builds are over, and slipway cache prune removes it:
	// sooner, two holders of one name could exist
	dir := filepath.Join(b.opt.Cache, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, key), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// flock locks an open file or folder until it is closed; waiting ends with the
// context.
func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// solve runs a recipe and takes what it made into the store.
func (b *Builder) solve(ctx context.Context, t *graph.Target, in plan.Inputs, rec recipe.Build) (*store.Result, error) {
	out, err := os.MkdirTemp(filepath.Join(b.results.Dir(), "tmp"), store.TempResult)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(out)
	took, err := b.export(ctx, t, in, rec, out)
	if err != nil {
		return nil, err
	}
	b.display.Phase(t.Name, phaseStore)
	artifact := store.Artifact{
		Target: t.Name, Arch: b.opt.Arch, Inputs: in.Encode(), Dir: out, Attachments: map[string][]byte{},
		History: took,
	}
	if t.Package != nil {
		if artifact.Attachments[mediaRPMs], err = describeRPMs(out); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		if artifact.Attachments[sbom.MediaPrograms], err = describePrograms(out); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		if artifact.Attachments[plan.MediaTexts], err = plan.EncodeTexts(plan.Texts(b.ws, t.Package, in, b.macros)); err != nil {
			return nil, err
		}
	}
	r, err := b.results.Put(ctx, artifact)
	return r, b.spaceError(t, err)
}

// export runs a recipe and puts what it made into the folder out.
func (b *Builder) export(ctx context.Context, t *graph.Target, in plan.Inputs, rec recipe.Build, out string) (took store.History, err error) {
	client, err := b.connect(ctx)
	if err != nil {
		return took, err
	}
	log, err := newBuildLog(b.logPath(t),
		func(phase string) { b.display.Phase(t.Name, phase) },
		func(line string) { b.display.Log(t.Name, line) })
	if err != nil {
		return took, fmt.Errorf("log of %s: %w", t.Name, err)
	}
	log.setPhase(phaseDeps)
	began := time.Now()
	_, err = client.Solve(ctx, b.engineJob(t, rec, out, log))
	if cerr := log.Close(); err == nil {
		err = cerr
	}
	took = store.History{Wall: time.Since(began).Seconds(), CPU: log.cpu, Memory: log.memory}
	b.mu.Lock()
	b.took[t.Name] = took
	b.mu.Unlock()
	if err != nil {
		var exit *engine.ExitError
		if errors.As(err, &exit) {
			return took, &TargetError{Target: t.Name, Phase: log.phase, Tail: log.tail, Log: b.logPath(t), ExitCode: exit.ExitCode, Err: err}
		}
		if errors.Is(err, engine.ErrLost) {
			return took, fmt.Errorf("%w: what was built before is kept, and the next build starts another engine", err)
		}
		return took, b.spaceError(t, err) // the engine has named the target
	}
	if t.Variant != nil {
		b.display.Phase(t.Name, phaseVerity)
		return took, b.spaceError(t, b.hashTree(ctx, t, in, out))
	}
	return took, nil
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
	return engine.Job{Name: t.Name, Def: rec.State, ExportDir: out, Locals: rec.Locals, Mtime: rec.Mtime, Stores: b.stores(), Log: log}
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
	return filepath.Join(b.logs, filepath.FromSlash(t.Name)+".log")
}

// view shows a result below build/.
func (b *Builder) view(ctx context.Context, t *graph.Target, r *store.Result) error {
	if t.Variant != nil {
		unlock, err := b.lockImage(ctx, t.Variant)
		if err != nil {
			return err
		}
		defer unlock()
		if err := b.migrations(ctx, t, r); err != nil { // takes less than the disk to fail
			return err
		}
		ctx, cancel := context.WithCancel(ctx) // also of the digest, on an error
		defer cancel()
		disk, err := b.image(ctx, t.Variant, r)
		if err != nil {
			return err
		}
		return b.writeDocuments(ctx, t, r, disk)
	}
	return b.results.View(r, b.rpmDir(t))
}

// fail notes that a target failed, and why.
func (b *Builder) fail(t *graph.Target, err error, took time.Duration) {
	b.mu.Lock()
	b.failed[t.Name] = err
	b.mu.Unlock()
	b.end(t, progress.Failed, nil, "", took)
}

// end notes how a target ended, and where its result came from if it was not
// built now. What was worked on before all was planned again, and is found then,
// stays what it was.
func (b *Builder) end(t *graph.Target, status progress.Status, r *store.Result, from string, took time.Duration) {
	b.mu.Lock()
	if old := b.rows[t.Name]; status == progress.Cached && old != nil && (old.Status == progress.Built || old.Status == progress.Fetched) {
		b.mu.Unlock()
		return
	}
	row := &Row{Name: t.Name, Status: status, Wall: took.Seconds(), Source: from, CPU: b.took[t.Name].CPU, Memory: b.took[t.Name].Memory}
	if r != nil {
		row.CPU, row.Memory = used(r)
	}
	b.rows[t.Name] = row
	b.mu.Unlock()
	b.display.Done(t.Name, status)
}

// used gives the seconds of processor time that a result took to build and the
// bytes of memory at the peak, 0 for what is not known.
func used(r *store.Result) (cpu float64, memory int64) {
	cpu, _ = strconv.ParseFloat(r.Annotations[store.AnnotationCPU], 64)
	memory, _ = strconv.ParseInt(r.Annotations[store.AnnotationMemory], 10, 64)
	return cpu, memory
}

// waited notes how long a target was ready to be built, but could not be.
func (b *Builder) waited(t *graph.Target, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if row := b.rows[t.Name]; row != nil {
		row.Wait = d.Seconds()
	}
}

// skip notes that a target was not tried, unless its own sources are why.
func (b *Builder) skip(t *graph.Target) {
	b.mu.Lock()
	ended := b.rows[t.Name] != nil
	b.mu.Unlock()
	if !ended {
		b.end(t, progress.Skipped, nil, "", 0)
	}
}

func (b *Builder) triple() string { return b.opt.Arch + "-" + b.ws.Config.Vendor + "-linux-gnu" }

func (b *Builder) sandbox() recipe.Sandbox {
	return recipe.Sandbox{SDKDigest: b.sdk.Digest, Arch: b.opt.Arch, Target: b.triple(), Epoch: b.ws.Config.ReleaseEpoch, Hold: b.hold, Jobs: b.cpus, FastClock: b.fastClock}
}

// rpmBlobs are RPMs among a target's inputs, as blobs of the result store.
func rpmBlobs(rpms []plan.File) []recipe.Blob {
	var blobs []recipe.Blob
	for _, f := range rpms {
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
		Content: plan.Inputs{Files: in.Files, Groups: in.Groups}.Key(),
		RPMs:    rpmBlobs(in.RPMs),
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
