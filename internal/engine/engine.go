package engine

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/moby/buildkit/version"
)

// EnvState is the environment variable that overrides the state root.
const EnvState = "SLIPWAY_STATE"

// EnvIdle is the environment variable that overrides how long a daemon without
// clients stays, as a [time.ParseDuration] string.
const EnvIdle = "SLIPWAY_ENGINE_IDLE"

// ErrNotRunning says that no daemon answers on the state root.
var ErrNotRunning = errors.New("no engine is running")

// ErrLost says that the connection to the daemon broke during a call: the
// daemon died or was stopped. The build itself is not at fault.
var ErrLost = errors.New("the engine went away")

// DefaultState returns the state root: $SLIPWAY_STATE, or
// /var/lib/slipway/engine.
func DefaultState() string {
	if dir := os.Getenv(EnvState); dir != "" {
		return dir
	}
	return "/var/lib/slipway/engine"
}

// files names the files of one state root.
type files struct {
	state, lock, start, socket, pid, log, tmp string
}

func layout(state string) (files, error) {
	if state == "" {
		state = DefaultState()
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return files{}, fmt.Errorf("engine state root: %w", err)
	}
	socket, err := socketPath(filepath.Join(state, "engine.sock"))
	if err != nil {
		return files{}, err
	}
	return files{
		state:  state,
		lock:   filepath.Join(state, "lock"),
		start:  filepath.Join(state, "start.lock"),
		socket: socket,
		pid:    filepath.Join(state, "engine.pid"),
		log:    filepath.Join(state, "engine.log"),
		tmp:    filepath.Join(state, "tmp"),
	}, nil
}

// socketPath refuses a path that does not fit in a sockaddr_un: 108 bytes with
// the final NUL, see unix(7).
func socketPath(path string) (string, error) {
	if len(path) > 107 {
		return "", fmt.Errorf("engine socket path %s is %d bytes long, more than the 107 that Linux allows: set %s to a shorter directory", path, len(path), EnvState)
	}
	return path, nil
}

// checkRoot explains the one privilege the engine cannot do without.
func checkRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the build engine must run as root (rootless builds are not supported yet): run slipway as root or through sudo")
	}
	return nil
}

// buildKitVersion is the version of the BuildKit module in this binary.
func buildKitVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == version.Package {
				if dep.Replace != nil {
					dep = dep.Replace
				}
				return dep.Version
			}
		}
	}
	return version.Version
}

// binaryID identifies the running executable: a hash of the Go build ID, which
// changes with every change of the code, and costs no read of the whole file.
var binaryID = sync.OnceValue(func() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return "unknown"
	}
	data, err := note.Data()
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
})
