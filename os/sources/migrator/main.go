// Migrator brings the settings of the machine to the format version of the
// running system, forward after an update and backward after a return to an
// older one. It runs before everything that reads settings.
//
// The programs that do it come from the image, and from what the updater has
// kept of the update repository: a system does not bring the way back from one
// that is newer. The former are protected with the image, the latter are
// verified against the image's trusted root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"dinghy/internal/datastore"
	"dinghy/internal/osrelease"
	"dinghy/internal/repo"
	"dinghy/update"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "migrator:", err)
		os.Exit(1)
	}
}

func run(args []string, log io.Writer) error {
	f := flag.NewFlagSet("migrator", flag.ContinueOnError)
	dir := f.String("datastore", "/var/lib/dinghy/datastore", "folder of the datastores")
	release := f.String("os-release", "/etc/os-release", "what the running system is")
	programs := f.String("migrations", "/usr/share/dinghy/migrations", "folder of the image's migrations, each named <from>_<to>_<name>")
	kept := f.String("repository", "/var/lib/dinghy/updater/repository", "what the updater kept of the update repository")
	root := f.String("root", "/usr/share/dinghy/root.json", "trusted root of the update repository")
	scratch := f.String("scratch", "/run", "folder in memory that only the superuser can write to")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	own, err := osrelease.Read(*release)
	if err != nil {
		return err
	}
	store := datastore.Store{Dir: *dir}
	current, from, err := store.Current()
	if err != nil {
		return err
	}
	to := own.Datastore
	switch {
	case current == "":
		fmt.Fprintf(log, "new datastore of version %s\n", to)
		return store.Create(to)
	case from == to:
		fmt.Fprintf(log, "the datastore has version %s\n", to)
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &collection{ctx: ctx, scratch: *scratch, log: log}
	if err := c.addImage(*programs); err != nil {
		return err
	}
	// The image's own migrations lead forward. Only for a way that they do not
	// have are others needed, and their repository must then be readable.
	steps, err := c.steps(from, to)
	if err != nil {
		if repoErr := c.addKept(*kept, *root); repoErr != nil {
			return errors.Join(err, repoErr)
		}
		if steps, err = c.steps(from, to); err != nil {
			return err
		}
	}
	if err := store.Migrate(steps); err != nil {
		return err
	}
	fmt.Fprintf(log, "the datastore went from version %s to %s\n", from, to)
	return nil
}

// program is a migration that can be copied to where it is run.
type program struct {
	name     string
	from, to update.Version
	copy     func(io.Writer) error
}

type collection struct {
	ctx      context.Context
	scratch  string
	log      io.Writer
	programs []program // those of a step stand in the order in which they run
	empty    []update.Migration
}

func (c *collection) addImage(dir string) error {
	entries, err := os.ReadDir(dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		parts := strings.SplitN(e.Name(), "_", 3)
		if len(parts) != 3 {
			return fmt.Errorf("%s: want a name of the form <from>_<to>_<name>", path)
		}
		from, fromErr := update.ParseVersion(parts[0])
		to, toErr := update.ParseVersion(parts[1])
		if err := errors.Join(fromErr, toErr); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		c.programs = append(c.programs, program{e.Name(), from, to, func(w io.Writer) error {
			in, err := os.Open(path)
			if err != nil {
				return err
			}
			defer in.Close()
			_, err = io.Copy(w, in)
			return err
		}})
	}
	return nil
}

func (c *collection) addKept(dir, rootFile string) error {
	root, err := os.ReadFile(rootFile)
	if err != nil {
		return err
	}
	r, err := repo.OpenKept(c.ctx, root, dir)
	if err != nil {
		return err
	}
	for _, m := range r.Manifest.Migrations {
		if slices.ContainsFunc(c.programs, func(p program) bool { return p.from == m.From && p.to == m.To }) {
			continue // the image has this step
		}
		if len(m.Files) == 0 {
			c.empty = append(c.empty, m)
		}
		for _, f := range m.Files {
			c.programs = append(c.programs, program{f.Target, m.From, m.To, func(w io.Writer) error { return r.Copy(w, f) }})
		}
	}
	return nil
}

// steps finds the way from one version to the other.
func (c *collection) steps(from, to update.Version) ([]datastore.Step, error) {
	m := &update.Manifest{Migrations: slices.Clone(c.empty)}
	for _, p := range c.programs {
		if !slices.ContainsFunc(m.Migrations, func(s update.Migration) bool { return s.From == p.from && s.To == p.to }) {
			m.Migrations = append(m.Migrations, update.Migration{From: p.from, To: p.to})
		}
	}
	slices.SortFunc(m.Migrations, func(a, b update.Migration) int {
		if d := a.From.Compare(b.From); d != 0 {
			return d
		}
		return a.To.Compare(b.To)
	})
	path, err := m.MigrationPath(from, to)
	if err != nil {
		return nil, err
	}
	direction := "--forward"
	if from.Compare(to) > 0 {
		direction = "--backward"
	}
	var steps []datastore.Step
	for _, step := range path {
		var programs []program
		for _, p := range c.programs {
			if p.from == step.From && p.to == step.To {
				programs = append(programs, p)
			}
		}
		reached := step.To
		if direction == "--backward" {
			slices.Reverse(programs)
			reached = step.From
		}
		if len(programs) == 0 { // another version, but nothing to do
			steps = append(steps, datastore.Step{To: reached, Run: datastore.Copy})
		}
		for _, p := range programs {
			steps = append(steps, datastore.Step{To: reached, Run: func(source, target string) error {
				return c.execute(p, "--source", source, "--target", target, direction)
			}})
		}
	}
	return steps, nil
}

// execute runs a copy of the program: what runs is what was verified.
func (c *collection) execute(p program, args ...string) (err error) {
	dir, err := os.MkdirTemp(c.scratch, "migrator-") // mode 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, p.name)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return err
	}
	if err := errors.Join(p.copy(out), out.Close()); err != nil {
		return fmt.Errorf("migration %s: %w", p.name, err)
	}
	cmd := exec.CommandContext(c.ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = c.log, c.log
	fmt.Fprintf(c.log, "migration %s %s\n", p.name, args[len(args)-1])
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("migration %s: %w", p.name, err)
	}
	return nil
}
