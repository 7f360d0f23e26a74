package rpmspec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tagInfo describes a preamble tag.
type tagInfo struct {
	name   string // as rpm's manual writes it
	kind   tagKind
	macro  bool // its value becomes a macro of its name
	paren  byte // 'l': may have a language, 's': may have script qualifiers
	single bool // one word only

	rich, negative, namesOnly bool // of dependencies, see parseDeps
	deps                      func(*Spec, *Package) *[]Dep
}

type tagKind uint8

const (
	tagIgnored tagKind = iota
	tagName
	tagVersion
	tagRelease
	tagEpoch
	tagSummary
	tagSource
	tagPatch
	tagDeps
	tagBuildArch
	tagExclusiveArch
	tagExcludeArch
	tagDocDir
)

// tags maps tag names in lower case. What planning does not need is ignored,
// apart from the macro it defines.
var tags = func() map[string]tagInfo {
	t := map[string]tagInfo{
		"name":    {name: "Name", kind: tagName, macro: true, single: true},
		"version": {name: "Version", kind: tagVersion, macro: true, single: true},
		"release": {name: "Release", kind: tagRelease, macro: true, single: true},
		"epoch":   {name: "Epoch", kind: tagEpoch, macro: true, single: true},
		"summary": {name: "Summary", kind: tagSummary, macro: true, paren: 'l'},
		"group":   {name: "Group", macro: true, paren: 'l'},
		"source":  {name: "Source", kind: tagSource},
		"patch":   {name: "Patch", kind: tagPatch},

		"provides":          {rich: false, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Provides }},
		"requires":          {rich: true, paren: 's', deps: func(_ *Spec, p *Package) *[]Dep { return &p.Requires }},
		"prereq":            {rich: true, paren: 's', deps: func(_ *Spec, p *Package) *[]Dep { return &p.Requires }},
		"recommends":        {rich: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Recommends }},
		"suggests":          {rich: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Suggests }},
		"supplements":       {rich: true, negative: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Supplements }},
		"enhances":          {rich: true, negative: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Enhances }},
		"conflicts":         {rich: true, negative: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Conflicts }},
		"obsoletes":         {namesOnly: true, deps: func(_ *Spec, p *Package) *[]Dep { return &p.Obsoletes }},
		"orderwithrequires": {paren: 's', deps: func(*Spec, *Package) *[]Dep { return nil }},
		"buildrequires":     {rich: true, deps: func(s *Spec, _ *Package) *[]Dep { return &s.BuildRequires }},
		"buildprereq":       {rich: true, deps: func(s *Spec, _ *Package) *[]Dep { return &s.BuildRequires }},
		"buildconflicts":    {rich: true, negative: true, deps: func(s *Spec, _ *Package) *[]Dep { return &s.BuildConflicts }},

		"buildarch":          {name: "BuildArch", kind: tagBuildArch},
		"buildarchitectures": {name: "BuildArchitectures", kind: tagBuildArch},
		"exclusivearch":      {name: "ExclusiveArch", kind: tagExclusiveArch},
		"excludearch":        {name: "ExcludeArch", kind: tagExcludeArch},
		"docdir":             {name: "DocDir", kind: tagDocDir, single: true},
	}
	for n, names := range map[string]string{
		"provides": "Provides", "requires": "Requires", "prereq": "PreReq", "recommends": "Recommends",
		"suggests": "Suggests", "supplements": "Supplements", "enhances": "Enhances", "conflicts": "Conflicts",
		"obsoletes": "Obsoletes", "orderwithrequires": "OrderWithRequires", "buildrequires": "BuildRequires",
		"buildprereq": "BuildPreReq", "buildconflicts": "BuildConflicts",
	} {
		i := t[n]
		i.name, i.kind = names, tagDeps
		t[n] = i
	}
	for _, n := range strings.Fields("license sourcelicense distribution disturl vendor packager url vcs prefixes prefix" +
		" disttag bugurl translationurl upstreamreleases removepathpostfixes modularitylabel") {
		t[n] = tagInfo{name: n, macro: true}
	}
	for _, n := range strings.Fields("nosource nopatch excludeos exclusiveos icon buildroot autoreqprov autoreq autoprov") {
		t[n] = tagInfo{name: n}
	}
	return t
}()

