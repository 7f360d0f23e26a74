// Package qemu runs disk images in QEMU: x86-64 guests under UEFI firmware or
// with a kernel started directly, with a serial console on the caller's
// terminal and a second one over which commands can be run.
package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Machine is a virtual machine to be started.
type Machine struct {
	Disk   string // image of the disk to boot from, /dev/vda in the guest
	Format string // of Disk, as QEMU names it; "" is raw
	// Snapshot keeps what the guest writes in a temporary file, which is
	// gone with the machine.
	Snapshot bool
	// GrowToGiB makes the disk, and drives that are writable, at least this large
	// before the guest starts. Without Snapshot, the image itself grows.
	GrowToGiB int
	Drives    []Drive // further disks, /dev/vdb and so on

	MemoryMiB int // 0 is 1024
	CPUs      int // 0 is 1
	// Accel is "kvm", "tcg", or "auto" (also ""): KVM if a guest runs in it.
	Accel string

	// Firmware is that of the host distribution unless set. With a Kernel it
	// is not used.
	Firmware Firmware
	// Kernel, a bzImage or an ELF image with a PVH note, is started directly
	// with Cmdline and Initrd, which may be "".
	Kernel, Initrd, Cmdline string

	// Stdin and Stdout are the serial console ttyS0. If Stdin is a terminal,
	// QEMU gets it as it is: raw, with Ctrl-A X to quit. A nil Stdin reads
	// nothing, a nil Stdout discards. A Stdin that is no file is still being
	// read once after the end. Stderr has QEMU's own messages.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// NoReboot ends the machine when the guest reboots.
	NoReboot bool
	// State is a file that [VM.Save] wrote: the guest goes on from there. The
	// machine must be the one that was saved, with its disk as it was then.
	State string
	Extra []string // further arguments for QEMU
}

// Drive is a further disk, raw.
type Drive struct {
	Path   string
	Serial string // the guest has it as /dev/disk/by-id/virtio-<serial>; may be ""
	// Writable lets the guest write to it, as to the disk it boots from.
	Writable bool
}

// VM is a machine that was started. Wait or Kill must be called.
type VM struct {
	// Accel is the accelerator that was chosen: "kvm" or "tcg".
	Accel string

	cmd     *exec.Cmd
	ended   func() error // ctx.Err
	stderr  tail
	dir     string
	console net.Conn // hvc0
	qmp     net.Conn
	monitor *monitor
	shell   *Shell
}

// Run starts the machine and waits for its end.
func Run(ctx context.Context, m Machine) error {
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	return vm.Wait()
}

// Start starts the machine. It is killed when ctx ends.
func Start(ctx context.Context, m Machine) (_ *VM, err error) {
	binary, err := findBinary()
	if err != nil {
		return nil, err
	}
	if m.Kernel == "" && m.Firmware == (Firmware{}) {
		if m.Firmware, err = FindFirmware(); err != nil {
			return nil, err
		}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	vm := &VM{}
	if vm.Accel, err = chooseAccel(ctx, m.Accel); err != nil {
		return nil, err
	}
	if vm.dir, err = os.MkdirTemp("", "slipway-qemu-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			vm.release()
		}
	}()
	vars := ""
	if m.Kernel == "" {
		// The firmware writes to its variables.
		vars = filepath.Join(vm.dir, "vars.fd")
		if err := copyFile(vars, m.Firmware.Vars); err != nil {
			return nil, err
		}
	}
	// Both channels are socket pairs: no path to be too long or in the way.
	var consoleFile, qmpFile *os.File
	// Our copies of QEMU's ends must be closed before the first read: else
	// there is no end of file when it dies.
	closeTheirs := func() {
		consoleFile.Close() // of nil: an error, no harm
		qmpFile.Close()
	}
	if vm.console, consoleFile, err = socketPair(); err == nil {
		vm.qmp, qmpFile, err = socketPair()
	}
	if err != nil {
		closeTheirs()
		return nil, err
	}
	vm.cmd = exec.CommandContext(ctx, binary, m.args(vm.Accel, vars)...)
	vm.cmd.ExtraFiles = []*os.File{consoleFile, qmpFile} // 3 and 4
	vm.cmd.Stdout, vm.cmd.Stderr = m.Stdout, &vm.stderr
	if m.Stderr != nil {
		vm.cmd.Stderr = io.MultiWriter(m.Stderr, &vm.stderr)
	}
	vm.ended = ctx.Err
	var feed io.WriteCloser
	if f, ok := m.Stdin.(*os.File); ok {
		vm.cmd.Stdin = f
	} else if m.Stdin != nil {
		// Not left to exec, whose Wait would wait for the last Read.
		if feed, err = vm.cmd.StdinPipe(); err != nil {
			closeTheirs()
			return nil, err
		}
	}
	err = vm.cmd.Start()
	closeTheirs()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binaryName, err)
	}
	// The guest is stopped until the disk has its size.
	if err := vm.begin(ctx, m); err != nil {
		// Mostly QEMU has ended by itself: an argument that it does not like.
		_ = vm.cmd.Process.Kill()
		_ = vm.cmd.Wait()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s did not start: %w: %s", binaryName, err, vm.stderr.text())
	}
	if feed != nil {
		go func() { _, _ = io.Copy(feed, m.Stdin) }() // ends with the pipe or Stdin
	}
	return vm, nil
}

