package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"slipway/internal/image"
	"slipway/internal/image/authenticode"
	"slipway/internal/image/verity"
	"slipway/internal/provenance"
	"slipway/internal/sign"
	"slipway/internal/workspace"
)

// signing is what signs disk images; nil for none. Nothing of it enters a sandbox
// or the key of a target: what is signed is made without it.
type signing struct {
	certificate *x509.Certificate // for Secure Boot; nil where EFI programs are not signed
	sign        image.SignEFI

	rootCertificate *x509.Certificate // for root hashes
	rootSigner      sign.Signer

	keys []*sign.Key
}

// openSigning loads keys and certificates and makes sure that they belong together.
func openSigning(s workspace.Signing) (*signing, error) {
	if key, _ := s.RootHash(); key == "" {
		return nil, nil
	}
	out := &signing{}
	if s.Enabled() {
		certificate, key, err := openPair(s.SecureBootKey, s.SecureBootCert, authenticode.CheckCertificate)
		if err != nil {
			return nil, err
		}
		out.certificate, out.sign = certificate, image.SignWith(certificate, key.Signer)
		out.rootCertificate, out.rootSigner = certificate, key.Signer
		out.keys = append(out.keys, key)
	}
	if s.VerityKey != "" {
		certificate, key, err := openPair(s.VerityKey, s.VerityCert, verity.CheckCertificate)
		if err != nil {
			return nil, err
		}
		out.rootCertificate, out.rootSigner = certificate, key.Signer
		out.keys = append(out.keys, key)
	}
	return out, nil
}

// ready tells, before hours of building, whether the keys can sign.
func (s *signing) ready(ctx context.Context) error {
	if s == nil {
		return nil
	}
	for _, k := range s.keys {
		if err := k.Ready(ctx); err != nil {
			return wrongTable(err)
		}
	}
	return nil
}

func wrongTable(err error) error {
	return fmt.Errorf("signing: %w (table [signing] of the user's %s)", err, workspace.UserFile)
}

// openPair loads a key of the table [signing] with its certificate.
func openPair(ref, file string, check func(*x509.Certificate) error) (*x509.Certificate, *sign.Key, error) {
	bad := func(err error) (*x509.Certificate, *sign.Key, error) { return nil, nil, wrongTable(err) }
	certificate, err := sign.LoadCertificate(file)
	if err != nil {
		return bad(err)
	}
	if err := check(certificate); err != nil {
		return bad(err)
	}
	key, err := sign.Load(ref)
	if err != nil {
		return bad(err)
	}
	if key.Signer == nil {
		return bad(fmt.Errorf("%s is a public key: without the private one, leave the table out and use slipway sign", ref))
	}
	ours, err := sign.Fingerprint(key.Public)
	if err != nil {
		return bad(err)
	}
	if theirs, err := sign.Fingerprint(certificate.PublicKey); err != nil || ours != theirs {
		return bad(fmt.Errorf("%s is not the certificate of the key %s", file, ref))
	}
	return certificate, key, nil
}

// writeRootHash writes the root hash of a disk and its signature beside the disk,
// whose path without its ending is stem.
func (s *signing) writeRootHash(ctx context.Context, stem string, hash verity.RootHash) error {
	signature, err := hash.Sign(ctx, s.rootCertificate, s.rootSigner)
	if err != nil {
		return fmt.Errorf("sign the root hash: %w", err)
	}
	return errors.Join(writeFile(ctx, stem+verity.HashEnding, bytes.NewReader(hash.SignedText())), writeFile(ctx, stem+verity.SignatureEnding, bytes.NewReader(signature)))
}

// signedRootHash tells whether a file is the signature of a root hash. No key is
// needed for that.
func (s *signing) signedRootHash(path string, hash verity.RootHash) bool {
	der, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	certificate, err := hash.VerifySignature(der)
	return err == nil && certificate.Equal(s.rootCertificate)
}

// openProvenance loads the key that signs provenance; nil where there is none.
func openProvenance(s workspace.Signing) (sign.Signer, error) {
	if s.ProvenanceKey == "" {
		return nil, nil
	}
	key, err := sign.Load(s.ProvenanceKey)
	if err == nil && key.Signer == nil {
		err = fmt.Errorf("%s is a public key: provenance-key wants the private one", s.ProvenanceKey)
	}
	if err == nil {
		_, err = provenance.KeyID(key.Public)
	}
	if err != nil {
		return nil, fmt.Errorf("signing: %w (table [signing] of the user's %s)", err, workspace.UserFile)
	}
	return key.Signer, nil
}

// signer is nil where nothing signs.
func (s *signing) signer() image.SignEFI {
	if s == nil {
		return nil
	}
	return s.sign
}

// signingID stands for the certificates in the stamp of a disk; "" where nothing
// signs. No key is needed for that.
func signingID(s workspace.Signing) (string, error) {
	key, root := s.RootHash()
	if key == "" {
		return "", nil
	}
	files := []string{root}
	if s.Enabled() {
		files = append(files, s.SecureBootCert)
	}
	h := sha256.New()
	for _, file := range files {
		c, err := sign.LoadCertificate(file)
		if err != nil {
			return "", wrongTable(err)
		}
		fmt.Fprintf(h, "%x ", c.Raw)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
