package engine

import (
	"bytes"
	"io"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// follower turns BuildKit's progress into events and a log of whole lines.
type follower struct {
	onEvent func(Event)
	log     io.Writer
	lines   []byte // for the log, not yet written
	logErr  error
	logging digest.Digest // the step whose lines the log shows
	names   map[digest.Digest]string
	execs   map[digest.Digest]bool // steps that run a program
	begun   map[digest.Digest]bool
	ended   map[digest.Digest]bool
	partial map[stream]*pending
	order   []stream // of partial, by first use
	result  Result
}

// stream is one output of one step: 1 is stdout, 2 stderr.
type stream struct {
	vertex digest.Digest
	fd     int
}

// pending is the begin of a line whose end has not come yet.
type pending struct {
	data []byte
	when time.Time
}

func newFollower(job Job, def *llb.Definition) (*follower, error) {
	f := &follower{
		onEvent: job.OnEvent,
		log:     job.Log,
		names:   make(map[digest.Digest]string),
		execs:   make(map[digest.Digest]bool),
		begun:   make(map[digest.Digest]bool),
		ended:   make(map[digest.Digest]bool),
		partial: make(map[stream]*pending),
	}
	for _, data := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(data); err != nil {
			return nil, err
		}
		if op.GetExec() != nil {
			f.execs[digest.FromBytes(data)] = true
		}
	}
	return f, nil
}

func (f *follower) emit(e Event) {
	e.Vertex = f.names[e.Digest]
	if f.onEvent != nil {
		f.onEvent(e)
	}
}

// update takes one report. BuildKit repeats vertices in later reports, so each
// start and end is told once.
func (f *follower) update(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		f.names[v.Digest] = v.Name
		if v.Started != nil && !f.begun[v.Digest] {
			f.begun[v.Digest] = true
			f.emit(Event{Kind: VertexStarted, Digest: v.Digest, Cached: v.Cached, Time: *v.Started})
		}
	}
	for _, l := range s.Logs {
		f.write(stream{l.Vertex, l.Stream}, l.Data, l.Timestamp)
	}
	f.flush()
	for _, v := range s.Vertexes {
		if v.Completed == nil || f.ended[v.Digest] {
			continue
		}
		f.ended[v.Digest] = true
		switch {
		case f.execs[v.Digest] && v.Cached:
			f.result.Cached++
		case f.execs[v.Digest]:
			f.result.Ran++
		}
		f.emit(Event{Kind: VertexFinished, Digest: v.Digest, Cached: v.Cached, Err: v.Error, Time: *v.Completed})
	}
}

func (f *follower) write(s stream, data []byte, when time.Time) {
	p := f.partial[s]
	if p == nil {
		p = &pending{}
		f.partial[s] = p
		f.order = append(f.order, s)
	}
	p.data = append(p.data, data...)
	p.when = when
	for {
		line, rest, ok := bytes.Cut(p.data, []byte("\n"))
		if !ok {
			return
		}
		f.line(s.vertex, line, when)
		p.data = rest
	}
}

// finish ends the lines that have no newline. That has to wait for the end of
// the build: output may be reported after the end of its step.
func (f *follower) finish() {
	for _, s := range f.order {
		if p := f.partial[s]; len(p.data) > 0 {
			f.line(s.vertex, p.data, p.when)
			p.data = nil
		}
	}
	f.flush()
}

// flush writes all lines of a report to the log at once: builds print thousands.
func (f *follower) flush() {
	if len(f.lines) > 0 && f.logErr == nil {
		_, f.logErr = f.log.Write(f.lines)
	}
	f.lines = f.lines[:0]
}

func (f *follower) line(vertex digest.Digest, line []byte, when time.Time) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if f.log != nil {
		if vertex != f.logging {
			f.logging = vertex
			f.lines = append(append(append(f.lines, "==> "...), f.names[vertex]...), '\n')
		}
		f.lines = append(append(f.lines, line...), '\n')
	}
	f.emit(Event{Kind: VertexLine, Digest: vertex, Line: string(line), Time: when})
}
