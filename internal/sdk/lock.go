package sdk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"slipway/internal/workspace"
)

// LockFile is the name of the lock file in the root of a workspace.
const LockFile = workspace.LockFile

// Lock is the section [sdk] of slipway.lock: everything an SDK is made from.
type Lock struct {
	Digest     string          `toml:"digest"`     // manifest digest of the image, "sha256:<hex>"; empty when not yet made
	Key        string          `toml:"key"`        // Key of the image with that digest
	Suite      string          `toml:"suite"`      // as sdk.toml has it
	Components []string        `toml:"components"` // as sdk.toml has them, sorted
	Arch       string          `toml:"arch"`       // Debian architecture of the SDK's own programs
	Requested  []string        `toml:"requested"`  // packages of sdk.toml, sorted
	Go         GoPin           `toml:"go"`         // zero without Go
	Packages   []LockedPackage `toml:"packages"`   // all that is installed, sorted by Name
}

// GoPin is a Go toolchain, which is a module of the Go module proxy.
type GoPin struct {
	Version string `toml:"version"` // "1.26.8"
	Module  string `toml:"module"`  // "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64"
	Sum     string `toml:"sum"`     // as in a go.sum, "h1:…"
	SHA256  string `toml:"sha256"`  // of the module's zip, hex
}

// LockedPackage is a Debian binary package.
type LockedPackage struct {
	Name    string `toml:"name"`
	Version string `toml:"version"`
	Arch    string `toml:"arch"`   // the SDK's or "all"
	SHA256  string `toml:"sha256"` // of the .deb, hex
	Size    int64  `toml:"size"`   // of the .deb, bytes
	Path    string `toml:"path"`   // below the root of a mirror, "pool/main/…"
}

// Package is the package of that name, or nil.
func (l *Lock) Package(name string) *LockedPackage {
	for i := range l.Packages {
		if l.Packages[i].Name == name {
			return &l.Packages[i]
		}
	}
	return nil
}

// Change is a pin that moved. Old is empty for a new one, New for one that went.
type Change struct{ Name, Old, New string }

func (c Change) String() string {
	switch {
	case c.Old == "":
		return c.Name + " " + c.New + " (new)"
	case c.New == "":
		return c.Name + " " + c.Old + " (gone)"
	}
	return c.Name + " " + c.Old + " -> " + c.New
}

type lockFile struct {
	SDK *Lock `toml:"sdk"`
}

// ReadLock reads slipway.lock. Unknown keys, missing ones and malformed values
// are errors with the file, the line and what to do. An absent file is
// fs.ErrNotExist.
func ReadLock(path string) (*Lock, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseLock(path, text)
}

func parseLock(name string, text []byte) (*Lock, error) {
	const hint = "restore it from version control, or remove it to pin the newest packages"
	var f lockFile
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		line, col := strict.Errors[0].Position()
		return nil, fmt.Errorf("%s:%d:%d: unknown key %s: %s", name, line, col, strings.Join(strict.Errors[0].Key(), "."), hint)
	case errors.As(err, &syntax):
		line, col := syntax.Position()
		return nil, fmt.Errorf("%s:%d:%d: %s: %s", name, line, col, strings.TrimPrefix(syntax.Error(), "toml: "), hint)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", name, err, hint)
	case f.SDK == nil:
		return nil, fmt.Errorf("%s: section [sdk] is missing: %s", name, hint)
	}
	if err := f.SDK.check(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w: %s", name, lineOf(text, err), err, hint)
	}
	return f.SDK, nil
}

// badValue is a value that a lock cannot have.
type badValue struct{ key, value, want string }

func (e *badValue) Error() string {
	return fmt.Sprintf("sdk.%s is %q: want %s", e.key, e.value, e.want)
}

