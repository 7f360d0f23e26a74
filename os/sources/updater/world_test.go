package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"dinghy/internal/boot"
	"dinghy/internal/datastore"
	"dinghy/internal/durable"
	"dinghy/internal/gpt"
	"dinghy/internal/kerneltest"
	"dinghy/internal/osrelease"
	"dinghy/internal/verity"
	"dinghy/update"
)

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func v(text string) update.Version {
	version, err := update.ParseVersion(text)
	if err != nil {
		panic(err)
	}
	return version
}

// memory is a disk whose writes reach it with Sync only. When the power is cut
// before that, any part of them may have.
type memory struct {
	data    []byte // as reads find it
	stored  []byte // as a power cut leaves it
	pending []written
	before  func(change string) error
	writes  int
}

type written struct {
	at   int64
	data []byte
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, off)
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if err := m.before(fmt.Sprintf("write %d bytes at %d", len(b), off)); err != nil {
		return 0, err
	}
	if off < 0 || off+int64(len(b)) > int64(len(m.data)) {
		return 0, io.ErrShortWrite
	}
	m.writes++
	m.pending = append(m.pending, written{off, bytes.Clone(b)})
	return copy(m.data[off:], b), nil
}

func (m *memory) Sync() error {
	if err := m.before("sync"); err != nil {
		return err
	}
	for _, w := range m.pending {
		copy(m.stored[w.at:], w.data)
	}
	m.pending = nil
	return nil
}

func (m *memory) Size() int64                         { return int64(len(m.data)) }
func (m *memory) Forget() error                       { return nil }
func (m *memory) Exclusive(change func() error) error { return change() }

// cut is what a power cut leaves: of the writes that were not synced some
// sectors, in any order.
func (m *memory) cut(r *mathrand.Rand) {
	for _, w := range m.pending {
		for at := 0; at < len(w.data); at += gpt.SectorSize {
			if r.IntN(2) == 0 {
				copy(m.stored[w.at+int64(at):], w.data[at:min(at+gpt.SectorSize, len(w.data))])
			}
		}
	}
	m.data, m.pending = bytes.Clone(m.stored), nil
}

// built is a release as a build makes it.
type built struct {
	version         string
	root, tree, uki []byte
	hash            verity.RootHash
}

const block = verity.BlockSize

// build makes a root file system of random blocks with its hash tree and a
// kernel image that boots it.
func build(version string, blocks int) built {
	r := mathrand.NewChaCha8(sha256.Sum256([]byte(version)))
	b := built{version: version, root: make([]byte, blocks*block)}
	_, _ = r.Read(b.root[:len(b.root)/2]) // the rest is zero and compresses
	salt := []byte("salt")
	level, levels := b.root, [][]byte{}
	var digest [32]byte
	for {
		var next []byte
		for at := 0; at < len(level); at += block {
			digest = sha256.Sum256(append(bytes.Clone(salt), level[at:at+block]...))
			next = append(next, digest[:]...)
		}
		if len(level) == block {
			break
		}
		next = append(next, make([]byte, (block-len(next)%block)%block)...)
		levels, level = append([][]byte{next}, levels...), next
	}
	super := make([]byte, block)
	copy(super, "verity")
	le := binary.LittleEndian
	le.PutUint32(super[8:], 1)
	le.PutUint32(super[12:], 1)
	copy(super[32:], "sha256")
	le.PutUint32(super[64:], block)
	le.PutUint32(super[68:], block)
	le.PutUint64(super[72:], uint64(blocks))
	le.PutUint16(super[80:], uint16(len(salt)))
	copy(super[88:], salt)
	b.tree, b.hash = bytes.Join(append([][]byte{super}, levels...), nil), digest
	b.uki = b.kernel(pe.IMAGE_FILE_MACHINE_AMD64, "dev")
	return b
}

// kernel is the kernel image of the release, for a machine and variant.
func (b built) kernel(machine uint16, variant string) []byte {
	release := fmt.Sprintf("ID=dinghy\nVARIANT_ID=%s\nIMAGE_VERSION=%s\nDATASTORE_VERSION=1.0.0\n", variant, b.version)
	return kerneltest.Image(machine, ".osrel", release, ".cmdline", b.cmdline())
}

func (b built) cmdline() string {
	root, hash := boot.PartitionGUIDs(b.hash)
	n := len(b.root) / block
	return fmt.Sprintf(`console=ttyS0 root=/dev/dm-0 dm-mod.create="root,,,ro,0 %d verity 1 PARTUUID=%s PARTUUID=%s 4096 4096 %d 1 sha256 %s 73616c74 1 restart_on_corruption"`,
		n*8, root, hash, n, b.hash)
}

// repository is a TUF repository in a folder, of which everything can be changed.
type repository struct {
	dir      string
	keys     map[string]ed25519.PrivateKey
	version  int64
	targets  map[string][]byte
	manifest update.Manifest
	expires  time.Time
	past     string // role whose metadata have expired
}

