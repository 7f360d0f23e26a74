// Package registrytest runs a real registry, the reference implementation, as a
// process on the loopback device. Only tests and benchmarks import it.
package registrytest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// The registry is no dependency of this module: it is installed once for the
// user, and used from there.
const (
	module      = "github.com/distribution/distribution/v3/cmd/registry"
	version     = "v3.1.2"
	installTime = 15 * time.Minute
	// startTime is what the process may take until it listens.
	startTime = 30 * time.Second
)

// Server is a running registry.
type Server struct {
	Host string // "127.0.0.1:34567"
	Dir  string // where it keeps what it stores
	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs an empty registry until the test ends. It skips the test where the
// program cannot be had.
func Start(t testing.TB) *Server {
	t.Helper()
	limit := time.Now().Add(installTime)
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok && deadline.Add(-time.Minute).Before(limit) {
			limit = deadline.Add(-time.Minute) // skipping is better than dying
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), limit)
	defer cancel()
	program, err := Binary(ctx)
	if err != nil {
		t.Skipf("no registry to test with: %v: run once: GOBIN=%s go install %s@%s", err, toolDir(), module, version)
	}
	s, err := Run(program, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Binary is the path of the registry program. It installs it where it is missing,
// which takes some minutes.
func Binary(ctx context.Context) (string, error) {
	dir := toolDir()
	program := filepath.Join(dir, "registry")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); !ok {
		return "", fmt.Errorf("wait for another installation: %w", err)
	}
	defer lock.Unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	temp, err := os.MkdirTemp(dir, "install-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	cmd := exec.CommandContext(ctx, "go", "install", module+"@"+version)
	cmd.Dir = temp
	cmd.Env = append(os.Environ(), "GOBIN="+temp, "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w: %s", module, version, err, out)
	}
	return program, os.Rename(filepath.Join(temp, "registry"), program)
}

func toolDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "slipway-test-tools", "registry-"+version)
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// Run starts the program with its storage below dir, on a free port of its own
// choice. The caller closes the server.
func Run(program, dir string) (*Server, error) {
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: info, formatter: text}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: "127.0.0.1:0"}
`, filepath.Join(dir, "storage"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	// a test that is killed takes it along
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	s := &Server{Dir: dir, cmd: cmd, done: make(chan struct{})}
	found := make(chan string, 1)
	said := make(chan string, 1)
	go func() {
		defer close(s.done)
		var lines []string
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			if m := listening.FindStringSubmatch(scan.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
			if len(lines) < 50 {
				lines = append(lines, scan.Text())
			}
		}
		_, _ = io.Copy(io.Discard, out) // after a line too long: a full pipe would stop it
		said <- strings.Join(lines, "\n")
	}()
	select {
	case s.Host = <-found:
		return s, nil
	case text := <-said:
		s.Close()
		return nil, fmt.Errorf("%s ended: %s", program, text)
	case <-time.After(startTime):
		s.Close()
		return nil, errors.New("the registry does not listen")
	}
}

// Ref is a repository of the server, "127.0.0.1:34567/<name>".
func (s *Server) Ref(name string) string { return s.Host + "/" + name }

// Close kills the registry.
func (s *Server) Close() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
	_ = s.cmd.Wait()
}
