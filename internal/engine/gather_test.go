package engine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/executor"
)

// written notes each write to an output.
type written struct {
	mu     *sync.Mutex
	name   string
	writes *[]string
	fail   error
}

func (w written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.writes = append(*w.writes, w.name+string(p))
	return len(p), w.fail
}

func (w written) Close() error { return nil }

func TestGather(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var writes []string
		out, bad := written{&mu, "1:", &writes, nil}, written{&mu, "2:", &writes, nil}
		process := executor.ProcessInfo{Stdout: out, Stderr: bad}
		flush := gather(&process)
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, writes); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
			writes = nil
		}
		buffer := []byte("a")
		say := func(w io.Writer, s string) {
			buffer = append(buffer[:0], s...) // writers must not keep it
			if n, err := w.Write(buffer); n != len(s) || err != nil {
				t.Errorf("%d bytes written of %d: %v", n, len(s), err)
			}
		}

		say(process.Stdout, "checking for x... ")
		say(process.Stdout, "yes\n")
		say(process.Stderr, "warning\n")
		say(process.Stdout, "then\n")
		expect()
		time.Sleep(gatherTime)
		expect("1:checking for x... yes\n", "2:warning\n", "1:then\n")

		// much of it does not wait
		much := strings.Repeat("x", gatherSize)
		say(process.Stdout, much)
		expect("1:" + much)

		// nor does it after the end, and there is nothing twice
		say(process.Stderr, "no newline")
		flush()
		expect("2:no newline")
		time.Sleep(2 * gatherTime)
		flush()
		expect()
	})
}

func TestGatherError(t *testing.T) {
	t.Parallel()
	var writes []string
	full := errors.New("no space")
	process := executor.ProcessInfo{Stdout: written{new(sync.Mutex), "", &writes, full}}
	flush := gather(&process)
	fmt.Fprint(process.Stdout, "lost")
	flush()
	if _, err := process.Stdout.Write([]byte("more")); !errors.Is(err, full) {
		t.Errorf("a write after an error: %v", err)
	}
	if flush(); len(writes) != 1 {
		t.Errorf("written: %q", writes)
	}
}

// What somebody types is answered at once.
func TestGatherTerminal(t *testing.T) {
	t.Parallel()
	var writes []string
	process := executor.ProcessInfo{Meta: executor.Meta{Tty: true}, Stdout: written{new(sync.Mutex), "", &writes, nil}}
	gather(&process)
	fmt.Fprint(process.Stdout, "$ ")
	if len(writes) != 1 {
		t.Errorf("written: %q", writes)
	}
}
