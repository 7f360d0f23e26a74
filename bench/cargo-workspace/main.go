// Command cargo-workspace writes a Cargo workspace that has the dependency graph
// of a Slipway workspace, read as "slipway graph --format json" on standard
// input: one crate with an empty library for each package, and a build script
// that does nothing but tell Cargo which files to watch. So Cargo's own work is
// measured and nothing else.
//
// The crates' files lie in the output folder; the files that the build scripts
// name are those of the Slipway workspace.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

type target struct {
	Name    string
	Kind    string
	Dir     string
	Depends []string
}

func main() {
	root := flag.String("root", "", "root of the Slipway workspace whose files are watched")
	dir := flag.String("dir", "", "folder to write the Cargo workspace to; must not exist")
	flag.Parse()
	if *root == "" || *dir == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := generate(os.Stdin, *root, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "cargo-workspace:", err)
		os.Exit(1)
	}
}

func generate(graph io.Reader, root, dir string) error {
	var g struct{ Targets []target }
	if err := json.NewDecoder(graph).Decode(&g); err != nil {
		return fmt.Errorf("read the graph: %w", err)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	crates := 0
	for _, t := range g.Targets {
		if t.Kind != "package" {
			continue
		}
		crates++
		if err := crate(t, root, filepath.Join(dir, "packages", path.Base(t.Name))); err != nil {
			return err
		}
	}
	if crates == 0 {
		return errors.New("the graph has no packages")
	}
	return os.WriteFile(filepath.Join(dir, "Cargo.toml"), []byte("[workspace]\nresolver = \"2\"\nmembers = [\"packages/*\"]\n"), 0o644)
}

// crate writes the crate of one package. What a package needs for building is a
// build dependency.
func crate(t target, root, dir string) error {
	var manifest strings.Builder
	fmt.Fprintf(&manifest, "[package]\nname = %q\nversion = \"0.1.0\"\nedition = \"2021\"\npublish = false\nbuild = \"build.rs\"\n\n[lib]\npath = \"lib.rs\"\n\n[build-dependencies]\n", path.Base(t.Name))
	for _, d := range t.Depends {
		if name, ok := strings.CutPrefix(d, "packages/"); ok {
			fmt.Fprintf(&manifest, "%s = { path = %q }\n", name, "../"+name)
		}
	}
	var script strings.Builder
	script.WriteString("fn main() {\n")
	err := filepath.WalkDir(filepath.Join(root, filepath.FromSlash(t.Dir)), func(file string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			fmt.Fprintf(&script, "    println!(\"cargo:rerun-if-changed={}\", %q);\n", file)
		}
		return err
	})
	script.WriteString("}\n")
	return errors.Join(err,
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "Cargo.toml"), []byte(manifest.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "build.rs"), []byte(script.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "lib.rs"), nil, 0o644))
}
