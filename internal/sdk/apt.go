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

	"slipway/internal/apt"
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

// privateApt is an apt that knows nothing of what is installed on the host.
type privateApt struct {
	config string // path of its apt.conf
	log    io.Writer
}

// newApt makes a private apt below dir with one mirror, or none.
func newApt(ctx context.Context, dir, mirror string, lock *Lock, log io.Writer) (*privateApt, error) {
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
	a := &privateApt{config: filepath.Join(dir, "apt.conf"), log: log}
	return a, errors.Join(
		os.WriteFile(a.config, conf.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "state/status"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "etc/sources.list"), []byte(sources), 0o644),
	)
}

var reAcquire = regexp.MustCompile(`(?i)^Acquire::(https?|ftp|tor|retries|forceipv[46]|max-?.*|queue-mode)\b`)

func (a *privateApt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stderr = a.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run gives the standard output; an error has the lines that begin with "E:".
func (a *privateApt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
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
	var a *privateApt
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
func (a *privateApt) index(ctx context.Context) (index map[packageID]LockedPackage, essential []string, err error) {
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

// hostMirrors lists the mirrors of the Debian archive that the host's apt
// sources below etc name, best first: those with the wanted suite, then those
// with other base suites of Debian.
func hostMirrors(etc, suite string) ([]string, error) {
	entries, err := apt.Read(etc)
	if err != nil {
		return nil, err
	}
	var exact, other []string
	for _, e := range apt.Debian(entries) {
		// a repository with a key of its own is not Debian's
		if e.SignedBy != "" && !strings.HasPrefix(filepath.Base(e.SignedBy), "debian-archive") {
			continue
		}
		for _, name := range e.Suites {
			if strings.ContainsAny(name, "-/") { // bookworm-security, bookworm/updates
				continue
			}
			for _, uri := range e.URIs {
				// media, and lists of mirrors that are themselves on the network
				if scheme, _, _ := strings.Cut(uri, ":"); scheme == "cdrom" || strings.HasPrefix(scheme, "mirror") {
					continue
				}
				if uri = strings.TrimRight(uri, "/"); name == suite {
					exact = append(exact, uri)
				} else {
					other = append(other, uri)
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
