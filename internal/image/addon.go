package image

import (
	"bytes"
	"debug/pe"
	"errors"
	"fmt"
	"path"
	"strings"

	"slipway/internal/image/fat"
	"slipway/internal/image/uki"
)

// AddonEnding is how file names of addons end.
const AddonEnding = ".addon.efi"

// Addon is kernel parameters that lie beside the kernels, for all of them.
type Addon struct {
	Name             string // file name without AddonEnding
	KernelParameters []string
}

// AddonPath is where the addon of a file name lies on the EFI system partition, for
// all kernels (systemd-stub(7)).
func AddonPath(name string) string { return dirAddons + name }

// buildAddons makes addons for the machine of a unified kernel image.
func buildAddons(addons []Addon, kernel []byte) (files []fat.File, err error) {
	if len(addons) == 0 {
		return nil, nil
	}
	machine, _, err := kernelFacts(kernel)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, a := range addons {
		if !fileName.MatchString(a.Name) || seen[strings.ToLower(a.Name)] { // FAT does not tell cases apart
			return nil, fmt.Errorf("addon %q: want a name of its own, of letters, digits, dots and hyphens", a.Name)
		}
		seen[strings.ToLower(a.Name)] = true
		data, err := uki.Addon{Machine: machine, Cmdline: strings.Join(a.KernelParameters, " ")}.Build()
		if err != nil {
			return nil, fmt.Errorf("addon %s: %w", a.Name, err)
		}
		files = append(files, fat.File{Path: AddonPath(a.Name + AddonEnding), Data: data})
	}
	return files, nil
}

// CheckAddons tells why a unified kernel image does not take the addons among the
// files of its EFI system partition: its stub reads none, they are for another
// kernel, or their parameters cannot stand behind its command line.
func CheckAddons(kernel []byte, line string, files []fat.File) error {
	checked := false
	for _, f := range files {
		if !strings.HasPrefix(f.Path, dirAddons) || !strings.HasSuffix(f.Path, AddonEnding) {
			continue
		}
		if !checked {
			version, major, err := uki.StubVersion(kernel)
			if err != nil {
				return err
			}
			if major < uki.AddonVersion {
				return fmt.Errorf("the kernel has systemd-stub %s, which ignores addons: they are read from version %d on; put the parameters into the kernel's own command line, or build the image with a newer stub", version, uki.AddonVersion)
			}
			checked = true
		}
		var err error
		if line, err = withAddon(kernel, line, f.Data); err != nil {
			return fmt.Errorf("addon %s: %w", path.Base(f.Path), err)
		}
	}
	return nil
}

// withAddon gives the command line of a kernel with that of an addon behind it.
func withAddon(kernel []byte, line string, data []byte) (string, error) {
	machine, uname, err := kernelFacts(kernel)
	if err != nil {
		return "", err
	}
	addon, err := uki.ReadAddon(data)
	switch {
	case err != nil:
		return "", err
	case addon.Machine != machine:
		return "", fmt.Errorf("it is for machine %#x, the kernel for %#x", addon.Machine, machine)
	case addon.Uname != "" && addon.Uname != uname:
		return "", fmt.Errorf("it is for kernel %q, the image has %q", addon.Uname, uname)
	}
	line += " " + addon.Cmdline
	return line, errors.Join(CheckParameters(SplitCmdline(addon.Cmdline)), CheckCmdline(line))
}

func kernelFacts(kernel []byte) (machine uint16, uname string, err error) {
	f, err := pe.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	sections, err := uki.Inspect(bytes.NewReader(kernel))
	for _, s := range sections {
		if s.Name == ".uname" {
			uname = string(s.Data)
		}
	}
	return f.Machine, uname, err
}
