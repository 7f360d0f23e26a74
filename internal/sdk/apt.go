package sdk

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/workspace"
)

const (
	aptHelper     = "/usr/lib/apt/apt-helper"
	debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	aptEtc        = "/etc/apt"
)

// Resolve pins the newest packages that the Debian archive has for the
// workspace's SDK, and lists what differs from slipway.lock. It writes no lock.
//
// Mirrors are those of the host's own apt sources; only the base suite is used,
// since the pins of a suite with updates would soon be gone from the archive.
// apt checks the archive's signature.
func Resolve(ctx context.Context, ws *workspace.Workspace, opt Options) (*Lock, []Change, error) {
	opt = opt.withDefaults()
	if err := checkHost(); err != nil {
		return nil, nil, err
	}
	old, err := ReadLock(filepath.Join(ws.Root, LockFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	mirrors, err := hostMirrors(aptEtc, ws.SDK.Suite)
	if err != nil {
		return nil, nil, err
	}
	tmp, done, err := workDir(ctx, opt)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	opt.OnEvent(Event{Stage: StageResolve, State: StateStart})
	lock := request(ws.SDK)
	group, gctx := errgroup.WithContext(ctx)
	if lock.Go.Version != "" {
		group.Go(func() (err error) {
			pin := GoPin{Version: lock.Go.Version}
			if old != nil && old.Go.Version == pin.Version && old.Arch == lock.Arch {
				pin = old.Go
			}
			lock.Go, err = fetchGo(gctx, pin, lock.Arch, tmp, opt)
			return err
		})
	}
	group.Go(func() (err error) {
		lock.Packages, err = resolvePackages(gctx, mirrors, lock, tmp, opt)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	lock = lock.sorted()
	if err := lock.check(); err != nil {
		return nil, nil, fmt.Errorf("what the archive offers cannot be pinned: %w", err)
	}
	opt.OnEvent(Event{Stage: StageResolve, State: StateDone})
	return lock, diff(old, lock), nil
}

// apt is a private apt, which knows nothing of what is installed on the host.
type apt struct {
	config string // path of its apt.conf
	log    io.Writer
}

// newApt makes a private apt below dir with one mirror, or none.
func newApt(ctx context.Context, dir, mirror string, lock *Lock, log io.Writer) (*apt, error) {
	for _, sub := range []string{"etc/sources.list.d", "etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	// how to reach the network (proxies, certificates) is the host's business
	host, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	var conf bytes.Buffer
	for line := range bytes.Lines(host) {
		if reAcquire.Match(line) {
			conf.Write(line)
		}
	}
	fmt.Fprintf(&conf, `Dir::State %[1]q;
Dir::State::status %[2]q;
Dir::Cache %[3]q;
Dir::Etc %[4]q;
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Log %[1]q;
APT::Architecture %[5]q;
#clear APT::Architectures;
APT::Architectures { %[5]q; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
`, dir+"/state", dir+"/state/status", dir+"/cache", dir+"/etc", lock.Arch)
	sources := ""
	if mirror != "" {
		sources = fmt.Sprintf("deb [signed-by=%s arch=%s] %s %s %s\n", debianKeyring, lock.Arch, mirror, lock.Suite, strings.Join(lock.Components, " "))
	}
	a := &apt{config: filepath.Join(dir, "apt.conf"), log: log}
	return a, errors.Join(
		os.WriteFile(a.config, conf.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "state/status"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "etc/sources.list"), []byte(sources), 0o644),
	)
}

var reAcquire = regexp.MustCompile(`(?i)^Acquire::(https?|ftp|tor|retries|forceipv[46]|max-?.*|queue-mode)\b`)

func (a *apt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stderr = a.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run gives the standard output; an error has the lines that begin with "E:".
func (a *apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, all bytes.Buffer
	cmd := a.command(ctx, name, args...)
	cmd.Stdout = &out
	cmd.Stderr = io.MultiWriter(&all, a.log)
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w%s", filepath.Base(name), err, aptErrors(all.Bytes()))
	}
	return out.Bytes(), nil
}

func aptErrors(stderr []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(stderr)) {
		if strings.HasPrefix(line, "E:") {
			b.WriteString("\n  " + strings.TrimSpace(line))
		}
	}
	return b.String()
}

var (
	reInst    = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) .*\[(\S+)\]\)`)
	reUnknown = regexp.MustCompile(`Unable to locate package (\S+)|Package '(\S+)' has no installation candidate|Couldn't find any package by (?:glob|regex) '(.*)'`)
)

// resolvePackages asks the archive which packages the essential set and the
// requested packages come to.
func resolvePackages(ctx context.Context, mirrors []string, lock *Lock, tmp string, opt Options) ([]LockedPackage, error) {
	var failures []error
	var a *apt
	for _, mirror := range mirrors {
		dir, err := os.MkdirTemp(tmp, "apt-")
		if err != nil {
			return nil, err
		}
		try, err := newApt(ctx, dir, mirror, lock, opt.Log)
		if err != nil {
			return nil, err
		}
		if _, err = try.run(ctx, "apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"); err == nil {
			a = try
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failures = append(failures, err)
	}
	if a == nil {
		return nil, fmt.Errorf("no mirror of the apt sources of this machine offers Debian %s (%s): %w",
			lock.Suite, strings.Join(lock.Components, ", "), errors.Join(failures...))
	}
	index, essential, err := a.index(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"install", "--simulate", "-q", "--no-install-recommends", "--"}
	args = append(append(args, essential...), lock.Requested...)
	plan, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		if m := reUnknown.FindStringSubmatch(err.Error()); m != nil {
			return nil, fmt.Errorf("%s: packages has %s, which Debian %s (%s) does not have: correct the name or add its component",
				workspace.SDKFile, cmp.Or(m[1], m[2], m[3]), lock.Suite, strings.Join(lock.Components, ", "))
		}
		return nil, fmt.Errorf("%s: the packages cannot be installed together: %w", workspace.SDKFile, err)
	}
	var out []LockedPackage
	for _, m := range reInst.FindAllStringSubmatch(string(plan), -1) {
		name, _, _ := strings.Cut(m[1], ":")
		p, ok := index[packageID{name, m[2], m[3]}]
		if !ok {
			return nil, fmt.Errorf("apt chose %s %s, which is not in the package index", name, m[2])
		}
		out = append(out, p)
	}
	return out, nil
}

type packageID struct{ name, version, arch string }

// index reads the package index, and names its essential packages.
func (a *apt) index(ctx context.Context) (index map[packageID]LockedPackage, essential []string, err error) {
	files, err := a.run(ctx, "apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
	if err != nil {
		return nil, nil, err
	}
	index = map[packageID]LockedPackage{}
	for _, file := range strings.Fields(string(files)) {
		cmd := a.command(ctx, aptHelper, "cat-file", file)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return nil, nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, nil, err
		}
		err = parsePackages(pipe, func(p LockedPackage, isEssential bool) {
			index[packageID{p.Name, p.Version, p.Arch}] = p
			if isEssential && !slices.Contains(essential, p.Name) {
				essential = append(essential, p.Name)
			}
		})
		_, _ = io.Copy(io.Discard, pipe)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return nil, nil, fmt.Errorf("package index %s: %w", filepath.Base(file), err)
		}
	}
	return index, essential, nil
}

