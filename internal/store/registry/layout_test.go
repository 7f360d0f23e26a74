package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/store/registry/registrytest"
)

// writeLayout makes a layout with an image of one layer.
func writeLayout(t *testing.T, layer string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		write(t, blobPath(dir, d.Digest), content)
		return d
	}
	manifest := put(ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)),
		Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayerZstd, []byte(layer))},
	}))
	manifest.Platform = &ocispec.Platform{Architecture: "amd64", OS: "linux"}
	write(t, filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(t, filepath.Join(dir, ocispec.ImageIndexFile), encode(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest},
	}))
	return dir
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A layout comes back as it was, from a real registry.
func TestLayout(t *testing.T) {
	t.Parallel()
	s := registrytest.Start(t)
	k := newKeys(t)
	r, _ := open(t, s.Host, func(c *Config) { c.SignKey, c.PublicKeys = k.ecdsa.private(t), k.ecdsa.public(t) })
	dir := writeLayout(t, strings.Repeat("layer ", 1<<20))
	d, err := r.PushLayout(t.Context(), "sdk-1", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", d} {
		copied := filepath.Join(t.TempDir(), "sdk")
		got, err := r.PullLayout(t.Context(), "sdk-1", want, copied)
		if err != nil || got != d {
			t.Fatalf("got %s, %v, want %s", got, err, d)
		}
		if diff := cmp.Diff(tree(t, dir), tree(t, copied)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestPullLayoutRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKeys(t)
	signed, _ := open(t, s.host(), func(c *Config) { c.SignKey, c.PublicKeys = k.ed25519.private(t), k.ed25519.public(t) })
	plain, _ := open(t, s.host())
	dir := writeLayout(t, "layer")
	d, err := signed.PushLayout(t.Context(), "sdk-1", dir)
	if err != nil {
		t.Fatal(err)
	}
	// an old SDK under the tag of a new one
	if _, err := plain.PushLayout(t.Context(), "sdk-2", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.PushLayout(t.Context(), "sdk-3", writeLayout(t, "unsigned layer")); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	write(t, filepath.Join(full, "file"), nil)
	for _, tc := range []struct {
		name           string
		r              *Registry
		tag, want, dir string
		err            error
		text           string
	}{
		{name: "absent", r: signed, tag: "sdk-0", err: ErrNotFound, text: "sdk-0"},
		{name: "other digest", r: plain, tag: "sdk-1", want: digest.FromString("x").String(), err: ErrCorrupt, text: d},
		{name: "other tag", r: signed, tag: "sdk-2", err: ErrBadSignature, text: "the signature is for the tag sdk-1"},
		{name: "unsigned", r: signed, tag: "sdk-3", err: ErrUnsigned, text: "sdk-3"},
		{name: "folder with files", r: plain, tag: "sdk-1", dir: full, text: "is not empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := tc.dir
			if dir == "" {
				dir = filepath.Join(t.TempDir(), "sdk")
			}
			_, err := tc.r.PullLayout(t.Context(), tc.tag, tc.want, dir)
			if err == nil || tc.err != nil && !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %v with %q", err, tc.err, tc.text)
			}
			if _, err := os.Stat(filepath.Join(dir, ocispec.ImageIndexFile)); err == nil {
				t.Error("left an index")
			}
		})
	}
	// a blob that cannot be had leaves no layout
	if err := os.Remove(blobPath(dir, digest.FromString("layer"))); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.PushLayout(t.Context(), "sdk-4", dir); err != nil {
		t.Fatalf("the registry has all of it: %v", err)
	}
	if _, err := plain.PushLayout(t.Context(), "sdk-5", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no layout: %v", err)
	}
	write(t, filepath.Join(dir, ocispec.ImageIndexFile), []byte(`{"manifests":[]}`))
	if _, err := plain.PushLayout(t.Context(), "sdk-5", dir); err == nil || !strings.Contains(err.Error(), "has 0 manifests, want 1") {
		t.Errorf("no image: %v", err)
	}
}
