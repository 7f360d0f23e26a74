package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal starts a program on a new pseudo terminal and returns our end.
func terminal(t *testing.T, name string, args ...string) *os.File {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	fd := int(ours.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(os.Environ(), "TERM=xterm", "PS1=[root@dinghy]# ", "HISTFILE=/dev/null")
	cmd.Dir = t.TempDir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		ours.Close()
	})
	return ours
}

var shells = map[string][]string{
	"bash":         {"bash", "--norc", "-i"},
	"bash no edit": {"bash", "--norc", "--noediting", "-i"},
	"dash":         {"dash", "-i"},
	"late":         {"bash", "-c", "printf 'booting...\\r\\nlogin: '; sleep 1.5; exec bash --norc -i"},
}

var commands = []struct {
	name, command, output string
	status                int
}{
	{"true", "true", "", 0},
	{"status", "exit 37", "", 37},
	{"failure", "false", "", 1},
	{"not found", "no-such-command-here 2>/dev/null", "", 127},
	{"output", "echo hello", "hello\n", 0},
	{"no line end", "printf 'a  b'", "a  b", 0},
	{"lines", "printf 'one\\n\\n\\ttwo\\n'; echo three >&2; exit 3", "one\n\n\ttwo\nthree\n", 3},
	{"quoting", `x='it'\''s'; echo "$x" "!!" \\ $((1+2)) %b '$x' ü`, "it's !! \\ 3 %b $x ü\n", 0},
	{"script", "for i in 1 2\ndo\n\techo \"$i\"\ndone\n", "1\n2\n", 0},
	{"marker-like", `echo 'slipway-ABCDEFGH 0'; echo slipway-; printf slipway`, "slipway-ABCDEFGH 0\nslipway-\nslipway", 0},
	{"echo of itself", `printf '%s\n' "$_slipway" | head -c 5`, "print", 0},
	{"reads nothing", "cat; echo end", "end\n", 0},
	{"long", "echo " + strings.Repeat("x", 9000) + " | wc -c", "9001\n", 0},
	{"much", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done | cksum; head -c 200000 /dev/zero | tr '\\0' x | fold -w 100 | wc -l", "", 0},
	{"carriage return", "printf 'a\\rb\\n'", "a\rb\n", 0},
}

func TestExec(t *testing.T) {
	for name, args := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewShell(terminal(t, args[0], args[1:]...))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for _, c := range commands {
				var out bytes.Buffer
				status, err := s.Exec(ctx, c.command, &out)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if status != c.status || c.name != "much" && out.String() != c.output {
					t.Errorf("%s: status %d, output %q; want %d, %q", c.name, status, out.String(), c.status, c.output)
				}
			}
		})
	}
}

// All bytes of a large output arrive, as they come.
func TestExecStreams(t *testing.T) {
	s := NewShell(terminal(t, "bash", "--norc", "-i"))
	var out bytes.Buffer
	status, err := s.Exec(t.Context(), "seq 1 50000", &out)
	if err != nil || status != 0 {
		t.Fatal(status, err)
	}
	var want bytes.Buffer
	for i := 1; i <= 50000; i++ {
		fmt.Fprintln(&want, i)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want %d", out.Len(), want.Len())
	}
}

func TestExecTimeout(t *testing.T) {
	s := NewShell(terminal(t, "bash", "--norc", "-i"))
	if _, err := s.Exec(t.Context(), "true", io.Discard); err != nil {
		t.Fatal(err)
	}
	// The end comes when the command is known to run.
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Exec(ctx, "seq 1 100; sleep 1000", writerFunc(func(b []byte) (int, error) {
		cancel()
		return len(b), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestExecNobodyAnswers(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() {
		_, _ = io.WriteString(theirs, "dinghy login: ")
		_, _ = io.Copy(io.Discard, theirs)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := NewShell(ours).Exec(ctx, "true", io.Discard)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "dinghy login:") {
		t.Errorf("got %v", err)
	}
}

func TestExecLineBreaks(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_, _ = theirs.Read(make([]byte, 10))
		theirs.Close()
	}()
	if _, err := NewShell(ours).Exec(t.Context(), "true", io.Discard); err == nil {
		t.Error("no error")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A marker is found, and everything before it passed on, wherever reads split.
func TestUntil(t *testing.T) {
	const text, want = "slipslipway-Mrest", "slip"
	for i := 0; i <= len(text); i++ {
		s := &Shell{in: make(chan []byte, 2)}
		s.in <- []byte(text[:i])
		s.in <- []byte(text[i:])
		var out bytes.Buffer
		if err := s.until(t.Context(), "slipway-M", &out); err != nil || out.String() != want {
			t.Errorf("split at %d: %q, %v", i, out.String(), err)
		}
	}
}

func TestUnixLines(t *testing.T) {
	const text, want = "a\r\nb\rc\r\r\nd\r", "a\nb\rc\r\nd\r"
	for i := 0; i <= len(text); i++ {
		var out bytes.Buffer
		u := &unixLines{w: &out}
		for _, part := range []string{text[:i], text[i:]} {
			if n, err := io.WriteString(u, part); err != nil || n != len(part) {
				t.Fatal(n, err)
			}
		}
		if err := u.flush(); err != nil || out.String() != want {
			t.Errorf("split at %d: %q, %v", i, out.String(), err)
		}
	}
}
