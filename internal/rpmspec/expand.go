package rpmspec

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrNeedsRPM says that a text depends on something only rpm itself, running in
// the build environment, can answer: %(…), %{lua:…}, %{getenv:…} and the like.
var ErrNeedsRPM = errors.New("needs rpm to evaluate")

// unknown stands in expanded text for what only rpm can answer. It travels with
// the text through macros, so what depends on it is known in the end and what
// does not stays clean. No text file holds a NUL byte.
const unknown = 0

const (
	maxDepth = 64       // nesting of expansions, rpm's own limit
	maxWork  = 32 << 20 // bytes of macro text that one spec may expand
)

// Expand expands s with the macros of m. Definitions within s live only during
// the call; m is not changed. What cannot be known without rpm is left out and
// the error is [ErrNeedsRPM].
func (m *Macros) Expand(s string) (string, error) {
	x := &expander{m: m.Child()}
	out, err := x.expandString(s)
	if err != nil {
		return "", err
	}
	if strings.IndexByte(out, unknown) >= 0 {
		return known(out), ErrNeedsRPM
	}
	return out, nil
}

// known drops the marks of the unknown from s.
func known(s string) string {
	if strings.IndexByte(s, unknown) < 0 {
		return s
	}
	return strings.ReplaceAll(s, string(rune(unknown)), "")
}

// expander expands text; definitions go to m.
type expander struct {
	m     *Macros
	depth int
	work  int
	frame *frame // the parametric macro being expanded
	level int
	load  func(path string) error // %{load:…}; nil: not available
}

// frame holds the arguments of a parametric macro while it is expanded.
type frame struct {
	name    string
	all     []string // as given, with options
	args    []string // without options
	opts    []option
	defined []string // names that %define made in it
}

type option struct {
	flag   byte
	arg    string
	hasArg bool
}

