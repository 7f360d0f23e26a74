package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/progress"
	"slipway/internal/workspace"
)

func reportCommand(g *global) *cobra.Command {
	var last int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show how long the last builds took, and why",
		Long: `Report shows what the last builds took: the slowest targets first, with the time
that each was worked on, the processor time and the memory at the peak of its
sandbox, and how long it waited though it could have been built. The critical path
is the chain of targets, each waiting for the one before it, that took the longest.

Every build writes a report, also one that fails and one that finds everything
built; not one that is refused before it begins. The last 100 are kept.

With --json the reports are printed as a list, the newest first, as they lie in
build/reports/: times are in seconds, memory is in bytes, without page cache.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if last < 1 {
				return fmt.Errorf("--last %d: at least 1", last)
			}
			dir, err := filepath.Abs(g.dir)
			if err != nil {
				return err
			}
			root, err := workspace.Find(dir)
			if err != nil {
				return err
			}
			reports, damaged, err := build.Reports(root, last)
			if err != nil {
				return err
			}
			for _, err := range damaged {
				fmt.Fprintf(cmd.ErrOrStderr(), "slipway: %v: it was left out; remove it\n", err)
			}
			if len(reports) == 0 {
				return errors.New("there is no report: slipway build writes one into build/reports/")
			}
			if asJSON {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(reports)
			}
			for i, r := range reports {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := printReport(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&last, "last", 1, "number of builds to show, the newest first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the reports as JSON")
	return cmd
}

// printReport writes a report as text. Targets that were found in the local store
// are counted only.
func printReport(w io.Writer, r *build.Report) error {
	var counts []string
	for _, s := range []progress.Status{progress.Built, progress.Fetched, progress.Cached, progress.Failed, progress.Skipped} {
		n := 0
		for _, row := range r.Targets {
			if row.Status == s {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, s))
		}
	}
	fmt.Fprintf(w, "%s, %s: %s\n", r.Started.UTC().Format("2006-01-02 15:04:05 UTC"), seconds(r.Wall), strings.Join(counts, ", "))
	if len(r.CriticalPath.Targets) == 0 {
		return nil // nothing was worked on
	}
	fmt.Fprintf(w, "processor time %s on %d cores, %.1f targets at once, %.0f %% from caches\n", seconds(r.CPU), r.Cores, r.Parallelism, 100*r.CacheHitRatio)
	fmt.Fprintf(w, "critical path %s: %s\n\n", seconds(r.CriticalPath.Wall), strings.Join(r.CriticalPath.Targets, ", "))

	rows := slices.DeleteFunc(slices.Clone(r.Targets), func(row *build.Row) bool { return row.Status == progress.Cached })
	slices.SortStableFunc(rows, func(a, b *build.Row) int {
		return cmp.Or(cmp.Compare(b.Wall, a.Wall), strings.Compare(a.Name, b.Name))
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TARGET\tSTATUS\tWALL\tCPU\tMEMORY\tWAIT")
	for _, row := range rows {
		memory := "-"
		if row.Memory > 0 {
			memory = units.CustomSize("%.3g %s", float64(row.Memory), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"})
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, row.Status, seconds(row.Wall), seconds(row.CPU), memory, seconds(row.Wait))
	}
	return table.Flush()
}

// seconds writes a duration for people; a dash for none.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d <= 0:
		return "-"
	case d < 100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
