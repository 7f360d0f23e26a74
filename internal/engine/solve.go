package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	sourcepolicy "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/bklog"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// cancelTime is how long a cancelled Solve waits for the daemon's last word.
const cancelTime = 2 * time.Second

// Job is one build.
type Job struct {
	Name string    // for messages
	Def  llb.State // what to build, for linux/amd64

	// ExportDir receives the files of the result, added to what is there.
	// Empty: the result only enters the cache.
	ExportDir string
	// Locals are the directories that llb.Local names.
	Locals map[string]string
	// Mtime, unless zero, is the time of everything in Locals, which then has
	// nothing either of what differs between checkouts: files get mode 0755, if
	// anybody may run them, or 0644, folders 0755, no extended attributes and no
	// hard links, and folders without files, which git does not have, are left out.
	// All of it is sent anew.
	Mtime time.Time
	// Stores are the OCI layout directories (blobs/sha256/…) that
	// llb.OCIStore and llb.ImageBlobOCIStore name by their store id.
	Stores map[string]string
	// AllowSources are the only source identifiers the engine may use, with
	// "*" as wildcard: "local://*", "oci-layout://*". Nil stands for
	// everything that needs no network.
	AllowSources []string

	// Log receives every line that steps print, whole lines only, with a
	// "==> step" line wherever the step that prints changes.
	Log io.Writer
	// OnEvent is called from one goroutine at a time, and no more once Solve
	// has returned.
	OnEvent func(Event)
}

// EventKind says what an [Event] tells.
type EventKind int

// The kinds of events.
const (
	VertexStarted  EventKind = iota + 1 // a step began, or was found in the cache
	VertexFinished                      // a step ended: see Cached and Err; its last lines may follow
	VertexLine                          // a step printed Line
)

// Event is one thing that happened in a running build.
type Event struct {
	Kind   EventKind
	Vertex string        // name of the step
	Digest digest.Digest // of the step: names need not be unique
	Line   string        // without its newline; stdout and stderr alike
	Cached bool
	Err    string // why the step failed
	Time   time.Time
}

// Result counts those steps of a finished build that run a program.
type Result struct {
	Ran    int // started in a sandbox
	Cached int // taken from the cache instead
}

// ExitError says that a step ran and failed, as opposed to trouble with the
// engine.
type ExitError struct {
	Vertex   string // name of the step
	ExitCode int    // exit status; 128+n after signal n
	Err      error  // BuildKit's error
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d", e.Vertex, e.ExitCode)
}

func (e *ExitError) Unwrap() error { return e.Err }

// offlineSources are the identifiers of sources that come from the client.
var offlineSources = []string{"local://*", "oci-layout://*", "oci-layout+blob://*"}

// policy refuses all sources but those allowed; the last rule that matches
// wins.
func policy(allow []string) *sourcepolicy.Policy {
	if allow == nil {
		allow = offlineSources
	}
	rule := func(action sourcepolicy.PolicyAction, id string) *sourcepolicy.Rule {
		return &sourcepolicy.Rule{
			Action:   action,
			Selector: &sourcepolicy.Selector{Identifier: id, MatchType: sourcepolicy.MatchType_WILDCARD},
		}
	}
	p := &sourcepolicy.Policy{Version: 1, Rules: []*sourcepolicy.Rule{rule(sourcepolicy.PolicyAction_DENY, "*")}}
	for _, id := range allow {
		p.Rules = append(p.Rules, rule(sourcepolicy.PolicyAction_ALLOW, id))
	}
	return p
}

// options translates a job for BuildKit's client; done is to be called after the
// build.
func (job *Job) options() (opt client.SolveOpt, done func(), err error) {
	opt = client.SolveOpt{
		LocalMounts: make(map[string]fsutil.FS),
		OCIStores:   make(map[string]content.Store),
		// Without it BuildKit records each build in its history.
		Internal:     true,
		SourcePolicy: policy(job.AllowSources),
	}
	if !job.Mtime.IsZero() {
		// BuildKit would send to the copy of an earlier build, compare by time and
		// size, and leave folders with the time of that.
		opt.SharedKey = rand.Text()
	}
	for name, dir := range job.Locals {
		tree, err := fsutil.NewFS(dir)
		if err != nil {
			return opt, nil, fmt.Errorf("local directory %q (%s): %w", name, dir, err)
		}
		if !job.Mtime.IsZero() {
			if tree, err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{Map: job.normal(dir)}); err != nil {
				return opt, nil, fmt.Errorf("local directory %q (%s): %w", name, dir, err)
			}
		}
		opt.LocalMounts[name] = tree
	}
	for id, dir := range job.Stores {
		store, err := openBlobDir(dir)
		if err != nil {
			return opt, nil, fmt.Errorf("store %q: %w", id, err)
		}
		opt.OCIStores[id] = store
	}
	if job.ExportDir != "" {
		entry, done, err := exportEntry(job.ExportDir)
		if err != nil {
			return opt, nil, err
		}
		opt.Exports = []client.ExportEntry{entry}
		return opt, done, nil
	}
	return opt, func() {}, nil
}

