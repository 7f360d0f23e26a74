package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func shellCommand(g *global) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "shell TARGET",
		Short: "Open a shell in the sandbox of a target, as its failed build left it",
		Long: `Shell builds a target again and opens a shell in its sandbox: as the failing
command left it, or at its end when it does not fail. What is changed there is
not kept.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			code, err := b.Shell(cmd.Context(), args[0], display.Close, cmd.InOrStdin(), cmd.OutOrStdout())
			if err != nil {
				return err
			}
			if code != 0 {
				return ExitStatus(code)
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}
