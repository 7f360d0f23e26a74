package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec BuildKit's messages are made for
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

const (
	defaultIdle = 10 * time.Minute
	// drainTime is how long a stopping daemon lets its clients take their last
	// answers, killTime how long it waits for cancelled builds to unwind.
	drainTime = time.Second
	killTime  = 20 * time.Second
)

// ServeOptions configures [Serve].
type ServeOptions struct {
	State  string        // state root; empty means [DefaultState]
	Socket string        // unix socket; empty means engine.sock in State
	Idle   time.Duration // exit after so long without a client; 0 means $SLIPWAY_ENGINE_IDLE or 10 minutes
	Build  string        // identity told to clients; empty means the Go build ID of the executable
	Log    io.Writer     // where the daemon logs; nil means engine.log in State
}

// Serve runs the daemon until ctx ends, SIGTERM or SIGINT arrives, a client
// asks it to stop, or nobody was connected for the idle time: all of which are
// clean ends and return nil. Running builds are then cancelled and the caches
// closed.
//
// Serve owns the process it runs in: it changes the umask, the temporary
// directory and the output of the loggers.
func Serve(ctx context.Context, opt ServeOptions) (err error) {
	if err := checkRoot(); err != nil {
		return err
	}
	f, err := layout(opt.State)
	if err != nil {
		return err
	}
	if opt.Socket != "" {
		if f.socket, err = socketPath(opt.Socket); err != nil {
			return err
		}
	}
	idle, err := idleTime(opt.Idle)
	if err != nil {
		return err
	}
	if opt.Build == "" {
		opt.Build = binaryID()
	}
	runc, err := findRunc()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.state, 0o700); err != nil {
		return fmt.Errorf("engine state root: %w", err)
	}
	// Links would break the comparison with the mount table.
	if f.state, err = filepath.EvalSymlinks(f.state); err != nil {
		return fmt.Errorf("engine state root: %w", err)
	}

	lock, err := lockState(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	if opt.Log == nil {
		file, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("engine log: %w", err)
		}
		defer file.Close()
		opt.Log = file
	}
	logTo(opt.Log)
	defer func() {
		if err != nil {
			logrus.Errorf("engine: %v", err)
		}
	}()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals, stopSignals := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stopSignals()

	started := time.Now()
	if err := prepareProcess(ctx, f, runc); err != nil {
		return err
	}
	if err := os.WriteFile(f.pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return fmt.Errorf("engine pid file: %w", err)
	}
	defer os.Remove(f.pid)

	back, err := newBackend(context.WithoutCancel(ctx), f, runc, signals.Done())
	if err != nil {
		return err
	}
	defer func() {
		if cerr := back.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("closing the caches: %w", cerr))
		}
		logrus.Info("engine stopped")
	}()

	use := &usage{since: time.Now()}
	server := grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.StatsHandler(use),
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	back.Register(server)
	registerService(server, &daemonService{
		pid: os.Getpid(), build: opt.Build, buildKit: buildKitVersion(), started: started, use: use, stop: cancel,
	})
	listener, err := listen(f.socket)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	logrus.Infof("engine %s (BuildKit %s) serves %s as process %d, ready after %s, idle time %s",
		opt.Build, buildKitVersion(), f.socket, os.Getpid(), time.Since(started).Round(time.Millisecond), idle)

	err = waitForEnd(signals, use, idle, served)
	drain(server, back)
	return err
}

func idleTime(idle time.Duration) (time.Duration, error) {
	if idle > 0 {
		return idle, nil
	}
	text := os.Getenv(EnvIdle)
	if text == "" {
		return defaultIdle, nil
	}
	idle, err := time.ParseDuration(text)
	if err != nil || idle <= 0 {
		return 0, fmt.Errorf("%s=%q is not a duration such as 10m or 90s", EnvIdle, text)
	}
	return idle, nil
}

