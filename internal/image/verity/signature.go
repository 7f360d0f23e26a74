package verity

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"slipway/internal/sign"
	"slipway/internal/sign/pkcs7"
)

// Endings of the files with a root hash and with its signature, which lie beside
// an image.
const (
	HashEnding      = "-root.hash"
	SignatureEnding = "-root.hash.p7s"
)

// SignedScheme is how root hashes are signed.
const SignedScheme = sign.RSAPKCS1SHA256

// SignedText is what is signed of a root hash, and what stands in the file
// -root.hash: 64 lower case hexadecimal digits, without end of line. So the
// kernel (Documentation/admin-guide/device-mapper/verity.rst, parameter
// root_hash_sig_key_desc) and systemd (RootHashSignature= in systemd.exec(5))
// want it.
func (h RootHash) SignedText() []byte { return []byte(h.String()) }

// CheckCertificate tells whether a certificate can sign root hashes: all kernels
// know RSA.
func CheckCertificate(certificate *x509.Certificate) error {
	if _, ok := certificate.PublicKey.(*rsa.PublicKey); !ok {
		return fmt.Errorf("certificate %s has a %s key: root hashes are signed with RSA", certificate.Subject, certificate.PublicKeyAlgorithm)
	}
	return SignedScheme.Fits(certificate.PublicKey)
}

// Attach checks a signature over SignedText, and gives it as the DER of detached
// PKCS #7 without signed attributes (RFC 2315).
func (h RootHash) Attach(certificate *x509.Certificate, signature []byte) ([]byte, error) {
	if err := CheckCertificate(certificate); err != nil {
		return nil, err
	}
	if err := sign.Verify(certificate.PublicKey, SignedScheme, h.SignedText(), signature); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certificate.Subject, err)
	}
	der, err := pkcs7.Signed{ContentType: pkcs7.OIDData, Certificate: certificate, Signature: signature}.Marshal()
	if err != nil {
		return nil, err
	}
	return pkcs7.Wrap(der), nil
}

// Sign gives the detached signature of a root hash by a signer, whose key is that
// of the certificate. The same key makes the same bytes.
func (h RootHash) Sign(ctx context.Context, certificate *x509.Certificate, signer sign.Signer) ([]byte, error) {
	signature, err := sign.Message(ctx, signer, SignedScheme, h.SignedText())
	if err != nil {
		return nil, err
	}
	return h.Attach(certificate, signature)
}

// VerifySignature checks a detached signature of the root hash, and gives the
// certificate that made it; whether that is trusted is up to the caller. The error
// of a wrong signature wraps sign.ErrSignature.
func (h RootHash) VerifySignature(der []byte) (*x509.Certificate, error) {
	s, err := pkcs7.Parse(der)
	if err != nil {
		return nil, err
	}
	if !s.ContentType.Equal(pkcs7.OIDData) || s.Content != nil {
		return nil, fmt.Errorf("signature of a root hash: want one of detached data")
	}
	if err := s.Verify(h.SignedText()); err != nil {
		return nil, err
	}
	return s.Certificate, nil
}