func newRepository(t *testing.T) *repository {
	r := &repository{dir: t.TempDir(), keys: map[string]ed25519.PrivateKey{}, targets: map[string][]byte{}, expires: time.Now().Add(time.Hour)}
	r.manifest.Schema = update.Schema
	ok(t, os.Mkdir(filepath.Join(r.dir, "targets"), 0o755))
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		ok(t, err)
		r.keys[role] = private
	}
	r.publishRoot(t, 1)
	return r
}

// publishRoot signs a root with the keys as its version.
func (r *repository) publishRoot(t *testing.T, version int64) {
	t.Helper()
	root := metadata.Root(r.until("root"))
	root.Signed.Version = version
	for role, private := range r.keys {
		ok(t, root.Signed.AddKey(must[*metadata.Key](t)(metadata.KeyFromPublicKey(private.Public())), role))
	}
	sign(t, r, root, "root", fmt.Sprintf("%d.root.json", version))
}

// until is when metadata of the role expire that are signed now.
func (r *repository) until(role string) time.Time {
	if role == r.past {
		return time.Now().Add(-time.Hour)
	}
	return r.expires
}

func sign[T metadata.Roles](t *testing.T, r *repository, m *metadata.Metadata[T], role, name string) {
	t.Helper()
	signer := must[signature.Signer](t)(signature.LoadSigner(r.keys[role], crypto.Hash(0)))
	must[*metadata.Signature](t)(m.Sign(signer))
	ok(t, m.ToFile(filepath.Join(r.dir, name), false))
}

func (r *repository) target(name string, data []byte) update.File {
	r.targets[name] = data
	return update.File{Target: name, Size: int64(len(data)), SHA256: sum(data)}
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// add adds a release; the images are compressed in different ways.
func (r *repository) add(t *testing.T, b built, datastore string) *update.Update {
	name := "dev-x86_64-" + b.version + "-"
	var l, z bytes.Buffer
	lw := lz4.NewWriter(&l)
	must[int](t)(lw.Write(b.tree))
	ok(t, lw.Close())
	zw := must[*zstd.Encoder](t)(zstd.NewWriter(&z))
	must[int](t)(zw.Write(b.root))
	ok(t, zw.Close())
	image := func(file string, data, content []byte, compression string) update.Image {
		return update.Image{File: r.target(name+file, data), Compression: compression, ContentSize: int64(len(content)), ContentSHA256: sum(content)}
	}
	r.manifest.Updates = append(r.manifest.Updates, update.Update{
		Variant: "dev", Arch: "x86_64", Version: v(b.version), Datastore: v(datastore),
		Images: update.Images{
			Root: image("root.img.zst", z.Bytes(), b.root, update.Zstd),
			Hash: image("hash.img.lz4", l.Bytes(), b.tree, update.LZ4),
			UKI:  image("uki.efi", b.uki, b.uki, update.None),
		},
	})
	return &r.manifest.Updates[len(r.manifest.Updates)-1]
}

// kernel puts another kernel image into a release.
func (r *repository) kernel(u *update.Update, data []byte) {
	f := r.target(u.Images.UKI.Target, data)
	u.Images.UKI = update.Image{File: f, ContentSize: f.Size, ContentSHA256: f.SHA256}
}

// publish signs everything as the next version.
func (r *repository) publish(t *testing.T) {
	t.Helper()
	r.version++
	r.target(update.ManifestTarget, must[[]byte](t)(r.manifest.Marshal()))
	targets := metadata.Targets(r.until("targets"))
	targets.Signed.Version = r.version
	for name, data := range r.targets {
		info := must[*metadata.TargetFiles](t)(metadata.TargetFile().FromBytes(name, data, "sha256"))
		targets.Signed.Targets[name] = info
		ok(t, os.WriteFile(r.path(name), data, 0o644))
	}
	sign(t, r, targets, "targets", fmt.Sprintf("%d.targets.json", r.version))
	snapshot := metadata.Snapshot(r.until("snapshot"))
	snapshot.Signed.Version = r.version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.version)
	sign(t, r, snapshot, "snapshot", fmt.Sprintf("%d.snapshot.json", r.version))
	r.publishTimestamp(t, r.version, r.version)
}

// publishTimestamp signs a timestamp that names a version of the snapshot.
func (r *repository) publishTimestamp(t *testing.T, version, snapshot int64) {
	t.Helper()
	timestamp := metadata.Timestamp(r.until("timestamp"))
	timestamp.Signed.Version = version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(snapshot)
	sign(t, r, timestamp, "timestamp", "timestamp.json")
}

func (r *repository) path(target string) string {
	return filepath.Join(r.dir, "targets", sum(r.targets[target])+"."+target)
}

const slotMiB = 1

