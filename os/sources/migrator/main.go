// Migrator brings the settings of the machine to the format version of the
// running system, forward after an update and backward after a return to an
// older one. It runs before everything that reads settings.
//
// The programs that do it are in no image: a system cannot bring the way back from
// one that is newer. They come from what the updater has kept of the update
// repository, and are verified against the image's trusted root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
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
	m := &migrations{ctx: ctx, scratch: *scratch, log: log}
	if m.repo, err = open(ctx, *kept, *root); err != nil {
		return m.refused(from, to, fmt.Errorf("what the updater kept of the update repository cannot be read: %w", err),
			"boot the system that it belongs to (updater revert --reboot), and have the updater prepare the other anew")
	}
	steps, err := m.steps(from, to)
	if err != nil {
		return m.refused(from, to, err,
			"publish the missing step, boot the system that the datastore belongs to (updater revert --reboot), and have the updater prepare the other anew")
	}
	if err := store.Migrate(steps); err != nil {
		return m.refused(from, to, err, "")
	}
	fmt.Fprintf(log, "the datastore went from version %s to %s\n", from, to)
	return nil
}

func open(ctx context.Context, dir, rootFile string) (*repo.Repo, error) {
	root, err := os.ReadFile(rootFile)
	if err != nil {
		return nil, err
	}
	return repo.OpenKept(ctx, root, dir)
}

// migrations are those that the updater has kept.
type migrations struct {
	ctx     context.Context
	repo    *repo.Repo
	scratch string
	log     io.Writer
}

// refused says what became of the datastore, and what to do.
func (m *migrations) refused(from, to update.Version, err error, hint string) error {
	if hint != "" {
		hint = ": " + hint
	}
	return fmt.Errorf("the datastore stays at version %s, this system needs %s: %w%s", from, to, err, hint)
}

// steps finds the way from one version to the other.
func (m *migrations) steps(from, to update.Version) ([]datastore.Step, error) {
	path, err := m.repo.Manifest.MigrationPath(from, to)
	if err != nil {
		return nil, err
	}
	back := from.Compare(to) > 0
	direction := "--forward"
	if back {
		direction = "--backward"
	}
	var steps []datastore.Step
	for _, step := range path {
		files, reached := slices.Clone(step.Files), step.To
		if back {
			slices.Reverse(files)
			reached = step.From
		}
		if len(files) == 0 { // another version, but nothing to do
			steps = append(steps, datastore.Step{To: reached, Run: datastore.Copy})
		}
		for _, f := range files {
			steps = append(steps, datastore.Step{To: reached, Run: func(source, target string) error {
				return m.execute(f, "--source", source, "--target", target, direction)
			}})
		}
	}
	return steps, nil
}

// execute runs a copy of the program: what runs is what was verified.
func (m *migrations) execute(f update.File, args ...string) (err error) {
	dir, err := os.MkdirTemp(m.scratch, "migrator-") // mode 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, f.Target)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return err
	}
	if err := errors.Join(m.repo.Copy(out, f), out.Close()); err != nil {
		return fmt.Errorf("migration %s: %w", f.Target, err)
	}
	cmd := exec.CommandContext(m.ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = m.log, m.log
	fmt.Fprintf(m.log, "migration %s %s\n", f.Target, args[len(args)-1])
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("migration %s: %w", f.Target, err)
	}
	return nil
}
