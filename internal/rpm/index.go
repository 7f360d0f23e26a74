package rpm

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"slipway/internal/rpmspec"
)

// Package is an RPM that may be installed.
type Package struct {
	*Metadata
	Source   string // what it is built from, such as "packages/glibc"; may be ""
	Digest   string // of the file
	Size     int64  // of the file, in bytes
	FileName string
}

// sameSource reports whether both come from one source package.
func (p *Package) sameSource(q *Package) bool {
	if p.Source != "" && q.Source != "" {
		return p.Source == q.Source
	}
	return p.SourceRPM != "" && p.SourceRPM == q.SourceRPM
}

// Index finds RPMs by what they provide. It only grows. Add must not run beside
// anything else; any number of Solve may run beside one another.
type Index struct {
	provides map[string][]provider
	files    map[string][]*Package
	rich     map[string]rpmspec.Term // by text
}

// provider is one Provides of an RPM.
type provider struct {
	pkg *Package
	dep Dep
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{provides: map[string][]provider{}, files: map[string][]*Package{}, rich: map[string]rpmspec.Term{}}
}

// Add adds an RPM, which must not change afterwards. Every RPM provides its own
// name in its version, even if it does not say so. The error is a rich dependency
// that cannot be read; the RPM is not added then.
func (x *Index) Add(p *Package) error {
	for _, l := range [...]struct {
		deps  []Dep
		parse func(string) (rpmspec.Term, error)
	}{{p.Requires, rpmspec.ParseTerm}, {p.Conflicts, rpmspec.ParseConflict}} {
		for _, d := range l.deps {
			if !d.Rich() {
				continue
			}
			if _, ok := x.rich[d.Name]; ok {
				continue
			}
			t, err := l.parse(d.Name)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			x.rich[d.Name] = t
		}
	}
	self := Dep{Name: p.Name, Cmp: "=", EVR: p.EVR()}
	named := false
	for _, d := range p.Provides {
		key := capability(d.Name)
		x.provides[key] = append(x.provides[key], provider{p, d})
		named = named || d == self
	}
	if !named {
		x.provides[p.Name] = append(x.provides[p.Name], provider{p, self})
	}
	for _, f := range p.Files {
		key := capability(f)
		x.files[key] = append(x.files[key], p)
	}
	return nil
}

// term is a dependency of an RPM in the index, taken apart.
func (x *Index) term(d Dep) rpmspec.Term {
	if d.Rich() {
		return x.rich[d.Name]
	}
	return rpmspec.Term{Name: d.Name, Cmp: d.Cmp, Version: d.EVR}
}

// capability is the key of a name in the index: paths below /usr/bin, /usr/sbin,
// /usr/lib and /usr/lib64 have the same as those without /usr, as /bin and the
// others are links to there. To rpm they are different names, so only hints make
// use of it.
func capability(name string) string {
	if rest, ok := strings.CutPrefix(name, "/usr"); ok {
		for _, dir := range [...]string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
			if strings.HasPrefix(rest, dir) {
				return rest
			}
		}
	}
	return name
}

// layers are indexes that a solve searches one after the other.
type layers [2]*Index

// satisfying yields the RPMs that satisfy t by themselves: t is a name, or with,
// without and or of such. An RPM may be yielded more than once.
func (l layers) satisfying(t rpmspec.Term) iter.Seq[*Package] {
	return func(yield func(*Package) bool) {
		switch {
		case len(t.Args) == 0:
			key := capability(t.Name)
			for _, x := range l {
				for _, p := range x.provides[key] {
					if p.dep.Name == t.Name && rpmspec.Overlap(t.Cmp, t.Version, p.dep.Cmp, p.dep.EVR) && !yield(p.pkg) {
						return
					}
				}
			}
			if key[0] != '/' {
				return
			}
			for _, x := range l {
				for _, p := range x.files[key] {
					if _, has := slices.BinarySearch(p.Files, t.Name); has && !yield(p) {
						return
					}
				}
			}
		case t.Op == "with" || t.Op == "without":
			for p := range l.satisfying(t.Args[0]) {
				fits := true
				for _, a := range t.Args[1:] {
					fits = fits && l.satisfies(p, a) == (t.Op == "with")
				}
				if fits && !yield(p) {
					return
				}
			}
		default:
			for _, a := range t.Args {
				for p := range l.satisfying(a) {
					if !yield(p) {
						return
					}
				}
			}
		}
	}
}

// satisfies reports whether p alone satisfies t.
func (l layers) satisfies(p *Package, t rpmspec.Term) bool {
	for q := range l.satisfying(t) {
		if p == q {
			return true
		}
	}
	return false
}

// explicit reports whether p has a Provides of that name.
func (l layers) explicit(p *Package, name string) bool {
	for _, x := range l {
		for _, q := range x.provides[capability(name)] {
			if p == q.pkg && q.dep.Name == name {
				return true
			}
		}
	}
	return false
}
