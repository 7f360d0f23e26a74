package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/sign"
	"slipway/internal/tufrepo"
	updates "slipway/internal/update"
	"slipway/internal/workspace"
)

func repoCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo COMMAND",
		Short: "Make, change and check an update repository",
		Long: `Repo makes repositories of The Update Framework from which hosts update
themselves: a folder of files that any HTTP server can hand out. Keys and expiry
come from repos.toml.`,
		RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(
		repoInit(g), repoAdd(g), repoWave(g), repoRefresh(g), repoRotate(g), repoSign(g), repoExpire(), repoValidate(),
	)
	return cmd
}

// repoFlags say which settings a command uses.
type repoFlags struct {
	g              *global
	settings, name string
}

func (f *repoFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.settings, "settings", "", "file with keys and expiry (default: "+tufrepo.SettingsFile+" of the workspace, or of the user's slipway configuration)")
	cmd.Flags().StringVar(&f.name, "repo", "", "name of the repository in the settings, where there are several")
}

func (f *repoFlags) policies() (*tufrepo.Policies, error) {
	path := f.settings
	if path == "" {
		var err error
		if path, err = f.find(); err != nil {
			return nil, err
		}
	}
	return tufrepo.ReadSettings(path, f.name)
}

// find is the settings file of the workspace, or else that of the user.
func (f *repoFlags) find() (string, error) {
	var places []string
	root, err := workspace.Find(f.g.dir)
	switch {
	case err == nil:
		places = append(places, filepath.Join(root, tufrepo.SettingsFile))
	case !errors.Is(err, workspace.ErrNoWorkspace):
		return "", err
	}
	if config, err := os.UserConfigDir(); err == nil {
		places = append(places, filepath.Join(config, "slipway", tufrepo.SettingsFile))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no settings of update repositories: there is no %s: write one, or name it with --settings", strings.Join(places, " and no "))
}

// with opens a repository for the length of a change.
func with(ctx context.Context, dir string, create bool, change func(*tufrepo.Repo) error) error {
	r, err := tufrepo.Open(ctx, dir, tufrepo.Options{Create: create})
	if err != nil {
		return err
	}
	return errors.Join(change(r), r.Close())
}

// commit publishes what an operation made, and says what is published now.
func commit(cmd *cobra.Command, r *tufrepo.Repo, dir string, c *tufrepo.Change, keys []*sign.Key) error {
	if err := whole(dir, r.Commit(cmd.Context(), c, keys...)); err != nil {
		return err
	}
	printExpiries(cmd.OutOrStdout(), r.Expiries(), time.Now())
	return nil
}

// whole says what to do about signatures that are missing.
func whole(dir string, err error) error {
	var missing *tufrepo.MissingError
	if errors.As(err, &missing) && !errors.Is(err, tufrepo.ErrWaiting) {
		return fmt.Errorf("nothing is published yet: %w; the change waits in %s: run slipway repo sign where those keys are, or slipway sign prepare for signing elsewhere", err, dir)
	}
	return err
}

func printExpiries(w io.Writer, list []tufrepo.Expiry, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range list {
		left := e.Expires.Sub(now)
		when := fmt.Sprintf("in %dd %dh", left/(24*time.Hour), left%(24*time.Hour)/time.Hour)
		if left < 0 {
			when = "expired"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", e.Role, e.Version, e.Expires.Format(time.RFC3339), when)
	}
	_ = t.Flush()
}

func repoInit(g *global) *cobra.Command {
	f := repoFlags{g: g}
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make an empty update repository",
		Long: `Init makes an update repository without releases, with the keys that the
settings name. Hosts that are to trust it get DIR/1.root.json.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policies()
			if err != nil {
				return err
			}
			return with(cmd.Context(), args[0], true, func(r *tufrepo.Repo) error {
				c, err := r.Init(p)
				if err != nil {
					return err
				}
				return commit(cmd, r, args[0], c, p.AllKeys())
			})
		},
	}
	f.add(cmd)
	return cmd
}

// versionFlag is a flag that holds a version.
type versionFlag struct{ v *updates.Version }

func (f *versionFlag) Type() string { return "version" }

func (f *versionFlag) String() string {
	if f.v == nil {
		return ""
	}
	return f.v.String()
}

func (f *versionFlag) Set(text string) error {
	v, err := updates.ParseVersion(text)
	f.v = &v
	return err
}

// waveFlags choose a plan and its start.
type waveFlags struct{ plan, start string }

func (f *waveFlags) waves() (updates.Waves, error) {
	if f.plan == "" {
		if f.start != "" {
			return nil, errors.New("--start goes with --plan")
		}
		return nil, nil
	}
	plan, err := tufrepo.LoadPlan(f.plan)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if f.start != "" {
		if start, err = time.Parse(time.RFC3339, f.start); err != nil {
			return nil, fmt.Errorf("--start %s: want a time such as 2026-01-31T09:00:00Z", f.start)
		}
	}
	return plan.Waves(start), nil
}

func (f *waveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.plan, "plan", "", "wave plan: "+strings.Join(tufrepo.Plans(), ", ")+", or a file")
	cmd.Flags().StringVar(&f.start, "start", "", "when the plan begins, such as 2026-01-31T09:00:00Z (default: now)")
}

func repoAdd(g *global) *cobra.Command {
	f := repoFlags{g: g}
	var waves waveFlags
	var dir string
	var version, datastore, limit versionFlag
	var rel tufrepo.Release
	cmd := &cobra.Command{
		Use:   "add DIR",
		Short: "Add a release to an update repository",
		Long: `Add publishes a release: its images, SBOMs, provenance and migrations, and an
entry for it in the update manifest. A folder that --image-dir names is searched
for files that end in -root.img, -hash.img and -uki.efi (each also with .lz4 or
.zst), .spdx.json, .cdx.json, .intoto.jsonl or .intoto.json, and -migrations.tar;
where it is build/images/<arch>-<variant>/<version>, it also tells what release that
is. The kernel image must be one of this variant, version and architecture, and root
and hash tree those of the root hash in it. Provenance of SLSA v1 must be that of the
images.

Hosts with Secure Boot refuse a kernel image that none of those has signed who signed
the one that runs. So the newest release of the variant must share a signer with the
new one, if it is signed; --other-signer says that this is meant.

What is published never changes: a version that is there with other content is
refused, and with the same content there is nothing to do. Without --plan all
hosts may update at once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policies()
			if err != nil {
				return err
			}
			rel.Arch = g.arch
			if dir != "" {
				if err := fromDir(cmd, &rel, dir, &version); err != nil {
					return err
				}
			}
			if rel.Variant == "" || version.v == nil {
				return errors.New("which release is it: give --variant and --version, or an --image-dir that ends in <arch>-<variant>/<version>")
			}
			rel.Version, rel.Datastore, rel.MaxVersion = *version.v, datastore.v, limit.v
			if rel.Waves, err = waves.waves(); err != nil {
				return err
			}
			return with(cmd.Context(), args[0], false, func(r *tufrepo.Repo) error {
				c, err := r.Add(cmd.Context(), p, rel)
				if err != nil {
					return err
				}
				if c == nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s %s %s is there already, with the same content\n", rel.Variant, rel.Arch, rel.Version)
					return nil
				}
				for _, step := range c.Kept {
					fmt.Fprintf(cmd.ErrOrStderr(), "migrations from %s to %s: the repository keeps the programs that it has, not those of this release, which differ\n", step.From, step.To)
				}
				return commit(cmd, r, args[0], c, p.AllKeys())
			})
		},
	}
	f.add(cmd)
	waves.add(cmd)
	cmd.Flags().StringVar(&dir, "image-dir", "", "folder with the files of the release")
	cmd.Flags().StringVar(&rel.Variant, "variant", "", "variant of the release")
	cmd.Flags().Var(&version, "version", "version of the release")
	cmd.Flags().StringVar(&rel.Root, "root", "", "root file system image")
	cmd.Flags().StringVar(&rel.Hash, "hash", "", "dm-verity hash tree of the root")
	cmd.Flags().StringVar(&rel.UKI, "uki", "", "unified kernel image")
	cmd.Flags().BoolVar(&rel.OtherSigner, "other-signer", false, "publish a kernel image that is not signed by a signer of that of the newest release")
	cmd.Flags().StringArrayVar(&rel.SBOM, "sbom", nil, "software bill of materials; may be repeated")
	cmd.Flags().StringArrayVar(&rel.Provenance, "provenance", nil, "provenance statement; may be repeated")
	cmd.Flags().StringVar(&rel.Migrations, "migrations", "", "tar archive or folder with migrations.toml and the programs that it names (default: the archive in --image-dir)")
	cmd.Flags().Var(&datastore, "datastore", "format version of the release's data (default: DATASTORE_VERSION in the image's os-release, or that of the release before)")
	cmd.Flags().Var(&limit, "max-version", "highest version that hosts of the variant are offered")
	return cmd
}

