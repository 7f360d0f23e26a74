package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/store/registry"
	"slipway/internal/workspace"
)

// How long a build that has ended waits for its results to reach the team cache. A
// registry that is slow is given up sooner.
const (
	pushWait  = 5 * time.Minute
	pushGrace = 3 * time.Second // after an interruption
)

// team is the team cache.
type team struct {
	registry *registry.Registry
	pusher   *registry.Pusher
	refused  sync.Map // targets of which a result was refused, by name
	lost     sync.Map // keys of results of which files could not be had
}

// openTeam opens the team cache, without asking it anything yet. Without a
// repository there is none.
func openTeam(cache workspace.Cache, warn func(string)) (*team, error) {
	if cache.Ref == "" {
		return nil, nil
	}
	cfg := registry.Config{Ref: cache.Ref, Read: cache.Read, Write: cache.Write, Insecure: cache.Insecure, OnWarn: warn}
	for _, path := range cache.PublicKeys {
		key, err := registry.LoadPublicKey(path)
		if err != nil {
			return nil, fmt.Errorf("%v: team cache: public-keys: %w", cache.Places["public-keys"], err)
		}
		cfg.PublicKeys = append(cfg.PublicKeys, key)
	}
	if cache.SignKey != "" && cache.Write {
		var err error
		if cfg.SignKey, err = registry.LoadPrivateKey(cache.SignKey); err != nil {
			return nil, fmt.Errorf("%v: team cache: sign-key: %w", cache.Places["sign-key"], err)
		}
	}
	r, err := registry.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("%v: team cache: %w", cache.Places["ref"], err)
	}
	return &team{registry: r, pusher: registry.NewPusher(r)}, nil
}

// closeTeam waits until what was built has been pushed.
func (b *Builder) closeTeam(ctx context.Context) error {
	if b.team == nil {
		return nil
	}
	ctx, cancel := pushLimit(ctx)
	defer cancel()
	if err := b.team.pusher.Close(ctx); err != nil {
		b.display.Print("team cache: %v", err) // the build itself is well
	}
	s := b.team.registry.Stats()
	if s.Pushed > 0 {
		b.display.Print("team cache: pushed %d results, %s", s.Pushed, units.HumanSize(float64(s.PushedBytes)))
	}
	if s.FetchedBytes > 0 {
		b.display.Print("team cache: fetched %s", units.HumanSize(float64(s.FetchedBytes)))
	}
	b.team.registry.Close()
	return nil
}

// pushLimit is how long results may still be pushed when a command is at its end.
func pushLimit(command context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(command), pushWait)
	stop := context.AfterFunc(command, func() { time.AfterFunc(pushGrace, cancel) })
	return ctx, func() { stop(); cancel() }
}

// fromTeam finds a result in the team cache; nil where there is none. Of its files
// only those come that plans need.
func (b *Builder) fromTeam(ctx context.Context, s *step) *store.Result {
	if b.team == nil || !b.team.registry.Readable() {
		return nil
	}
	if _, ok := b.team.lost.Load(s.key); ok {
		return nil
	}
	manifest, err := b.team.registry.Lookup(ctx, s.key)
	var r *store.Result
	if err == nil {
		r, err = b.adopt(ctx, manifest)
	}
	switch {
	case err == nil:
		return r
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrDown), ctx.Err() != nil:
	default:
		if _, told := b.team.refused.LoadOrStore(s.target.Name, true); !told {
			b.display.Print("team cache: result of %s is not used: %v", s.target.Name, err)
		}
	}
	return nil
}

// adopt takes a result into the store, without its files.
func (b *Builder) adopt(ctx context.Context, manifest []byte) (*store.Result, error) {
	r, err := store.Parse(manifest)
	if err != nil {
		return nil, err
	}
	small := []ocispec.Descriptor{{Digest: digest.NewDigestFromEncoded(digest.SHA256, r.Key), Size: r.InputsSize}}
	for _, a := range r.Attachments {
		small = append(small, ocispec.Descriptor{Digest: digest.Digest(a.Digest), Size: a.Size})
	}
	if err := b.fetchBlobs(ctx, small); err != nil {
		return nil, err
	}
	return b.results.Adopt(ctx, manifest)
}

func (b *Builder) fetchBlobs(ctx context.Context, list []ocispec.Descriptor) error {
	return errors.Join(b.team.registry.FetchAll(ctx, list, func(d ocispec.Descriptor) (io.WriteCloser, error) {
		return b.results.NewBlob(d.Digest.String())
	})...)
}

