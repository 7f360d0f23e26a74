package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/graph"
	"slipway/internal/plan"
	"slipway/internal/workspace"
)

// affected is what slipway affected --json prints.
type affected struct {
	Since      string          `json:"since"`                // the commit
	Everything string          `json:"everything,omitempty"` // why everything counts as affected, where it is not for a changed file
	Targets    []plan.Affected `json:"targets"`              // dependencies first
	Removed    []string        `json:"removed"`              // targets that there were at the commit and are no longer
}

func affectedCommand(g *global) *cobra.Command {
	var since string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "affected --since REV [TARGET...]",
		Short: "Show which targets changes since a git revision can change",
		Long: `Affected shows the targets that can come out different from what they were at a
git revision, one a line, dependencies first: those that changed files belong to,
and all that need one of them, then or now. Changes are whatever differs between
the revision and the working tree: committed, staged or neither, and new files
that git does not ignore. With targets it shows only these and what they need.

It tells more than will change, never less: a comment in a spec counts as well.
Which targets are built is decided by their keys. What another version of slipway
itself would change is not seen.

To build what is affected, if anything is, and to compare with the place where a
branch left another one:

    slipway affected --since origin/main | xargs -r slipway build
    slipway affected --since "$(git merge-base origin/main HEAD)"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if since == "" {
				return errors.New("--since is missing: give a git revision, such as --since origin/main")
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
			changes, err := plan.Since(cmd.Context(), ws.Root, since)
			if err != nil {
				return err
			}
			then, why, err := g.then(cmd.Context(), plan.Side{Workspace: ws, Graph: gr}, changes)
			if err != nil {
				return err
			}
			a := affected{Since: changes.Commit, Everything: why}
			a.Targets, a.Removed = plan.FindAffected(plan.Side{Workspace: ws, Graph: gr}, then, changes.Files)
			if len(named) > 0 {
				in := map[string]bool{}
				for _, t := range gr.Closure(named...) {
					in[t.Name] = true
				}
				a.Targets = slices.DeleteFunc(a.Targets, func(t plan.Affected) bool { return !in[t.Name] })
			}
			if asJSON {
				a.Targets, a.Removed = append([]plan.Affected{}, a.Targets...), append([]string{}, a.Removed...)
				return printJSON(cmd.OutOrStdout(), a)
			}
			if why != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "everything counts as affected: %s\n", why)
			}
			for _, name := range a.Removed {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s was there at %.12s and is no longer\n", name, a.Since)
			}
			for _, t := range a.Targets {
				fmt.Fprintln(cmd.OutOrStdout(), t.Name)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "git revision to compare with: a commit, branch or tag")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: for each target also the changed files, or the target that it needs by which it is affected")
	return cmd
}

// then reads the workspace as it was before changes. Where there was none, or it
// has findings, it says why, and the side is empty.
func (g *global) then(ctx context.Context, now plan.Side, changes *plan.Range) (then plan.Side, why string, err error) {
	if !changes.Manifests() {
		return now, "", nil
	}
	dir, err := os.MkdirTemp("", "slipway-then-")
	if err != nil {
		return then, "", err
	}
	defer os.RemoveAll(dir)
	var findings workspace.Errors
	then.Workspace, err = changes.Workspace(ctx, now.Workspace, dir)
	switch {
	case errors.Is(err, plan.ErrNoWorkspaceThen):
		return then, err.Error(), nil
	case err != nil && !errors.As(err, &findings):
		return then, "", fmt.Errorf("read the workspace as it was at %.12s: %w", changes.Commit, err)
	case err == nil:
		if then.Graph, err = build.Graph(then.Workspace, g.arch); err == nil {
			return then, "", nil
		}
	}
	if errors.As(err, &findings) {
		err = findings[0]
	}
	return plan.Side{}, fmt.Sprintf("the workspace as it was at %.12s has findings, such as %v", changes.Commit, err), nil
}
