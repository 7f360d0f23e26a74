package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

const binaryName = "qemu-system-x86_64"

// ErrMissing is wrapped by the errors that say that QEMU or its firmware is
// not installed, and which package holds it.
var ErrMissing = errors.New("not installed")

func findBinary() (string, error) {
	path, err := exec.LookPath(binaryName)
	if err != nil {
		return "", fmt.Errorf("%s is %w: apt-get install qemu-system-x86 (Fedora: qemu-system-x86-core, Arch: qemu-system-x86)", binaryName, ErrMissing)
	}
	return path, nil
}

// Firmware is an UEFI firmware for virtual machines: two raw flash images.
type Firmware struct {
	Code string // mapped read-only
	Vars string // template of the variables; every machine gets a copy
	// SMM gives the machine System Management Mode, and only that may write to
	// the flash: firmware with Secure Boot wants it.
	SMM bool
}

// Where distributions put OVMF without Secure Boot.
var firmwares = []Firmware{
	{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"},             // Debian, Ubuntu
	{Code: "/usr/share/OVMF/OVMF_CODE.fd", Vars: "/usr/share/OVMF/OVMF_VARS.fd"},                   // older ones
	{Code: "/usr/share/edk2/ovmf/OVMF_CODE.fd", Vars: "/usr/share/edk2/ovmf/OVMF_VARS.fd"},         // Fedora
	{Code: "/usr/share/edk2/x64/OVMF_CODE.4m.fd", Vars: "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},     // Arch
	{Code: "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", Vars: "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"}, // older ones
	{Code: "/usr/share/qemu/ovmf-x86_64-code.bin", Vars: "/usr/share/qemu/ovmf-x86_64-vars.bin"},   // openSUSE
}

// Where they put OVMF with Secure Boot, and variables without keys.
var secureFirmwares = []Firmware{
	{Code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd"},             // Debian, Ubuntu
	{Code: "/usr/share/OVMF/OVMF_CODE.secboot.fd", Vars: "/usr/share/OVMF/OVMF_VARS.fd"},                   // older ones
	{Code: "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", Vars: "/usr/share/edk2/ovmf/OVMF_VARS.fd"},         // Fedora
	{Code: "/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", Vars: "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},     // Arch
	{Code: "/usr/share/edk2-ovmf/x64/OVMF_CODE.secboot.fd", Vars: "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"}, // older ones
	{Code: "/usr/share/qemu/ovmf-x86_64-smm-code.bin", Vars: "/usr/share/qemu/ovmf-x86_64-smm-vars.bin"},   // openSUSE
}

// FindFirmware returns the OVMF of the machine.
func FindFirmware() (Firmware, error) { return findFirmware("", firmwares) }

// FindSecureFirmware returns the machine's OVMF with Secure Boot. Its variables
// hold no keys, so that Secure Boot is off.
func FindSecureFirmware() (Firmware, error) {
	f, err := findFirmware("", secureFirmwares)
	f.SMM = true
	return f, err
}

func findFirmware(root string, list []Firmware) (Firmware, error) {
	for _, f := range list {
		f.Code, f.Vars = root+f.Code, root+f.Vars
		if regular(f.Code) && regular(f.Vars) {
			return f, nil
		}
	}
	return Firmware{}, fmt.Errorf("UEFI firmware (OVMF) is %w: apt-get install ovmf (Fedora: edk2-ovmf, Arch: edk2-ovmf)", ErrMissing)
}

func regular(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