// lineOf finds the line of the value that an error speaks of, in a file that
// has one package a line; 1 when it cannot be told.
func lineOf(text []byte, err error) int {
	var bad *badValue
	if errors.As(err, &bad) {
		last := bad.key[strings.LastIndexByte(bad.key, '.')+1:]
		re := regexp.MustCompile(regexp.QuoteMeta(last) + `\s*=\s*"?` + regexp.QuoteMeta(bad.value))
		if loc := re.FindIndex(text); loc != nil {
			return 1 + bytes.Count(text[:loc[0]], []byte("\n"))
		}
	}
	return 1
}

var (
	reDigest  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	reSHA256  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	reDebName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	// Debian policy 5.6.12
	reDebVersion = regexp.MustCompile(`^([0-9]+:)?[0-9A-Za-z][0-9A-Za-z.+~-]*$`)
	reSuite      = regexp.MustCompile(`^[a-z0-9][a-z0-9./-]*$`)
	reDebArch    = regexp.MustCompile(`^[a-z0-9]+$`)
	rePoolPath   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._~%:-]*(/[A-Za-z0-9][A-Za-z0-9+._~%:-]*)+\.deb$`)
	reGoVersion  = regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+|rc[0-9]+)?$`)
	reGoModule   = regexp.MustCompile(`^golang\.org/toolchain@v0\.0\.1-go[0-9a-z.]+\.linux-[a-z0-9]+$`)
	reGoSum      = regexp.MustCompile(`^h1:[A-Za-z0-9+/]{43}=$`)
)

// check holds the lock against the forms of its values, since they end up in
// command lines and paths.
func (l *Lock) check() error {
	type value struct {
		key, value string
		re         *regexp.Regexp
		want       string
	}
	values := []value{
		{"suite", l.Suite, reSuite, "a suite such as bookworm"},
		{"arch", l.Arch, reDebArch, "a Debian architecture such as amd64"},
	}
	if l.Digest != "" {
		values = append(values, value{"digest", l.Digest, reDigest, "sha256: and 64 hexadecimal digits"},
			value{"key", l.Key, reSHA256, "64 hexadecimal digits"})
	}
	if l.Go != (GoPin{}) {
		values = append(values,
			value{"go.version", l.Go.Version, reGoVersion, "a version such as 1.26.8"},
			value{"go.module", l.Go.Module, reGoModule, "golang.org/toolchain@v0.0.1-go<version>.linux-<arch>"},
			value{"go.sum", l.Go.Sum, reGoSum, "a sum as in go.sum, h1:…"},
			value{"go.sha256", l.Go.SHA256, reSHA256, "64 hexadecimal digits"})
	}
	for _, c := range l.Components {
		values = append(values, value{"components", c, reSuite, "a component such as main"})
	}
	for _, name := range l.Requested {
		values = append(values, value{"requested", name, reDebName, "the name of a Debian package"})
	}
	if len(l.Packages) == 0 {
		return errors.New("sdk.packages is empty")
	}
	for i, p := range l.Packages {
		values = append(values,
			value{"packages.name", p.Name, reDebName, "the name of a Debian package"},
			value{"packages.version", p.Version, reDebVersion, "a Debian version"},
			value{"packages.arch", p.Arch, reDebArch, "a Debian architecture or all"},
			value{"packages.sha256", p.SHA256, reSHA256, "64 hexadecimal digits"},
			value{"packages.path", p.Path, rePoolPath, "a path such as pool/main/b/bash/bash_5.2_amd64.deb"})
		if p.Size <= 0 {
			return &badValue{"packages.size", strconv.FormatInt(p.Size, 10), "a size in bytes"}
		}
		if i > 0 && l.Packages[i-1].Name == p.Name {
			return &badValue{"packages.name", p.Name, "each package once"}
		}
		if path.Clean(p.Path) != p.Path {
			return &badValue{"packages.path", p.Path, "a clean path"}
		}
	}
	for _, v := range values {
		if !v.re.MatchString(v.value) {
			return &badValue{v.key, v.value, v.want}
		}
	}
	return nil
}

