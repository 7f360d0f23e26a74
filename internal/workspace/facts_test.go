package workspace

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNameFacts(t *testing.T) {
	for name, want := range map[string]VariantFacts{
		"qemu":                {Platform: "qemu", Runtime: "none", Family: "qemu", Version: "0", Flavor: "none"},
		"qemu-dev":            {Platform: "qemu", Runtime: "dev", Family: "qemu-dev", Version: "0", Flavor: "none"},
		"aws-k8s-1.30":        {Platform: "aws", Runtime: "k8s", Family: "aws-k8s", Version: "1.30", Flavor: "none"},
		"aws-k8s-1.30-nvidia": {Platform: "aws", Runtime: "k8s", Family: "aws-k8s", Version: "1.30", Flavor: "nvidia"},
		"aws-dev-big-disk":    {Platform: "aws", Runtime: "dev", Family: "aws-dev", Version: "0", Flavor: "big-disk"},
	} {
		if diff := cmp.Diff(want, (&Variant{Name: name}).NameFacts()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestFacts(t *testing.T) {
	v := &Variant{Name: "aws-k8s-1.30", ImageFeatures: map[string]bool{"fips": false}}
	w := &Workspace{Variants: []*Variant{v, {Name: "qemu-dev", ImageFeatures: map[string]bool{"xfs-data": true}}}}
	want := []string{
		"variant(aws-k8s-1.30)", "variant-platform(aws)", "variant-runtime(k8s)", "variant-family(aws-k8s)", "variant-flavor(none)", "data-filesystem(ext4)",
		"image-feature(no-fips)", "image-feature(in-place-updates)", "image-feature(no-xfs-data)",
	}
	if diff := cmp.Diff(want, w.Facts(v)); diff != "" {
		t.Error(diff)
	}
	v.ImageLayout.Slots, want[7] = 1, "image-feature(no-in-place-updates)"
	if diff := cmp.Diff(want, w.Facts(v)); diff != "" {
		t.Error(diff)
	}
}
