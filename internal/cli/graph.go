package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/graph"
)

func graphCommand(g *global) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "graph [TARGET]",
		Short: "Show targets and what they depend on",
		Long: `Graph shows the targets of the workspace and their dependencies, as the spec
files state them after macro expansion. With a target it shows only that one and
what it needs.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ws, err := g.load()
			if err != nil {
				return err
			}
			gr, err := build.Graph(ws, g.arch)
			if err != nil {
				return err
			}
			targets := gr.Targets
			if len(args) == 1 {
				t, err := gr.Lookup(args[0])
				if err != nil {
					return err
				}
				targets = gr.Closure(t)
			}
			out := cmd.OutOrStdout()
			switch format {
			case "text":
				return graph.WriteText(out, targets)
			case "dot":
				return graph.WriteDOT(out, targets)
			case "json":
				return graph.WriteJSON(out, targets)
			}
			return fmt.Errorf("--format %s: it is text, dot or json", format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, dot (Graphviz) or json")
	return cmd
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
