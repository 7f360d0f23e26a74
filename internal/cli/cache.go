package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/engine"
	"slipway/internal/sdk"
	"slipway/internal/source"
	"slipway/internal/store"
)

func cacheCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{Use: "cache COMMAND", Short: "Look at what is kept, make room, and share it", RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true}
	cmd.AddCommand(cacheDuCommand(), cachePruneCommand(), cacheVerifyCommand(), cachePushCommand(g), cacheExportCommand(g), cacheImportCommand())
	return cmd
}

// cache are the folders of the caches that commands without workspace work on.
type cache struct {
	dir     string
	results *store.Store
}

func openCache() (*cache, error) {
	dir, err := build.CacheDir()
	if err != nil {
		return nil, err
	}
	results, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		return nil, fmt.Errorf("cache folder %s: %w: set SLIPWAY_CACHE to a folder that can be written to", dir, err)
	}
	return &cache{dir: dir, results: results}, nil
}

// sdkKey is the name of the folder of an SDK.
var sdkKey = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sdks are the keys of the SDKs that are kept, sorted.
func (c *cache) sdks() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, "sdk"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var keys []string
	for _, e := range entries {
		if sdkKey.MatchString(e.Name()) {
			keys = append(keys, e.Name())
		}
	}
	return keys, nil
}

func (c *cache) sdkDir(key string) string { return filepath.Join(c.dir, "sdk", key) }

// pinnedSDKs are the keys of the SDKs that existing workspaces pin which built
// something here.
func (c *cache) pinnedSDKs() (map[string]bool, error) {
	roots, err := c.results.Roots()
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, root := range roots {
		lock, err := sdk.ReadLock(filepath.Join(root, sdk.LockFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys[lock.Key] = true
	}
	return keys, nil
}

// diskUse counts files and the bytes that they have on the disk: blocks that are
// allocated, hard links once.
type diskUse struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// measurer adds up files, of which it has seen none twice.
type measurer map[[2]uint64]bool

// add measures all below path; a link as path is followed. What is not there, or
// vanishes meanwhile, has no size.
func (m measurer) add(path string) (u diskUse, err error) {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	err = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if id := [2]uint64{st.Dev, st.Ino}; ok && !m[id] {
			m[id] = true
			if !e.IsDir() {
				u.Files++
			}
			u.Bytes += st.Blocks * 512 // the unit of st_blocks, see stat(2)
		}
		return nil
	})
	return u, err
}

// cacheUse is what cache du tells; sizes are bytes on the disk.
type cacheUse struct {
	Cache   string `json:"cache"`
	Results struct {
		Count       int        `json:"count"`
		Reachable   int        `json:"reachable"` // a workspace that still exists had them last
		Bytes       int64      `json:"bytes"`     // with the index
		Wanted      int64      `json:"reachable-bytes"`
		Unreachable int64      `json:"unreachable-bytes"`
		Unused      int64      `json:"unused-bytes"` // of no result
		Oldest      *time.Time `json:"oldest-use,omitempty"`
	} `json:"results"`
	Sources diskUse  `json:"sources"`
	SDKs    []sdkUse `json:"sdks"`
	SDKDebs diskUse  `json:"sdk-downloads"`
	Disks   diskUse  `json:"disks"`
	Plans   diskUse  `json:"plans"`
	Engine  struct {
		State       string `json:"state"`
		Running     bool   `json:"running"`
		Bytes       int64  `json:"bytes"`
		CacheMounts int64  `json:"cache-mounts,omitempty"` // of Bytes; known while it runs
	} `json:"engine"`
	Total int64 `json:"total"`
}

type sdkUse struct {
	Key    string `json:"key"`
	Pinned bool   `json:"pinned"` // by a workspace that still exists
	Bytes  int64  `json:"bytes"`
}