func (m Machine) check() error {
	files := []string{m.Disk, m.Kernel, m.Initrd, m.State}
	if m.Kernel == "" {
		files = append(files, m.Firmware.Code, m.Firmware.Vars)
	}
	for _, d := range m.Drives {
		files = append(files, d.Path)
		if strings.ContainsAny(d.Serial, ",=") || len(d.Serial) > 20 {
			return fmt.Errorf("serial number %q of drive %s: at most 20 characters without comma and equals sign", d.Serial, d.Path)
		}
	}
	for _, f := range files {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			return err
		}
	}
	if m.Kernel == "" && m.Disk == "" {
		return errors.New("a machine needs a disk or a kernel to start")
	}
	if m.GrowToGiB > 0 {
		if m.Disk == "" {
			return errors.New("there is no disk to grow")
		}
	}
	return nil
}

// small are the QEMU names of the disks that are to grow: of other formats than raw
// the size is not known here.
func (m Machine) small() (names []string, err error) {
	add := func(name, path string) {
		st, statErr := os.Stat(path)
		if err = errors.Join(err, statErr); err == nil && st.Size() < int64(m.GrowToGiB)<<30 {
			names = append(names, name)
		}
	}
	if m.Format == "" {
		add("disk", m.Disk)
	} else {
		names = []string{"disk"}
	}
	for i, d := range m.Drives {
		if d.Writable {
			add(driveName(i), d.Path)
		}
	}
	return names, err
}

func driveName(i int) string { return fmt.Sprintf("drive%d", i) }

func (m Machine) args(accel, vars string) []string {
	machine := "q35"
	if m.Kernel == "" && m.Firmware.SMM {
		machine += ",smm=on"
	}
	a := []string{"-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-machine", machine, "-accel", accel,
		"-m", strconv.Itoa(cmp.Or(m.MemoryMiB, 1024)), "-smp", strconv.Itoa(cmp.Or(m.CPUs, 1)),
		"-chardev", "stdio,id=serial,mux=on,signal=off", "-serial", "chardev:serial", "-mon", "chardev=serial,mode=readline",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=hvc0,fd=3", "-device", "virtconsole,chardev=hvc0",
		"-chardev", "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-pci", "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0",
	}
	if accel == "kvm" {
		a = append(a, "-cpu", "host")
	}
	if m.NoReboot {
		a = append(a, "-no-reboot")
	}
	if m.Kernel != "" {
		a = append(a, "-kernel", m.Kernel)
		if m.Initrd != "" {
			a = append(a, "-initrd", m.Initrd)
		}
		if m.Cmdline != "" {
			a = append(a, "-append", m.Cmdline)
		}
	} else {
		a = append(a, "-drive", "if=pflash,format=raw,readonly=on,file="+escape(m.Firmware.Code),
			"-drive", "if=pflash,format=raw,file="+escape(vars))
		if m.Firmware.SMM {
			a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
		}
	}
	if m.Disk != "" {
		a = append(a, "-drive", m.writable("disk", cmp.Or(m.Format, "raw"), m.Disk), "-device", "virtio-blk-pci,drive=disk,bootindex=0")
	}
	for i, drive := range m.Drives {
		id := driveName(i)
		device := "virtio-blk-pci,drive=" + id
		if drive.Serial != "" {
			device += ",serial=" + drive.Serial
		}
		option := "if=none,id=" + id + ",format=raw,readonly=on,file=" + escape(drive.Path)
		if drive.Writable {
			option = m.writable(id, "raw", drive.Path)
		}
		a = append(a, "-drive", option, "-device", device)
	}
	if m.State != "" {
		a = append(a, "-incoming", "exec:cat <"+quote(m.State))
	}
	return append(a, m.Extra...)
}

