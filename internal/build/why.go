package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"slipway/internal/compare"
	"slipway/internal/graph"
	"slipway/internal/plan"
)

// Reason tells why a target would be built, or that it would not.
type Reason struct {
	Target  string        `json:"target"`
	Status  string        `json:"status"`         // PlanCached, PlanBuild or PlanUnknown
	From    string        `json:"from,omitempty"` // of what is cached
	Key     string        `json:"key,omitempty"`  // unless unknown
	Last    string        `json:"last,omitempty"` // key of the last result; empty where none is known
	Changes []plan.Change `json:"changes,omitempty"`
	Disk    []plan.Change `json:"disk,omitempty"`  // why the disk of a cached variant is put together anew
	Waits   []*Reason     `json:"waits,omitempty"` // targets that have to be built before the key is known, dependencies first
}

// Why compares what a target is made from with what its last result was made
// from.
func (b *Builder) Why(ctx context.Context, name string) (*Reason, error) {
	t, err := b.graph.Lookup(name)
	if err != nil {
		return nil, err
	}
	if isSDK(t) {
		return nil, errors.New("the SDK is made of what slipway.lock pins: see its changes in version control")
	}
	targets, err := b.closure([]string{t.Name})
	if err != nil {
		return nil, err
	}
	steps, err := b.steps(ctx, targets)
	if err != nil {
		return nil, err
	}
	byTarget := map[*graph.Target]*step{}
	for _, s := range steps {
		byTarget[s.target] = s
	}
	why, err := b.reason(byTarget[t])
	if err != nil {
		return nil, err
	}
	open := map[*graph.Target]bool{} // what t waits for, by itself or by others
	var visit func(s *step)
	visit = func(s *step) {
		for _, w := range s.waits {
			if !open[w] {
				open[w] = true
				visit(byTarget[w])
			}
		}
	}
	visit(byTarget[t])
	for _, s := range steps {
		if open[s.target] {
			r, err := b.reason(s)
			if err != nil {
				return nil, err
			}
			why.Waits = append(why.Waits, r)
		}
	}
	return why, nil
}

// reason compares one step with the last result of its target.
func (b *Builder) reason(s *step) (*Reason, error) {
	t := s.target
	r := &Reason{Target: t.Name, Status: PlanBuild, Key: s.key}
	switch {
	case s.result != nil:
		r.Status, r.From = PlanCached, s.from
		var err error
		r.Disk, err = b.newDisk(s)
		return r, err
	case len(s.waits) > 0:
		r.Status = PlanUnknown
	}
	if b.pinned == "" {
		r.Changes = []plan.Change{{Kind: plan.KindSDK, Name: "(slipway.lock does not pin the SDK of this workspace: it is made first)", New: "not known yet"}}
		return r, nil
	}
	key := b.results.Last(b.ws.Root, b.opt.Arch, t.Name)
	if key == "" {
		h, _ := b.results.History(b.opt.Arch, t.Name)
		key = h.Key
	}
	if key == "" {
		return r, nil
	}
	raw, texts, err := b.results.Made(key, plan.MediaTexts)
	if err != nil {
		return nil, fmt.Errorf("last result of %s: %w", t.Name, err)
	}
	if raw == nil {
		return r, nil // pruned
	}
	r.Last = key
	old, err := plan.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("last result of %s: %w", t.Name, err)
	}
	oldTexts, err := plan.DecodeTexts(texts)
	if err != nil {
		return nil, fmt.Errorf("last result of %s: %w", t.Name, err)
	}
	now := s.inputs
	if len(s.waits) > 0 {
		now.RPMs, old.RPMs, now.Tools, old.Tools = nil, nil, nil, nil // which they are is not known yet
	}
	var newTexts map[string]string
	if t.Package != nil {
		newTexts = plan.Texts(b.ws, t.Package, now, b.macros)
	}
	r.Changes = plan.Compare(old, now, oldTexts, newTexts)
	return r, b.openRPMs(r.Changes)
}

// maxOpened is how many pairs of RPMs are compared for a reason: that takes a while.
const maxOpened = 10

// openRPMs fills in what differs in RPMs of which both files are here.
func (b *Builder) openRPMs(changes []plan.Change) error {
	opened := 0
	for i := range changes {
		c := &changes[i]
		if c.Kind != plan.KindDependency && c.Kind != plan.KindTool || c.Old == "" || c.New == "" || opened == maxOpened {
			continue
		}
		pair := [2]string{c.Old, c.New}
		if _, ok := b.compared[pair]; !ok {
			old := b.results.Path(c.Old)
			list, err := compare.Files(old, b.results.Path(c.New))
			if errors.Is(err, fs.ErrNotExist) {
				continue // pruned, or in the team cache
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			for _, d := range list {
				d.Path = strings.TrimPrefix(strings.TrimPrefix(d.Path, filepath.Base(old)), ": ")
				b.compared[pair] += d.String() + "\n"
			}
			opened++
		}
		c.Diff = b.compared[pair]
	}
	return nil
}
