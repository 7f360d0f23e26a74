package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/diff"

	"slipway/internal/workspace"
)

// Kinds of inputs, as a Change names them.
const (
	KindRecipe     = "recipe"
	KindArch       = "architecture"
	KindSDK        = "SDK"
	KindMacros     = "macros"
	KindSetting    = "setting"
	KindFile       = "own file"
	KindGroup      = "first-party source"
	KindSource     = "external file"
	KindDependency = "dependency RPM"
	KindTool       = "image tool"
	KindImage      = "image" // below build/, where it is not there
)

// Change is one input that differs between two sets of inputs.
type Change struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"` // of the file, the RPM or the setting
	Was  string `json:"was,omitempty"`  // name of what it came in the place of, where that is another
	Old  string `json:"old,omitempty"`  // digest or value; empty when it was added
	New  string `json:"new,omitempty"`  // digest or value; empty when it was removed
	Diff string `json:"diff,omitempty"` // of texts, unified; of words, what was removed and added; of RPMs, the members that differ
}

// String is the change in one line, without the Diff.
func (c Change) String() string {
	name := c.Kind
	if c.Name != "" {
		name += " " + c.Name
	}
	switch {
	case c.Old == "":
		return "added    " + name
	case c.New == "":
		return "removed  " + name
	case c.Was != "":
		return "changed  " + name + ", which was " + c.Was
	case strings.HasPrefix(c.Old, "sha") || c.Diff != "":
		return "changed  " + name
	}
	return fmt.Sprintf("changed  %s: %s → %s", name, c.Old, c.New)
}

