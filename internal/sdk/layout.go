package sdk

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutWriter writes an OCI image layout with one image of one layer. What is
// written to it is the layer's tar.
type layoutWriter struct {
	dir    string
	file   *os.File
	buf    *bufio.Writer
	zw     *zstd.Encoder
	raw    hash.Hash // of the tar
	packed hash.Hash // of the compressed layer
	size   int64
}

func newLayoutWriter(dir string) (*layoutWriter, error) {
	if err := os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(dir, v1.ImageBlobsDir, "sha256", "layer"))
	if err != nil {
		return nil, err
	}
	w := &layoutWriter{dir: dir, file: file, raw: sha256.New(), packed: sha256.New()}
	w.buf = bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		w.packed.Write(p)
		n, err := file.Write(p)
		w.size += int64(n)
		return n, err
	}), 1<<20)
	// one worker: the same input then always gives the same output
	w.zw, err = zstd.NewWriter(w.buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		file.Close()
		return nil, err
	}
	return w, nil
}

func (w *layoutWriter) Write(p []byte) (int, error) {
	w.raw.Write(p)
	return w.zw.Write(p)
}

func (w *layoutWriter) Close() error { return w.file.Close() }

// finish writes the config, the manifest and the index.
func (w *layoutWriter) finish(arch string) error {
	if err := errors.Join(w.zw.Close(), w.buf.Flush(), w.file.Sync(), w.file.Close()); err != nil {
		return err
	}
	layer := v1.Descriptor{MediaType: v1.MediaTypeImageLayerZstd, Digest: digest.NewDigest(digest.SHA256, w.packed), Size: w.size}
	if err := os.Rename(w.file.Name(), w.blob(layer.Digest)); err != nil {
		return err
	}
	created := time.Unix(epoch, 0).UTC()
	platform := v1.Platform{Architecture: arch, OS: "linux"}
	config, err := w.putJSON(v1.MediaTypeImageConfig, v1.Image{
		Created:  &created,
		Platform: platform,
		Config: v1.ImageConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
			WorkingDir: "/",
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigest(digest.SHA256, w.raw)}},
	})
	if err != nil {
		return err
	}
	manifest, err := w.putJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config,
		Layers:    []v1.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Platform = &platform
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{manifest},
	})
	if err != nil {
		return err
	}
	marker, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(w.dir, v1.ImageLayoutFile), marker, 0o644),
		os.WriteFile(filepath.Join(w.dir, v1.ImageIndexFile), index, 0o644),
	)
}

func (w *layoutWriter) blob(d digest.Digest) string {
	return filepath.Join(w.dir, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (w *layoutWriter) putJSON(mediaType string, v any) (v1.Descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := digest.FromBytes(text)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(text))}, os.WriteFile(w.blob(d), text, 0o644)
}

// readLayout reads what newLayoutWriter wrote; fs.ErrNotExist if there is none.
func readLayout(dir string) (*Image, error) {
	text, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	bad := func(err error) error {
		return fmt.Errorf("%s is damaged: %w: remove it, and it is made again", dir, err)
	}
	var index v1.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, bad(err)
	}
	if len(index.Manifests) != 1 {
		return nil, bad(fmt.Errorf("index.json has %d images, want 1", len(index.Manifests)))
	}
	w := layoutWriter{dir: dir}
	desc := index.Manifests[0]
	if err := desc.Digest.Validate(); err != nil {
		return nil, bad(err)
	}
	if text, err = os.ReadFile(w.blob(desc.Digest)); err != nil {
		return nil, bad(notAbsent(err))
	}
	if digest.FromBytes(text) != desc.Digest {
		return nil, bad(errors.New("the manifest does not have its digest"))
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, bad(err)
	}
	if len(manifest.Layers) != 1 {
		return nil, bad(fmt.Errorf("the manifest has %d layers, want 1", len(manifest.Layers)))
	}
	layer := manifest.Layers[0]
	if err := errors.Join(manifest.Config.Digest.Validate(), layer.Digest.Validate()); err != nil {
		return nil, bad(err)
	}
	fi, err := os.Stat(w.blob(layer.Digest))
	if err != nil {
		return nil, bad(notAbsent(err))
	}
	if fi.Size() != layer.Size {
		return nil, bad(fmt.Errorf("the layer has %d bytes, want %d", fi.Size(), layer.Size))
	}
	blobs := []digest.Digest{desc.Digest, manifest.Config.Digest, layer.Digest}
	return &Image{Layout: dir, Digest: desc.Digest.String(), Size: layer.Size, blobs: blobs}, nil
}

// Blobs are the digests of what the layout of an SDK holds, "sha256:<hex>",
// sorted. The error wraps fs.ErrNotExist where there is none.
func Blobs(layout string) ([]string, error) {
	img, err := readLayout(layout)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, d := range img.blobs {
		list = append(list, d.String())
	}
	slices.Sort(list)
	return list, nil
}

// Verify reads all blobs of the layout of an SDK, and tells how many they are. The
// error says which does not have its digest, or what else is wrong with the layout.
func Verify(ctx context.Context, layout string) (checked int, err error) {
	img, err := readLayout(layout)
	if err != nil {
		return 0, err
	}
	for _, d := range img.blobs {
		if err := ctx.Err(); err != nil {
			return checked, context.Cause(ctx)
		}
		f, err := os.Open((&layoutWriter{dir: layout}).blob(d))
		if err != nil {
			return checked, err
		}
		verifier := d.Verifier()
		_, err = io.Copy(verifier, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return checked, err
		}
		checked++
		if !verifier.Verified() {
			return checked, fmt.Errorf("%s is damaged: its blob %s does not have this digest", layout, d)
		}
	}
	return checked, nil
}

// notAbsent hides that a part is missing from callers that ask whether the
// whole is.
func notAbsent(err error) error { return errors.New(err.Error()) }

var _ io.Writer = (*layoutWriter)(nil)
