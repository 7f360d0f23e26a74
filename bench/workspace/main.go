// Command workspace writes a Slipway workspace of many small packages, for
// measuring how planning scales, and the results of all of them into a store, so
// that a plan finds everything built.
//
// Package number i needs three earlier ones, drawn evenly with a fixed seed: it
// has BuildRequires on their devel subpackages, and its main package Requires
// their main packages. The same N always gives the same files.
package main

import (
	"bufio"
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

func main() {
	n := flag.Int("n", 1000, "number of packages")
	dir := flag.String("dir", "", "folder to write the workspace to; must not exist")
	cache := flag.String("cache", "", "cache folder (SLIPWAY_CACHE) to put results of all packages into; none when empty")
	flag.Parse()
	if *dir == "" || *n < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	err := generate(*dir, *n)
	if err == nil && *cache != "" {
		err = seed(*dir, *cache)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workspace:", err)
		os.Exit(1)
	}
}

// dependencies gives for each of n packages the earlier ones that it needs,
// sorted: three, or as many as there are before it.
func dependencies(n int) [][]int {
	rnd := rand.New(rand.NewPCG(1, 2))
	deps := make([][]int, n)
	for i := range deps {
		for len(deps[i]) < min(i, fanOut) {
			if d := rnd.IntN(i); !slices.Contains(deps[i], d) {
				deps[i] = append(deps[i], d)
			}
		}
		slices.Sort(deps[i])
	}
	return deps
}

func generate(dir string, n int) error {
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
	deps := dependencies(n)
	needed := make([]bool, n)
	for i, list := range deps {
		for _, d := range list {
			needed[d] = true
		}
		name := packageName(i)
		err := errors.Join(
			write("packages/"+name+"/package.toml", "releases-url = \"https://example.com/"+name+"/\"\n"),
			write("packages/"+name+"/"+name+".spec", spec(i, list)))
		if err != nil {
			return err
		}
	}
	// what no other package needs brings everything with it
	var included strings.Builder
	for i, is := range needed {
		if !is {
			fmt.Fprintf(&included, "  %q,\n", packageName(i))
		}
	}
	return errors.Join(
		write("slipway.toml", `schema = 1
name = "scale"
vendor = "scale"
version = "1.0.0"
source-date-epoch = 1700000000
default-variant = "all"
`),
		write("sdk/sdk.toml", `name = "scale-sdk"
suite = "bookworm"
arches = ["x86_64", "aarch64"]
packages = ["rpm"]
`),
		write("variants/all/variant.toml", "included-packages = [\n"+included.String()+"]\n"))
}

func packageName(i int) string { return fmt.Sprintf("p%05d", i) }

// spec is a spec file as a small library has it.
func spec(i int, deps []int) string {
	var b strings.Builder
	w := bufio.NewWriter(&b)
	fmt.Fprintf(w, `Name: %%{_cross_os}%s
Version: 1.%d
Release: 1%%{?dist}
Summary: Library number %d
License: MIT
`, packageName(i), i, i)
	for _, d := range deps {
		fmt.Fprintf(w, "BuildRequires: %%{_cross_os}%s-devel\n", packageName(d))
	}
	for _, d := range deps {
		fmt.Fprintf(w, "Requires: %%{_cross_os}%s\n", packageName(d))
	}
	fmt.Fprintf(w, `
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
`, i, packageName(i))
	_ = w.Flush() // to memory
	return b.String()
}
