package image

import (
	"encoding/hex"
	"fmt"
	"strings"

	"slipway/internal/image/verity"
)

// Corruption is what the kernel does when a block does not match the hash
// tree.
type Corruption string

// The modes of dm-verity. With restart, boot counting falls back to the other
// slot by itself; panic leaves that to the panic= parameter; with an I/O error
// the system runs on without what the block held.
const (
	RestartOnCorruption Corruption = "restart_on_corruption"
	PanicOnCorruption   Corruption = "panic_on_corruption"
	ErrorOnCorruption   Corruption = ""
)

// maxCmdline is COMMAND_LINE_SIZE of the kernel on x86 and arm64, less its
// zero byte; what is longer is cut off without a word.
const maxCmdline = 2047

// Cmdline returns the kernel command line that mounts a dm-verity root without
// an initramfs: the given parameters, then root=, and dm-mod.create= with the
// table (Documentation/admin-guide/device-mapper/dm-init.rst). The kernel
// waits for both partitions, so slow disks are not a race; it needs
// CONFIG_DM_INIT, and for dm-mod.waitfor Linux 6.2 or a late 6.1 (6.1.176 has it).
func Cmdline(parameters []string, fsType string, root verity.RootHash, sb verity.Superblock, mode Corruption) (string, error) {
	if err := CheckParameters(parameters); err != nil {
		return "", err
	}
	switch mode {
	case RestartOnCorruption, PanicOnCorruption, ErrorOnCorruption:
	default:
		return "", fmt.Errorf("verity mode %q: want %s, %s or nothing", mode, RestartOnCorruption, PanicOnCorruption)
	}
	salt := hex.EncodeToString(sb.Salt)
	if salt == "" {
		salt = "-"
	}
	rootID, hashID := PartitionGUIDs(root)
	// Sectors of 512 bytes first; the 1 behind the number of blocks is the
	// block of the hash partition in which the tree begins.
	table := fmt.Sprintf("root,,,ro,0 %d verity 1 PARTUUID=%s PARTUUID=%s %d %d %d 1 sha256 %s %s",
		sb.DataBlocks*(verity.BlockSize/512), rootID, hashID, verity.BlockSize, verity.BlockSize, sb.DataBlocks, root, salt)
	if mode != ErrorOnCorruption {
		table += " 1 " + string(mode)
	}
	line := strings.Join(append(append([]string{}, parameters...),
		"root=/dev/dm-0", "rootfstype="+fsType, "ro", "rootwait",
		fmt.Sprintf("dm-mod.waitfor=PARTUUID=%s,PARTUUID=%s", rootID, hashID),
		fmt.Sprintf("dm-mod.create=%q", table)), " ")
	if len(line) > maxCmdline {
		return "", fmt.Errorf("the kernel command line has %d bytes, the kernel takes %d: shorten kernel-parameters", len(line), maxCmdline)
	}
	return line, nil
}

// own are the parameters that Cmdline sets itself.
var own = map[string]bool{"root": true, "rootfstype": true, "ro": true, "rw": true, "rootwait": true,
	"dm-mod.create": true, "dm-mod.waitfor": true, "dm_mod.create": true, "dm_mod.waitfor": true}

// CheckParameter tells why a parameter cannot stand on a kernel command line beside
// those that Cmdline sets itself.
func CheckParameter(p string) error {
	name, _, _ := strings.Cut(strings.Trim(p, `"`), "=") // the kernel takes quotes around the whole off
	switch {
	case p == "" || strings.Trim(p, " ") != p:
		return fmt.Errorf("%q is empty or begins or ends with a space", p)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("%q holds something other than printable ASCII", p)
	case strings.Count(p, `"`)%2 != 0:
		return fmt.Errorf("%q holds an open quote", p)
	case p == "--":
		return fmt.Errorf(`"--" would hide the root parameters from the kernel`)
	case own[name]:
		return fmt.Errorf("%q is set by the image build itself, remove it", p)
	}
	return nil
}
