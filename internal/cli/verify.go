package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/progress"
)

func verifyCommand(g *global) *cobra.Command {
	var f buildFlags
	var opt build.RebuildOptions
	var rebuild, asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [TARGET...]",
		Short: "Check results and what build/ shows of them, or prove that they are reproducible",
		Long: `Verify reads the stored results of targets, and of all that they need, and what
build/ shows of them, and names everything that is not as it was made. Damaged
results are dropped, so that the next build makes them again, and it also shows
damaged files below build/ again. Without a target it takes the default variant.

With --rebuild it builds the targets a second time instead, from nothing: with an
engine of its own, whose caches are empty, in a copy of the workspace at another
place, with a clock that is 400 days ahead, and with another number of processors.
What comes out is compared bit by bit with the stored results, and differences are
shown by the member in which they lie: header tag of an RPM, file, section of an
object file, partition of a disk. Logs of second builds appear in build/logs/verify/.

The exit status is 1 if anything is wrong.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if !rebuild && (opt.All || opt.Keep) {
				return errors.New("--all and --keep are for --rebuild")
			}
			b, display, err := g.builder(cmd, &f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			var list []*build.Verified
			if rebuild {
				list, err = b.Rebuild(cmd.Context(), args, opt)
			} else {
				list, err = b.Verify(cmd.Context(), args)
			}
			display.Close()
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), list)
			} else {
				writeVerified(cmd.OutOrStdout(), list)
			}
			for _, v := range list {
				if err == nil && !v.Good() {
					err = ExitStatus(exitFailure)
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "build the targets a second time, from nothing, and compare")
	cmd.Flags().BoolVar(&opt.All, "all", false, "with --rebuild: also what the targets need")
	cmd.Flags().BoolVar(&opt.Keep, "keep", false, "with --rebuild: keep what is built, in build/verify/")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of targets, dependencies first")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "targets to build at once (default: number of CPUs)")
	cmd.Flags().BoolVar(&f.logs, "logs", false, "show every line that builds print")
	cmd.Flags().StringVar(&f.progress, "progress", string(progress.Auto), "display: auto, live or plain")
	return cmd
}

// writeVerified prints what is wrong, and a line for each target that was built a
// second time; at the end it counts.
func writeVerified(w io.Writer, list []*build.Verified) {
	good, files, bytes := 0, 0, int64(0)
	for _, v := range list {
		size := fmt.Sprintf("%d files, %s", v.Files, units.HumanSize(float64(v.Bytes)))
		switch v.Status {
		case build.VerifiedOK:
		case build.VerifiedSame:
			fmt.Fprintf(w, "%s: the same (%s)\n", v.Target, size)
		case build.VerifiedDiffers:
			fmt.Fprintf(w, "%s: differs (stored -> second build)\n", v.Target)
		default:
			fmt.Fprintf(w, "%s: %s\n", v.Target, v.Status)
		}
		for _, text := range v.Findings {
			fmt.Fprintf(w, "  %s\n", text)
		}
		for _, d := range v.Differences {
			fmt.Fprintf(w, "  %s\n", d)
		}
		if v.Kept != "" {
			fmt.Fprintf(w, "  kept in %s\n", v.Kept)
		}
		if v.Good() {
			good, files, bytes = good+1, files+v.Files, bytes+v.Bytes
		}
	}
	fmt.Fprintf(w, "%d of %d targets are well (%d files, %s)\n", good, len(list), files, units.HumanSize(float64(bytes)))
}
