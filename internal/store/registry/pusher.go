package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// pushers is how many results are pushed at a time. Their blobs are bounded by
// Config.Jobs.
const pushers = 3

// Pusher pushes results behind a build's back. What fails is reported when the
// pusher is closed, and never stops a build.
type Pusher struct {
	r      *Registry
	ctx    context.Context
	cancel context.CancelFunc
	turn   chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	errs   []error
	late   int // not pushed when Close stopped waiting
}

// NewPusher begins a queue. The caller closes it.
func NewPusher(r *Registry) *Pusher {
	p := &Pusher{r: r, turn: make(chan struct{}, pushers)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Enqueue takes a result for pushing, and returns at once. Where the registry
// takes no results, or the pusher is closed, it does nothing.
func (p *Pusher) Enqueue(manifest []byte, open OpenFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.r.Writable() {
		return
	}
	p.wg.Go(func() {
		var err error
		select {
		case p.turn <- struct{}{}:
			err = p.r.Push(p.ctx, manifest, open)
			<-p.turn
		case <-p.ctx.Done():
			err = p.ctx.Err()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case err == nil, errors.Is(err, ErrDown), errors.Is(err, ErrReadOnly): // OnWarn was told
		case p.ctx.Err() != nil:
			p.late++
		default:
			p.errs = append(p.errs, err)
		}
	})
}

// Close waits until everything is pushed, or ctx ends; then it gives up the rest.
// The error says what was not pushed.
func (p *Pusher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		p.cancel()
		<-done // requests end with their context
	}
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late > 0 {
		p.errs = append(p.errs, fmt.Errorf("%d results were not pushed to %s in time", p.late, p.r.cfg.Ref))
	}
	return errors.Join(p.errs...)
}