func cacheDuCommand() *cobra.Command {
	var asJSON, listed bool
	var order string
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show what the caches hold, and how much room it takes",
		Long: `Du shows how much room results, upstream sources, SDKs, kept disk images, plans
and the engine's state take: what is allocated on the disk, with files of several
names counted once. Results are reachable as long as a workspace that still exists
had them last.

With --results it lists the results instead, each with the size of its files that are
here, the day on which a build last wanted it, and whether it is reachable.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"age", "size"}, order) {
				return fmt.Errorf("--sort %s: it is age or size", order)
			}
			if cmd.Flags().Changed("sort") && !listed {
				return errors.New("--sort is for --results")
			}
			c, err := openCache()
			if err != nil {
				return err
			}
			if listed {
				list, err := c.list(order)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), list)
				}
				return printResults(cmd.OutOrStdout(), list)
			}
			use, err := c.measure(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), use)
			}
			return use.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON; sizes are bytes")
	cmd.Flags().BoolVar(&listed, "results", false, "list the results")
	cmd.Flags().StringVar(&order, "sort", "age", "with --results: age, the longest unused first, or size, the largest first")
	return cmd
}

// resultUse is what cache du --results tells of a result.
type resultUse struct {
	Target    string    `json:"target"`
	Key       string    `json:"key"`
	Bytes     int64     `json:"bytes"`
	Used      time.Time `json:"used"` // exact to a day
	Reachable bool      `json:"reachable"`
}

// list gives all results in an order, "age" or "size".
func (c *cache) list(order string) ([]resultUse, error) {
	infos, err := c.results.List() // by age
	list := make([]resultUse, len(infos))
	for i, r := range infos {
		list[i] = resultUse{r.Target, r.Key, r.Size, r.Used.UTC(), r.Reachable}
	}
	if order == "size" {
		slices.SortStableFunc(list, func(a, b resultUse) int { return cmp.Compare(b.Bytes, a.Bytes) })
	}
	return list, err
}

func printResults(out io.Writer, list []resultUse) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tKEY\tSIZE\tUSED\tREACHABLE")
	for _, r := range list {
		reachable := "no"
		if r.Reachable {
			reachable = "yes"
		}
		fmt.Fprintf(w, "%s\t%.12s\t%s\t%s\t%s\n", r.Target, r.Key, size(r.Bytes), r.Used.Format(time.DateOnly), reachable)
	}
	return w.Flush()
}

func (c *cache) measure(ctx context.Context) (*cacheUse, error) {
	u := &cacheUse{Cache: c.dir}
	results, err := c.results.Usage()
	if err != nil {
		return nil, err
	}
	m := measurer{}
	var all diskUse
	for _, part := range []struct {
		name string
		to   *diskUse
	}{{"store", &all}, {"sources", &u.Sources}, {"disks", &u.Disks}, {"plans", &u.Plans}, {"sdk/blobs", &u.SDKDebs}} {
		if *part.to, err = m.add(filepath.Join(c.dir, part.name)); err != nil {
			return nil, err
		}
		u.Total += part.to.Bytes
	}
	r := &u.Results
	r.Count, r.Reachable, r.Bytes, r.Wanted, r.Unused = results.Results, results.Reachable, all.Bytes, results.ReachableBytes, results.UnusedBytes
	r.Unreachable = results.Bytes - r.Wanted - r.Unused
	if !results.Oldest.IsZero() {
		r.Oldest = &results.Oldest
	}
	// what cannot be read pins nothing that is known
	pinned, _ := c.pinnedSDKs()
	keys, err := c.sdks()
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		use, err := m.add(c.sdkDir(key))
		if err != nil {
			return nil, err
		}
		u.SDKs = append(u.SDKs, sdkUse{Key: key, Pinned: pinned[key], Bytes: use.Bytes})
		u.Total += use.Bytes
	}
	e := &u.Engine
	e.State = engine.DefaultState()
	client, err := engine.Find(ctx, e.State)
	if err == nil {
		defer client.Close()
		use, err := client.DiskUsage(ctx)
		if err != nil {
			return nil, err
		}
		e.Running, e.Bytes, e.CacheMounts = true, use.Total, use.CacheMounts
	} else {
		use, err := m.add(e.State)
		if err != nil && !errors.Is(err, fs.ErrPermission) { // it belongs to root
			return nil, err
		}
		e.Bytes = use.Bytes
	}
	u.Total += e.Bytes
	return u, nil
}

func size(n int64) string { return units.HumanSize(float64(n)) }

func (u *cacheUse) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.StripEscape)
	row := func(what string, bytes int64, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", what, size(bytes), fmt.Sprintf(format, args...))
	}
	r := u.Results
	oldest := ""
	if r.Oldest != nil {
		oldest = "; the longest unused was wanted on " + r.Oldest.Format(time.DateOnly)
	}
	row("results", r.Bytes, "%d: %d reachable, %s; %d unreachable, %s%s", r.Count, r.Reachable, size(r.Wanted), r.Count-r.Reachable, size(r.Unreachable), oldest)
	row("sources", u.Sources.Bytes, "%s", filepath.Join(u.Cache, "sources"))
	for _, s := range u.SDKs {
		pinned := "pinned by no known workspace"
		if s.Pinned {
			pinned = "pinned by a workspace"
		}
		row("sdk", s.Bytes, "%.12s %s", s.Key, pinned)
	}
	row("sdk downloads", u.SDKDebs.Bytes, "%d files", u.SDKDebs.Files)
	row("disks", u.Disks.Bytes, "%d images", u.Disks.Files)
	row("plans", u.Plans.Bytes, "%d records", u.Plans.Files)
	if u.Engine.Running {
		row("engine", u.Engine.Bytes, "%s, of it %s in cache mounts", u.Engine.State, size(u.Engine.CacheMounts))
	} else {
		row("engine", u.Engine.Bytes, "%s, not running", u.Engine.State)
	}
	row("total", u.Total, "")
	return w.Flush()
}

// age is a flag: a duration, with days and weeks.
type age time.Duration

var ageUnits = regexp.MustCompile(`^([0-9]+)([dw])$`)

// Set implements pflag.Value.
func (a *age) Set(text string) error {
	if m := ageUnits.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		days := map[string]int{"d": 1, "w": 7}[m[2]]
		if err != nil || n > 100*365 {
			return errors.New("it is longer than a hundred years")
		}
		*a = age(time.Duration(n*days) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("write a time such as 30d, 2w, 12h or 90m")
	}
	*a = age(d)
	return nil
}

// String implements pflag.Value.
func (a *age) String() string {
	if d := time.Duration(*a); d%(24*time.Hour) != 0 {
		return d.String()
	}
	return strconv.Itoa(int(time.Duration(*a)/(24*time.Hour))) + "d"
}

// Type implements pflag.Value.
func (a *age) Type() string { return "age" }

// byteSize is a flag: a number of bytes.
type byteSize int64

// Set implements pflag.Value.
func (b *byteSize) Set(text string) error {
	parse := units.FromHumanSize // powers of 1000
	if strings.Contains(strings.ToLower(text), "i") {
		parse = units.RAMInBytes
	}
	n, err := parse(text)
	if err != nil || n <= 0 || !strings.ContainsAny(text, "kKmMgGtTpPbB") { // a bare number is hardly meant to be bytes
		return errors.New("write a size such as 10GB or 500MiB")
	}
	*b = byteSize(n)
	return nil
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return size(int64(*b))
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }

type pruneFlags struct {
	olderThan age
	maxSize   byteSize
	all       bool
	engine    bool
	dryRun    bool
}

func cachePruneCommand() *cobra.Command {
	f := pruneFlags{olderThan: age(30 * 24 * time.Hour)}
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Make room in the caches",
		Long: `Prune removes results that no build has wanted for a while and that no existing
workspace had last, SDKs that no such workspace pins, kept disk images and records
of plans. With --max-size, results go beyond that, the longest unused first and
those that workspaces had last at the end. What is removed is built, fetched or
made again when it is wanted. Nothing is removed while a build runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCache()
			if err != nil {
				return err
			}
			return c.prune(cmd, f)
		},
	}
	cmd.Flags().Var(&f.olderThan, "older-than", "remove what was not used for so long: 30d, 12h")
	cmd.Flags().Var(&f.maxSize, "max-size", "remove results until they have no more than this: 10GB, 500MiB")
	cmd.Flags().BoolVar(&f.all, "all", false, "remove by age what existing workspaces had last as well, and upstream sources")
	cmd.Flags().BoolVar(&f.engine, "engine", false, "also empty the engine's cache, but for compiler caches")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

