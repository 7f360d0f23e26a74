package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Find returns the workspace root: dir, or the nearest folder above it that
// holds slipway.toml. The error wraps ErrNoWorkspace and says where it looked.
func Find(dir string) (root string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the workspace: %w", err)
	}
	for d := abs; ; d = filepath.Dir(d) {
		if info, err := os.Stat(filepath.Join(d, RootFile)); err == nil && info.Mode().IsRegular() {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", noWorkspace(abs, "or any folder above it")
		}
	}
}

// noWorkspace is the error for a folder without a workspace. A workspace in a
// folder directly below is named: people often stand one level too high.
func noWorkspace(dir, also string) error {
	where := dir
	if also != "" {
		where += " " + also
	}
	hint := fmt.Sprintf("to begin one, write %s with the keys schema = 1, name, vendor, version and source-date-epoch, and sdk/sdk.toml beside it", RootFile)
	if below, err := filepath.Glob(filepath.Join(dir, "*", RootFile)); err == nil && len(below) > 0 {
		hint = fmt.Sprintf("there is one in %s: change to that folder", filepath.Dir(below[0]))
	}
	return fmt.Errorf("%w: no %s in %s (%s)", ErrNoWorkspace, RootFile, where, hint)
}

// Load reads every manifest below root. Findings come all at once as an error
// of type Errors; the workspace is nil then. Without a slipway.toml the error
// wraps ErrNoWorkspace.
func Load(root string) (*Workspace, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("load the workspace: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, RootFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, noWorkspace(root, "")
	}
	w := &Workspace{Root: root}
	l := &loader{Workspace: w}
	w.Config.positions = l.manifest(&l.Errors, RootFile, &w.Config, "")
	l.bare("build.image-tools", w.Config.Build.ImageTools, w.Config.Position)
	l.packages()
	l.variants()
	l.sdk()
	l.migrations()
	if err := l.Err(); err != nil {
		return nil, err
	}
	return w, nil
}

type loader struct {
	*Workspace
	Errors
}

// manifest reads one manifest into dst. The hint is for when it is missing.
func (l *loader) manifest(findings *Errors, file string, dst any, hint string) positions {
	data, err := os.ReadFile(filepath.Join(l.Root, filepath.FromSlash(file)))
	if err != nil {
		findings.unreadable(file, err, hint)
		return positions{file: file}
	}
	pos, found := decode(file, data, dst)
	*findings = append(*findings, found...)
	return pos
}

func (e *Errors) unreadable(file string, err error, hint string) {
	msg := "cannot be read"
	if errors.Is(err, fs.ErrNotExist) {
		msg = "is missing"
	} else {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		msg += ": " + err.Error()
	}
	e.add(Position{File: file}, "", msg, hint)
}

// folders lists the folders of packages/ or variants/ that hold a manifest each.
func (l *loader) folders(parent, what string) []string {
	entries, err := os.ReadDir(filepath.Join(l.Root, parent))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.unreadable(parent, err, "")
		}
		return nil
	}
	var names []string
	lower := map[string]string{}
	for _, e := range entries {
		name := e.Name()
		pos := Position{File: parent + "/" + name}
		if strings.HasPrefix(name, ".") || e.Type().IsRegular() {
			continue
		}
		if !e.IsDir() {
			l.add(pos, "", "is neither a folder nor a file", "a "+what+" is a real folder here, not a link")
			continue
		}
		if msg, hint := folderName(name); msg != "" {
			l.add(pos, "", msg, hint)
			continue
		}
		if first, ok := lower[strings.ToLower(name)]; ok {
			l.add(pos, "", fmt.Sprintf("%s %q differs from %q only in the case of letters", what, name, first), "rename or remove one: they are one folder on some file systems")
			continue
		}
		lower[strings.ToLower(name)] = name
		names = append(names, name)
	}
	return names
}

func (l *loader) packages() {
	names := l.folders(packagesDir, "package")
	w := l.Workspace
	w.Packages = make([]*Package, len(names))
	findings := make([]Errors, len(names))
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		workers.Go(func() error {
			w.Packages[i] = l.pkg(name, &findings[i])
			return nil
		})
	}
	_ = workers.Wait() // findings, not errors
	for _, f := range findings {
		l.Errors = append(l.Errors, f...)
	}
	sortByName(w.Packages)
}

