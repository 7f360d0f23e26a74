// Package tufrepo makes and checks update repositories of The Update Framework
// (https://theupdateframework.github.io/specification/latest/): files that any
// HTTP server can hand out.
//
//	<n>.root.json  <n>.targets.json  <n>.snapshot.json  timestamp.json
//	targets/<sha256>.<name>    one of them is manifest.json, see package update
//	.slipway/                  lock, and changes that wait for signatures
//
// Files other than timestamp.json never change what they say, and that one is
// replaced last, so readers always find metadata and targets that belong
// together, whatever writers do or fail to do. Metadata refer to each other by
// version alone: so they can be signed at once, in any order, by keys that are
// not in one place.
package tufrepo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"slipway/internal/sign"
	"slipway/internal/update"
)

// Init makes the first metadata of a repository: a root with the keys of the
// policies, and no targets.
func (r *Repo) Init(p *Policies) (*Change, error) {
	if r.current != nil {
		return nil, fmt.Errorf("%s: there is a repository already: to change its keys, use slipway repo rotate", r.dir)
	}
	c := &Change{
		root:      metadata.Root(r.expiry(&p.Root)),
		targets:   metadata.Targets(r.expiry(&p.Targets)),
		snapshot:  metadata.Snapshot(r.expiry(&p.Snapshot)),
		timestamp: metadata.Timestamp(r.expiry(&p.Timestamp)),
	}
	return c, setRoles(&c.root.Signed, p)
}

// setRoles puts the keys of the policies into a root.
func setRoles(root *metadata.RootType, p *Policies) error {
	root.Keys, root.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	for _, name := range roles {
		policy := p.Role(name)
		role := &metadata.Role{KeyIDs: []string{}, Threshold: policy.Threshold}
		root.Roles[name] = role
		for _, key := range policy.Keys {
			k, err := newKey(key.Public)
			if err != nil {
				return fmt.Errorf("key %s of %s: %w", key.Ref, name, err)
			}
			root.Keys[k.id] = k.key
			role.KeyIDs = append(role.KeyIDs, k.id)
		}
		slices.Sort(role.KeyIDs)
		if role.Threshold < 1 || role.Threshold > len(role.KeyIDs) {
			return fmt.Errorf("%s: threshold %d with %d keys", name, role.Threshold, len(role.KeyIDs))
		}
	}
	return nil
}

// Rotate makes a new root with the keys of the policies and a new expiry. It
// must be signed by the keys of the old root and those of the new one. Metadata
// of roles that get new keys are signed again, without other changes, so that
// clients accept them under either root.
func (r *Repo) Rotate(p *Policies) (*Change, error) {
	if r.current == nil {
		return nil, r.none()
	}
	old := r.current.root
	c := &Change{base: r.current.versions(), trusted: old, root: metadata.Root(r.expiry(&p.Root))}
	c.root.Signed.Version = old.Signed.Version + 1
	if err := setRoles(&c.root.Signed, p); err != nil {
		return nil, err
	}
	again := &Change{targets: r.current.targets, snapshot: r.current.snapshot, timestamp: r.current.timestamp}
	for _, d := range again.documents() {
		n, err := needOf(c.root, d.role)
		if err != nil {
			return nil, err
		}
		payload, err := d.payload()
		if err != nil {
			return nil, err
		}
		if len(n.signedBy(d, payload)) >= n.threshold {
			continue
		}
		switch d.role {
		case metadata.TARGETS:
			c.targets = again.targets
		case metadata.SNAPSHOT:
			c.snapshot = again.snapshot
		case metadata.TIMESTAMP:
			c.timestamp = again.timestamp
		}
	}
	return c, nil
}

// Refresh makes a new snapshot and timestamp, and with targets also new targets
// metadata, that expire later and say the same.
func (r *Repo) Refresh(p *Policies, targets bool) (*Change, error) {
	if r.current == nil {
		return nil, r.none()
	}
	if !targets {
		return r.change(p, nil)
	}
	return r.change(p, r.current.targets.Signed.Targets)
}