// fromDir takes the files of a release from a folder, and from its path what
// release it is, where no flag says so.
func fromDir(cmd *cobra.Command, rel *tufrepo.Release, dir string, version *versionFlag) error {
	if err := rel.FromDir(dir); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	arch, variant, ok := strings.Cut(filepath.Base(filepath.Dir(real)), "-")
	v, err := updates.ParseVersion(filepath.Base(real))
	if !ok || err != nil {
		return nil
	}
	if version.v == nil {
		version.v = &v
	}
	if rel.Variant == "" {
		rel.Variant = variant
	}
	if !cmd.Flags().Changed("arch") {
		rel.Arch = arch
	}
	return nil
}

func repoWave(g *global) *cobra.Command {
	f := repoFlags{g: g}
	var waves waveFlags
	var variant string
	var version, limit versionFlag
	var pause, resume bool
	cmd := &cobra.Command{
		Use:   "wave DIR",
		Short: "Show or change how releases reach hosts",
		Long: `Wave shows which part of the hosts each release reaches when. With --variant and
--version it changes that of one release: --plan lays its waves out anew, --pause
stops it for all hosts, and --resume goes on where it stopped. --max-version, with
--variant, holds newer releases back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			edits := 0
			for _, on := range []bool{waves.plan != "", pause, resume, limit.v != nil} {
				if on {
					edits++
				}
			}
			laid, err := waves.waves()
			if err != nil {
				return err
			}
			if edits == 0 {
				m, err := tufrepo.ReadManifest(cmd.Context(), tufrepo.Folder(args[0]), tufrepo.ValidateOptions{})
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				printWaves(cmd.OutOrStdout(), m, time.Now())
				return nil
			}
			if edits > 1 {
				return errors.New("give one of --plan, --pause, --resume and --max-version")
			}
			if variant == "" || limit.v == nil && version.v == nil {
				return errors.New("which release: give --variant and --version")
			}
			p, err := f.policies()
			if err != nil {
				return err
			}
			edit := func(m *updates.Manifest) error {
				if limit.v != nil {
					return hold(m, variant, g.arch, limit.v)
				}
				u := m.Update(variant, g.arch, *version.v)
				if u == nil {
					return fmt.Errorf("no release %s %s %s in %s", variant, g.arch, version.v, args[0])
				}
				switch {
				case pause:
					return tufrepo.Pause(u, time.Now())
				case resume:
					return tufrepo.Resume(u, time.Now())
				}
				u.Waves = laid
				return nil
			}
			return with(cmd.Context(), args[0], false, func(r *tufrepo.Repo) error {
				c, err := r.Edit(cmd.Context(), p, edit)
				if err != nil {
					return err
				}
				if c == nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "nothing to change")
					return nil
				}
				return commit(cmd, r, args[0], c, p.AllKeys())
			})
		},
	}
	f.add(cmd)
	waves.add(cmd)
	cmd.Flags().StringVar(&variant, "variant", "", "variant of the release")
	cmd.Flags().Var(&version, "version", "version of the release")
	cmd.Flags().BoolVar(&pause, "pause", false, "stop the release for all hosts")
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with a paused release")
	cmd.Flags().Var(&limit, "max-version", "highest version that hosts of the variant are offered")
	return cmd
}

// hold sets the highest version for the hosts of a variant.
func hold(m *updates.Manifest, variant, arch string, limit *updates.Version) error {
	found := false
	for i := range m.Updates {
		if u := &m.Updates[i]; u.Variant == variant && u.Arch == arch {
			u.MaxVersion, found = limit, true
		}
	}
	if !found {
		return fmt.Errorf("no release of %s for %s", variant, arch)
	}
	return nil
}

func printWaves(w io.Writer, m *updates.Manifest, now time.Time) {
	for i := range m.Updates {
		u := &m.Updates[i]
		state := fmt.Sprintf("%.1f %% of the hosts are ready", tufrepo.ReadyPercent(u, now))
		if u.PausedAt != nil {
			state = "paused since " + u.PausedAt.Format(time.RFC3339)
		}
		if u.MaxVersion != nil && u.Version.Compare(*u.MaxVersion) > 0 {
			state += ", held back by maximum version " + u.MaxVersion.String()
		}
		fmt.Fprintf(w, "%s: %s\n", u, state)
		for _, b := range u.Waves.Bounds() {
			fmt.Fprintf(w, "  %s  %5.1f %%\n", u.Waves[b].Format(time.RFC3339), 100*float64(b)/updates.Seeds)
		}
	}
}

func repoRefresh(g *global) *cobra.Command {
	f := repoFlags{g: g}
	var targets bool
	cmd := &cobra.Command{
		Use:   "refresh DIR",
		Short: "Put off the expiry of an update repository",
		Long: `Refresh signs a new timestamp and snapshot with a new expiry, and with --targets
also the list of targets. What the repository offers stays the same.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policies()
			if err != nil {
				return err
			}
			return with(cmd.Context(), args[0], false, func(r *tufrepo.Repo) error {
				c, err := r.Refresh(p, targets)
				if err != nil {
					return err
				}
				return commit(cmd, r, args[0], c, p.AllKeys())
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&targets, "targets", false, "sign the list of targets anew, too")
	return cmd
}

// loadKeys reads the keys of flags.
func loadKeys(files []string) ([]*sign.Key, error) {
	var keys []*sign.Key
	for _, file := range files {
		k, err := sign.Load(file)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func repoRotate(g *global) *cobra.Command {
	f := repoFlags{g: g}
	var old []string
	cmd := &cobra.Command{
		Use:   "rotate DIR",
		Short: "Put new keys into force, or put off the expiry of the root",
		Long: `Rotate makes a new root from the settings: other keys, other thresholds, a new
expiry. The keys of the root before must sign it as well: those that the settings
no longer name are given with --old-key. Hosts follow by themselves.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.policies()
			if err != nil {
				return err
			}
			keys, err := loadKeys(old)
			if err != nil {
				return err
			}
			return with(cmd.Context(), args[0], false, func(r *tufrepo.Repo) error {
				c, err := r.Rotate(p)
				if err != nil {
					return err
				}
				return commit(cmd, r, args[0], c, append(keys, p.AllKeys()...))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&old, "old-key", nil, "key of the root before, a PEM file or pkcs11: URI; may be repeated")
	return cmd
}

func repoSign(g *global) *cobra.Command {
	f := repoFlags{g: g}
	var files []string
	var drop bool
	cmd := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign a change that waits for signatures, or drop it",
		Long: `Sign adds the signatures that can be made here to a change of the repository
that waits for them: with the keys of --key, or else with those of the settings.
When all are there, the change is published.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := loadKeys(files)
			if err != nil {
				return err
			}
			if !drop && len(keys) == 0 {
				p, err := f.policies()
				if err != nil {
					return err
				}
				keys = p.AllKeys()
			}
			return with(cmd.Context(), args[0], false, func(r *tufrepo.Repo) error {
				if drop {
					return r.DropStaged()
				}
				if err := whole(args[0], r.Resume(cmd.Context(), keys...)); err != nil {
					return err
				}
				printExpiries(cmd.OutOrStdout(), r.Expiries(), time.Now())
				return nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&files, "key", nil, "private key to sign with: a PEM file, or the pkcs11: URI of one in a token; may be repeated")
	cmd.Flags().BoolVar(&drop, "drop", false, "forget the change")
	return cmd
}

// readFlags say how a repository is read that may be far away.
type readFlags struct{ root string }

func (f *readFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.root, "root", "", "root metadata to trust, as hosts have them (default for a folder: its 1.root.json)")
}

func (f *readFlags) source(place string) (tufrepo.Source, tufrepo.ValidateOptions, error) {
	var o tufrepo.ValidateOptions
	source, err := tufrepo.OpenSource(place)
	if err != nil {
		return nil, o, err
	}
	switch _, folder := source.(tufrepo.Folder); {
	case f.root != "":
		o.Root, err = os.ReadFile(f.root)
	case !folder:
		err = fmt.Errorf("%s: which root is to be trusted: give the one that hosts have with --root", place)
	}
	return source, o, err
}

func repoExpire() *cobra.Command {
	var f readFlags
	var within string
	cmd := &cobra.Command{
		Use:   "expire DIR|URL",
		Short: "Show until when an update repository is good",
		Long: `Expire shows when the metadata of each role expire. With --within it fails when
one has expired or will within that time, such as 5d or 36h.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var limit time.Duration
			if within != "" {
				var err error
				if limit, err = tufrepo.ParseDuration(within); err != nil {
					return fmt.Errorf("--within: %w", err)
				}
			}
			source, o, err := f.source(args[0])
			if err != nil {
				return err
			}
			list, err := tufrepo.ReadExpiries(cmd.Context(), source, o)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			now := time.Now()
			printExpiries(cmd.OutOrStdout(), list, now)
			var soon []string
			for _, e := range list {
				if within != "" && !e.Expires.After(now.Add(limit)) {
					soon = append(soon, e.Role)
				}
			}
			if len(soon) > 0 {
				return fmt.Errorf("expired within %s: %s", within, strings.Join(soon, ", "))
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&within, "within", "", "fail when something expires within this time")
	return cmd
}

func repoValidate() *cobra.Command {
	var f readFlags
	var state string
	cmd := &cobra.Command{
		Use:   "validate DIR|URL",
		Short: "Check an update repository as a host does",
		Long: `Validate goes the way of a host that knows only the trusted root: it verifies all
metadata, reads every target and compares its length and digest, decompresses the
images, and checks that the update manifest fits the targets. With --state it
also notices a repository that is older than when it was last looked at.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, o, err := f.source(args[0])
			if err != nil {
				return err
			}
			o.State = state
			report, err := tufrepo.Validate(cmd.Context(), source, o)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			printExpiries(cmd.OutOrStdout(), report.Expiries, time.Now())
			fmt.Fprintf(cmd.OutOrStdout(), "releases: %d; targets: %d, %d bytes, all good\n", len(report.Manifest.Updates), report.Targets, report.Bytes)
			for _, name := range report.Unreferenced {
				fmt.Fprintf(cmd.ErrOrStderr(), "target %s is not named by the manifest\n", name)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&state, "state", "", "folder that keeps what was seen from one time to the next")
	return cmd
}
