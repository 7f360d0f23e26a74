package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probeCode is the machine code of probe.asm, as a test checks.
const probeCode = "" +
	"fa31c08ed88ec08ed0bc007cfcbf0010b90018f3abc70600100320c70600200330c70600308300660f0116b07c0f20c0" +
	"0c010f22c0ea3a7c080066b810008ed88ec08ed0dbe39bb8200600000f22e0b8001000000f22d8b9800000c00f320d00" +
	"0100000f300f20c024fb0d020000800f22c0ea797c0000180031c00fa266480f6ec466480f7ec3b010e6f4f4ebfd6690" +
	"0000000000000000ffff0000009acf00ffff00000092cf00ffff0000009aaf001f00907c"

// probeSector is the boot sector: the code, and the mark that it may be booted.
func probeSector() ([]byte, error) {
	code, err := hex.DecodeString(probeCode)
	if err != nil {
		return nil, err
	}
	sector := make([]byte, 512)
	copy(sector, code)
	sector[510], sector[511] = 0x55, 0xaa
	return sector, nil
}

const (
	probeLimit = 2 * time.Second
	// isa-debug-exit makes 2n+1 of the written value n.
	probeExit = 0x10<<1 | 1
)

// Probe starts a tiny guest that goes through 32-bit to 64-bit mode and tells
// whether it got there. An accelerator that can be opened is no proof: there
// are machines whose /dev/kvm opens and whose guests die in protected mode.
func Probe(ctx context.Context, accel string) error {
	binary, err := findBinary()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "slipway-probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sector, err := probeSector()
	if err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		return err
	}
	// SeaBIOS does not read a disk that is smaller than a cylinder.
	if err := os.Truncate(disk, 1<<20); err != nil {
		return err
	}
	limit := probeLimit
	if accel == "tcg" {
		limit = 0 // nothing hangs there, it may only be slow
	}
	run := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err = exec.CommandContext(run, binary, "-accel", accel, "-machine", "q35", "-m", "16", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
		"-drive", "if=ide,format=raw,file="+escape(disk)).Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case run.Err() != nil:
		return fmt.Errorf("accelerator %s: a test guest did not run within %v", accel, limit)
	case errors.As(err, &exit) && exit.ExitCode() == probeExit:
		return nil
	}
	return fmt.Errorf("accelerator %s: a test guest did not run: %w", accel, err)
}

// chooseAccel turns "auto" into kvm where it works, else tcg.
func chooseAccel(ctx context.Context, accel string) (string, error) {
	switch accel {
	case "tcg", "kvm":
		return accel, nil
	case "", "auto":
	default:
		return "", fmt.Errorf("accelerator %q: want auto, kvm or tcg", accel)
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return "tcg", nil
	} else if err := f.Close(); err != nil {
		return "", err
	}
	if err := Probe(ctx, "kvm"); err == nil {
		return "kvm", nil
	}
	return "tcg", ctx.Err()
}
