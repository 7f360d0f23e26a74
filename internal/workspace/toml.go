package workspace

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// node is a TOML value that knows where it stands.
type node struct {
	kind   string // as people call it: "a string", "a table", …
	pos    Position
	text   string // of a string
	number int64  // of an integer
	on     bool   // of a boolean
	items  []*node
	keys   []string // of a table, in the order of the file
	fields map[string]*node
	keyPos Position // where the key stands
	header bool     // a table that has had its own [header]
	closed bool     // a table that nothing may be added to: inline tables
}

const (
	kindString  = "a string"
	kindInteger = "an integer"
	kindBoolean = "a boolean"
	kindList    = "a list"
	kindTable   = "a table"
	kindTables  = "a list of tables" // [[header]]
)

func newTable(pos Position) *node {
	return &node{kind: kindTable, pos: pos, keyPos: pos, fields: map[string]*node{}}
}

func (n *node) put(key string, child *node) {
	n.keys = append(n.keys, key)
	n.fields[key] = child
}

// reader turns one TOML file into nodes, collecting what is wrong.
type reader struct {
	file     string
	parser   unstable.Parser
	newlines []int
	findings Errors
}

// readTOML reads a whole TOML file. Where it reports findings, the table holds
// what could be read; whole tells whether that is all of the file.
func readTOML(file string, data []byte) (root *node, whole bool, findings Errors) {
	// Without spare capacity, the parser can place an error at the end of the file.
	data = slices.Clip(data)
	r := &reader{file: file}
	for i, c := range data {
		if c == '\n' {
			r.newlines = append(r.newlines, i)
		}
	}
	root = newTable(Position{File: file, Line: 1, Column: 1})
	table := root
	r.parser.Reset(data)
	for r.parser.NextExpression() {
		e := r.parser.Expression()
		switch e.Kind {
		case unstable.KeyValue:
			r.keyValue(table, e)
		case unstable.Table:
			table = r.table(root, e)
		case unstable.ArrayTable:
			table = r.arrayTable(root, e)
		}
	}
	if err := r.parser.Error(); err != nil {
		r.syntax(err)
		return root, false, r.findings
	}
	if len(r.findings) == 0 {
		// The rules of TOML that the walk above does not know, such as those on
		// mixing dotted keys and headers, are left to the library.
		var all map[string]any
		if err := toml.Unmarshal(data, &all); err != nil {
			pos := Position{File: file}
			var de *toml.DecodeError
			if errors.As(err, &de) {
				pos.Line, pos.Column = de.Position()
			}
			r.findings.add(pos, "", "not valid TOML: "+strings.TrimPrefix(err.Error(), "toml: "), "")
		}
	}
	return root, true, r.findings
}

func (r *reader) at(offset int) Position {
	line := sort.SearchInts(r.newlines, offset)
	column := offset + 1
	if line > 0 {
		column = offset - r.newlines[line-1]
	}
	return Position{File: r.file, Line: line + 1, Column: column}
}

func (r *reader) place(n *unstable.Node) Position { return r.at(int(n.Raw.Offset)) }

func (r *reader) syntax(err error) {
	pos := Position{File: r.file}
	var pe *unstable.ParserError
	if errors.As(err, &pe) {
		pos = r.at(int(r.parser.Range(pe.Highlight).Offset))
	}
	r.findings.add(pos, "", "not valid TOML: "+err.Error(), "what follows in the file was not read")
}

type keyPart struct {
	name string
	pos  Position
}

func (r *reader) key(it unstable.Iterator) []keyPart {
	var parts []keyPart
	for it.Next() {
		n := it.Node()
		parts = append(parts, keyPart{string(n.Data), r.place(n)})
	}
	return parts
}

func dotted(parts []keyPart) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return strings.Join(names, ".")
}

