// Package leftover tells what a test suite forgot: mounts and processes. Only
// tests import it.
package leftover

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
)

// patience is what a process that was told to end, or killed, may take on a busy
// machine. One that was forgotten stays longer: a daemon for its idle time.
const patience = 10 * time.Second

// Check reports mounts below dir, and processes with an environment variable of
// that name whose value begins with dir.
func Check(dir, variable string) error {
	deadline := time.Now().Add(patience)
	for {
		err := now(dir, []byte(variable+"="+dir))
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func now(dir string, mark []byte) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	for _, m := range mounts {
		err = errors.Join(err, fmt.Errorf("left mounted: %s", m.Mountpoint))
	}
	procs, globErr := filepath.Glob("/proc/[0-9]*/environ")
	err = errors.Join(err, globErr)
	for _, p := range procs {
		env, _ := os.ReadFile(p) // it may have ended since
		if bytes.Contains(env, mark) {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			err = errors.Join(err, fmt.Errorf("left running: %s %q", filepath.Dir(p), command))
		}
	}
	return err
}