// Compare gives the inputs that differ, in the order in which Inputs has them.
// The texts are those that Texts gives, or nil.
func Compare(old, now Inputs, oldTexts, newTexts map[string]string) []Change {
	var list []Change
	value := func(kind, name, a, b string) {
		if a == b {
			return
		}
		c := Change{Kind: kind, Name: name, Old: a, New: b}
		at, aok := oldTexts[textName(kind, name)]
		bt, bok := newTexts[textName(kind, name)]
		switch {
		case aok && bok:
			c.Diff = unified(at, bt)
		case strings.Contains(a+b, "\n"):
			c.Diff = unified(a, b)
		case kind == KindSetting && a != "" && b != "":
			c.Diff = words(a, b)
		}
		list = append(list, c)
	}
	value(KindRecipe, "", old.Recipe, now.Recipe)
	value(KindArch, "", old.Arch, now.Arch)
	value(KindSDK, "", old.SDK, now.SDK)
	value(KindMacros, "", old.Macros, now.Macros)
	names := map[string]bool{}
	for _, m := range []map[string]string{old.Settings, now.Settings} {
		for name := range m {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		value(KindSetting, name, old.Settings[name], now.Settings[name])
	}
	for _, l := range []struct {
		kind     string
		old, now []File
	}{
		{KindFile, old.Files, now.Files}, {KindGroup, old.Groups, now.Groups}, {KindSource, old.Sources, now.Sources}, {KindDependency, old.RPMs, now.RPMs}, {KindTool, old.Tools, now.Tools},
	} {
		had := map[string]string{}
		for _, f := range l.old {
			had[f.Name] = f.state()
		}
		was := replaced(l.kind, l.old, l.now)
		for _, f := range l.now {
			if name := was[f.Name]; name != "" {
				list = append(list, Change{Kind: l.kind, Name: f.Name, Was: name, Old: had[name], New: f.state()})
				delete(had, name)
				continue
			}
			value(l.kind, f.Name, had[f.Name], f.state())
			delete(had, f.Name)
		}
		for _, name := range slices.Sorted(maps.Keys(had)) {
			value(l.kind, name, had[name], "")
		}
	}
	return list
}

func (f File) state() string {
	if f.Executable {
		return f.Digest + " executable"
	}
	return f.Digest
}

// replaced tells which files came in the place of others that are the same but for
// their version: old names by new ones.
func replaced(kind string, old, now []File) map[string]string {
	only := func(these, others []File) map[string][]string { // by stem
		names := map[string][]string{}
		for _, f := range these {
			if s := stem(kind, f.Name); s != "" && !slices.ContainsFunc(others, func(o File) bool { return o.Name == f.Name }) {
				names[s] = append(names[s], f.Name)
			}
		}
		return names
	}
	was, gone := map[string]string{}, only(old, now)
	for s, names := range only(now, old) {
		if len(names) == 1 && len(gone[s]) == 1 {
			was[names[0]] = gone[s][0]
		}
	}
	return was
}

var (
	rpmName = regexp.MustCompile(`^(.+)-[^-]+-[^-]+(\.[^.]+\.rpm)$`) // name-version-release.arch.rpm
	version = regexp.MustCompile(`[0-9]+([._][0-9]+)*`)
)

// stem is the name of a file without its version; empty where it has none.
func stem(kind, name string) string {
	switch kind {
	case KindDependency, KindTool:
		return rpmName.ReplaceAllString(name, "$1$2")
	case KindSource:
		return version.ReplaceAllString(name, "#")
	}
	return ""
}

// words are the words that only one of two lists has, a line each; none where
// neither is a list.
func words(a, b string) string {
	had, has := strings.Fields(a), strings.Fields(b)
	if len(had) < 2 && len(has) < 2 {
		return ""
	}
	var text strings.Builder
	add := func(sign string, these, others []string) {
		for _, w := range these {
			if !slices.Contains(others, w) {
				text.WriteString(sign + w + "\n")
			}
		}
	}
	add("-", had, has)
	add("+", has, had)
	return text.String()
}

// unified is the unified diff of two texts without its three lines of heading.
func unified(a, b string) string {
	text := string(diff.Diff("last", []byte(a), "now", []byte(b)))
	for range 3 {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

func textName(kind, name string) string {
	switch kind {
	case KindMacros:
		return "macros"
	case KindFile:
		return "files/" + name
	case KindGroup:
		return "groups/" + name
	}
	return ""
}

// MediaTexts is the media type of the texts of a result's inputs: a JSON object
// from names to texts, packed with zstd.
const MediaTexts = "application/vnd.slipway.texts.v1+json+zstd"

// maxText is the size of a text above which it is not kept for later diffs.
const maxText = 128 << 10

// Texts reads the inputs of a package that are texts: the macros, and its own
// files and first-party sources that are not too large.
func Texts(ws *workspace.Workspace, p *workspace.Package, in Inputs, macros string) map[string]string {
	texts := map[string]string{"macros": macros}
	add := func(kind, dir string, files []File) {
		for _, f := range files {
			path := filepath.Join(dir, filepath.FromSlash(f.Name))
			if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() || st.Size() > maxText {
				continue
			}
			if raw, err := os.ReadFile(path); err == nil && utf8.Valid(raw) && !bytes.ContainsRune(raw, 0) {
				texts[textName(kind, f.Name)] = string(raw)
			}
		}
	}
	add(KindFile, p.Dir, in.Files)
	add(KindGroup, filepath.Join(ws.Root, "sources"), in.Groups)
	return texts
}

// EncodeTexts packs texts as MediaTexts says.
func EncodeTexts(texts map[string]string) ([]byte, error) {
	raw, err := json.Marshal(texts)
	if err != nil {
		return nil, err
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(raw, nil), w.Close()
}

// DecodeTexts reads what EncodeTexts wrote; of nothing it makes no texts.
func DecodeTexts(data []byte) (map[string]string, error) {
	if data == nil {
		return nil, nil
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := r.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("texts of inputs: %w", err)
	}
	var texts map[string]string
	if err := json.Unmarshal(raw, &texts); err != nil {
		return nil, fmt.Errorf("texts of inputs: %w", err)
	}
	return texts, nil
}
