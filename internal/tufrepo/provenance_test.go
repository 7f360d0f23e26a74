package tufrepo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/provenance"
	"slipway/internal/update"
)

// Provenance must be of the images, as they are without compression.
func TestCheckProvenance(t *testing.T) {
	t.Parallel()
	sum := func(c string) string { return strings.Repeat(c, 64) }
	image := func(stored, content string) update.Image {
		return update.Image{File: update.File{SHA256: sum(stored)}, ContentSHA256: sum(content)}
	}
	images := update.Images{Root: image("0", "1"), Hash: image("2", "2"), UKI: image("3", "3")}
	for _, tt := range []struct{ name, digests, want string }{
		{"all", "123", ""},
		{"more", "4321", ""},
		{"compressed", "023", "no subject has the sha256 of the root, 1111"},
		{"no hash", "13", "no subject has the sha256 of the hash, 2222"},
		{"other kernel", "124", "no subject has the sha256 of the uki, 3333"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := provenance.New("v1", provenance.BuildDefinition{})
			for _, c := range tt.digests {
				s.Subject = append(s.Subject, provenance.Resource{Name: string(c), Digest: map[string]string{"sha256": sum(string(c))}})
			}
			data, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "x.intoto.json")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			err = checkProvenance([]string{path}, images)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), path+": it is the provenance of other files: "+tt.want)) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	other := filepath.Join(t.TempDir(), "x.intoto.jsonl")
	if err := os.WriteFile(other, []byte("{\"_type\": \"https://in-toto.io/Statement/v1\"}\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkProvenance([]string{other}, images); err != nil {
		t.Errorf("a statement of another kind: %v", err)
	}
}
