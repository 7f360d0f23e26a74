package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func sdkCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{Use: "sdk COMMAND", Short: "Make the SDK, or run something in it", RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true}
	var f buildFlags
	build := &cobra.Command{
		Use:   "build",
		Short: "Make the SDK that slipway.lock pins",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			image, err := b.FetchSDK(cmd.Context())
			display.Close()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", image.Digest, image.Layout)
			return nil
		},
	}
	f.add(build)
	var rf buildFlags
	run := &cobra.Command{
		Use:   "run -- COMMAND [ARGUMENT...]",
		Short: "Run a command in the SDK, with a folder of the workspace mounted",
		Long: `Run executes a command in the SDK, without network, with the current folder (or
that of -C) as the working directory. It runs as the user builder, who sees a copy
of the workspace that he may not change, and may write to his home and /tmp;
nothing of that is kept but Go's build cache. Its exit status is that of slipway.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &rf)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			code, err := b.RunInSDK(cmd.Context(), display, g.dir, args, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			if code != 0 {
				return ExitStatus(code)
			}
			return nil
		},
	}
	rf.add(run)
	cmd.AddCommand(build, run)
	return cmd
}
