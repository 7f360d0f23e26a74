package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/graph"
	"slipway/internal/image/inspect"
	"slipway/internal/plan"
	"slipway/internal/provenance"
	"slipway/internal/rpm"
	"slipway/internal/sbom"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// documentsVersion stands in the stamp of an image's documents: raise it when they
// are made in another way from the same.
const documentsVersion = "1"

// documentFiles are the files that say what is in a variant's image and how it was
// made, in the order of makeDocuments, and their stamp.
func (b *Builder) documentFiles(v *workspace.Variant) []string {
	stem, end := filepath.Join(b.ImageDir(v), b.ImageName(v)), provenance.EndUnsigned
	if b.opt.Signing.ProvenanceKey != "" {
		end = provenance.EndSigned
	}
	return []string{stem + sbom.EndSPDX, stem + sbom.EndCycloneDX, stem + end, filepath.Join(b.ImageDir(v), ".documents")}
}

// documents are what the documents of an image are made of. Go programs and the
// digests of the image's files are left out: they follow from the rest.
type documents struct {
	image      *sbom.Image
	rpms       []*rpm.Package // of image.Packages; nil for what the recipe made
	definition provenance.BuildDefinition
	subjects   []string // paths of the image's files, but for the documents; the disk first
	digest     string   // of all this
}

// describe finds what the documents of an image are made of.
func (b *Builder) describe(ctx context.Context, t *graph.Target, r *store.Result) (*documents, error) {
	s, err := b.look(t)
	if err != nil {
		return nil, err
	}
	c, v := &b.ws.Config, t.Variant
	d := &documents{image: &sbom.Image{Name: b.ImageName(v), OS: c.Name, Version: c.Version, Vendor: c.Vendor, Time: time.Unix(c.ReleaseEpoch, 0)}}
	if err := b.listPackages(ctx, d, s, r); err != nil {
		return nil, err
	}
	if err := b.define(d, s); err != nil {
		return nil, err
	}
	d.subjects = append(append([]string{b.ImagePath(v)}, b.companions(v)...), filepath.Join(b.ImageDir(v), inspect.InventoryFile))
	if files := b.migrationFiles(v); len(files) > 0 {
		d.subjects = append(d.subjects, files[0])
	}
	disk, err := b.stamp(v, r)
	if err != nil {
		return nil, err
	}
	parts := []any{documentsVersion, sbom.MediaPrograms, d.image, d.definition, shownFrom(disk, v)}
	for _, path := range d.subjects {
		parts = append(parts, filepath.Base(path))
	}
	if files := b.migrationFiles(v); len(files) > 0 {
		stamp, err := os.ReadFile(files[1])
		if err != nil {
			return nil, err
		}
		parts = append(parts, string(stamp))
	}
	signer, err := b.provenance()
	if err != nil {
		return nil, err
	}
	if signer != nil {
		id, err := provenance.KeyID(signer.Public())
		if err != nil {
			return nil, err
		}
		parts = append(parts, id)
	}
	code, err := json.Marshal(parts)
	sum := sha256.Sum256(code)
	d.digest = hex.EncodeToString(sum[:])
	return d, err
}

