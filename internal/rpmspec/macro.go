package rpmspec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Macros is a table of RPM macros. Tables are layered: [Macros.Child] gives an
// empty table that sees everything of its parent and keeps its own changes to
// itself, so one loaded macro pack serves any number of specs. Reading a table
// from several goroutines is safe as long as nobody defines or loads into it.
type Macros struct {
	parent *Macros
	own    map[string]*entry // a nil entry hides the parent's
}

// entry is one definition of a macro; prev is what %undefine brings back.
type entry struct {
	name       string
	body       string
	opts       string
	parametric bool // defined with (), so it takes arguments
	literal    bool // body is text that is not expanded again
	builtin    *builtin
	level      int // depth of the parametric macro whose end drops it; 0: stays
	prev       *entry
}

// Child returns an empty table on top of m.
func (m *Macros) Child() *Macros {
	return &Macros{parent: m, own: map[string]*entry{}}
}

func (m *Macros) lookup(name string) *entry {
	for t := m; t != nil; t = t.parent {
		if e, ok := t.own[name]; ok {
			return e
		}
	}
	return nil
}

// Defined reports whether name is a macro, built-in or defined.
func (m *Macros) Defined(name string) bool { return m.lookup(name) != nil }

func (m *Macros) push(e *entry) {
	e.prev = m.lookup(e.name)
	m.own[e.name] = e
}

// pop removes the newest definition and uncovers the one before.
func (m *Macros) pop(name string) {
	e := m.lookup(name)
	if e == nil {
		return
	}
	if e.prev == nil && m.parent == nil {
		delete(m.own, name)
		return
	}
	m.own[name] = e.prev
}

// Define sets a macro as `%define` does: name may carry options, as in
// "foo(n:)"; body is expanded when the macro is used. An empty body is allowed
// and makes the macro expand to nothing.
func (m *Macros) Define(name, body string) error {
	d := definition{name: name, body: body}
	if i := strings.IndexByte(name, '('); i >= 0 {
		if !strings.HasSuffix(name, ")") {
			return fmt.Errorf("macro %%%s: options lack their closing parenthesis", name)
		}
		d.name, d.opts, d.parametric = name[:i], name[i+1:len(name)-1], true
	}
	if len(d.name) == 0 || strings.TrimFunc(d.name, isNameRune) != "" {
		return fmt.Errorf("macro name %q: use letters, digits and '_' only", d.name)
	}
	return m.define(d, 0, "Define")
}

func (m *Macros) define(d definition, level int, by string) error {
	if err := m.checkName(d.name, by); err != nil {
		return err
	}
	m.push(&entry{name: d.name, opts: d.opts, parametric: d.parametric, body: d.body, level: level})
	return nil
}

func (m *Macros) checkName(name, by string) error {
	if name == "" || !(isAlpha(name[0]) || name[0] == '_' && len(name) > 1) {
		return fmt.Errorf("%s: illegal macro name %q: start it with a letter, or with '_' and one more character", by, name)
	}
	if e := m.lookup(name); e != nil && e.builtin != nil {
		return fmt.Errorf("%s: %%%s is built in and cannot be changed: choose another name", by, name)
	}
	return nil
}

// LoadFile reads an RPM macro file. Every line that starts with '%' defines a
// macro; it goes on over line ends that are escaped or within braces. All bad
// definitions of the file are reported, as "file:line: message".
func (m *Macros) LoadFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("macro file: %w", err)
	}
	return m.loadText(path, string(data))
}

// Load reads an RPM macro file from r; name stands for it in errors.
func (m *Macros) Load(name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("macro file %s: %w", name, err)
	}
	return m.loadText(name, string(data))
}

func (m *Macros) loadText(file, text string) error {
	var errs []error
	line := 0
	for len(text) > 0 {
		logical, n := macroFileLine(text)
		text = text[len(logical):]
		first := line + 1
		line += n
		logical = strings.TrimLeft(logical, " \t")
		if !strings.HasPrefix(logical, "%") {
			continue
		}
		if strings.IndexByte(logical, unknown) >= 0 {
			errs = append(errs, &Error{file, first, "NUL byte: a macro file is text"})
			continue
		}
		d, _, err := parseDefinition(strings.ReplaceAll(logical, "\r\n", "\n"), 1, true)
		if err == nil {
			err = d.complete()
		}
		if err == nil {
			err = m.define(d, 0, "macro file")
		}
		if err != nil {
			errs = append(errs, &Error{file, first, err.Error()})
		}
	}
	return errors.Join(errs...)
}

// macroFileLine cuts one logical line, with its line ends, off a macro file. An
// empty line ends it even within braces, so that one slip does not swallow the
// rest of the file.
func macroFileLine(text string) (logical string, lines int) {
	var b balance
	end := 0
	for end < len(text) {
		nl := strings.IndexByte(text[end:], '\n')
		next := len(text)
		if nl >= 0 {
			next = end + nl + 1
		}
		phys := text[end:next]
		end = next
		lines++
		bare := strings.TrimRight(phys, "\r\n")
		b.scan(bare)
		if bare == "" || b.closed() && !strings.HasSuffix(bare, "\\") {
			break
		}
	}
	return text[:end], lines
}