func (r *reader) twice(parts []keyPart, first *node) {
	last := parts[len(parts)-1]
	r.findings.add(last.pos, dotted(parts), fmt.Sprintf("%q is given twice", dotted(parts)),
		fmt.Sprintf("first in line %d; keep one", first.keyPos.Line))
}

// into walks from a table along the leading parts of a key, making tables on
// the way. It is nil, with a finding, where something else is in the way.
func (r *reader) into(t *node, parts []keyPart) *node {
	for i, p := range parts {
		child := t.fields[p.name]
		switch {
		case child == nil:
			child = newTable(p.pos)
			t.put(p.name, child)
		case child.kind == kindTables:
			child = child.items[len(child.items)-1]
		case child.kind != kindTable || child.closed:
			r.findings.add(p.pos, dotted(parts[:i+1]),
				fmt.Sprintf("%q cannot be added to: it was given in line %d", dotted(parts[:i+1]), child.keyPos.Line), "")
			return nil
		}
		t = child
	}
	return t
}

func (r *reader) table(root *node, e *unstable.Node) *node {
	parts := r.key(e.Key())
	last := parts[len(parts)-1]
	t := r.into(root, parts[:len(parts)-1])
	if t == nil {
		return newTable(last.pos) // what follows is read for its own findings only
	}
	child := t.fields[last.name]
	switch {
	case child == nil:
		child = newTable(last.pos)
		t.put(last.name, child)
	case child.kind != kindTable || child.closed || child.header:
		r.twice(parts, child)
		return newTable(last.pos)
	}
	child.header = true
	return child
}

func (r *reader) arrayTable(root *node, e *unstable.Node) *node {
	parts := r.key(e.Key())
	last := parts[len(parts)-1]
	item := newTable(last.pos)
	item.header = true
	t := r.into(root, parts[:len(parts)-1])
	if t == nil {
		return item
	}
	list := t.fields[last.name]
	switch {
	case list == nil:
		list = &node{kind: kindTables, pos: last.pos, keyPos: last.pos}
		t.put(last.name, list)
	case list.kind != kindTables:
		r.twice(parts, list)
		return item
	}
	list.items = append(list.items, item)
	return item
}

func (r *reader) keyValue(t *node, e *unstable.Node) {
	parts := r.key(e.Key())
	last := parts[len(parts)-1]
	value := r.value(e.Value(), last.pos)
	value.keyPos = last.pos
	if t = r.into(t, parts[:len(parts)-1]); t == nil {
		return
	}
	if first := t.fields[last.name]; first != nil {
		r.twice(parts, first)
		return
	}
	t.put(last.name, value)
}

// value reads a value; keyPos stands in for values whose own place the parser
// does not tell.
func (r *reader) value(e *unstable.Node, keyPos Position) *node {
	v := &node{pos: keyPos, keyPos: keyPos}
	if e.Raw.Length > 0 {
		v.pos = r.place(e)
	}
	switch e.Kind {
	case unstable.String:
		v.kind, v.text = kindString, string(e.Data)
	case unstable.Bool:
		v.kind, v.on = kindBoolean, string(e.Data) == "true"
	case unstable.Integer:
		v.kind = kindInteger
		text := string(e.Data)
		digits := strings.TrimLeft(text, "+-")
		n, err := strconv.ParseInt(text, 0, 64)
		if err != nil || len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
			r.findings.add(v.pos, "", fmt.Sprintf("%q is not an integer of TOML", text), "")
		}
		v.number = n
	case unstable.Float:
		v.kind = "a float"
	case unstable.Array:
		v.kind = kindList
		for it := e.Children(); it.Next(); {
			v.items = append(v.items, r.value(it.Node(), keyPos))
		}
	case unstable.InlineTable:
		v.kind, v.fields = kindTable, map[string]*node{}
		for it := e.Children(); it.Next(); {
			r.keyValue(v, it.Node())
		}
		v.closed = true
	default:
		v.kind = "a date or time"
	}
	return v
}
