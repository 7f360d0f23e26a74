package engine

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"golang.org/x/sys/unix"
)

func TestShell(t *testing.T) {
	c := sharedClient(t)
	root, base := probe(t)
	failing := run(root.AddEnv("GREETING", "hi").Dir("/out").User("1000:1000"), "write /out/half done -- write /data/tree dirty -- exit 7",
		llb.AddMount("/data", llb.Scratch().File(llb.Mkdir("/t", 0o777)), llb.SourcePath("/t")))
	passing := run(root.AddEnv("GREETING", "hello"), "write /out/all done")
	tests := []struct {
		name   string
		def    llb.State
		always bool
		input  string
		want   string // output
		failed string // the failure that is opened
		exit   int
		err    error
	}{
		{
			name: "failed step", def: outOf(failing.Root()),
			input:  "whoami\ncat half\ncat /data/tree\ninterfaces\nexit 3\n",
			want:   "uid=1000 cwd=/out GREETING=hi\ndone\ndirty\ninterface lo\n",
			failed: "probe write /out/half done -- write /data/tree dirty -- exit 7: exit status 7",
			exit:   3,
		},
		{name: "result", def: passing.Root(), always: true, input: "whoami\ncat /out/all\n", want: "uid=0 cwd=/ GREETING=hello\ndone\n"},
		{name: "nothing failed", def: passing.Root(), err: ErrNothingFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			job := base
			job.Def = tt.def
			var out bytes.Buffer
			failed := ""
			err := c.Shell(t.Context(), job, ShellOptions{
				Args: []string{"/probe", "shell"}, Always: tt.always,
				Stdin: strings.NewReader(tt.input), Stdout: &out, Stderr: &out,
				Opened: func(e *ExitError) {
					if e != nil {
						failed = e.Error()
					}
				},
			})
			var exit *ExitError
			switch {
			case tt.exit != 0:
				if !errors.As(err, &exit) || exit.ExitCode != tt.exit {
					t.Errorf("got %v, want exit status %d", err, tt.exit)
				}
			case !errors.Is(err, tt.err):
				t.Errorf("got error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.failed, failed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestShellTerminalAndSignals(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	job.Def = run(root, "exit 7 -- of the terminal test").Root()
	signals := make(chan os.Signal, 1)
	input, output := newPipe(t)
	var out lineWatcher
	out.on = func(line string) {
		switch {
		case strings.HasPrefix(line, "ready"):
			signals <- unix.SIGTERM
		case strings.HasPrefix(line, "terminal"):
			if _, err := output.Write([]byte("traps\n")); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := output.Write([]byte("terminal\n")); err != nil {
		t.Fatal(err)
	}
	err := c.Shell(t.Context(), job, ShellOptions{
		Args: []string{"/probe", "shell"}, Tty: true, Stdin: input, Stdout: &out, Signals: signals,
	})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 9 {
		t.Errorf("got %v, want exit status 9 from the signal handler", err)
	}
	if !strings.Contains(out.all.String(), "terminal true") {
		t.Errorf("the shell had no terminal:\n%s", out.all.String())
	}
}

func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// lineWatcher calls on with every whole line written to it.
type lineWatcher struct {
	all  bytes.Buffer
	seen int
	on   func(string)
}

func (w *lineWatcher) Write(data []byte) (int, error) {
	w.all.Write(data)
	for {
		line, _, ok := strings.Cut(w.all.String()[w.seen:], "\n")
		if !ok {
			return len(data), nil
		}
		w.seen += len(line) + 1
		w.on(strings.TrimSuffix(line, "\r"))
	}
}
