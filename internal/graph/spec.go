package graph

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/rpmspec"
	"slipway/internal/workspace"
)

// checkSpec holds a spec against its folder and manifest.
func (l *linker) checkSpec(t *Target) {
	p, spec := t.Package, t.Spec
	for _, what := range spec.NeedsRPM { // "line N: tag"
		pos := workspace.Position{File: specFile(p)}
		if number, tag, ok := strings.Cut(strings.TrimPrefix(what, "line "), ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				pos.Line, what = n, tag
			}
		}
		l.partial = true
		l.find(pos, what, fmt.Sprintf("%s hangs on a shell or Lua macro, or on the machine; planning runs neither", what),
			"write the value itself, or make it of plain macros")
	}
	if want := l.ws.Prefix() + p.Name; spec.Name != want {
		l.partial = true
		l.find(namePosition(p), "Name", fmt.Sprintf("the spec's Name is %q, but must be %q", spec.Name, want),
			"it is the vendor prefix and the name of the folder; subpackages may have any name")
	}

	external := map[string]bool{}
	names := slices.Clone(p.Files)
	for i := range p.ExternalFiles {
		name := p.ExternalFiles[i].FileName()
		external[name] = false
		names = append(names, name)
	}
	check := func(tag string, list []rpmspec.Source) {
		for _, s := range list {
			if _, ok := external[s.File]; ok {
				external[s.File] = true
				continue
			}
			if _, own := slices.BinarySearch(p.Files, s.File); own {
				continue
			}
			hint := workspace.DidYouMean(workspace.Near(s.File, names))
			if hint == "" {
				hint = "put the file into the folder, or add [[external-files]] to " + workspace.PackageFile
			}
			tag := tag + strconv.Itoa(s.Number)
			l.find(workspace.Position{File: specFile(p), Line: s.Line}, tag, fmt.Sprintf("%s: %q is neither in packages/%s nor an external file of its %s", tag, s.File, p.Name, workspace.PackageFile), hint)
		}
	}
	check("Source", spec.Sources)
	check("Patch", spec.Patches)
	for i := range p.ExternalFiles {
		if f := &p.ExternalFiles[i]; !external[f.FileName()] {
			key := fmt.Sprintf("external-files[%d]", i)
			l.find(f.Pos, key, fmt.Sprintf("the external file %q is unused: no Source or Patch of %s.spec names it", f.FileName(), p.Name), "remove it, or add it to the spec")
		}
	}
}

// nameTag is the line of a spec that gives its name.
var nameTag = regexp.MustCompile(`(?mi)^[ \t]*name[ \t]*:`)

// namePosition is where a spec gives its name; the file alone when the line
// comes from a macro.
func namePosition(p *workspace.Package) workspace.Position {
	pos := workspace.Position{File: specFile(p)}
	if data, err := os.ReadFile(p.Spec); err == nil {
		if at := nameTag.FindIndex(data); at != nil {
			pos.Line = 1 + bytes.Count(data[:at[0]], []byte("\n"))
		}
	}
	return pos
}

// specFinding is the error of a spec that cannot be evaluated, as a finding.
func specFinding(ws *workspace.Workspace, p *workspace.Package, err error) *workspace.Error {
	pos := workspace.Position{File: specFile(p)}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return workspace.NewError(pos, "", "cannot be read: "+pe.Err.Error(), "")
	}
	var se *rpmspec.Error
	if errors.As(err, &se) {
		if rel, err := filepath.Rel(ws.Root, se.File); err == nil && filepath.IsLocal(rel) {
			pos.File = filepath.ToSlash(rel) // the spec or a file that it includes
		}
		pos.Line = se.Line
		return workspace.NewError(pos, "", se.Msg, "")
	}
	return workspace.NewError(pos, "", err.Error(), "")
}
