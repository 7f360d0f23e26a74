package progress

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a time that a test moves by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func script(d *Display, c *clock) {
	d.Total(4)
	d.Done("packages/kernel-headers", Cached)
	d.Download("glibc.tar.xz", 500_000, 1_000_000)
	c.t = c.t.Add(2 * time.Second)
	d.Start("packages/glibc", "fetch")
	d.Pause("packages/glibc")
	d.Start("packages/glibc", "waiting")
	d.Downloaded("glibc.tar.xz", 1_000_000)
	d.Phase("packages/glibc", "%build")
	d.Phase("packages/glibc", "%build")
	d.Log("packages/glibc", "cc -c a.c")
	c.t = c.t.Add(80 * time.Second)
	d.Print("note: %d", 7)
	d.Done("packages/glibc", Built)
	d.Start("packages/bash", "%prep")
	d.Done("packages/bash", Failed)
	d.Done("variants/dev", Skipped)
}

func TestPlain(t *testing.T) {
	var out strings.Builder
	c := &clock{t: time.Unix(0, 0)}
	d := New(&out, Options{Mode: Plain, Logs: true, Now: c.now})
	script(d, c)
	got := out.String() + d.Summary() + "\n"
	d.Close()
	want := `packages/glibc: fetch
packages/glibc: waiting
fetched glibc.tar.xz (1.0 MB, 500.0 kB/s)
packages/glibc: %build (0.0s)
packages/glibc | cc -c a.c
note: 7
packages/glibc: built in 1m20s
packages/bash: %prep
packages/bash: failed in 0.0s
variants/dev: skipped
1 built, 1 cached, 1 failed, 1 skipped in 1m22s
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// screen applies what the live display writes to a screen without an upper edge.
func screen(s string) []string {
	lines := []string{""}
	for len(s) > 0 {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			end := strings.IndexAny(rest, "AJ")
			if rest[end] == 'A' {
				n := 0
				for _, c := range rest[:end] {
					n = 10*n + int(c-'0')
				}
				lines = lines[:len(lines)-n]
				lines[len(lines)-1] = "" // the cursor stands at the start of that line
			}
			s = rest[end+1:]
			continue
		}
		if s[0] == '\n' {
			lines = append(lines, "")
		} else {
			lines[len(lines)-1] += s[:1]
		}
		s = s[1:]
	}
	return lines
}

func TestLive(t *testing.T) {
	var out strings.Builder
	c := &clock{t: time.Unix(0, 0)}
	d := New(&out, Options{Mode: Live, Now: c.now, Width: func() int { return 60 }})
	d.Total(3)
	d.Start("packages/glibc", "%build")
	d.Start("packages/bash-with-a-very-long-name-that-does-not-fit", "%prep")
	d.Download("linux.tar.xz", 10_000_000, 40_000_000)
	c.t = c.t.Add(4 * time.Second)
	d.Print("a note")
	want := []string{
		"a note",
		"  packages/glibc                   %build           4.0s",
		"  packages/bash-with-a-very-long-name-that-does-not-fit %pr",
		"  ↓ linux.tar.xz                   10.0 MB of 40.0 MB, 25 %",
		"3 left in 4.0s",
		"",
	}
	d.mu.Lock()
	got := screen(out.String())
	d.mu.Unlock()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	d.Done("packages/glibc", Built)
	d.Close()
	if diff := cmp.Diff([]string{"a note", "packages/glibc: built in 4.0s", ""}, screen(out.String())); diff != "" {
		t.Error(diff)
	}
}