func (c *cache) prune(cmd *cobra.Command, f pruneFlags) error {
	out := cmd.OutOrStdout()
	before := time.Now().Add(-time.Duration(f.olderThan))
	var total int64
	tell := func(n int, what string, bytes int64) {
		if total += bytes; n > 0 || bytes > 0 {
			fmt.Fprintf(out, "%-14s %d, %s\n", what, n, size(bytes))
		}
	}
	others := func() error {
		if !f.dryRun {
			// builds lock keys only while they use the store, which now none does
			if err := os.RemoveAll(filepath.Join(c.dir, "locks")); err != nil {
				return err
			}
		}
		pinned, err := c.pinnedSDKs()
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "SDKs are kept, because it is not known which ones workspaces need: %v\n", err)
		}
		keys, kerr := c.sdks()
		if kerr != nil {
			return kerr
		}
		var unpinned []string
		for _, key := range keys {
			if err == nil && !pinned[key] {
				unpinned = append(unpinned, c.sdkDir(key))
			}
		}
		folders := []struct{ what, pattern string }{{"disks", "disks/*"}, {"plans", "plans/*"}}
		if f.all {
			folders = append(folders, []struct{ what, pattern string }{{"sources", "sources/blobs/sha256/*"}, {"sdk downloads", "sdk/blobs/*"}}...)
		}
		n, bytes, err := remove(unpinned, before, f.dryRun)
		tell(n, "SDKs", bytes)
		for _, folder := range folders {
			if err != nil {
				return err
			}
			paths, gerr := filepath.Glob(filepath.Join(globQuote(c.dir), folder.pattern))
			if gerr != nil {
				return gerr
			}
			n, bytes, err = remove(paths, before, f.dryRun)
			tell(n, folder.what, bytes)
		}
		return err
	}
	_, err := c.results.Prune(store.PruneOptions{
		OlderThan: max(time.Duration(f.olderThan), 1), MaxBytes: int64(f.maxSize), Reachable: f.all, DryRun: f.dryRun,
		Also: func(p store.Pruned) error {
			tell(len(p.Results), "results", p.Bytes)
			return others()
		},
	})
	if errors.Is(err, store.ErrInUse) {
		return fmt.Errorf("a build is using %s: prune when it has ended", c.dir)
	}
	if err != nil {
		return err
	}
	if f.engine {
		bytes, err := pruneEngine(cmd, f.dryRun)
		if err != nil {
			return err
		}
		if total += bytes; bytes > 0 {
			fmt.Fprintf(out, "%-14s %s\n", "engine", size(bytes))
		}
	}
	verb := "freed"
	if f.dryRun {
		verb = "would free"
	}
	fmt.Fprintf(out, "%s %s\n", verb, size(total))
	return nil
}