// writable is the argument for a disk that the guest writes to.
func (m Machine) writable(id, format, path string) string {
	option := "if=none,id=" + id + ",format=" + format + ",discard=unmap,file=" + escape(path)
	if m.Snapshot {
		option += ",snapshot=on"
	}
	return option
}

// escape doubles commas, which end an option in QEMU's arguments.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// quote makes one word of the shell of a path.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (vm *VM) begin(ctx context.Context, m Machine) (err error) {
	if vm.monitor, err = newMonitor(vm.qmp); err != nil {
		return err
	}
	if m.State != "" {
		if err := vm.monitor.poll(ctx, "query-status", func(status string) (bool, error) { return status != "inmigrate", nil }); err != nil {
			return err
		}
	}
	if m.GrowToGiB > 0 {
		names, err := m.small()
		if err != nil {
			return err
		}
		for _, name := range names {
			// With a snapshot only the temporary overlay grows.
			if err := vm.monitor.execute("block_resize", map[string]any{"device": name, "size": int64(m.GrowToGiB) << 30}); err != nil {
				return err
			}
		}
	}
	return vm.monitor.execute("cont", nil)
}

// Exec runs a command in the shell on the guest's hvc0, see [Shell.Exec].
// There must be one: systemd starts a getty there by itself, and an autologin
// makes it a shell.
func (vm *VM) Exec(ctx context.Context, command string, stdout io.Writer) (int, error) {
	if vm.shell == nil {
		vm.shell = NewShell(vm.console)
	}
	return vm.shell.Exec(ctx, command, stdout)
}

// Rebooted makes the next Exec wait for a shell anew. What ran in the old one,
// and how it ended, is forgotten; a context that ended does no harm then.
func (vm *VM) Rebooted() {
	if vm.shell != nil {
		vm.shell.up = false
	}
}

// Save writes the state of the machine without its disks to a file, from which
// another machine can go on, see [Machine.State]. Then, with the guest still
// stopped and all it wrote in the disks' files, it calls stopped, which may copy them.
func (vm *VM) Save(ctx context.Context, path string, stopped func() error) (err error) {
	if err := vm.monitor.execute("stop", nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vm.monitor.execute("cont", nil)) }()
	// unless told, it keeps to what a network can take
	if err := vm.monitor.execute("migrate-set-parameters", map[string]any{"max-bandwidth": int64(1) << 40}); err != nil {
		return err
	}
	if err := vm.monitor.execute("migrate", map[string]any{"uri": "exec:cat >" + quote(path)}); err != nil {
		return err
	}
	err = vm.monitor.poll(ctx, "query-migrate", func(status string) (bool, error) {
		if status == "failed" || status == "cancelled" {
			return false, fmt.Errorf("%s: saving the state of the machine %s", path, status)
		}
		return status == "completed", nil
	})
	if err != nil {
		return err
	}
	return stopped()
}

// Kill ends the machine as a power cut does, with SIGKILL, and waits for its
// end: Wait must not be called then.
func (vm *VM) Kill() error {
	if err := vm.cmd.Process.Kill(); err != nil {
		return err
	}
	err := vm.cmd.Wait()
	vm.release()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("%s had ended before: %w: %s", binaryName, err, vm.stderr.text())
}

// PowerOff presses the power button: the guest shuts down, if it listens.
func (vm *VM) PowerOff() error { return vm.monitor.execute("system_powerdown", nil) }

// Quit ends the machine at once.
func (vm *VM) Quit() error {
	err := vm.monitor.execute("quit", nil)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// Wait waits for the machine to end and removes its temporary files.
func (vm *VM) Wait() error {
	err := vm.cmd.Wait()
	vm.release()
	switch {
	case err == nil:
		return nil
	case vm.ended() != nil:
		return vm.ended()
	}
	return fmt.Errorf("%s: %w: %s", binaryName, err, vm.stderr.text())
}

func (vm *VM) release() {
	for _, c := range []net.Conn{vm.console, vm.qmp} {
		if c != nil {
			c.Close()
		}
	}
	os.RemoveAll(vm.dir)
}

// socketPair returns one end for us and one for QEMU.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "qemu's")
	defer ours.Close() // FileConn makes a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
