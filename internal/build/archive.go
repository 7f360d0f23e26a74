package build

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"slipway/internal/graph"
	"slipway/internal/sdk"
	"slipway/internal/source"
	"slipway/internal/store"
)

// An archive is a tar with results, sources and an SDK, for a site that has no
// network. These are its entries, in this order:
//
//	results/oci-layout, results/index.json, results/blobs/sha256/<hex>
//	sdk/<key>/oci-layout, sdk/<key>/index.json, sdk/<key>/blobs/sha256/<hex>
//	sources/blobs/sha256/<hex>
//
// results is an OCI image layout whose index names the manifest of each result by
// its key.
const (
	archiveIndex = "results/" + ocispec.ImageIndexFile
	ociLayout    = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`
	// annotationFiles on the index is how many entries the archive has: a tar does
	// not tell that its end is missing.
	annotationFiles = "dev.slipway.archive-files"
	// maxArchiveIndex bounds the indexes in an archive, in bytes.
	maxArchiveIndex = 64 << 20
	// maxArchiveManifest bounds the manifests, as the store does.
	maxArchiveManifest = 4 << 20
)

// archiveEntry are the names that an archive may have: folder, key of an SDK, file,
// digest of a blob.
var archiveEntry = regexp.MustCompile(`^(results|sources|sdk/([0-9a-f]{64}))/(oci-layout|index\.json|blobs/sha256/([0-9a-f]{64}))$`)

// errTruncated says that an archive ends too early.
var errTruncated = errors.New("the archive is truncated")

// ExportOptions say what an archive leaves out.
type ExportOptions struct {
	NoSources bool // upstream sources of the packages
	NoSDK     bool // the SDK
}

// Archived is what an archive holds.
type Archived struct {
	Results, Sources, SDKs int
	Bytes                  int64 // of all files
}

// archiveFile is a file to be written to an archive.
type archiveFile struct {
	name string
	path string // of its content, or
	text []byte
}

// Export writes the results of the named targets and of all that they need to w, as
// a tar, with the sources of the packages and the SDK, so that Import makes
// another machine able to build them, and changes of them, without network. All
// must have been built. The same results give the same archive, bit for bit.
func (b *Builder) Export(ctx context.Context, w io.Writer, names []string, opt ExportOptions) (Archived, error) {
	targets, err := b.closure(names)
	if err != nil {
		return Archived{}, err
	}
	release, err := b.results.Use()
	if err != nil {
		return Archived{}, cacheError(b.opt.Cache, err)
	}
	defer release()
	var a Archived
	files, err := b.archiveResults(ctx, targets)
	if err != nil {
		return a, err
	}
	a.Results = len(targets)
	if !opt.NoSDK {
		list, err := b.archiveSDK(ctx, targets)
		if err != nil {
			return a, err
		}
		files, a.SDKs = append(files, list...), 1
	}
	if !opt.NoSources {
		list, err := b.archiveSources(ctx, targets)
		if err != nil {
			return a, err
		}
		files, a.Sources = append(files, list...), len(list)
	}
	// the index, which is made last, has the number of all
	index := slices.IndexFunc(files, func(f archiveFile) bool { return f.name == archiveIndex })
	files[index].text = bytes.Replace(files[index].text, []byte(`"`+annotationFiles+`":""`), fmt.Appendf(nil, `"%s":"%d"`, annotationFiles, len(files)), 1)
	tw := tar.NewWriter(w)
	for _, f := range files {
		n, err := f.write(ctx, tw)
		if err != nil {
			return a, fmt.Errorf("export %s: %w", f.name, err)
		}
		a.Bytes += n
	}
	return a, tw.Close()
}

// write adds a file to an archive, and holds a blob to its digest.
func (f archiveFile) write(ctx context.Context, tw *tar.Writer) (int64, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var in io.Reader = bytes.NewReader(f.text)
	size := int64(len(f.text))
	if f.path != "" {
		file, err := os.Open(f.path)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return 0, err
		}
		in, size = file, info.Size()
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: size, Mode: 0o444, ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return 0, err
	}
	m := archiveEntry.FindStringSubmatch(f.name)
	if m == nil || m[4] == "" {
		_, err := io.Copy(tw, in)
		return size, err
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, m[4])
	verifier := d.Verifier()
	if _, err := io.Copy(io.MultiWriter(tw, verifier), in); err != nil {
		return 0, err
	}
	if !verifier.Verified() {
		return 0, fmt.Errorf("%s is damaged: run slipway cache verify, and build again what it drops", f.path)
	}
	return size, nil
}

// archiveResults lists the files of results. The index among them lacks the number
// of files.
func (b *Builder) archiveResults(ctx context.Context, targets []*graph.Target) ([]archiveFile, error) {
	steps, err := b.steps(ctx, targets)
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{annotationFiles: ""},
	}
	blobs := map[string]bool{}
	for _, s := range steps {
		r := s.result
		if r == nil {
			return nil, fmt.Errorf("%s has no result: run slipway build first", s.target.Name)
		}
		if err := b.bring(ctx, r, r.Files); err != nil { // of a result of the team cache
			return nil, err
		}
		manifest, err := b.results.Manifest(r)
		if err != nil {
			return nil, err
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: store.ArtifactType, Digest: digest.Digest(r.Digest), Size: int64(len(manifest)),
			Annotations: map[string]string{ocispec.AnnotationRefName: r.Key},
		})
		blobs[r.Digest] = true
		for _, d := range r.Blobs() {
			blobs[d] = true
		}
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName])
	})
	text, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	files := []archiveFile{{name: "results/" + ocispec.ImageLayoutFile, text: []byte(ociLayout)}, {name: archiveIndex, text: text}}
	return append(files, blobFiles("results", blobs, b.results.Path)...), nil
}

// blobFiles are the files of blobs, sorted.
func blobFiles(folder string, blobs map[string]bool, path func(digest string) string) []archiveFile {
	var files []archiveFile
	for d := range blobs {
		files = append(files, archiveFile{name: folder + "/blobs/sha256/" + strings.TrimPrefix(d, "sha256:"), path: path(d)})
	}
	slices.SortFunc(files, func(a, b archiveFile) int { return cmp.Compare(a.name, b.name) })
	return files
}

func (b *Builder) archiveSDK(ctx context.Context, targets []*graph.Target) ([]archiveFile, error) {
	if err := b.ensureSDK(ctx, targets); err != nil {
		return nil, err
	}
	if b.sdk.Digest != b.pinned {
		return nil, fmt.Errorf("the SDK is %s, but results were made with %s: run slipway build first", b.sdk.Digest, b.pinned)
	}
	list, err := sdk.Blobs(b.sdk.Layout)
	if err != nil {
		return nil, err
	}
	index, err := os.ReadFile(filepath.Join(b.sdk.Layout, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	blobs := map[string]bool{}
	for _, d := range list {
		blobs[d] = true
	}
	folder := "sdk/" + b.sdk.Key
	files := []archiveFile{{name: folder + "/" + ocispec.ImageLayoutFile, text: []byte(ociLayout)}, {name: folder + "/" + ocispec.ImageIndexFile, text: index}}
	return append(files, blobFiles(folder, blobs, func(d string) string {
		return filepath.Join(b.sdk.Layout, ocispec.ImageBlobsDir, "sha256", strings.TrimPrefix(d, "sha256:"))
	})...), nil
}

func (b *Builder) archiveSources(ctx context.Context, targets []*graph.Target) ([]archiveFile, error) {
	var all []source.Item
	for _, t := range targets {
		if t.Package != nil {
			all = append(all, items(t.Package)...)
		}
	}
	fetched, err := b.fetch(ctx, all)
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	blobs := map[string]bool{}
	for _, blob := range fetched {
		paths["sha256:"+blob.SHA256], blobs["sha256:"+blob.SHA256] = blob.Path, true
	}
	return blobFiles("sources", blobs, func(d string) string { return paths[d] }), nil
}

// Import takes an archive of Export into the caches below cacheDir. Every blob is
// held to its digest. An archive with anything else in it, or that is truncated or
// damaged, is an error that names the entry; then no result and no SDK of it is
// taken.
func Import(ctx context.Context, cacheDir string, r io.Reader) (Archived, error) {
	sources, err := source.Open(filepath.Join(cacheDir, "sources"))
	if err != nil {
		return Archived{}, cacheError(cacheDir, err)
	}
	results, err := store.Open(filepath.Join(cacheDir, "store"))
	if err != nil {
		return Archived{}, cacheError(cacheDir, err)
	}
	release, err := results.Use()
	if err != nil {
		return Archived{}, cacheError(cacheDir, err)
	}
	defer release()
	temp, err := os.MkdirTemp(filepath.Join(results.Dir(), "tmp"), "import-")
	if err != nil {
		return Archived{}, cacheError(cacheDir, err)
	}
	defer os.RemoveAll(temp)
	i := &importer{cache: cacheDir, temp: temp, sources: sources, results: results, seen: map[string]bool{}, wanted: map[string]int64{}, manifests: map[string][]byte{}, sdks: map[string]bool{}}
	tr := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return Archived{}, context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return Archived{}, fmt.Errorf("import: %w after %d files", errTruncated, len(i.seen))
		}
		if err != nil {
			return Archived{}, fmt.Errorf("import: not an archive of slipway cache export: %w", err)
		}
		if err := i.entry(ctx, h, tr); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errTruncated
			}
			return Archived{}, fmt.Errorf("import: %s: %w", h.Name, err)
		}
	}
	if err := i.finish(ctx); err != nil {
		return Archived{}, fmt.Errorf("import: %w", err)
	}
	return i.done, nil
}

// importer is an import under way.
type importer struct {
	cache, temp string
	sources     *source.Store
	results     *store.Store

	index     *ocispec.Index
	seen      map[string]bool   // names of entries
	wanted    map[string]int64  // manifests of the index, with their sizes
	manifests map[string][]byte // manifests that have come
	sdks      map[string]bool   // keys of SDKs of which something has come
	done      Archived
}

// entry takes one file. Manifests are held back until all is here: one in the store
// counts as a result.
func (i *importer) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	m := archiveEntry.FindStringSubmatch(h.Name)
	if h.Typeflag != tar.TypeReg || m == nil || m[1] == "sources" && m[4] == "" {
		return errors.New("no archive of slipway cache export has such an entry")
	}
	if i.seen[h.Name] {
		return errors.New("it is in the archive twice")
	}
	i.seen[h.Name] = true
	i.done.Bytes += h.Size
	if i.index == nil && h.Name != archiveIndex && h.Name != "results/"+ocispec.ImageLayoutFile {
		return fmt.Errorf("it comes before %s", archiveIndex)
	}
	if m[4] == "" && h.Size > maxArchiveIndex {
		return fmt.Errorf("it has %d bytes, more than %d", h.Size, maxArchiveIndex)
	}
	d := "sha256:" + m[4]
	_, isManifest := i.wanted[d]
	switch {
	case m[2] != "":
		return i.sdkFile(m[2], m[3], m[4], r)
	case m[1] == "sources":
		i.done.Sources++
		err := i.sources.Add(ctx, m[4], r)
		if wrong := (*source.DigestError)(nil); errors.As(err, &wrong) {
			return fmt.Errorf("damaged: its content has the digest %s", wrong.Got)
		}
		return err
	case isManifest:
		if h.Size != i.wanted[d] {
			return fmt.Errorf("damaged: it has %d bytes instead of %d", h.Size, i.wanted[d])
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if got := digest.FromBytes(text).String(); got != d {
			return fmt.Errorf("damaged: its content has the digest %s", got)
		}
		i.manifests[d] = text
		return nil
	case m[4] != "":
		err := i.results.AddBlob(d, r)
		if errors.Is(err, store.ErrCorrupt) {
			return fmt.Errorf("damaged: %w", err)
		}
		return err
	}
	text, err := io.ReadAll(r)
	if err != nil || h.Name != archiveIndex {
		return err
	}
	return i.readIndex(text)
}

func (i *importer) readIndex(text []byte) error {
	i.index = &ocispec.Index{}
	if err := json.Unmarshal(text, i.index); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	for _, m := range i.index.Manifests {
		if err := m.Digest.Validate(); err != nil || m.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("damaged: digest %q", m.Digest)
		}
		if m.Size < 0 || m.Size > maxArchiveManifest {
			return fmt.Errorf("damaged: a manifest of %d bytes", m.Size)
		}
		i.wanted[m.Digest.String()] = m.Size
	}
	return nil
}

// sdkFile writes a file of an SDK to where it is put together.
func (i *importer) sdkFile(key, name, sum string, r io.Reader) error {
	i.sdks[key] = true
	path := filepath.Join(i.temp, key, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if sum == "" {
		_, err := io.Copy(f, r)
		return errors.Join(err, f.Sync())
	}
	verifier := digest.NewDigestFromEncoded(digest.SHA256, sum).Verifier()
	if _, err := io.Copy(io.MultiWriter(f, verifier), r); err != nil {
		return err
	}
	if !verifier.Verified() {
		return errors.New("damaged: its content has another digest")
	}
	return f.Sync()
}

// finish checks that all has come, and takes it: the SDKs, then the results.
func (i *importer) finish(ctx context.Context) error {
	if i.index == nil {
		return fmt.Errorf("not an archive of slipway cache export, or %w: it has no %s", errTruncated, archiveIndex)
	}
	want, err := strconv.Atoi(i.index.Annotations[annotationFiles])
	if err != nil {
		return fmt.Errorf("%s: damaged: it does not say how many files the archive has", archiveIndex)
	}
	if len(i.seen) != want {
		return fmt.Errorf("%w: it has %d files instead of %d", errTruncated, len(i.seen), want)
	}
	for _, m := range i.index.Manifests {
		text := i.manifests[m.Digest.String()]
		if text == nil {
			return fmt.Errorf("damaged: the manifest %s is missing", m.Digest)
		}
		r, err := store.Parse(text)
		if err != nil {
			return err
		}
		if key := m.Annotations[ocispec.AnnotationRefName]; key != r.Key {
			return fmt.Errorf("damaged: %s names the key %q for the result of key %s", archiveIndex, key, r.Key)
		}
		for _, d := range r.Blobs() {
			if !i.seen["results/blobs/sha256/"+strings.TrimPrefix(d, "sha256:")] {
				return fmt.Errorf("damaged: %s of %s is missing", d, r.Target)
			}
		}
	}
	for key := range i.sdks {
		if _, err := sdk.Blobs(filepath.Join(i.temp, key)); err != nil {
			return fmt.Errorf("sdk/%s: damaged: %s", key, strings.ReplaceAll(err.Error(), i.temp, "sdk"))
		}
	}
	for key := range i.sdks {
		if err := i.takeSDK(ctx, key); err != nil {
			return err
		}
		i.done.SDKs++
	}
	for _, text := range i.manifests {
		if _, err := i.results.Register(ctx, text); err != nil {
			return err
		}
		i.done.Results++
	}
	return nil
}

// takeSDK gives an SDK its place, unless it is there undamaged.
func (i *importer) takeSDK(ctx context.Context, key string) error {
	layout := filepath.Join(i.cache, "sdk", key)
	if _, err := sdk.Verify(ctx, layout); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(layout), 0o755); err != nil {
		return err
	}
	err := os.Rename(filepath.Join(i.temp, key), layout)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) { // a damaged one
		if err = os.RemoveAll(layout); err == nil {
			err = os.Rename(filepath.Join(i.temp, key), layout)
		}
	}
	return err
}
