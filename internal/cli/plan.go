package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/plan"
	"slipway/internal/workspace"
)

func planCommand(g *global) *cobra.Command {
	var asJSON, explain bool
	cmd := &cobra.Command{
		Use:   "plan [TARGET...]",
		Short: "Show what a build would do",
		Long: `Plan shows what a build of targets and of all that they need would do, without
building anything: what it would build, with the time, processors and memory that
the last build of it took; disks that it would put together anew from what it has;
what it has in the local store or in the team cache; and what it cannot tell yet, because that depends on what comes out of targets
that are built before. Without a target it takes the default variant.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			rows, ok := g.currentPlan(args)
			if !ok {
				b, display, err := g.builder(cmd, &buildFlags{progress: "plain"})
				if err != nil {
					return err
				}
				defer display.Close()
				defer b.Close(cmd.Context())
				if rows, err = b.Plan(cmd.Context(), args, explain); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), rows)
			}
			if err := writePlan(cmd.OutOrStdout(), rows); err != nil {
				return err
			}
			writeReasons(cmd.OutOrStdout(), rows)
			return nil
		},
	}
	cmd.Flags().BoolVar(&explain, "explain", false, "also say why, as slipway why does")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of targets, dependencies first")
	return cmd
}

func (g *global) currentPlan(names []string) ([]build.PlanRow, bool) {
	root, err := g.root()
	if err != nil {
		return nil, false
	}
	cache, err := build.CacheDir()
	if err != nil {
		return nil, false
	}
	user, err := workspace.LoadUser()
	if err != nil {
		return nil, false
	}
	return build.CurrentPlan(root, build.Options{Arch: g.arch, Cache: cache, Signing: user.Signing}, names)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writePlan prints what is not cached, and counts.
func writePlan(out io.Writer, rows []build.PlanRow) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	counts := map[string]int{}
	var cpu float64
	unknown := 0
	for _, r := range rows {
		if r.Status == build.PlanCached {
			counts[r.From]++
			if len(r.Disk) > 0 {
				fmt.Fprintf(w, "disk\t%s\tput together anew for %s\n", r.Name, fields(r.Disk))
			}
			continue
		}
		counts[r.Status]++
		last := "no build of it is known"
		if r.Wall > 0 {
			last = fmt.Sprintf("last %s, %.1f CPUs", span(r.Wall), r.CPU/r.Wall)
			if r.Memory > 0 {
				last += fmt.Sprintf(", %d MB", r.Memory/1e6)
			}
		}
		switch r.Status {
		case build.PlanBuild:
			cpu += r.CPU
			if r.Wall == 0 {
				unknown++
			}
			fmt.Fprintf(w, "build\t%s\t%s\n", r.Name, last)
		default:
			waits := strings.Join(r.Waits[:min(len(r.Waits), 3)], " ")
			if n := len(r.Waits) - 3; n > 0 {
				waits += fmt.Sprintf(" and %d more", n)
			}
			fmt.Fprintf(w, "depends\t%s\t%s; built if other RPMs come out of %s\n", r.Name, last, waits)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	parts := []string{}
	for _, p := range []struct{ what, text string }{
		{build.PlanBuild, "to build"}, {build.PlanUnknown, "depend on these"}, {build.FromLocal, "in the local store"}, {build.FromTeam, "in the team cache"},
	} {
		if n := counts[p.what]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, p.text))
		}
	}
	fmt.Fprintf(out, "%d targets: %s\n", len(rows), strings.Join(parts, ", "))
	if cpu > 0 {
		text := fmt.Sprintf("what is to be built took %s of CPU time the last time", span(cpu))
		if unknown > 0 {
			text += fmt.Sprintf("; of %d nothing is known", unknown)
		}
		fmt.Fprintln(out, text)
	}
	return nil
}

// fields names what differs.
func fields(changes []plan.Change) string {
	names := make([]string, len(changes))
	for i, c := range changes {
		if names[i] = c.Name; c.Name == "" {
			names[i] = c.Kind
		}
	}
	return strings.Join(names, ", ")
}

// span writes a number of seconds for people.
func span(s float64) string {
	if s < 60 {
		return fmt.Sprintf("%.1f s", s)
	}
	return fmt.Sprintf("%d min %02d s", int(s)/60, int(s)%60)
}

func whyCommand(g *global) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why TARGET",
		Short: "Explain why a target would be built",
		Long: `Why compares what a target is made from now with what its last result in this
workspace was made from, and shows every input that differs: own files and
first-party sources with the lines that changed, macros, settings, the SDK,
external files, and RPMs that are installed for it or make it, with what differs in
the first ten of which the store has both; of a variant, also what its disk is put
together from. If the workspace has had no result of the target, the last one of
this machine is taken.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &buildFlags{progress: "plain"})
			if err != nil {
				return err
			}
			defer display.Close()
			defer b.Close(cmd.Context())
			why, err := b.Why(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), why)
			}
			writeWhy(cmd.OutOrStdout(), why)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeWhy(w io.Writer, why *build.Reason) {
	switch {
	case why.Status == build.PlanCached:
		where := "local store"
		if why.From == build.FromTeam {
			where = "team cache"
		}
		fmt.Fprintf(w, "%s is up to date: its result is in the %s (key %.12s)\n", why.Target, where, why.Key)
		if len(why.Disk) > 0 {
			fmt.Fprintln(w, "but its disk is put together anew:")
			writeChanges(w, why.Disk, "  ")
		}
	case why.Last == "":
		fmt.Fprintf(w, "%s has never been built here, as far as is known\n", why.Target)
	case why.Status == build.PlanUnknown && len(why.Changes) == 0:
		fmt.Fprintf(w, "%s is built again only if what it needs comes out different:\n", why.Target)
	case len(why.Changes) == 0:
		fmt.Fprintf(w, "%s is made from the same as its last result (key %.12s), but that is no longer in a store\n", why.Target, why.Last)
	default:
		unless := ""
		if why.Status == build.PlanUnknown { // other checkouts and branches can have made it
			unless = ", unless it turns out to be in a store when what it needs is built"
		}
		fmt.Fprintf(w, "%s is built again%s: these inputs differ from those of its last result (key %.12s)\n", why.Target, unless, why.Last)
	}
	writeChanges(w, why.Changes, "  ")
	for _, n := range why.Waits {
		switch {
		case n.Last == "" && len(n.Changes) == 0:
			fmt.Fprintf(w, "  %s has to be built first: no result of it is known\n", n.Target)
		case n.Status == build.PlanUnknown:
			fmt.Fprintf(w, "  %s depends on others of these\n", n.Target)
		default:
			fmt.Fprintf(w, "  %s has to be built first:\n", n.Target)
		}
		writeChanges(w, n.Changes, "    ")
	}
}

// writeReasons prints why targets are built, where that is known already.
func writeReasons(w io.Writer, rows []build.PlanRow) {
	for _, r := range rows {
		if r.Why != nil && (r.Status != build.PlanUnknown || r.Why.Last == "" || len(r.Why.Changes) > 0) {
			writeWhy(w, r.Why)
		}
	}
}

func writeChanges(w io.Writer, changes []plan.Change, indent string) {
	for _, c := range changes {
		fmt.Fprintf(w, "%s%s\n", indent, c)
		for line := range strings.Lines(c.Diff) {
			fmt.Fprintf(w, "%s    %s\n", indent, strings.TrimRight(line, "\n"))
		}
	}
}

// root finds the workspace around the chosen folder, without reading it.
func (g *global) root() (string, error) { return workspace.Find(g.dir) }
