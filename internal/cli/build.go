package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/workspace"
)

func buildCommand(g *global) *cobra.Command {
	var f buildFlags
	var explain bool
	cmd := &cobra.Command{
		Use:   "build [TARGET...]",
		Short: "Build targets and what they need",
		Long: `Build builds targets, such as packages/glibc or variants/dev, and whatever they
need. Without a target it builds the default variant. What was built before from
the same inputs is taken from the store.

RPMs appear in build/rpms/<package>/, images in
build/images/<arch>-<variant>/<version>/, logs in build/logs/.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if report, outputs, ok, err := g.buildCurrent(args); ok {
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%d cached in %.1fs\n", len(report.Targets), report.Wall)
				for _, path := range outputs {
					fmt.Fprintln(cmd.OutOrStdout(), path)
				}
				return nil
			}
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			if explain {
				var rows []build.PlanRow
				rows, err = b.Plan(cmd.Context(), args, true)
				var text strings.Builder
				writeReasons(&text, rows)
				if text.Len() > 0 {
					display.Print("%s", text.String())
				}
			}
			if err == nil {
				err = b.Build(cmd.Context(), args)
			}
			summary := display.Summary()
			display.Close()
			if summary != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), summary)
			}
			if err != nil {
				return err
			}
			for _, path := range b.Outputs(args) {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&explain, "explain", false, "first say why each target is built, as slipway why does")
	return cmd
}

// buildCurrent finds out from the record of the last build that there is nothing
// to do. What is in the way of that, the build itself reports.
func (g *global) buildCurrent(names []string) (report *build.Report, outputs []string, ok bool, err error) {
	root, err := g.root()
	if err != nil {
		return nil, nil, false, nil
	}
	cache, err := build.CacheDir()
	if err != nil {
		return nil, nil, false, nil
	}
	user, err := workspace.LoadUser()
	if err != nil {
		return nil, nil, false, nil
	}
	return build.BuildCurrent(root, build.Options{Arch: g.arch, Cache: cache, Signing: user.Signing}, names)
}

func fetchCommand(g *global) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "fetch [TARGET...]",
		Short: "Fetch and verify sources and the SDK, so that builds need no network",
		Long: `Fetch brings the external files of targets and of all that they need into the
content store, verified by the digests of their manifests, and makes the SDK.
Without a target it takes the whole workspace. Afterwards a build needs no
network.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			defer display.Close()
			defer b.Close(cmd.Context())
			return b.Fetch(cmd.Context(), args)
		},
	}
	f.add(cmd)
	return cmd
}
