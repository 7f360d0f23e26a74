package qemu

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probeSector is the boot sector made from probe.asm by
//
//	as --64 -o probe.o probe.asm
//	ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
//
//go:embed probe.bin
var probeSector []byte

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
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, probeSector, 0o600); err != nil {
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
