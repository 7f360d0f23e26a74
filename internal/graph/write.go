package graph

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"slipway/internal/rpmspec"
)

// WriteText writes each target with its direct dependencies below it.
func WriteText(w io.Writer, targets []*Target) error {
	out := bufio.NewWriter(w)
	for _, t := range sorted(targets) {
		fmt.Fprintln(out, t.Name)
		for _, d := range t.Depends {
			fmt.Fprintln(out, "  "+d.Name)
		}
	}
	return out.Flush()
}

// WriteDOT writes the direct dependencies in the language of Graphviz; arrows
// lead to what is needed.
func WriteDOT(w io.Writer, targets []*Target) error {
	shapes := map[Kind]string{KindPackage: "box", KindVariant: "ellipse", KindSDK: "hexagon"}
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "digraph slipway {\n  rankdir=LR;\n")
	for _, t := range sorted(targets) {
		fmt.Fprintf(out, "  %q [shape=%s];\n", t.Name, shapes[t.Kind])
		for _, d := range t.Depends {
			fmt.Fprintf(out, "  %q -> %q;\n", t.Name, d.Name)
		}
	}
	fmt.Fprintln(out, "}")
	return out.Flush()
}

// jsonTarget is a target as WriteJSON writes it.
type jsonTarget struct {
	Name          string   `json:"name"`
	Kind          Kind     `json:"kind"`
	Dir           string   `json:"dir"`
	Depends       []string `json:"depends"`
	BuildRequires []string `json:"build_requires"`
	Requires      []string `json:"requires"`
	Provides      []string `json:"provides"`
	Sources       []string `json:"sources"`
	Patches       []string `json:"patches"`
	ExternalFiles []string `json:"external_files"`
}

// WriteJSON writes {"targets": […]}, sorted by name. Depends are names of
// targets; build_requires, requires and provides are dependencies as the specs
// have them after expansion, of all RPMs of a package together, with what rpm
// adds by itself (each RPM's own name, interpreters of scriptlets); sources, patches and external_files are
// file names. A variant requires the RPMs that it includes. No list is null.
func WriteJSON(w io.Writer, targets []*Target) error {
	list := []jsonTarget{}
	for _, t := range sorted(targets) {
		j := jsonTarget{
			Name: t.Name, Kind: t.Kind, Dir: t.Dir,
			Depends: []string{}, BuildRequires: []string{}, Requires: []string{}, Provides: []string{},
			Sources: []string{}, Patches: []string{}, ExternalFiles: []string{},
		}
		for _, d := range t.Depends {
			j.Depends = append(j.Depends, d.Name)
		}
		if t.Spec != nil {
			j.BuildRequires = addDeps(j.BuildRequires, t.Spec.BuildRequires)
			for _, r := range t.RPMs {
				j.Requires = addDeps(j.Requires, r.spec.AllRequires())
				j.Provides = addDeps(j.Provides, r.spec.AllProvides())
			}
			for _, s := range t.Spec.Sources {
				j.Sources = append(j.Sources, s.File)
			}
			for _, s := range t.Spec.Patches {
				j.Patches = append(j.Patches, s.File)
			}
			for i := range t.Package.ExternalFiles {
				j.ExternalFiles = append(j.ExternalFiles, t.Package.ExternalFiles[i].FileName())
			}
		}
		if t.Variant != nil {
			j.Requires = append(j.Requires, t.included...)
		}
		j.BuildRequires, j.Requires, j.Provides = once(j.BuildRequires), once(j.Requires), once(j.Provides)
		list = append(list, j)
	}
	return writeJSON(w, map[string]any{"targets": list})
}

// WritePath writes the steps of Path, one a line.
func WritePath(w io.Writer, from, to *Target, steps []Step) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s needs %s because\n", from.Name, to.Name)
	for _, s := range steps {
		if s.Tag == "" {
			fmt.Fprintf(out, "  %s is made in the SDK → %s\n", s.From.Name, s.To.Name)
			continue
		}
		of := s.From.Name
		if s.RPM != "" {
			of = "RPM " + s.RPM + " of " + of
		}
		fmt.Fprintf(out, "  %s has %s: %s at %s → RPM %s of %s\n", of, s.Tag, s.Text, s.Pos, s.By, s.To.Name)
	}
	return out.Flush()
}

// jsonStep is a step as WritePathJSON writes it.
type jsonStep struct {
	From       string `json:"from"`
	RPM        string `json:"rpm,omitempty"`
	Tag        string `json:"tag,omitempty"`
	Dependency string `json:"dependency,omitempty"`
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"`
	Column     int    `json:"column,omitempty"`
	By         string `json:"by,omitempty"`
	To         string `json:"to"`
}

// WritePathJSON writes {"from": …, "to": …, "needs": …, "needed_by": …, "steps":
// […]}: whether the one needs the other, whether it is the other way round, and
// the steps of Path. A step has the names of its targets; the RPM that requires
// and the one that meets that ("rpm", "by"); tag and text of the dependency; and
// where it stands, the file relative to the workspace root. What does not apply
// is left out.
func WritePathJSON(w io.Writer, from, to *Target, steps []Step, neededBy bool) error {
	list := []jsonStep{}
	for _, s := range steps {
		list = append(list, jsonStep{s.From.Name, s.RPM, s.Tag, s.Text, s.Pos.File, s.Pos.Line, s.Pos.Column, s.By, s.To.Name})
	}
	return writeJSON(w, struct {
		From     string     `json:"from"`
		To       string     `json:"to"`
		Needs    bool       `json:"needs"`
		NeededBy bool       `json:"needed_by"`
		Steps    []jsonStep `json:"steps"`
	}{from.Name, to.Name, len(steps) > 0, neededBy, list})
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // versions are compared with < and >
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func sorted(targets []*Target) []*Target {
	list := slices.Clone(targets)
	slices.SortFunc(list, byTargetName)
	return list
}

func addDeps(list []string, deps []rpmspec.Dep) []string {
	for _, d := range deps {
		list = append(list, d.Text)
	}
	return list
}

// once drops what came before in the list.
func once(list []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(s string) bool {
		had := seen[s]
		seen[s] = true
		return had
	})
}
