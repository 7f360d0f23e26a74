package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"slipway/internal/graph"
	"slipway/internal/progress"
	"slipway/internal/sdk"
	"slipway/internal/source"
)

// fetchSlots is how many targets' sources are fetched at once, beside builds.
const fetchSlots = 4

// Fetch brings the sources of the named targets and of all that they need, and
// the SDK. Without names it takes every package of the workspace. That one of
// both fails does not keep the other from being brought.
func (b *Builder) Fetch(ctx context.Context, names []string) error {
	var targets []*graph.Target
	if len(names) == 0 {
		targets = b.graph.Topo()
	} else {
		var err error
		if targets, err = b.closure(names); err != nil {
			return err
		}
	}
	var all []source.Item
	for _, t := range targets {
		if t.Package != nil {
			all = append(all, items(t.Package)...)
		}
	}
	sdkErr := b.ensureSDK(ctx, targets)
	if _, err := b.fetch(ctx, all); err != nil || sdkErr != nil {
		return errors.Join(err, sdkErr)
	}
	b.display.Print("%d source files are in the store", len(all))
	return nil
}

// FetchSDK makes the SDK ready, so that a later build needs no network.
func (b *Builder) FetchSDK(ctx context.Context) (*sdk.Image, error) {
	if err := b.ensureSDK(ctx, nil); err != nil {
		return nil, err
	}
	return b.sdk, nil
}

// fetchFor brings the sources of one target that is to be built.
func (b *Builder) fetchFor(ctx context.Context, t *graph.Target) error {
	wanted := items(t.Package)
	if !slices.ContainsFunc(wanted, func(item source.Item) bool {
		_, ok := b.sources.Lookup(item)
		return !ok
	}) {
		return nil
	}
	started := time.Now()
	b.display.Start(t.Name, phaseFetch)
	if _, err := b.fetch(ctx, wanted); err != nil {
		b.fail(t, err, time.Since(started))
		return err
	}
	b.display.Pause(t.Name)
	return nil
}

func (b *Builder) fetch(ctx context.Context, items []source.Item) ([]source.Blob, error) {
	blobs := make([]source.Blob, len(items))
	missing := false
	for i, item := range items {
		blob, ok := b.sources.Lookup(item)
		blobs[i], missing = blob, missing || !ok
	}
	if !missing {
		return blobs, nil
	}
	got, err := b.sources.Fetch(ctx, items, source.Options{
		Lookaside: b.ws.Config.Sources.Lookaside, Upstream: b.ws.Config.Sources.Upstream, OnEvent: b.fetchEvent, Root: b.ws.Root,
	})
	if err != nil {
		return nil, err
	}
	for i := range items {
		blobs[i] = got[i]
	}
	return blobs, nil
}

func (b *Builder) fetchEvent(e source.Event) {
	switch e.State {
	case "start", "progress":
		b.display.Download(e.Item.Name, e.Done, e.Total)
	case "done":
		b.display.Downloaded(e.Item.Name, e.Done)
	case "error":
		b.display.Print("%s: fetch of %s failed", e.Item.Owner, e.Item.Name) // why is said at the end
	}
}

const sdkTarget = "sdk"

// ensureSDK makes the SDK ready. If it has to be made, the sources of targets
// are fetched meanwhile.
func (b *Builder) ensureSDK(ctx context.Context, targets []*graph.Target) error {
	if b.sdk != nil {
		return nil
	}
	b.pullSDK(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	building := false
	image, err := sdk.Ensure(ctx, b.ws, sdk.Options{
		Locked: b.opt.Locked, CacheDir: b.opt.Cache,
		OnEvent: func(e sdk.Event) {
			if !building {
				building = true
				b.display.Start(sdkTarget, e.Stage)
				beside.Go(func() {
					var all []source.Item
					for _, t := range targets {
						if t.Package != nil {
							all = append(all, items(t.Package)...)
						}
					}
					_, _ = b.fetch(ctx, all)
				})
			}
			switch e.State {
			case sdk.StateChange:
				if e.Change.Old != "" {
					b.display.Print("sdk: pin changed: %s", e.Change)
				}
			case sdk.StateWarning:
				b.display.Print("sdk: warning: %s", e.Text)
			case sdk.StateProgress:
				b.display.Download("sdk "+e.Stage, e.Done, e.Total)
			case sdk.StateDone:
				if e.Total > 0 {
					b.display.Downloaded("sdk "+e.Stage, e.Done)
				}
			default:
				b.display.Phase(sdkTarget, e.Stage)
			}
		},
	})
	if building {
		status := progress.Built
		if err != nil {
			status = progress.Failed
		}
		b.display.Done(sdkTarget, status)
	}
	if err != nil {
		return fmt.Errorf("sdk: %w", err)
	}
	b.sdk = image
	return nil
}
