package tufrepo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"slipway/internal/sign"
	"slipway/internal/update"
)

// Change is new metadata that wait for signatures or for being published. No
// document holds digests of another, so all can be signed at once, and by
// anybody who gets the payloads.
type Change struct {
	// Kept are the steps of migrations of which the repository has programs of
	// the same names and other content, and keeps them.
	Kept []update.Migration

	base      versions
	root      *metadata.Metadata[metadata.RootType] // nil: not changed; likewise the others
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	// trusted is the root that readers have now; nil for a new repository.
	trusted *metadata.Metadata[metadata.RootType]
}

// versions are those of the published metadata; 0 where there are none.
type versions struct {
	Root      int64 `json:"root"`
	Targets   int64 `json:"targets"`
	Snapshot  int64 `json:"snapshot"`
	Timestamp int64 `json:"timestamp"`
}

func (s *state) versions() versions {
	if s == nil {
		return versions{}
	}
	return versions{s.root.Signed.Version, s.targets.Signed.Version, s.snapshot.Signed.Version, s.timestamp.Signed.Version}
}

// Payload is what is to be signed for a role.
type Payload struct {
	Role    string
	Version int64
	// Message is the canonical JSON that the signature is over.
	Message []byte
	// Keys are those of which a signature is still missing and would count.
	Keys []PayloadKey
	// Missing is how many more of them must sign.
	Missing int
}

// PayloadKey is a key that may sign a payload.
type PayloadKey struct {
	ID     string      // TUF's key ID
	Scheme sign.Scheme // how to sign
	Public string      // PEM
}

// document is one file of metadata.
type document struct {
	role       string
	version    int64
	signed     any
	signatures *[]metadata.Signature
}

// documents are those of the change, in the order in which they are published:
// a document comes after those that it speaks of. A new root comes last, when
// the others carry the signatures that it asks for; they keep those of the root
// before.
func (c *Change) documents() []document {
	var docs []document
	if c.targets != nil {
		docs = append(docs, document{metadata.TARGETS, c.targets.Signed.Version, c.targets.Signed, &c.targets.Signatures})
	}
	if c.snapshot != nil {
		docs = append(docs, document{metadata.SNAPSHOT, c.snapshot.Signed.Version, c.snapshot.Signed, &c.snapshot.Signatures})
	}
	if c.timestamp != nil {
		docs = append(docs, document{metadata.TIMESTAMP, c.timestamp.Signed.Version, c.timestamp.Signed, &c.timestamp.Signatures})
	}
	if c.root != nil {
		root := document{metadata.ROOT, c.root.Signed.Version, c.root.Signed, &c.root.Signatures}
		if c.trusted == nil {
			return append([]document{root}, docs...)
		}
		docs = append(docs, root)
	}
	return docs
}

func (d document) payload() ([]byte, error) { return cjson.EncodeCanonical(d.signed) }

