package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/engine"
)

func engineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "engine COMMAND", Short: "Look at the build engine, or stop it", RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true}
	serve := &cobra.Command{
		Use:    "serve",
		Short:  "Be the engine (commands that build start it by themselves)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return engine.Serve(cmd.Context(), engine.ServeOptions{State: engine.DefaultState()})
		},
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "Show whether the engine runs, and what it keeps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			client, err := engine.Find(cmd.Context(), engine.DefaultState())
			if errors.Is(err, engine.ErrNotRunning) {
				fmt.Fprintf(out, "not running; the next build starts it\nstate     %s\n", engine.DefaultState())
				return nil
			}
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			use, err := client.DiskUsage(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "running   pid %d, for %s\nstate     %s\nlog       %s\nBuildKit  %s\nbuilds    %d\ndisk use  %.1f MB\n",
				s.PID, time.Since(s.Started).Round(time.Second), engine.DefaultState(), s.Log, s.BuildKit, s.Builds, float64(use.Total)/1e6)
			return nil
		},
	}
	stop := &cobra.Command{
		Use:   "stop",
		Short: "Stop the engine in good order",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := engine.Find(cmd.Context(), engine.DefaultState())
			if errors.Is(err, engine.ErrNotRunning) {
				fmt.Fprintln(cmd.OutOrStdout(), "not running")
				return nil
			}
			if err != nil {
				return err
			}
			return client.Stop(cmd.Context())
		},
	}
	cmd.AddCommand(serve, status, stop)
	return cmd
}
