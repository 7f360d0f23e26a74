package cli

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/leftover"
	"slipway/internal/sign/pkcs11"
	"slipway/internal/sign/pkcs11/pkcs11test"
	"slipway/internal/store/registry/registrytest"
	"slipway/internal/workspace"
)

var update = flag.Bool("update", false, "write what commands print into the scripts")

// envUID makes the slipway of a script give up root for another user.
const envUID = "SLIPWAY_TEST_UID"

// scratch holds what all scripts leave: a short path, because sockets live
// below it, and open to all users.
var scratch string

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"slipway": slipway})
}

// slipway is the program of the scripts: the test binary under another name.
func slipway() {
	log.SetOutput(io.Discard)
	if text := os.Getenv(envUID); text != "" {
		uid, err := strconv.Atoi(text)
		if err = errors.Join(err, syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			log.SetOutput(os.Stderr)
			log.Fatal(err)
		}
	}
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// suite runs the tests between making scratch and looking for leftovers.
type suite struct{ m *testing.M }

func (s suite) Run() (code int) {
	var err error
	if scratch, err = os.MkdirTemp("", "slipway-cli"); err == nil {
		scratch, err = filepath.EvalSymlinks(scratch)
	}
	if err = errors.Join(err, os.Chmod(scratch, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(leftover.Check(scratch, "SLIPWAY_CACHE"), os.RemoveAll(scratch)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return s.m.Run()
}

func stopEngine(state string) error {
	c, err := engine.Find(context.Background(), state)
	if errors.Is(err, engine.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Stop(context.Background())
}

// TestScript runs commands that need no engine, or must not reach one.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params(t, "testdata/script", false))
}

// TestEngine builds with the real engine in an SDK made of this machine's own
// programs (see makeSDK), one script after the other.
func TestEngine(t *testing.T) {
	t.Parallel()
	if why := engineMissing(); why != "" {
		t.Skip(why)
	}
	testscript.RunT(inOrder{t}, params(t, "testdata/engine", true))
}

// inOrder runs scripts one after the other, since they share an engine.
type inOrder struct{ *testing.T }

func (t inOrder) Parallel()     {}
func (t inOrder) Verbose() bool { return testing.Verbose() }
func (t inOrder) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inOrder{t}) })
}

func engineMissing() string {
	switch {
	case os.Geteuid() != 0:
		return "builds need root"
	case runtime.GOARCH != "amd64":
		return "the engine builds on amd64"
	}
	for _, program := range []string{"runc", "rpmbuild", "dpkg", "ldd"} {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not installed"
		}
	}
	return ""
}

// params are the settings for the scripts of a folder, which share an engine or
// have one each.
func params(t *testing.T, dir string, shared bool) testscript.Params {
	root, err := os.MkdirTemp(scratch, "")
	if err = errors.Join(err, os.Chmod(root, 0o755)); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(root, "engine")
	t.Cleanup(func() {
		if err := errors.Join(stopEngine(state), os.RemoveAll(root)); err != nil {
			t.Error(err)
		}
	})
	return testscript.Params{
		Dir: dir, WorkdirRoot: root, UpdateScripts: *update, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			state := state
			if !shared {
				state = filepath.Join(env.WorkDir, "state")
				env.Defer(func() {
					if err := stopEngine(state); err != nil {
						env.T().Fatal(err)
					}
				})
			}
			home := filepath.Join(env.WorkDir, "home")
			for _, kv := range [][2]string{
				{"HOME", home}, {"XDG_CACHE_HOME", filepath.Join(home, ".cache")},
				{"SLIPWAY_CACHE", filepath.Join(env.WorkDir, "cache")}, {engine.EnvState, state}, {engine.EnvIdle, "2m"},
			} {
				env.Setenv(kv[0], kv[1])
			}
			env.Cd = filepath.Join(env.WorkDir, "ws")
			return errors.Join(os.MkdirAll(home, 0o755), underlay("testdata/base", env.Cd))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "serve": cmdServe, "closedport": cmdClosedPort, "digest": cmdDigest, "release": cmdRelease, "expand": cmdExpand,
			"tmpfs": cmdTmpfs, "sdk": cmdSDK, "empty": cmdEmpty,
			"gone": cmdGone, "disk": cmdDisk, "rootdisk": cmdRootDisk, "patch": cmdPatch, "eventually": cmdEventually, "registry": cmdRegistry, "token": cmdToken,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			if cond == "registry" {
				_, err := registryProgram()
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	}
}

// underlay copies the files of from that to does not have.
func underlay(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dest, 0o755)
		}
		if _, err := os.Lstat(dest); err == nil {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dest, text, 0o644)
	})
}

