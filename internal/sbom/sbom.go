// Package sbom writes software bills of materials of images, as SPDX 2.3
// (https://spdx.github.io/spdx-spec/v2.3/) and as CycloneDX 1.6
// (https://cyclonedx.org/docs/1.6/json/), both in JSON, and reads of them which
// RPMs they list. The same image gives the same bytes.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/package-url/packageurl-go"
)

// Endings of the files beside an image, after its name without ending.
const (
	EndSPDX      = "-sbom.spdx.json"
	EndCycloneDX = "-sbom.cdx.json"
)

// Image is what a bill of materials is made from.
type Image struct {
	Name    string    // of its files, without their endings
	OS      string    // name of the operating system
	Version string    // of the operating system
	Vendor  string    // who supplies its RPMs: the namespace of their package URLs
	Time    time.Time // of the release; whole seconds are written
	Tool    string    // version of Slipway
	// Packages are the RPMs of the image.
	Packages []Package
}

// Package is an RPM of an image.
type Package struct {
	Name    string
	Epoch   int
	Version string
	Release string
	Arch    string
	License string // as the RPM has it; an SPDX expression if all is well
	URL     string // home page; may be empty
	Summary string
	// SHA256 is the digest of the RPM's file, 64 hexadecimal digits; empty where
	// there is no file.
	SHA256  string
	Sources []Source
	// Bundled are libraries of others that are part of the RPM's programs.
	Bundled []Bundled
	// Programs are what the RPM ships of Go.
	Programs []Program
	// Requires are the places in Image.Packages of what the RPM requires.
	Requires []int
}

// EVR is [epoch:]version-release.
func (p *Package) EVR() string {
	evr := p.Version + "-" + p.Release
	if p.Epoch != 0 {
		return fmt.Sprintf("%d:%s", p.Epoch, evr)
	}
	return evr
}

func (p *Package) String() string { return p.Name + "-" + p.EVR() + "." + p.Arch }

// Source is a file from upstream that an RPM is built from.
type Source struct {
	Name string // of the file
	// URL is where it comes from: an address of HTTP or a file, or debian:… or
	// go:… as manifests have it.
	URL string
	// SHA256 and SHA512 are hexadecimal digests of the file; one may be empty.
	SHA256, SHA512 string
}

// Bundled is a library inside of an RPM, as Provides: bundled(name) = version says.
type Bundled struct {
	Name    string // what stands between the brackets
	Version string // may be empty
}

// ParseBundled takes a Provides apart; ok is false where it is another one.
func ParseBundled(name, evr string) (b Bundled, ok bool) {
	name, ok = strings.CutPrefix(name, "bundled(")
	if !ok || !strings.HasSuffix(name, ")") || len(name) == 1 {
		return b, false
	}
	return Bundled{strings.TrimSuffix(name, ")"), evr}, true
}

// sorted gives a copy of the image in one order, whatever the order was.
func (i *Image) sorted() *Image {
	out := *i
	order := make([]int, len(i.Packages))
	for n := range order {
		order[n] = n
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(i.Packages[a].Name, i.Packages[b].Name), cmp.Compare(i.Packages[a].String(), i.Packages[b].String()))
	})
	place := make([]int, len(order))
	out.Packages = make([]Package, len(order))
	for n, from := range order {
		place[from], out.Packages[n] = n, i.Packages[from]
	}
	for n := range out.Packages {
		p := &out.Packages[n]
		p.Sources = slices.Clone(p.Sources)
		slices.SortFunc(p.Sources, func(a, b Source) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.URL, b.URL)) })
		requires := make([]int, len(p.Requires))
		for k, r := range p.Requires {
			requires[k] = place[r]
		}
		slices.Sort(requires)
		p.Requires = slices.Compact(requires)
	}
	return &out
}

// library is something inside of an RPM that has a name and version of its own.
type library struct {
	name, version, purl string
	files               []string // that it is part of; sorted
}

