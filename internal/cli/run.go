package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/image/qemu"
)

// shutdownTime is how long a machine whose disk is kept may take to shut down.
const shutdownTime = time.Minute

type runFlags struct {
	buildFlags
	image, exec, console string
	secureBoot           string // file of firmware variables
	machine              qemu.Machine
	drives               []string
	persist              bool
	timeout              time.Duration
}

func runCommand(g *global) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [VARIANT]",
		Short: "Boot an image in QEMU",
		Long: `Run builds a variant (the default variant without a name) and boots its image in
QEMU under UEFI firmware, with the serial console on the terminal; Ctrl-A X ends
the machine. A disk of its own for the data, <image>-data.img, is attached as the
second one. What the machine writes to its disks is lost at its end, unless --persist
is given.

With --exec a command is run in the machine, in the root shell that a development
variant has on its second console; its output and its exit status become those of
slipway, and the machine is ended.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := f.image
			if path == "" {
				var err error
				if path, err = buildImage(cmd, g, &f.buildFlags, args); err != nil {
					return err
				}
			} else if len(args) > 0 {
				return errors.New("give a variant or --image, not both")
			} else if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("--image: %w: slipway build makes images and prints their paths", err)
			}
			return f.run(cmd, path)
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "", "boot this disk image, and build nothing")
	flags.StringVar(&f.secureBoot, "secure-boot", "", "boot with Secure Boot and the keys in this file of firmware variables, see slipway keys enroll-vars")
	flags.StringVar(&f.exec, "exec", "", "run this shell command in the machine and end")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "with --exec, how long boot and command may take together")
	flags.StringVar(&f.console, "console-log", "", "with --exec, write the serial console to this file")
	flags.IntVar(&f.machine.MemoryMiB, "memory", 2048, "memory in MiB")
	flags.IntVar(&f.machine.CPUs, "cpus", 2, "processors")
	flags.IntVar(&f.machine.GrowToGiB, "disk-size", 4, "least size of the disks that the machine can write to, in GiB; 0 leaves them as they were built")
	flags.StringArrayVar(&f.drives, "drive", nil, "FILE[=SERIAL]: a further disk, raw and read-only, /dev/disk/by-id/virtio-SERIAL in the machine")
	flags.StringVar(&f.machine.Accel, "accel", "auto", "auto, kvm or tcg (emulation)")
	flags.BoolVar(&f.persist, "persist", false, "keep what the machine writes to its disks")
	return cmd
}

// buildImage builds a variant and gives the path of its disk image.
func buildImage(cmd *cobra.Command, g *global, f *buildFlags, args []string) (string, error) {
	var names []string
	if len(args) == 1 {
		names = []string{"variants/" + strings.TrimPrefix(args[0], "variants/")}
	}
	b, display, err := g.builder(cmd, f)
	if err != nil {
		return "", err
	}
	err = b.Build(cmd.Context(), names)
	display.Close()
	if err := errors.Join(err, b.Close(cmd.Context())); err != nil {
		return "", err
	}
	return b.Outputs(names)[0], nil
}

func (f *runFlags) run(cmd *cobra.Command, path string) error {
	m := f.machine
	m.Disk, m.Snapshot = path, !f.persist
	if f.secureBoot != "" {
		var err error
		if m.Firmware, err = qemu.FindSecureFirmware(); err != nil {
			return err
		}
		m.Firmware.Vars = f.secureBoot
	}
	m.Drives = f.further(path)
	if f.exec == "" {
		m.Stdin, m.Stdout, m.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		return qemu.Run(cmd.Context(), m)
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, fmt.Errorf("not done after %s", f.timeout))
	defer cancel()
	m.NoReboot = true
	m.Stderr = cmd.ErrOrStderr()
	if f.console != "" {
		log, err := os.Create(f.console)
		if err != nil {
			return err
		}
		defer log.Close()
		m.Stdout = log
	}
	vm, err := qemu.Start(ctx, m)
	if err != nil {
		return err
	}
	status, err := vm.Exec(ctx, f.exec, cmd.OutOrStdout())
	err = errors.Join(err, f.end(ctx, vm, err))
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	if status != 0 {
		return ExitStatus(status)
	}
	return nil
}

// further are the disks beside that of the system: that of the data, where it has
// one for itself, and those of --drive.
func (f *runFlags) further(image string) (drives []qemu.Drive) {
	data := build.DataDisk(image)
	if _, err := os.Stat(data); err == nil {
		drives = append(drives, qemu.Drive{Path: data, Writable: true})
	}
	for _, d := range f.drives {
		file, serial, _ := strings.Cut(d, "=")
		drives = append(drives, qemu.Drive{Path: file, Serial: serial})
	}
	return drives
}

// end shuts a machine down whose disk is kept, and ends any other at once.
func (f *runFlags) end(ctx context.Context, vm *qemu.VM, failed error) error {
	if f.persist && failed == nil {
		timer := time.AfterFunc(shutdownTime, func() { _ = vm.Quit() })
		defer timer.Stop()
		if _, err := vm.Exec(ctx, "systemctl poweroff --no-block", io.Discard); err != nil {
			return errors.Join(err, vm.Quit(), vm.Wait())
		}
		return vm.Wait()
	}
	return errors.Join(vm.Quit(), vm.Wait())
}
