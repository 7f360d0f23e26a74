//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/image/qemu"
)

// screen is what a machine writes to its serial console.
type screen struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed by the next write
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, b...)
	close(s.more)
	s.more = make(chan struct{})
	return len(b), nil
}

func (s *screen) look() (text string, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text), s.more
}

func (s *screen) last() string {
	text, _ := s.look()
	return lastLine(text)
}

// lastLine is the last line of a screen that says something.
func lastLine(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(plain(lines[i])); line != "" {
			return line
		}
	}
	return ""
}

// line is the first line with a text.
func (s *screen) line(text string) string {
	all, _ := s.look()
	before, rest, _ := strings.Cut(all, text)
	rest, _, _ = strings.Cut(rest, "\n")
	return strings.TrimSpace(plain(before[strings.LastIndexByte(before, '\n')+1:] + text + rest))
}

// plain leaves the control sequences of terminals out (ECMA-48, section 5.4).
func plain(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == 0x1b && i+1 < len(s) && s[i+1] == '[':
			for i += 2; i < len(s) && (s[i] < 0x40 || s[i] > 0x7e); i++ {
			}
		case s[i] >= ' ' && s[i] <= '~':
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// kernelStarts is how every start of a kernel begins on the serial console.
const kernelStarts = "Linux version "

// machine is a virtual machine, and what was on its screen.
type machine struct {
	t      *testing.T
	vm     *qemu.VM
	screen *screen
	boots  int // kernels that were started, as far as they were waited for
}

// start starts a machine on a QCOW2 disk that keeps what it writes.
func start(t *testing.T, m qemu.Machine) *machine {
	t.Helper()
	g := &machine{t: t, screen: newScreen()}
	m.Format, m.MemoryMiB, m.CPUs, m.Accel, m.Stdout = "qcow2", 1024, 2, "tcg", g.screen
	var err error
	if g.vm, err = qemu.Start(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.off)
	return g
}

// off cuts the power, if it is on.
func (g *machine) off() {
	if g.vm != nil {
		_ = g.vm.Kill()
		g.vm = nil
	}
}

// fatal ends the test and shows the screen.
func (g *machine) fatal(format string, args ...any) {
	g.t.Helper()
	text, _ := g.screen.look()
	g.t.Fatalf("%s\n--- console\n%s", fmt.Sprintf(format, args...), text[max(0, len(text)-20000):])
}

// sees waits until a text was on the screen n times.
func (g *machine) sees(text string, n int) error {
	limit := time.After(bootTime)
	for {
		all, more := g.screen.look()
		if strings.Count(all, text) >= n {
			return nil
		}
		select {
		case <-more:
		case <-limit:
			return fmt.Errorf("%q was not on the screen %d times within %s", text, n, bootTime)
		}
	}
}

// try runs a script as soon as there is a shell.
func (g *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	var out bytes.Buffer
	status, err := g.vm.Exec(ctx, script, &out)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	if err != nil {
		err = fmt.Errorf("%w\n--- script\n%s\n--- output\n%s", err, script, out.String())
	}
	return out.String(), err
}

// sh runs a script, which must succeed, and gives what it printed.
func (g *machine) sh(script string) string {
	g.t.Helper()
	out, err := g.try(script)
	if err != nil {
		g.fatal("%v", err)
	}
	return out
}

// detached runs a script that goes on without the shell, with its output on
// the screen.
func (g *machine) detached(script string) {
	g.t.Helper()
	g.sh("systemd-run --quiet --unit=e2e --collect bash -c 'exec >/dev/ttyS0 2>&1; set -e; " + script + "'")
}

// reboots waits until n more kernels have started, and for the shell of the last.
func (g *machine) reboots(n int) {
	g.t.Helper()
	g.boots += n
	if err := g.sees(kernelStarts, g.boots); err != nil {
		g.fatal("%v", err)
	}
	g.vm.Rebooted()
}

// state is what a machine runs, and in what shape.
type state struct {
	Version   string // of the running system
	System    string // systemctl is-system-running
	Datastore string // format version of the settings
	Lock      string // the setting that the migration to 0.2.0 adds, as JSON
	Marker    string // content of a file that the test left on the data partition
	Root      string // "whole" if every block of the root device could be read
	Good      bool   // the boots of the running system are not counted
}

const stateScript = `
. /etc/os-release
store=/var/lib/dinghy/datastore/current
running=$(systemctl is-system-running --wait)
format=$(readlink $store)
format=${format#v}
lock=$(cat $store/live/settings/updates/version-lock 2>/dev/null)
marker=$(cat /var/marker)
cat /dev/dm-0 >/dev/null && root=whole
systemctl list-units --failed --no-legend --plain
status=$(updater status)
echo "=== state"
printf '%s\n' "$IMAGE_VERSION" "$running" "${format%%_*}" "$lock" "$marker" "$root" "$status"
`

// look asks the machine for its state; status is what the updater says.
func (g *machine) look() (s state, status updaterStatus, err error) {
	out, err := g.try(stateScript)
	if err != nil {
		return s, status, err
	}
	lines := strings.SplitN(section(out, "state"), "\n", 7)
	if len(lines) < 7 {
		return s, status, fmt.Errorf("the machine said:\n%s", out)
	}
	s = state{Version: lines[0], System: lines[1], Datastore: lines[2], Lock: lines[3], Marker: lines[4], Root: lines[5]}
	if err := json.Unmarshal([]byte(lines[6]), &status); err != nil {
		return s, status, fmt.Errorf("updater status: %w:\n%s", err, out)
	}
	if s.System != "running" {
		s.System += ": " + out
	}
	s.Good = status.Running != nil && status.Running.Good
	return s, status, nil
}

// updaterStatus is what updater status prints.
type updaterStatus struct {
	Running, Other          *installedSystem
	Prepared, Next, Variant string
	Failed                  []string
}

type installedSystem struct {
	Version   string
	Good      bool
	TriesLeft int
}

// is fails the test unless the machine has this state.
func (g *machine) is(want state) updaterStatus {
	g.t.Helper()
	got, status, err := g.look()
	if err != nil {
		g.fatal("%v", err)
	}
	if got != want {
		g.fatal("the machine is %+v\nwant %+v", got, want)
	}
	return status
}

// The states of a machine that is well, by version.
var (
	before = state{Version: "0.1.0", System: "running", Datastore: "0.1.0", Marker: marker, Root: "whole", Good: true}
	after  = state{Version: "0.2.0", System: "running", Datastore: "0.2.0", Lock: `"latest"`, Marker: marker, Root: "whole", Good: true}
)

const marker = "kept through updates"

// settle leaves the marker and sets the update repository, as an administrator
// would, on a machine that runs for the first time.
func (g *machine) settle(repository string) {
	g.t.Helper()
	g.reboots(1)
	g.sh("set -e; echo '" + marker + "' >/var/marker; d=/var/lib/dinghy/datastore/current/live/settings/updates; mkdir -p $d; echo '\"" + repository + "\"' >$d/repository; sync")
}

// serve hands a folder out over HTTP, and gives the address by which machines
// reach it: QEMU's user network has the host's loopback at 10.0.2.2.
func serve(t *testing.T, dir string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return fmt.Sprintf("http://10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
}

// overlay makes a QCOW2 disk that shows another one until it is written to.
func overlay(t *testing.T, path, base, format string) string {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2", "-b", base, "-F", format, path}
	if format == "raw" {
		args = append(args, "4G") // first boot grows the data partition
	}
	tool(t, "qemu-img", args...)
	return path
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
