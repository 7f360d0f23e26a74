package build

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"slipway/internal/image"
	"slipway/internal/image/authenticode"
	"slipway/internal/sign"
	"slipway/internal/workspace"
)

// signing is what signs disk images; nil for none. Nothing of it enters a sandbox
// or the key of a target: what is signed is made without it.
type signing struct {
	certificate *x509.Certificate
	sign        image.SignEFI
}

// openSigning loads key and certificate and makes sure that they belong together.
func openSigning(s workspace.Signing) (*signing, error) {
	if !s.Enabled() {
		return nil, nil
	}
	bad := func(err error) (*signing, error) {
		return nil, fmt.Errorf("signing: %w (table [signing] of the user's %s)", err, workspace.UserFile)
	}
	certificate, err := sign.LoadCertificate(s.SecureBootCert)
	if err != nil {
		return bad(err)
	}
	if err := authenticode.CheckCertificate(certificate); err != nil {
		return bad(err)
	}
	key, err := sign.Load(s.SecureBootKey)
	if err != nil {
		return bad(err)
	}
	if key.Signer == nil {
		return bad(fmt.Errorf("%s is a public key: without the private one, leave the table out and use slipway sign", s.SecureBootKey))
	}
	ours, err := sign.Fingerprint(key.Public)
	if err != nil {
		return bad(err)
	}
	if theirs, err := sign.Fingerprint(certificate.PublicKey); err != nil || ours != theirs {
		return bad(fmt.Errorf("%s is not the certificate of the key %s", s.SecureBootCert, s.SecureBootKey))
	}
	return &signing{certificate, image.SignWith(certificate, key.Signer)}, nil
}

// signer is nil where nothing signs.
func (s *signing) signer() image.SignEFI {
	if s == nil {
		return nil
	}
	return s.sign
}

// id stands for the certificate in the stamp of a disk.
func (s *signing) id() string {
	if s == nil {
		return ""
	}
	sum := sha256.Sum256(s.certificate.Raw)
	return hex.EncodeToString(sum[:])
}
