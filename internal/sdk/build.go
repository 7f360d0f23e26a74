package sdk

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"slipway/internal/workspace"
)

// Build makes the SDK that the lock pins, or gives it from the cache. Packages
// that are in the cache are not downloaded again, and nothing after the
// downloads can reach a network. A pin that no mirror has is a *GoneError.
func Build(ctx context.Context, ws *workspace.Workspace, lock *Lock, opt Options) (*Image, error) {
	opt = opt.withDefaults()
	key, err := Key(ws, lock)
	if err != nil {
		return nil, err
	}
	if err := checkHost(); err != nil {
		return nil, err
	}
	tmp, done, err := workDir(ctx, opt)
	if err != nil {
		return nil, err
	}
	defer done()
	layout := filepath.Join(opt.CacheDir, "sdk", key)
	if img, err := readLayout(layout); err == nil { // made while we waited
		img.Key, img.Cached = key, true
		return img, nil
	}

	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return fetchPackages(gctx, lock, tmp, opt) })
	if lock.Go != (GoPin{}) {
		group.Go(func() error {
			_, err := fetchGo(gctx, lock.Go, lock.Arch, tmp, opt)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}

	newLayout := filepath.Join(tmp, "layout")
	lw, err := newLayoutWriter(newLayout)
	if err != nil {
		return nil, err
	}
	defer lw.Close()
	if err := writeRoot(ctx, ws, lock, tmp, lw, opt); err != nil {
		return nil, err
	}
	opt.OnEvent(Event{Stage: StageLayer, State: StateStart})
	if err := lw.finish(lock.Arch); err != nil {
		return nil, err
	}
	// a half-written layout from before must not be taken for a whole one
	if err := errors.Join(os.RemoveAll(layout), os.Rename(newLayout, layout)); err != nil {
		return nil, err
	}
	img, err := readLayout(layout)
	if err != nil {
		return nil, err
	}
	img.Key = key
	opt.OnEvent(Event{Stage: StageLayer, State: StateDone, Done: img.Size, Total: img.Size})
	return img, nil
}

// workDir gives an empty folder on the file system of the cache, to one run at a
// time.
func workDir(ctx context.Context, opt Options) (tmp string, done func(), err error) {
	base := filepath.Join(opt.CacheDir, "sdk")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", nil, err
	}
	unlock, err := lockDir(ctx, base, opt)
	if err != nil {
		return "", nil, err
	}
	tmp = filepath.Join(base, "tmp")
	done = func() {
		os.RemoveAll(tmp)
		unlock()
	}
	// what an interrupted run left
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		unlock()
		return "", nil, err
	}
	return tmp, done, nil
}