// WriteLock writes slipway.lock, atomically: sorted, and with one package a
// line, so that a changed pin is one changed line.
func WriteLock(path string, l *Lock) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".slipway.lock-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(l.format())
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func (l *Lock) format() []byte {
	l = l.sorted()
	var b bytes.Buffer
	list := func(values []string) string {
		quoted := make([]string, len(values))
		for i, v := range values {
			quoted[i] = strconv.Quote(v)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	b.WriteString("# Written by slipway; keep it in version control.\n\n[sdk]\n")
	if l.Digest != "" {
		fmt.Fprintf(&b, "digest = %q\nkey = %q\n", l.Digest, l.Key)
	}
	fmt.Fprintf(&b, "suite = %q\ncomponents = %s\narch = %q\n", l.Suite, list(l.Components), l.Arch)
	b.WriteString("requested = [\n")
	for _, name := range l.Requested {
		fmt.Fprintf(&b, "  %q,\n", name)
	}
	b.WriteString("]\npackages = [\n")
	for _, p := range l.Packages {
		fmt.Fprintf(&b, "  { name = %q, version = %q, arch = %q, size = %d, sha256 = %q, path = %q },\n",
			p.Name, p.Version, p.Arch, p.Size, p.SHA256, p.Path)
	}
	b.WriteString("]\n")
	if l.Go != (GoPin{}) {
		fmt.Fprintf(&b, "\n[sdk.go]\nversion = %q\nmodule = %q\nsum = %q\nsha256 = %q\n", l.Go.Version, l.Go.Module, l.Go.Sum, l.Go.SHA256)
	}
	return b.Bytes()
}

// sorted gives the lock as it stands in the file.
func (l *Lock) sorted() *Lock {
	out := *l
	out.Components = slices.Sorted(slices.Values(l.Components))
	out.Requested = slices.Sorted(slices.Values(l.Requested))
	out.Packages = slices.SortedFunc(slices.Values(l.Packages), func(a, b LockedPackage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch))
	})
	return &out
}

// stale says in words how the lock does not fit the manifest; empty when it
// fits.
func (l *Lock) stale(m *workspace.SDK) string {
	if l == nil {
		return "the file is missing"
	}
	want := request(m)
	differs := func(what string, have, want []string) string {
		for _, v := range want {
			if v != "" && !slices.Contains(have, v) {
				return fmt.Sprintf("%s has the %s %s, which is not locked", workspace.SDKFile, what, v)
			}
		}
		for _, v := range have {
			if v != "" && !slices.Contains(want, v) {
				return fmt.Sprintf("%s no longer has the %s %s", workspace.SDKFile, what, v)
			}
		}
		return ""
	}
	return cmp.Or(
		differs("suite", []string{l.Suite}, []string{want.Suite}),
		differs("component", l.Components, want.Components),
		differs("package", l.Requested, want.Requested),
		differs("Go version", []string{l.Go.Version}, []string{want.Go.Version}),
		differs("architecture", []string{l.Arch}, []string{want.Arch}),
	)
}

// request is a lock that has only what the manifest says.
func request(m *workspace.SDK) *Lock {
	l := &Lock{
		Suite:      m.Suite,
		Components: slices.Clone(m.Components),
		Requested:  slices.Clone(m.Packages),
		Go:         GoPin{Version: m.Go},
	}
	if host, err := hostArch(); err == nil {
		l.Arch = host.deb
	}
	l = l.sorted()
	l.Requested = slices.Compact(l.Requested)
	l.Components = slices.Compact(l.Components)
	return l
}

// diff lists what moved from one lock to another, sorted by name.
func diff(from, to *Lock) []Change {
	pins := func(l *Lock) map[string]string {
		m := map[string]string{}
		if l == nil {
			return m
		}
		for _, p := range l.Packages {
			m[p.Name] = p.Version
		}
		if l.Go.Version != "" {
			m["go"] = l.Go.Version
		}
		return m
	}
	a, b := pins(from), pins(to)
	var out []Change
	for name, v := range b {
		if a[name] != v {
			out = append(out, Change{Name: name, Old: a[name], New: v})
		}
	}
	for name, v := range a {
		if _, ok := b[name]; !ok {
			out = append(out, Change{Name: name, Old: v})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
