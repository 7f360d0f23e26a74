package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipway/internal/apt"
)

// debianAttempts lists where the archive of the host's apt may have the file. Which component a source package is in is not known,
// so each component that the host uses is asked, main first.
func (f *fetcher) debianAttempts(u URL) ([]attempt, error) {
	entries, err := apt.Read(f.opt.AptDir)
	if err != nil {
		return nil, err
	}
	addresses := poolAddresses(apt.Debian(entries), u.Source, u.File)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("apt knows no Debian archive: no entry under %s with the component main and a Debian suite (such as bookworm or stable)", f.opt.AptDir)
	}
	var as []attempt
	for _, address := range addresses {
		if strings.HasPrefix(address, "file:") {
			fu, err := ParseURL(address)
			if err != nil {
				return nil, err
			}
			as = append(as, f.fileAttempt("upstream", address, fu.Path))
			continue
		}
		as = append(as, attempt{"upstream", redacted(address), func(ctx context.Context, part string, p *progress) error {
			return f.aptGet(ctx, address, part, p)
		}})
	}
	return as, nil
}

// aptGet downloads with apt's own downloader, so that apt's proxies, credentials and transports are used. It resumes by itself.
func (f *fetcher) aptGet(ctx context.Context, address, part string, p *progress) error {
	if _, err := os.Stat(f.opt.AptHelper); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: install the Debian package apt, or name a lookaside cache that has the file", f.opt.AptHelper)
	}
	cmd := exec.CommandContext(ctx, f.opt.AptHelper, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download-file", address, part)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), f.opt.Env...)
	// A group of its own: the transports are children of apt-helper, and all are to stop with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-exited:
				return
			case <-tick.C:
				p.bytes(size(part), 0)
			}
		}
	}()
	err := cmd.Wait()
	close(exited)
	<-watched
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case bytes.Contains(output.Bytes(), []byte("No space left on device")):
		return f.store.failed(part, syscall.ENOSPC, size(part), 0)
	}
	return fmt.Errorf("apt's downloader: %s", aptReason(output.String(), address, err))
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// aptReason picks apt's errors out of its output.
func aptReason(output, address string, err error) string {
	var reasons []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if reason, ok := strings.CutPrefix(line, "E: "); ok && reason != "Download Failed" {
			reasons = append(reasons, strings.TrimSpace(strings.TrimPrefix(reason, "Failed to fetch "+address)))
		}
	}
	if len(reasons) == 0 {
		return strings.TrimSpace(fmt.Sprintf("%v %s", err, output))
	}
	return strings.Join(reasons, "; ")
}

// poolAddresses are the addresses that a source package's file may have in these archives, main first. The security archive keeps its pool under
// "updates".
func poolAddresses(archives []apt.Entry, source, file string) []string {
	prefix := source[:1]
	if strings.HasPrefix(source, "lib") && len(source) > 3 {
		prefix = source[:4]
	}
	var all []string
	for _, e := range archives {
		components := append([]string{"main"}, e.Components...)
		for _, uri := range e.URIs {
			if strings.HasPrefix(uri, "cdrom:") {
				continue
			}
			for _, component := range components {
				for _, suite := range e.Suites {
					pool := "pool/"
					if strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates") {
						pool = "pool/updates/"
					}
					address := strings.TrimRight(uri, "/") + "/" + pool + component + "/" + prefix + "/" + source + "/" + file
					if !slices.Contains(all, address) {
						all = append(all, address)
					}
				}
			}
		}
	}
	return all
}
