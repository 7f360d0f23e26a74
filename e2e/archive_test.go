//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeOCIArchive packs a program as the image slipway.local/hello:latest.
func writeOCIArchive(t *testing.T, dir, program string) string {
	t.Helper()
	layer := tarball(t, map[string][]byte{"hello": readAll(t, program)}, 0o755)
	config := marshal(t, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/hello"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	describe := func(mediaType string, content []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	}
	manifest := marshal(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{describe(ocispec.MediaTypeImageLayer, layer)},
	})
	top := describe(ocispec.MediaTypeImageManifest, manifest)
	top.Annotations = map[string]string{
		"io.containerd.image.name": "slipway.local/hello:latest", ocispec.AnnotationRefName: "latest",
	}
	files := map[string][]byte{
		ocispec.ImageLayoutFile: marshal(t, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}),
		"index.json":            marshal(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}}),
	}
	for _, blob := range [][]byte{layer, config, manifest} {
		files["blobs/sha256/"+digest.FromBytes(blob).Encoded()] = blob
	}
	path := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(path, tarball(t, files, 0o644), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func tarball(t *testing.T, files map[string][]byte, mode int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
