package rpmspec

import (
	"errors"
	"fmt"
	"strings"
)

// Dep is one dependency of a tag such as Requires.
type Dep struct {
	// Text is the dependency as the spec writes it after expansion, with single
	// blanks and rpm's spelling of the comparison: "dinghy-glibc-devel",
	// "foo >= 1.2", "(a if b)".
	Text string
	// Line is where the spec has it.
	Line int
	// When holds the qualifiers of Requires(post,preun) as written, or "".
	When string
	// Term is the dependency taken apart.
	Term Term
}

// Term is a node of a dependency: a leaf with Name and, when versioned, Cmp and
// Version; or a rich dependency with Op and Args.
type Term struct {
	Name    string
	Cmp     string // "<", "<=", "=", ">=", ">" or ""
	Version string // [epoch:]version[-release]
	Op      string // "and", "or", "if", "unless", "with", "without" or ""
	Args    []Term // operands; the third of if and unless is the else branch
}

// String writes the term as rpm does.
func (t Term) String() string {
	if t.Op == "" && len(t.Args) == 0 {
		if t.Cmp == "" {
			return t.Name
		}
		return t.Name + " " + t.Cmp + " " + t.Version
	}
	var b strings.Builder
	t.write(&b)
	return b.String()
}

func (t Term) write(b *strings.Builder) {
	if len(t.Args) == 0 {
		b.WriteString(t.Name)
		if t.Cmp != "" {
			b.WriteString(" " + t.Cmp + " " + t.Version)
		}
		return
	}
	b.WriteByte('(')
	for i, a := range t.Args {
		switch {
		case i == 2 && (t.Op == "if" || t.Op == "unless"):
			b.WriteString(" else ")
		case i > 0:
			b.WriteString(" " + t.Op + " ")
		}
		a.write(b)
	}
	b.WriteByte(')')
}

// Names returns the names of all leaves, in order, each once.
func (t Term) Names() []string {
	var names []string
	seen := map[string]bool{}
	var walk func(Term)
	walk = func(t Term) {
		if len(t.Args) == 0 && !seen[t.Name] {
			seen[t.Name] = true
			names = append(names, t.Name)
		}
		for _, a := range t.Args {
			walk(a)
		}
	}
	walk(t)
	return names
}

// ParseDeps reads the value of a dependency tag: dependencies separated by
// commas or blanks. Rich dependencies are accepted as in Requires.
func ParseDeps(s string) ([]Dep, error) { return parseDeps(s, tagInfo{rich: true}) }

// ParseTerm reads one dependency of Requires, such as "foo >= 1.2" or "(a if b)".
func ParseTerm(s string) (Term, error) { return parseTerm(s, tagInfo{rich: true}) }

// ParseConflict reads one dependency of Conflicts, such as "(a unless b)".
func ParseConflict(s string) (Term, error) { return parseTerm(s, tagInfo{rich: true, negative: true}) }

func parseTerm(s string, tag tagInfo) (Term, error) {
	deps, err := parseDeps(s, tag)
	if err != nil {
		return Term{}, err
	}
	if len(deps) != 1 {
		return Term{}, fmt.Errorf("%q: write one dependency, not %d", clip(s), len(deps))
	}
	return deps[0].Term, nil
}

// parseDeps follows rpm: a token, then, if a comparison follows, the version.
func parseDeps(s string, tag tagInfo) ([]Dep, error) {
	var deps []Dep
	for i := skipSeparators(s, 0); i < len(s); i = skipSeparators(s, i) {
		if s[i] == '(' {
			if !tag.rich {
				return nil, fmt.Errorf("%s takes no rich dependency: list plain names", tag.name)
			}
			p := richParser{s: s, pos: i}
			check := richCheck
			t, err := p.parse(&check)
			if err == nil {
				outer := "and"
				if tag.negative {
					outer = "or"
				}
				err = richAllowed(outer, check)
			}
			if err != nil {
				return nil, fmt.Errorf("dependency %q: %w", clip(s[i:]), err)
			}
			deps = append(deps, Dep{Text: t.String(), Term: t})
			i = p.pos
			continue
		}
		end := skipToken(s, i)
		t := Term{Name: s[i:end]}
		i = skipSeparators(s, end)
		if opEnd := skipToken(s, i); comparison(s[i:opEnd]) != "" {
			t.Cmp = comparison(s[i:opEnd])
			i = skipSeparators(s, opEnd)
			end = skipToken(s, i)
			if end == i {
				return nil, fmt.Errorf("dependency %q: a version is missing after %q", t.Name, t.Cmp)
			}
			t.Version = s[i:end]
			i = end
		}
		if err := t.check(); err != nil {
			return nil, err
		}
		if tag.namesOnly {
			if err := checkName(t.Name); err != nil {
				return nil, fmt.Errorf("%s takes package names only: %w", tag.name, err)
			}
		}
		deps = append(deps, Dep{Text: t.String(), Term: t})
	}
	return deps, nil
}

// check rejects what rpm rejects in a leaf.
func (t Term) check() error {
	if c := t.Name[0]; c < 0x80 && !isAlpha(c) && !isDigit(c) && c != '_' && c != '/' {
		if c == '%' {
			return fmt.Errorf("dependency %q: the macro is not defined: define it, or load the macro file that does", t.Name)
		}
		return fmt.Errorf("dependency %q: a name begins with a letter, a digit, '_' or '/'", t.Name)
	}
	if t.Cmp == "" {
		return nil
	}
	if t.Name[0] == '/' {
		return fmt.Errorf("dependency %q: a file cannot have a version", t)
	}
	return checkChars("version of "+t.Name, t.Version, "._+%{}~^-:")
}