// scripts are the qualifiers of Requires(…).
var scripts = []string{"interp", "meta", "preun", "pre", "postun", "post", "rpmlib", "verify", "pretrans", "posttrans"}

// tag handles a line of a preamble.
func (p *parser) tag(line string) error {
	var low [24]byte
	n := 0
	for n < len(line) && n < len(low) && isAlpha(line[n]) {
		low[n] = line[n] | 0x20
		n++
	}
	info, ok := tags[string(low[:n])]
	number := ""
	if !ok && n > 6 && string(low[:6]) == "source" {
		info, ok, number, n = tags["source"], true, line[6:], 6
	} else if !ok && n > 5 && string(low[:5]) == "patch" {
		info, ok, number, n = tags["patch"], true, line[5:], 5
	} else if ok && (info.kind == tagSource || info.kind == tagPatch) {
		number = line[n:]
	}
	if !ok {
		return p.notATag(line)
	}
	rest := line[n:]
	when := ""
	switch info.kind {
	case tagSource, tagPatch:
		i := strings.IndexByte(rest, ':')
		if i < 0 {
			return p.notATag(line)
		}
		number = number[:strings.IndexAny(number, ": \t")]
		rest = rest[i:]
	default:
		rest = strings.TrimLeftFunc(rest, isSpaceRune)
		if info.paren != 0 && rest != "" && rest[0] == '(' {
			i := strings.IndexByte(rest, ')')
			if i < 0 {
				return fmt.Errorf("%s: the qualifier lacks its closing parenthesis", info.name)
			}
			when = strings.TrimSpace(rest[1:i])
			if strings.IndexFunc(when, isSpaceRune) >= 0 {
				return fmt.Errorf("%s(%s): write qualifiers without blanks", info.name, when)
			}
			rest = strings.TrimLeftFunc(rest[i+1:], isSpaceRune)
		}
		if rest == "" || rest[0] != ':' {
			return p.notATag(line)
		}
	}
	value := strings.TrimFunc(rest[1:], isSpaceRune)
	if value == "" {
		return fmt.Errorf("%s has no value: give one or remove the line", line[:n])
	}
	if info.single && strings.IndexFunc(value, isSpaceRune) >= 0 {
		return fmt.Errorf("%s: %s is more than one word", info.name, strconv.Quote(value))
	}
	if err := p.set(info, number, when, value); err != nil {
		return err
	}
	if info.macro {
		name := string(low[:n])
		p.x.m.push(&entry{name: name, body: value})
		if p.pkg == 0 {
			p.x.m.push(&entry{name: strings.ToUpper(name), body: value})
		}
	}
	return nil
}

// notATag handles a preamble line that is no tag.
func (p *parser) notATag(line string) error {
	if strings.IndexByte(line, unknown) >= 0 {
		p.needsRPM(p.line, clip(strings.TrimSpace(p.raw)))
		return nil
	}
	bare := strings.TrimLeftFunc(line, isSpaceRune)
	if bare != line && bare[0] != '%' {
		return fmt.Errorf("%q: a tag begins in the first column: remove the blanks before it", clip(bare))
	}
	if bare[0] == '%' {
		return fmt.Errorf("%q is neither a tag nor a section, and no macro of this name is defined: check the spelling, or load the macro file that has it", clip(bare))
	}
	return fmt.Errorf("%q is no tag that rpm knows: check the spelling", clip(bare))
}

