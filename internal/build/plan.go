package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/graph"
	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/recipe"
	"slipway/internal/rpm"
	"slipway/internal/rpmspec"
	"slipway/internal/sdk"
	"slipway/internal/store"
)

// Where results come from.
const (
	FromLocal = "local" // the store of this machine
	FromTeam  = "team"  // the team cache, where files of it still are
)

// step is what a plan knows of one target.
type step struct {
	target *graph.Target
	waits  []*graph.Target // what has no result yet; what follows is not known until they have
	inputs plan.Inputs     // without RPMs as long as it waits
	rpms   []*rpm.Package  // what is installed for it
	tools  []*rpm.Package  // with which an image is made
	key    string
	result *store.Result // nil: it is to be built
	from   string        // FromLocal or FromTeam
	moved  bool          // the team cache was asked for it or its files by this build
}

// plan finds out which of the targets have a result. What a target is made from
// is only known when all that is installed for it is, so what needs a target
// without result has none either for the time being.
func (b *Builder) plan(ctx context.Context, targets []*graph.Target) ([]*step, error) {
	steps := make([]*step, len(targets))
	// by levels: the targets of one need only those of levels before
	var levels [][]int
	level := map[*graph.Target]int{}
	for i, t := range targets {
		n := 0
		for _, dep := range b.needs(t) {
			n = max(n, level[dep]+1)
		}
		level[t] = n
		for len(levels) <= n {
			levels = append(levels, nil)
		}
		levels[n] = append(levels[n], i)
	}
	limit := runtime.GOMAXPROCS(0)
	if b.team != nil {
		limit = 16 // it is the network that takes time
	}
	work := func() error {
		for _, list := range levels {
			var g errgroup.Group
			g.SetLimit(limit)
			for _, i := range list {
				g.Go(func() error {
					s, err := b.look(targets[i])
					if err == nil && len(s.waits) == 0 {
						err = b.lookup(ctx, s)
					}
					steps[i] = s
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
		}
		return nil
	}
	if b.team != nil {
		return steps, work()
	}
	return steps, b.results.Session(work)
}

// needs are the packages of which RPMs are installed for a target, as far as the
// specs say, and those with the migrations of a variant and with the tools for it.
func (b *Builder) needs(t *graph.Target) []*graph.Target {
	b.needsMu.Lock()
	list, ok := b.needed[t]
	b.needsMu.Unlock()
	if !ok {
		list = b.findNeeds(t)
		b.needsMu.Lock()
		b.needed[t] = list
		b.needsMu.Unlock()
	}
	return list
}

func (b *Builder) findNeeds(t *graph.Target) []*graph.Target {
	seen := map[*graph.Target]bool{t: true}
	var list []*graph.Target
	add := func(d *graph.Target) {
		if !seen[d] && d.Kind == graph.KindPackage {
			seen[d] = true
			list = append(list, d)
		}
	}
	for _, d := range t.Depends {
		add(d)
	}
	for _, r := range b.graph.Installs(t) {
		add(r.Target)
	}
	return list
}

// keyed are those of needs that a target's key depends on: not what only its
// migrations need.
func (b *Builder) keyed(t *graph.Target) []*graph.Target {
	list := slices.Clone(b.installed(t))
	for _, r := range b.graph.Tools(t) {
		if !slices.Contains(list, r.Target) {
			list = append(list, r.Target)
		}
	}
	return list
}

// installed are those of needs of which RPMs are installed for a target.
func (b *Builder) installed(t *graph.Target) []*graph.Target {
	if t.Variant == nil {
		return b.needs(t)
	}
	var list []*graph.Target
	for _, r := range b.graph.Installs(t) {
		if !slices.Contains(list, r.Target) {
			list = append(list, r.Target)
		}
	}
	return list
}

// look finds out what a target is made from, and its key.
func (b *Builder) look(t *graph.Target) (*step, error) {
	s := &step{target: t}
	var err error
	if s.inputs, err = b.ownInputs(t); err != nil {
		return nil, err
	}
	for _, dep := range b.keyed(t) {
		if b.result(dep.Name) == nil {
			s.waits = append(s.waits, dep)
		}
	}
	if len(s.waits) > 0 {
		return s, nil
	}
	if s.rpms, err = b.installs(t); err != nil {
		return nil, err
	}
	for _, p := range s.rpms {
		s.inputs.RPMs = append(s.inputs.RPMs, plan.File{Name: p.FileName, Digest: p.Digest})
	}
	for _, r := range b.graph.Tools(t) {
		p, err := b.made(r)
		if err != nil {
			return nil, err
		}
		s.tools = append(s.tools, p)
		s.inputs.Tools = append(s.inputs.Tools, plan.File{Name: p.FileName, Digest: p.Digest})
	}
	s.key = s.inputs.Key()
	return s, nil
}

// ownInputs are what a target is made from, but for the RPMs of others.
func (b *Builder) ownInputs(t *graph.Target) (plan.Inputs, error) {
	in := plan.Inputs{
		Recipe: recipe.PackageVersion, Target: t.Name, Arch: b.opt.Arch, SDK: b.pinned, Macros: digest.FromString(b.macros).String(),
		Settings: map[string]string{"source-date-epoch": strconv.FormatInt(b.ws.Config.ReleaseEpoch, 10)},
	}
	var err error
	if t.Variant != nil {
		err = b.variantInputs(t, &in)
		return in, err
	}
	in.Files, in.Groups, err = plan.PackageFiles(b.ws, t.Package)
	in.Sources = plan.Sources(t.Package)
	return in, err
}

// installs solves which RPMs are installed for a target, among those that its
// closure has made.
func (b *Builder) installs(t *graph.Target) ([]*rpm.Package, error) {
	var wanted []rpmspec.Term
	var extra []*rpm.Package
	if t.Variant != nil {
		for _, name := range b.imagePackages(t.Variant) {
			wanted = append(wanted, rpmspec.Term{Name: name})
		}
		extra = append(extra, b.metadataPackage(t.Variant))
	} else {
		for _, d := range t.Spec.BuildRequires {
			wanted = append(wanted, d.Term)
		}
	}
	var closure map[string]bool // made when it is first asked for: it can be large
	direct := map[string]bool{"": true}
	from := b.installed(t)
	for _, d := range from {
		direct[d.Name] = true
	}
	allowed := func(source string) bool {
		if direct[source] {
			return true
		}
		if closure == nil {
			closure = map[string]bool{}
			for _, d := range b.graph.Closure(from...) {
				closure[d.Name] = d != t
			}
		}
		return closure[source]
	}
	b.indexMu.RLock()
	defer b.indexMu.RUnlock()
	list, err := b.index.Solve(wanted, allowed, extra...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	list = slices.DeleteFunc(list, func(p *rpm.Package) bool { return slices.Contains(extra, p) })
	return list, b.withoutMigrations(t, list)
}

// mediaRPMs is the media type of what dependency resolution needs to know of a
// result's RPMs: a JSON object from file names to rpm.Metadata.
const mediaRPMs = "application/vnd.slipway.rpms.v1+json"

// describeRPMs reads the RPMs of a folder, but for what only debuggers read.
func describeRPMs(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]*rpm.Metadata{}
	for _, e := range entries {
		m, err := rpm.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(m.Name, "-debuginfo") && !strings.HasSuffix(m.Name, "-debugsource") {
			all[e.Name()] = m
		}
	}
	return json.Marshal(all)
}

// described reads what describeRPMs wrote.
func (b *Builder) described(r *store.Result) (map[string]*rpm.Metadata, error) {
	raw, err := b.results.Attached(r, mediaRPMs)
	if err != nil {
		return nil, err
	}
	var all map[string]*rpm.Metadata
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("%w: RPMs of %s: %w", store.ErrCorrupt, r.Target, err)
	}
	return all, nil
}

// made finds an RPM among the files of the result that has it.
func (b *Builder) made(r *graph.RPM) (*rpm.Package, error) {
	result := b.result(r.Target.Name)
	all, err := b.described(result)
	if err != nil {
		return nil, err
	}
	for _, f := range result.Files {
		if m := all[f.Name]; m != nil && m.Name == r.Name {
			return &rpm.Package{Metadata: m, Source: r.Target.Name, FileName: f.Name, Digest: f.Digest, Size: f.Size}, nil
		}
	}
	return nil, fmt.Errorf("%s made no RPM %s", r.Target.Name, r.Name)
}

// take notes the result of a target, so that others can be planned.
func (b *Builder) take(t *graph.Target, r *store.Result) error {
	if t.Package != nil {
		all, err := b.described(r)
		if err != nil {
			return err
		}
		files := map[string]store.File{}
		for _, f := range r.Files {
			files[f.Name] = f
		}
		b.indexMu.Lock()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			p := &rpm.Package{Metadata: all[name], Source: t.Name, FileName: name, Digest: files[name].Digest, Size: files[name].Size}
			if err = errors.Join(err, b.index.Add(p)); files[name].Digest == "" {
				err = fmt.Errorf("%w: %s describes %s, which is not among its files", store.ErrCorrupt, t.Name, name)
			}
		}
		b.indexMu.Unlock()
		if err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.done[t.Name] = r
	b.mu.Unlock()
	return nil
}

// lookup finds the result of a step's key, here or in the team cache.
func (b *Builder) lookup(ctx context.Context, s *step) error {
	r, ok, err := b.results.Get(s.key)
	if err != nil {
		return cacheError(b.opt.Cache, err)
	}
	if !ok {
		if r = b.fromTeam(ctx, s); r == nil {
			return nil
		}
		s.moved = true
	}
	s.from = b.from(r)
	err = b.take(s.target, r)
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		return b.results.Drop(s.key) // and build it again
	}
	if err == nil {
		s.result = r
	}
	return err
}

// from tells where a result is.
func (b *Builder) from(r *store.Result) string {
	if len(b.results.Missing(r)) > 0 {
		return FromTeam
	}
	return FromLocal
}

// found shows a target that has a result. Of what came from the team cache the
// files are brought when they are wanted.
func (b *Builder) found(ctx context.Context, s *step, wanted bool, took time.Duration) error {
	if s.from == FromTeam && wanted {
		s.moved = true
		if err := b.ready(ctx, s.result, s.result.Files); err != nil {
			return err
		}
	}
	if s.from == FromLocal || wanted {
		if err := b.view(ctx, s.target, s.result); err != nil {
			return err
		}
	}
	status, from := progress.Cached, s.from
	if s.moved {
		status, from = progress.Fetched, FromTeam
	}
	b.end(s.target, status, s.result, from, took)
	return nil
}

// readyRPMs makes sure that RPMs are here and undamaged.
func (b *Builder) readyRPMs(ctx context.Context, list []*rpm.Package) error {
	bySource := map[string][]store.File{}
	for _, p := range list {
		bySource[p.Source] = append(bySource[p.Source], store.File{Name: p.FileName, Digest: p.Digest, Size: p.Size})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for source, files := range bySource {
		g.Go(func() error { return b.ready(ctx, b.result(source), files) })
	}
	return g.Wait()
}

// ready makes sure that files of a result are here and undamaged. If that cannot
// be had, the result is dropped and the error is errReplan.
func (b *Builder) ready(ctx context.Context, r *store.Result, files []store.File) error {
	files = slices.DeleteFunc(slices.Clone(files), func(f store.File) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.verified[f.Digest]
	})
	if err := b.bring(ctx, r, files); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		b.lost(r, err)
		return b.dropped(r)
	}
	err := b.results.Verify(r, files)
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		b.display.Print("%s: %v: building it again", r.Target, err)
		return errReplan
	}
	if err != nil {
		return cacheError(b.opt.Cache, err)
	}
	b.mu.Lock()
	for _, f := range files {
		b.verified[f.Digest] = true
	}
	b.mu.Unlock()
	return nil
}

