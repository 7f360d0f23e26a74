package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "a.log")
	var phases, lines []string
	l, err := newBuildLog(path, func(p string) { phases = append(phases, p) }, func(s string) { lines = append(lines, s) })
	if err != nil {
		t.Fatal(err)
	}
	text := "Executing(%prep): /bin/sh -e x\n+ cd a\r\nExecuting(%build): /bin/sh\ncc a.c\nProcessing files: a-1\nExecuting(%clean): x\n" +
		"+ slipway: phase verity\n+ slipway: times 0m0.500s 0m0.250s 2m1.000s 0m3.250s \n" +
		"+ slipway: memory 123456789\nlast"
	// pieces that do not end at line ends
	for len(text) > 0 {
		n := min(7, len(text))
		if _, err := l.Write([]byte(text[:n])); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
	if raw, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(raw), "\nlast") {
		t.Errorf("log file of a running build: %q, %v", raw, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"%prep", "%build", "packaging", "verity"}, phases); diff != "" {
		t.Error(diff)
	}
	want := []string{"Executing(%prep): /bin/sh -e x", "+ cd a", "Executing(%build): /bin/sh", "cc a.c", "Processing files: a-1", "Executing(%clean): x", "last"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if l.cpu != 125 || l.memory != 123456789 {
		t.Errorf("cpu %v, memory %d", l.cpu, l.memory)
	}
	raw, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(raw), "\nlast") {
		t.Errorf("log file: %q, %v", raw, err)
	}
}

func TestTailIsShort(t *testing.T) {
	l, err := newBuildLog(filepath.Join(t.TempDir(), "a.log"), func(string) {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Write([]byte(strings.Repeat("x\n", 1000) + "end\n")); err != nil {
		t.Fatal(err)
	}
	if len(l.tail) != tailLines || l.tail[tailLines-1] != "end" {
		t.Errorf("%d lines, last %q", len(l.tail), l.tail[len(l.tail)-1])
	}
}
