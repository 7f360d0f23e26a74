package plan

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/graph"
	"slipway/internal/workspace"
)

// Affected is a target that changed files can change, and why: by its own Files,
// or by a target that it needs.
type Affected struct {
	Name  string   `json:"name"`
	Files []string `json:"files,omitempty"` // changed, relative to the workspace root, sorted
	Keys  []string `json:"keys,omitempty"`  // changed keys of slipway.toml, where that is among Files
	Needs string   `json:"needs,omitempty"` // the affected target by which a change gets to this one
}

// Side is a workspace and its graph at one end of a range of changes.
type Side struct {
	Workspace *workspace.Workspace
	Graph     *graph.Graph
}

// FindAffected gives the targets that changed files can change, dependencies
// first, and those that there are no longer, sorted. The files are relative to
// the workspace root, with slashes. Both graphs are searched: a target that a
// change takes a dependency away from is affected as well. Without a workspace
// on the side of then, everything is affected.
func FindAffected(now, then Side, files []string) (list []Affected, removed []string) {
	m := &mapping{now: now, then: then, own: map[string]*Affected{}}
	if then.Workspace == nil {
		for _, t := range now.Graph.Topo() {
			list = append(list, Affected{Name: t.Name})
		}
		return list, nil
	}
	for _, f := range files {
		m.file(f)
	}
	m.facts(files)
	by := map[string]string{}
	for _, g := range []*graph.Graph{then.Graph, now.Graph} {
		var own []*graph.Target
		for _, t := range g.Targets {
			if m.own[t.Name] != nil {
				own = append(own, t)
			}
		}
		for t, via := range g.Spread(own...) {
			by[t.Name] = via.Name
		}
	}
	for _, t := range now.Graph.Topo() {
		switch own := m.own[t.Name]; {
		case own != nil:
			slices.Sort(own.Files)
			own.Files = slices.Compact(own.Files)
			list = append(list, *own)
		case by[t.Name] != "":
			list = append(list, Affected{Name: t.Name, Needs: by[t.Name]})
		}
	}
	for _, t := range then.Graph.Targets {
		gone := t.Package != nil && now.Workspace.Package(t.Package.Name) == nil ||
			t.Variant != nil && now.Workspace.Variant(t.Variant.Name) == nil
		if gone {
			removed = append(removed, t.Name)
		}
	}
	return list, removed
}

// mapping gathers the targets that changed files belong to, of both sides.
type mapping struct {
	now, then Side
	own       map[string]*Affected
	groups    map[string][]string // by source group: the packages that have it
}

func (m *mapping) add(target, file string, keys ...string) {
	a := m.own[target]
	if a == nil {
		a = &Affected{Name: target}
		m.own[target] = a
	}
	a.Files = append(a.Files, file)
	a.Keys = append(a.Keys, keys...)
}

// file maps one changed file. A path may also be a folder, where another
// repository is embedded.
func (m *mapping) file(file string) {
	first, rest, _ := strings.Cut(file, "/")
	switch first {
	case workspace.RootFile:
		m.settings(file)
	case "slipway.lock", path.Dir(workspace.SDKFile):
		m.add(graph.SDKName, file)
	case "packages", "variants":
		name, below, _ := strings.Cut(rest, "/")
		if name == "" {
			m.all(first+"/", file)
		} else if first == "packages" || below == "" || below == workspace.VariantFile {
			m.add(first+"/"+name, file)
		}
	case "sources":
		m.source(rest, file)
	case path.Dir(workspace.MigrationsFile):
		if rest == "" || rest == path.Base(workspace.MigrationsFile) {
			m.all("variants/", file)
		}
	}
}

// all adds the targets of both sides whose names begin with a prefix.
func (m *mapping) all(prefix, file string, keys ...string) {
	names := map[string]bool{}
	for _, s := range []Side{m.now, m.then} {
		for _, t := range s.Graph.Targets {
			if strings.HasPrefix(t.Name, prefix) && !names[t.Name] {
				names[t.Name] = true
				m.add(t.Name, file, keys...)
			}
		}
	}
}

// source adds the packages with a source group that covers a path below
// sources/, or that lies within it.
func (m *mapping) source(name, file string) {
	if m.groups == nil {
		m.groups = map[string][]string{}
		for _, p := range m.now.Workspace.Packages {
			for _, g := range p.SourceGroups {
				m.groups[g] = append(m.groups[g], "packages/"+p.Name)
			}
		}
	}
	for group, packages := range m.groups {
		if group == "." || name == "" || group == name || strings.HasPrefix(name, group+"/") || strings.HasPrefix(group, name+"/") {
			for _, p := range packages {
				m.add(p, file)
			}
		}
	}
}

