package rpmspec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// reader yields the lines of a spec as rpm sees them: continuation lines
// joined, macros expanded, false branches left out, included files in place.
type reader struct {
	x       *expander
	files   []*file
	pending string // rest of the last logical line after expansion
	line    int    // where that one began
	raw     string // the last logical line before expansion
	conds   []cond
	reading bool
	buf     []byte // of the expansion, used again
	read    int    // bytes read, files included again and again too

	// doubt is called with what a condition depends on that only rpm knows, once
	// a line within it matters; matters judges lines.
	doubt   func(line int, what string)
	matters func(line string) bool
	doubts  int // conditions in conds that have not been reported
	missing func(path string) bool
}

type file struct {
	path string
	text string
	pos  int
	line int
}

// cond is an open %if.
type cond struct {
	line     int
	file     string
	outer    bool // reading outside it
	readable bool // no branch taken yet
	hasElse  bool
	doubt    string // not empty: hangs on this, not reported yet
	doubtAt  int    // its line
}

const (
	maxIncludes = 32
	maxRead     = 16 << 20 // bytes
)

// Error is a finding in a spec or macro file.
type Error struct {
	File string
	Line int
	Msg  string // what is wrong and what to do
}

// Error formats the finding as "file:line: message".
func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg) }

func (r *reader) errorf(format string, args ...any) error {
	return r.errorAt(r.line, format, args...)
}

func (r *reader) errorAt(line int, format string, args ...any) error {
	name := ""
	if len(r.files) > 0 {
		name = r.files[len(r.files)-1].path
	}
	return &Error{name, line, known(fmt.Sprintf(format, args...))}
}

func (r *reader) open(path, text string) error {
	if len(r.files) >= maxIncludes {
		return r.errorf("%%include nests deeper than %d files: does %s include itself?", maxIncludes, path)
	}
	if r.read += len(text); r.read > maxRead {
		return r.errorf("more than %d MiB of included text", maxRead>>20)
	}
	if i := strings.IndexByte(text, unknown); i >= 0 {
		return &Error{path, 1 + strings.Count(text[:i], "\n"), "NUL byte: a spec is text"}
	}
	r.files = append(r.files, &file{path: path, text: text})
	return nil
}

// logical reads the next logical line and expands it when it counts.
func (r *reader) logical() error {
	f := r.files[len(r.files)-1]
	for f.pos == len(f.text) {
		if len(r.files) == 1 {
			if n := len(r.conds); n > 0 {
				c := r.conds[n-1]
				return &Error{c.file, c.line, "%if without %endif: close it before the file ends"}
			}
			return io.EOF
		}
		r.files = r.files[:len(r.files)-1]
		f = r.files[len(r.files)-1]
	}
	var b balance
	start := f.pos
	r.line = f.line + 1
	for {
		if f.pos == len(f.text) {
			return r.errorf("this line opens a %%{, %%( or %%[ or ends in a backslash, and the file ends before it is complete")
		}
		nl := strings.IndexByte(f.text[f.pos:], '\n')
		end := len(f.text)
		if nl >= 0 {
			end = f.pos + nl + 1
		}
		continued := b.scan(f.text[f.pos:end])
		f.pos = end
		f.line++
		if !continued && b.closed() {
			break
		}
	}
	r.raw = f.text[start:f.pos]
	r.pending = r.raw
	if strings.IndexByte(r.raw, '%') < 0 {
		return nil
	}
	switch d := directiveOf(skipSpace(r.raw)); d {
	case dirElif, dirElifarch, dirElifos:
		if n := len(r.conds); n == 0 || !r.conds[n-1].readable {
			return nil
		}
	default:
		if !r.reading {
			return nil
		}
	}
	var err error
	if r.buf, err = r.x.expand(r.buf[:0], r.raw); err != nil {
		return r.errorf("%v", err)
	}
	r.pending = string(r.buf)
	return nil
}

type directive uint8

const (
	dirNone directive = iota
	dirIf
	dirIfarch
	dirIfnarch
	dirIfos
	dirIfnos
	dirElif
	dirElifarch
	dirElifos
	dirElse
	dirEndif
	dirInclude
)

var directives = [...]struct {
	word string
	args bool
}{
	dirIf: {"%if", true}, dirIfarch: {"%ifarch", true}, dirIfnarch: {"%ifnarch", true},
	dirIfos: {"%ifos", true}, dirIfnos: {"%ifnos", true},
	dirElif: {"%elif", true}, dirElifarch: {"%elifarch", true}, dirElifos: {"%elifos", true},
	dirElse: {"%else", false}, dirEndif: {"%endif", false}, dirInclude: {"%include", true},
}

// directiveOf tells which directive begins s; those with arguments need a blank
// or the line end after the word.
func directiveOf(s string) directive {
	if len(s) < 3 || s[0] != '%' || s[1] != 'i' && s[1] != 'e' {
		return dirNone
	}
	for d := dirIf; d <= dirInclude; d++ {
		w := directives[d].word
		if !strings.HasPrefix(s, w) {
			continue
		}
		if len(s) == len(w) {
			return d
		}
		c := s[len(w)]
		if directives[d].args && (c == ' ' || c == '\t' || c == '\n' || c == '\r') || !directives[d].args && !isAlpha(c) {
			return d
		}
	}
	return dirNone
}

func skipSpace(s string) string {
	i := 0
	for i < len(s) && s[i] != '\n' && isSpace(s[i]) {
		i++
	}
	return s[i:]
}

