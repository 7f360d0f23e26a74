package workspace

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

// ErrNoWorkspace is wrapped by Find and Load when there is no slipway.toml.
var ErrNoWorkspace = errors.New("no workspace found")

// Error is one finding in a file of the workspace.
type Error struct {
	File         string // relative to the workspace root, with slashes
	Line, Column int    // from 1, in bytes; 0 when the finding is about the file as a whole
	Key          string // the offending key with its tables, such as external-files[0].sha512; may be empty
	Msg          string // what is wrong
	Hint         string // what to do; may be empty
}

// NewError is a finding at a position.
func NewError(pos Position, key, msg, hint string) *Error {
	return &Error{File: pos.File, Line: pos.Line, Column: pos.Column, Key: key, Msg: msg, Hint: hint}
}

// Error is "file:line:column: message (hint)"; places that are not known are
// left out.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(Position{File: e.File, Line: e.Line, Column: e.Column}.String())
	b.WriteString(": ")
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Errors is every finding of a workspace, sorted by file and place.
type Errors []*Error

// Error has one finding a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As each finding.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, f := range e {
		list[i] = f
	}
	return list
}

// Err sorts the findings and returns them as an error: nil when there are none.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}

func (e *Errors) add(pos Position, key, msg, hint string) {
	*e = append(*e, NewError(pos, key, msg, hint))
}