func (l *loader) pkg(name string, findings *Errors) *Package {
	dir := packagesDir + "/" + name
	p := &Package{Name: name, Dir: filepath.Join(l.Root, packagesDir, name)}
	p.Manifest = filepath.Join(p.Dir, PackageFile)
	p.Spec = filepath.Join(p.Dir, name+".spec")
	p.positions = l.manifest(findings, dir+"/"+PackageFile, p,
		"a package folder holds package.toml, which may be empty, and the spec; remove the folder if it is a leftover")

	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		findings.unreadable(dir, err, "")
		return p
	}
	var specs []string
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || e.Name() == PackageFile {
			continue
		}
		p.Files = append(p.Files, e.Name())
		if strings.HasSuffix(e.Name(), ".spec") {
			specs = append(specs, e.Name())
		}
	}
	if !slices.Contains(specs, name+".spec") {
		hint := "write the spec of the package; it has the name of its folder"
		if len(specs) > 0 {
			hint = fmt.Sprintf("there is %s: rename it or the folder", strings.Join(specs, ", "))
		}
		findings.add(Position{File: dir + "/" + name + ".spec"}, "", "is missing", hint)
	}
	l.sourceGroups(p, findings)
	externalFiles(p, findings)
	return p
}

func (l *loader) sourceGroups(p *Package, findings *Errors) {
	for i, group := range p.SourceGroups {
		if group == "" {
			continue // reported already
		}
		info, err := os.Stat(filepath.Join(l.Root, sourcesDir, filepath.FromSlash(group)))
		if err == nil && info.IsDir() {
			continue
		}
		var near []string
		parent := filepath.Dir(filepath.FromSlash(group))
		if entries, err := os.ReadDir(filepath.Join(l.Root, sourcesDir, parent)); err == nil {
			for _, e := range entries {
				if e.IsDir() {
					near = append(near, filepath.ToSlash(filepath.Join(parent, e.Name())))
				}
			}
		}
		hint := DidYouMean(Near(group, near))
		if hint == "" {
			hint = "make the folder, or remove the entry"
		}
		key := fmt.Sprintf("source-groups[%d]", i)
		findings.add(p.Position(key), key, fmt.Sprintf("\"source-groups\" names %q, but there is no folder %s/%s", group, sourcesDir, group), hint)
	}
}

// externalFiles checks what concerns several keys of a table or several tables.
func externalFiles(p *Package, findings *Errors) {
	first := map[string]int{}
	for i := range p.ExternalFiles {
		f := &p.ExternalFiles[i]
		key := fmt.Sprintf("external-files[%d]", i)
		_, has512 := p.at[key+".sha512"]
		_, has256 := p.at[key+".sha256"]
		switch {
		case has512 && has256:
			findings.add(p.Position(key+".sha256"), key+".sha256", fmt.Sprintf("%q has sha512 and sha256", key), "keep one")
		case !has512 && !has256:
			findings.add(f.Pos, key+".sha512", fmt.Sprintf("%q has no digest", key), "give sha512 or sha256 of the file")
		}
		if f.URL == "" || f.Path == "" && p.written(key+".path") {
			continue // reported already
		}
		name := f.FileName()
		pos := p.Position(key + ".url")
		if f.Path != "" {
			pos = p.Position(key + ".path")
		}
		if strings.HasPrefix(f.URL, "go:") && f.Path != "" && (!strings.HasSuffix(name, ".tar") || name == ".tar") {
			findings.add(pos, key+".path", fmt.Sprintf("%q must end in .tar: %q", key+".path", name), "vendored modules come as an uncompressed tar archive")
		}
		if msg, _ := fileName(name); msg != "" {
			findings.add(pos, key+".path", fmt.Sprintf("%q is missing", key+".path"), fmt.Sprintf("%q ends in no usable file name: say under which name the spec knows the file", f.URL))
			continue
		}
		if j, ok := first[name]; ok {
			findings.add(pos, key, fmt.Sprintf("two external files have the name %q", name), fmt.Sprintf("the first is in line %d; give one a path of its own", p.ExternalFiles[j].Pos.Line))
			continue
		}
		first[name] = i
		if _, own := slices.BinarySearch(p.Files, name); own {
			findings.add(pos, key, fmt.Sprintf("the external file %q is also in the package folder", name), "remove one of the two: it is not clear which is meant")
		}
	}
}

