// Package update is what an update repository says about releases: which there
// are, what they consist of, which hosts may take them when, and how data is
// migrated between them. It is shared by the program that makes repositories
// and the updater in an operating system, and so needs nothing but the standard
// library.
package update

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ManifestTarget is the name of the target that holds the manifest.
const ManifestTarget = "manifest.json"

// Schema is the version of the manifest's form that this package knows.
const Schema = 1

// Manifest is the target manifest.json, as JSON.
type Manifest struct {
	Schema     int         `json:"schema"`     // Schema
	Updates    []Update    `json:"updates"`    // sorted by variant, arch, version
	Migrations []Migration `json:"migrations"` // sorted by from, to
}

// Update is a release of a variant for an architecture.
type Update struct {
	Variant string  `json:"variant"`
	Arch    string  `json:"arch"` // as uname -m has it
	Version Version `json:"version"`
	// MaxVersion is the highest version that hosts of the variant and
	// architecture may be moved to; all their updates have the same. Newer
	// releases lie ready without being offered.
	MaxVersion *Version `json:"maxVersion,omitempty"`
	// Datastore is the format version of the data that the release works with.
	Datastore Version `json:"datastore"`
	Waves     Waves   `json:"waves,omitempty"`
	// PausedAt is when the roll-out was stopped; no host is ready while it is set.
	PausedAt   *time.Time `json:"pausedAt,omitempty"`
	Images     Images     `json:"images"`
	SBOM       []File     `json:"sbom,omitempty"`
	Provenance []File     `json:"provenance,omitempty"`
}

// Images are the files that a host writes to install a release.
type Images struct {
	Root Image `json:"root"` // root file system
	Hash Image `json:"hash"` // its dm-verity hash tree
	UKI  Image `json:"uki"`  // unified kernel image
}

// File is a target by what it holds.
type File struct {
	Target string `json:"target"` // name in the targets metadata
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // 64 lower-case hexadecimal digits
}

// Compressions of images. None is an image that is stored as it is.
const (
	None = ""
	LZ4  = "lz4"  // LZ4 frame format
	Zstd = "zstd" // RFC 8878
)

// Image is a target that is written to a partition or file after decompression.
type Image struct {
	File
	Compression string `json:"compression,omitempty"`
	// ContentSize and ContentSHA256 are of the decompressed content, so that a
	// host can tell beforehand whether it fits, and afterwards what it wrote.
	ContentSize   int64  `json:"contentSize"`
	ContentSHA256 string `json:"contentSHA256"`
}

// Migration is one step of a datastore between two format versions: programs
// that are run in order, and in reverse order when going back.
type Migration struct {
	From  Version `json:"from"`
	To    Version `json:"to"` // after From
	Files []File  `json:"files"`
}

// Parse reads a manifest strictly: unknown keys, text behind it and everything
// that Check finds are errors.
func Parse(data []byte) (*Manifest, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("update manifest: %w", err)
	}
	if head.Schema != Schema {
		return nil, fmt.Errorf("update manifest: schema %d: this program knows schema %d", head.Schema, Schema)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	m := &Manifest{}
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("update manifest: %w", err)
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("update manifest: %w", err)
	}
	return m, nil
}

