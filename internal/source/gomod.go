package source

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	goversion "go/version"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// goModule writes the module with its dependencies vendored to part, as a tar archive whose bytes follow from the module's version
// alone. The go command checks what it downloads against the checksum database and the module's go.sum.
func (f *fetcher) goModule(ctx context.Context, u URL, part string, p *progress) (err error) {
	if _, err := exec.LookPath(f.opt.GoTool); err != nil {
		return fmt.Errorf("a go: address needs the go command: %w (install Go, or name a lookaside cache that has the file)", err)
	}
	work, err := os.MkdirTemp(filepath.Join(f.store.dir, "tmp"), "go-")
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	defer os.RemoveAll(work)
	defer func() {
		if err != nil {
			removePart(part)
		}
	}()
	tree := filepath.Join(work, "tree")

	p.say("go mod download")
	// Even to download a module that asks for a newer Go takes that Go; the command then gets it by itself.
	out, runErr := f.goRun(ctx, work, []string{"GOTOOLCHAIN=auto"}, "mod", "download", "-json", u.Module+"@"+u.Version)
	var got struct{ Error, Dir, GoMod, Sum string }
	if err := json.Unmarshal(out, &got); err != nil {
		return errors.Join(runErr, err)
	}
	if strings.Contains(got.Error, "requires go >= ") {
		return fmt.Errorf("go mod download: %s; no newer toolchain could be fetched: install one", got.Error)
	}
	if got.Error != "" {
		return fmt.Errorf("go mod download: %s", got.Error)
	}
	if runErr != nil {
		return runErr
	}
	mod, err := readGoMod(u, got.Dir, got.GoMod)
	if err != nil {
		return err
	}
	if err := copyTree(ctx, got.Dir, tree); err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	// What the cache holds may have been edited since it was downloaded; the copy is what counts.
	sum, err := dirhash.HashDir(tree, u.Module+"@"+u.Version, dirhash.Hash1)
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	if sum != got.Sum {
		return fmt.Errorf("the module cache's copy %s was changed: it has %s, the module has %s; remove it (go clean -modcache) and fetch again", got.Dir, sum, got.Sum)
	}
	if _, err := os.Stat(filepath.Join(tree, "go.mod")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s@%s has no go.mod, so its dependencies are not pinned", u.Module, u.Version)
	}

	if err := f.vendor(ctx, tree, mod, p); err != nil {
		return err
	}
	prefix, _, _ := module.SplitPathVersion(u.Module)
	top := path.Base(prefix) + "-" + strings.TrimSuffix(strings.TrimPrefix(u.Version, "v"), "+incompatible")
	return f.pack(ctx, part, tree, top, p)
}

// goVendor writes the dependencies of a Go module of the workspace to part, as a tar archive with the folder vendor. Its bytes follow
// from the module's go.mod, go.sum and imports.
func (f *fetcher) goVendor(ctx context.Context, u URL, part string, p *progress) (err error) {
	if _, err := exec.LookPath(f.opt.GoTool); err != nil {
		return fmt.Errorf("a go: address needs the go command: %w (install Go, or name a lookaside cache that has the file)", err)
	}
	dir := filepath.Join(f.opt.Root, filepath.FromSlash(u.Path))
	file := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: the address is to name the folder of a Go module, relative to slipway.toml", err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		return err
	}
	for _, r := range mod.Replace {
		if r.New.Version == "" {
			return fmt.Errorf("%s:%d: replace %s => %s: only modules with a version can be vendored", file, r.Syntax.Start.Line, r.Old.Path, r.New.Path)
		}
	}
	work, err := os.MkdirTemp(filepath.Join(f.store.dir, "tmp"), "go-")
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	defer os.RemoveAll(work)
	defer func() {
		if err != nil {
			removePart(part)
		}
	}()
	tree := filepath.Join(work, "tree")
	if err := copyGo(ctx, dir, tree); err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	if err := f.vendor(ctx, tree, mod, p); err != nil {
		return fmt.Errorf("%w\n    if go.mod or go.sum lack something, run go mod tidy in %s", err, dir)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		was, _ := os.ReadFile(filepath.Join(dir, name)) // there need be no go.sum
		is, _ := os.ReadFile(filepath.Join(tree, name))
		if !bytes.Equal(was, is) {
			return fmt.Errorf("%s does not list what the module imports: run go mod tidy there", filepath.Join(dir, name))
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "vendor")); err != nil {
		return fmt.Errorf("%s needs no other modules: remove this file from the manifest", file)
	}
	return f.pack(ctx, part, filepath.Join(tree, "vendor"), "vendor", p)
}