// reach says which targets a key of slipway.toml reaches: those whose names begin
// with the text. Other keys reach all.
var reach = map[string]string{
	"name": "variants/", "pretty-name": "variants/", "version": "variants/",
	"build.image-tools": "variants/",
	"default-variant":   none, "sources": none, "cache": none,
}

const none = "(no target)"

// settings compares slipway.toml key by key.
func (m *mapping) settings(file string) {
	m.table(file, "", reflect.ValueOf(m.now.Workspace.Config), reflect.ValueOf(m.then.Workspace.Config))
}

// table compares the keys of one table, whose name, with a dot behind it, stands
// before them.
func (m *mapping) table(file, prefix string, now, then reflect.Value) {
	for i := range now.NumField() {
		tag := now.Type().Field(i).Tag.Get("toml")
		if tag == "" || reflect.DeepEqual(now.Field(i).Interface(), then.Field(i).Interface()) {
			continue
		}
		key := prefix + tag
		if reach[key] == "" && now.Field(i).Kind() == reflect.Struct {
			m.table(file, key+".", now.Field(i), then.Field(i))
		} else {
			m.all(reach[key], file, key)
		}
	}
}

// facts adds the variants whose facts differ for what other variants say: each
// variant states of every feature that any of them names whether it has it.
func (m *mapping) facts(files []string) {
	for _, v := range m.now.Workspace.Variants {
		old := m.then.Workspace.Variant(v.Name)
		if old == nil || m.own["variants/"+v.Name] != nil || slices.Equal(m.now.Workspace.Facts(v), m.then.Workspace.Facts(old)) {
			continue
		}
		for _, f := range files {
			if strings.HasPrefix(f, "variants/") && path.Base(f) == workspace.VariantFile {
				m.add("variants/"+v.Name, f)
			}
		}
	}
}

// Range is what differs between a revision of the git repository that a
// workspace is in and its working tree.
type Range struct {
	Commit string   // object name of the revision
	Files  []string // below the workspace root and relative to it, with slashes, sorted; both names of a renamed file

	root string
}

// ErrNoRevision is wrapped by the error of Since for a revision that is not in
// the repository.
var ErrNoRevision = errors.New("unknown revision")

// Since finds out what differs between a revision, in any form that git
// understands, and the working tree around root: files that git tracks, staged or
// not, and others that it does not ignore.
func Since(ctx context.Context, root, rev string) (*Range, error) {
	r := &Range{root: root}
	if _, err := r.git(ctx, "rev-parse", "--show-toplevel"); err != nil {
		return nil, err
	}
	if rev == "" || strings.HasPrefix(rev, "-") {
		return nil, fmt.Errorf("%w %q", ErrNoRevision, rev)
	}
	out, err := r.git(ctx, "rev-parse", "--verify", rev+"^{commit}")
	if err != nil {
		if shallow, _ := r.git(ctx, "rev-parse", "--is-shallow-repository"); strings.TrimSpace(string(shallow)) == "true" {
			return nil, fmt.Errorf("%w %q: this is a shallow clone, which has not all of the history: get the rest with git fetch --unshallow", ErrNoRevision, rev)
		}
		return nil, fmt.Errorf("%w %q: it is not a commit of the git repository of %s", ErrNoRevision, rev, root)
	}
	r.Commit = strings.TrimSpace(string(out))
	changed, err := r.git(ctx, "-c", "diff.autoRefreshIndex=true", "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", "--relative", r.Commit, "--", ".")
	if err != nil {
		return nil, err
	}
	others, err := r.git(ctx, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
	if err != nil {
		return nil, err
	}
	for f := range strings.SplitSeq(string(changed)+string(others), "\x00") {
		if f != "" {
			r.Files = append(r.Files, strings.TrimSuffix(f, "/"))
		}
	}
	slices.Sort(r.Files)
	r.Files = slices.Compact(r.Files)
	return r, nil
}

// Manifests tells whether anything changed but files below sources/ and files
// that are not of the workspace: if not, the graph is what it was.
func (r *Range) Manifests() bool {
	return slices.ContainsFunc(r.Files, func(f string) bool {
		first, _, _ := strings.Cut(f, "/")
		return slices.Contains([]string{workspace.RootFile, path.Dir(workspace.SDKFile), "packages", "variants", path.Dir(workspace.MigrationsFile)}, first)
	})
}

// command is git in the workspace root. Variables with which hooks are run are
// left out: they would have git take the workspace for all of the working tree.
func (r *Range) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = r.root
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}, name)
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_LITERAL_PATHSPECS=1")
	return cmd
}

