package tufrepo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"slipway/internal/update"
)

// Release is what Add takes into a repository. Files are given by their paths;
// images may be compressed, which the ending .lz4 or .zst of the name tells.
type Release struct {
	Variant, Arch string
	Version       update.Version
	// MaxVersion is set for all releases of the variant and architecture; nil
	// keeps what they have.
	MaxVersion *update.Version
	// Datastore is the format version of the release's data; nil is what
	// DATASTORE_VERSION in the os-release of the UKI says, else that of the newest
	// older release, or the version of the release where there is none.
	Datastore *update.Version
	Waves     update.Waves

	Root, Hash, UKI  string
	SBOM, Provenance []string
	// OtherSigner takes a kernel image that is not signed by any of those who signed
	// that of the newest release.
	OtherSigner bool
	// Migrations is a tar archive or a folder with a migrations.toml (see
	// workspace.Migrations) and the programs that it names; "" is none.
	Migrations string
}

var (
	imageName      = regexp.MustCompile(`^(?:.*[-_.])?(root|hash|uki)\.(?:img|efi|erofs|ext4|squashfs|verity)(?:\.(?:lz4|zst))?$`)
	sbomName       = regexp.MustCompile(`\.(?:spdx|cdx)\.json$`)
	provenanceName = regexp.MustCompile(`\.intoto\.jsonl?$`)
	migrationsName = regexp.MustCompile(`^(?:.*[-_.])?migrations\.tar$`)
)

// FromDir fills in the files of a release that a folder holds and that are not
// set yet: <any>-root.img, <any>-hash.img and <any>-uki.efi, each also
// compressed; <any>.spdx.json and <any>.cdx.json; <any>.intoto.jsonl or .json and
// <any>-migrations.tar.
func (rel *Release) FromDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	set := func(field *string, what, path string) {
		if *field != "" {
			errs = append(errs, fmt.Errorf("%s: %s and %s could both be the %s: name one with --%s", dir, filepath.Base(*field), filepath.Base(path), what, what))
			return
		}
		*field = path
	}
	given := map[string]bool{"root": rel.Root != "", "hash": rel.Hash != "", "uki": rel.UKI != ""}
	sbom, provenance, migrations := len(rel.SBOM) > 0, len(rel.Provenance) > 0, rel.Migrations != ""
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(dir, e.Name())
		if e.IsDir() || strings.HasPrefix(name, ".") {
			continue
		}
		m := imageName.FindStringSubmatch(name)
		switch {
		case m != nil:
			if !given[m[1]] {
				set(map[string]*string{"root": &rel.Root, "hash": &rel.Hash, "uki": &rel.UKI}[m[1]], m[1], path)
			}
		case sbomName.MatchString(name) && !sbom:
			rel.SBOM = append(rel.SBOM, path)
		case provenanceName.MatchString(name) && !provenance:
			rel.Provenance = append(rel.Provenance, path)
		case migrationsName.MatchString(name) && !migrations:
			set(&rel.Migrations, "migrations", path)
		}
	}
	return errors.Join(errs...)
}

// input is a file that becomes a target.
type input struct {
	path string
	file update.File
}

