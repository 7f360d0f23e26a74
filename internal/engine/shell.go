package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	sourcepolicy "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ErrNothingFailed says that [Client.Shell] found no failed step to open.
var ErrNothingFailed = errors.New("every step succeeded, so there is no failed step to open")

// ShellOptions configures [Client.Shell].
type ShellOptions struct {
	Args   []string // program and arguments; empty means /bin/sh -i
	Always bool     // open the result when no step fails

	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Tty gives the program a terminal, which merges its output in Stdout. When
	// Stdin is a terminal too it is put in raw mode, and its size followed.
	Tty bool
	// Signals are passed to the program.
	Signals <-chan os.Signal

	// Opened is called just before the program starts, with the failure that
	// it opens, or nil for a result.
	Opened func(*ExitError)
}

// place is a file system and a way of running a program there.
type place struct {
	container gateway.NewContainerRequest
	start     gateway.StartRequest
	failure   *ExitError
}

// Shell builds the job and, when a step fails, runs an interactive program in
// what that step left behind: its root and mounts after the failure, its
// environment, working directory and user, and no network. The job's ExportDir
// is ignored. The error is an [*ExitError] with the program's exit status when
// that is not zero, and [ErrNothingFailed] when there is nothing to open.
func (c *Client) Shell(ctx context.Context, job Job, opt ShellOptions) error {
	def, err := job.Def.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		return fmt.Errorf("build %s: %w", job.Name, err)
	}
	if len(opt.Args) == 0 {
		opt.Args = []string{"/bin/sh", "-i"}
	}
	job.ExportDir = ""
	// The build itself succeeds with nothing, whatever the program does, so
	// that its failure is not taken for one of the build.
	var outcome error
	_, err = c.run(ctx, job, def, func(ctx context.Context, bk *client.Client, solve client.SolveOpt, updates chan *client.SolveStatus) error {
		_, err := bk.Build(ctx, solve, "", func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
			where, err := findPlace(ctx, gw, job, def, opt.Always)
			switch {
			case err == nil:
				outcome = where.open(ctx, gw, opt)
			case errors.Is(err, ErrNothingFailed):
				outcome = err
			default:
				return nil, err
			}
			return gateway.NewResult(), nil
		}, updates)
		return err
	})
	if err != nil {
		return err
	}
	return outcome
}

// findPlace builds def and says what to open.
func findPlace(ctx context.Context, gw gateway.Client, job Job, def *llb.Definition, always bool) (place, error) {
	res, err := gw.Solve(ctx, gateway.SolveRequest{
		Evaluate:       true,
		Definition:     def.ToPB(),
		SourcePolicies: []*sourcepolicy.Policy{policy(job.AllowSources)},
	})
	if err != nil {
		return failedStep(def, err)
	}
	if !always {
		return place{}, ErrNothingFailed
	}
	ref, err := res.SingleRef()
	if err != nil {
		return place{}, err
	}
	if ref == nil {
		return place{}, errors.New("the result is empty: there is nothing to open")
	}
	env, err := job.Def.Env(ctx)
	if err != nil {
		return place{}, err
	}
	dir, err := job.Def.GetDir(ctx)
	if err != nil {
		return place{}, err
	}
	return place{
		container: gateway.NewContainerRequest{
			NetMode: pb.NetMode_NONE,
			Mounts:  []gateway.Mount{{Dest: "/", Ref: ref, MountType: pb.MountType_BIND}},
		},
		start: gateway.StartRequest{Env: env.ToArray(), Cwd: dir},
	}, nil
}