func (r *Range) git(ctx context.Context, args ...string) ([]byte, error) {
	out, err := r.command(ctx, args...).Output()
	return out, r.explain(ctx, err)
}

func (r *Range) explain(ctx context.Context, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("what changed is found out with git, which is not installed: %w", err)
	case errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("not a git repository")):
		return fmt.Errorf("the workspace %s is not in a git repository, so there is nothing to compare it with", r.root)
	case errors.As(err, &exit):
		return fmt.Errorf("git: %s: %w", bytes.TrimSpace(bytes.TrimPrefix(exit.Stderr, []byte("fatal: "))), err)
	}
	return fmt.Errorf("git: %w", err)
}

// ErrNoWorkspaceThen says that there was no workspace at the revision.
var ErrNoWorkspaceThen = errors.New("there was no workspace")

// Workspace reads the workspace as it was at the revision, with dir, an empty
// folder, for the files that differ from those of now, the workspace as it is.
// Errors of the manifests are a workspace.Errors.
func (r *Range) Workspace(ctx context.Context, now *workspace.Workspace, dir string) (*workspace.Workspace, error) {
	changed := map[string]bool{} // packages
	for _, f := range r.Files {
		if rest, ok := strings.CutPrefix(f+"/", "packages/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			changed[name] = true
		}
	}
	if err := r.restore(ctx, dir, changed); err != nil {
		return nil, err
	}
	ws, err := workspace.Load(dir)
	if err != nil {
		return nil, err
	}
	for _, p := range now.Packages {
		if !changed[p.Name] && !changed[""] {
			ws.Packages = append(ws.Packages, p)
		}
	}
	slices.SortFunc(ws.Packages, func(a, b *workspace.Package) int { return strings.Compare(a.Name, b.Name) })
	return ws, nil
}

// restore writes files of the revision into dir: the manifests of the workspace,
// its variants, its SDK and its migrations, the folders of the packages that changed, and of
// sources/ the folders alone.
func (r *Range) restore(ctx context.Context, dir string, changed map[string]bool) error {
	tree, err := r.git(ctx, "ls-tree", "-r", "-z", r.Commit, "--", workspace.RootFile, workspace.SDKFile, workspace.MigrationsFile, "packages", "variants", "sources")
	if err != nil {
		return err
	}
	into, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer into.Close()
	found := false
	made := map[string]bool{}
	var names, objects []string
	for entry := range strings.SplitSeq(strings.TrimSuffix(string(tree), "\x00"), "\x00") {
		head, name, _ := strings.Cut(entry, "\t") // "<mode> <type> <object>\t<path>"
		fields := strings.Fields(head)
		if len(fields) != 3 {
			continue
		}
		first, rest, _ := strings.Cut(name, "/")
		if pkg, _, _ := strings.Cut(rest, "/"); first == "packages" && !changed[pkg] {
			continue
		}
		folder := path.Dir(name)
		if fields[1] == "commit" { // another repository: a folder
			folder = name
		}
		if !made[folder] {
			made[folder] = true
			if err := into.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if regular := fields[0] == "100644" || fields[0] == "100755"; regular && first != "sources" {
			found = found || name == workspace.RootFile
			names, objects = append(names, name), append(objects, fields[2])
		}
	}
	if !found {
		return fmt.Errorf("%w at %.12s", ErrNoWorkspaceThen, r.Commit)
	}
	return r.contents(ctx, objects, func(i int, data []byte) error { return into.WriteFile(names[i], data, 0o644) })
}

// contents reads blobs from the repository, in their order.
func (r *Range) contents(ctx context.Context, objects []string, take func(i int, data []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.command(ctx, "cat-file", "--batch")
	cmd.Stdin = strings.NewReader(strings.Join(objects, "\n") + "\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return r.explain(ctx, err)
	}
	read := func() error {
		in := bufio.NewReader(out)
		for i := range objects {
			head, err := in.ReadString('\n') // "<object> blob <size>"
			if err != nil {
				return err
			}
			fields := strings.Fields(head)
			if len(fields) != 3 {
				return fmt.Errorf("the repository lacks an object of the revision: %s", strings.TrimSpace(head))
			}
			size, err := strconv.Atoi(fields[2])
			if err != nil {
				return err
			}
			data := make([]byte, size+1) // and a line end
			if _, err := io.ReadFull(in, data); err != nil {
				return err
			}
			if err := take(i, data[:size]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(); err != nil {
		cancel()
		_ = cmd.Wait() // it was ended
		return fmt.Errorf("git cat-file: %w %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("git cat-file: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}