// parsePackages reads a Packages index (Debian policy 5.1) and calls fn with
// each package of it.
func parsePackages(r io.Reader, fn func(p LockedPackage, essential bool)) error {
	br := bufio.NewReaderSize(r, 1<<20)
	var p LockedPackage
	essential := false
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d is longer than 1 MiB", n)
		}
		if err != nil && err != io.EOF {
			return err
		}
		text := bytes.TrimRight(line, " \t\r\n")
		if len(text) == 0 {
			if p.Name != "" {
				fn(p, essential)
			}
			p, essential = LockedPackage{}, false
		} else if key, value, ok := bytes.Cut(text, []byte(":")); ok && len(key) > 0 && key[0] != ' ' && key[0] != '\t' {
			value = bytes.TrimSpace(value)
			switch string(key) {
			case "Package":
				p.Name = string(value)
			case "Version":
				p.Version = string(value)
			case "Architecture":
				p.Arch = string(value)
			case "Essential":
				essential = string(value) == "yes"
			case "Filename":
				p.Path = strings.TrimPrefix(string(value), "./")
			case "SHA256":
				p.SHA256 = string(value)
			case "Size":
				size, err := strconv.ParseInt(string(value), 10, 64)
				if err != nil || size < 0 {
					return fmt.Errorf("line %d: Size is %q", n, value)
				}
				p.Size = size
			}
		}
		if err == io.EOF {
			if p.Name != "" {
				fn(p, essential)
			}
			return nil
		}
	}
}