func (d document) bytes() ([]byte, error) {
	slices.SortFunc(*d.signatures, func(a, b metadata.Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", " ")
	err := e.Encode(struct {
		Signatures []metadata.Signature `json:"signatures"`
		Signed     any                  `json:"signed"`
	}{*d.signatures, d.signed})
	return out.Bytes(), err
}

func (d document) file() string {
	if d.role == metadata.TIMESTAMP {
		return d.role + ".json"
	}
	return fmt.Sprintf("%d.%s.json", d.version, d.role)
}

// need is a number of keys that must have signed a document.
type need struct {
	keys      map[string]*tufKey // by ID
	threshold int
}

// needs are what the roots ask for that a reader may have while the change is
// published, and afterwards.
func (c *Change) needs(role string) ([]need, error) {
	var list []need
	for _, root := range []*metadata.Metadata[metadata.RootType]{c.trusted, c.root} {
		if root == nil {
			continue
		}
		n, err := needOf(root, role)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", root.Signed.Version, err)
		}
		list = append(list, n)
	}
	return list, nil
}

func needOf(root *metadata.Metadata[metadata.RootType], role string) (need, error) {
	r, ok := root.Signed.Roles[role]
	if !ok {
		return need{}, fmt.Errorf("no role %s", role)
	}
	n := need{map[string]*tufKey{}, r.Threshold}
	for _, id := range r.KeyIDs {
		key, ok := root.Signed.Keys[id]
		if !ok {
			return need{}, fmt.Errorf("role %s has an unknown key %s", role, id)
		}
		k, err := fromMetadata(key)
		if err != nil {
			return need{}, fmt.Errorf("key %s: %w", id, err)
		}
		n.keys[id] = k
	}
	return n, nil
}

// signedBy are the keys of a need whose signatures a document has.
func (n need) signedBy(d document, payload []byte) map[string]bool {
	good := map[string]bool{}
	for _, s := range *d.signatures {
		if k := n.keys[s.KeyID]; k != nil && sign.Verify(k.public, k.scheme, payload, s.Signature) == nil {
			good[s.KeyID] = true
		}
	}
	return good
}

// Payloads is what is still to be signed; it is empty when the change can be
// published.
func (c *Change) Payloads() ([]Payload, error) {
	var list []Payload
	for _, d := range c.documents() {
		message, err := d.payload()
		if err != nil {
			return nil, err
		}
		needs, err := c.needs(d.role)
		if err != nil {
			return nil, err
		}
		p := Payload{Role: d.role, Version: d.version, Message: message}
		keys := map[string]*tufKey{}
		for _, n := range needs {
			good := n.signedBy(d, message)
			if len(good) >= n.threshold {
				continue
			}
			p.Missing = max(p.Missing, n.threshold-len(good))
			for id, k := range n.keys {
				if !good[id] {
					keys[id] = k
				}
			}
		}
		if p.Missing == 0 {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(keys)) {
			public, err := sign.MarshalPublic(keys[id].public)
			if err != nil {
				return nil, err
			}
			p.Keys = append(p.Keys, PayloadKey{id, keys[id].scheme, string(public)})
		}
		list = append(list, p)
	}
	return list, nil
}

// AddSignature takes a signature that was made elsewhere over the payload of a
// role. It must be one of a key that may sign.
func (c *Change) AddSignature(role, keyID string, signature []byte) error {
	for _, d := range c.documents() {
		if d.role != role {
			continue
		}
		payload, err := d.payload()
		if err != nil {
			return err
		}
		needs, err := c.needs(role)
		if err != nil {
			return err
		}
		for _, n := range needs {
			k := n.keys[keyID]
			if k == nil {
				continue
			}
			if err := sign.Verify(k.public, k.scheme, payload, signature); err != nil {
				return fmt.Errorf("signature of key %s for %s %d: %w", keyID, role, d.version, err)
			}
			*d.signatures = slices.DeleteFunc(*d.signatures, func(s metadata.Signature) bool { return s.KeyID == keyID })
			*d.signatures = append(*d.signatures, metadata.Signature{KeyID: keyID, Signature: signature})
			return nil
		}
		return fmt.Errorf("key %s may not sign %s %d", keyID, role, d.version)
	}
	return fmt.Errorf("the change has no %s to sign", role)
}

// Sign signs what is missing with those of the keys that may. Keys without a
// private half are passed over.
func (c *Change) Sign(ctx context.Context, keys ...*sign.Key) error {
	signers := map[string]*sign.Key{}
	for _, k := range keys {
		if k.Signer == nil {
			continue
		}
		t, err := newKey(k.Public)
		if err != nil {
			return fmt.Errorf("key %s: %w", k.Ref, err)
		}
		signers[t.id] = k
	}
	payloads, err := c.Payloads()
	if err != nil {
		return err
	}
	for _, p := range payloads {
		for _, k := range p.Keys {
			key := signers[k.ID]
			if key == nil {
				continue
			}
			signature, err := sign.Message(ctx, key.Signer, k.Scheme, p.Message)
			if err != nil {
				return fmt.Errorf("key %s: %w", key.Ref, err)
			}
			if err := c.AddSignature(p.Role, k.ID, signature); err != nil {
				return err
			}
		}
	}
	return nil
}

// MissingError says that a change cannot be published yet.
type MissingError struct{ Payloads []Payload }

func (e *MissingError) Error() string {
	var lines []string
	for _, p := range e.Payloads {
		var ids []string
		for _, k := range p.Keys {
			ids = append(ids, k.ID[:16])
		}
		lines = append(lines, fmt.Sprintf("%s %d lacks %d of the signatures of the keys %s", p.Role, p.Version, p.Missing, strings.Join(ids, ", ")))
	}
	return "signatures are missing: " + strings.Join(lines, "; ")
}

// ErrStale says that the repository has changed since a change was made.
var ErrStale = errors.New("the repository has changed since then: drop the change and make it anew")

// stale tells whether the change was made upon other metadata. A change of the
// root alone outlives changes of the rest.
func (c *Change) stale(current *state) bool {
	now := current.versions()
	return c.base.Root != now.Root || !c.rootOnly() && c.base != now
}

func (c *Change) rootOnly() bool { return c.targets == nil && c.snapshot == nil && c.timestamp == nil }

// ErrWaiting says that a change waits for signatures and must be published or
// dropped first.
var ErrWaiting = errors.New("a change waits for signatures: publish it with slipway repo sign, or drop it with slipway repo sign --drop")

// Commit signs a change with those of the keys that may and can sign, and
// publishes it. Where signatures are missing, the change is staged and the error
// is a *MissingError.
func (r *Repo) Commit(ctx context.Context, c *Change, keys ...*sign.Key) error {
	waiting, err := r.Staged()
	if err != nil {
		return err
	}
	if waiting != nil && (c.root != nil || !waiting.rootOnly()) {
		return ErrWaiting
	}
	if err := c.Sign(ctx, keys...); err != nil {
		return err
	}
	err = r.Publish(ctx, c)
	var missing *MissingError
	if errors.As(err, &missing) {
		if waiting != nil {
			return errors.Join(err, ErrWaiting)
		}
		return errors.Join(err, r.Stage(ctx, c))
	}
	return err
}

// Resume signs the staged change further and publishes it when its signatures
// are complete; otherwise it stays staged and the error is a *MissingError.
func (r *Repo) Resume(ctx context.Context, keys ...*sign.Key) error {
	c, err := r.Staged()
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("%s: %w", r.dir, ErrNoChange)
	}
	if err := c.Sign(ctx, keys...); err != nil {
		return err
	}
	return r.finish(ctx, c)
}