// globQuote makes a path mean itself in a pattern.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// remove removes files and folders that were not used since a time, and gives how
// many they were and what they had on the disk.
func remove(paths []string, before time.Time, dryRun bool) (n int, bytes int64, err error) {
	m := measurer{}
	for _, path := range paths {
		if used, err := lastUse(path); err != nil || used.After(before) {
			continue // gone, or wanted
		}
		use, err := m.add(path)
		if err == nil && !dryRun {
			err = os.RemoveAll(path)
		}
		if err != nil {
			return n, bytes, err
		}
		n++
		bytes += use.Bytes
	}
	return n, bytes, nil
}

// lastUse is when a file, or the index of an SDK, was last read or changed, as far as
// the file system notes that.
func lastUse(path string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(path, "index.json"))
	if err != nil {
		info, err = os.Lstat(path)
	}
	if err != nil {
		return time.Time{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime(), nil
	}
	used := time.Unix(st.Atim.Unix())
	if changed := time.Unix(st.Ctim.Unix()); changed.After(used) {
		used = changed
	}
	return used, nil
}

// pruneEngine empties the engine's cache, which is started for it.
func pruneEngine(cmd *cobra.Command, dryRun bool) (int64, error) {
	ctx := cmd.Context()
	if dryRun {
		client, err := engine.Find(ctx, engine.DefaultState())
		if errors.Is(err, engine.ErrNotRunning) {
			fmt.Fprintln(cmd.ErrOrStderr(), "the engine does not run, so it is not known what it would remove")
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		defer client.Close()
		use, err := client.DiskUsage(ctx)
		return max(use.Reclaimable-use.CacheMounts, 0), err
	}
	opt, err := engineOptions()
	if err != nil {
		return 0, err
	}
	client, err := engine.Connect(ctx, opt)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	return client.Prune(ctx, engine.PruneOptions{})
}

func cacheVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read everything in the caches again, and drop what is damaged",
		Long: `Verify reads every result, every source and every SDK of the caches and compares
it with its digest. What is damaged is dropped, so that it is built, fetched or
made again when it is wanted; then the exit status is 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCache()
			if err != nil {
				return err
			}
			return c.verify(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func (c *cache) verify(ctx context.Context, out io.Writer) error {
	release, err := c.results.Use() // nothing is to be pruned meanwhile
	if err != nil {
		return err
	}
	defer release()
	results, bad, err := c.results.VerifyAll(ctx)
	damaged := len(bad)
	for _, d := range bad {
		fmt.Fprintf(out, "dropped the result %.12s of %s: %v\n", d.Key, d.Target, d.Err)
	}
	if err != nil {
		return err
	}
	sources, err := source.Open(filepath.Join(c.dir, "sources"))
	if err != nil {
		return err
	}
	files, badFiles, err := sources.Verify(ctx)
	damaged += len(badFiles)
	for _, d := range badFiles {
		fmt.Fprintf(out, "dropped the source %s: its content has the SHA-256 %s\n", d.Path, d.Got)
	}
	if err != nil {
		return err
	}
	keys, err := c.sdks()
	if err != nil {
		return err
	}
	for _, key := range keys {
		_, err := sdk.Verify(ctx, c.sdkDir(key))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			damaged++
			fmt.Fprintf(out, "dropped the SDK %.12s: %v\n", key, err)
			if err := os.RemoveAll(c.sdkDir(key)); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "checked %d results, %d sources, %d SDKs: %d damaged\n", results, files, len(keys), damaged)
	if damaged > 0 {
		return fmt.Errorf("damaged entries: %d; what is wanted of them is made again", damaged)
	}
	return nil
}

func cachePushCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "push [TARGET...]",
		Short: "Send results and the SDK to the team cache",
		Long: `Push sends the results of targets and of all that they need to the team cache,
with the SDK. Builds push only what they build. Without a target it takes the
default variant.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &buildFlags{progress: "plain"})
			if err != nil {
				return err
			}
			defer display.Close()
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			n, err := b.Push(cmd.Context(), args)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d results are in the team cache\n", n)
			}
			return err
		},
	}
}

