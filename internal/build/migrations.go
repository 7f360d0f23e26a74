package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway/internal/graph"
	"slipway/internal/image/inspect"
	"slipway/internal/rpm"
	"slipway/internal/store"
	updates "slipway/internal/update"
	"slipway/internal/workspace"
)

// endMigrations ends the name of the archive with a variant's migrations, as slipway
// repo add --image-dir finds it beside the disk.
const endMigrations = "-migrations.tar"

// migrationsVersion stands in the stamp of an archive of migrations: raise it when
// the archive is made in another way from the same.
const migrationsVersion = "1"

// migrationFiles are the archive of a variant's migrations and its stamp; none
// where it has no migrations.
func (b *Builder) migrationFiles(v *workspace.Variant) []string {
	if !b.ws.Migrates(v) {
		return nil
	}
	return b.migrationNames(v)
}

func (b *Builder) migrationNames(v *workspace.Variant) []string {
	dir := b.ImageDir(v)
	return []string{filepath.Join(dir, b.ImageName(v)+endMigrations), filepath.Join(dir, ".migrations")}
}

// withoutMigrations holds what is installed for a target against the rule that an
// image has no migrations.
func (b *Builder) withoutMigrations(t *graph.Target, list []*rpm.Package) error {
	m := b.ws.Migrations
	if t.Variant == nil || m == nil || m.Package == "" {
		return nil
	}
	name := b.ws.Prefix() + m.Package
	if !slices.ContainsFunc(list, func(p *rpm.Package) bool { return p.Name == name }) {
		return nil
	}
	hint := "migrations are never in an image, hosts get them from the update repository"
	for _, p := range list {
		if slices.ContainsFunc(p.Requires, func(d rpm.Dep) bool { return strings.Contains(d.Name, name) }) {
			hint += fmt.Sprintf("; see Requires of %s, which %s makes", p.Name, p.Source)
			break
		}
	}
	return workspace.Errors{workspace.NewError(m.Position("package"), "package",
		fmt.Sprintf("the RPM %s, which ships the migrations, would be installed in %s", name, t.Name), hint)}
}

// migrationArchive is what an archive of migrations is made of.
type migrationArchive struct {
	index     *workspace.Migrations
	rpm       string // path, or "" where there are no programs
	rpmName   string
	source    string // what makes the RPM
	made      time.Time
	digest    string // of all this
	osRelease string // path of the image's
}

// migrationArchive finds what the archive of a variant is made of. The RPM is there
// when it has none of the named errors.
func (b *Builder) migrationArchive(ctx context.Context, t *graph.Target, r *store.Result) (*migrationArchive, error) {
	a := &migrationArchive{index: b.ws.Migrations, made: time.Unix(b.ws.Config.ReleaseEpoch, 0)}
	parts := []string{migrationsVersion, string(a.index.Text), fmt.Sprint(b.ws.Config.ReleaseEpoch)}
	for _, f := range r.Files {
		if f.Name == "os-release" {
			a.osRelease, parts = b.results.Path(f.Digest), append(parts, f.Digest)
		}
	}
	if from := b.graph.Migrations(t); from != nil {
		p, err := b.made(from)
		if err != nil {
			return nil, err
		}
		if err := b.readyRPMs(ctx, []*rpm.Package{p}); err != nil {
			return nil, err
		}
		a.rpm, a.rpmName, a.source = b.results.Path(p.Digest), p.Name, p.Source
		parts = append(parts, p.Digest)
	}
	code, err := json.Marshal(parts)
	sum := sha256.Sum256(code)
	a.digest = hex.EncodeToString(sum[:])
	return a, err
}

