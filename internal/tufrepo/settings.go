package tufrepo

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"slipway/internal/sign"
	"slipway/internal/workspace"
)

// SettingsFile is the usual name of the file that Settings are read from.
const SettingsFile = "repos.toml"

// Settings is repos.toml: update repositories by name, with the keys and
// expiry of their roles. It stands apart from the manifests because it is about
// who publishes, not about what is built.
type Settings struct {
	Schema int                 `toml:"schema" required:"true" enum:"1" doc:"Version of the format; this is version 1."`
	Repos  map[string]Policies `toml:"repos" keys:"folder" doc:"Repositories by name."`
}

// Policies are the roles of a repository (TUF specification, section 2.1).
type Policies struct {
	Root      Policy `toml:"root" doc:"Who says which keys are good for what."`
	Targets   Policy `toml:"targets" doc:"Who says what releases consist of."`
	Snapshot  Policy `toml:"snapshot" doc:"Who says which metadata belong together."`
	Timestamp Policy `toml:"timestamp" doc:"Who says what is current."`
}

// Policy is who signs for a role, and for how long. File is for messages.
type Policy struct {
	KeyFiles    []string `toml:"keys" required:"true" doc:"The role's keys: PEM files, relative to this file, with private keys or with public ones of keys that are elsewhere, or pkcs11: URIs of keys in tokens."`
	Threshold   int      `toml:"threshold" min:"1" default:"1" doc:"How many of the keys must sign."`
	ExpiresDays int      `toml:"expires-days" min:"0" max:"36500" default:"0" default-doc:"365 for root, 90 for targets, 14 for snapshot, 7 for timestamp" doc:"Days until what was signed expires."`

	Keys []*sign.Key // as loaded from KeyFiles
}

// Expires is for how long the role signs.
func (p Policy) Expires() time.Duration { return time.Duration(p.ExpiresDays) * 24 * time.Hour }

var defaultDays = map[string]int{metadata.ROOT: 365, metadata.TARGETS: 90, metadata.SNAPSHOT: 14, metadata.TIMESTAMP: 7}

// roles are the roles in the order in which a reader trusts them.
var roles = []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS}

// Role is the policy of a role by its name in TUF.
func (p *Policies) Role(name string) *Policy {
	switch name {
	case metadata.ROOT:
		return &p.Root
	case metadata.TARGETS:
		return &p.Targets
	case metadata.SNAPSHOT:
		return &p.Snapshot
	case metadata.TIMESTAMP:
		return &p.Timestamp
	}
	return nil
}

// ReadSettings reads the settings of the repository of a name, with its keys.
// The name may be empty where the file has only one. Findings come all at once
// as workspace.Errors.
func ReadSettings(path, name string) (*Policies, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("settings of update repositories: %w", err)
	}
	return parseSettings(path, data, name)
}

func parseSettings(path string, data []byte, name string) (*Policies, error) {
	var s Settings
	at, findings := workspace.Decode(path, data, &s)
	if err := findings.Err(); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(s.Repos))
	for n := range s.Repos {
		names = append(names, n)
	}
	slices.Sort(names)
	if name == "" {
		if len(names) != 1 {
			return nil, workspace.Errors{workspace.NewError(at("repos"), "repos", fmt.Sprintf("there are %d repositories", len(names)),
				"name one with --repo: "+strings.Join(names, ", "))}
		}
		name = names[0]
	}
	p, ok := s.Repos[name]
	if !ok {
		hint := workspace.DidYouMean(workspace.Near(name, names))
		if hint == "" {
			hint = "known: " + strings.Join(names, ", ")
		}
		return nil, workspace.Errors{workspace.NewError(at("repos"), "repos", fmt.Sprintf("no repository %q", name), hint)}
	}
	for _, role := range roles {
		prefix := "repos." + name + "." + role
		findings = append(findings, p.Role(role).load(role, prefix, filepath.Dir(path), at)...)
	}
	if err := findings.Err(); err != nil {
		return nil, err
	}
	return &p, nil
}

// load opens the keys of a role.
func (p *Policy) load(role, prefix, dir string, at func(string) workspace.Position) (findings workspace.Errors) {
	if p.ExpiresDays == 0 {
		p.ExpiresDays = defaultDays[role]
	}
	wrong := func(key, msg, hint string) {
		findings = append(findings, workspace.NewError(at(key), key, fmt.Sprintf("%q %s", key, msg), hint))
	}
	if p.Threshold > len(p.KeyFiles) {
		wrong(prefix+".threshold", fmt.Sprintf("is %d, and there are %d keys", p.Threshold, len(p.KeyFiles)), "name more keys, or lower it")
	}
	seen := map[string]string{}
	for i, file := range p.KeyFiles {
		key := fmt.Sprintf("%s.keys[%d]", prefix, i)
		file = sign.Ref(dir, file)
		loaded, err := sign.Load(file)
		if err != nil {
			wrong(key, "cannot be used: "+err.Error(), "")
			continue
		}
		tufKey, err := newKey(loaded.Public)
		if err != nil {
			wrong(key, fmt.Sprintf("cannot be used: %s: %v", file, err), "")
			continue
		}
		// One key under two names must not count twice.
		if first, ok := seen[tufKey.id]; ok {
			wrong(key, fmt.Sprintf("is the same key as %s", first), "keep one")
			continue
		}
		seen[tufKey.id] = file
		p.Keys = append(p.Keys, loaded)
	}
	return findings
}