func (l *loader) variants() {
	w := l.Workspace
	var names []string
	for _, name := range l.folders(variantsDir, "variant") {
		v := &Variant{Name: name, Dir: filepath.Join(l.Root, variantsDir, name)}
		v.Manifest = filepath.Join(v.Dir, VariantFile)
		before := len(l.Errors)
		v.positions = l.manifest(&l.Errors, variantsDir+"/"+name+"/"+VariantFile, v,
			"a variant folder holds variant.toml; remove the folder if it is a leftover")
		l.bare("included-packages", v.IncludedPackages, v.Position)
		first := map[string]Position{}
		for i, a := range v.BootAddons {
			if pos, ok := first[a.Name]; ok && a.Name != "" {
				key := fmt.Sprintf("boot-addons[%d].name", i)
				l.add(v.Position(key), key, fmt.Sprintf("\"boot-addons\" names %q twice", a.Name), fmt.Sprintf("first in line %d; keep one", pos.Line))
			} else {
				first[a.Name] = a.Pos
			}
		}
		l.layout(v, l.Errors[before:])
		w.Variants = append(w.Variants, v)
		names = append(names, name)
	}
	sortByName(w.Variants)
	switch want := w.Config.DefaultVariant; {
	case want == "" && len(names) == 1 && !w.Config.written("default-variant"):
		w.Config.DefaultVariant = names[0]
	case want != "" && !slices.Contains(names, want):
		hint := DidYouMean(Near(want, names))
		if hint == "" && len(names) > 0 {
			hint = "there is " + strings.Join(names, ", ")
		}
		l.add(w.Config.Position("default-variant"), "default-variant", fmt.Sprintf("\"default-variant\" names %q, but there is no folder %s/%s", want, variantsDir, want), hint)
	}
}

// bare finds the names in a list of RPMs that have the vendor prefix.
func (l *loader) bare(key string, rpms []string, at func(key string) Position) {
	for i, name := range rpms {
		if bare, ok := strings.CutPrefix(name, l.Prefix()); ok && l.Config.Vendor != "" {
			entry := fmt.Sprintf("%s[%d]", key, i)
			l.add(at(entry), entry, fmt.Sprintf("%q names %q with the vendor prefix", key, name), fmt.Sprintf("write %q", bare))
		}
	}
}

// layout finds what cannot be in the layout of a variant whose manifest has these
// findings already.
func (l *loader) layout(v *Variant, found Errors) {
	const table = "image-layout"
	if slices.ContainsFunc(found, func(e *Error) bool {
		return e.Key == "" || strings.HasPrefix(e.Key, table) || strings.HasPrefix(e.Key, "supported-arches")
	}) || len(v.SupportedArches) == 0 {
		return
	}
	_, findings := v.ImageLayout.Disks(v.SupportedArches[0], l.Config.Version)
	for _, f := range findings {
		// a key that was not written is laid to its table
		at := f.Key
		for !v.written(at) && strings.Contains(at, ".") {
			at = at[:strings.LastIndex(at, ".")]
		}
		l.add(v.Position(at), f.Key, f.Msg, f.Hint)
	}
	v.ImageLayout = v.ImageLayout.WithDefaults()
	key := "image-features." + inPlaceUpdates
	if on, given := v.ImageFeatures[inPlaceUpdates]; given && on != v.ImageLayout.Updates() {
		slots := "one slot"
		if !on {
			slots = "two slots"
		}
		l.add(v.Position(key), key, fmt.Sprintf("%q is %t, but the layout of the disk has %s", key, on, slots), "remove it: it follows image-layout")
	}
}

func (l *loader) sdk() {
	s := &SDK{Manifest: filepath.Join(l.Root, filepath.FromSlash(SDKFile))}
	s.positions = l.manifest(&l.Errors, SDKFile, s, "it describes the root filesystem that every build runs in")
	l.SDK = s
}

// CheckArch is an error of type *Error when the variant cannot be built for the
// architecture.
func (v *Variant) CheckArch(arch string) error {
	if slices.Contains(v.SupportedArches, arch) {
		return nil
	}
	pos := v.Position("supported-arches")
	return NewError(pos, "supported-arches", fmt.Sprintf("variant %q is not made for %s", v.Name, arch),
		"\"supported-arches\" has "+strings.Join(v.SupportedArches, ", "))
}

// written tells whether the key is in the file, right or wrong.
func (p *positions) written(key string) bool { _, ok := p.at[key]; return ok }

type named interface{ name() string }

func sortByName[T named](list []T) {
	sort.Slice(list, func(i, j int) bool { return list[i].name() < list[j].name() })
}

func byName[T named](list []T, name string) (found T) {
	i := sort.Search(len(list), func(i int) bool { return list[i].name() >= name })
	if i < len(list) && list[i].name() == name {
		return list[i]
	}
	return found
}
