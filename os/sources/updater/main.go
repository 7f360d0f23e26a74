// Updater installs releases from an update repository to the slot of the disk
// that the system does not run from, and has the boot loader try them.
//
// Each command can be cut off at any moment, by a signal or a power cut, and
// run again: until "activate" renames a kernel image, the boot loader sees the
// running system only, and what it sees can always be booted completely.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dinghy/internal/boot"
	"dinghy/internal/datastore"
	"dinghy/internal/osrelease"
)

const usage = `usage: updater [options] command

commands:
  check      tell which release this machine may take now
  prepare    download it and write it to the unused slot
  activate   have it tried at the next boot; --reboot boots at once
  revert     have the other slot's system booted next
  mark-good  keep the running system: its boots are no longer counted
  boot-failed
             reboot, if the running system is on trial
  status     tell what is installed, as JSON

options:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "updater:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("updater", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	h := &host{now: time.Now, idle: time.Minute, log: os.Stdout, warn: os.Stderr, arch: machine()}
	f.StringVar(&h.esp, "esp", "/efi", "where the EFI system partition is mounted")
	f.StringVar(&h.efivars, "efivars", "/sys/firmware/efi/efivars", "where the variables of the firmware are mounted")
	f.StringVar(&h.dir, "state", "/var/lib/dinghy/updater", "folder for state and downloads")
	f.StringVar(&h.root, "root", "/usr/share/dinghy/root.json", "trusted root of the update repository")
	f.IntVar(&h.tries, "tries", 3, "boots that a new system has to become good")
	release := f.String("os-release", "/etc/os-release", "what the running system is")
	settings := f.String("settings", "/usr/share/dinghy/settings:/var/lib/dinghy/datastore/current/live/settings", "folders of settings, separated by colons; later ones win")
	retry := f.Bool("retry", false, "take releases that did not become good here before, and read again what is prepared")
	reboot := f.Bool("reboot", false, "with activate and revert: reboot then")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		f.Usage()
		return errors.New("no command")
	}
	// options may follow the command
	command := f.Arg(0)
	if err := f.Parse(f.Args()[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if h.tries < 1 {
		return fmt.Errorf("--tries is %d, want at least 1", h.tries)
	}
	for _, dir := range filepath.SplitList(*settings) {
		h.settings = append(h.settings, datastore.Tree(dir))
	}
	*reboot = *reboot && (command == "activate" || command == "revert")
	commands := map[string]func() error{
		"check":       func() error { return h.check(ctx, *retry) },
		"prepare":     func() error { return h.prepare(ctx, *retry) },
		"activate":    h.activate,
		"revert":      h.revert,
		"mark-good":   h.markGood,
		"boot-failed": func() (err error) { *reboot, err = h.bootFailed(); return err },
		"status":      h.status,
	}
	do, ok := commands[command]
	if !ok {
		return fmt.Errorf("unknown command %q", command)
	}
	var err error
	if h.release, err = osrelease.Read(*release); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return err
	}
	h.cmdline, h.machineID = string(cmdline), strings.TrimSpace(string(id))
	hash, err := boot.RootHash(h.cmdline)
	if err != nil {
		return err
	}
	part, _ := boot.PartitionGUIDs(hash)
	access := os.O_RDONLY
	if command == "prepare" {
		access = os.O_RDWR
	}
	dev, err := openDevice(part, access)
	if err != nil {
		return err
	}
	defer dev.Close()
	h.disk = dev
	if err := do(); err != nil {
		return err
	}
	if !*reboot {
		return nil
	}
	args = []string{"reboot"}
	if command == "boot-failed" {
		args = append(args, "--force") // units that hang are what it may be about
	}
	return exec.CommandContext(ctx, "systemctl", args...).Run()
}

// machine is the architecture as uname -m has it.
func machine() string {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return ""
	}
	var b []byte
	for _, c := range u.Machine {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
