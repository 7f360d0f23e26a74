// Package cli holds the commands of slipway.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/engine"
	"slipway/internal/progress"
	"slipway/internal/workspace"
)

// Exit statuses beside 0.
const (
	exitFailure     = 1   // something went wrong; the message says what
	exitInterrupted = 130 // stopped by Ctrl-C, as shells report it
)

// ExitStatus is an error that carries the exit status of a command that slipway
// ran for the user, who has seen its output already.
type ExitStatus int

func (e ExitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// errInterrupted is the cause of a context that Ctrl-C ended.
var errInterrupted = errors.New("stopped by a signal")

// Main runs the command line and gives the exit status of the process. The first
// SIGINT or SIGTERM ends what runs in good order; a second one ends the process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		os.Exit(exitInterrupted)
	}()

	cmd := New()
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var status ExitStatus
	var findings workspace.Errors
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &findings):
		// as compilers write them, for editors that go to the place of an error
		fmt.Fprintf(stderr, "%v\nslipway: findings: %d; nothing was done\n", findings, len(findings))
		return exitFailure
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintf(stderr, "slipway: %v\n", err)
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "slipway: %v\n", err)
	return exitFailure
}

// global are the flags that every command has.
type global struct {
	dir  string
	arch string
}

// New makes the command tree.
func New() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Build image-based container-host operating systems",
		Long: `Slipway builds image-based container-host operating systems from a workspace of
manifests and RPM spec files: packages in sandboxes without network, and from
them dm-verity-protected, bootable disk images.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVarP(&g.dir, "directory", "C", ".", "folder in the workspace to work in")
	root.PersistentFlags().StringVar(&g.arch, "arch", build.HostArch(), "architecture of the targets")
	root.AddCommand(
		buildCommand(g), fetchCommand(g), planCommand(g), whyCommand(g), graphCommand(g), affectedCommand(g), checkCommand(g), reportCommand(g), imageCommand(g), keysCommand(), repoCommand(g), runCommand(g), shellCommand(g), signCommand(), verifyCommand(g), sdkCommand(g), cacheCommand(g), engineCommand(), docsCommand(),
	)
	explainArgs(root)
	return root
}

// explainArgs makes every command say how it is called when its arguments are
// wrong.
func explainArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w: usage: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArgs(sub)
	}
}

// group is what a command does that only holds others.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := "see " + cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q for %q: %s", args[0], cmd.CommandPath(), hint)
}

// version is the module version that Go recorded, or "devel".
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// load reads the workspace around the chosen folder.
func (g *global) load() (*workspace.Workspace, error) {
	dir, err := filepath.Abs(g.dir)
	if err != nil {
		return nil, err
	}
	root, err := workspace.Find(dir)
	if err != nil {
		return nil, err
	}
	return workspace.Load(root)
}

// buildFlags are the flags of commands that may build.
type buildFlags struct {
	jobs      int
	memory    string
	keepGoing bool
	locked    bool
	logs      bool
	progress  string
}

func (f *buildFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "targets to build at once (default: number of CPUs)")
	cmd.Flags().StringVar(&f.memory, "max-memory", "", "memory that builds may take together, such as 8GiB (default: most of what is available)")
	cmd.Flags().BoolVarP(&f.keepGoing, "keep-going", "k", false, "after a failure, still build what does not depend on it")
	cmd.Flags().BoolVar(&f.locked, "locked", false, "fail rather than change slipway.lock")
	cmd.Flags().BoolVar(&f.logs, "logs", false, "show every line that builds print")
	cmd.Flags().StringVar(&f.progress, "progress", string(progress.Auto), "display: auto, live or plain")
}

// builder opens the workspace for building. The caller closes both results.
func (g *global) builder(cmd *cobra.Command, f *buildFlags) (*build.Builder, *progress.Display, error) {
	switch progress.Mode(f.progress) {
	case progress.Auto, progress.Live, progress.Plain:
	default:
		return nil, nil, fmt.Errorf("--progress %s: it is auto, live or plain", f.progress)
	}
	var memory int64
	if f.memory != "" {
		var err error
		if memory, err = workspace.ParseSize(f.memory); err != nil {
			return nil, nil, fmt.Errorf("--max-memory: %w", err)
		}
	}
	ws, err := g.load()
	if err != nil {
		return nil, nil, err
	}
	cache, err := build.CacheDir()
	if err != nil {
		return nil, nil, err
	}
	connect, err := engineOptions()
	if err != nil {
		return nil, nil, err
	}
	user, err := workspace.LoadUser()
	if err != nil {
		return nil, nil, err
	}
	display := progress.New(cmd.ErrOrStderr(), progress.Options{Mode: progress.Mode(f.progress), Logs: f.logs})
	b, err := build.New(ws, build.Options{
		Arch: g.arch, Jobs: f.jobs, Memory: memory, KeepGoing: f.keepGoing, Locked: f.locked, Cache: cache, Engine: connect, Display: display, Team: ws.TeamCache(user), Signing: user.Signing, Version: version(),
	})
	if err != nil {
		display.Close()
		return nil, nil, err
	}
	return b, display, nil
}

// engineOptions say how to reach the embedded engine, and how to start it: by
// this program itself.
func engineOptions() (engine.Options, error) {
	self, err := os.Executable()
	if err != nil {
		return engine.Options{}, fmt.Errorf("find this program: %w", err)
	}
	return engine.Options{State: engine.DefaultState(), Spawn: []string{self, "engine", "serve"}}, nil
}
