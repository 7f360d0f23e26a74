package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/update"
)

// MigrationsFile lists the migrations of a workspace, below its root. The archive
// that a build makes of them, and a folder or archive that is added to an update
// repository, have the same file, without the folder.
const MigrationsFile = migrationsDir + "/" + MigrationsIndex

// MigrationsIndex is MigrationsFile without its folder.
const MigrationsIndex = "migrations.toml"

const migrationsDir = "migrations"

// DatastoreKey is the key of os-release by which an image says of which format
// version the data are that it works with.
const DatastoreKey = "DATASTORE_VERSION"

// MigrationsPath is where an RPM has the programs of migrations.
const MigrationsPath = "/usr/share/migrations/"

// Migrations is migrations.toml: how the data of hosts get from one format version
// to another.
type Migrations struct {
	Package string      `toml:"package" check:"rpm" default-doc:"" doc:"RPM of the workspace, without the vendor prefix, that ships the programs, and no others, as /usr/share/migrations/<from>_<to>_<name>. It must not be in an image. Needed where a step has programs."`
	Steps   []Migration `toml:"migration" doc:"The steps, each from one format version of the data to a newer one. Of the versions that are named, each needs a step from the one before; steps that go further are shortcuts."`

	Text []byte // as it was read

	positions
}

// Migration is one [[migration]] table of a migrations.toml.
type Migration struct {
	From  string   `toml:"from" required:"true" check:"version" doc:"Format version that the step begins at."`
	To    string   `toml:"to" required:"true" check:"version" doc:"Format version that the step leads to. Hosts that go back run the step backward."`
	Files []string `toml:"files" check:"migration" doc:"Names of the programs, in the order in which they run; none where only the version changes."`

	Pos Position // of the table's header
}

// File is the name of the file with a program of the step.
func (m *Migration) File(program string) string { return m.From + "_" + m.To + "_" + program }

// Versions are From and To.
func (m *Migration) Versions() (from, to update.Version, err error) {
	from, errFrom := update.ParseVersion(m.From)
	to, errTo := update.ParseVersion(m.To)
	return from, to, errors.Join(errFrom, errTo)
}

// Programs tells whether any step has programs.
func (m *Migrations) Programs() bool {
	return slices.ContainsFunc(m.Steps, func(s Migration) bool { return len(s.Files) > 0 })
}

// Versions are the format versions that steps begin at or lead to, in order.
func (m *Migrations) Versions() []update.Version {
	var list []update.Version
	for i := range m.Steps {
		if from, to, err := m.Steps[i].Versions(); err == nil {
			list = append(list, from, to)
		}
	}
	slices.SortFunc(list, update.Version.Compare)
	return slices.Compact(list)
}

// DecodeMigrations reads a migrations.toml by itself: file is how findings name it.
func DecodeMigrations(file string, data []byte) (*Migrations, Errors) {
	m := &Migrations{Text: bytes.Clone(data)}
	pos, findings := decode(file, data, m)
	m.positions = pos
	type step struct{ from, to update.Version }
	first := map[step]int{}
	for i := range m.Steps {
		s := &m.Steps[i]
		key := fmt.Sprintf("migration[%d]", i)
		for j, name := range s.Files {
			key := fmt.Sprintf("%s.files[%d]", key, j)
			if short, ok := strings.CutPrefix(name, s.File("")); ok {
				findings.add(m.Position(key), key, fmt.Sprintf("%q begins with the versions of its step: %q", key, name), fmt.Sprintf("write %q: the file is %s", short, name))
			}
		}
		from, to, err := s.Versions()
		if err != nil {
			if s.From != "" && s.To != "" { // else it is a finding already
				findings.add(s.Pos, key, fmt.Sprintf("%q: %v", key, err), "")
			}
			continue
		}
		if from.Compare(to) >= 0 {
			findings.add(m.Position(key+".to"), key+".to", fmt.Sprintf("%q is %s, which is not after %s", key+".to", to, from), "name each step by the way up; it is run backward when a host goes back")
			continue
		}
		if j, ok := first[step{from, to}]; ok {
			findings.add(s.Pos, key, fmt.Sprintf("there are two steps from %s to %s", from, to), fmt.Sprintf("the first is in line %d; make one of them, with the programs of both", m.Steps[j].Pos.Line))
			continue
		}
		first[step{from, to}] = i
	}
	return m, findings
}

// migrations reads what the workspace says of migrations. The folder is there
// with the file or not at all.
func (l *loader) migrations() {
	if _, err := os.Lstat(filepath.Join(l.Root, migrationsDir)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	data, err := os.ReadFile(filepath.Join(l.Root, filepath.FromSlash(MigrationsFile)))
	if err != nil {
		l.unreadable(MigrationsFile, err, "it lists the steps between format versions of the data; remove the folder if it is a leftover")
		return
	}
	m, findings := DecodeMigrations(MigrationsFile, data)
	l.Migrations = m
	if len(findings) == 0 {
		m.gaps(&findings)
	}
	switch bare, prefixed := strings.CutPrefix(m.Package, l.Prefix()); {
	case m.Programs() && !m.written("package"):
		findings.add(Position{File: MigrationsFile, Line: 1, Column: 1}, "package", "\"package\" is missing", "name the RPM that ships the programs, without the vendor prefix")
	case prefixed && l.Config.Vendor != "":
		findings.add(m.Position("package"), "package", fmt.Sprintf("\"package\" is %q, with the vendor prefix", m.Package), fmt.Sprintf("write %q", bare))
	}
	l.Errors = append(l.Errors, findings...)
}

// gaps finds versions between which there is no way. Between two neighbours
// nothing but a step of their own can lead.
func (m *Migrations) gaps(findings *Errors) {
	versions := m.Versions()
	for i := 1; i < len(versions); i++ {
		below, above := versions[i-1].String(), versions[i].String()
		if slices.ContainsFunc(m.Steps, func(s Migration) bool { return s.From == below && s.To == above }) {
			continue
		}
		at := slices.IndexFunc(m.Steps, func(s Migration) bool { return s.From == above || s.To == above })
		findings.add(m.Steps[at].Pos, fmt.Sprintf("migration[%d]", at), fmt.Sprintf("no step leads from %s to %s", below, above),
			fmt.Sprintf("add [[migration]] with from = %q and to = %q; it needs no programs where only the version changes", below, above))
	}
}

// MigrationsRPM is the RPM that ships the programs of a variant's migrations; empty
// where it has none: where there are no programs, or the variant's hosts are not
// updated in place.
func (w *Workspace) MigrationsRPM(v *Variant) string {
	if !w.Migrates(v) || !w.Migrations.Programs() {
		return ""
	}
	return w.Prefix() + w.Migrations.Package
}

// Migrates tells whether a variant's image comes with migrations.
func (w *Workspace) Migrates(v *Variant) bool {
	return w.Migrations != nil && v.ImageLayout.Updates()
}
