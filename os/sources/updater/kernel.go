package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"dinghy/internal/authenticode"
	"dinghy/internal/boot"
	"dinghy/internal/osrelease"
	"dinghy/internal/verity"
	"dinghy/update"
)

// checkKernel refuses a kernel image that the machine could not start, or that is of
// another system than the release. It gives the root hash that the image boots;
// that root and hash tree fit it is seen where they are written.
func (h *host) checkKernel(path string, u *update.Update, running *boot.Image) (hash verity.RootHash, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return hash, err
	}
	k, err := boot.ReadKernel(bytes.NewReader(data))
	if err != nil {
		return hash, err
	}
	if k.Arch != h.arch {
		return hash, fmt.Errorf("its kernel image is for %s, this machine is %s", k.Arch, h.arch)
	}
	r, err := osrelease.Parse(k.OSRelease)
	if err != nil {
		return hash, fmt.Errorf("os-release in its kernel image: %w", err)
	}
	if r.ID != h.release.ID || r.Variant != u.Variant || r.Version != u.Version {
		return hash, fmt.Errorf("its kernel image is that of %s, variant %s, version %s", r.ID, r.Variant, r.Version)
	}
	return k.RootHash, h.checkSigner(data, running)
}

// checkSigner refuses a kernel image that the firmware would refuse: one without a
// signature where the machine starts signed ones, and one that no signer of the
// running image has signed. That those are trusted is seen from that it runs.
func (h *host) checkSigner(image []byte, running *boot.Image) error {
	signers, err := authenticode.Signers(image)
	if err != nil {
		return fmt.Errorf("Secure Boot: its kernel image: %w", err)
	}
	secure, err := h.secureBoot()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(running.Path())
	if err != nil {
		return err
	}
	known, err := authenticode.Signers(data)
	if err != nil {
		return fmt.Errorf("Secure Boot: the running kernel image %s: %w", running.File, err)
	}
	switch {
	case len(signers) == 0 && secure:
		return errors.New("Secure Boot is on, and its kernel image is not signed")
	case len(signers) == 0 && len(known) > 0:
		return errors.New("its kernel image is not signed, that of the running system is")
	case len(known) > 0 && !slices.ContainsFunc(signers, func(s *x509.Certificate) bool { return slices.ContainsFunc(known, s.Equal) }):
		return fmt.Errorf("its kernel image is signed by %s, that of the running system by %s", signers[0].Subject, known[0].Subject)
	}
	return nil
}

// secureBoot tells whether the firmware starts signed programs only (UEFI 2.10,
// section 3.3; the kernel puts four bytes of attributes before a variable).
func (h *host) secureBoot() (bool, error) {
	data, err := os.ReadFile(filepath.Join(h.efivars, "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(data) == 5 && data[4] == 1, err
}