func cacheExportCommand(g *global) *cobra.Command {
	var opt build.ExportOptions
	cmd := &cobra.Command{
		Use:   "export FILE [TARGET...]",
		Short: "Write results, sources and the SDK to a file, for a site without network",
		Long: `Export writes the results of targets and of all that they need to a tar file, with
their upstream sources and the SDK. Where slipway cache import has taken it,
builds of the targets, and of changes of them, need no network. FILE - is standard
output. Without a target it takes the default variant.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, display, err := g.builder(cmd, &buildFlags{progress: "plain"})
			if err != nil {
				return err
			}
			defer display.Close()
			defer func() { err = errors.Join(err, b.Close(cmd.Context())) }()
			if args[0] == "-" {
				_, err := b.Export(cmd.Context(), cmd.OutOrStdout(), args[1:], opt)
				return err
			}
			// whole or not at all
			f, err := os.CreateTemp(filepath.Dir(args[0]), "."+filepath.Base(args[0])+"-*")
			if err != nil {
				return err
			}
			defer os.Remove(f.Name())
			a, err := b.Export(cmd.Context(), f, args[1:], opt)
			if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
				return err
			}
			if err := os.Rename(f.Name(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], archived(a))
			return nil
		},
	}
	cmd.Flags().BoolVar(&opt.NoSources, "no-sources", false, "leave upstream sources out")
	cmd.Flags().BoolVar(&opt.NoSDK, "no-sdk", false, "leave the SDK out")
	return cmd
}

func archived(a build.Archived) string {
	return fmt.Sprintf("%d results, %d sources, %d SDKs, %s", a.Results, a.Sources, a.SDKs, size(a.Bytes))
}

func cacheImportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Take what slipway cache export wrote into the caches",
		Long: `Import takes the results, sources and the SDK of a file of slipway cache export
into the caches of this machine. Everything is compared with its digest; of a file
that is truncated or damaged no result and no SDK is taken. FILE - is standard
input.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := build.CacheDir()
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			a, err := build.Import(cmd.Context(), dir, in)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), archived(a))
			return nil
		},
	}
}
