package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/graph"
)

func graphCommand(g *global) *cobra.Command {
	var format string
	var rdeps, direct, path bool
	cmd := &cobra.Command{
		Use:   "graph [TARGET]",
		Short: "Show targets and what they depend on",
		Long: `Graph shows the targets of the workspace and their dependencies, as the spec
files state them after macro expansion. With a target it shows only that one and
what it needs.

With --rdeps it shows the target and everything that needs it, also through
others, or with --direct only what needs it directly; text and dot leave out
dependencies on anything else.

With --path and two targets it shows a shortest way from the first to the second:
each dependency with the place where it stands, and the RPM that meets it. If the
first does not need the second, the exit status is 1.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if path || rdeps || direct {
				return nil // checked together with the flags
			}
			return cobra.MaximumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case path && rdeps:
				return errors.New("--path and --rdeps do not go together")
			case direct && !rdeps:
				return errors.New("--direct goes with --rdeps only")
			case path && len(args) != 2:
				return fmt.Errorf("--path takes two targets, the one that needs and the one that is needed; %d given", len(args))
			case rdeps && len(args) != 1:
				return fmt.Errorf("--rdeps takes one target, %d given", len(args))
			case format != "text" && format != "dot" && format != "json":
				return fmt.Errorf("--format %s: it is text, dot or json", format)
			case path && format == "dot":
				return errors.New("--format dot: with --path it is text or json")
			}
			ws, err := g.load()
			if err != nil {
				return err
			}
			gr, err := build.Graph(ws, g.arch)
			if err != nil {
				return err
			}
			var named []*graph.Target
			for _, name := range args {
				t, err := gr.Lookup(name)
				if err != nil {
					return err
				}
				named = append(named, t)
			}
			out := cmd.OutOrStdout()
			if path {
				return writePath(out, gr, named[0], named[1], format == "json")
			}
			targets := gr.Targets
			switch {
			case rdeps:
				targets = append(gr.Dependents(named[0]), named[0])
				if direct {
					targets = append(gr.DirectDependents(named[0]), named[0])
				}
				if format != "json" {
					targets = graph.Within(targets)
				}
			case len(named) == 1:
				targets = gr.Closure(named[0])
			}
			switch format {
			case "dot":
				return graph.WriteDOT(out, targets)
			case "json":
				return graph.WriteJSON(out, targets)
			}
			return graph.WriteText(out, targets)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, dot (Graphviz) or json")
	cmd.Flags().BoolVar(&rdeps, "rdeps", false, "show what needs the target")
	cmd.Flags().BoolVar(&direct, "direct", false, "with --rdeps: only what needs it directly")
	cmd.Flags().BoolVar(&path, "path", false, "show why the first of two targets needs the second")
	return cmd
}

// writePath prints why from needs to. That it does not is an error.
func writePath(out io.Writer, gr *graph.Graph, from, to *graph.Target, asJSON bool) error {
	if from == to {
		return fmt.Errorf("--path takes two targets, but %s was named twice", from.Name)
	}
	steps := gr.Path(from, to)
	reverse := len(steps) == 0 && len(gr.Path(to, from)) > 0
	if asJSON {
		if err := graph.WritePathJSON(out, from, to, steps, reverse); err != nil {
			return err
		}
	}
	switch {
	case reverse:
		return fmt.Errorf("%s does not need %s: it is the other way round (see slipway graph --path %[2]s %[1]s)", from.Name, to.Name)
	case len(steps) == 0:
		return fmt.Errorf("%s does not need %s, nor the other way round", from.Name, to.Name)
	case asJSON:
		return nil
	}
	return graph.WritePath(out, from, to, steps)
}

func checkCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check manifests and spec files without building anything",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ws, err := g.load()
			if err != nil {
				return err
			}
			gr, err := build.Graph(ws, g.arch)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d targets, no findings\n", len(gr.Targets))
			return nil
		},
	}
}
