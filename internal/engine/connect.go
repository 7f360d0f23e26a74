package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// startTime bounds how long a daemon may take from its start to its first
	// answer; large caches on slow disks need seconds.
	startTime = time.Minute
	pollTime  = 15 * time.Millisecond
	maxLog    = 16 << 20 // an engine.log larger than this is set aside at the next start
	tailLines = 20
)

// Options configures [Connect].
type Options struct {
	State string   // state root; empty means [DefaultState]
	Spawn []string // argv that starts the daemon; empty means this executable with "engine serve"
	Build string   // this client's identity; empty means the Go build ID of the executable
}

// Client is a connection to a running daemon. It is safe for concurrent use.
// While a client is open the daemon does not exit for idleness.
type Client struct {
	control *grpc.ClientConn
	files   files
	status  Status // as of the connection
}

// Status describes a running daemon.
type Status struct {
	PID      int
	Build    string // identity of the slipway binary it was started from
	BuildKit string // version of its BuildKit module
	Socket   string
	Log      string
	Started  time.Time
	Builds   int // running builds
	Clients  int // open clients other than the one that asks
}

// Connect returns a client of the daemon on the state root, starting the
// daemon when there is none. An idle daemon of another slipway binary is
// replaced; a busy one is used when its BuildKit is the same version, and is
// an error otherwise.
func Connect(ctx context.Context, opt Options) (*Client, error) {
	if err := checkRoot(); err != nil {
		return nil, err
	}
	f, err := layout(opt.State)
	if err != nil {
		return nil, err
	}
	if opt.Build == "" {
		opt.Build = binaryID()
	}
	if len(opt.Spawn) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("starting the engine: %w", err)
		}
		opt.Spawn = []string{exe, "engine", "serve"}
	}
	c, err := dial(ctx, f)
	if err == nil && c.status.Build == opt.Build {
		return c, nil
	}
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	if c != nil {
		c.Close()
	}
	return start(ctx, f, opt)
}

// start brings a fitting daemon up; the start lock lets only one client do so.
func start(ctx context.Context, f files, opt Options) (*Client, error) {
	if err := os.MkdirAll(f.state, 0o700); err != nil {
		return nil, fmt.Errorf("engine state root: %w", err)
	}
	lock := flock.New(f.start, flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, pollTime); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("waiting for another slipway that starts the engine: %w", err)
	}
	defer lock.Unlock()

	wait, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("the engine on %s did not answer within %s", f.state, startTime))
	defer cancel()
	for {
		c, err := dial(wait, f)
		switch {
		case err == nil:
			if fits, err := replaceable(wait, c, opt.Build); err != nil {
				c.Close()
				return nil, err
			} else if fits {
				return c, nil
			}
			continue // the old daemon is gone
		case !errors.Is(err, ErrNotRunning):
			return nil, err
		}
		held, err := lockHeld(f)
		if err != nil {
			return nil, err
		}
		if !held {
			return spawn(wait, f, opt)
		}
		// A daemon starts or stops at this moment.
		if err := sleep(wait, pollTime); err != nil {
			return nil, fmt.Errorf("%w; the last lines of %s:\n%s", err, f.log, tail(f.log, 0))
		}
	}
}

// replaceable settles a daemon that runs: it reports true when c is to be
// used, and false after it stopped the daemon.
func replaceable(ctx context.Context, c *Client, build string) (use bool, err error) {
	st := c.status
	if st.Build == build {
		return true, nil
	}
	err = c.stop(ctx, true)
	if err == nil {
		return false, nil
	}
	if status.Code(err) != codes.FailedPrecondition {
		return false, fmt.Errorf("replacing the engine of another slipway version: %w", err)
	}
	if st.BuildKit == buildKitVersion() {
		return true, nil
	}
	return false, fmt.Errorf("an engine of another slipway version (BuildKit %s, ours is %s) is busy as process %d: wait until its builds end, or stop it with: slipway engine stop",
		st.BuildKit, buildKitVersion(), st.PID)
}

// lockHeld reports whether a daemon holds the lock of the state root.
func lockHeld(f files) (bool, error) {
	lock := flock.New(f.lock, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return false, fmt.Errorf("engine lock: %w", err)
	}
	if ok {
		err = lock.Unlock()
	}
	return !ok, err
}

// spawn starts a daemon that outlives this process and waits for its answer.
func spawn(ctx context.Context, f files, opt Options) (*Client, error) {
	if info, err := os.Stat(f.log); err == nil && info.Size() > maxLog {
		if err := os.Rename(f.log, f.log+".1"); err != nil {
			return nil, fmt.Errorf("engine log: %w", err)
		}
	}
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("engine log: %w", err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("engine log: %w", err)
	}
	cmd := exec.Command(opt.Spawn[0], opt.Spawn[1:]...)
	cmd.Dir = "/" // keep no checkout or volume busy
	// TMPDIR as well, since packages read it before Serve can set it.
	cmd.Env = append(os.Environ(), EnvState+"="+f.state, "TMPDIR="+f.tmp)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }()
	for {
		c, err := dial(ctx, f)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, ErrNotRunning) {
			return nil, err
		}
		select {
		case err := <-died:
			if err == nil {
				err = errors.New("it exited")
			}
			return nil, fmt.Errorf("the engine did not start (%w); %s says:\n%s", err, f.log, tail(f.log, begin))
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; the last lines of %s:\n%s", context.Cause(ctx), f.log, tail(f.log, begin))
		case <-time.After(pollTime):
		}
	}
}

