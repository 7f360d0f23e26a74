package rpmspec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpus is every spec that rpm and this package must agree on: the fixtures,
// and the specs of the operating system in this repository.
func corpus(t testing.TB) []string {
	t.Helper()
	specs, err := filepath.Glob("testdata/*.spec")
	if err != nil || len(specs) < 40 {
		t.Fatalf("testdata holds %d specs, want 40 or more (%v)", len(specs), err)
	}
	more, err := filepath.Glob("../../os/packages/*/*.spec")
	if err != nil {
		t.Fatal(err)
	}
	specs = append(specs, more...)
	for i := range specs {
		if specs[i], err = filepath.Abs(specs[i]); err != nil {
			t.Fatal(err)
		}
	}
	return specs
}

// macroPack writes the SDK's macro pack with sample values and returns its path.
func macroPack(t testing.TB) string {
	t.Helper()
	in, err := os.ReadFile("../sdk/pack/macros.in")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"@ARCH@", "x86_64", "@BUILD_ARCH@", "x86_64", "@VENDOR@", "sample", "@KARCH@", "x86",
		"@KIMAGE@", "bzImage", "@CPU_FAMILY@", "x86", "@EFI_ARCH@", "x64", "@GO_ARCH@", "amd64",
		"@DEBUG_CFLAGS@", "-g0", "@DEBUG_PACKAGE@", "%debug_package %{nil}", "@NAMES@", "names",
	).Replace(string(in))
	path := filepath.Join(t.TempDir(), "macros.slipway")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// rpm runs Debian's rpmspec; without it the test cannot compare anything.
type rpm struct {
	t    testing.TB
	home string
	args []string
}

func newRPM(t testing.TB, args ...string) *rpm {
	t.Helper()
	if _, err := exec.LookPath("rpmspec"); err != nil {
		t.Skip("rpmspec is not installed (Debian package rpm)")
	}
	return &rpm{t, t.TempDir(), args}
}

func (r *rpm) try(spec string, args ...string) (string, error) {
	args = slices.Concat(r.args, args)
	if spec != "" {
		args = append(args, spec)
	}
	cmd := exec.Command("rpmspec", args...)
	cmd.Dir = filepath.Dir(spec)
	cmd.Env = append(os.Environ(), "HOME="+r.home, "LC_ALL=C.UTF-8")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("rpmspec %s: %w\n%s", filepath.Base(spec), err, stderr.String())
	}
	return string(out), nil
}

