// Package rpm reads what a dependency solver needs from binary RPMs, and solves:
// it tells which RPMs an installation of given dependencies consists of.
package rpm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Metadata is what a dependency solver needs of a binary RPM. Its lists are
// sorted and free of duplicates.
type Metadata struct {
	Name    string `json:"name"`
	Epoch   uint32 `json:"epoch,omitempty"`
	Version string `json:"version"`
	Release string `json:"release"`
	Arch    string `json:"arch"`
	// SourceRPM is the file name of the source RPM that this one was built from.
	SourceRPM string `json:"source,omitempty"`
	Provides  []Dep  `json:"provides,omitempty"`
	// Requires has no rpmlib(…): what rpm itself must be able to do.
	Requires  []Dep `json:"requires,omitempty"`
	Conflicts []Dep `json:"conflicts,omitempty"`
	Obsoletes []Dep `json:"obsoletes,omitempty"`
	// Files are the absolute paths that repositories list in primary.xml, because
	// dependencies usually name these: below /etc/, with "bin/" in them, and
	// /usr/lib/sendmail.
	Files []string `json:"files,omitempty"`
}

// EVR is [epoch:]version-release.
func (m *Metadata) EVR() string {
	s := m.Version
	if m.Epoch != 0 {
		s = strconv.FormatUint(uint64(m.Epoch), 10) + ":" + s
	}
	if m.Release != "" {
		s += "-" + m.Release
	}
	return s
}

// String is name-[epoch:]version-release.arch.
func (m *Metadata) String() string {
	s := m.Name
	if evr := m.EVR(); evr != "" {
		s += "-" + evr
	}
	if m.Arch != "" {
		s += "." + m.Arch
	}
	return s
}

// Encode writes the metadata as canonical JSON: equal metadata gives equal bytes.
func (m *Metadata) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // keeps <= readable
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", m, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads what Encode wrote.
func Decode(data []byte) (*Metadata, error) {
	m := new(Metadata)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("rpm metadata: %w", err)
	}
	if m.Name == "" {
		return nil, fmt.Errorf("rpm metadata: the name is missing")
	}
	return m, nil
}

// Dep is a dependency of an RPM: a capability with, when versioned, Cmp and EVR;
// or a rich dependency, which is kept as text in Name.
type Dep struct {
	Name string
	Cmp  string // rpm's sense: "<", "<=", "=", ">=", ">" or ""
	EVR  string // [epoch:]version[-release]
}

// Rich reports whether Name is a rich dependency: (a if b).
func (d Dep) Rich() bool { return strings.HasPrefix(d.Name, "(") }

// String writes the dependency as rpm does: "name", "name >= evr".
func (d Dep) String() string {
	if d.Cmp == "" {
		return d.Name
	}
	return d.Name + " " + d.Cmp + " " + d.EVR
}

// ParseDep reads what [Dep.String] writes.
func ParseDep(s string) (Dep, error) {
	var d Dep
	if err := d.UnmarshalText([]byte(s)); err != nil {
		return Dep{}, err
	}
	return d, nil
}

// MarshalText writes the dependency as String does.
func (d Dep) MarshalText() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (d *Dep) UnmarshalText(text []byte) error {
	*d = Dep{Name: string(text)}
	if !d.Rich() {
		if name, rest, ok := strings.Cut(d.Name, " "); ok {
			cmp, evr, ok := strings.Cut(rest, " ")
			if !ok || cmp == "" {
				return fmt.Errorf("%q is no dependency: write NAME or NAME COMPARISON VERSION", text)
			}
			*d = Dep{Name: name, Cmp: cmp, EVR: evr}
		}
	}
	if err := d.check(); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	return nil
}

// check refuses what String could not write so that it reads the same.
func (d Dep) check() error {
	switch d.Cmp {
	case "":
		if d.EVR != "" {
			return fmt.Errorf("dependency %q has the version %q without a comparison", d.Name, d.EVR)
		}
	case "<", "<=", "=", ">=", ">":
		if d.Rich() {
			return fmt.Errorf("rich dependency %q has a version", d.Name)
		}
		if d.EVR == "" || strings.ContainsAny(d.EVR, blanks) {
			return fmt.Errorf("dependency %q has the version %q", d.Name, d.EVR)
		}
	default:
		return fmt.Errorf("dependency %q has the comparison %q", d.Name, d.Cmp)
	}
	if d.Name == "" || !d.Rich() && strings.ContainsAny(d.Name, blanks) {
		return fmt.Errorf("dependency name %q is empty or has a blank", d.Name)
	}
	return nil
}

const blanks = " \t\r\n\v\f"