// pin finds the digest of the SDK: slipway.lock has it, or the SDK is made.
func (b *Builder) pin(ctx context.Context, targets []*graph.Target) error {
	if b.sdk == nil {
		d, err := sdk.Pinned(b.ws)
		if err != nil {
			return fmt.Errorf("sdk: %w", err)
		}
		if b.pinned = d; d != "" {
			return nil
		}
		if err := b.ensureSDK(ctx, targets); err != nil {
			return err
		}
	}
	b.pinned = b.sdk.Digest
	return nil
}

// remember records which results the workspace has now, for later questions why
// a target is built.
func (b *Builder) remember(targets []*graph.Target) error {
	keys := map[string]string{}
	for _, t := range targets {
		if r := b.result(t.Name); r != nil {
			keys[t.Name] = r.Key
		}
	}
	return b.results.SetLast(b.ws.Root, b.opt.Arch, keys)
}

// PlanRow is one target of a plan.
type PlanRow struct {
	Name   string   `json:"name"`
	Status string   `json:"status"`           // "cached", "build", or "unknown": depends on what comes out of others
	From   string   `json:"from,omitempty"`   // of what is cached: "local" or "team"
	Key    string   `json:"key,omitempty"`    // unless unknown
	Waits  []string `json:"waits,omitempty"`  // targets to be built first
	Wall   float64  `json:"wall,omitempty"`   // seconds that its last build took; 0 where there was none
	CPU    float64  `json:"cpu,omitempty"`    // seconds of user and system time, likewise
	Memory int64    `json:"memory,omitempty"` // peak in bytes, likewise

	Disk []plan.Change `json:"disk,omitempty"` // why the disk of a cached variant is put together anew
	Why  *Reason       `json:"why,omitempty"`  // of what is not cached, where that was asked for
}

