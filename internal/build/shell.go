package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/term"

	"slipway/internal/engine"
	"slipway/internal/graph"
	"slipway/internal/progress"
	"slipway/internal/recipe"
)

// RunInSDK runs a command in the SDK, with the workspace mounted and dir, a
// folder in it, as the working directory. Its output goes to out; it gives the
// exit status of the command.
func (b *Builder) RunInSDK(ctx context.Context, display *progress.Display, dir string, args []string, out io.Writer) (int, error) {
	if err := b.ensureSDK(ctx, nil); err != nil {
		return 0, err
	}
	display.Close()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	rel, err := filepath.Rel(b.ws.Root, dir)
	if err != nil {
		return 0, err
	}
	if !filepath.IsLocal(rel) {
		return 0, fmt.Errorf("%s is not in the workspace %s", dir, b.ws.Root)
	}
	client, err := b.connect(ctx)
	if err != nil {
		return 0, err
	}
	rec := recipe.Command{Sandbox: b.sandbox(), Workspace: b.ws.Root, Dir: filepath.ToSlash(rel), Args: args}.Build()
	_, err = client.Solve(ctx, engine.Job{
		Name: "sdk run", Def: rec.State, Locals: rec.Locals, Stores: b.stores(),
		OnEvent: func(e engine.Event) {
			if e.Kind == engine.VertexLine {
				fmt.Fprintln(out, e.Line)
			}
		},
	})
	var exit *engine.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode, nil
	}
	return 0, err
}

// Shell builds a target again and opens a shell in its sandbox, as the failing
// step left it or at its end. ready is called before the shell takes over the
// terminal. It gives the exit status of the shell.
func (b *Builder) Shell(ctx context.Context, name string, ready func(), stdin io.Reader, stdout io.Writer) (int, error) {
	t, err := b.graph.Lookup(name)
	if err != nil {
		return 0, err
	}
	if isSDK(t) {
		return 0, errors.New("the SDK has no sandbox of its own: use slipway sdk run -- bash -c COMMAND")
	}
	release, err := b.results.Use()
	if err != nil {
		return 0, cacheError(b.opt.Cache, err)
	}
	defer release()
	needs := slices.DeleteFunc(b.graph.Closure(t), func(d *graph.Target) bool { return d == t || isSDK(d) })
	if err := b.build(ctx, needs, nil); err != nil {
		return 0, fmt.Errorf("what %s needs cannot be built: %w", t.Name, err)
	}
	if err := b.ensureSDK(ctx, nil); err != nil {
		return 0, err
	}
	s, err := b.look(t)
	if err != nil {
		return 0, err
	}
	if err := b.readyRPMs(ctx, slices.Concat(s.rpms, s.tools)); err != nil {
		return 0, err
	}
	b.hold = true
	rec, err := b.recipe(ctx, t, s.inputs)
	if err != nil {
		return 0, err
	}
	client, err := b.connect(ctx)
	if err != nil {
		return 0, err
	}
	b.display.Start(t.Name, phaseDeps)
	log, err := newBuildLog(b.logPath(t), func(phase string) { b.display.Phase(t.Name, phase) }, func(line string) { b.display.Log(t.Name, line) })
	if err != nil {
		return 0, err
	}
	defer log.Close()
	file, isFile := stdin.(*os.File)
	tty := isFile && term.IsTerminal(int(file.Fd()))
	args := []string{"/bin/bash"}
	if tty {
		args = append(args, "-i")
	}
	err = client.Shell(ctx, b.engineJob(t, rec, "", log), engine.ShellOptions{
		Args: args, Stdin: stdin, Stdout: stdout, Stderr: stdout,
		Tty: tty,
		Opened: func(failure *engine.ExitError) {
			ready()
			how := "failed"
			if failure.ExitCode == recipe.ExitHeld {
				how = "did not fail"
			}
			fmt.Fprintf(stdout, "%s %s: this is its sandbox as it was left; the log is %s\n", failure.Vertex, how, b.logPath(t))
		},
	})
	var exit *engine.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode, nil
	}
	return 0, err
}