// balance counts what a line leaves open.
type balance struct{ brace, paren, bracket int }

func (b *balance) closed() bool { return b.brace == 0 && b.paren == 0 && b.bracket == 0 }

// scan counts s and reports whether it ends in an escaped line end.
func (b *balance) scan(s string) (continued bool) {
	if b.closed() && strings.IndexByte(s, '%') < 0 {
		n := len(s)
		if n == 0 || s[n-1] != '\n' {
			return false
		}
		// an even run of backslashes escapes itself
		run := 0
		for run < n-1 && s[n-2-run] == '\\' {
			run++
		}
		return run%2 == 1
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
			if i < len(s) && s[i] == '\n' {
				continued = true
			}
		case '\n':
			continued = false
		case '%':
			if i+1 < len(s) {
				switch s[i+1] {
				case '{':
					b.brace++
					i++
				case '(':
					b.paren++
					i++
				case '[':
					b.bracket++
					i++
				case '%':
					i++
				}
			}
		case '{':
			if b.brace > 0 {
				b.brace++
			}
		case '}':
			if b.brace > 0 {
				b.brace--
			}
		case '(':
			if b.paren > 0 {
				b.paren++
			}
		case ')':
			if b.paren > 0 {
				b.paren--
			}
		case '[':
			if b.bracket > 0 {
				b.bracket++
			}
		case ']':
			if b.bracket > 0 {
				b.bracket--
			}
		}
	}
	return continued
}

// definition is a parsed "name(opts) body".
type definition struct {
	name, opts, body string
	parametric       bool
}

func (d definition) complete() error {
	if d.body == "" {
		return fmt.Errorf("macro %%%s has an empty body: write %%{nil} if it shall expand to nothing", d.name)
	}
	return nil
}

// parseDefinition reads "name(opts) body" in s from i on. As a free field the
// body ends with the line, unless that is escaped or in braces, and the line
// end is consumed too; otherwise the body is all that follows.
func parseDefinition(s string, i int, free bool) (d definition, end int, err error) {
	i = skipBlank(s, i)
	start := i
	for i < len(s) && isName(s[i]) {
		i++
	}
	d.name = s[start:i]
	if i < len(s) && s[i] == '(' {
		n := strings.IndexByte(s[i:], ')')
		if n < 0 {
			return d, i, fmt.Errorf("macro %%%s: options lack their closing parenthesis", d.name)
		}
		d.opts, d.parametric = s[i+1:i+n], true
		i += n + 1
	}
	i = skipBlank(s, i)
	switch {
	case !free:
		d.body = s[i:]
		return d, len(s), nil
	case i < len(s) && s[i] == '{':
		end := matchPair(s, i, '{', '}')
		if end < 0 {
			return d, i, fmt.Errorf("macro %%%s: body lacks its closing brace", d.name)
		}
		d.body = s[i+1 : end-1]
		i = end
	default:
		var b balance
		body := i
		var buf []byte // set once an escape makes the body differ from the text
		for i < len(s) && (b.brace > 0 || b.paren > 0 || s[i] != '\n' && s[i] != '\r') {
			from := i
			switch s[i] {
			case '\\':
				if i+1 < len(s) {
					if buf == nil {
						buf = append(make([]byte, 0, len(s)-body), s[body:i]...)
					}
					i++
					from = i
				}
			case '%':
				if i+1 < len(s) {
					switch s[i+1] {
					case '{':
						b.brace++
						i++
					case '(':
						b.paren++
						i++
					case '[':
						b.bracket++
						i++
					case '%':
						i++
					}
				}
			case '{', '}', '(', ')', '[', ']':
				b.scan(s[i : i+1])
			}
			i++
			if buf != nil {
				buf = append(buf, s[from:i]...)
			}
		}
		if !b.closed() {
			return d, i, fmt.Errorf("macro %%%s: body leaves a %%{, %%( or %%[ open", d.name)
		}
		if buf != nil {
			d.body = string(buf)
		} else {
			d.body = s[body:i]
		}
		d.body = strings.TrimRight(d.body, " \t\r\n")
	}
	for i < len(s) && (s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return d, i, nil
}

// matchPair returns the index after the bracket that closes the one at s[i], or
// -1. A backslash hides the character after it.
func matchPair(s string, i int, opening, closing byte) int {
	level := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case closing:
			level--
			if level <= 0 {
				return i + 1
			}
		case opening:
			level++
		}
	}
	return -1
}

func skipBlank(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
		i++
	}
	return i
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isName(c byte) bool  { return isAlpha(c) || isDigit(c) || c == '_' }
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isNameRune(r rune) bool { return r < 0x80 && isName(byte(r)) }
