package workspace

import (
	"regexp"
	"slices"
	"strings"
)

// inPlaceUpdates is the image feature that follows from the layout.
const inPlaceUpdates = "in-place-updates"

var variantVersion = regexp.MustCompile(`^[0-9][0-9.]*$`)

// VariantFacts are the parts of a variant's name, whose grammar is
// platform-runtime[-version][-flavor]: "aws-k8s-1.30-nvidia".
type VariantFacts struct {
	Platform, Runtime string // "aws", "k8s"; Runtime is "none" for a name of one word
	Family            string // "aws-k8s"
	Version           string // "1.30"; "0" where the name has none
	Flavor            string // "nvidia"; "none" where the name has none
}

// NameFacts takes the name of a variant apart.
func (v *Variant) NameFacts() VariantFacts {
	words := strings.Split(v.Name, "-")
	f := VariantFacts{Platform: words[0], Runtime: "none", Family: words[0], Version: "0", Flavor: "none"}
	if len(words) > 1 {
		f.Runtime, f.Family = words[1], words[0]+"-"+words[1]
		words = words[2:]
		if len(words) > 0 && variantVersion.MatchString(words[0]) {
			f.Version, words = words[0], words[1:]
		}
		if len(words) > 0 {
			f.Flavor = strings.Join(words, "-")
		}
	}
	return f
}

// Facts are the capabilities, without vendor prefix, by which packages can tell
// the variant: variant(x), variant-platform(x), variant-runtime(x),
// variant-family(x), variant-flavor(x), data-filesystem(x), and image-feature(x)
// or image-feature(no-x) for in-place-updates, which says whether the disk has a
// slot for updates, and every feature that any variant of the workspace names.
func (w *Workspace) Facts(v *Variant) []string {
	f := v.NameFacts()
	facts := []string{
		"variant(" + v.Name + ")",
		"variant-platform(" + f.Platform + ")",
		"variant-runtime(" + f.Runtime + ")",
		"variant-family(" + f.Family + ")",
		"variant-flavor(" + f.Flavor + ")",
		"data-filesystem(" + v.ImageLayout.WithDefaults().DataFilesystem + ")",
	}
	features := []string{inPlaceUpdates}
	for _, other := range w.Variants {
		for name := range other.ImageFeatures {
			features = append(features, name)
		}
	}
	slices.Sort(features)
	for _, name := range slices.Compact(features) {
		on := v.ImageFeatures[name]
		if name == inPlaceUpdates {
			on = v.ImageLayout.Updates()
		}
		if !on {
			name = "no-" + name
		}
		facts = append(facts, "image-feature("+name+")")
	}
	return facts
}