// lockDir keeps two runs from making an SDK in one cache at once.
func lockDir(ctx context.Context, dir string, opt Options) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !told {
			opt.OnEvent(Event{Stage: StageRoot, State: StateWarning, Text: "another slipway is making an SDK: waiting for it"})
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// writeRoot installs the packages into a root and writes it, with what Slipway
// adds, to the layer.
func writeRoot(ctx context.Context, ws *workspace.Workspace, lock *Lock, tmp string, layer io.Writer, opt Options) error {
	opt.OnEvent(Event{Stage: StageRoot, State: StateStart})
	repo := filepath.Join(tmp, "repo")
	if err := writeRepo(ctx, lock, repo, opt); err != nil {
		return err
	}
	hooks := filepath.Join(tmp, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"customize": customize, "mktoolchain": mktoolchain} {
		if err := os.WriteFile(filepath.Join(hooks, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	added, err := additions(ws, lock)
	if err != nil {
		return err
	}

	names := make([]string, len(lock.Packages))
	for i, p := range lock.Packages {
		names[i] = p.Name
	}
	hook := fmt.Sprintf("%s \"$1\" %s %s", shellQuote(hooks+"/customize"), shellQuote(ws.Config.Vendor), strings.Join(ws.SDK.Arches, " "))
	args := []string{
		"--mode=root", "--variant=essential", "--format=tar",
		"--architectures=" + lock.Arch,
		"--include=" + strings.Join(names, ","),
		"--skip=output/dev,check/qemu",
		// the root is a throw-away: waiting for the disk is wasted
		"--dpkgopt=force-unsafe-io",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook=" + hook,
		lock.Suite, "-", "deb [trusted=yes] copy:" + repo + " ./",
	}
	rootDir := filepath.Join(tmp, "root")
	if err := os.MkdirAll(rootDir, 0o755); err != nil {
		return err
	}
	// in memory if there is enough of it, which takes half the time; the mount
	// lives in the namespace below
	prepare := "mount -t proc proc /proc; "
	if memAvailable() >= 4<<30 {
		prepare += `mount -t tmpfs -o mode=755,size=3g slipway "$0"; `
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-ec", prepare + `exec mmdebstrap "$@"`, rootDir}, args...)...)
	cmd.Dir = tmp
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TMPDIR=" + rootDir, "LC_ALL=C.UTF-8", "TZ=UTC", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch),
	}
	// killing the first process of the namespace kills them all, and their mounts
	// go with them; without a network nothing gets past the lock
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Cloneflags: syscall.CLONE_NEWPID}
	cmd.WaitDelay = 20 * time.Second
	var tail tailWriter
	cmd.Stderr = io.MultiWriter(&tail, opt.Log)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("mmdebstrap: %w", err)
	}
	tw := tar.NewWriter(layer)
	terr := copyRoot(tw, out, lock, added)
	// mmdebstrap ends well even if its output is not to our liking, so that an
	// error of its own is known as such
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the SDK's root could not be made: mmdebstrap: %w: its last lines are\n%s", err, tail.String())
	}
	if terr != nil {
		return fmt.Errorf("the SDK's layer could not be written: %w", terr)
	}
	opt.OnEvent(Event{Stage: StageRoot, State: StateDone})
	if lock.Go != (GoPin{}) {
		if err := copyGo(tw, opt.blobPath(lock.Go.SHA256), lock.Go.Module); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(added)) {
		if err := writeEntry(tw, added[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// memAvailable is how many bytes of memory can be had without swapping; 0 if the
// kernel does not tell.
func memAvailable() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeRepo makes a flat apt repository of exactly the locked packages.
func writeRepo(ctx context.Context, lock *Lock, dir string, opt Options) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Dir(opt.blobPath("x")), filepath.Join(dir, "blobs")); err != nil {
		return err
	}
	stanzas := make([][]byte, len(lock.Packages))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, p := range lock.Packages {
		group.Go(func() error {
			control, err := exec.CommandContext(gctx, "dpkg-deb", "--field", opt.blobPath(p.SHA256)).Output()
			if err != nil {
				return fmt.Errorf("package %s: dpkg-deb: %w", p.Name, err)
			}
			var is LockedPackage
			if err := parsePackages(bytes.NewReader(control), func(p LockedPackage, _ bool) { is = p }); err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			if is.Name != p.Name || is.Version != p.Version || is.Arch != p.Arch {
				return fmt.Errorf("%s: the file with SHA-256 %s is %s %s %s, but is locked as %s %s %s: correct the lock or remove it",
					LockFile, p.SHA256, is.Name, is.Version, is.Arch, p.Name, p.Version, p.Arch)
			}
			stanzas[i] = fmt.Appendf(bytes.TrimRight(control, "\n"), "\nFilename: ./blobs/%s\nSize: %d\nSHA256: %s\n\n", p.SHA256, p.Size, p.SHA256)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	packages := bytes.Join(stanzas, nil)
	// mmdebstrap looks for the essential packages of the suite by its name
	release := fmt.Sprintf("Suite: %[1]s\nCodename: %[1]s\nArchitectures: %[2]s\nDate: %[3]s\nSHA256:\n %[4]x %[5]d Packages\n", lock.Suite, lock.Arch,
		time.Unix(epoch, 0).UTC().Format(time.RFC1123), sha256.Sum256(packages), len(packages))
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "Packages"), packages, 0o644),
		os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644),
	)
}

// entry is a file that Slipway adds to a root.
type entry struct {
	header tar.Header
	text   string
}

// additions lists what an SDK has beside its packages and Go, by path. They
// replace what the packages have in their place.
func additions(ws *workspace.Workspace, lock *Lock) (map[string]entry, error) {
	out := map[string]entry{}
	dir := func(name string, uid int) {
		out[name] = entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Uid: uid, Gid: uid}}
	}
	file := func(name, text string) {
		out[name] = entry{header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, text: text}
	}
	link := func(name, to string) {
		out[name] = entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
	}
	for _, a := range ws.SDK.Arches {
		text, err := Macros(ws, a)
		if err != nil {
			return nil, err
		}
		file("usr/lib/slipway/macros."+a, text)
		dir(a+"-"+ws.Config.Vendor+"-linux-gnu", 0)
		dir(a+"-"+ws.Config.Vendor+"-linux-gnu/sys-root", 0)
	}
	dir("usr/lib/slipway", 0)
	dir("etc/rpm", 0)
	if len(ws.SDK.Arches) > 0 {
		link("etc/rpm/macros.slipway", "/usr/lib/slipway/macros."+ws.SDK.Arches[0])
	}
	if lock.Go != (GoPin{}) {
		link("usr/bin/go", "../lib/go/bin/go")
		link("usr/bin/gofmt", "../lib/go/bin/gofmt")
	}
	for _, name := range []string{"", "/.cache", "/rpmbuild", "/rpmbuild/SPECS", "/rpmbuild/SOURCES", "/rpmbuild/BUILD",
		"/rpmbuild/RPMS", "/rpmbuild/SRPMS", "/rpmbuild/BUILDROOT"} {
		dir("home/builder"+name, 1000)
	}
	// mount points, because an SDK is mounted read-only
	for _, name := range []string{"slipway", "sysroot", "work", "parts", "dev", "proc", "sys"} {
		dir(name, 0)
	}
	file("etc/hostname", "slipway\n")
	file("etc/hosts", "127.0.0.1 localhost slipway\n::1 localhost\n")
	file("etc/resolv.conf", "")
	file("etc/machine-id", "")
	return out, nil
}