// vendor makes the folder vendor in a copy of a module.
func (f *fetcher) vendor(ctx context.Context, tree string, mod *modfile.File, p *progress) error {
	env, asked, err := f.goToolchain(ctx, filepath.Dir(tree), mod, p)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"mod", "vendor"}, {"mod", "verify"}} {
		p.say("go %s", strings.Join(args, " "))
		if _, err := f.goRun(ctx, tree, env, args...); err != nil {
			return fmt.Errorf("%s%w", asked, err)
		}
	}
	return nil
}

// pack writes a folder to part as a tar archive with one top folder.
func (f *fetcher) pack(ctx context.Context, part, dir, top string, p *progress) error {
	p.say("tar")
	file, err := os.Create(part)
	if err != nil {
		return f.store.failed(part, err, 0, 0)
	}
	if err := errors.Join(writeTar(ctx, file, dir, top), file.Close()); err != nil {
		return f.store.failed(part, err, size(part), 0)
	}
	return nil
}

// readGoMod refuses a module that cannot be vendored by itself.
func readGoMod(u URL, dir, file string) (*modfile.File, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range mod.Replace {
		if r.New.Version != "" {
			continue
		}
		if !filepath.IsLocal(r.New.Path) {
			return nil, fmt.Errorf("go.mod:%d of %s@%s: replace %s => %s points outside the module: this version cannot be vendored, choose another", r.Syntax.Start.Line, u.Module, u.Version, r.Old.Path, r.New.Path)
		}
		if _, err := os.Stat(filepath.Join(dir, r.New.Path, "go.mod")); err != nil {
			return nil, fmt.Errorf("go.mod:%d of %s@%s: replace %s => %s points to a nested module, which module archives leave out: this version cannot be vendored, choose another", r.Syntax.Start.Line, u.Module, u.Version, r.Old.Path, r.New.Path)
		}
	}
	return mod, nil
}

// goToolchain returns the environment that lets the go command work on a module that asks for a newer Go, and a prefix for its errors.
func (f *fetcher) goToolchain(ctx context.Context, dir string, mod *modfile.File, p *progress) (env []string, asked string, err error) {
	if mod.Go == nil {
		return nil, "", nil
	}
	out, err := f.goRun(ctx, dir, nil, "env", "GOVERSION")
	if err != nil {
		return nil, "", err
	}
	have, want := strings.TrimSpace(string(out)), "go"+mod.Go.Version
	if !goversion.IsValid(have) || goversion.Compare(have, want) >= 0 {
		return nil, "", nil
	}
	notice := fmt.Sprintf("the module asks for %s, the go command is %s", want, have)
	if goversion.Compare(have, "go1.21") < 0 {
		return nil, "", fmt.Errorf("%s: install %s or newer", notice, want)
	}
	if want == goversion.Lang(want) {
		want += ".0" // toolchains have three numbers since 1.21
	}
	p.say("%s: using the toolchain %s for vendoring", notice, want)
	return []string{"GOTOOLCHAIN=" + want}, notice + ": ", nil
}

func (f *fetcher) goRun(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, f.opt.GoTool, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOTOOLCHAIN=local", "GO111MODULE=on", "PWD="+dir)
	cmd.Env = append(append(cmd.Env, env...), f.opt.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go runs git and other helpers
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, tail(stderr.String(), 20))
	}
	return stdout.Bytes(), err
}

// tail is the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// copyGo copies what says which modules are needed: go.mod, go.sum and Go files.
func copyGo(ctx context.Context, from, to string) error {
	return copyFiles(ctx, from, to, func(name string, d fs.DirEntry) bool {
		return d.IsDir() && name != "vendor" || d.Type().IsRegular() && (name == "go.mod" || name == "go.sum" || filepath.Ext(name) == ".go")
	})
}

// copyTree copies the regular files of a module, writable.
func copyTree(ctx context.Context, from, to string) error {
	return copyFiles(ctx, from, to, func(string, fs.DirEntry) bool { return true })
}

// copyFiles copies the files and folders that wanted takes by path.
func copyFiles(ctx context.Context, from, to string, wanted func(name string, d fs.DirEntry) bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if path != from && !wanted(d.Name(), d) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file", path)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// writeTar writes the files below dir in a form that depends on their names and content only: sorted, no owner, time 0, mode 0755
// for directories and for files that begin with "#!" (module archives keep no modes), else 0644.
func writeTar(ctx context.Context, w io.Writer, dir, top string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: path.Join(top, filepath.ToSlash(rel)), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if d.IsDir() {
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, h.Name+"/", 0o755
			return tw.WriteHeader(h)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file", name)
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(content, []byte("#!")) {
			h.Mode = 0o755
		}
		h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = tw.Write(content)
		return err
	})
	return errors.Join(err, tw.Close())
}