// failedStep takes the place from the error of a failed step; any other error
// is returned as it is.
func failedStep(def *llb.Definition, err error) (place, error) {
	var (
		failed *errdefs.SolveError
		exit   *gatewaypb.ExitError
	)
	if !errors.As(err, &failed) || !errors.As(err, &exit) || failed.Op.GetExec() == nil {
		return place{}, err
	}
	exec := failed.Op.GetExec()
	if len(failed.MountIDs) != len(exec.Mounts) {
		return place{}, fmt.Errorf("the engine did not keep the state of the failed step: %w", err)
	}
	failure := &ExitError{Vertex: "step", ExitCode: int(exit.ExitCode), Err: err}
	var vertex *errdefs.VertexError
	if errors.As(err, &vertex) {
		failure.Vertex = def.Metadata[digest.Digest(vertex.Digest)].Description["llb.customname"]
	}
	p := place{
		container: gateway.NewContainerRequest{
			NetMode:     pb.NetMode_NONE,
			Hostname:    exec.Meta.Hostname,
			Platform:    failed.Op.Platform,
			Constraints: failed.Op.Constraints,
		},
		start:   gateway.StartRequest{Env: exec.Meta.Env, Cwd: exec.Meta.Cwd, User: exec.Meta.User, SecretEnv: exec.Secretenv},
		failure: failure,
	}
	for i, m := range exec.Mounts {
		p.container.Mounts = append(p.container.Mounts, gateway.Mount{
			ResultID:  failed.MountIDs[i],
			Selector:  m.Selector,
			Dest:      m.Dest,
			Readonly:  m.Readonly,
			MountType: m.MountType,
			CacheOpt:  m.CacheOpt,
			SecretOpt: m.SecretOpt,
			SSHOpt:    m.SSHOpt,
		})
	}
	return p, nil
}

// open runs the program and waits for it.
func (p place) open(ctx context.Context, gw gateway.Client, opt ShellOptions) error {
	container, err := gw.NewContainer(ctx, p.container)
	if err != nil {
		return fmt.Errorf("opening the step: %w", err)
	}
	defer container.Release(context.WithoutCancel(ctx))
	if opt.Opened != nil {
		opt.Opened(p.failure)
	}
	start := p.start
	start.Args = opt.Args
	start.Tty = opt.Tty
	if opt.Stdin != nil {
		start.Stdin = io.NopCloser(opt.Stdin)
	}
	start.Stdout = nopCloser(opt.Stdout)
	start.Stderr = nopCloser(opt.Stderr)
	process, err := container.Start(ctx, start)
	if err != nil {
		return fmt.Errorf("starting %s: %w", opt.Args[0], err)
	}

	ctx, ended := context.WithCancel(ctx)
	defer ended()
	if file, ok := opt.Stdin.(*os.File); ok && opt.Tty && term.IsTerminal(int(file.Fd())) {
		restore, err := followTerminal(ctx, int(file.Fd()), process)
		if err != nil {
			return err
		}
		defer restore()
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case sig, ok := <-opt.Signals:
				if !ok {
					return
				}
				if sig, ok := sig.(syscall.Signal); ok {
					_ = process.Signal(ctx, sig) // the process may have ended
				}
			}
		}
	}()

	err = process.Wait()
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Vertex: opt.Args[0], ExitCode: int(exit.ExitCode), Err: err}
	}
	return err
}

// followTerminal puts a terminal in raw mode, until restore is called, and
// tells the process its size now and whenever that changes, until ctx ends.
func followTerminal(ctx context.Context, fd int, process gateway.ContainerProcess) (restore func(), err error) {
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	go func() {
		defer signal.Stop(resized)
		for {
			if width, height, err := term.GetSize(fd); err == nil {
				_ = process.Resize(ctx, gateway.WinSize{Rows: uint32(height), Cols: uint32(width)})
			}
			select {
			case <-ctx.Done():
				return
			case <-resized:
			}
		}
	}()
	return func() { _ = term.Restore(fd, old) }, nil
}

type writeNopCloser struct{ io.Writer }

func (writeNopCloser) Close() error { return nil }

func nopCloser(w io.Writer) io.WriteCloser {
	if w == nil {
		w = io.Discard
	}
	return writeNopCloser{w}
}