// listPackages lists the RPMs that the inventory of an image has, with what the
// plan and the manifests know of them.
func (b *Builder) listPackages(ctx context.Context, d *documents, s *step, r *store.Result) error {
	if err := b.ready(ctx, r, slices.DeleteFunc(slices.Clone(r.Files), func(f store.File) bool { return f.Name != "inventory.tsv" })); err != nil {
		return err
	}
	raw, err := b.inventory(r)
	if err != nil {
		return err
	}
	var inventory struct {
		Packages []inventoryEntry `json:"packages"`
	}
	if err := json.Unmarshal(raw, &inventory); err != nil {
		return err
	}
	planned := map[string]*rpm.Package{}
	for _, p := range append([]*rpm.Package{b.metadataPackage(s.target.Variant)}, s.rpms...) {
		planned[p.String()] = p
	}
	index, place := rpm.NewIndex(), map[*rpm.Package]int{}
	for n, e := range inventory.Packages {
		list := sbom.Package{Name: e.Name, Epoch: e.Epoch, Version: e.Version, Release: e.Release, Arch: e.Arch, License: e.License, URL: e.URL, Summary: e.Summary}
		p := planned[list.String()]
		if p == nil {
			return fmt.Errorf("the image has %s, which is not among the RPMs that were planned for it", &list)
		}
		if err := index.Add(p); err != nil {
			return err
		}
		place[p] = n
		list.SHA256 = strings.TrimPrefix(p.Digest, "sha256:")
		for _, dep := range p.Provides {
			if lib, ok := sbom.ParseBundled(dep.Name, dep.EVR); ok {
				list.Bundled = append(list.Bundled, lib)
			}
		}
		if from := b.ws.Package(strings.TrimPrefix(p.Source, "packages/")); from != nil {
			for i := range from.ExternalFiles {
				f := &from.ExternalFiles[i]
				list.Sources = append(list.Sources, sbom.Source{Name: f.FileName(), URL: f.URL, SHA256: f.SHA256, SHA512: f.SHA512})
			}
		}
		d.image.Packages, d.rpms = append(d.image.Packages, list), append(d.rpms, p)
	}
	for n, p := range d.rpms {
		for _, q := range index.Requires(p) {
			d.image.Packages[n].Requires = append(d.image.Packages[n].Requires, place[q])
		}
		slices.Sort(d.image.Packages[n].Requires)
	}
	return nil
}

// Annotations of dependencies in provenance.
const (
	annotationPackage = "package" // target that an RPM or source belongs to
	annotationUse     = "use"     // "installed": in the image; "build": for building what is installed
)

// define says what an image was made from: the SDK; the inputs, by which keys are
// made, of the image and of the packages that are installed in it; their sources;
// the RPMs that are installed in it, those that were installed for building
// these, and those of the image tools.
func (b *Builder) define(d *documents, s *step) error {
	c, v := &b.ws.Config, s.target.Variant
	def := &d.definition
	def.ExternalParameters = map[string]any{"workspace": c.Name, "version": c.Version, "variant": v.Name, "arch": b.opt.Arch}
	def.InternalParameters = map[string]any{"key": s.key, "recipe": s.inputs.Recipe, "sourceDateEpoch": c.ReleaseEpoch}
	digest := func(d string) map[string]string {
		algorithm, sum, _ := strings.Cut(d, ":")
		return map[string]string{algorithm: sum}
	}
	def.ResolvedDependencies = []provenance.Resource{
		{Name: "sdk", Digest: digest(s.inputs.SDK), MediaType: "application/vnd.oci.image.manifest.v1+json"},
		{Name: s.target.Name, Digest: map[string]string{"sha256": s.key}, MediaType: store.MediaInputs},
	}
	installed, built := map[string]bool{}, map[[2]string]bool{}
	packages := map[string]bool{}
	for _, p := range s.tools {
		built[[2]string{p.FileName, p.Digest}] = true
	}
	for _, p := range d.rpms {
		if p.Digest == "" { // that the recipe makes
			continue
		}
		installed[p.Digest], packages[p.Source] = true, true
		def.ResolvedDependencies = append(def.ResolvedDependencies, provenance.Resource{
			Name: p.FileName, Digest: digest(p.Digest), Annotations: map[string]string{annotationPackage: p.Source, annotationUse: "installed"}})
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		r := b.result(name)
		def.ResolvedDependencies = append(def.ResolvedDependencies, provenance.Resource{Name: name, Digest: map[string]string{"sha256": r.Key}, MediaType: store.MediaInputs})
		raw, err := b.results.Inputs(r)
		if err != nil {
			return err
		}
		in, err := plan.Decode(raw)
		if err != nil {
			return fmt.Errorf("inputs of %s: %w", name, err)
		}
		for _, f := range in.RPMs {
			if !installed[f.Digest] {
				built[[2]string{f.Name, f.Digest}] = true
			}
		}
		if from := b.ws.Package(strings.TrimPrefix(name, "packages/")); from != nil {
			for i := range from.ExternalFiles {
				f := &from.ExternalFiles[i]
				sum := map[string]string{"sha512": f.SHA512}
				if f.SHA512 == "" {
					sum = map[string]string{"sha256": f.SHA256}
				}
				def.ResolvedDependencies = append(def.ResolvedDependencies, provenance.Resource{Name: f.FileName(), URI: f.URL, Digest: sum, Annotations: map[string]string{annotationPackage: name}})
			}
		}
	}
	for f := range built {
		def.ResolvedDependencies = append(def.ResolvedDependencies, provenance.Resource{Name: f[0], Digest: digest(f[1]), Annotations: map[string]string{annotationUse: "build"}})
	}
	slices.SortStableFunc(def.ResolvedDependencies[2:], func(a, b provenance.Resource) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Annotations[annotationPackage], b.Annotations[annotationPackage]),
			cmp.Compare(a.Digest["sha256"], b.Digest["sha256"]))
	})
	return nil
}

