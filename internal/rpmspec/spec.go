// Package rpmspec evaluates RPM spec files as far as planning a build needs it:
// macros, conditions, the tags of all preambles, subpackages, source and patch
// lists. It follows rpm 4.18 and runs nothing: where a value that matters hangs
// on %(…), %{lua:…} or the state of the machine, [Spec.NeedsRPM] says so.
package rpmspec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Options say how a spec is evaluated.
type Options struct {
	Macros    *Macros  // macro table below the spec's own; nil: NewMacros(). It is not changed.
	Arch      string   // target architecture as rpm names it; "" is x86_64
	SourceDir string   // %{_sourcedir}; "" leaves it to Macros
	With      []string // build conditions switched on, as rpmbuild --with
	Without   []string // build conditions switched off, as rpmbuild --without
}

// Spec is an evaluated spec file.
type Spec struct {
	Name, Epoch, Version, Release string // of the main package; Epoch may be ""
	Sources, Patches              []Source
	BuildRequires, BuildConflicts []Dep
	// Packages are the binary packages, the main one first.
	Packages []Package
	// BuildArch, ExclusiveArch and ExcludeArch are the words of these tags.
	// Whether they allow the target is for the caller to judge.
	BuildArch, ExclusiveArch, ExcludeArch []string
	// NeedsRPM lists, as "line N: what", each tag or condition whose value only
	// rpm can tell. If it is not empty, the other fields are incomplete.
	NeedsRPM []string
}

// Source is a Source or Patch.
type Source struct {
	Number int
	Value  string // as the spec writes it, expanded; a URL or a file name
	File   string // name in the source directory: the last segment of Value
	Line   int
}

// Package is a binary package that a spec describes.
type Package struct {
	Name, Epoch, Version, Release string
	Arch                          string // "noarch" or the target architecture
	Summary                       string
	Line                          int  // of its %package, 1 for the main package
	Files                         bool // it has a %files section, so an RPM is made

	Requires, Provides, Conflicts, Obsoletes    []Dep
	Recommends, Suggests, Supplements, Enhances []Dep
	// Implicit holds what rpm adds to Provides: the name, and the name with the
	// instruction set, each with the full version.
	Implicit []Dep
	// Interpreters holds what rpm adds to Requires: what runs the scriptlets.
	Interpreters []Dep
}

// EVR is [epoch:]version-release.
func (p *Package) EVR() string {
	v := p.Version + "-" + p.Release
	if p.Epoch != "" {
		v = p.Epoch + ":" + v
	}
	return v
}

// AllProvides is what `rpmspec -q --provides` prints: Provides and Implicit,
// sorted, each once.
func (p *Package) AllProvides() []Dep { return merge(p.Implicit, p.Provides) }

// AllRequires is Requires and Interpreters, sorted, each once; script
// qualifiers make no difference.
func (p *Package) AllRequires() []Dep { return merge(p.Interpreters, p.Requires) }