// normal makes metadata of files in a directory as Job.Mtime says.
func (job *Job) normal(dir string) fsutil.MapFunc {
	return func(path string, st *types.Stat) fsutil.MapResult {
		st.ModTime = job.Mtime.UnixNano()
		st.Xattrs = nil
		switch mode := fs.FileMode(st.Mode); {
		case mode.IsDir():
			if !holdsFile(filepath.Join(dir, path)) {
				return fsutil.MapResultSkipDir
			}
			st.Mode = uint32(fs.ModeDir | 0o755)
		case mode.IsRegular():
			st.Mode = 0o644
			if mode&0o111 != 0 {
				st.Mode = 0o755
			}
			if st.Linkname != "" { // of a file that was sent, which has the size
				info, err := os.Lstat(filepath.Join(dir, path))
				if err != nil {
					return fsutil.MapResultExclude // it has gone
				}
				st.Linkname, st.Size = "", info.Size()
			}
		}
		return fsutil.MapResultKeep
	}
}

// holdsFile tells whether there is anything but folders in a folder.
func holdsFile(dir string) bool {
	found := false
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			found = true // also what cannot be read, which the transfer reports
			return fs.SkipAll
		}
		return nil
	})
	return found
}

// Solve runs a build and returns when it is done and exported. The error is an
// [*ExitError] when a step failed and is [ErrLost] when the daemon went away.
// When ctx ends the daemon cancels the build, and Solve returns
// context.Cause(ctx).
func (c *Client) Solve(ctx context.Context, job Job) (*Result, error) {
	def, err := job.Def.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", job.Name, err)
	}
	return c.run(ctx, job, def, func(ctx context.Context, bk *client.Client, opt client.SolveOpt, updates chan *client.SolveStatus) error {
		_, err := bk.Solve(ctx, def, opt, updates)
		return err
	})
}

// run has build done with the job's options and follows it: events, log,
// cancellation and errors.
func (c *Client) run(ctx context.Context, job Job, def *llb.Definition, build func(context.Context, *client.Client, client.SolveOpt, chan *client.SolveStatus) error) (*Result, error) {
	opt, done, err := job.options()
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", job.Name, err)
	}
	defer done()
	follow, err := newFollower(job, def)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", job.Name, err)
	}
	bk, err := c.buildKit(ctx)
	if err != nil {
		return nil, err
	}
	// BuildKit's client would log to the terminal.
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	buildCtx := bklog.WithLogger(ctx, logrus.NewEntry(silent))

	var (
		updates = make(chan *client.SolveStatus)
		ended   = make(chan error, 1)
	)
	go func() {
		ended <- build(buildCtx, bk, opt, updates)
		bk.Close()
	}()

	var (
		cancel = ctx.Done()
		giveUp <-chan time.Time
		open   = updates
	)
	for open != nil {
		select {
		case update, ok := <-open:
			if !ok {
				open = nil
				continue
			}
			follow.update(update)
		case <-cancel:
			cancel = nil
			giveUp = time.After(cancelTime)
		case <-giveUp:
			go func() {
				for range updates { // the build must not block on us
				}
			}()
			follow.finish()
			return nil, context.Cause(ctx)
		}
	}
	err = <-ended
	follow.finish()
	if err != nil {
		return nil, c.buildError(ctx, job, follow, err)
	}
	if follow.logErr != nil {
		return nil, fmt.Errorf("build %s: writing its log: %w", job.Name, follow.logErr)
	}
	return &follow.result, nil
}

func (c *Client) buildError(ctx context.Context, job Job, follow *follower, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) {
		step := job.Name
		var vertex *errdefs.VertexError
		if errors.As(err, &vertex) {
			if name, ok := follow.names[digest.Digest(vertex.Digest)]; ok {
				step = name
			}
		}
		return fmt.Errorf("build %s: %w", job.Name, &ExitError{Vertex: step, ExitCode: int(exit.ExitCode), Err: err})
	}
	return fmt.Errorf("build %s: %w", job.Name, c.explain(ctx, err))
}