// comparison is rpm's spelling of a comparison, or "".
func comparison(s string) string {
	switch s {
	case "<", ">", "=", "<=", ">=":
		return s
	case "==":
		return "="
	case "=<":
		return "<="
	case "=>":
		return ">="
	}
	return ""
}

func isSeparator(c byte) bool { return c == ',' || isSpace(c) }

func skipSeparators(s string, i int) int {
	for i < len(s) && isSeparator(s[i]) {
		i++
	}
	return i
}

func skipToken(s string, i int) int {
	for i < len(s) && !isSeparator(s[i]) {
		i++
	}
	return i
}

// richParser reads "(a op b …)".
type richParser struct {
	s     string
	pos   int
	depth int
}

// What may stand around a rich dependency depends on what is in it: rpm forbids
// mixtures that no resolver can answer.
const (
	richCheck = 1 << iota
	richNoWith
	richNoAnd
	richNoOr
)

const maxRichDepth = 100

func richAllowed(op string, check int) error {
	switch {
	case (op == "with" || op == "without") && check&richNoWith != 0:
		return errors.New("with and without take names and with, without, or of names only")
	case check&richCheck == 0:
	case (op == "and" || op == "if") && check&richNoAnd != 0:
		return errors.New("'unless' cannot stand below 'and' or alone: use 'or', or turn it into 'if'")
	case (op == "or" || op == "unless") && check&richNoOr != 0:
		return errors.New("'if' cannot stand below 'or' or in a conflict: use 'and', or turn it into 'unless'")
	}
	return nil
}

func (p *richParser) parse(check *int) (Term, error) {
	if p.depth++; p.depth > maxRichDepth {
		return Term{}, errors.New("nests too deep")
	}
	defer func() { p.depth-- }()
	var t Term
	first, op, chain := "", "", ""
	state := *check
	p.pos++ // the parenthesis
	for {
		p.pos = skipSeparators(p.s, p.pos)
		if p.pos < len(p.s) && p.s[p.pos] == ')' {
			if op != "" {
				return t, fmt.Errorf("nothing follows %q", op)
			}
			return t, errors.New("nothing is within the parentheses")
		}
		if p.pos < len(p.s) && p.s[p.pos] == '(' {
			sub := state & richCheck
			arg, err := p.parse(&sub)
			if err != nil {
				return t, err
			}
			if op == "if" || op == "unless" {
				sub &^= richNoAnd | richNoOr
			}
			state |= sub
			t.Args = append(t.Args, arg)
		} else {
			arg, err := p.leaf()
			if err != nil {
				return t, err
			}
			t.Args = append(t.Args, arg)
		}
		p.pos = skipSeparators(p.s, p.pos)
		if p.pos == len(p.s) {
			return t, errors.New("the closing parenthesis is missing")
		}
		if p.s[p.pos] == ')' {
			p.pos++
			break
		}
		end := p.pos
		for end < len(p.s) && !isSpace(p.s[end]) && p.s[end] != ')' {
			end++
		}
		op = p.s[p.pos:end]
		switch op {
		case "and", "or", "if", "unless", "else", "with", "without":
		default:
			return t, fmt.Errorf("unknown operator %q: use and, or, if, unless, else, with or without", op)
		}
		p.pos = end
		if first == "" {
			first = op
		}
		if op == "else" && (chain == "if" || chain == "unless") {
			chain = ""
		}
		if chain != "" && op != chain {
			return t, fmt.Errorf("%q after %q: put one of them in parentheses", op, chain)
		}
		if chain != "" && op != "and" && op != "or" && op != "with" {
			return t, fmt.Errorf("%q cannot be chained: use parentheses", op)
		}
		chain = op
	}
	if err := richAllowed(first, state); err != nil {
		return t, err
	}
	switch first {
	case "if":
		state |= richNoOr
	case "unless":
		state |= richNoAnd
	}
	switch op {
	case "and", "or":
		state &^= richNoAnd | richNoOr
	}
	switch op {
	case "", "with", "without", "or":
	default:
		state |= richNoWith
	}
	*check |= state
	t.Op = first
	return t, nil
}

// leaf reads a name and version; parentheses belong to a name while they match.
func (p *richParser) leaf() (Term, error) {
	name := p.token()
	if name == "" {
		return Term{}, errors.New("the closing parenthesis is missing")
	}
	t := Term{Name: name}
	p.pos = skipSeparators(p.s, p.pos)
	mark := p.pos
	if cmp := comparison(p.token()); cmp != "" {
		t.Cmp = cmp
		p.pos = skipSeparators(p.s, p.pos)
		if t.Version = p.token(); t.Version == "" {
			return t, fmt.Errorf("a version is missing after %q", name+" "+cmp)
		}
	} else {
		p.pos = mark
	}
	return t, t.check()
}

func (p *richParser) token() string {
	start, level := p.pos, 0
	for p.pos < len(p.s) {
		c := p.s[p.pos]
		if isSeparator(c) {
			break
		}
		if c == ')' {
			if level <= 0 {
				break
			}
			level--
		}
		if c == '(' {
			level++
		}
		p.pos++
	}
	return p.s[start:p.pos]
}

// checkName rejects what rpm rejects in a package name.
func checkName(s string) error {
	if s == "" || !(isAlpha(s[0]) || isDigit(s[0]) || s[0] == '_' || s[0] == '%') {
		return fmt.Errorf("name %q: begin it with a letter, a digit or '_'", s)
	}
	return checkChars("name", s, ".-_+%{}")
}

func checkChars(what, s, allowed string) error {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte(allowed, c) < 0 {
			return fmt.Errorf("%s %q: character %q is not allowed", what, s, rune(c))
		}
	}
	if strings.Contains(s, "..") {
		return fmt.Errorf("%s %q: \"..\" is not allowed", what, s)
	}
	return nil
}
