package image

import (
	"errors"
	"fmt"
	"strings"

	"slipway/internal/image/verity"
)

// SplitCmdline divides a kernel command line at the spaces that are not within
// double quotes, as the kernel does.
func SplitCmdline(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

// CheckParameters is CheckParameter for several.
func CheckParameters(parameters []string) error {
	for _, p := range parameters {
		if err := CheckParameter(p); err != nil {
			return fmt.Errorf("kernel-parameters: %w", err)
		}
	}
	return nil
}

// CheckCmdline tells whether the kernel takes a command line of that length.
func CheckCmdline(line string) error {
	if len(line) > maxCmdline {
		return fmt.Errorf("the kernel command line has %d bytes, the kernel takes %d", len(line), maxCmdline)
	}
	return nil
}

// VerityRoot is a root by its hash tree.
type VerityRoot struct {
	Hash  verity.RootHash
	Super verity.Superblock
}

// ChangeRoot returns a command line of Cmdline for another root, with more
// parameters behind its own. One that Cmdline would not make is refused.
func ChangeRoot(line string, from, to VerityRoot, more []string) (string, error) {
	var parameters []string
	fsType, own := "", false
	for _, p := range SplitCmdline(line) {
		own = own || p == "root=/dev/dm-0" // with which Cmdline's own begin
		if !own {
			parameters = append(parameters, p)
		}
		if value, ok := strings.CutPrefix(p, "rootfstype="); ok {
			fsType = value
		}
	}
	for _, mode := range []Corruption{RestartOnCorruption, PanicOnCorruption, ErrorOnCorruption} {
		if same, err := Cmdline(parameters, fsType, from.Hash, from.Super, mode); err == nil && same == line {
			return Cmdline(append(parameters, more...), fsType, to.Hash, to.Super, mode)
		}
	}
	return "", errors.New("the command line of the kernel is not one that slipway makes for this root")
}