// Marshal writes a manifest: sorted, indented, and the same for the same content.
func (m *Manifest) Marshal() ([]byte, error) {
	slices.SortFunc(m.Updates, func(a, b Update) int { return a.compare(&b) })
	slices.SortFunc(m.Migrations, compareSteps)
	if m.Updates == nil {
		m.Updates = []Update{}
	}
	if m.Migrations == nil {
		m.Migrations = []Migration{}
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("update manifest: %w", err)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	targetPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]+$`)
)

func isSHA256(text string) bool { return len(text) == 64 && digestPattern.MatchString(text) }

// CheckName tells whether a text can be the name of a variant or architecture.
func CheckName(text string) error {
	if !namePattern.MatchString(text) {
		return fmt.Errorf("%q: want letters, digits, dashes and underscores", text)
	}
	return nil
}

// CheckTarget tells whether a text can be the name of a target: one that is the
// same in a path, an address and a file system.
func CheckTarget(text string) error {
	if len(text) > 200 || !targetPattern.MatchString(text) {
		return fmt.Errorf("target name %q: want up to 200 letters, digits, dots, dashes and underscores, the first a letter or digit", text)
	}
	return nil
}

// Check tells everything that is wrong with the manifest by itself: names,
// digests, waves, order and double entries, and whether there is a way to
// migrate between any two releases of a variant.
func (m *Manifest) Check() error {
	var errs []error
	if m.Schema != Schema {
		errs = append(errs, fmt.Errorf("schema %d: this program knows schema %d", m.Schema, Schema))
	}
	for i := range m.Updates {
		u := &m.Updates[i]
		if err := u.check(); err != nil {
			errs = append(errs, fmt.Errorf("update %s: %w", u, err))
		}
		if i > 0 && m.Updates[i-1].compare(u) >= 0 {
			errs = append(errs, fmt.Errorf("update %s stands twice, or out of order", u))
		}
	}
	for i, step := range m.Migrations {
		name := fmt.Sprintf("migration %s to %s", step.From, step.To)
		if step.From.Compare(step.To) >= 0 {
			errs = append(errs, fmt.Errorf("%s: the version must go up", name))
		}
		if i > 0 && compareSteps(m.Migrations[i-1], step) >= 0 {
			errs = append(errs, fmt.Errorf("%s stands twice, or out of order", name))
		}
		for _, f := range step.Files {
			if err := f.check(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	seen := map[string]File{}
	for _, f := range m.Files() {
		if old, ok := seen[f.Target]; ok && old != f {
			errs = append(errs, fmt.Errorf("target %s is named with different sizes or digests", f.Target))
		}
		seen[f.Target] = f
	}
	if len(errs) == 0 {
		errs = m.checkPairs()
	}
	return errors.Join(errs...)
}

// checkPairs holds the releases of each variant and architecture against each
// other.
func (m *Manifest) checkPairs() (errs []error) {
	for i := range m.Updates {
		older := &m.Updates[i]
		for j := i + 1; j < len(m.Updates); j++ {
			newer := &m.Updates[j]
			if newer.Variant != older.Variant || newer.Arch != older.Arch {
				break
			}
			if j == i+1 && !equal(older.MaxVersion, newer.MaxVersion) {
				errs = append(errs, fmt.Errorf("updates %s and %s have different maximum versions", older, newer))
			}
			if newer.Datastore.Compare(older.Datastore) < 0 {
				errs = append(errs, fmt.Errorf("update %s has datastore %s, older than %s of %s", newer, newer.Datastore, older.Datastore, older))
				continue
			}
			if _, err := m.MigrationPath(older.Datastore, newer.Datastore); err != nil {
				errs = append(errs, fmt.Errorf("from %s to %s: %w", older, newer, err))
			}
		}
	}
	return errs
}

func equal(a, b *Version) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (u *Update) String() string { return u.Variant + " " + u.Arch + " " + u.Version.String() }

func (u *Update) compare(v *Update) int {
	return cmp.Or(strings.Compare(u.Variant, v.Variant), strings.Compare(u.Arch, v.Arch), u.Version.Compare(v.Version))
}

func compareSteps(a, b Migration) int {
	return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To))
}

func (u *Update) check() error {
	errs := []error{CheckName(u.Variant), CheckName(u.Arch), u.Waves.Check()}
	if u.PausedAt != nil && u.PausedAt.Nanosecond() != 0 {
		errs = append(errs, fmt.Errorf("paused at %s: not a whole second", u.PausedAt.Format(time.RFC3339Nano)))
	}
	for _, image := range u.images() {
		errs = append(errs, image.check())
	}
	for _, f := range slices.Concat(u.SBOM, u.Provenance) {
		errs = append(errs, f.check())
	}
	return errors.Join(errs...)
}

func (u *Update) images() []*Image { return []*Image{&u.Images.Root, &u.Images.Hash, &u.Images.UKI} }

func (f File) check() error {
	if err := CheckTarget(f.Target); err != nil {
		return err
	}
	if f.Size < 0 || !isSHA256(f.SHA256) {
		return fmt.Errorf("target %s: size %d or digest %q is malformed", f.Target, f.Size, f.SHA256)
	}
	return nil
}

func (i *Image) check() error {
	if err := i.File.check(); err != nil {
		return err
	}
	if i.ContentSize < 0 || !isSHA256(i.ContentSHA256) {
		return fmt.Errorf("target %s: content size %d or digest %q is malformed", i.Target, i.ContentSize, i.ContentSHA256)
	}
	switch i.Compression {
	case None:
		if i.ContentSize != i.Size || i.ContentSHA256 != i.SHA256 {
			return fmt.Errorf("target %s: content differs from the file, which is not compressed", i.Target)
		}
	case LZ4, Zstd:
	default:
		return fmt.Errorf("target %s: unknown compression %q", i.Target, i.Compression)
	}
	return nil
}

// Files are all targets that the manifest names; some may be named repeatedly.
func (m *Manifest) Files() []File {
	var files []File
	for i := range m.Updates {
		u := &m.Updates[i]
		for _, image := range u.images() {
			files = append(files, image.File)
		}
		files = slices.Concat(files, u.SBOM, u.Provenance)
	}
	for _, step := range m.Migrations {
		files = append(files, step.Files...)
	}
	return files
}

// Update is the release, or nil.
func (m *Manifest) Update(variant, arch string, version Version) *Update {
	for i := range m.Updates {
		if u := &m.Updates[i]; u.Variant == variant && u.Arch == arch && u.Version == version {
			return u
		}
	}
	return nil
}

// WaveTime is when a host with the seed becomes ready for the release, pauses
// aside; see Waves.WaveTime.
func (u *Update) WaveTime(seed int) time.Time { return u.Waves.WaveTime(seed) }

// Ready tells whether a host with the seed may take the release now.
func (u *Update) Ready(seed int, now time.Time) bool {
	return u.PausedAt == nil && !now.Before(u.WaveTime(seed))
}

// Host is what decides which update a host takes.
type Host struct {
	Variant, Arch string
	Version       Version // that it runs
	Seed          int     // 0 to Seeds-1
	IgnoreWaves   bool    // take what is not ready yet; pauses still hold
}

// Next is the newest release that the host may move up to now, or nil.
func (m *Manifest) Next(h Host, now time.Time) *Update {
	var best *Update
	for i := range m.Updates {
		u := &m.Updates[i]
		switch {
		case u.Variant != h.Variant, u.Arch != h.Arch, u.Version.Compare(h.Version) <= 0, u.PausedAt != nil:
		case u.MaxVersion != nil && u.Version.Compare(*u.MaxVersion) > 0:
		case !h.IgnoreWaves && !u.Ready(h.Seed, now):
		case best == nil || u.Version.Compare(best.Version) > 0:
			best = u
		}
	}
	return best
}

// MigrationPath is the shortest way from one datastore version to another, the
// one with the largest first step among equals. When going back, the steps come in
// reverse order, and each is to be run backward.
func (m *Manifest) MigrationPath(from, to Version) ([]Migration, error) {
	low, high := from, to
	back := from.Compare(to) > 0
	if back {
		low, high = to, from
	}
	// breadth first, from the target down, so that next leads on from a version
	next := map[Version]Migration{}
	for queue := []Version{high}; len(queue) > 0; queue = queue[1:] {
		for _, step := range slices.Backward(m.Migrations) {
			if _, seen := next[step.From]; step.To == queue[0] && !seen && step.From != high {
				next[step.From] = step
				queue = append(queue, step.From)
			}
		}
	}
	path := []Migration{}
	for v := low; v != high; v = path[len(path)-1].To {
		step, ok := next[v]
		if !ok {
			return nil, fmt.Errorf("no migrations lead from datastore %s to %s", low, high)
		}
		path = append(path, step)
	}
	if back {
		slices.Reverse(path)
	}
	return path, nil
}
