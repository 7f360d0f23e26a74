package sbom

import (
	"encoding/json"
	"errors"
	"fmt"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// Formats of bills of materials.
const (
	FormatSPDX      = "SPDX"
	FormatCycloneDX = "CycloneDX"
)

// List is what a bill of materials says of an image's RPMs.
type List struct {
	Format string // FormatSPDX or FormatCycloneDX
	Name   string // of the image
	RPMs   []RPM  // in the order of the document
}

// RPM is an entry of a List.
type RPM struct {
	Name string
	EVR  string // [epoch:]version-release
	Arch string
}

func (r RPM) String() string { return r.Name + "-" + r.EVR + "." + r.Arch }

// document is what Read looks at, in either format. The formats' libraries are not
// used for reading: what they read must be well-formed.
type document struct {
	SPDXVersion string `json:"spdxVersion"`
	Name        string `json:"name"`
	Packages    []struct {
		Name    string `json:"name"`
		Version string `json:"versionInfo"`
		Refs    []struct {
			Type    string `json:"referenceType"`
			Locator string `json:"referenceLocator"`
		} `json:"externalRefs"`
	} `json:"packages"`

	BOMFormat   string `json:"bomFormat"`
	SpecVersion string `json:"specVersion"`
	Metadata    struct {
		Component struct {
			Name string `json:"name"`
		} `json:"component"`
	} `json:"metadata"`
	Components []struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
	} `json:"components"`
}

// Read reads which RPMs a bill of materials lists, those that have a package URL
// of type rpm. What an entry says outside of its package URL must agree with it.
func Read(data []byte) (*List, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	switch {
	case d.SPDXVersion != "" && d.BOMFormat == "":
		if d.SPDXVersion != spdx.Version {
			return nil, fmt.Errorf("spdxVersion is %q: this program knows %s", d.SPDXVersion, spdx.Version)
		}
		l := &List{Format: FormatSPDX, Name: d.Name}
		for _, p := range d.Packages {
			for _, r := range p.Refs {
				if r.Type != common.TypePackageManagerPURL {
					continue
				}
				if err := l.add(r.Locator, p.Name, p.Version); err != nil {
					return nil, err
				}
			}
		}
		return l, nil
	case d.SPDXVersion == "" && d.BOMFormat == cdx.BOMFormat:
		if want := cdx.SpecVersion1_6.String(); d.SpecVersion != want {
			return nil, fmt.Errorf("specVersion is %q: this program knows %s", d.SpecVersion, want)
		}
		l := &List{Format: FormatCycloneDX, Name: d.Metadata.Component.Name}
		for _, c := range d.Components {
			if c.PURL == "" {
				continue
			}
			if err := l.add(c.PURL, c.Name, c.Version); err != nil {
				return nil, err
			}
		}
		return l, nil
	}
	return nil, errors.New("neither spdxVersion nor bomFormat: want an SPDX or a CycloneDX document")
}

// add adds an entry where the package URL is that of an RPM.
func (l *List) add(purl, name, version string) error {
	u, err := packageurl.FromString(purl)
	if err != nil {
		return fmt.Errorf("package URL of %s: %w", name, err)
	}
	if u.Type != packageurl.TypeRPM {
		return nil
	}
	q := u.Qualifiers.Map()
	r := RPM{Name: u.Name, EVR: u.Version, Arch: q["arch"]}
	if q["epoch"] != "" && q["epoch"] != "0" {
		r.EVR = q["epoch"] + ":" + r.EVR
	}
	if r.Name != name || r.EVR != version {
		return fmt.Errorf("%s %s has the package URL of %s %s", name, version, r.Name, r.EVR)
	}
	l.RPMs = append(l.RPMs, r)
	return nil
}
