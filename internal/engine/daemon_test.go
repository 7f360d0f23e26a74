package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// gone reports whether a daemon has ended: its lock is free again.
func gone(t *testing.T, state string) bool {
	t.Helper()
	f, err := layout(state)
	if err != nil {
		t.Fatal(err)
	}
	held, err := lockHeld(f)
	if err != nil {
		t.Fatal(err)
	}
	return !held
}

func TestConcurrentConnectsStartOneDaemon(t *testing.T) {
	state := newState(t)
	opt := daemonOptions(t, state)
	const n = 8
	var wg sync.WaitGroup
	pids := make([]int, n)
	for i := range n {
		wg.Go(func() {
			c, err := Connect(t.Context(), opt)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			pids[i] = c.status.PID
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Errorf("several daemons: %v", pids)
			break
		}
	}
	log, err := os.ReadFile(filepath.Join(state, "engine.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "ready after"); n != 1 {
		t.Errorf("%d daemons started:\n%s", n, log)
	}
}

func TestStatus(t *testing.T) {
	state := newState(t)
	c := connect(t, state)
	other := connect(t, state)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(state, "engine.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d\n", got.PID); want != string(pid) {
		t.Errorf("pid file says %q, want %q", pid, want)
	}
	if !strings.HasPrefix(got.BuildKit, "v0.") || got.Build != binaryID() || time.Since(got.Started) < 0 {
		t.Errorf("unlikely status: %+v", got)
	}
	if got.Builds != 0 || got.Clients != 1 {
		t.Errorf("got %d builds, %d other clients; want 0, 1", got.Builds, got.Clients)
	}
	fi, err := os.Stat(got.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(os.ModeSocket|0o600, fi.Mode()); diff != "" {
		t.Errorf("socket: %s", diff)
	}
	if err := other.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !gone(t, state) {
		t.Error("Stop returned before the daemon had ended")
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("status of a stopped daemon: %v", err)
	}
	if _, err := Find(t.Context(), state); !errors.Is(err, ErrNotRunning) {
		t.Errorf("find a stopped daemon: %v", err)
	}
}

func TestIdleExit(t *testing.T) {
	t.Setenv(EnvIdle, "300ms")
	state := newState(t)
	c, err := Connect(t.Context(), daemonOptions(t, state))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // an open client is use, however quiet
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("the daemon left a client: %v", err)
	}
	c.Close()
	waitFor(t, "the idle daemon to exit", func() bool { return gone(t, state) })
	if _, err := os.Stat(filepath.Join(state, "engine.pid")); !os.IsNotExist(err) {
		t.Errorf("pid file after a clean end: %v", err)
	}
}

// buildOn solves the same one-step build each time.
func buildOn(t *testing.T, c *Client) Result {
	t.Helper()
	root, job := probe(t)
	job.Def = run(root, "write /out/x y").Root()
	res, err := c.Solve(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return *res
}

// startSleeper starts a build that sleeps and returns when its step runs.
func startSleeper(t *testing.T, c *Client) (result <-chan error) {
	t.Helper()
	root, job := probe(t)
	job.Def = run(root, "echo running -- sleep 600 "+filepath.Base(c.files.state)).Root()
	running := make(chan struct{})
	job.OnEvent = func(e Event) {
		if e.Line == "running" {
			close(running)
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Solve(t.Context(), job)
		done <- err
	}()
	select {
	case <-running:
	case err := <-done:
		t.Fatal(err)
	}
	return done
}

func TestTerminateKeepsCache(t *testing.T) {
	state := newState(t)
	c := connect(t, state)
	if diff := cmp.Diff(Result{Ran: 1}, buildOn(t, c)); diff != "" {
		t.Fatal(diff)
	}
	sleeper := startSleeper(t, c)
	if err := unix.Kill(c.status.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-sleeper; !errors.Is(err, ErrLost) {
		t.Errorf("build on a daemon that is stopped: %v", err)
	}
	waitFor(t, "the daemon to exit", func() bool { return gone(t, state) })
	if err := containersLeft(state); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(Result{Cached: 1}, buildOn(t, connect(t, state))); diff != "" {
		t.Errorf("build after a restart: %s", diff)
	}
}

// containersLeft reports mounts below state and the process of startSleeper.
func containersLeft(state string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(state))
	for _, m := range mounts {
		err = errors.Join(err, fmt.Errorf("left mounted: %s", m.Mountpoint))
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmd, _ := os.ReadFile(p)
		if bytes.HasPrefix(cmd, []byte("/probe\x00")) && bytes.HasSuffix(cmd, []byte("\x00"+filepath.Base(state)+"\x00")) {
			err = errors.Join(err, fmt.Errorf("left running: %s", p))
		}
	}
	return err
}

func TestKilledDaemon(t *testing.T) {
	state := newState(t)
	c := connect(t, state)
	sleeper := startSleeper(t, c)
	if err := unix.Kill(c.status.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-sleeper; !errors.Is(err, ErrLost) {
		t.Errorf("build on a killed daemon: %v", err)
	}
	// as if it had been killed before it noted the snapshots that it was making
	for n := range 100 {
		if err := os.MkdirAll(filepath.Join(workerRoot(state, "overlayfs"), "snapshots", "snapshots", strconv.Itoa(n), "fs", "left"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	next := connect(t, state)
	if next.status.PID == c.status.PID {
		t.Fatal("the killed daemon answers")
	}
	if err := containersLeft(state); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(Result{Ran: 1}, buildOn(t, next)); diff != "" {
		t.Error(diff)
	}
}

func TestStaleSocket(t *testing.T) {
	state := newState(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(state, "engine.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Find(t.Context(), state); !errors.Is(err, ErrNotRunning) {
		t.Errorf("find: %v", err)
	}
	connect(t, state)
}

func TestSecondDaemon(t *testing.T) {
	state := newState(t)
	c := connect(t, state)
	opt := daemonOptions(t, state)
	cmd := exec.Command(opt.Spawn[0], opt.Spawn[1:]...)
	cmd.Env = append(os.Environ(), EnvState+"="+state)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("a second daemon ran")
	}
	for _, want := range []string{"already runs on " + state, fmt.Sprintf("process %d", c.status.PID), "slipway engine stop"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
}

func TestOtherVersion(t *testing.T) {
	state := newState(t)
	opt := daemonOptions(t, state)
	old := opt
	old.Build = "old"
	t.Setenv("SLIPWAY_TEST_ENGINE_BUILD", "old")
	first, err := Connect(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLIPWAY_TEST_ENGINE_BUILD", "new")
	opt.Build = "new"

	// In use: shared, since it speaks the same BuildKit.
	second, err := Connect(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if second.status.PID != first.status.PID || second.status.Build != "old" {
		t.Errorf("a busy daemon was not used: %+v", second.status)
	}
	// In use and of another BuildKit: nothing can be done.
	second.status.BuildKit = "v0.1.0"
	_, err = replaceable(t.Context(), second, opt.Build)
	if err == nil || !strings.Contains(err.Error(), "(BuildKit v0.1.0, ours is "+buildKitVersion()+") is busy as process") {
		t.Errorf("got %v", err)
	}
	first.Close()
	second.Close()

	// Idle: replaced.
	var third *Client
	waitFor(t, "the idle daemon to be replaced", func() bool { // its connections may still count
		third, err = Connect(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		defer third.Close()
		return third.status.Build == "new"
	})
	if third.status.PID == first.status.PID {
		t.Errorf("a daemon changed its identity: %+v", third.status)
	}
}

func TestConnectErrors(t *testing.T) {
	tests := []struct {
		name string
		edit func(t *testing.T, opt *Options)
		want []string
	}{
		{
			name: "no runc",
			edit: func(t *testing.T, opt *Options) {
				opt.Spawn[0], _ = exec.LookPath(opt.Spawn[0])
				t.Setenv("PATH", t.TempDir())
			},
			want: []string{"runc is not in PATH", "apt-get install runc", "engine.log"},
		},
		{
			name: "dies at once",
			edit: func(_ *testing.T, opt *Options) {
				opt.Spawn = []string{"sh", "-c", "echo no luck >&2; exit 3"}
			},
			want: []string{"the engine did not start (exit status 3)", "engine.log says:", "no luck"},
		},
		{
			name: "no such program",
			edit: func(_ *testing.T, opt *Options) { opt.Spawn = []string{"/does/not/exist"} },
			want: []string{"starting the engine", "/does/not/exist"},
		},
		{
			name: "bad idle time",
			edit: func(t *testing.T, _ *Options) { t.Setenv(EnvIdle, "soon") },
			want: []string{EnvIdle + `="soon" is not a duration such as 10m`},
		},
		{
			name: "path too long for a socket",
			edit: func(_ *testing.T, opt *Options) {
				opt.State = filepath.Join(opt.State, strings.Repeat("long", 30))
			},
			want: []string{"more than the 107 that Linux allows", EnvState},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := daemonOptions(t, newState(t))
			tt.edit(t, &opt)
			c, err := Connect(t.Context(), opt)
			if err == nil {
				c.Stop(t.Context())
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestConnectCancelled(t *testing.T) {
	opt := daemonOptions(t, newState(t))
	opt.Spawn = []string{"sleep", "5"}
	errPressed := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(200*time.Millisecond, func() { cancel(errPressed) })
	if _, err := Connect(ctx, opt); !errors.Is(err, errPressed) {
		t.Errorf("got %v", err)
	}
}

func TestNotRoot(t *testing.T) {
	state := newState(t)
	errs := make(chan error)
	go func() {
		// Only this thread loses its privileges; it ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			errs <- errno
			return
		}
		_, err := Connect(t.Context(), Options{State: state})
		errs <- err
	}()
	if err := <-errs; err == nil || !strings.Contains(err.Error(), "must run as root") {
		t.Errorf("got %v", err)
	}
}
