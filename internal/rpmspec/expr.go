package rpmspec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// An expression is what follows %if or stands in %[…]: integers, "strings",
// version literals v"1:2-3", the operators ! - * / + < <= > >= == != && || ?:
// and parentheses. Both sides of an operator must be of one type. The side that
// is not taken is parsed, but neither expanded nor judged.

type kind uint8

const (
	kindInt kind = iota
	kindString
	kindVersion
)

func (k kind) String() string {
	return [...]string{"a number", "a string", "a version"}[k]
}

type value struct {
	kind kind
	i    int32
	s    string
}

// String is the value as %[…] prints it.
func (v value) String() string {
	if v.kind == kindInt {
		return strconv.Itoa(int(v.i))
	}
	return v.s
}

// truth of a version is false, as rpm has it.
func (v value) truth() bool {
	return v.kind == kindInt && v.i != 0 || v.kind == kindString && v.s != ""
}

func truthValue(b bool) value {
	if b {
		return value{i: 1}
	}
	return value{}
}

// operators, the two-character ones encoded by their first byte plus 0x80
const (
	opEq     = '=' | 0x80
	opNe     = '!' | 0x80
	opLe     = '<' | 0x80
	opGe     = '>' | 0x80
	opAnd    = '&' | 0x80
	opOr     = '|' | 0x80
	tokEnd   = 1
	tokValue = 2
)

type evaluator struct {
	s       string
	pos     int
	tok     byte
	val     value
	discard bool // the side that is not taken
	depth   int
	expand  func(string) (string, error) // nil: macros were expanded before
}

// Bounds that no sane condition comes near.
const (
	maxExprDepth  = 200
	maxExprString = 64 << 10
)

// evaluate computes s. With expand set, strings and numbers may hold macros,
// expanded only where the value counts. The error is [ErrNeedsRPM] when the
// value hangs on something unknown.
func evaluate(s string, expand func(string) (string, error)) (value, error) {
	e := &evaluator{s: s, expand: expand}
	v, err := e.all()
	if err != nil && !errors.Is(err, ErrNeedsRPM) {
		err = fmt.Errorf("expression %q: %w", clip(strings.TrimSpace(s)), err)
	}
	return v, err
}

func (e *evaluator) all() (value, error) {
	if err := e.next(); err != nil {
		return value{}, err
	}
	v, err := e.ternary()
	if err == nil && e.tok != tokEnd {
		err = e.unexpected()
	}
	return v, err
}

func (e *evaluator) unexpected() error {
	switch e.tok {
	case tokEnd:
		return errors.New("ends too early")
	case tokValue:
		return errors.New("an operator is missing before " + strconv.Quote(e.val.String()))
	}
	return fmt.Errorf("unexpected %q", rune(e.tok&0x7f))
}

// next reads one token.
func (e *evaluator) next() error {
	s := e.s
	for e.pos < len(s) && isSpace(s[e.pos]) {
		e.pos++
	}
	if e.pos == len(s) {
		e.tok = tokEnd
		return nil
	}
	c := s[e.pos]
	second := byte(' ')
	if e.pos+1 < len(s) {
		second = s[e.pos+1]
	}
	switch c {
	case '+', '-', '*', '/', '(', ')', '?', ':', ',':
		e.tok = c
		e.pos++
		return nil
	case '=', '&', '|':
		want := c
		if second != want {
			return fmt.Errorf("single %q: write %q", rune(c), string([]byte{c, c}))
		}
		e.tok = c | 0x80
		e.pos += 2
		return nil
	case '!', '<', '>':
		e.tok = c
		e.pos++
		if second == '=' {
			e.tok = c | 0x80
			e.pos++
		}
		return nil
	case unknown:
		return ErrNeedsRPM
	}
	switch {
	case isDigit(c) || c == '%' && e.expand != nil:
		return e.number()
	case c == '"':
		e.pos++
		return e.quoted(kindString)
	case c == 'v' && second == '"':
		e.pos += 2
		return e.quoted(kindVersion)
	case isAlpha(c):
		end := e.pos
		for end < len(s) && (isName(s[end]) || s[end] == ':' || s[end] == '.') {
			end++
		}
		if strings.HasPrefix(s[e.pos:], "lua:") {
			return ErrNeedsRPM
		}
		return fmt.Errorf("bare word %q: put it in double quotes", s[e.pos:end])
	case c == '%':
		return fmt.Errorf("macro %q is not defined here: test it with %%{?…} or use 0%%{?…}", clip(s[e.pos:]))
	}
	return fmt.Errorf("unexpected character %q", rune(c))
}

