// Package plan says what a target is made from, and derives its key from that.
//
// The key is SHA-256 over a canonical encoding of the inputs: contents, names
// and settings, never times, paths outside the workspace, host or user names.
// Dependencies enter by the digests of what they made, not by their keys, so a
// change that does not change a package's RPMs stops there.
package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/internal/workspace"
)

// Inputs is all that a target is made from. Its JSON form is canonical: fields
// in this order, lists sorted, maps with sorted keys.
type Inputs struct {
	Recipe   string            `json:"recipe"`             // version of the recipes
	Target   string            `json:"target"`             // "packages/glibc"
	Arch     string            `json:"arch"`               // "x86_64"
	SDK      string            `json:"sdk"`                // digest of the SDK image
	Macros   string            `json:"macros,omitempty"`   // digest of the RPM macro file
	Settings map[string]string `json:"settings,omitempty"` // whatever else reaches the build
	Files    []File            `json:"files,omitempty"`    // own files
	Groups   []File            `json:"groups,omitempty"`   // first-party sources
	Sources  []File            `json:"sources,omitempty"`  // upstream sources
	RPMs     []File            `json:"rpms,omitempty"`     // what dependencies made
	Tools    []File            `json:"tools,omitempty"`    // RPMs with which an image is made
}

// File is an input file.
type File struct {
	Name       string `json:"name"`   // slash-separated
	Digest     string `json:"digest"` // "sha256:…" or "sha512:…", or "link:…" for a symbolic link
	Executable bool   `json:"executable,omitempty"`
}

// Encode gives the canonical JSON form, of which the SHA-256 is the key.
func (in Inputs) Encode() []byte {
	for _, files := range [][]File{in.Files, in.Groups, in.Sources, in.RPMs, in.Tools} {
		slices.SortFunc(files, func(a, b File) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Digest, b.Digest))
		})
	}
	raw, err := json.Marshal(in)
	if err != nil {
		panic(err) // strings, maps and lists of strings always encode
	}
	return raw
}

// Key is the key of a target made from these inputs: 64 hex digits.
func (in Inputs) Key() string {
	sum := sha256.Sum256(in.Encode())
	return hex.EncodeToString(sum[:])
}

// Decode reads what Encode wrote.
func Decode(raw []byte) (Inputs, error) {
	var in Inputs
	err := json.Unmarshal(raw, &in)
	return in, err
}

// PackageFiles reads the own files and the first-party sources of a package.
func PackageFiles(ws *workspace.Workspace, p *workspace.Package) (files, groups []File, err error) {
	for _, name := range p.Files {
		f, err := hashFile(filepath.Join(p.Dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("packages/%s: %w", p.Name, err)
		}
		f.Name = name
		files = append(files, f)
	}
	root := filepath.Join(ws.Root, "sources")
	for _, group := range p.SourceGroups {
		err := filepath.WalkDir(filepath.Join(root, filepath.FromSlash(group)), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			f, err := hashFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			f.Name = filepath.ToSlash(rel)
			groups = append(groups, f)
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("packages/%s: source group %q: %w", p.Name, group, err)
		}
	}
	return files, groups, nil
}

// Sources are the external files of a package.
func Sources(p *workspace.Package) []File {
	var files []File
	for _, f := range p.ExternalFiles {
		d := "sha512:" + f.SHA512
		if f.SHA512 == "" {
			d = "sha256:" + f.SHA256
		}
		files = append(files, File{Name: f.FileName(), Digest: d})
	}
	return files
}

func hashFile(path string) (File, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		return File{Digest: "link:" + to}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return File{}, err
	}
	return File{Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Executable: st.Mode()&0o111 != 0}, nil
}