// libraries are what is inside of an RPM by its own word and by that of its Go
// programs, sorted by package URL.
func (p *Package) libraries() ([]library, error) {
	all := map[string]*library{}
	add := func(name, version, file string, u packageurl.PackageURL) error {
		if err := u.Normalize(); err != nil {
			return fmt.Errorf("%s: %s %s: %w", p, name, version, err)
		}
		key := u.ToString()
		if all[key] == nil {
			all[key] = &library{name: name, version: version, purl: key}
		}
		if file != "" {
			all[key].files = append(all[key].files, file)
		}
		return nil
	}
	for _, b := range p.Bundled {
		name, kind := b.Name, packageurl.TypeGeneric
		for prefix, known := range map[string]string{"golang(": packageurl.TypeGolang, "npm(": packageurl.TypeNPM, "crate(": packageurl.TypeCargo} {
			if inner, ok := strings.CutPrefix(b.Name, prefix); ok {
				name, kind = strings.TrimSuffix(inner, ")"), known
			}
		}
		if err := add(name, b.Version, "", pathURL(kind, name, b.Version)); err != nil {
			return nil, err
		}
	}
	for _, program := range p.Programs {
		for _, m := range append([]Module{{"stdlib", program.Go}, program.Main}, program.Modules...) {
			if m.Path == "" {
				continue
			}
			if err := add(m.Path, m.Version, program.Path, pathURL(packageurl.TypeGolang, m.Path, m.Version)); err != nil {
				return nil, err
			}
		}
	}
	var list []library
	for _, l := range all {
		slices.Sort(l.files)
		l.files = slices.Compact(l.files)
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b library) int { return strings.Compare(a.purl, b.purl) })
	return list, nil
}

// pathURL is the package URL of what is named by a path.
func pathURL(kind, path, version string) packageurl.PackageURL {
	u := packageurl.PackageURL{Type: kind, Name: path, Version: version}
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		u.Namespace, u.Name = path[:i], path[i+1:]
	}
	return u
}

// rpmURL is the package URL of an RPM
// (https://github.com/package-url/purl-spec/blob/main/types-doc/rpm-definition.md).
func (i *Image) rpmURL(p *Package) (string, error) {
	q := map[string]string{"arch": p.Arch, "distro": i.OS + "-" + i.Version}
	if p.Epoch != 0 {
		q["epoch"] = fmt.Sprint(p.Epoch)
	}
	u := packageurl.PackageURL{Type: packageurl.TypeRPM, Namespace: i.Vendor, Name: p.Name, Version: p.Version + "-" + p.Release, Qualifiers: packageurl.QualifiersFromMap(q)}
	if err := u.Normalize(); err != nil {
		return "", fmt.Errorf("%s: %w", p, err)
	}
	return u.ToString(), nil
}

// web tells whether the file can be had by its address alone.
func (s *Source) web() bool {
	return strings.HasPrefix(s.URL, "https://") || strings.HasPrefix(s.URL, "http://")
}

// purl is the package URL of a source: of the Go module that it is, else a generic
// one with its digest.
func (s *Source) purl() (string, error) {
	var u packageurl.PackageURL
	if module, ok := strings.CutPrefix(s.URL, "go:"); ok {
		path, version, _ := strings.Cut(module, "@")
		u = pathURL(packageurl.TypeGolang, path, version)
	} else {
		q := map[string]string{"checksum": "sha256:" + s.SHA256}
		if s.SHA512 != "" {
			q["checksum"] = "sha512:" + s.SHA512
		}
		if s.web() {
			q["download_url"] = s.URL
		}
		u = packageurl.PackageURL{Type: packageurl.TypeGeneric, Name: s.Name, Qualifiers: packageurl.QualifiersFromMap(q)}
	}
	if err := u.Normalize(); err != nil {
		return "", fmt.Errorf("source %s: %w", s.Name, err)
	}
	return u.ToString(), nil
}

// isExpression tells whether the licence of an RPM is an SPDX expression.
func isExpression(license string) bool {
	ok, _ := spdxexp.ValidateLicenses([]string{license})
	return ok && license != ""
}

// uuid is a UUID that follows from content (RFC 9562, version 8).
func uuid(content []byte) string {
	sum := sha256.Sum256(content)
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (i *Image) created() string { return i.Time.UTC().Format("2006-01-02T15:04:05Z") }