// set stores the value of a tag.
func (p *parser) set(info tagInfo, number, when, value string) error {
	pkg := &p.spec.Packages[p.pkg]
	plain := known(value)
	clean := len(plain) == len(value)
	once := func(field *string) error {
		if *field != "" {
			return fmt.Errorf("%s is there twice (%q before): remove one", info.name, *field)
		}
		*field = plain
		if !clean {
			p.needsRPM(p.line, info.name)
		}
		return nil
	}
	switch info.kind {
	case tagName:
		if clean {
			if err := checkName(value); err != nil {
				return err
			}
		}
		return once(&pkg.Name)
	case tagVersion, tagRelease:
		if clean {
			if err := checkChars(info.name, value, "._+%{}~^"); err != nil {
				return err
			}
		}
		if info.kind == tagVersion {
			return once(&pkg.Version)
		}
		return once(&pkg.Release)
	case tagEpoch:
		if n, err := strconv.ParseUint(value, 10, 32); err == nil {
			plain = strconv.FormatUint(n, 10)
		} else if clean {
			return fmt.Errorf("Epoch %q: write a whole number, 0 or more", value)
		}
		return once(&pkg.Epoch)
	case tagSummary:
		if when == "" || when == "C" {
			pkg.Summary = plain
		}
	case tagSource, tagPatch:
		return p.addSource(info.kind == tagPatch, number, value)
	case tagDeps:
		return p.setDeps(info, pkg, when, value, clean)
	case tagExclusiveArch, tagExcludeArch:
		list := &p.spec.ExclusiveArch
		if info.kind == tagExcludeArch {
			list = &p.spec.ExcludeArch
		}
		*list = append(*list, strings.Fields(plain)...)
		if !clean {
			p.needsRPM(p.line, info.name)
		}
	case tagBuildArch:
		return p.setBuildArch(info, pkg, plain, clean)
	case tagDocDir:
		if clean && value[0] != '/' {
			return fmt.Errorf("DocDir %q: write an absolute path", value)
		}
		p.x.m.push(&entry{name: "_docdir", body: value})
	}
	return nil
}

func (p *parser) setDeps(info tagInfo, pkg *Package, when, value string, clean bool) error {
	if when != "" {
		for q := range strings.SplitSeq(when, ",") {
			if !slices.Contains(scripts, q) {
				return fmt.Errorf("%s(%s): %q is no qualifier: use %s", info.name, when, q, strings.Join(scripts, ", "))
			}
		}
	}
	if !clean {
		p.needsRPM(p.line, info.name)
		return nil
	}
	deps, err := parseDeps(value, info)
	if err != nil {
		return fmt.Errorf("%s: %w", info.name, err)
	}
	if list := info.deps(p.spec, pkg); list != nil {
		for _, d := range deps {
			d.Line, d.When = p.line, when
			*list = append(*list, d)
		}
	}
	return nil
}

// setBuildArch handles BuildArch: for a subpackage it can only be noarch, for
// the main one it makes rpm read the spec again for the first architecture that
// can be built.
func (p *parser) setBuildArch(info tagInfo, pkg *Package, value string, clean bool) error {
	if !clean {
		p.needsRPM(p.line, info.name)
		return nil
	}
	words := strings.Fields(value)
	if p.pkg != 0 {
		if len(words) != 1 || words[0] != "noarch" {
			return fmt.Errorf("%s %q in a subpackage: only noarch is possible here", info.name, value)
		}
		pkg.Arch = "noarch"
		return nil
	}
	if len(p.spec.BuildArch) > 0 {
		return fmt.Errorf("%s is there twice: remove one", info.name)
	}
	p.spec.BuildArch = words
	if p.again {
		return nil
	}
	for _, w := range words {
		if w == "noarch" || w == p.arch {
			p.again, p.arch = true, w
			p.x.m.push(&entry{name: "_target_cpu", body: w})
			return errOtherArch
		}
	}
	return errors.New("none of the architectures of BuildArch can be built for " + p.arch)
}