func merge(lists ...[]Dep) []Dep {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b Dep) int {
		if c := strings.Compare(a.Term.Name, b.Term.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	return slices.CompactFunc(all, func(a, b Dep) bool { return a.Text == b.Text })
}

// Parse evaluates the spec file at path. An error is an [*Error] with the line,
// unless the file cannot be read.
func Parse(path string, opt Options) (*Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	return ParseText(path, string(data), opt)
}

// ParseText evaluates the spec in text; path stands for it in errors and is the
// place that %include and %load look from.
func ParseText(path, text string, opt Options) (*Spec, error) {
	p := newParser(opt)
	err := p.parse(path, text)
	if errors.Is(err, errOtherArch) {
		// rpm reads the spec again for the BuildArch, with the macros it has
		err = p.parse(path, text)
	}
	if err != nil {
		return nil, err
	}
	return p.spec, nil
}

func newParser(opt Options) *parser {
	base := opt.Macros
	if base == nil {
		base = NewMacros()
	}
	m := base.Child()
	if opt.Arch == "" {
		opt.Arch = "x86_64"
	}
	m.setArch(opt.Arch)
	if opt.SourceDir != "" {
		m.push(&entry{name: "_sourcedir", body: opt.SourceDir, literal: true})
	}
	for _, w := range opt.With {
		m.push(&entry{name: "_with_" + w, body: "--with-" + w})
	}
	for _, w := range opt.Without {
		m.push(&entry{name: "_without_" + w, body: "--without-" + w})
	}
	p := &parser{arch: opt.Arch}
	p.x = &expander{m: m}
	return p
}

var errOtherArch = errors.New("read again for the BuildArch")

// parser evaluates one spec.
type parser struct {
	reader
	spec    *Spec
	arch    string // of the packages
	again   bool   // second pass, for the BuildArch
	section section
	inFiles bool
	pkg     int // package of the preamble being read
	lists   [2]numbering
}

// numbering numbers sources and patches that carry no number.
type numbering struct {
	last int
	seen map[int]bool
}

type section uint8

const (
	inPreamble section = iota
	inSources
	inPatches
	inBody   // text that planning does not need
	inScript // a script of the build, likewise
	inNothing
)

// start makes p ready to read a spec, again with the macros it has.
func (p *parser) start(path, text string) error {
	p.spec = &Spec{Packages: []Package{{Arch: p.arch, Line: 1}}}
	p.reader = reader{x: p.x, reading: true, doubt: p.needsRPM, matters: p.matters, missing: p.willExist}
	p.x.load = p.load
	p.section, p.pkg, p.inFiles = inPreamble, 0, false
	p.lists = [2]numbering{{last: -1}, {last: -1}}
	return p.open(path, text)
}

func (p *parser) parse(path, text string) error {
	if err := p.start(path, text); err != nil {
		return err
	}
	for {
		line, err := p.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := p.take(line); err != nil {
			if errors.Is(err, errOtherArch) {
				return err
			}
			return p.errorf("%v", err)
		}
	}
	return p.finish()
}

func (p *parser) needsRPM(line int, what string) {
	s := fmt.Sprintf("line %d: %s", line, what)
	if n := len(p.spec.NeedsRPM); n == 0 || p.spec.NeedsRPM[n-1] != s {
		p.spec.NeedsRPM = append(p.spec.NeedsRPM, s)
	}
}

// matters reports whether a line below a condition that only rpm can judge
// could change the plan.
func (p *parser) matters(line string) bool {
	raw := strings.TrimSpace(p.raw)
	if p.section != inBody && p.section != inScript {
		return raw != "" && raw[0] != '#'
	}
	if _, ok := sectionOf(line); ok {
		return true
	}
	for _, w := range [...]string{"%global", "%define", "%undefine", "%bcond", "%include", "{load:", "{global", "{define", "{undefine"} {
		if strings.Contains(raw, w) {
			return true
		}
	}
	return false
}

// willExist reports whether path names a source that is still to be fetched.
func (p *parser) willExist(path string) bool {
	for _, l := range [...][]Source{p.spec.Sources, p.spec.Patches} {
		for _, s := range l {
			if s.File == filepath.Base(path) && strings.Contains(s.Value, "://") {
				return true
			}
		}
	}
	return false
}

// load is %{load:path}.
func (p *parser) load(path string) error {
	text, ok, err := p.readFile(path)
	switch {
	case err != nil:
		return fmt.Errorf("%%load: %w", err)
	case !ok:
		p.needsRPM(p.line, "%load")
		return nil
	}
	if err := p.x.spend(len(text)); err != nil {
		return err
	}
	return p.x.m.loadText(path, text)
}

// sectionOf recognises the line that begins a section; case does not matter.
func sectionOf(line string) (word string, ok bool) {
	if len(line) < 4 || line[0] != '%' {
		return "", false
	}
	i := 1
	for i < len(line) && !isSpace(line[i]) {
		if !isAlpha(line[i]) && line[i] != '_' {
			return "", false
		}
		i++
	}
	word = strings.ToLower(line[1:i])
	switch word {
	case "package", "prep", "generate_buildrequires", "conf", "build", "install", "check", "clean",
		"preun", "postun", "pretrans", "posttrans", "pre", "post", "files", "changelog", "description",
		"triggerpostun", "triggerprein", "triggerun", "triggerin", "trigger", "verifyscript", "sepolicy",
		"filetriggerin", "filetrigger", "filetriggerun", "filetriggerpostun",
		"transfiletriggerin", "transfiletrigger", "transfiletriggerun", "transfiletriggerpostun",
		"end", "patchlist", "sourcelist":
		return word, true
	}
	return "", false
}

// take handles one line.
func (p *parser) take(line string) error {
	if word, ok := sectionOf(line); ok {
		return p.begin(word, line)
	}
	if p.section == inBody || p.section == inScript {
		if line != "" && line[0] == unknown && p.mayBegin(p.raw) {
			p.needsRPM(p.line, clip(p.raw))
		}
		return nil
	}
	line = strings.TrimRightFunc(line, isSpaceRune)
	bare := strings.TrimLeftFunc(line, isSpaceRune)
	if bare == "" || bare[0] == '#' {
		return nil
	}
	switch p.section {
	case inSources, inPatches:
		return p.addSource(p.section == inPatches, "", line)
	case inNothing:
		return fmt.Errorf("%q belongs to no section: %%end closed the last one; begin a section or remove the line", clip(bare))
	}
	return p.tag(line)
}

// mayBegin reports whether code in the first column may print the first line of
// a section or define a macro that matters: outside scripts, any; within them,
// where code usually prints commands, if it speaks of packages or definitions.
func (p *parser) mayBegin(raw string) bool {
	if !strings.HasPrefix(raw, "%{lua:") && !strings.HasPrefix(raw, "%(") {
		return false
	}
	return p.section == inBody || strings.Contains(raw, "package") || strings.Contains(raw, "define")
}

// begin handles the first line of a section.
func (p *parser) begin(word, line string) error {
	if err := p.leavePreamble(); err != nil {
		return err
	}
	if strings.IndexByte(line, unknown) >= 0 {
		p.needsRPM(p.line, "%"+word)
	}
	if p.inFiles {
		p.inFiles = false
		p.x.m.pop("license")
	}
	switch word {
	case "package":
		p.section = inPreamble
		return p.newPackage(known(line))
	case "sourcelist":
		p.section = inSources
	case "patchlist":
		p.section = inPatches
	case "end":
		if p.section == inNothing {
			return errors.New("%end without a section to close: remove it")
		}
		p.section = inNothing
	case "prep", "generate_buildrequires", "conf", "build", "install", "check", "clean":
		p.section = inScript
	case "changelog", "sepolicy":
		p.section = inBody
	default:
		p.section = inBody
		return p.ofPackage(word, known(line))
	}
	return nil
}

// leavePreamble completes the package whose preamble ends here.
func (p *parser) leavePreamble() error {
	if p.section != inPreamble {
		return nil
	}
	main, pkg := &p.spec.Packages[0], &p.spec.Packages[p.pkg]
	if p.pkg == 0 {
		for _, t := range [...]struct{ tag, value string }{{"Name", main.Name}, {"Version", main.Version}, {"Release", main.Release}} {
			if t.value == "" && len(p.spec.NeedsRPM) == 0 {
				return fmt.Errorf("the preamble ends without a %s tag: add one before the first section", t.tag)
			}
		}
		return nil
	}
	for _, f := range [...]struct{ to, from *string }{{&pkg.Version, &main.Version}, {&pkg.Release, &main.Release}, {&pkg.Epoch, &main.Epoch}} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	return nil
}

// newPackage handles %package [-n] name.
func (p *parser) newPackage(line string) error {
	f := strings.Fields(line)[1:]
	full := len(f) > 0 && f[0] == "-n"
	if full {
		f = f[1:]
	}
	if len(f) != 1 {
		if len(p.spec.NeedsRPM) > 0 && len(f) == 0 {
			f = []string{""}
		} else {
			return fmt.Errorf("%q: write %%package SUFFIX or %%package -n NAME", line)
		}
	}
	name := f[0]
	if name != "" {
		if err := checkChars("package name", name, ".-_+%{}"); err != nil {
			return err
		}
		if full {
			if err := checkName(name); err != nil {
				return err
			}
		}
	}
	if !full {
		name = p.spec.Packages[0].Name + "-" + name
	}
	if i := p.find(name); i >= 0 && len(p.spec.NeedsRPM) == 0 {
		return fmt.Errorf("package %s is described twice, first in line %d: rename or join them", name, p.spec.Packages[i].Line)
	}
	p.spec.Packages = append(p.spec.Packages, Package{Name: name, Arch: p.arch, Line: p.line})
	p.pkg = len(p.spec.Packages) - 1
	return nil
}

func (p *parser) find(name string) int {
	return slices.IndexFunc(p.spec.Packages, func(q Package) bool { return q.Name == name })
}

// ofPackage handles %files, %description and scriptlets, which name a package.
func (p *parser) ofPackage(word, line string) error {
	f := strings.Fields(line)[1:]
	name, program := p.spec.Packages[0].Name, "/bin/sh"
	for i := 0; i < len(f) && f[i] != "--"; i++ {
		switch {
		case f[i] == "-n" && i+1 < len(f):
			i++
			name = f[i]
		case f[i] == "-p" && i+1 < len(f):
			i++
			program = f[i]
			if q := program[0]; q == '"' || q == '\'' { // with arguments
				for !strings.HasSuffix(f[i], string(rune(q))) && i+1 < len(f) {
					i++
				}
				program = strings.Trim(program, `"'`)
			}
			if program == "" {
				return fmt.Errorf("%%%s -p: name the program", word)
			}
		case (f[i] == "-f" || f[i] == "-l" || f[i] == "-P") && i+1 < len(f):
			i++
		case strings.HasPrefix(f[i], "-"):
		default:
			name = p.spec.Packages[0].Name + "-" + f[i]
		}
	}
	i := p.find(name)
	if i < 0 {
		if len(p.spec.NeedsRPM) > 0 {
			return nil // it may come from what is not known here
		}
		return fmt.Errorf("%%%s of %s, but there is no such package: add a %%package for it before this line", word, name)
	}
	pkg := &p.spec.Packages[i]
	switch {
	case word == "files":
		pkg.Files = true
		// the tag's macro must not eat the %license of file lists
		p.inFiles = true
		p.x.m.push(&entry{name: "license", body: "%license", literal: true})
	case word == "description" || program[0] == '<':
		// Lua runs within rpm
	case program[0] != '/':
		return fmt.Errorf("%%%s -p %s: give the absolute path of the program, or <lua>", word, program)
	default:
		pkg.Interpreters = append(pkg.Interpreters, Dep{Text: program, Line: p.line, Term: Term{Name: program}})
	}
	return nil
}

// finish completes the spec at the end of the file.
func (p *parser) finish() error {
	if err := p.leavePreamble(); err != nil {
		return p.errorf("%v", err)
	}
	isa, err := p.x.expandString("%{?_isa}")
	if err != nil {
		return p.errorf("%%_isa: %v", err)
	}
	isa = known(isa)
	for i := range p.spec.Packages {
		q := &p.spec.Packages[i]
		names := []string{q.Name}
		if isa != "" && q.Arch != "noarch" {
			names = append(names, q.Name+isa)
		}
		for _, n := range names {
			t := Term{Name: n, Cmp: "=", Version: q.EVR()}
			q.Implicit = append(q.Implicit, Dep{Text: t.String(), Line: q.Line, Term: t})
		}
	}
	main := p.spec.Packages[0]
	p.spec.Name, p.spec.Epoch, p.spec.Version, p.spec.Release = main.Name, main.Epoch, main.Version, main.Release
	return nil
}

// addSource adds a source or patch; number is what stands between tag and
// colon, "" for the next free one.
func (p *parser) addSource(patch bool, number, value string) error {
	tag, list, count := "Source", &p.spec.Sources, &p.lists[0]
	if patch {
		tag, list, count = "Patch", &p.spec.Patches, &p.lists[1]
	}
	n := count.last + 1
	if number != "" {
		u, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return fmt.Errorf("%s%s: %q is no number: write %s0, %s1, … or plain %s", tag, number, number, tag, tag, tag)
		}
		n = int(u)
	}
	count.last = max(count.last, n)
	if count.seen[n] {
		return fmt.Errorf("%s%d is there twice: give one of them another number", tag, n)
	}
	if count.seen == nil {
		count.seen = map[int]bool{}
	}
	count.seen[n] = true
	name := value
	if i := strings.LastIndexByte(value, '/'); i >= 0 {
		name = value[i+1:]
		// http://host/get?file=name
		if j := strings.LastIndexByte(name, '='); j >= 0 {
			name = name[j+1:]
		}
	}
	if strings.IndexByte(value, unknown) >= 0 {
		p.needsRPM(p.line, tag+strconv.Itoa(n))
	}
	upper := strings.ToUpper(tag)
	p.x.m.push(&entry{name: upper + strconv.Itoa(n), body: "%{_sourcedir}/" + name})
	p.x.m.push(&entry{name: upper + "URL" + strconv.Itoa(n), body: value})
	*list = append(*list, Source{Number: n, Value: known(value), File: known(name), Line: p.line})
	return nil
}
