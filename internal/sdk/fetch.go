package sdk

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// GoneError lists pinned packages that no mirror has any more.
type GoneError struct{ Packages []LockedPackage }

func (e *GoneError) Error() string {
	names := make([]string, len(e.Packages))
	for i, p := range e.Packages {
		names[i] = p.Name + " " + p.Version
	}
	return "the Debian archive no longer has what " + LockFile + " pins: " + strings.Join(names, ", ")
}

// blobPath is where content with that SHA-256 is kept. Only verified content
// gets there.
func (o Options) blobPath(sha string) string {
	return filepath.Join(o.CacheDir, "sdk", "blobs", sha)
}

func (o Options) hasBlob(sha string, size int64) bool {
	fi, err := os.Stat(o.blobPath(sha))
	return err == nil && fi.Mode().IsRegular() && (size == 0 || fi.Size() == size)
}

// keep moves a file to its place if its content is what it should be.
func (o Options) keep(file, sha string) error {
	got, err := hashFile(file)
	if err != nil {
		return err
	}
	if got != sha {
		return fmt.Errorf("%s: SHA-256 is %s, want %s", filepath.Base(file), got, sha)
	}
	if err := os.MkdirAll(filepath.Dir(o.blobPath(sha)), 0o755); err != nil {
		return err
	}
	return os.Rename(file, o.blobPath(sha))
}

func hashFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fetchPackages downloads what is missing of the lock's packages. tmp is a
// folder on the same file system as the cache.
func fetchPackages(ctx context.Context, lock *Lock, tmp string, opt Options) error {
	missing := func() (out []LockedPackage, size int64) {
		for _, p := range lock.Packages {
			if !opt.hasBlob(p.SHA256, p.Size) {
				out = append(out, p)
				size += p.Size
			}
		}
		return out, size
	}
	todo, total := missing()
	if len(todo) == 0 {
		return nil
	}
	mirrors, err := hostMirrors(aptEtc, lock.Suite)
	if err != nil {
		return err
	}
	a, err := newApt(ctx, filepath.Join(tmp, "apt"), "", lock, opt.Log)
	if err != nil {
		return err
	}
	opt.OnEvent(Event{Stage: StageDownload, State: StateStart, Total: total})
	var failures []error
	onlyGone := true
	for _, mirror := range mirrors {
		done, size := total, int64(0)
		if todo, size = missing(); len(todo) == 0 {
			break
		}
		done -= size
		gone, err := a.download(ctx, mirror, todo, tmp, func(n int64) {
			done += n
			opt.OnEvent(Event{Stage: StageDownload, State: StateProgress, Done: done, Total: total})
		}, opt)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failures = append(failures, err)
		}
		left, _ := missing()
		onlyGone = onlyGone && len(left) <= gone
	}
	if todo, _ = missing(); len(todo) > 0 {
		if onlyGone {
			return &GoneError{Packages: todo}
		}
		return fmt.Errorf("%d of the SDK's Debian packages cannot be downloaded: check the network and the apt sources of this machine: %w",
			len(todo), errors.Join(failures...))
	}
	opt.OnEvent(Event{Stage: StageDownload, State: StateDone, Done: total, Total: total})
	return nil
}

