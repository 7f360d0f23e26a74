package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/workspace"
)

// Record is what a plan came to, and the state of every file that it was made
// from and of every file that shows its results. As long as none of them changes,
// the plan need not be made again: that is found out by stat(2) alone.
type Record struct {
	Made    string    // what else decides: the program, the architecture and the like
	Targets []Planned // dependencies first
	Outputs []string  // paths that a build of it prints

	inputs, views []seen
}

// Planned is one target of a Record.
type Planned struct {
	Name     string // "packages/glibc"
	Key      string
	Manifest string  // digest of its result's manifest
	From     string  // where its files are
	CPU      float64 // seconds of user and system time that it took to build
	Memory   int64   // bytes at the peak of its build; 0 when not known
}

// seen is a file as it was.
type seen struct {
	sig  uint64
	path string
}

// absent is the signature of a file that is not there.
const absent = 0

// racy is how old a change must be to be told from a later one: the granularity
// of time stamps in file systems.
const racy = 20 * time.Millisecond

// ErrRacy says that a file changed while the plan was made, or just before.
var ErrRacy = errors.New("changed while it was read")

// Watch notes the state of all files of a workspace that a plan of these
// packages and variants is made from. began is when the plan was begun: a file
// that changed since is an error that wraps ErrRacy.
func (r *Record) Watch(ws *workspace.Workspace, began time.Time) error {
	files, dirs, err := ws.Paths()
	if err != nil {
		return err
	}
	limit := began.Add(-racy).UnixNano()
	for _, path := range append(files, dirs...) {
		st, err := lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			r.Lack(path)
			continue
		}
		if err != nil {
			return err
		}
		if st.Mtim.Nano() >= limit || st.Ctim.Nano() >= limit {
			return fmt.Errorf("%s: %w", path, ErrRacy)
		}
		r.inputs = append(r.inputs, seen{inputSig(st), path})
	}
	return nil
}

// Show notes the state of a file or folder that shows a result.
func (r *Record) Show(path string) error {
	st, err := lstat(path)
	if err == nil {
		r.views = append(r.views, seen{viewSig(st), path})
	}
	return err
}

// Lack notes that a file is not there.
func (r *Record) Lack(path string) { r.inputs = append(r.inputs, seen{absent, path}) }

func lstat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err != nil {
		err = &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &st, err
}

func inputSig(st *unix.Stat_t) uint64 {
	return mix(st.Dev, st.Ino, uint64(st.Mode), uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()))
}

// viewSig leaves out the change time: it changes with every further link.
func viewSig(st *unix.Stat_t) uint64 {
	return mix(st.Ino, uint64(st.Mode), uint64(st.Size), uint64(st.Mtim.Nano()))
}

// mix is FNV-1a (RFC 9923) over the numbers.
func mix(numbers ...uint64) uint64 {
	h := uint64(14695981039346656037)
	for _, n := range numbers {
		for range 8 {
			h = (h ^ n&0xff) * 1099511628211
			n >>= 8
		}
	}
	return h
}

// Holds tells whether nothing has changed: no input, and no file that shows a
// result.
func (r *Record) Holds() bool {
	var changed atomic.Bool
	var wg sync.WaitGroup
	check := func(list []seen, sig func(*unix.Stat_t) uint64) {
		for len(list) > 0 {
			part := list[:min(len(list), 512)]
			list = list[len(part):]
			wg.Go(func() {
				for _, s := range part {
					var st unix.Stat_t
					if changed.Load() {
						return
					}
					now := uint64(absent)
					if err := unix.Lstat(s.path, &st); err == nil {
						now = sig(&st)
					} else if !errors.Is(err, unix.ENOENT) {
						changed.Store(true)
					}
					if now != s.sig {
						changed.Store(true)
					}
				}
			})
			if runtime.NumGoroutine() > 4*runtime.GOMAXPROCS(0) {
				wg.Wait()
			}
		}
	}
	check(r.inputs, inputSig)
	check(r.views, viewSig)
	wg.Wait()
	return !changed.Load()
}

const recordHead, recordEnd = "slipway-plan 3", "end"

// Write puts the record into a file, by way of a temporary one.
func (r *Record) Write(path string) error {
	var b bytes.Buffer
	b.WriteString(recordHead + "\n" + r.Made + "\n")
	for _, t := range r.Targets {
		b.WriteString("t " + t.Name + " " + t.Key + " " + t.Manifest + " " + t.From +
			" " + strconv.FormatFloat(t.CPU, 'g', -1, 64) + " " + strconv.FormatInt(t.Memory, 10) + "\n")
	}
	for _, o := range r.Outputs {
		b.WriteString("o " + o + "\n")
	}
	lines := 2 + len(r.Targets) + len(r.Outputs) + len(r.inputs) + len(r.views)
	for _, l := range []struct {
		kind string
		list []seen
	}{{"i ", r.inputs}, {"v ", r.views}} {
		for _, s := range l.list {
			b.WriteString(l.kind + strconv.FormatUint(s.sig, 16) + " " + s.path + "\n")
		}
	}
	b.WriteString(recordEnd + "\n")
	if bytes.Count(b.Bytes(), []byte("\n")) != lines+1 {
		return errors.New("a path has a line break")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(path), ".record-")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = t.Write(b.Bytes())
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}

// ReadRecord reads what Write wrote. It reports false where there is no whole
// record of what made says.
func ReadRecord(path, made string) (*Record, bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false
	}
	var raw strings.Builder // has megabytes for large workspaces: they are there once
	raw.Grow(int(info.Size()))
	if _, err := io.Copy(&raw, f); err != nil {
		return nil, false
	}
	text, ok := strings.CutPrefix(raw.String(), recordHead+"\n"+made+"\n")
	if !ok || !strings.HasSuffix(text, "\n"+recordEnd+"\n") {
		return nil, false
	}
	r := &Record{Made: made,
		Targets: make([]Planned, 0, strings.Count(text, "\nt ")+1),
		inputs:  make([]seen, 0, strings.Count(text, "\ni ")+1),
		views:   make([]seen, 0, strings.Count(text, "\nv ")+1),
	}
	for text != recordEnd+"\n" {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		kind, value, _ := strings.Cut(line, " ")
		switch kind {
		case "t":
			var f [6]string
			n := 0
			for field := range strings.SplitSeq(value, " ") {
				if n == len(f) {
					return nil, false
				}
				f[n] = field
				n++
			}
			if n != len(f) {
				return nil, false
			}
			cpu, errCPU := strconv.ParseFloat(f[4], 64)
			memory, errMemory := strconv.ParseInt(f[5], 10, 64)
			if errCPU != nil || errMemory != nil {
				return nil, false
			}
			r.Targets = append(r.Targets, Planned{f[0], f[1], f[2], f[3], cpu, memory})
		case "o":
			r.Outputs = append(r.Outputs, value)
		case "i", "v":
			hex, path, _ := strings.Cut(value, " ")
			sig, err := strconv.ParseUint(hex, 16, 64)
			if err != nil || path == "" {
				return nil, false
			}
			if kind == "i" {
				r.inputs = append(r.inputs, seen{sig, path})
			} else {
				r.views = append(r.views, seen{sig, path})
			}
		default:
			return nil, false
		}
	}
	return r, true
}
