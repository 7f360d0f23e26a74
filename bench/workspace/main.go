// Command workspace writes a Slipway workspace of many small packages, for
// measuring how planning scales, and the results of all of them into a store, so
// that a plan finds everything built.
//
// Package number i needs three earlier ones, drawn evenly with a fixed seed: it
// has BuildRequires on their devel subpackages. With -requires its main package
// also Requires their main packages; how much is installed for a package then grows
// with the number of packages, about as its 2/3rd power. One package more, named
// all, needs every package that no other needs. The same flags always give the same
// files.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fanOut is how many earlier packages each needs.
const fanOut = 3

// wanted is the graph of a workspace: the packages that each needs. The last is
// the package all.
type wanted struct {
	deps     [][]int
	requires bool
}

func main() {
	n := flag.Int("n", 1000, "number of packages")
	dir := flag.String("dir", "", "folder to write the workspace to; must not exist")
	cache := flag.String("cache", "", "cache folder (SLIPWAY_CACHE) to put results of all packages into; none when empty")
	requires := flag.Bool("requires", false, "main packages require those of their dependencies")
	flag.Parse()
	if *dir == "" || *n < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	w := wanted{deps: dependencies(*n), requires: *requires}
	err := w.write(*dir)
	if err == nil && *cache != "" {
		err = w.seed(*dir, *cache)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workspace:", err)
		os.Exit(1)
	}
}

// dependencies gives for each of n packages the earlier ones that it needs,
// sorted: three, or as many as there are before it; and after them for the package
// all.
func dependencies(n int) [][]int {
	rnd := rand.New(rand.NewPCG(1, 2))
	deps := make([][]int, n+1)
	needed := make([]bool, n)
	for i := range n {
		for len(deps[i]) < min(i, fanOut) {
			if d := rnd.IntN(i); !slices.Contains(deps[i], d) {
				deps[i] = append(deps[i], d)
				needed[d] = true
			}
		}
		slices.Sort(deps[i])
	}
	for i := range needed {
		if !needed[i] {
			deps[n] = append(deps[n], i)
		}
	}
	return deps
}

func (w *wanted) name(i int) string {
	if i == len(w.deps)-1 {
		return "all"
	}
	return fmt.Sprintf("p%05d", i)
}

func (w *wanted) write(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err // also when it exists: old packages would be mixed with new ones
	}
	write := func(name, text string) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	for i := range w.deps {
		name := w.name(i)
		err := errors.Join(
			write("packages/"+name+"/package.toml", "releases-url = \"https://example.com/"+name+"/\"\n"),
			write("packages/"+name+"/"+name+".spec", w.spec(i)))
		if err != nil {
			return err
		}
	}
	return errors.Join(
		write("slipway.toml", `schema = 1
name = "scale"
vendor = "scale"
version = "1.0.0"
source-date-epoch = 1700000000
`),
		write("sdk/sdk.toml", `name = "scale-sdk"
suite = "bookworm"
arches = ["x86_64", "aarch64"]
packages = ["rpm"]
`))
}

// spec is a spec file as a small library has it.
func (w *wanted) spec(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `Name: %%{_cross_os}%s
Version: 1.%d
Release: 1%%{?dist}
Summary: Library number %d
License: MIT
`, w.name(i), i, i)
	for _, d := range w.deps[i] {
		fmt.Fprintf(&b, "BuildRequires: %%{_cross_os}%s-devel\n", w.name(d))
	}
	if w.requires {
		for _, d := range w.deps[i] {
			fmt.Fprintf(&b, "Requires: %%{_cross_os}%s\n", w.name(d))
		}
	}
	fmt.Fprintf(&b, `
%%description
%%{summary}.

%%package devel
Summary: Development files of %%{name}
Requires: %%{name} = %%{version}-%%{release}

%%description devel
%%{summary}.

%%build
echo 'int number(void) { return %d; }' > %[2]s.c
%%{_cross_target}-gcc %%{_cross_cflags} -fPIC -shared -o lib%[2]s.so.1 %[2]s.c

%%install
install -D -m 0755 lib%[2]s.so.1 %%{buildroot}%%{_cross_libdir}/lib%[2]s.so.1
ln -s lib%[2]s.so.1 %%{buildroot}%%{_cross_libdir}/lib%[2]s.so

%%files
%%{_cross_libdir}/lib%[2]s.so.1

%%files devel
%%{_cross_libdir}/lib%[2]s.so
`, i, w.name(i))
	return b.String()
}