// environ is what a program of a script gets as its environment.
func environ(ts *testscript.TestScript) []string {
	var vars []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "SLIPWAY_CACHE", workspace.EnvCacheRef, engine.EnvState, engine.EnvIdle, envUID, pkcs11.EnvPIN, pkcs11test.EnvConfig} {
		if value := ts.Getenv(name); value != "" {
			vars = append(vars, name+"="+value)
		}
	}
	return vars
}

// exits STATUS [-in=FILE] [-int=WHEN] [-kill=WHEN] [-killengine=WHEN] PROGRAM ARGUMENT...
//
// It runs a program and checks its exit status. WHEN is a text that the program
// prints, or an absolute pattern of files of which one is there and not empty;
// then the program gets SIGINT or SIGKILL, or the engine SIGKILL. The status of a
// program that a signal ended is -1.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS [-in=FILE] [-int=WHEN] [-kill=WHEN] [-killengine=WHEN] PROGRAM ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	args = args[1:]
	vars := environ(ts)
	var in, when string
	act := func(*exec.Cmd) error { return nil }
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, _ := strings.Cut(args[0], "=")
		switch name {
		case "-in":
			in = ts.MkAbs(value)
		case "-int":
			when, act = value, func(cmd *exec.Cmd) error { return cmd.Process.Signal(os.Interrupt) }
		case "-kill":
			when, act = value, func(cmd *exec.Cmd) error { return cmd.Process.Kill() }
		case "-killengine":
			when, act = value, func(*exec.Cmd) error { return killEngine(ts.Getenv(engine.EnvState)) }
		default:
			ts.Fatalf("exits has no flag %s", name)
		}
		args = args[1:]
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir = vars, ts.MkAbs(".")
	if in != "" {
		f, err := os.Open(in)
		ts.Check(err)
		defer f.Close()
		cmd.Stdin = f
	}
	var out, errOut output
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Minute
	ts.Check(cmd.Start())
	ended := make(chan struct{})
	acted := make(chan error, 1)
	go func() {
		acted <- func() error {
			for when != "" {
				met := strings.Contains(out.String()+errOut.String(), when)
				if filepath.IsAbs(when) {
					met = anyWithContent(when)
				}
				if met {
					return act(cmd)
				}
				select {
				case <-ended:
					return fmt.Errorf("it ended before this came: %s", when)
				case <-time.After(10 * time.Millisecond):
				}
			}
			return nil
		}()
	}()
	err = cmd.Wait()
	close(ended)
	fmt.Fprint(ts.Stdout(), out.String())
	fmt.Fprint(ts.Stderr(), errOut.String())
	ts.Logf("[stdout]\n%s[stderr]\n%s", out.String(), errOut.String())
	ts.Check(<-acted)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("%s: %v, want exit status %d", strings.Join(args, " "), cmd.ProcessState, want)
	}
}

// output is a buffer that is read while it is written to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func anyWithContent(pattern string) bool {
	names, _ := filepath.Glob(pattern)
	return slices.ContainsFunc(names, func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() > 0
	})
}