// pruned matches what no build needs, and what differs from one run to the next.
var pruned = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(` + strings.Join([]string{
		`(run|tmp|boot|var/tmp|var/log|var/cache|var/lib/apt|var/lib/dpkg/(info|updates|triggers)|etc/apt|etc/dpkg/dpkg\.cfg\.d)/.+`,
		`dev/.+`,
		`var/lib/dpkg/.*(-old|lock.*)`, `etc/(passwd|group|shadow|gshadow|subuid|subgid)-`, `etc/\.pwd\.lock`,
		`var/lib/dbus/machine-id`, `var/lib/systemd/.+`,
		`usr/share/(man|info|locale|gtk-doc|bug|lintian|gitweb|bash-completion|zsh|vim|emacs|menu|pixmaps|applications|doc-base|initramfs-tools)/.+`,
		`usr/share/doc/.*/[^/]*[^/t]`, // all but copyright
		`usr/(share|lib)/.*\.pod`,
		// of gcc: the sanitizers, and a tool to look into LTO objects
		`usr/lib/gcc/.*/lib(asan|tsan|lsan|ubsan|hwasan)[^/]*\.a`, `usr/lib/[^/]*/lib(asan|tsan|hwasan)\.so.*`, `usr/bin/.*-lto-dump-[0-9]+`,
		// static libraries, of which programs of the SDK itself are never linked
		`usr/lib/[^/]*-linux-gnu/lib(crypto|ssl|sepol|pcre2-.*|blkid|selinux|elf|mount|popt)\.a`,
	}, "|") + `)$`)
})

// copyRoot copies the tar of a root, so that only what the packages say is left
// in it: no times, no names of the host's users, nothing pruned, nothing that
// is added later. It fails if the root has other packages than the lock.
func copyRoot(tw *tar.Writer, r io.Reader, lock *Lock, added map[string]entry) error {
	tr := tar.NewReader(r)
	dropped := map[string]bool{}
	installed := false
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if name == "." {
			continue
		}
		if _, ok := added[name]; ok || pruned().MatchString(name) {
			dropped[name] = true
			continue
		}
		out := tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size}
		for key, value := range h.PAXRecords {
			if strings.HasPrefix(key, "SCHILY.xattr.") {
				if out.PAXRecords == nil {
					out.PAXRecords = map[string]string{}
				}
				out.PAXRecords[key] = value
			}
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out.Name += "/"
		case tar.TypeLink:
			out.Linkname = strings.TrimPrefix(path.Clean(h.Linkname), "/")
			if dropped[out.Linkname] {
				return fmt.Errorf("%s is a hard link to %s, which is left out", name, out.Linkname)
			}
		case tar.TypeReg, tar.TypeSymlink:
		default:
			return fmt.Errorf("%s is of a kind (%q) that an SDK cannot have", name, h.Typeflag)
		}
		var content io.Reader = tr
		if name == "var/lib/dpkg/status" {
			text, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			if err := checkInstalled(text, lock); err != nil {
				return err
			}
			installed = true
			content = bytes.NewReader(text)
		}
		if err := writeHeader(tw, out); err != nil {
			return err
		}
		if _, err := io.Copy(tw, content); err != nil {
			return err
		}
	}
	if !installed {
		return errors.New("the root has no list of packages")
	}
	return nil
}

// checkInstalled holds dpkg's status file against the lock.
func checkInstalled(status []byte, lock *Lock) error {
	have := &Lock{}
	if err := parsePackages(bytes.NewReader(status), func(p LockedPackage, _ bool) { have.Packages = append(have.Packages, p) }); err != nil {
		return err
	}
	want := &Lock{Packages: lock.Packages}
	if changes := diff(want, have); len(changes) > 0 {
		return fmt.Errorf("the root has other packages than %s: %v", LockFile, changes)
	}
	return nil
}

func writeHeader(tw *tar.Writer, h tar.Header) error {
	h.ModTime = time.Unix(epoch, 0)
	if err := tw.WriteHeader(&h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

func writeEntry(tw *tar.Writer, e entry) error {
	if err := writeHeader(tw, e.header); err != nil {
		return err
	}
	_, err := io.WriteString(tw, e.text)
	return err
}

// goPruned matches what a toolchain needs only to test or document itself.
var goPruned = regexp.MustCompile(`^(test|api|doc)/|/testdata/|_test\.go$`)

// copyGo unpacks the module zip of a Go toolchain to usr/lib/go. Module zips
// have no modes, and name nested go.mod files _go.mod.
func copyGo(tw *tar.Writer, zipFile, module string) error {
	zr, err := zip.OpenReader(zipFile)
	if err != nil {
		return fmt.Errorf("%s: %w", module, err)
	}
	defer zr.Close()
	dirs := map[string]bool{"usr/lib": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if dirs[dir] {
			return nil
		}
		dirs[dir] = true
		return errors.Join(mkdir(path.Dir(dir)), writeHeader(tw, tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
	}
	files := slices.Clone(zr.File)
	slices.SortFunc(files, func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range files {
		rel, ok := strings.CutPrefix(f.Name, module+"/")
		if !ok || path.Clean(rel) != rel || !filepath.IsLocal(rel) {
			return fmt.Errorf("%s: unexpected file %s", module, f.Name)
		}
		if goPruned.MatchString(rel) {
			continue
		}
		mode := int64(0o644)
		if strings.HasPrefix(rel, "bin/") || strings.HasPrefix(rel, "pkg/tool/") {
			mode = 0o755
		}
		name := "usr/lib/go/" + rel
		if path.Base(name) == "_go.mod" {
			name = path.Dir(name) + "/go.mod"
		}
		if err := mkdir(path.Dir(name)); err != nil {
			return err
		}
		if err := writeHeader(tw, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(f.UncompressedSize64)}); err != nil {
			return err
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		_, err = io.Copy(tw, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// tailWriter keeps the last lines of what is written to it.
type tailWriter struct{ buf []byte }

func (t *tailWriter) Write(p []byte) (int, error) {
	const most = 4096
	t.buf = append(t.buf, p...)
	if len(t.buf) > most {
		t.buf = t.buf[len(t.buf)-most:]
	}
	return len(p), nil
}

func (t *tailWriter) String() string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	for i, line := range lines {
		if len(line) > 300 {
			lines[i] = line[:300] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