// writeDocuments says beside a variant's disk what is in its image and how it was
// made, unless what is there was made from the same. What waits for the SHA-256 of
// the disk may be nil.
func (b *Builder) writeDocuments(ctx context.Context, t *graph.Target, r *store.Result, disk func() (string, error)) error {
	d, err := b.describe(ctx, t, r)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	wanted := b.documentFiles(t.Variant)
	stamp := wanted[len(wanted)-1]
	if digest, _ := readDocumentsStamp(stamp); digest == d.digest && allRegular(wanted) {
		return nil
	}
	b.display.Phase(t.Name, "documents")
	stem := filepath.Join(b.ImageDir(t.Variant), b.ImageName(t.Variant))
	for _, path := range append([]string{stamp, stem + provenance.EndSigned, stem + provenance.EndUnsigned}, wanted...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	content, err := b.makeDocuments(ctx, d, b.opt.Version, disk)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	made := time.Unix(b.ws.Config.ReleaseEpoch, 0)
	for i, data := range content {
		if err := writeFile(ctx, wanted[i], bytes.NewReader(data)); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(wanted[i], 0o444), os.Chtimes(wanted[i], made, made)); err != nil {
			return err
		}
	}
	return os.WriteFile(stamp, []byte(d.digest+" "+b.opt.Version+"\n"), 0o644)
}

// readDocumentsStamp gives what the documents that are there were made from, and
// the version of Slipway that made them.
func readDocumentsStamp(path string) (digest, version string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", ""
	}
	digest, version, _ = strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	return digest, version
}

// makeDocuments gives the content of SPDX, CycloneDX and provenance, in this order.
// What waits for the SHA-256 of the disk may be nil.
func (b *Builder) makeDocuments(ctx context.Context, d *documents, version string, disk func() (string, error)) (content [3][]byte, err error) {
	d.image.Tool = version
	s := provenance.New(version, d.definition)
	g, both := errgroup.WithContext(ctx) // each takes a second or two
	if disk == nil {
		disk = startDigest(both, d.subjects[0])
	}
	g.Go(func() error { return b.findPrograms(both, d) })
	g.Go(func() (err error) {
		s.Subject, err = subjects(both, d.subjects, disk)
		return err
	})
	if err := g.Wait(); err != nil {
		return content, err
	}
	if content[0], err = sbom.SPDX(d.image); err != nil {
		return content, err
	}
	if content[1], err = sbom.CycloneDX(d.image); err != nil {
		return content, err
	}
	for i, end := range []string{sbom.EndSPDX, sbom.EndCycloneDX} {
		sum := sha256.Sum256(content[i])
		s.Subject = append(s.Subject, provenance.Resource{Name: d.image.Name + end, Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}})
	}
	slices.SortFunc(s.Subject, func(a, b provenance.Resource) int { return strings.Compare(a.Name, b.Name) })
	signer, err := b.provenance()
	if err != nil {
		return content, err
	}
	if signer == nil {
		content[2], err = s.Encode()
	} else {
		content[2], err = s.Sign(ctx, signer)
	}
	return content, err
}

// subjects gives files with their digests, of which that of the first is awaited.
func subjects(ctx context.Context, paths []string, first func() (string, error)) (list []provenance.Resource, err error) {
	sums := make([]string, len(paths))
	for i, path := range paths[1:] {
		if sums[1+i], err = inspect.Digest(ctx, path); err != nil {
			return nil, err
		}
	}
	if sums[0], err = first(); err != nil {
		return nil, err
	}
	for i, path := range paths {
		list = append(list, provenance.Resource{Name: filepath.Base(path), Digest: map[string]string{"sha256": sums[i]}})
	}
	return list, nil
}

