package sbom

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const noAssertion = "NOASSERTION"

// SPDX writes the bill of materials as an SPDX 2.3 document. The image is the
// package that the document describes; it CONTAINS the RPMs; an RPM is
// GENERATED_FROM its sources, DEPENDS_ON other RPMs, and has a STATIC_LINK to what
// is bundled and to Go modules, where the comment names the programs.
func SPDX(i *Image) ([]byte, error) {
	i = i.sorted()
	supplier := &common.Supplier{SupplierType: "Organization", Supplier: i.Vendor}
	d := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: i.Name,
		CreationInfo: &spdx.CreationInfo{Created: i.created(), Creators: []common.Creator{{CreatorType: "Organization", Creator: i.Vendor}, {CreatorType: "Tool", Creator: "slipway-" + i.Tool}}},
	}
	relate := func(a common.ElementID, kind string, b common.ElementID, comment string) {
		d.Relationships = append(d.Relationships, &spdx.Relationship{RefA: common.DocElementID{ElementRefID: a}, Relationship: kind, RefB: common.DocElementID{ElementRefID: b}, RelationshipComment: comment})
	}
	seen := map[common.ElementID]bool{}
	add := func(p *spdx.Package, purl string) {
		if seen[p.PackageSPDXIdentifier] {
			return
		}
		seen[p.PackageSPDXIdentifier] = true
		p.PackageLicenseConcluded, p.PackageCopyrightText = noAssertion, noAssertion
		if p.PackageLicenseDeclared == "" {
			p.PackageLicenseDeclared = noAssertion
		}
		if p.PackageDownloadLocation == "" {
			p.PackageDownloadLocation = noAssertion
		}
		if purl != "" {
			p.PackageExternalReferences = []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
		}
		d.Packages = append(d.Packages, p)
	}
	const image common.ElementID = "Image"
	add(&spdx.Package{PackageName: i.Name, PackageSPDXIdentifier: image, PackageVersion: i.Version, PackageSupplier: supplier, PrimaryPackagePurpose: "OPERATING_SYSTEM"}, "")
	relate("DOCUMENT", common.TypeRelationshipDescribe, image, "")
	ids := make([]common.ElementID, len(i.Packages))
	for n := range i.Packages {
		p := &i.Packages[n]
		ids[n] = element("RPM", p.Name+"-"+p.EVR()+"."+strings.ReplaceAll(p.Arch, "_", "-"))
	}
	licenses := map[string]bool{}
	for n := range i.Packages {
		p := &i.Packages[n]
		purl, err := i.rpmURL(p)
		if err != nil {
			return nil, err
		}
		rpm := &spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: ids[n], PackageVersion: p.EVR(), PackageSupplier: supplier,
			PackageHomePage: p.URL, PackageSummary: p.Summary, PackageLicenseDeclared: p.License, PrimaryPackagePurpose: "INSTALL",
		}
		if p.SHA256 != "" {
			rpm.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: p.SHA256}}
		}
		if p.License != "" && !isExpression(p.License) {
			id := "LicenseRef-" + idstring(p.License)
			rpm.PackageLicenseDeclared = id
			if !licenses[id] {
				licenses[id] = true
				d.OtherLicenses = append(d.OtherLicenses, &spdx.OtherLicense{LicenseIdentifier: id, LicenseName: p.License, ExtractedText: "The License tag of the RPM is: " + p.License})
			}
		}
		add(rpm, purl)
		relate(image, common.TypeRelationshipContains, ids[n], "")
		for _, s := range p.Sources {
			purl, err := s.purl()
			if err != nil {
				return nil, err
			}
			source := &spdx.Package{
				PackageName: s.Name, PackageSPDXIdentifier: element("Source", s.Name+"-"+short(s.SHA512+s.SHA256)), PackageFileName: s.Name,
				PackageSourceInfo: "fetched as " + s.URL, PrimaryPackagePurpose: "SOURCE",
			}
			if s.web() {
				source.PackageDownloadLocation = s.URL
			}
			if s.SHA256 != "" {
				source.PackageChecksums = append(source.PackageChecksums, common.Checksum{Algorithm: common.SHA256, Value: s.SHA256})
			}
			if s.SHA512 != "" {
				source.PackageChecksums = append(source.PackageChecksums, common.Checksum{Algorithm: common.SHA512, Value: s.SHA512})
			}
			add(source, purl)
			relate(ids[n], common.TypeRelationshipGeneratedFrom, source.PackageSPDXIdentifier, "")
		}
		for _, r := range p.Requires {
			relate(ids[n], common.TypeRelationshipDependsOn, ids[r], "")
		}
		libraries, err := p.libraries()
		if err != nil {
			return nil, err
		}
		for _, l := range libraries {
			id := element("Library", strings.TrimPrefix(l.purl, "pkg:"))
			add(&spdx.Package{PackageName: l.name, PackageSPDXIdentifier: id, PackageVersion: l.version, PrimaryPackagePurpose: "LIBRARY"}, l.purl)
			comment := ""
			if len(l.files) > 0 {
				comment = "in " + strings.Join(l.files, ", ")
			}
			relate(ids[n], common.TypeRelationshipStaticLink, id, comment)
		}
	}
	data, err := encode(d)
	if err != nil {
		return nil, err
	}
	d.DocumentNamespace = "urn:uuid:" + uuid(data)
	return encode(d)
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// short is the beginning of a digest.
func short(sum string) string { return sum[:min(len(sum), 16)] }

// element is an identifier of SPDX: one text has one.
func element(kind, text string) common.ElementID {
	return common.ElementID(kind + "-" + idstring(text))
}

// idstring is a text in the letters that identifiers of SPDX have, with a digest
// where it has others.
func idstring(text string) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, text)
	if plain == text {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return plain + "-" + hex.EncodeToString(sum[:4])
}