// world is a machine that runs a release, and what it updates from.
type world struct {
	*host
	repo *repository
	disk *memory
	log  bytes.Buffer
	conf datastore.Tree
}

// newWorld installs a release on a disk with two slots.
func newWorld(t *testing.T, first built) *world {
	t.Helper()
	const mib = 1 << 20
	w := &world{repo: newRepository(t), disk: &memory{data: make([]byte, (4+4*slotMiB)*mib), before: func(string) error { return nil }}}
	rootID, hashID := boot.PartitionGUIDs(first.hash)
	table := &gpt.Table{Disk: gpt.GUID{1}, Sectors: uint64(len(w.disk.data)) / gpt.SectorSize}
	at := uint64(mib)
	for _, e := range []gpt.Entry{
		{Name: "esp", Type: gpt.TypeESP, GUID: gpt.GUID{2}},
		{Name: "root_" + first.version, Type: gpt.TypeRootX86_64, GUID: rootID, Attributes: gpt.AttributeReadOnly},
		{Name: "hash_" + first.version, Type: gpt.TypeRootVerityX86_64, GUID: hashID, Attributes: gpt.AttributeReadOnly},
		{Name: "_empty", Type: gpt.TypeRootX86_64, GUID: gpt.GUID{3}, Attributes: gpt.AttributeReadOnly},
		{Name: "_empty", Type: gpt.TypeRootVerityX86_64, GUID: gpt.GUID{4}, Attributes: gpt.AttributeReadOnly},
		{Name: "data", Type: gpt.TypeVar, GUID: gpt.GUID{5}},
	} {
		e.First, e.Last = at/gpt.SectorSize, (at+slotMiB*mib)/gpt.SectorSize-1
		if e.Name == "esp" || e.Name == "data" {
			e.Last = e.First + mib/2/gpt.SectorSize - 1
		}
		at = (e.Last + 1) * gpt.SectorSize
		table.Entries = append(table.Entries, e)
	}
	copy(w.disk.data[table.Entries[1].Start():], first.root)
	copy(w.disk.data[table.Entries[2].Start():], first.tree)
	w.disk.stored = bytes.Clone(w.disk.data)
	ok(t, table.Write(w.disk))

	dir := t.TempDir()
	w.conf = datastore.Tree(filepath.Join(dir, "settings"))
	ok(t, w.conf.Set("updates.repository", w.repo.dir))
	w.host = &host{
		disk: w.disk, esp: filepath.Join(dir, "esp"), efivars: dir, dir: filepath.Join(dir, "state"), arch: "x86_64", machineID: "0123",
		root: filepath.Join(w.repo.dir, "1.root.json"), settings: []datastore.Tree{w.conf}, tries: 3, idle: time.Minute, now: time.Now, log: &w.log, warn: &w.log,
	}
	ok(t, os.MkdirAll(w.images(), 0o755))
	ok(t, os.WriteFile(filepath.Join(w.images(), "dinghy_"+first.version+".efi"), first.uki, 0o644))
	w.boots(first, "1.0.0")
	return w
}

// boots makes the release the running one.
func (w *world) boots(b built, datastore string) {
	w.cmdline = b.cmdline()
	w.release = osrelease.Release{ID: "dinghy", Variant: "dev", Version: v(b.version), Datastore: v(datastore)}
}

var errPower = errors.New("power cut")

// cutAt makes the power fail ahead of the nth change, counted from 0.
func (w *world) cutAt(n int) {
	before := func(string) error {
		if n--; n < 0 {
			return errPower
		}
		return nil
	}
	w.disk.before, w.ops = before, durable.Ops{Before: before}
}

func (w *world) powerOn() {
	w.disk.before, w.ops = func(string) error { return nil }, durable.Ops{}
}

// bootable checks, as the machine would find out, that every kernel image the
// boot loader sees has a whole root file system, and returns their versions in
// the loader's order.
func (w *world) bootable(t *testing.T) []string {
	t.Helper()
	table, _, err := gpt.Read(w.disk, w.disk.Size())
	ok(t, err)
	images := must[[]boot.Image](t)(boot.List(w.images(), "dinghy"))
	if len(images) == 0 {
		t.Fatal("nothing to boot")
	}
	var versions []string
	for _, i := range images {
		hash := must[verity.RootHash](t)(rootHash(i.Path()))
		root, tree := boot.PartitionGUIDs(hash)
		part := func(id gpt.GUID) io.ReaderAt {
			for _, e := range table.Entries {
				if e.GUID == id {
					return io.NewSectionReader(w.disk, e.Start(), e.Size())
				}
			}
			t.Fatalf("%s: no partition %s", i.File, id)
			return nil
		}
		if _, err := verity.Verify(t.Context(), part(root), part(tree), hash); err != nil {
			t.Fatalf("%s: %v", i.File, err)
		}
		versions = append(versions, i.Version.String())
	}
	return versions
}