func (e *evaluator) skipMacro(i int) int {
	i++
	if i >= len(e.s) {
		return i
	}
	if e.s[i] == '%' {
		return i + 1
	}
	if end := macroEnd(e.s, i); end >= 0 {
		return end
	}
	return len(e.s)
}

func (e *evaluator) text(from, to int) (string, error) {
	if e.discard {
		return "", nil
	}
	t := e.s[from:to]
	if e.expand != nil {
		var err error
		if t, err = e.expand(t); err != nil {
			return "", err
		}
	}
	if strings.IndexByte(t, unknown) >= 0 {
		return "", ErrNeedsRPM
	}
	return t, nil
}

func (e *evaluator) number() error {
	i := e.pos
	for i < len(e.s) {
		if e.s[i] == '%' && e.expand != nil {
			i = e.skipMacro(i)
		} else if isDigit(e.s[i]) {
			i++
		} else {
			break
		}
	}
	t, err := e.text(e.pos, i)
	if err != nil {
		return err
	}
	if strings.Trim(strings.TrimPrefix(t, "-"), "0123456789") != "" {
		if isAlpha(t[0]) {
			return fmt.Errorf("%s gives the bare word %q: put it in double quotes", e.s[e.pos:i], t)
		}
		return fmt.Errorf("%s gives %q, which is no integer", e.s[e.pos:i], t)
	}
	n, _ := strconv.ParseInt(t, 10, 64) // out of range gives the nearest, as strtol does
	e.tok, e.val, e.pos = tokValue, value{i: int32(n)}, i
	return nil
}

func (e *evaluator) quoted(k kind) error {
	i := e.pos
	for i < len(e.s) && e.s[i] != '"' {
		if e.s[i] == '%' && e.expand != nil {
			i = e.skipMacro(i)
		} else {
			i++
		}
	}
	if i >= len(e.s) {
		return errors.New("a string lacks its closing quote")
	}
	t, err := e.text(e.pos, i)
	if err != nil {
		return err
	}
	if k == kindVersion {
		if e.discard {
			t = "0"
		}
		if t == "" {
			return errors.New(`empty version: v"" needs at least one character`)
		}
		t = splitEVR(t).String()
	}
	e.tok, e.val, e.pos = tokValue, value{kind: k, s: t}, i+1
	return nil
}

func (e *evaluator) primary() (v value, err error) {
	if e.depth++; e.depth > maxExprDepth {
		return v, errors.New("nests too deep")
	}
	defer func() { e.depth-- }()
	switch tok := e.tok; tok {
	case tokValue:
		v = e.val
		return v, e.next()
	case '(':
		if err = e.next(); err != nil {
			return v, err
		}
		if v, err = e.ternary(); err != nil {
			return v, err
		}
		if e.tok != ')' {
			return v, errors.New("an opening parenthesis is not closed")
		}
		return v, e.next()
	case '-', '!':
		if err = e.next(); err != nil {
			return v, err
		}
		if v, err = e.primary(); err != nil {
			return v, err
		}
		if tok == '!' {
			return truthValue(!v.truth()), nil
		}
		if v.kind != kindInt {
			return v, fmt.Errorf("'-' before %s: only numbers have a sign", v.kind)
		}
		v.i = -v.i
		return v, nil
	}
	return v, e.unexpected()
}

// binary reads operand { op operand } for one level of precedence.
func (e *evaluator) binary(operand func() (value, error), isOp func(byte) bool, apply func(op byte, a, b value) (value, error)) (value, error) {
	v, err := operand()
	for err == nil && isOp(e.tok) {
		op := e.tok
		if err = e.next(); err != nil {
			break
		}
		var w value
		if w, err = operand(); err != nil {
			break
		}
		if err = sameType(op, v, w); err != nil {
			break
		}
		v, err = apply(op, v, w)
	}
	return v, err
}