// finish publishes a staged change, or stages what it has of signatures now.
func (r *Repo) finish(ctx context.Context, c *Change) error {
	err := r.Publish(ctx, c)
	var missing *MissingError
	switch {
	case errors.As(err, &missing):
		return errors.Join(err, r.Stage(ctx, c))
	case err != nil:
		return err
	}
	return r.DropStaged()
}

// Publish puts a fully signed change into the repository. Before, it is checked
// as clients check it. Readers see the old repository or the new one at any
// time. The error is a *MissingError where signatures are missing.
func (r *Repo) Publish(ctx context.Context, c *Change) error {
	if c.stale(r.current) {
		return ErrStale
	}
	missing, err := c.Payloads()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingError{missing}
	}
	if err := c.check(r.current); err != nil {
		return fmt.Errorf("clients would refuse the change: %w", err)
	}
	for _, d := range c.documents() {
		data, err := d.bytes()
		if err != nil {
			return err
		}
		if err := r.writeBytes(ctx, d.file(), data); err != nil {
			return err
		}
	}
	return r.load(ctx)
}

// check goes the way of clients, that of one that has seen the new root and,
// where only the root is new to it, of one that has not.
func (c *Change) check(current *state) error {
	next := state{root: c.root, targets: c.targets, snapshot: c.snapshot, timestamp: c.timestamp}
	if current != nil {
		next.targets, next.snapshot, next.timestamp = or(c.targets, current.targets), or(c.snapshot, current.snapshot), or(c.timestamp, current.timestamp)
	}
	for _, path := range [][]*metadata.Metadata[metadata.RootType]{{c.trusted}, {c.trusted, c.root}} {
		path = slices.DeleteFunc(path, func(m *metadata.Metadata[metadata.RootType]) bool { return m == nil })
		if len(path) == 0 {
			continue
		}
		if err := next.check(path); err != nil {
			return err
		}
	}
	return nil
}

