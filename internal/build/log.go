package build

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Phases of a target, as the display names them.
const (
	phaseWait    = "waiting"
	phaseFetch   = "fetch"
	phaseDeps    = "dependencies"
	phasePackage = "packaging"
	phaseVerity  = "verity"
	phaseStore   = "storing"
)

const tailLines = 20

// buildLog takes the output of a target's build: whole into a file, its end into
// memory, and from what rpmbuild prints the phase that it is in.
type buildLog struct {
	mu      sync.Mutex
	file    *os.File // written to as output comes, for those who follow it
	partial string
	tail    []string
	phase   string
	cpu     float64 // seconds, from the sandbox's own report
	memory  int64   // bytes at its peak, from there too; 0 when it could not tell
	onPhase func(string)
	onLine  func(string)
}

func newBuildLog(path string, onPhase, onLine func(string)) (*buildLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &buildLog{file: f, onPhase: onPhase, onLine: onLine}, nil
}

// Write takes output in pieces of any size.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(p); err != nil {
		return 0, err
	}
	lines := strings.Split(l.partial+string(p), "\n")
	l.partial = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		l.line(strings.TrimRight(line, "\r"))
	}
	return len(p), nil
}

var (
	executing = regexp.MustCompile(`^Executing\((%(?:prep|build|install|check))\):`)
	seconds   = regexp.MustCompile(`(\d+)m([\d.]+)s`)
)

func (l *buildLog) line(line string) {
	switch {
	case strings.HasPrefix(line, "+ slipway: times "):
		for _, m := range seconds.FindAllStringSubmatch(line, -1) {
			minutes, _ := strconv.ParseFloat(m[1], 64)
			s, _ := strconv.ParseFloat(m[2], 64)
			l.cpu += 60*minutes + s
		}
		return
	case strings.HasPrefix(line, "+ slipway: memory "):
		l.memory, _ = strconv.ParseInt(strings.TrimPrefix(line, "+ slipway: memory "), 10, 64)
		return
	case strings.HasPrefix(line, "+ slipway: phase "):
		l.setPhase(strings.TrimPrefix(line, "+ slipway: phase "))
		return
	case executing.MatchString(line):
		l.setPhase(executing.FindStringSubmatch(line)[1])
	case strings.HasPrefix(line, "Processing files:"):
		l.setPhase(phasePackage)
	}
	l.tail = append(l.tail, line)
	if len(l.tail) > tailLines {
		l.tail = l.tail[1:]
	}
	l.onLine(line)
}

func (l *buildLog) setPhase(phase string) {
	l.phase = phase
	l.onPhase(phase)
}

// Close flushes what was taken in.
func (l *buildLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.partial != "" {
		l.line(l.partial)
		l.partial = ""
	}
	return l.file.Close()
}

// TargetError says that a target's own recipe failed, and shows where to look.
type TargetError struct {
	Target string   // "packages/glibc"
	Phase  string   // phase it was in: "%build"
	Tail   []string // last lines of its output
	Log    string   // file that holds all of it
	// ExitCode is the exit status of its script.
	ExitCode int
	Err      error // what the engine said
}

func (e *TargetError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed", e.Target)
	if e.Phase != "" {
		fmt.Fprintf(&b, " in %s", e.Phase)
	}
	fmt.Fprintf(&b, " with exit status %d\n", e.ExitCode)
	for _, line := range e.Tail {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	fmt.Fprintf(&b, "whole log: %s\n", e.Log)
	fmt.Fprintf(&b, "a shell in its sandbox: slipway shell %s", e.Target)
	return b.String()
}

func (e *TargetError) Unwrap() error { return e.Err }