// Add makes a change that adds a release. The change is nil where the
// repository has the release already with the same content; other content is an
// error, and so are images that are not those of the release or do not fit each
// other. The targets are copied at once; readers do not see them before the change is
// published.
func (r *Repo) Add(ctx context.Context, p *Policies, rel Release) (*Change, error) {
	if r.current == nil {
		return nil, r.none()
	}
	if err := r.agrees(p); err != nil {
		return nil, err
	}
	if err := errors.Join(update.CheckName(rel.Variant), update.CheckName(rel.Arch), rel.Waves.Check()); err != nil {
		return nil, err
	}
	u := update.Update{Variant: rel.Variant, Arch: rel.Arch, Version: rel.Version, Waves: rel.Waves}
	prefix := fmt.Sprintf("%s-%s-%s-", u.Variant, u.Arch, u.Version)
	c := &content{release: &u}
	var inputs []input
	for _, i := range c.images(ctx) {
		path := map[string]string{"root": rel.Root, "hash": rel.Hash, "uki": rel.UKI}[i.kind]
		if path == "" {
			return nil, fmt.Errorf("release %s: no file for the %s: name it with --%s, or a folder that has it with --image-dir", &u, i.kind, i.kind)
		}
		rest, ending, compression := splitCompression(filepath.Base(path))
		measured, err := measureFile(ctx, path, compression, i.look)
		if err != nil {
			return nil, err
		}
		*i.Image = measured
		i.Target = prefix + i.kind + filepath.Ext(rest) + ending
		inputs = append(inputs, input{path, i.File})
	}
	if !rel.OtherSigner {
		if err := r.checkSigners(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := checkProvenance(rel.Provenance, u.Images); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		kind  string
		paths []string
		files *[]update.File
		known *regexp.Regexp
	}{{"sbom", rel.SBOM, &u.SBOM, sbomName}, {"provenance", rel.Provenance, &u.Provenance, provenanceName}} {
		for _, path := range d.paths {
			ending := d.known.FindString(path)
			if ending == "" {
				ending = filepath.Ext(path)
			}
			in, err := describe(ctx, path, prefix+d.kind+ending)
			if err != nil {
				return nil, err
			}
			inputs, *d.files = append(inputs, in), append(*d.files, in.file)
		}
	}
	if err := rel.readDatastore(c.kernel.OSRelease); err != nil {
		return nil, err
	}
	migrations, programs, done, err := readMigrations(ctx, rel.Migrations)
	defer done()
	if err != nil {
		return nil, err
	}
	programs, kept := keepPublished(r.current.manifest, migrations, programs)
	inputs = append(inputs, programs...)

	next := &update.Manifest{Schema: update.Schema, Updates: slices.Clone(r.current.manifest.Updates), Migrations: slices.Clone(r.current.manifest.Migrations)}
	if err := merge(next, &u, rel, migrations); err != nil {
		return nil, err
	}
	targets := maps.Clone(r.current.targets.Signed.Targets)
	names := map[string]update.File{}
	for _, in := range inputs {
		if err := update.CheckTarget(in.file.Target); err != nil {
			return nil, fmt.Errorf("%s: %w", in.path, err)
		}
		if other, ok := names[in.file.Target]; ok && other != in.file {
			return nil, fmt.Errorf("%s: another file of the release has the target name %s too", in.path, in.file.Target)
		}
		names[in.file.Target] = in.file
		entry := in.entry()
		if old, ok := targets[in.file.Target]; ok && !old.Equal(*entry) {
			return nil, fmt.Errorf("%s: the repository has the target %s with other content", in.path, in.file.Target)
		}
		targets[in.file.Target] = entry
	}
	if _, err := next.Marshal(); err != nil { // before anything is copied
		return nil, err
	}
	for _, in := range inputs {
		if err := r.copyTarget(ctx, in); err != nil {
			return nil, err
		}
	}
	change, err := r.publishManifest(ctx, p, next, targets)
	if change != nil {
		change.Kept = kept
	}
	return change, err
}

func (in input) entry() *metadata.TargetFiles {
	sum, err := hex.DecodeString(in.file.SHA256)
	if err != nil {
		panic(err) // it was made here
	}
	return &metadata.TargetFiles{Length: in.file.Size, Hashes: metadata.Hashes{"sha256": sum}, Path: in.file.Target}
}

// merge puts a release and its migrations into a manifest.
func merge(m *update.Manifest, u *update.Update, rel Release, migrations []update.Migration) error {
	var before *update.Update
	limit := rel.MaxVersion
	for i := range m.Updates {
		old := &m.Updates[i]
		if old.Variant != u.Variant || old.Arch != u.Arch {
			continue
		}
		if old.Version.Compare(u.Version) < 0 && (before == nil || before.Version.Compare(old.Version) < 0) {
			before = old
		}
		if rel.MaxVersion != nil {
			old.MaxVersion = rel.MaxVersion
		} else {
			limit = old.MaxVersion
		}
	}
	u.MaxVersion = limit
	old := m.Update(u.Variant, u.Arch, u.Version)
	switch {
	case rel.Datastore != nil:
		u.Datastore = *rel.Datastore
	case old != nil:
		u.Datastore = old.Datastore
	case before != nil:
		u.Datastore = before.Datastore
	default:
		u.Datastore = u.Version
	}
	if old != nil {
		same := *old
		same.Waves, same.PausedAt, same.MaxVersion = u.Waves, u.PausedAt, u.MaxVersion
		if !reflect.DeepEqual(same, *u) {
			return fmt.Errorf("the repository has release %s with other content: what is published never changes; give the release a new version", u)
		}
	} else {
		m.Updates = append(m.Updates, *u)
	}
	for _, step := range migrations {
		i := slices.IndexFunc(m.Migrations, func(o update.Migration) bool { return o.From == step.From && o.To == step.To })
		switch {
		case i < 0:
			m.Migrations = append(m.Migrations, step)
		case !slices.Equal(m.Migrations[i].Files, step.Files):
			return fmt.Errorf("the repository has other migrations from %s to %s, %s: what is published never changes; give the new ones a step of their own",
				step.From, step.To, targetNames(m.Migrations[i].Files))
		}
	}
	return nil
}

// publishManifest makes the change to a manifest and targets; nil where they are
// those of the repository.
func (r *Repo) publishManifest(ctx context.Context, p *Policies, m *update.Manifest, targets map[string]*metadata.TargetFiles) (*Change, error) {
	data, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	in := input{file: update.File{Target: update.ManifestTarget, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}}
	targets[update.ManifestTarget] = in.entry()
	if maps.EqualFunc(targets, r.current.targets.Signed.Targets, func(a, b *metadata.TargetFiles) bool { return a.Equal(*b) }) {
		return nil, nil
	}
	if err := r.writeBytes(ctx, targetPath(in.file.Target, in.file.SHA256), data); err != nil {
		return nil, err
	}
	return r.change(p, targets)
}

func describe(ctx context.Context, path, target string) (input, error) {
	image, err := measureFile(ctx, path, update.None, nil)
	image.Target = target
	return input{path, image.File}, err
}

// copyTarget copies a file into the repository, also over one that is there: it
// may have been damaged.
func (r *Repo) copyTarget(ctx context.Context, in input) error {
	f, err := os.Open(in.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	return r.write(ctx, targetPath(in.file.Target, in.file.SHA256), io.TeeReader(f, sum), func() error {
		if sumOf(sum) != in.file.SHA256 {
			return fmt.Errorf("%s changed while it was read", in.path)
		}
		return nil
	})
}