// migrations makes the archive of a variant's migrations, unless the one that is
// there was made from the same.
func (b *Builder) migrations(ctx context.Context, t *graph.Target, r *store.Result) error {
	names := b.migrationNames(t.Variant)
	archive, stamp := names[0], names[1]
	if !b.ws.Migrates(t.Variant) {
		for _, name := range names {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	a, err := b.migrationArchive(ctx, t, r)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(stamp); err == nil && string(old) == a.digest+"\n" && allRegular(names) {
		return nil
	}
	b.display.Phase(t.Name, "migrations")
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	for _, name := range []string{stamp, archive} { // what does not belong to the image is of no use
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	content := a.open()
	defer content.Close()
	if err := writeFile(ctx, archive, content); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(archive, 0o444), os.Chtimes(archive, a.made, a.made)); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(a.digest+"\n"), 0o644)
}

// verifyMigrations checks the archive of a variant's migrations.
func (b *Builder) verifyMigrations(ctx context.Context, t *graph.Target, r *store.Result, v *Verified) error {
	if !b.ws.Migrates(t.Variant) || len(b.results.Missing(r)) > 0 {
		return nil
	}
	if from := b.graph.Migrations(t); from != nil && b.result(from.Target.Name) == nil {
		v.damaged("the migrations are not checked: %s, which ships them, has no result: slipway build %s makes it", from.Target.Name, t.Name)
		return nil
	}
	names := b.migrationNames(t.Variant)
	a, err := b.migrationArchive(ctx, t, r)
	if errors.Is(err, errReplan) {
		v.damaged("the RPM with the migrations is damaged and dropped: slipway build %s makes it again", t.Name)
		return nil
	}
	if err != nil {
		return err
	}
	content := a.open()
	defer content.Close()
	stamp, err := os.ReadFile(names[1])
	if err == nil && string(stamp) == a.digest+"\n" && sameContent(names[0], &cancelable{ctx, content}) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	v.damaged("%s is missing, or is not of the migrations of now: slipway build %s shows it again", b.show(names[0]), t.Name)
	if err := os.Remove(names[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// open reads the archive while it is made. Closing it ends that.
func (a *migrationArchive) open() io.ReadCloser {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(a.write(w)) }()
	return r
}

// write makes the archive: the index as the workspace has it, then the programs in
// the order of their names. Other programs in the RPM than the index has, and
// programs that it lacks, are an error of type workspace.Errors.
func (a *migrationArchive) write(w io.Writer) error {
	if err := a.checkDatastore(); err != nil {
		return err
	}
	listed := map[string]string{} // by file name, until the file is found: the key
	for i := range a.index.Steps {
		s := &a.index.Steps[i]
		for j, program := range s.Files {
			listed[s.File(program)] = fmt.Sprintf("migration[%d].files[%d]", i, j)
		}
	}
	out := tar.NewWriter(w)
	header := func(name string, mode, size int64) error {
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, ModTime: a.made})
	}
	if err := header(workspace.MigrationsIndex, 0o644, int64(len(a.index.Text))); err != nil {
		return err
	}
	if _, err := out.Write(a.index.Text); err != nil {
		return err
	}
	var findings workspace.Errors
	take := func(f rpm.File, content io.Reader) error {
		name, ok := strings.CutPrefix(f.Path, workspace.MigrationsPath)
		if !ok {
			return nil
		}
		if !f.Mode.IsRegular() {
			findings = append(findings, workspace.NewError(a.index.Position("package"), "package",
				fmt.Sprintf("%s has %s, which is not a regular file", a.rpmName, f.Path), "the programs lie in the folder themselves"))
			delete(listed, name)
			return nil
		}
		if _, ok := listed[name]; !ok {
			findings = append(findings, a.unlisted(f.Path, name))
			return nil
		}
		delete(listed, name)
		if err := header(name, 0o755, f.Size); err != nil {
			return err
		}
		if _, err := io.Copy(out, content); err != nil {
			return fmt.Errorf("%s of %s: %w", f.Path, a.rpmName, err)
		}
		return nil
	}
	if a.rpm != "" {
		if err := rpm.Files(a.rpm, take); err != nil {
			return err
		}
	}
	for name, key := range listed {
		findings = append(findings, workspace.NewError(a.index.Position(key), key, fmt.Sprintf("%s, which %s makes, has no %s%s", a.rpmName, a.source, workspace.MigrationsPath, name),
			"have the spec build and install it, or remove it from the step"))
	}
	if err := findings.Err(); err != nil {
		return err
	}
	return out.Close()
}

// unlisted is the finding of a program that the RPM has and no step.
func (a *migrationArchive) unlisted(path, name string) *workspace.Error {
	hint := "the form is <from>_<to>_<name>"
	if parts := strings.SplitN(name, "_", 3); len(parts) == 3 {
		_, errFrom := updates.ParseVersion(parts[0])
		_, errTo := updates.ParseVersion(parts[1])
		if errFrom == nil && errTo == nil {
			hint = fmt.Sprintf("name %q in the files of the step from %s to %s, or do not install it", parts[2], parts[0], parts[1])
		}
	}
	return workspace.NewError(a.index.Position("package"), "package", fmt.Sprintf("%s, which %s makes, has %s, which no step names", a.rpmName, a.source, path), hint)
}

// checkDatastore holds the format version that the image says it works with
// against those that the steps lead to.
func (a *migrationArchive) checkDatastore() error {
	if a.osRelease == "" || len(a.index.Steps) == 0 {
		return nil
	}
	text, err := os.ReadFile(a.osRelease)
	if err != nil {
		return err
	}
	value, ok := inspect.ParseOSRelease(string(text))[workspace.DatastoreKey]
	if !ok {
		return nil
	}
	version, err := updates.ParseVersion(value)
	if err != nil {
		return fmt.Errorf("os-release of the image: %s: %w", workspace.DatastoreKey, err)
	}
	versions := a.index.Versions()
	if slices.Contains(versions, version) {
		return nil
	}
	last := versions[len(versions)-1]
	hint := fmt.Sprintf("the versions are %s", strings.Join(texts(versions), ", "))
	if last.Compare(version) < 0 {
		hint = fmt.Sprintf("add [[migration]] with from = %q and to = %q; it needs no programs where only the version changes", last, version)
	}
	return workspace.Errors{workspace.NewError(workspace.Position{File: workspace.MigrationsFile}, "",
		fmt.Sprintf("the image works with data of version %s, as %s in its os-release says, but no step leads there", version, workspace.DatastoreKey), hint)}
}

func texts(versions []updates.Version) []string {
	list := make([]string, len(versions))
	for i, v := range versions {
		list[i] = v.String()
	}
	return list
}