// lockState takes the lock of the state root. Clients hold it for an instant
// to learn whether a daemon lives, hence the second try.
func lockState(ctx context.Context, f files) (*flock.Flock, error) {
	lock := flock.New(f.lock, flock.SetPermissions(0o600))
	wait, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ok, err := lock.TryLockContext(wait, 20*time.Millisecond)
	if ok {
		return lock, nil
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("engine lock: %w", err)
	}
	holder := "another process"
	if pid, err := os.ReadFile(f.pid); err == nil {
		holder = "process " + strings.TrimSpace(string(pid))
	}
	return nil, fmt.Errorf("an engine already runs on %s: %s holds %s; stop it with: slipway engine stop", f.state, holder, f.lock)
}

// logTo sends everything that logs, ours and the libraries', to w.
func logTo(w io.Writer) {
	logrus.SetOutput(w)
	logrus.SetFormatter(quietFormatter{&logrus.TextFormatter{FullTimestamp: true, DisableColors: true}})
	stdlog.SetOutput(w)
}

// quietFormatter drops warnings that are normal for this daemon and would only
// mislead a reader: file systems without fs-verity, and absent tracing.
type quietFormatter struct{ logrus.Formatter }

func (q quietFormatter) Format(e *logrus.Entry) ([]byte, error) {
	for _, known := range []string{"failed check for fsverity support", "no trace recorder found"} {
		if strings.Contains(e.Message, known) {
			return nil, nil
		}
	}
	return q.Formatter.Format(e)
}

// prepareProcess makes this process fit to be the daemon and clears the traces
// of one that was killed.
func prepareProcess(ctx context.Context, f files, runc string) error {
	clearLeftovers(ctx, f, runc)
	if err := os.MkdirAll(f.tmp, 0o700); err != nil {
		return fmt.Errorf("engine temporary directory: %w", err)
	}
	// Temporary mounts live below the state root, where the next daemon finds
	// them if this one is killed.
	if err := mount.SetTempMountLocation(f.tmp); err != nil {
		return fmt.Errorf("engine temporary directory: %w", err)
	}
	env := map[string]string{
		"TMPDIR": f.tmp,
		// Logs are whole: -1 turns BuildKit's clipping off.
		"BUILDKIT_STEP_LOG_MAX_SIZE":  "-1",
		"BUILDKIT_STEP_LOG_MAX_SPEED": "-1",
	}
	// Only a cgroup that is not the real root of a v2 hierarchy has this file:
	// there the processes must first make room for controllers to be delegated.
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.type"); err == nil {
		env["BUILDKIT_SETUP_CGROUPV2_ROOT"] = "1"
	}
	for key, value := range env {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	unix.Umask(0) // modes in layers are exactly those asked for
	return nil
}

// listen opens the socket, replacing one that a killed daemon left: the caller
// holds the lock, so nobody listens there.
func listen(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("engine socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", socket)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("engine socket: %w", err)
	}
	return l, nil
}

func waitForEnd(ctx context.Context, use *usage, idle time.Duration, served <-chan error) error {
	tick := time.NewTicker(min(max(idle/10, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case err := <-served:
			return fmt.Errorf("engine socket: %w", err)
		case <-ctx.Done():
			logrus.Infof("stopping: %v", context.Cause(ctx))
			return nil
		case <-tick.C:
			if use.idleFor() >= idle {
				logrus.Infof("stopping: no client for %s", idle)
				return nil
			}
		}
	}
}

// drain ends all calls, cancelling the builds that still run, and waits until
// their containers are gone.
func drain(server *grpc.Server, back *backend) {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		server.GracefulStop()
	}()
	select {
	case <-quiet:
	case <-time.After(drainTime):
		go server.Stop() // unblocks GracefulStop
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		<-quiet
		back.steps.wg.Wait()
	}()
	select {
	case <-gone:
	case <-time.After(killTime):
		logrus.Warnf("builds still run %s after their cancellation; closing the caches under them", killTime)
	}
}