func sameType(op byte, a, b value) error {
	if a.kind == b.kind {
		return nil
	}
	return fmt.Errorf("%q between %s and %s: both sides must be of one type", opName(op), a.kind, b.kind)
}

func opName(op byte) string {
	switch op {
	case opAnd, opOr, opEq:
		return string([]byte{op & 0x7f, op & 0x7f})
	case opNe, opLe, opGe:
		return string([]byte{op & 0x7f, '='})
	}
	return string([]byte{op})
}

func (e *evaluator) product() (value, error) {
	return e.binary(e.primary, func(t byte) bool { return t == '*' || t == '/' }, func(op byte, a, b value) (value, error) {
		switch {
		case a.kind != kindInt:
			return a, fmt.Errorf("%q works on numbers, not on %s", opName(op), a.kind)
		case e.discard:
		case op == '*':
			a.i *= b.i
		case b.i == 0:
			return a, errors.New("division by zero")
		default:
			a.i /= b.i
		}
		return a, nil
	})
}

func (e *evaluator) sum() (value, error) {
	return e.binary(e.product, func(t byte) bool { return t == '+' || t == '-' }, func(op byte, a, b value) (value, error) {
		switch {
		case a.kind == kindInt && op == '+':
			a.i += b.i
		case a.kind == kindInt:
			a.i -= b.i
		case a.kind == kindString && op == '+':
			if len(a.s)+len(b.s) > maxExprString {
				return a, errors.New("string grows beyond 64 KiB")
			}
			a.s += b.s
		default:
			return a, fmt.Errorf("%q does not work on %s", opName(op), a.kind)
		}
		return a, nil
	})
}

func (e *evaluator) relation() (value, error) {
	isOp := func(t byte) bool {
		return t == opEq || t == opNe || t == '<' || t == '>' || t == opLe || t == opGe
	}
	return e.binary(e.sum, isOp, func(op byte, a, b value) (value, error) {
		var c int
		switch a.kind {
		case kindInt:
			c = int(a.i) - int(b.i)
		case kindString:
			c = strings.Compare(a.s, b.s)
		case kindVersion:
			c = compareEVR(splitEVR(a.s), splitEVR(b.s))
		}
		var r bool
		switch op {
		case opEq:
			r = c == 0
		case opNe:
			r = c != 0
		case '<':
			r = c < 0
		case opLe:
			r = c <= 0
		case '>':
			r = c > 0
		case opGe:
			r = c >= 0
		}
		return truthValue(r), nil
	})
}

func (e *evaluator) logic() (value, error) {
	outer := e.discard
	v, err := e.relation()
	for err == nil && (e.tok == opAnd || e.tok == opOr) {
		op := e.tok
		decided := v.truth() == (op == opOr)
		if decided {
			e.discard = true
		}
		if err = e.next(); err != nil {
			break
		}
		var w value
		if w, err = e.relation(); err != nil {
			break
		}
		e.discard = outer
		if err = sameType(op, v, w); err != nil {
			break
		}
		if !decided {
			v = w
		}
	}
	e.discard = outer
	return v, err
}

func (e *evaluator) ternary() (value, error) {
	outer := e.discard
	defer func() { e.discard = outer }()
	v, err := e.logic()
	if err != nil || e.tok != '?' {
		return v, err
	}
	if e.depth++; e.depth > maxExprDepth {
		return v, errors.New("nests too deep")
	}
	defer func() { e.depth-- }()
	cond := v.truth()
	e.discard = outer || !cond
	if err = e.next(); err != nil {
		return v, err
	}
	yes, err := e.ternary()
	if err != nil {
		return v, err
	}
	if e.tok != ':' {
		return v, errors.New("'?' lacks its ':'")
	}
	e.discard = outer || cond
	if err = e.next(); err != nil {
		return v, err
	}
	no, err := e.ternary()
	if err != nil {
		return v, err
	}
	if err := sameType('?', yes, no); err != nil {
		return v, err
	}
	if cond {
		return yes, nil
	}
	return no, nil
}
