package engine

import (
	"io"
	"sync"
	"time"

	"github.com/moby/buildkit/executor"
)

// Output of a step is passed on after gatherTime, or when there is gatherSize of it.
const (
	gatherTime = 200 * time.Millisecond
	gatherSize = 64 << 10 // bytes
)

// gatherer collects what a step prints for a moment. BuildKit makes a progress report
// of each write, which goes through four goroutines and a socket: with one for each
// word of a configure script that took more than a hundredth of the machine.
type gatherer struct {
	mu    sync.Mutex
	parts []part // in the order of their writing
	size  int    // of all parts, bytes
	timer *time.Timer
	err   error // of a write to an output; there are none after it
}

type part struct {
	of   *gathered
	data []byte
}

// gather puts a gatherer before the outputs of a process. flush must be called when
// the process has ended.
func gather(process *executor.ProcessInfo) (flush func()) {
	if process.Meta.Tty {
		return func() {}
	}
	g := &gatherer{}
	if process.Stdout != nil {
		process.Stdout = &gathered{g, process.Stdout}
	}
	if process.Stderr != nil {
		process.Stderr = &gathered{g, process.Stderr}
	}
	return g.flush
}

func (g *gatherer) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushLocked()
}

func (g *gatherer) flushLocked() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	for _, p := range g.parts {
		if g.err == nil {
			_, g.err = p.of.to.Write(p.data)
		}
	}
	g.parts, g.size = nil, 0
}

// gathered is one output of a process.
type gathered struct {
	g  *gatherer
	to io.WriteCloser
}

func (o *gathered) Write(data []byte) (int, error) {
	o.g.mu.Lock()
	defer o.g.mu.Unlock()
	if o.g.err != nil {
		return 0, o.g.err
	}
	if last := len(o.g.parts) - 1; last >= 0 && o.g.parts[last].of == o {
		o.g.parts[last].data = append(o.g.parts[last].data, data...)
	} else {
		o.g.parts = append(o.g.parts, part{o, append([]byte(nil), data...)})
	}
	if o.g.size += len(data); o.g.size >= gatherSize {
		o.g.flushLocked()
	} else if o.g.timer == nil {
		o.g.timer = time.AfterFunc(gatherTime, o.g.flush)
	}
	return len(data), nil
}

func (o *gathered) Close() error {
	o.g.flush()
	return o.to.Close()
}