// download asks one mirror for the packages, and keeps those that come and are
// right. gone is how many the mirror said it does not have.
func (a *privateApt) download(ctx context.Context, mirror string, pkgs []LockedPackage, tmp string, progress func(int64), opt Options) (gone int, err error) {
	dir, err := os.MkdirTemp(tmp, "debs-")
	if err != nil {
		return 0, err
	}
	args := []string{"download-file", "-q"}
	sizes := map[string]int64{}
	for _, p := range pkgs {
		url := mirror + "/" + p.Path
		sizes[url] = p.Size
		args = append(args, url, filepath.Join(dir, p.SHA256), "SHA256:"+p.SHA256)
	}
	cmd := a.command(ctx, aptHelper, args...)
	var stderr strings.Builder
	cmd.Stderr = io.MultiWriter(&stderr, a.log)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// apt names a file when it begins with it: then the one before is complete
	var before int64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(a.log, lines.Text())
		if f := strings.Fields(lines.Text()); len(f) > 1 && strings.HasPrefix(f[0], "Get:") {
			progress(before)
			before = sizes[f[1]]
		}
	}
	_, _ = io.Copy(io.Discard, out)
	err = cmd.Wait()
	if err != nil {
		err = fmt.Errorf("apt-helper: %w%s", err, aptErrors([]byte(stderr.String())))
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.HasPrefix(line, "E: Failed to fetch") && (strings.Contains(line, " 404 ") || strings.Contains(line, "File not found")) {
			gone++
		}
	}
	// what came is kept even when the rest did not, so that the next try is shorter
	for _, p := range pkgs {
		file := filepath.Join(dir, p.SHA256)
		if fi, serr := os.Stat(file); serr != nil || fi.Size() != p.Size {
			continue
		}
		if kerr := opt.keep(file, p.SHA256); kerr != nil {
			err = errors.Join(err, kerr)
		}
	}
	return gone, err
}

// fetchGo downloads a Go toolchain unless it is there, and completes the pin.
// The go command checks the module against the checksum database that the
// host's Go settings name; a sum in the pin is checked as well.
func fetchGo(ctx context.Context, pin GoPin, debArch, tmp string, opt Options) (GoPin, error) {
	if pin.SHA256 != "" && opt.hasBlob(pin.SHA256, 0) {
		return pin, nil
	}
	opt.OnEvent(Event{Stage: StageGo, State: StateStart})
	pin.Module = cmp.Or(pin.Module, "golang.org/toolchain@v0.0.1-go"+pin.Version+".linux-"+debArch)
	dir, err := os.MkdirTemp(tmp, "go-")
	if err != nil {
		return pin, err
	}
	// the go command unpacks the module too, which takes much more than the zip
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, opt.GoTool, "mod", "download", "-modcacherw", "-json", pin.Module)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOMODCACHE="+dir+"/mod", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local")
	var stderr strings.Builder
	cmd.Stderr = io.MultiWriter(&stderr, opt.Log)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return pin, ctx.Err()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return pin, fmt.Errorf("the Go toolchain of the SDK is downloaded by the go command, which is not on this machine: install Go, see https://go.dev/doc/install")
	}
	var info struct{ Zip, Sum, Error string }
	if jerr := json.Unmarshal(out, &info); jerr != nil || info.Error != "" || err != nil {
		return pin, fmt.Errorf("%s: go mod download: %s: check the network and the Go version in the SDK's manifest",
			pin.Module, cmp.Or(info.Error, strings.TrimSpace(stderr.String()), fmt.Sprint(err)))
	}
	sha, err := hashFile(info.Zip)
	if err != nil {
		return pin, err
	}
	if pin.Sum != "" && pin.Sum != info.Sum {
		return pin, fmt.Errorf("%s: sum is %s, but %s pins %s", pin.Module, info.Sum, LockFile, pin.Sum)
	}
	if pin.SHA256 != "" && pin.SHA256 != sha {
		return pin, fmt.Errorf("%s: SHA-256 is %s, but %s pins %s", pin.Module, sha, LockFile, pin.SHA256)
	}
	pin.Sum, pin.SHA256 = info.Sum, sha
	if err := opt.keep(info.Zip, sha); err != nil {
		return pin, err
	}
	opt.OnEvent(Event{Stage: StageGo, State: StateDone})
	return pin, nil
}

// oneAtATime lets several goroutines share an event handler and a log.
func (o Options) oneAtATime() Options {
	var mu sync.Mutex
	handler, log := o.OnEvent, o.Log
	o.OnEvent = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		handler(e)
	}
	o.Log = writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	})
	return o
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
