package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/uki"
)

// stub makes the stub one of that version of systemd.
func stub(t *testing.T, in *Inputs, version string) {
	t.Helper()
	if err := os.WriteFile(in.Stub, efi(".sdmagic", "#### LoaderInfo: systemd-stub "+version+" ####\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Addons of a build lie where the stub looks for them, signed when it signs.
func TestBuildAddons(t *testing.T) {
	t.Parallel()
	key := signingKeys()[0]
	in := signable(t)
	stub(t, &in, "254.26")
	in.Addons = []Addon{{"north", []string{"site=north", `a="b c"`}}, {"debug", []string{"debug"}}}
	in.Sign = SignWith(key.certificate, key.Signer)
	disk := assemble(t, in)
	if !bytes.Equal(bytesOf(t, disk), bytesOf(t, assemble(t, in))) {
		t.Error("the same input made another disk")
	}
	programs, err := Programs(disk)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range programs[2:] {
		a, err := uki.ReadAddon(p.Data)
		if err == nil {
			err = authenticode.Verify(p.Data, key.certificate)
		}
		if err != nil {
			t.Errorf("%s: %v", p.Path, err)
		}
		got[p.Path] = a.Cmdline
	}
	if d := cmp.Diff(map[string]string{"loader/addons/north.addon.efi": `site=north a="b c"`, "loader/addons/debug.addon.efi": "debug"}, got); d != "" {
		t.Error(d)
	}
}

func TestAddonErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		systemd string
		addons  []Addon
		want    string
	}{
		{"252.39", []Addon{{"a", []string{"x"}}}, "the kernel has systemd-stub 252.39, which ignores addons: they are read from version 254 on"},
		{"254", []Addon{{"a", []string{"root=/dev/sda"}}}, `addon a.addon.efi: kernel-parameters: "root=/dev/sda" is set by the image build itself`},
		{"254", []Addon{{"a", []string{`"root=/dev/sda"`}}}, "is set by the image build itself"},
		{"254", []Addon{{"a", []string{"x", "--"}}}, "would hide the root parameters"},
		{"254", []Addon{{"a", nil}}, "addon a: addon: no kernel parameters"},
		{"254", []Addon{{"a", []string{"x"}}, {"A", []string{"y"}}}, `addon "A": want a name of its own`},
		{"254", []Addon{{"../a", []string{"x"}}}, `addon "../a": want a name of its own`},
		{"254", []Addon{{"a", []string{strings.Repeat("x", 900)}}, {"b", []string{strings.Repeat("x", 900)}}}, "addon b.addon.efi: the kernel command line has "},
	} {
		in := signable(t)
		stub(t, &in, tt.systemd)
		in.Addons = tt.addons
		if _, err := Assemble(t.Context(), in, filepath.Join(t.TempDir(), "disk")); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	// where there are none, the stub may be any
	in := signable(t)
	stub(t, &in, "252")
	assemble(t, in)
}