// bring fetches those of the files that are missing.
func (b *Builder) bring(ctx context.Context, r *store.Result, files []store.File) error {
	missing := b.results.Missing(&store.Result{Files: files})
	if len(missing) == 0 {
		return nil
	}
	if b.team == nil || !b.team.registry.Readable() {
		return fmt.Errorf("%d files of %s are missing", len(missing), r.Target)
	}
	var list []ocispec.Descriptor
	for _, f := range missing {
		list = append(list, ocispec.Descriptor{Digest: digest.Digest(f.Digest), Size: f.Size})
	}
	return b.fetchBlobs(ctx, list)
}

// lost notes that files of a result cannot be had, so that it is built and not
// looked up again.
func (b *Builder) lost(r *store.Result, err error) {
	if b.team == nil {
		return
	}
	b.team.lost.Store(r.Key, true)
	if b.team.registry.Readable() { // else that has been told
		b.display.Print("team cache: result of %s is not used: %v", r.Target, err)
	}
}

// push sends a result to the team cache in the background.
func (b *Builder) push(r *store.Result) {
	if b.team == nil || !b.team.registry.Writable() {
		return
	}
	manifest, err := b.results.Manifest(r)
	if err != nil {
		b.display.Print("team cache: %s is not pushed: %v", r.Target, err)
		return
	}
	b.team.pusher.Enqueue(manifest, func(d string) (io.ReadCloser, error) { return os.Open(b.results.Path(d)) })
}

// Push sends the results of targets, and of all that they need, to the team cache,
// with the SDK, and waits for it. Without names it takes the default variant. It
// gives how many results there were to send: those of which all files are here.
func (b *Builder) Push(ctx context.Context, names []string) (int, error) {
	if b.team == nil || !b.team.registry.Writable() {
		return 0, errors.New("there is no team cache that may be written to: set ref and write = true in the table [cache] of slipway.toml or of the user's configuration")
	}
	targets, err := b.closure(names)
	if err != nil {
		return 0, err
	}
	release, err := b.results.Use()
	if err != nil {
		return 0, cacheError(b.opt.Cache, err)
	}
	defer release()
	steps, err := b.steps(ctx, targets)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range steps {
		if s.result == nil || len(b.results.Missing(s.result)) > 0 {
			continue
		}
		if err := b.results.Verify(s.result, s.result.Files); err != nil {
			return n, err
		}
		b.push(s.result)
		n++
	}
	err = b.team.pusher.Close(ctx)
	b.team.pusher = registry.NewPusher(b.team.registry)
	if err != nil {
		return n, err
	}
	if !b.team.registry.Writable() {
		return n, errors.Join(registry.ErrReadOnly, b.team.registry.Down())
	}
	layout, key, err := sdk.Layout(b.ws, b.opt.Cache)
	if err != nil {
		return n, fmt.Errorf("sdk: %w", err)
	}
	if _, err := os.Stat(filepath.Join(layout, ocispec.ImageIndexFile)); err == nil {
		if _, err := b.team.registry.PushLayout(ctx, "sdk-"+key, layout); err != nil {
			return n, fmt.Errorf("sdk: %w", err)
		}
	}
	return n, nil
}

// pullSDK brings the SDK from the team cache, if it has the one that slipway.lock
// pins. Otherwise it is made.
func (b *Builder) pullSDK(ctx context.Context) {
	if b.team == nil || !b.team.registry.Readable() || b.pinned == "" {
		return
	}
	layout, key, err := sdk.Layout(b.ws, b.opt.Cache)
	if err != nil {
		return // sdk.Ensure says it
	}
	if _, err := os.Stat(layout); err == nil {
		return
	}
	temp, err := os.MkdirTemp(filepath.Join(b.results.Dir(), "tmp"), "sdk-")
	if err != nil {
		return
	}
	defer os.RemoveAll(temp)
	b.display.Start(sdkTarget, phaseFetch)
	defer b.display.Pause(sdkTarget)
	if _, err = b.team.registry.PullLayout(ctx, "sdk-"+key, b.pinned, filepath.Join(temp, "sdk")); err == nil {
		if err = os.MkdirAll(filepath.Dir(layout), 0o755); err == nil {
			err = os.Rename(filepath.Join(temp, "sdk"), layout)
		}
	}
	if err != nil && !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDown) && ctx.Err() == nil {
		b.display.Print("team cache: its SDK is not used: %v", err)
	}
}