// lookup finds %1, %#, %*, %**, %0, %-f and %-f*.
func (f *frame) lookup(name string) (string, bool) {
	switch name {
	case "0":
		return f.name, true
	case "#":
		return strconv.Itoa(len(f.args)), true
	case "*":
		return strings.Join(f.args, " "), true
	case "**":
		return strings.Join(f.all, " "), true
	}
	if name[0] == '-' {
		for i := len(f.opts) - 1; i >= 0; i-- {
			o := f.opts[i]
			if len(name) < 2 || o.flag != name[1] {
				continue
			}
			switch {
			case len(name) == 2 && o.hasArg:
				return "-" + string(o.flag) + " " + o.arg, true
			case len(name) == 2:
				return name, true
			case name[2:] == "*" && o.hasArg:
				return o.arg, true
			}
		}
		return "", false
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 1 || n > len(f.args) || name[0] == '0' {
		return "", false
	}
	return f.args[n-1], true
}

// parseOptions splits args by a getopt string; options may stand anywhere
// before a "--". The string "-" turns options off.
func (f *frame) parseOptions(spec string) error {
	if spec == "-" {
		f.args = f.all
		return nil
	}
	posix := strings.HasPrefix(spec, "+")
	for i := 0; i < len(f.all); i++ {
		a := f.all[i]
		if a == "--" {
			f.args = append(f.args, f.all[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			if posix {
				f.args = append(f.args, f.all[i:]...)
				break
			}
			f.args = append(f.args, a)
			continue
		}
		for j := 1; j < len(a); j++ {
			k := strings.IndexByte(spec, a[j])
			if k < 0 || a[j] == ':' || a[j] == '+' {
				return fmt.Errorf("%%%s does not take option -%c (it takes %q)", f.name, a[j], spec)
			}
			takes := 0
			for k+1+takes < len(spec) && spec[k+1+takes] == ':' {
				takes++
			}
			if takes == 0 {
				f.opts = append(f.opts, option{flag: a[j]})
				continue
			}
			o := option{flag: a[j], arg: a[j+1:], hasArg: true}
			if o.arg == "" {
				switch {
				case takes > 1:
					o.hasArg = false
				case i+1 < len(f.all):
					i++
					o.arg = f.all[i]
				default:
					return fmt.Errorf("%%%s: option -%c needs an argument", f.name, a[j])
				}
			}
			f.opts = append(f.opts, o)
			break
		}
	}
	return nil
}

func (x *expander) expandString(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out, err := x.expand(nil, s)
	return string(out), err
}

// spend counts work against the limit that stops runaway macros.
func (x *expander) spend(n int) error {
	x.work += n
	if x.work > maxWork {
		return errors.New("macro expansion grows without end: look for a macro that uses itself more than once")
	}
	return nil
}

// macroEnd returns the index after the macro call whose text after '%' starts
// at s[i], or -1 when a bracket is not closed.
func macroEnd(s string, i int) int {
	switch s[i] {
	case '(':
		return matchPair(s, i, '(', ')')
	case '{':
		return matchPair(s, i, '{', '}')
	case '[':
		return matchPair(s, i, '[', ']')
	}
	for i < len(s) && (s[i] == '?' || s[i] == '!') {
		i++
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	for i < len(s) && isName(s[i]) {
		i++
	}
	switch {
	case strings.HasPrefix(s[i:], "**"):
		i += 2
	case i < len(s) && (s[i] == '*' || s[i] == '#'):
		i++
	}
	return i
}

// expand appends the expansion of s to dst.
func (x *expander) expand(dst []byte, s string) ([]byte, error) {
	if err := x.spend(len(s) + 16); err != nil {
		return dst, err
	}
	if x.depth++; x.depth > maxDepth {
		x.depth--
		return dst, fmt.Errorf("macros nest deeper than %d: look for a macro that uses itself", maxDepth)
	}
	dst, err := x.expandAll(dst, s)
	x.depth--
	return dst, err
}

func (x *expander) expandAll(dst []byte, s string) ([]byte, error) {
	var err error
	for i := 0; ; {
		j := strings.IndexByte(s[i:], '%')
		if j < 0 {
			return append(dst, s[i:]...), nil
		}
		dst = append(dst, s[i:i+j]...)
		i += j + 1
		if i == len(s) {
			return append(dst, '%'), nil
		}
		if s[i] == '%' {
			dst = append(dst, '%')
			i++
			continue
		}
		end := macroEnd(s, i)
		if end < 0 {
			return dst, fmt.Errorf("unterminated %%%c: %s", s[i], clip(s[i:]))
		}
		if err := x.spend(end - i); err != nil {
			return dst, err
		}
		c := call{end: end, arg: -1, words: -1}
		switch s[i] {
		case '(':
			dst = append(dst, unknown)
			i = end
			continue
		case '[':
			if dst, err = x.expression(dst, s[i+1:end-1]); err != nil {
				return dst, err
			}
			i = end
			continue
		case '{':
			c.braced = true
			c.flags(s, i+1)
			k := c.name
			for s[k] != ' ' && s[k] != ':' && s[k] != '}' {
				k++
			}
			c.nameEnd = k
			switch s[k] {
			case ':':
				c.arg = k + 1
			case ' ':
				c.words = end - 1
			}
		default:
			c.flags(s, i)
			c.nameEnd = end
			i = c.name
		}
		var next int
		if dst, next, err = x.call(dst, s, c); err != nil {
			return dst, err
		}
		if next < 0 { // not a macro: the text stays
			dst = append(dst, '%')
			continue
		}
		i = next
	}
}

// call is a macro call in a text, by index.
type call struct {
	name, nameEnd int
	end           int // after the call's own text
	arg           int // start of X in %{name:X}; it ends before the brace
	words         int // end of the words in %{name words}
	braced        bool
	test, negate  bool // %{?name}, %{!name}
}

func (c *call) flags(s string, i int) {
	for i < len(s) && (s[i] == '?' || s[i] == '!') {
		if s[i] == '!' {
			c.negate = !c.negate
		} else {
			c.test = true
		}
		i++
	}
	c.name = i
}

// call carries out c and returns where the text goes on; -1 means that c names
// no macro.
func (x *expander) call(dst []byte, s string, c call) (_ []byte, next int, err error) {
	name := s[c.name:c.nameEnd]
	if name == "" {
		return dst, -1, nil
	}
	var e *entry
	var auto string
	found := false
	if isAlpha(name[0]) || name[0] == '_' {
		e = x.m.lookup(name)
		found = e != nil
	} else if x.frame != nil {
		auto, found = x.frame.lookup(name)
	}

	if c.test || name[0] == '-' {
		if found == c.negate {
			return dst, c.end, nil
		}
		if c.arg >= 0 && c.arg < c.end-1 {
			dst, err = x.expand(dst, s[c.arg:c.end-1])
		} else if e != nil {
			dst, err = x.run(dst, e, nil, false)
		} else if found {
			dst = append(dst, auto...)
			err = x.spend(len(auto))
		}
		return dst, c.end, err
	}
	switch {
	case !found:
		return dst, -1, nil
	case e == nil:
		return append(dst, auto...), c.end, x.spend(len(auto))
	case e.builtin == nil && !e.parametric:
		dst, err = x.run(dst, e, nil, false)
		return dst, c.end, err
	}

	if e.builtin != nil && e.builtin.raw && !c.braced {
		dst, n, err := e.builtin.free(x, dst, s[c.end:])
		return dst, c.end + n, err
	}
	next = c.end
	var args []string
	switch {
	case c.arg >= 0:
		arg := s[c.arg : c.end-1]
		if e.builtin == nil || !e.builtin.raw {
			if arg, err = x.expandString(arg); err != nil {
				return dst, next, err
			}
		}
		args = []string{arg}
	case e.builtin != nil && e.builtin.args == 0:
		// takes none, so what follows is not its
	case c.words >= 0 && e.builtin != nil && e.builtin.raw:
		args = []string{s[c.nameEnd:c.words]}
	case c.words >= 0:
		args, err = x.words(s[c.nameEnd:c.words])
	case !c.braced && c.end < len(s) && (s[c.end] == ' ' || s[c.end] == '\t'):
		// %name words: up to the line end
		nl := strings.IndexByte(s[c.end:], '\n')
		next = len(s)
		if nl >= 0 {
			next = c.end + nl
		}
		if err := x.spend(next - c.end); err != nil {
			return dst, next, err
		}
		args, err = x.words(s[c.end:next])
		if nl >= 0 && s[next-1] == '\\' {
			next++
		}
	}
	if err != nil {
		return dst, next, err
	}
	dst, err = x.run(dst, e, args, true)
	return dst, next, err
}

// words expands s and splits it at blanks that %{quote:…} does not protect.
func (x *expander) words(s string) ([]string, error) {
	s, err := x.expandString(s)
	if err != nil {
		return nil, err
	}
	if err := x.spend(8 * len(s)); err != nil { // a word costs more than its bytes
		return nil, err
	}
	if strings.IndexByte(s, quoteMark) < 0 {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' }), nil
	}
	var out []string
	quoted, start := false, 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || !quoted && (s[i] == ' ' || s[i] == '\t') {
			if i > start {
				out = append(out, strings.ReplaceAll(s[start:i], string(rune(quoteMark)), ""))
			}
			start = i + 1
		} else if s[i] == quoteMark {
			quoted = !quoted
		}
	}
	return out, nil
}

// quoteMark encloses what %{quote:…} keeps together.
const quoteMark = 0x1f

// run appends what e expands to. With called set, args are its arguments.
func (x *expander) run(dst []byte, e *entry, args []string, called bool) ([]byte, error) {
	switch {
	case e.builtin != nil:
		if e.builtin.args >= 0 && (e.builtin.args > 0) != (len(args) > 0) {
			if len(args) > 0 {
				return dst, fmt.Errorf("%%%s takes no argument", e.name)
			}
			return dst, fmt.Errorf("%%%s needs an argument: write %%{%s:…}", e.name, e.name)
		}
		from := len(dst)
		dst, err := e.builtin.run(x, dst, args)
		if err != nil {
			return dst, err
		}
		for _, a := range args {
			if strings.IndexByte(a, unknown) >= 0 && bytes.IndexByte(dst[from:], unknown) < 0 {
				return append(dst, unknown), nil
			}
		}
		return dst, x.spend(len(dst) - from)
	case e.body == "":
		return dst, nil
	case e.literal:
		return append(dst, e.body...), x.spend(len(e.body))
	case !e.parametric || !called:
		return x.expand(dst, e.body)
	}
	f := &frame{name: e.name, all: args}
	if err := f.parseOptions(e.opts); err != nil {
		return dst, err
	}
	outer := x.frame
	x.frame = f
	x.level++
	dst, err := x.expand(dst, e.body)
	for _, name := range f.defined {
		if d := x.m.lookup(name); d != nil && d.level >= x.level {
			x.m.pop(name)
		}
	}
	x.level--
	x.frame = outer
	return dst, err
}

// expression appends the value of %[…].
func (x *expander) expression(dst []byte, s string) ([]byte, error) {
	v, err := evaluate(s, x.expandString)
	if errors.Is(err, ErrNeedsRPM) {
		return append(dst, unknown), nil
	}
	if err != nil {
		return dst, err
	}
	return append(dst, v.String()...), nil
}

// clip shortens text for a message.
func clip(s string) string {
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[:i]
	}
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return known(s)
}
