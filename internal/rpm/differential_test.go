package rpm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/rpmspec"
)

// specs are source packages: preambles without the tags that all share, separated
// by lines "%package". "File: path" puts an empty file into the RPM.
var specs = map[string]string{
	"lib": `
Name: lib
Version: 2
Provides: liba.so.2()(64bit)
%package devel
Requires: lib = 2-1
Provides: pkgconfig(lib) = 2.0
%package doc`,
	"lib1": `
Name: lib
Version: 1
Provides: liba.so.1()(64bit)`,
	"app": `
Name: app
Version: 1.5
Requires: lib >= 2
Requires: liba.so.2()(64bit)
Requires: /usr/bin/shell
Recommends: lib-doc
%package devel
Requires: app = 1.5-1
Requires: pkgconfig(lib) >= 2
%package -n apps
Requires: app
%package -n old-app
Requires: lib < 2
%package -n broken
Requires: lib > 2
%package -n file-etc
Requires: /etc/shell.conf
%package -n file-bin
Requires: /opt/foobin/tool`,
	"shell": `
Name: shell
Version: 3
File: /usr/bin/shell
File: /etc/shell.conf
File: /opt/foobin/tool
%package -n ashell
Provides: /usr/bin/shell`,
	"providers": `
Name: mta
Version: 1
Provides: mail
%package -n amta
Version: 7
Provides: mta = 9
Provides: mail
%package -n web-a
Provides: web(server)
Provides: extra(tls)
%package -n web-b
Version: 5
Provides: web(server)
%package -n web-c
Provides: web(server) = 3
Provides: extra(tls)
%package -n web-user
Requires: web(server)
%package -n mta-user
Requires: mta
%package -n web-b-user
Requires: web-user
Requires: web-b
%package -n web-versioned
Requires: web(server) >= 3`,
	"tool": `
Name: tool
Version: 1
Requires: tool(binaries)
%package bin
Provides: tool(binaries)
Requires: (feature(no-fips) and tool)
Conflicts: (feature(fips) or tool-fips)
%package fips
Provides: tool(binaries)
Requires: (feature(fips) and tool)
Conflicts: (feature(no-fips) or tool-bin)
%package -n meta-plain
Provides: feature(no-fips)
%package -n meta-fips
Provides: feature(fips)`,
	"rich": `
Name: rich
Version: 1
Requires: (rich-a if lib)
Requires: (rich-b if rich-a)
Requires: (rich-c if amta)
%package a
%package b
Requires: amta
%package c
%package else
Requires: (rich-a if lib else rich-c)
%package or
Requires: (nothere or rich-c or rich-a)
%package and
Requires: (rich-a and rich-c)
%package with
Requires: (web(server) with extra(tls))
%package without
Requires: (web(server) without extra(tls))
%package unless
Requires: (nothere or (rich-a unless lib))
%package unless-else
Requires: (nothere or (rich-a unless lib else rich-c))
%package foe
Conflicts: lib < 2`,
	"renamed": `
Name: newname
Version: 2
Provides: oldname = 2
Obsoletes: oldname < 2
%package -n oldname
Version: 1
%package -n aname
Version: 1
Provides: oldname = 3
%package -n name-user
Requires: oldname`,
}

// requests are lists of wanted dependencies: those that have one answer, or where
// Solve promises dnf's choice. dnf takes half a second for each.
var requests = [][]string{
	{"app-devel", "lib-doc"},
	{"apps", "ashell"},
	{"old-app", "app"},
	{"liba.so.1()(64bit)", "file-etc"},
	{"lib", "pkgconfig(lib)"},
	{"lib < 2", "file-bin"},
	{"lib >= 3"},
	{"mta", "amta", "oldname"},
	{"mta-user", "amta", "name-user"},
	{"web-user"},
	{"web-b-user", "rich-or", "rich-a"},
	{"web-user", "web-versioned"},
	{"tool", "meta-fips"},
	{"tool", "meta-fips", "meta-plain"},
	{"rich"},
	{"rich", "lib-devel", "rich-unless-else"},
	{"rich-else", "lib", "rich-foe"},
	{"rich-and", "rich-without", "rich-unless"},
	{"rich-with", "web-c"},
	{"rich-unless", "lib"},
	{"rich-foe", "old-app"},
	{"newname", "aname"},
}