func (r *rpm) run(spec string, args ...string) string {
	r.t.Helper()
	out, err := r.try(spec, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// query is one query for everything that the header of a binary package holds.
const query = `P %{name} %{epoch} %{version} %{release} %{arch} %{summary}
[req %{REQUIRENEVRS}
][prov %{PROVIDENEVRS}
][conf %{CONFLICTNEVRS}
][obs %{OBSOLETENEVRS}
][rec %{RECOMMENDNEVRS}
][sug %{SUGGESTNEVRS}
][sup %{SUPPLEMENTNEVRS}
][enh %{ENHANCENEVRS}
]`

const sourceQuery = `[src %{SOURCE}
][patch %{PATCH}
][req %{REQUIRENEVRS}
][conf %{CONFLICTNEVRS}
][excl %{EXCLUSIVEARCH}
][excarch %{EXCLUDEARCH}
]`

func texts(prefix string, deps []Dep) []string {
	var out []string
	for _, d := range deps {
		out = append(out, prefix+" "+d.Text)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func files(prefix string, sources []Source) []string {
	var out []string
	for _, s := range sources {
		out = append(out, prefix+" "+s.File)
	}
	return out
}

// describe writes a package in the form of query.
func (p Package) describe() string {
	epoch := p.Epoch
	if epoch == "" {
		epoch = "(none)"
	}
	lines := []string{fmt.Sprintf("P %s %s %s %s %s %s", p.Name, epoch, p.Version, p.Release, p.Arch, p.Summary)}
	for _, d := range []struct {
		key  string
		deps []Dep
	}{{"req", p.AllRequires()}, {"prov", p.AllProvides()}, {"conf", p.Conflicts}, {"obs", p.Obsoletes}, {"rec", p.Recommends},
		{"sug", p.Suggests}, {"sup", p.Supplements}, {"enh", p.Enhances}} {
		lines = append(lines, texts(d.key, d.deps)...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// normal sorts the lines of each package, drops doubles that differ in script
// qualifiers only, and what rpm adds by itself.
func normal(out string) string {
	var packages []string
	for _, p := range strings.Split("\n"+strings.TrimSpace(out), "\nP ") {
		lines := strings.Split(strings.TrimSpace(p), "\n")
		if lines[0] == "" {
			continue
		}
		rest := slices.DeleteFunc(lines[1:], func(l string) bool { return strings.HasPrefix(l, "req rpmlib(") || l == "" })
		slices.Sort(rest)
		packages = append(packages, "P "+strings.Join(append(lines[:1], slices.Compact(rest)...), "\n"))
	}
	return strings.Join(packages, "\n")
}

func sortedLines(lines []string) []string {
	lines = slices.DeleteFunc(append([]string{}, lines...), func(l string) bool { return l == "" || strings.HasPrefix(l, "req rpmlib(") })
	slices.Sort(lines)
	return slices.Compact(lines)
}

// TestAgainstRPM holds the evaluation of all specs to rpm's own.
func TestAgainstRPM(t *testing.T) {
	pack := macroPack(t)
	r := newRPM(t, "--load", pack)
	m := NewMacros()
	if err := m.LoadFile(pack); err != nil {
		t.Fatal(err)
	}
	for _, path := range corpus(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			r := &rpm{t, r.home, r.args}
			spec, err := Parse(path, Options{Macros: m, SourceDir: filepath.Dir(path)})
			if err != nil {
				t.Fatal(err)
			}
			if needs := strings.HasPrefix(filepath.Base(path), "needs-"); needs || len(spec.NeedsRPM) > 0 {
				if !needs || len(spec.NeedsRPM) == 0 {
					t.Errorf("NeedsRPM = %q", spec.NeedsRPM)
				}
				r.run(path, "-q", "--qf", "")
				return
			}
			def := []string{"--define", "_sourcedir " + filepath.Dir(path), "-q"}
			var got strings.Builder
			for _, p := range spec.Packages {
				got.WriteString(p.describe())
			}
			want := r.run(path, append(def, "--qf", query)...)
			if d := cmp.Diff(normal(want), normal(got.String())); d != "" {
				t.Errorf("packages (-rpm +here):\n%s", d)
			}

			var built []string
			for _, p := range spec.Packages {
				if p.Files {
					built = append(built, p.Name)
				}
			}
			want = r.run(path, append(def, "--builtrpms", "--qf", "%{name}\n")...)
			if d := cmp.Diff(strings.Fields(want), built); d != "" {
				t.Errorf("built packages (-rpm +here):\n%s", d)
			}

			lines := slices.Concat(files("src", spec.Sources), files("patch", spec.Patches), texts("req", spec.BuildRequires), texts("conf", spec.BuildConflicts))
			for _, a := range spec.ExclusiveArch {
				lines = append(lines, "excl "+a)
			}
			for _, a := range spec.ExcludeArch {
				lines = append(lines, "excarch "+a)
			}
			want = r.run(path, append(def, "--srpm", "--qf", sourceQuery)...)
			if d := cmp.Diff(sortedLines(strings.Split(want, "\n")), sortedLines(lines)); d != "" {
				t.Errorf("source package (-rpm +here):\n%s", d)
			}

			// `--provides` prints what AllProvides gives, in that order
			var provides []string
			for _, p := range spec.Packages {
				for _, d := range p.AllProvides() {
					provides = append(provides, d.Text)
				}
			}
			want = r.run(path, append(def, "--provides")...)
			if d := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), provides); d != "" {
				t.Errorf("--provides (-rpm +here):\n%s", d)
			}
		})
	}
}

// TestSourceNumbersAgainstRPM asks rpm for each source by its number: the
// header only lists names.
func TestSourceNumbersAgainstRPM(t *testing.T) {
	pack := macroPack(t)
	r := newRPM(t, "--load", pack)
	m := NewMacros()
	if err := m.LoadFile(pack); err != nil {
		t.Fatal(err)
	}
	for _, path := range corpus(t) {
		spec, err := Parse(path, Options{Macros: m, SourceDir: filepath.Dir(path)})
		if err != nil {
			t.Fatal(err)
		}
		if len(spec.NeedsRPM) > 0 || len(spec.Sources)+len(spec.Patches) == 0 {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		ask, want := "\n%verifyscript\n", ""
		for tag, list := range map[string][]Source{"SOURCE": spec.Sources, "PATCH": spec.Patches} {
			for _, s := range list {
				ask += fmt.Sprintf("@@%%{%[1]sURL%[2]d}@@%%{%[1]s%[2]d}\n", tag, s.Number)
				want += "@@" + s.Value + "@@" + filepath.Dir(path) + "/" + s.File + "\n"
			}
		}
		copied := copySpec(t, path, string(text)+ask)
		got := r.run(copied, "--define", "_sourcedir "+filepath.Dir(path), "-P")
		_, got, _ = strings.Cut(got, "\n@@")
		if d := cmp.Diff(want, "@@"+got); d != "" {
			t.Errorf("%s (-here +rpm):\n%s", filepath.Base(path), d)
		}
	}
}

// TestTextAgainstRPM compares every line of the evaluated specs with
// `rpmspec -P`, with rpm's own macro files on both sides.
func TestTextAgainstRPM(t *testing.T) {
	pack := macroPack(t)
	macroFiles := []string{"/usr/lib/rpm/macros", "/usr/lib/rpm/platform/x86_64-linux/macros", pack}
	r := newRPM(t, "--macros", strings.Join(macroFiles, ":"))
	m := NewMacros()
	for _, f := range macroFiles {
		if err := m.LoadFile(f); err != nil {
			t.Skipf("rpm is set up in another way here: %v", err)
		}
	}
	for _, path := range corpus(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			r := &rpm{t, r.home, r.args}
			if strings.HasPrefix(filepath.Base(path), "needs-") {
				return // differs by design
			}
			copied := withoutPrep(t, path)
			got := linesOf(t, copied, m)
			want := significant(strings.Split(r.run(copied, "--define", "_sourcedir "+filepath.Dir(copied), "-P"), "\n"))
			for i, l := range got { // what only rpm can expand
				if strings.IndexByte(l, unknown) >= 0 && i < len(want) && fits(l, want[i]) {
					got[i] = want[i]
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-rpm +here):\n%s", d)
			}
		})
	}
}

// fits reports whether want is got with something in place of the unknown.
func fits(got, want string) bool {
	for i, part := range strings.Split(got, string(rune(unknown))) {
		at := strings.Index(want, part)
		if at < 0 || i == 0 && at != 0 {
			return false
		}
		want = want[at+len(part):]
	}
	return true
}

// copySpec puts a spec with the given text, and the files that the fixtures
// include, into a folder of its own.
func copySpec(t *testing.T, path, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, inc := range []string{"include.inc", "include.macros"} {
		data, err := os.ReadFile(filepath.Join("testdata", inc))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, inc), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return copied
}

// withoutPrep copies a spec without its %prep: rpmspec -P shows the script made
// from it and swallows the line after it.
func withoutPrep(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	skip := false
	for line := range strings.Lines(string(text)) {
		if word, ok := sectionOf(strings.TrimSpace(line)); ok {
			skip = word == "prep"
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return copySpec(t, path, out.String())
}

// linesOf evaluates a spec and returns its lines.
func linesOf(t *testing.T, path string, m *Macros) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := newParser(Options{Macros: m, SourceDir: filepath.Dir(path)})
	var lines []string
again:
	lines = nil
	if err := p.start(path, string(text)); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := p.next()
		if errors.Is(err, io.EOF) {
			return significant(lines)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
		if err := p.take(line); errors.Is(err, errOtherArch) {
			goto again
		} else if err != nil {
			t.Fatalf("%s:%d: %v", path, p.line, err)
		}
	}
}

// significant drops blank lines and comments, which rpm keeps or drops by
// section.
func significant(lines []string) []string {
	var out []string
	for _, l := range lines {
		l = strings.TrimRight(l, " \t\r")
		if s := strings.TrimSpace(l); s != "" && s[0] != '#' {
			out = append(out, l)
		}
	}
	return out
}
