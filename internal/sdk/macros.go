package sdk

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"slipway/internal/workspace"
)

//go:embed pack/macros.in
var macrosTemplate string

// arch is what the names of one machine architecture are in different worlds.
type arch struct {
	rpm       string // uname -m and RPM
	deb       string // Debian and Go
	kernel    string // ARCH= of the kernel's makefiles
	image     string // make target of the kernel image
	cpuFamily string
	efi       string // suffix of EFI binaries
}

var archs = []arch{
	{rpm: "x86_64", deb: "amd64", kernel: "x86", image: "bzImage", cpuFamily: "x86", efi: "x64"},
	{rpm: "aarch64", deb: "arm64", kernel: "arm64", image: "Image", cpuFamily: "arm", efi: "aa64"},
}

func archOf(rpm string) (arch, error) {
	for _, a := range archs {
		if a.rpm == rpm {
			return a, nil
		}
	}
	return arch{}, fmt.Errorf("architecture %q is unknown: use x86_64 or aarch64", rpm)
}

// hostArch is the architecture of this machine, on which the SDK's own
// programs run.
func hostArch() (arch, error) {
	for _, a := range archs {
		if a.deb == runtime.GOARCH {
			return a, nil
		}
	}
	return arch{}, fmt.Errorf("an SDK cannot be made on a %s machine: use x86_64 or aarch64", runtime.GOARCH)
}

// Macros gives the RPM macro file of the SDK for packages that are to run on
// arch ("x86_64" or "aarch64"): the macro pack with the workspace's vendor and
// build settings filled in, and after it the workspace's own macros, which win.
func Macros(ws *workspace.Workspace, arch string) (string, error) {
	target, err := archOf(arch)
	if err != nil {
		return "", err
	}
	host, err := hostArch()
	if err != nil {
		return "", err
	}
	debugCFlags, debugPackage := "%{nil}", "%debug_package %{nil}"
	if ws.Config.Build.Debuginfo {
		debugCFlags, debugPackage = "-g", ""
	}
	text := strings.NewReplacer(
		"@ARCH@", target.rpm,
		"@KARCH@", target.kernel,
		"@KIMAGE@", target.image,
		"@CPU_FAMILY@", target.cpuFamily,
		"@EFI_ARCH@", target.efi,
		"@GO_ARCH@", target.deb,
		"@VENDOR@", ws.Config.Vendor,
		"@BUILD_ARCH@", host.rpm,
		"@DEBUG_CFLAGS@", debugCFlags,
		"@DEBUG_PACKAGE@", debugPackage,
	).Replace(macrosTemplate)

	var buf bytes.Buffer
	buf.WriteString(text)
	if len(ws.Config.Macros) > 0 {
		fmt.Fprintf(&buf, "\n# ---- [macros] of %s ----\n", workspace.RootFile)
	}
	for _, name := range slices.Sorted(maps.Keys(ws.Config.Macros)) {
		body := strings.TrimSpace(ws.Config.Macros[name])
		// rpm reads on over line ends until braces and parentheses balance, so
		// such a body would swallow the macros after it
		if err := balanced(body); err != nil {
			return "", fmt.Errorf("%s: macros.%s: %w", workspace.RootFile, name, err)
		}
		if body == "" {
			body = "%{nil}"
		}
		fmt.Fprintf(&buf, "%%%s %s\n", name, strings.ReplaceAll(body, "\n", "\\\n"))
	}
	return buf.String(), nil
}

// balanced tells whether rpm takes the body to end where it ends. rpm reads on
// while a %{, %( or %[ is open, and after a backslash at the end of a line.
func balanced(body string) error {
	open := map[byte]int{}
	closing := map[byte]byte{'}': '{', ')': '(', ']': '['}
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case '\\':
			if i++; i == len(body) {
				return errors.New("the body ends with a backslash, which would continue it into the next macro: remove it")
			}
		case '%':
			if i+1 < len(body) && strings.IndexByte("{([%", body[i+1]) >= 0 {
				if i++; body[i] != '%' {
					open[body[i]]++
				}
			}
		case '{', '(', '[':
			if open[c] > 0 {
				open[c]++
			}
		case '}', ')', ']':
			if o := closing[c]; open[o] > 0 {
				open[o]--
			}
		}
	}
	for _, c := range []byte("{([") {
		if open[c] > 0 {
			return fmt.Errorf("%%%c is not closed in the body: rpm would read on into the next macro", c)
		}
	}
	return nil
}
