package sbom

import (
	"bytes"
	"slices"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// CycloneDX writes the bill of materials as a CycloneDX 1.6 document. The image is
// the component that the document describes, and depends on its RPMs; these depend
// on other RPMs, on what is bundled and on Go modules, whose occurrences name the
// programs. Sources are external references of the RPMs.
func CycloneDX(i *Image) ([]byte, error) {
	i = i.sorted()
	bom := cdx.NewBOM()
	supplier := &cdx.OrganizationalEntity{Name: i.Vendor}
	image := cdx.Component{BOMRef: "image", Type: cdx.ComponentTypeOS, Name: i.Name, Version: i.Version, Supplier: supplier}
	bom.Metadata = &cdx.Metadata{
		Timestamp: i.created(), Component: &image, Supplier: supplier,
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "slipway", Version: i.Tool}}},
	}
	refs := make([]string, len(i.Packages))
	for n := range i.Packages {
		var err error
		if refs[n], err = i.rpmURL(&i.Packages[n]); err != nil {
			return nil, err
		}
	}
	components := []cdx.Component{}
	dependencies := []cdx.Dependency{depends(image.BOMRef, refs)}
	place := map[string]int{} // of libraries in components
	for n := range i.Packages {
		p := &i.Packages[n]
		c := cdx.Component{BOMRef: refs[n], Type: cdx.ComponentTypeLibrary, Supplier: supplier, Name: p.Name, Version: p.EVR(), Description: p.Summary, PackageURL: refs[n]}
		if p.SHA256 != "" {
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}}
		}
		switch {
		case isExpression(p.License):
			c.Licenses = &cdx.Licenses{{Expression: p.License}}
		case p.License != "":
			c.Licenses = &cdx.Licenses{{License: &cdx.License{Name: p.License}}}
		}
		var references []cdx.ExternalReference
		if p.URL != "" {
			references = append(references, cdx.ExternalReference{Type: cdx.ERTypeWebsite, URL: p.URL})
		}
		for _, s := range p.Sources {
			var hashes []cdx.Hash
			if s.SHA256 != "" {
				hashes = append(hashes, cdx.Hash{Algorithm: cdx.HashAlgoSHA256, Value: s.SHA256})
			}
			if s.SHA512 != "" {
				hashes = append(hashes, cdx.Hash{Algorithm: cdx.HashAlgoSHA512, Value: s.SHA512})
			}
			references = append(references, cdx.ExternalReference{Type: cdx.ERTypeSourceDistribution, URL: s.URL, Comment: s.Name, Hashes: &hashes})
		}
		if len(references) > 0 {
			c.ExternalReferences = &references
		}
		components = append(components, c)
		var on []string
		for _, r := range p.Requires {
			on = append(on, refs[r])
		}
		libraries, err := p.libraries()
		if err != nil {
			return nil, err
		}
		for _, l := range libraries {
			on = append(on, l.purl)
			at, ok := place[l.purl]
			if !ok {
				at = len(components)
				place[l.purl] = at
				components = append(components, cdx.Component{BOMRef: l.purl, Type: cdx.ComponentTypeLibrary, Name: l.name, Version: l.version, PackageURL: l.purl})
				dependencies = append(dependencies, depends(l.purl, nil))
			}
			if len(l.files) > 0 {
				if components[at].Evidence == nil {
					components[at].Evidence = &cdx.Evidence{Occurrences: &[]cdx.EvidenceOccurrence{}}
				}
				for _, f := range l.files {
					*components[at].Evidence.Occurrences = append(*components[at].Evidence.Occurrences, cdx.EvidenceOccurrence{Location: f})
				}
			}
		}
		dependencies = append(dependencies, depends(refs[n], on))
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	data, err := encodeCycloneDX(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = "urn:uuid:" + uuid(data)
	return encodeCycloneDX(bom)
}

// depends is one entry of the graph; the schema wants each dependency once.
func depends(ref string, on []string) cdx.Dependency {
	d := cdx.Dependency{Ref: ref}
	if len(on) > 0 {
		on = slices.Compact(slices.Sorted(slices.Values(on)))
		d.Dependencies = &on
	}
	return d
}

func encodeCycloneDX(bom *cdx.BOM) ([]byte, error) {
	var b bytes.Buffer
	err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return b.Bytes(), err
}