// next returns the next line that counts, without its line end; io.EOF ends.
func (r *reader) next() (string, error) {
	for {
		if r.pending == "" {
			if err := r.logical(); err != nil {
				return "", err
			}
		}
		d := directiveOf(skipSpace(r.pending))
		line := r.cut(d != dirNone)
		if d != dirNone {
			if err := r.direct(d, strings.TrimSpace(line)); err != nil {
				return "", err
			}
			continue
		}
		if r.doubts > 0 && r.matters(line) {
			r.reportDoubts()
		}
		if r.reading {
			return line, nil
		}
	}
}

// cut takes one line off the pending text. A directive goes on over escaped
// line ends.
func (r *reader) cut(joined bool) string {
	i := strings.IndexByte(r.pending, '\n')
	if i < 0 {
		line := r.pending
		r.pending = ""
		return line
	}
	if joined && i > 0 && r.pending[i-1] == '\\' {
		var b strings.Builder
		for i > 0 && r.pending[i-1] == '\\' {
			b.WriteString(r.pending[:i-1])
			b.WriteString("  ")
			r.pending = r.pending[i+1:]
			if i = strings.IndexByte(r.pending, '\n'); i < 0 {
				b.WriteString(r.pending)
				r.pending = ""
				return b.String()
			}
		}
		b.WriteString(r.pending[:i])
		r.pending = r.pending[i+1:]
		return b.String()
	}
	line := r.pending[:i]
	r.pending = r.pending[i+1:]
	return line
}

func (r *reader) reportDoubts() {
	for i := range r.conds {
		if c := &r.conds[i]; c.doubt != "" {
			r.doubt(c.doubtAt, c.doubt)
			c.doubt = ""
		}
	}
	r.doubts = 0
}

// direct carries out a directive.
func (r *reader) direct(d directive, line string) error {
	word := directives[d].word
	arg := strings.TrimSpace(line[len(word):])
	var c *cond
	if n := len(r.conds); n > 0 {
		c = &r.conds[n-1]
	}
	switch d {
	case dirElif, dirElifarch, dirElifos, dirElse, dirEndif:
		if c == nil {
			return r.errorf("%s without %%if: remove it, or open the condition before it", word)
		}
		if c.hasElse && d != dirEndif {
			return r.errorf("%s after %%else of the %%if in line %d: a condition has one %%else, and it comes last", word, c.line)
		}
	}
	if directives[d].args && arg == "" {
		return r.errorf("%s without argument: %s", word, map[bool]string{true: "name what to compare with", false: "write the condition on the same line"}[d != dirIf && d != dirElif])
	}

	switch d {
	case dirElse:
		c.hasElse = true
		r.reading = c.outer && c.readable
		return nil
	case dirEndif:
		r.reading = c.outer
		if c.doubt != "" {
			r.doubts--
		}
		r.conds = r.conds[:len(r.conds)-1]
		return nil
	case dirInclude:
		if !r.reading {
			return nil
		}
		return r.include(arg)
	}

	match, doubt := false, false
	switch d {
	case dirIf, dirElif:
		if d == dirIf && r.reading || d == dirElif && c.readable {
			v, err := evaluate(arg, nil)
			switch {
			case errors.Is(err, ErrNeedsRPM):
				doubt = true
			case err != nil:
				return r.errorf("%s: %v", word, err)
			}
			match = err == nil && v.truth()
		}
	case dirIfos, dirIfnos, dirElifos:
		match = r.isMember("%{_target_os}", arg) != (d == dirIfnos)
		doubt = strings.IndexByte(arg, unknown) >= 0
	default:
		match = r.isMember("%{_target_cpu}", arg) != (d == dirIfnarch)
		doubt = strings.IndexByte(arg, unknown) >= 0
	}
	switch d {
	case dirElif, dirElifarch, dirElifos:
		r.reading = c.readable && match
		if r.reading {
			c.readable = false
		}
	default:
		outer := r.reading
		r.reading = outer && match
		r.conds = append(r.conds, cond{line: r.line, file: r.files[len(r.files)-1].path, outer: outer, readable: outer && !r.reading})
		c = &r.conds[len(r.conds)-1]
	}
	if doubt {
		if c.doubt == "" {
			r.doubts++
		}
		c.doubt, c.doubtAt = word, r.line
	}
	return nil
}

// isMember reports whether the words of list hold the value of a macro.
func (r *reader) isMember(macro, list string) bool {
	want, err := r.x.expandString(macro)
	if err != nil {
		return false
	}
	for w := range strings.FieldsSeq(list) {
		if strings.EqualFold(w, want) {
			return true
		}
	}
	return false
}

func (r *reader) include(path string) error {
	if strings.IndexByte(path, unknown) >= 0 {
		r.doubt(r.line, "%include")
		return nil
	}
	text, ok, err := r.readFile(path)
	if err != nil {
		return r.errorf("%%include: %v", err)
	}
	if !ok {
		r.doubt(r.line, "%include")
		return nil
	}
	return r.open(path, text)
}

// readFile reads a file that the spec names, relative to the spec's folder. It
// reports false for one that does not exist here but will when rpm runs.
func (r *reader) readFile(path string) (text string, ok bool, err error) {
	full := path
	if !filepath.IsAbs(full) {
		full = filepath.Join(filepath.Dir(r.files[0].path), path)
	}
	data, err := os.ReadFile(full)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) && r.missing(path) {
			return "", false, nil
		}
		return "", false, err
	}
	return string(data), true, nil
}