// States of a PlanRow.
const (
	PlanCached  = "cached"
	PlanBuild   = "build"
	PlanUnknown = "unknown"
)

// Plan tells what a build of the named targets would do, dependencies first, and
// with explain also why. It builds nothing.
func (b *Builder) Plan(ctx context.Context, names []string, explain bool) ([]PlanRow, error) {
	began := time.Now()
	targets, err := b.closure(names)
	if err != nil {
		return nil, err
	}
	steps, err := b.steps(ctx, targets)
	if err != nil {
		return nil, err
	}
	rows := make([]PlanRow, len(steps))
	all := true
	for i, s := range steps {
		r := PlanRow{Name: s.target.Name, Status: PlanBuild, Key: s.key}
		switch {
		case s.result != nil:
			r.Status, r.From = PlanCached, s.from
			if r.Disk, err = b.newDisk(s); err != nil {
				return nil, err
			}
		case len(s.waits) > 0:
			r.Status = PlanUnknown
			for _, w := range s.waits {
				r.Waits = append(r.Waits, w.Name)
			}
		}
		all = all && s.result != nil && r.Disk == nil
		if s.result == nil {
			if h, ok := b.results.History(b.opt.Arch, s.target.Name); ok {
				r.Wall, r.CPU, r.Memory = h.Wall, h.CPU, h.Memory
			}
		}
		if explain && (s.result == nil || r.Disk != nil) {
			if r.Why, err = b.reason(s); err != nil {
				return nil, err
			}
		}
		rows[i] = r
	}
	if all {
		err = b.recordPlan(began, names, targets)
	}
	return rows, err
}

// newDisk tells why the disk of a variant that has a result is put together anew.
func (b *Builder) newDisk(s *step) ([]plan.Change, error) {
	v := s.target.Variant
	if v == nil {
		return nil, nil
	}
	stamp, err := b.stamp(v, s.result)
	return b.diskChanges(v, stamp), err
}

// steps plans without making the SDK: it must be known.
func (b *Builder) steps(ctx context.Context, targets []*graph.Target) ([]*step, error) {
	d, err := sdk.Pinned(b.ws)
	if err != nil {
		return nil, fmt.Errorf("sdk: %w", err)
	}
	b.forget() // of a plan before
	b.pinned = d
	if d == "" {
		// no key is known, so nothing can be found
		steps := make([]*step, len(targets))
		for i, t := range targets {
			steps[i] = &step{target: t, waits: b.keyed(t)}
		}
		return steps, nil
	}
	return b.plan(ctx, targets)
}