// Edit changes the manifest. The change is nil where the manifest stays the same.
// The target of the new manifest is written at once; readers do not see it.
func (r *Repo) Edit(ctx context.Context, p *Policies, edit func(*update.Manifest) error) (*Change, error) {
	if r.current == nil {
		return nil, r.none()
	}
	before, err := r.current.manifest.Marshal()
	if err != nil {
		return nil, err
	}
	next, err := update.Parse(before) // a copy
	if err != nil {
		return nil, err
	}
	if err := edit(next); err != nil {
		return nil, err
	}
	return r.publishManifest(ctx, p, next, maps.Clone(r.current.targets.Signed.Targets))
}

// Manifest is what the repository says about releases.
func (r *Repo) Manifest() (*update.Manifest, error) {
	if r.current == nil {
		return nil, r.none()
	}
	return r.current.manifest, nil
}

// Expiries tell until when the published metadata are good.
func (r *Repo) Expiries() []Expiry { return r.current.expiries() }

// change makes metadata for the targets, or without new targets metadata for nil.
func (r *Repo) change(p *Policies, targets map[string]*metadata.TargetFiles) (*Change, error) {
	if err := r.agrees(p); err != nil {
		return nil, err
	}
	root := r.current.root
	if root.Signed.IsExpired(r.now()) {
		return nil, fmt.Errorf("root %d has expired on %s: clients refuse everything until there is a new one: slipway repo rotate",
			root.Signed.Version, root.Signed.Expires.Format(time.RFC3339))
	}
	c := &Change{base: r.current.versions(), trusted: root}
	var err error
	targetsVersion := c.base.Targets
	if targets != nil {
		c.targets = metadata.Targets(r.expiry(&p.Targets))
		c.targets.Signed.Targets = targets
		if targetsVersion, err = r.nextVersion(metadata.TARGETS, targetsVersion); err != nil {
			return nil, err
		}
		c.targets.Signed.Version = targetsVersion
	}
	c.snapshot = metadata.Snapshot(r.expiry(&p.Snapshot))
	c.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{metadata.TARGETS + ".json": {Version: targetsVersion}}
	if c.snapshot.Signed.Version, err = r.nextVersion(metadata.SNAPSHOT, c.base.Snapshot); err != nil {
		return nil, err
	}
	c.timestamp = metadata.Timestamp(r.expiry(&p.Timestamp))
	c.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{metadata.SNAPSHOT + ".json": {Version: c.snapshot.Signed.Version}}
	c.timestamp.Signed.Version = c.base.Timestamp + 1
	return c, nil
}

// agrees tells whether the policies are those of the published root.
func (r *Repo) agrees(p *Policies) error {
	want := metadata.Root()
	if err := setRoles(&want.Signed, p); err != nil {
		return err
	}
	root := r.current.root.Signed
	for _, name := range roles {
		have, ok := root.Roles[name]
		if !ok || have.Threshold != want.Signed.Roles[name].Threshold || !slices.Equal(slices.Sorted(slices.Values(have.KeyIDs)), want.Signed.Roles[name].KeyIDs) {
			return fmt.Errorf("keys or threshold of %s in the settings are not those of root %d: correct the settings, or put them into force with slipway repo rotate", name, root.Version)
		}
	}
	return nil
}

// AllKeys are the keys of every role.
func (p *Policies) AllKeys() []*sign.Key {
	var keys []*sign.Key
	for _, name := range roles {
		keys = append(keys, p.Role(name).Keys...)
	}
	return keys
}

// Expiry is until when clients take the metadata of a role.
type Expiry struct {
	Role    string
	Version int64
	Expires time.Time
}

func (s *state) expiries() []Expiry {
	return []Expiry{
		{metadata.ROOT, s.root.Signed.Version, s.root.Signed.Expires},
		{metadata.TARGETS, s.targets.Signed.Version, s.targets.Signed.Expires},
		{metadata.SNAPSHOT, s.snapshot.Signed.Version, s.snapshot.Signed.Expires},
		{metadata.TIMESTAMP, s.timestamp.Signed.Version, s.timestamp.Signed.Expires},
	}
}