// need skips the test where a tool is missing.
func need(t *testing.T, tools ...string) {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// buildRPMs builds specs into dir.
func buildRPMs(t *testing.T, dir string) {
	t.Helper()
	var paths []string
	for name, text := range specs {
		var b, files strings.Builder
		for i, part := range strings.Split(strings.TrimSpace(text), "\n%package") {
			sub, tags, _ := strings.Cut(part, "\n")
			if i == 0 {
				sub, tags = "", part+"\nRelease: 1\nBuildArch: noarch"
			} else {
				fmt.Fprintf(&b, "%%package%s\n", sub)
			}
			b.WriteString("License: none\nSummary: test\n")
			fmt.Fprintf(&files, "%%files%s\n", sub)
			for tag := range strings.SplitSeq(tags, "\n") {
				if file, ok := strings.CutPrefix(tag, "File: "); ok {
					fmt.Fprintf(&files, "%%ghost %s\n", file)
				} else {
					b.WriteString(tag + "\n")
				}
			}
			fmt.Fprintf(&b, "%%description%s\n", sub)
		}
		path := filepath.Join(dir, name+".spec")
		if err := os.WriteFile(path, []byte(b.String()+"%install\nfor f in /usr/bin/shell /etc/shell.conf /opt/foobin/tool; do mkdir -p %{buildroot}${f%/*}; touch %{buildroot}$f; done\n"+files.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	run(t, dir, "rpmbuild", append([]string{"-bb", "--quiet", "--define", "_topdir " + filepath.Join(dir, "top"), "--define", "_rpmdir " + dir,
		"--define", "_unpackaged_files_terminate_build 0", "--define", "_dbpath " + filepath.Join(dir, "db"), "--define", "__os_install_post %{nil}"}, paths...)...)
}

// dnf installs as a build's sysroot is installed, and returns the file names.
func dnf(t *testing.T, repo, scratch string, wanted []string) ([]string, error) {
	dest := filepath.Join(scratch, "rpms")
	cmd := exec.Command("dnf", append([]string{"--quiet", "--assumeyes", "--noplugins", "--nogpgcheck", "--releasever=1", "--forcearch=x86_64",
		"--setopt=reposdir=/none", "--setopt=varsdir=/none", "--setopt=cachedir=" + filepath.Join(scratch, "cache"), "--setopt=install_weak_deps=0",
		"--repofrompath=test,file://" + repo, "--repo=test", "--installroot=" + filepath.Join(scratch, "root"),
		"--downloadonly", "--destdir=" + dest, "install"}, wanted...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if !regexp.MustCompile(`(?m)^ Problem|^Error: Unable to find a match`).Match(out) {
			t.Fatalf("dnf: %v\n%s", err, out)
		}
		return nil, fmt.Errorf("dnf: %w\n%s", err, out)
	}
	entries, err := os.ReadDir(dest)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// indexOf reads all RPMs that match the pattern; the source is their folder.
func indexOf(t testing.TB, pattern string) (*Index, []string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	x := NewIndex()
	for _, path := range paths {
		m, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Add(&Package{Metadata: m, FileName: filepath.Base(path)}); err != nil {
			t.Fatal(err)
		}
	}
	return x, paths
}

func everything(string) bool { return true }

// fileNames solves and returns the file names, sorted.
func fileNames(x *Index, wanted []string) ([]string, error) {
	var terms []rpmspec.Term
	for _, w := range wanted {
		term, err := rpmspec.ParseTerm(w)
		if err != nil {
			return nil, err
		}
		terms = append(terms, term)
	}
	result, err := x.Solve(terms, everything)
	var names []string
	for _, p := range result {
		names = append(names, p.FileName)
	}
	slices.Sort(names)
	return names, err
}

func TestAgainstDNF(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds RPMs and runs dnf many times")
	}
	need(t, "rpmbuild", "createrepo_c", "dnf")
	dir := t.TempDir()
	buildRPMs(t, dir)
	repo := filepath.Join(dir, "noarch")
	run(t, dir, "createrepo_c", "--quiet", "--no-database", "--simple-md-filenames", repo)
	x, _ := indexOf(t, filepath.Join(repo, "*.rpm"))
	for _, wanted := range requests {
		t.Run(strings.Join(wanted, ","), func(t *testing.T) {
			t.Parallel()
			compare(t, x, repo, wanted)
		})
	}
}

// compare holds a solve against dnf's answer.
func compare(t *testing.T, x *Index, repo string, wanted []string) {
	t.Helper()
	want, wantErr := dnf(t, repo, t.TempDir(), wanted)
	got, err := fileNames(x, wanted)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("Solve: %v, %v\ndnf: %v, %v", got, err, want, wantErr)
	}
	if err != nil {
		t.Log(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dnf (-), Solve (+):\n%s", diff)
	}
}