func killEngine(state string) error {
	text, err := os.ReadFile(filepath.Join(state, "engine.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// serve NAME DIR [stall]: serves a folder on a loopback port and sets NAME to
// its address. Requests are noted in $WORK/NAME.log. With stall the first
// request gets half of the file, and then nothing.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: serve NAME DIR [stall]")
	}
	name, dir := args[0], ts.MkAbs(args[1])
	note, err := os.Create(filepath.Join(ts.Getenv("WORK"), name+".log"))
	ts.Check(err)
	stall := len(args) == 3 && args[2] == "stall"
	var mu sync.Mutex
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		fmt.Fprintln(note, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
		half := stall
		stall = false
		mu.Unlock()
		if !half {
			files.ServeHTTP(w, r)
			return
		}
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err == nil {
			w.Header().Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	ts.Defer(func() {
		server.CloseClientConnections()
		server.Close()
		note.Close()
	})
	ts.Setenv(name, server.URL)
}

// registryProgram is the path of the registry, which is installed if need be.
var registryProgram = sync.OnceValues(func() (string, error) { return registrytest.Binary(context.Background()) })

// registries are the running ones of all scripts, by address.
var registries sync.Map

// registry NAME: starts an empty registry, and sets NAME to its address. With the
// address itself as the argument -stop=ADDRESS it stops one.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: registry NAME, or registry -stop=ADDRESS")
	}
	if host, ok := strings.CutPrefix(args[0], "-stop="); ok {
		s, ok := registries.LoadAndDelete(host)
		if !ok {
			ts.Fatalf("there is no registry %s", host)
		}
		s.(*registrytest.Server).Close()
		return
	}
	program, err := registryProgram()
	ts.Check(err)
	dir := filepath.Join(ts.Getenv("WORK"), "registry-"+args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	s, err := registrytest.Run(program, dir)
	ts.Check(err)
	registries.Store(s.Host, s)
	ts.Defer(func() {
		if _, ok := registries.LoadAndDelete(s.Host); ok {
			s.Close()
		}
	})
	ts.Setenv(args[0], s.Host)
}

// closedport NAME: sets NAME to a loopback address where nobody listens.
func cmdClosedPort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// digest NAME FILE: sets NAME to the SHA-512 of a file.
func cmdDigest(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv(args[0], fmt.Sprintf("%x", sha512.Sum512(text)))
}

var variable = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)

// expand FILE...: puts the values of ${NAME} into files.
func cmdExpand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text, err := os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
		text = variable.ReplaceAllFunc(text, func(m []byte) []byte { return []byte(ts.Getenv(string(m[2 : len(m)-1]))) })
		ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o644))
	}
}

// tmpfs DIR OPTIONS: mounts a file system in memory, until the script ends.
func cmdTmpfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	var flags uintptr
	data := args[1]
	if data == "ro" {
		flags, data = unix.MS_RDONLY, ""
	}
	ts.Check(unix.Mount("slipway-test", dir, "tmpfs", flags, data))
	ts.Defer(func() { ts.Check(unix.Unmount(dir, unix.MNT_DETACH)) })
}

// empty PATTERN...: checks that no file matches.
func cmdEmpty(ts *testscript.TestScript, _ bool, args []string) {
	for _, pattern := range args {
		names, err := filepath.Glob(ts.MkAbs(pattern))
		ts.Check(err)
		if len(names) > 0 {
			ts.Fatalf("there is %s", strings.Join(names, ", "))
		}
	}
}

// soon is how long other processes may take to do what a script waits for.
const soon = time.Minute

// gone TEXT: waits until no process has the text in its command line.
func cmdGone(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		found := ""
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			if line, _ := os.ReadFile(p); bytes.Contains(line, []byte(args[0])) && filepath.Base(filepath.Dir(p)) != strconv.Itoa(os.Getpid()) {
				found = string(line)
			}
		}
		if found == "" {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still there: %q", found)
		}
	}
}

// eventually PATTERN PROGRAM ARGUMENT...: runs a program again and again until
// its output matches.
func cmdEventually(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	for end := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no match for %s", pattern)
		}
	}
}
