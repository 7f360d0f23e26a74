package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func buildCommand(g *global) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [TARGET...]",
		Short: "Build targets and what they need",
		Long: `Build builds targets, such as packages/glibc or variants/dev, and whatever they
need. Without a target it builds the default variant. What was built before from
the same inputs is taken from the store.

RPMs appear in build/rpms/<package>/, images in
build/images/<arch>-<variant>/<version>/, logs in build/logs/.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			err = b.Build(cmd.Context(), args)
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
	return cmd
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
			defer b.Close()
			return b.Fetch(cmd.Context(), args)
		},
	}
	f.add(cmd)
	return cmd
}
