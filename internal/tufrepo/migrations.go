package tufrepo

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/update"
	"slipway/internal/workspace"
)

// readMigrations reads a folder or tar archive of migrations, as builds make them.
// The files are there until done is called, which is never nil.
func readMigrations(ctx context.Context, path string) (steps []update.Migration, programs []input, done func(), err error) {
	done = func() {}
	if path == "" {
		return nil, nil, done, nil
	}
	dir := path
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, done, fmt.Errorf("migrations: %w", err)
	}
	if !info.IsDir() {
		if dir, err = os.MkdirTemp("", "slipway-migrations-"); err != nil {
			return nil, nil, done, err
		}
		done = func() { os.RemoveAll(dir) }
		if err := untar(ctx, path, dir); err != nil {
			return nil, nil, done, fmt.Errorf("migrations %s: %w", path, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, workspace.MigrationsIndex))
	if err != nil {
		return nil, nil, done, fmt.Errorf("migrations %s: no %s: %w", path, workspace.MigrationsIndex, err)
	}
	m, findings := workspace.DecodeMigrations(filepath.Join(path, workspace.MigrationsIndex), data)
	if err := findings.Err(); err != nil {
		return nil, nil, done, err
	}
	for i := range m.Steps {
		s := &m.Steps[i]
		step := update.Migration{Files: []update.File{}}
		if step.From, step.To, err = s.Versions(); err != nil {
			return nil, nil, done, err // it has been checked
		}
		for j, name := range s.Files {
			name := s.File(name)
			in, err := describe(ctx, filepath.Join(dir, name), name)
			if err != nil {
				key := fmt.Sprintf("migration[%d].files[%d]", i, j)
				findings = append(findings, workspace.NewError(m.Position(key), key, fmt.Sprintf("%q: %v", key, err), "the file of a program is named <from>_<to>_<name>"))
				continue
			}
			programs, step.Files = append(programs, in), append(step.Files, in.file)
		}
		steps = append(steps, step)
	}
	return steps, programs, done, findings.Err()
}

// untar unpacks the regular files of an archive without folders.
func untar(ctx context.Context, path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	archive := tar.NewReader(reader{ctx, f})
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(h.Name, "./")
		switch {
		case h.Typeflag == tar.TypeDir && (name == "" || name == "."):
			continue
		case h.Typeflag != tar.TypeReg || update.CheckTarget(name) != nil:
			return fmt.Errorf("entry %q: want regular files without folders", h.Name)
		}
		out, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, archive)
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

// keepPublished puts the programs that a manifest has already into the steps, where
// they have the same names. A new toolchain makes other files of the same sources,
// and what is published never changes. It gives the programs that are left to be
// published, and the steps for which others than theirs are kept.
func keepPublished(m *update.Manifest, steps []update.Migration, programs []input) (left []input, kept []update.Migration) {
	for i := range steps {
		s := &steps[i]
		at := slices.IndexFunc(m.Migrations, func(o update.Migration) bool { return o.From == s.From && o.To == s.To })
		if at < 0 || slices.Equal(m.Migrations[at].Files, s.Files) || targetNames(m.Migrations[at].Files) != targetNames(s.Files) {
			continue
		}
		programs = slices.DeleteFunc(programs, func(in input) bool { return slices.Contains(s.Files, in.file) })
		s.Files = m.Migrations[at].Files
		kept = append(kept, *s)
	}
	return programs, kept
}

// targetNames are the names of files, for messages.
func targetNames(files []update.File) string {
	if len(files) == 0 {
		return "without programs"
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Target
	}
	return strings.Join(names, ", ")
}

// readDatastore sets Datastore to what the os-release in the kernel image says.
func (rel *Release) readDatastore(osRelease map[string]string) error {
	text, ok := osRelease[workspace.DatastoreKey]
	if !ok {
		return nil
	}
	v, err := update.ParseVersion(text)
	if err != nil {
		return fmt.Errorf("%s: %s in its os-release: %w", rel.UKI, workspace.DatastoreKey, err)
	}
	if rel.Datastore != nil && *rel.Datastore != v {
		return fmt.Errorf("%s: %s in its os-release is %s, not %s: hosts go by the image, so leave --datastore out", rel.UKI, workspace.DatastoreKey, v, rel.Datastore)
	}
	rel.Datastore = &v
	return nil
}