func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func (s *state) check(roots []*metadata.Metadata[metadata.RootType]) error {
	data := make([][]byte, len(roots))
	for i, root := range roots {
		var err error
		if data[i], err = root.ToBytes(false); err != nil {
			return err
		}
	}
	trusted, err := trustedmetadata.New(data[0])
	if err != nil {
		return err
	}
	trusted.RefTime = never
	for _, root := range data[1:] {
		if _, err := trusted.UpdateRoot(root); err != nil {
			return err
		}
	}
	timestamp, err1 := s.timestamp.ToBytes(false)
	snapshot, err2 := s.snapshot.ToBytes(false)
	targets, err3 := s.targets.ToBytes(false)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if _, err := trusted.UpdateTimestamp(timestamp); err != nil {
		return err
	}
	if _, err := trusted.UpdateSnapshot(snapshot, false); err != nil {
		return err
	}
	_, err = trusted.UpdateTargets(targets)
	return err
}

// Stage keeps a change until its signatures are there, below .slipway/staged:
// base.json, and the metadata by role as far as they are signed. It replaces the
// change that was staged before.
func (r *Repo) Stage(ctx context.Context, c *Change) error {
	files := map[string]any{"base": c.base}
	for _, d := range c.documents() {
		data, err := d.bytes()
		if err != nil {
			return err
		}
		files[d.role] = json.RawMessage(data)
	}
	// base.json comes last and goes first: it makes the change count
	if err := r.DropStaged(); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range append(slices.DeleteFunc(names, func(n string) bool { return n == "base" }), "base") {
		data, err := json.MarshalIndent(files[name], "", " ")
		if err != nil {
			return err
		}
		if err := r.writeBytes(ctx, stagedDir+"/"+name+".json", append(data, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// DropStaged forgets the staged change, if there is one.
func (r *Repo) DropStaged() error {
	if err := r.step("drop the staged change"); err != nil {
		return err
	}
	dir := r.path(stagedDir)
	if err := os.Remove(filepath.Join(dir, "base.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// Staged is the change that waits for signatures, or nil.
func (r *Repo) Staged() (*Change, error) {
	c := &Change{}
	found, err := r.staged("base", func(data []byte) error { return json.Unmarshal(data, &c.base) })
	if err != nil || !found {
		return nil, err
	}
	if r.current != nil {
		c.trusted = r.current.root
	}
	_, err1 := r.staged(metadata.ROOT, func(data []byte) (err error) { c.root, err = metadata.Root().FromBytes(data); return err })
	_, err2 := r.staged(metadata.TARGETS, func(data []byte) (err error) { c.targets, err = metadata.Targets().FromBytes(data); return err })
	_, err3 := r.staged(metadata.SNAPSHOT, func(data []byte) (err error) { c.snapshot, err = metadata.Snapshot().FromBytes(data); return err })
	_, err4 := r.staged(metadata.TIMESTAMP, func(data []byte) (err error) { c.timestamp, err = metadata.Timestamp().FromBytes(data); return err })
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if c.stale(r.current) {
		return nil, fmt.Errorf("the staged change in %s: %w", r.path(stagedDir), ErrStale)
	}
	return c, nil
}

func (r *Repo) staged(name string, parse func([]byte) error) (found bool, err error) {
	path := r.path(stagedDir + "/" + name + ".json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := parse(data); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

// expiry is the end of what is signed now.
func (r *Repo) expiry(p *Policy) time.Time {
	return r.now().UTC().Add(p.Expires()).Truncate(time.Second)
}