// describePrograms reads what the RPMs of a folder ship of Go; see
// sbom.MediaPrograms.
func describePrograms(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string][]sbom.Program{}
	for _, e := range entries {
		if strings.Contains(e.Name(), "-debuginfo-") || strings.Contains(e.Name(), "-debugsource-") { // as in describeRPMs
			continue
		}
		if all[e.Name()], err = sbom.ReadPrograms(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}

// findPrograms fills in what RPMs ship of Go: as their builds noted it, else from
// the RPMs.
func (b *Builder) findPrograms(ctx context.Context, d *documents) error {
	noted := map[string]map[string][]sbom.Program{}
	var unread []*rpm.Package
	for _, p := range d.rpms {
		if p.Digest == "" {
			continue
		}
		if _, ok := noted[p.Source]; !ok {
			r := b.result(p.Source)
			raw, err := b.results.Attached(r, sbom.MediaPrograms)
			if err != nil {
				b.lost(r, err)
				return b.dropped(r)
			}
			noted[p.Source] = nil
			if raw != nil {
				list := map[string][]sbom.Program{}
				if err := json.Unmarshal(raw, &list); err != nil {
					return fmt.Errorf("%w: Go programs of %s: %w", store.ErrCorrupt, p.Source, err)
				}
				noted[p.Source] = list
			}
		}
		if noted[p.Source] == nil {
			unread = append(unread, p)
		}
	}
	if err := b.readyRPMs(ctx, unread); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(2)
	for n, p := range d.rpms {
		if p.Digest == "" {
			continue
		}
		if list := noted[p.Source]; list != nil {
			d.image.Packages[n].Programs = list[p.FileName]
			continue
		}
		g.Go(func() (err error) {
			d.image.Packages[n].Programs, err = sbom.ReadPrograms(b.results.Path(p.Digest))
			return err
		})
	}
	return g.Wait()
}

// verifyDocuments checks the documents of an image that has been verified.
func (b *Builder) verifyDocuments(ctx context.Context, t *graph.Target, r *store.Result, v *Verified) error {
	if !v.Good() || len(b.results.Missing(r)) > 0 {
		return nil // they state digests of what is wrong, or cannot be made
	}
	d, err := b.describe(ctx, t, r)
	wanted := b.documentFiles(t.Variant)
	stamp := wanted[len(wanted)-1]
	digest, version := readDocumentsStamp(stamp)
	var content [3][]byte
	if err == nil {
		content, err = b.makeDocuments(ctx, d, version, nil)
	}
	if errors.Is(err, errReplan) {
		v.damaged("an RPM of the image is damaged and dropped, so its bill of materials was not checked: slipway build %s makes it again", t.Name)
		return nil
	}
	if err != nil {
		return err
	}
	for i, want := range content {
		got, err := os.ReadFile(wanted[i])
		switch {
		case err == nil && digest == d.digest && (bytes.Equal(got, want) || i == 2 && b.sameStatement(ctx, got, want)):
			continue
		case errors.Is(err, fs.ErrNotExist):
			v.damaged("%s is missing: slipway build %s shows it again", b.show(wanted[i]), t.Name)
		default:
			v.damaged("%s is not of the image beside it as it is built now: slipway build %s shows it again", b.show(wanted[i]), t.Name)
		}
	}
	if v.Good() {
		return nil
	}
	if err := os.Remove(stamp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sameStatement tells whether an envelope holds the same statement as another and
// is signed: signatures of ECDSA differ each time.
func (b *Builder) sameStatement(ctx context.Context, got, want []byte) bool {
	signer, err := b.provenance()
	if err != nil || signer == nil {
		return false
	}
	a, errA := provenance.Parse(got)
	c, errC := provenance.Parse(want)
	return errA == nil && errC == nil && bytes.Equal(a.Payload, c.Payload) && a.Verify(ctx, signer.Public()) == nil
}