// tail returns the last lines that a file has after offset begin.
func tail(path string, begin int64) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	const most = 8 << 10
	if end, err := file.Seek(0, io.SeekEnd); err == nil {
		begin = max(begin, end-most)
	}
	data, err := io.ReadAll(io.NewSectionReader(file, begin, most))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-tailLines):], "\n  ")
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// dial connects to the daemon and asks who it is; the error is
// [ErrNotRunning] when nobody answers.
func dial(ctx context.Context, f files) (*Client, error) {
	open := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", f.socket)
	}
	// One plain attempt first: gRPC would retry in its own time.
	probe, err := open(ctx, "")
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("%w on %s", ErrNotRunning, f.state)
		}
		return nil, fmt.Errorf("engine socket: %w", err)
	}
	probe.Close()

	control, err := grpc.NewClient("passthrough:///engine",
		grpc.WithContextDialer(open),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0)) // an open client counts as use
	if err != nil {
		return nil, fmt.Errorf("engine socket: %w", err)
	}
	c := &Client{control: control, files: f}
	if c.status, err = c.query(ctx); err != nil {
		control.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if status.Code(err) == codes.Unavailable { // it stops at this moment
			return nil, fmt.Errorf("%w on %s", ErrNotRunning, f.state)
		}
		return nil, fmt.Errorf("asking the engine on %s for its status: %w", f.socket, err)
	}
	return c, nil
}

// buildKit returns BuildKit's client over a connection of its own, which the
// caller closes.
func (c *Client) buildKit(ctx context.Context) (*client.Client, error) {
	bk, err := client.New(ctx, "unix://"+c.files.socket)
	if err != nil {
		return nil, fmt.Errorf("engine socket: %w", err)
	}
	return bk, nil
}

// Close releases the connection. The daemon goes on.
func (c *Client) Close() error {
	return c.control.Close()
}

func (c *Client) query(ctx context.Context) (Status, error) {
	var answer structpb.Struct
	if err := c.control.Invoke(ctx, methodStatus, &emptypb.Empty{}, &answer); err != nil {
		return Status{}, err
	}
	fields := answer.GetFields()
	started, err := time.Parse(time.RFC3339Nano, fields["started"].GetStringValue())
	if err != nil {
		return Status{}, fmt.Errorf("start time: %w", err)
	}
	return Status{
		PID:      int(fields["pid"].GetNumberValue()),
		Build:    fields["build"].GetStringValue(),
		BuildKit: fields["buildkit"].GetStringValue(),
		Socket:   c.files.socket,
		Log:      c.files.log,
		Started:  started,
		Builds:   int(fields["builds"].GetNumberValue()),
		Clients:  int(fields["clients"].GetNumberValue()),
	}, nil
}

// Find connects to a daemon that already runs, of whichever version, and never
// starts one: the error is [ErrNotRunning] when there is none.
func Find(ctx context.Context, state string) (*Client, error) {
	f, err := layout(state)
	if err != nil {
		return nil, err
	}
	return dial(ctx, f)
}

// Status asks the daemon how it does.
func (c *Client) Status(ctx context.Context) (Status, error) {
	st, err := c.query(ctx)
	if err != nil {
		return Status{}, c.explain(ctx, err)
	}
	return st, nil
}

// Stop stops the daemon and waits until its process has ended. Running builds
// are cancelled; the caches are kept. The client is of no use afterwards.
func (c *Client) Stop(ctx context.Context) error {
	if err := c.stop(ctx, false); err != nil {
		return c.explain(ctx, fmt.Errorf("stopping the engine: %w", err))
	}
	return nil
}

func (c *Client) stop(ctx context.Context, onlyIdle bool) error {
	// Opened before the request, so that the number cannot have passed to
	// another process.
	fd, err := unix.PidfdOpen(c.status.PID, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", c.status.PID, err)
	}
	defer unix.Close(fd)
	if err := c.control.Invoke(ctx, methodStop, wrapperspb.Bool(onlyIdle), &emptypb.Empty{}); err != nil {
		return err
	}
	c.Close()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := sleep(ctx, pollTime); err != nil {
			return err
		}
	}
}

// explain names the cause of a failed call: the caller's own cancellation, or
// a daemon that is gone.
func (c *Client) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if grpcerrors.Code(err) == codes.Unavailable {
		return fmt.Errorf("%w (its log is %s): %w", ErrLost, c.files.log, err)
	}
	return err
}
