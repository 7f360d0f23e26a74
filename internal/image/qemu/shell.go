package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Shell runs commands in a POSIX shell at the other end of a terminal line,
// such as a root shell that a getty started on a virtio console.
//
// Nothing that the terminal echoes, no prompt and no output of a command is
// taken for an answer: each step asks the shell to print a random marker, and
// the request holds the marker in two quoted parts.
type Shell struct {
	conn io.ReadWriter
	in   chan []byte // what was read; closed at the end
	err  error       // why, valid when in is closed
	buf  []byte      // read and not yet used
	up   bool        // a shell has answered
}

// probeEvery is how often a shell is asked for that has not yet answered.
const probeEvery = time.Second

// chunk is how many bytes of an encoded command are sent per line. Terminals
// drop what is beyond 4096 bytes on a line.
const chunk = 1024

// NewShell starts to read conn; it stops when conn is closed.
func NewShell(conn io.ReadWriter) *Shell {
	s := &Shell{conn: conn, in: make(chan []byte)}
	go func() {
		for {
			b := make([]byte, 32<<10)
			n, err := conn.Read(b)
			if n > 0 {
				s.in <- b[:n]
			}
			if err != nil {
				s.err = err
				close(s.in)
				return
			}
		}
	}()
	return s
}

// Exec waits until a shell answers, runs the command in a subshell of it, with
// nothing to read, and copies its output, standard error included, to stdout
// as it comes. It returns the command's exit status. Line ends come out as the
// command wrote them; other than that the line is a terminal, so output should
// be text. When ctx ends first the command may still be running, and the Shell
// is of no further use.
func (s *Shell) Exec(ctx context.Context, command string, stdout io.Writer) (int, error) {
	if !s.up {
		if err := s.wait(ctx); err != nil {
			return 0, err
		}
		s.up = true
	}
	// Encoded, as the line editor acts on tabs and on exclamation marks. Each
	// line is acknowledged, so that no buffer on the way overflows.
	encoded := encode(command)
	for first := true; first || encoded != ""; first = false {
		part := encoded[:min(len(encoded), chunk)]
		encoded = encoded[len(part):]
		line := `_slipway="$_slipway"'` + part + `'`
		if first {
			line = `stty -echo 2>/dev/null; unset HISTFILE; _slipway='` + part + `'`
		}
		m := newMarker()
		if err := s.send(line + "; " + m.print("")); err != nil {
			return 0, err
		}
		if err := s.until(ctx, m.text, io.Discard); err != nil {
			return 0, err
		}
	}
	begin, end := newMarker(), newMarker()
	err := s.send(begin.print("") + `; ( eval "$(printf %b "$_slipway")" ) </dev/null 2>&1; ` + end.print(" $?"))
	if err != nil {
		return 0, err
	}
	if err := s.until(ctx, begin.text, io.Discard); err != nil {
		return 0, err
	}
	// The end of the marker's own line shows whether the terminal turns \n
	// into \r\n.
	eol, err := s.line(ctx)
	if err != nil {
		return 0, err
	}
	out := stdout
	if eol == "\r" {
		out = &unixLines{w: stdout}
	}
	if err := s.until(ctx, end.text, out); err != nil {
		return 0, err
	}
	if u, ok := out.(*unixLines); ok {
		if err := u.flush(); err != nil {
			return 0, err
		}
	}
	status, err := s.line(ctx)
	if err != nil {
		return 0, err
	}
	code, err := strconv.Atoi(strings.TrimSpace(status))
	if err != nil {
		return 0, fmt.Errorf("exit status %q: %w", status, err)
	}
	return code, nil
}

// wait asks for a shell again and again until one answers: before that, input
// is lost at the whim of firmware, boot and login.
func (s *Shell) wait(ctx context.Context) error {
	m := newMarker()
	seen := &tail{}
	for {
		if err := s.send("\n" + m.print("")); err != nil {
			return err
		}
		step, cancel := context.WithTimeout(ctx, probeEvery)
		err := s.until(step, m.text, seen)
		cancel()
		if err == nil || step.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no shell answered: %w; last seen on its line: %q", ctx.Err(), seen.text()+string(s.buf))
		}
	}
}

// send writes a line; a carriage return is what the enter key sends.
func (s *Shell) send(line string) error {
	_, err := io.WriteString(s.conn, strings.ReplaceAll(line, "\n", "\r")+"\r")
	return err
}

// until copies what comes to w, up to text, which it drops.
func (s *Shell) until(ctx context.Context, text string, w io.Writer) error {
	for {
		i := bytes.Index(s.buf, []byte(text))
		// Without it, the end may still be its beginning.
		ready := max(0, len(s.buf)-len(text)+1)
		if i >= 0 {
			ready = i
		}
		if ready > 0 {
			if _, err := w.Write(s.buf[:ready]); err != nil {
				return err
			}
			s.buf = s.buf[ready:]
		}
		if i >= 0 {
			s.buf = s.buf[len(text):]
			return nil
		}
		select {
		case b, ok := <-s.in:
			if !ok {
				return fmt.Errorf("the line to the shell broke: %w", s.err)
			}
			s.buf = append(s.buf, b...)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// line returns what comes before the next line feed.
func (s *Shell) line(ctx context.Context) (string, error) {
	var b bytes.Buffer
	err := s.until(ctx, "\n", &b)
	return b.String(), err
}

type marker struct{ text, half1, half2 string }

func newMarker() marker {
	s := rand.Text()
	return marker{"slipway-" + s, "slipway-" + s[:8], s[8:]}
}

// print is the shell command that prints the marker and more in a line.
func (m marker) print(more string) string {
	return fmt.Sprintf(`echo "%s""%s%s"`, m.half1, m.half2, more)
}

// encode writes a command in the escapes of printf %b.
func encode(command string) string {
	var b strings.Builder
	for _, c := range []byte(command) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == ' ', c == '-', c == '/', c == '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\0%03o`, c)
		}
	}
	return b.String()
}

// unixLines turns \r\n into \n.
type unixLines struct {
	w  io.Writer
	cr bool // the last byte was \r and is not yet written
}

func (u *unixLines) Write(b []byte) (int, error) {
	var out []byte
	for _, c := range b {
		if u.cr && c != '\n' {
			out = append(out, '\r')
		}
		if u.cr = c == '\r'; !u.cr {
			out = append(out, c)
		}
	}
	if _, err := u.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (u *unixLines) flush() error {
	if !u.cr {
		return nil
	}
	u.cr = false
	_, err := io.WriteString(u.w, "\r")
	return err
}

// tail keeps the last bytes written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-200):]
	return len(b), nil
}

func (t *tail) text() string { return strings.TrimSpace(string(t.b)) }