// aptSource is one entry of the host's apt sources (sources.list(5)).
type aptSource struct {
	uris, suites, components []string
	signedBy                 string
}

// hostMirrors lists the mirrors of the Debian archive that the host's apt
// sources below etc name, best first: those with the wanted suite, then those
// with other base suites of Debian.
func hostMirrors(etc, suite string) ([]string, error) {
	var all []aptSource
	for _, pattern := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		files, err := filepath.Glob(filepath.Join(etc, pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			parse := parseSourcesList
			if strings.HasSuffix(file, ".sources") {
				parse = parseSourcesDeb822
			}
			entries, err := parse(string(text))
			if err != nil {
				return nil, fmt.Errorf("%s:%w", file, err)
			}
			all = append(all, entries...)
		}
	}
	var exact, other []string
	for _, s := range all {
		// a repository with a key of its own is not Debian's
		if s.signedBy != "" && !strings.HasPrefix(filepath.Base(s.signedBy), "debian-archive") {
			continue
		}
		if !slices.Contains(s.components, "main") {
			continue
		}
		for _, name := range s.suites {
			if strings.ContainsAny(name, "-/") { // bookworm-security, bookworm/updates
				continue
			}
			for _, uri := range s.uris {
				list, err := expandMirror(uri)
				if err != nil {
					return nil, err
				}
				if name == suite {
					exact = append(exact, list...)
				} else {
					other = append(other, list...)
				}
			}
		}
	}
	var out []string
	for _, uri := range append(exact, other...) {
		if !slices.Contains(out, uri) {
			out = append(out, uri)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the apt sources below %s name no mirror of Debian: add one to %s/sources.list, "+
			"as deb <mirror> %s main, or use a machine that has one", etc, etc, suite)
	}
	return out, nil
}

// expandMirror gives the base addresses that packages can be downloaded from;
// none for media and for mirror lists that are themselves on the network.
func expandMirror(uri string) ([]string, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	switch scheme {
	case "cdrom", "mirror", "mirror+http", "mirror+https":
		return nil, nil
	case "mirror+file": // apt-transport-mirror(1)
		text, err := os.ReadFile("/" + strings.TrimLeft(rest, "/"))
		if err != nil {
			return nil, fmt.Errorf("mirror list of the apt sources: %w", err)
		}
		var out []string
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
				out = append(out, strings.TrimRight(f[0], "/"))
			}
		}
		return out, nil
	}
	return []string{strings.TrimRight(uri, "/")}, nil
}

// parseSourcesList reads the one-line format: deb [options] uri suite component…
func parseSourcesList(text string) ([]aptSource, error) {
	var out []aptSource
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		kind, rest := cutSpace(line)
		if kind != "deb" {
			continue
		}
		var s aptSource
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, fmt.Errorf("%d: [ is not closed", n)
			}
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(strings.ToLower(o), "signed-by="); ok {
					s.signedBy = o[len(o)-len(v):]
				}
			}
			rest = after
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return nil, fmt.Errorf("%d: an address and a suite must follow deb", n)
		}
		s.uris, s.suites, s.components = f[:1], f[1:2], f[2:]
		out = append(out, s)
	}
	return out, nil
}

func cutSpace(s string) (string, string) {
	s = strings.TrimSpace(s)
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// parseSourcesDeb822 reads the format of stanzas.
func parseSourcesDeb822(text string) ([]aptSource, error) {
	var out []aptSource
	fields, last := map[string]string{}, ""
	flush := func() {
		kinds := strings.Fields(fields["types"])
		enabled := strings.ToLower(fields["enabled"])
		if slices.Contains(kinds, "deb") && !slices.Contains([]string{"no", "false", "without", "off", "disable", "0"}, enabled) {
			out = append(out, aptSource{
				uris:       strings.Fields(fields["uris"]),
				suites:     strings.Fields(fields["suites"]),
				components: strings.Fields(fields["components"]),
				signedBy:   strings.TrimSpace(fields["signed-by"]),
			})
		}
		fields, last = map[string]string{}, ""
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "":
			flush()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("%d: a continued line has no field before it", n)
			}
			fields[last] += "\n" + strings.TrimSpace(line)
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("%d: want a field and a colon", n)
			}
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return out, nil
}
