package inspect

import (
	"crypto/x509"
	"path"
	"strings"

	"slipway/internal/image/authenticode"
)

// VerifySigners checks that each EFI program of a disk has a signature of one of
// the trusted certificates: boot loader, kernels, addons, and whatever else firmware
// could be made to start. A program whose signatures are wrong in themselves is left
// to Verify.
func VerifySigners(r *Report, trusted []*x509.Certificate) (findings []Finding) {
	loader := false
	for _, f := range r.ESP {
		if !isProgram(f.Path) {
			continue
		}
		loader = loader || strings.EqualFold(path.Dir(f.Path), "EFI/BOOT")
		if f.Signatures != "" {
			continue
		}
		if err := authenticode.Verify(f.data, trusted...); err != nil {
			findings = append(findings, Finding{"/" + f.Path, err.Error()})
		}
	}
	if !loader {
		findings = append(findings, Finding{"/EFI/BOOT", "there is no boot loader in it"})
	}
	return findings
}
