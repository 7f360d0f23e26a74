// Package sign makes signatures with keys that may lie anywhere: in a file, in
// a token, or with somebody else. Update repositories, Secure Boot and verity
// root hashes are signed through it.
package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Signer is a private key that can be used but need not be known.
type Signer interface {
	// Public is the key that checks the signatures: *rsa.PublicKey,
	// *ecdsa.PublicKey or ed25519.PublicKey.
	Public() crypto.PublicKey
	// Sign signs a digest by the rules of crypto.Signer: opts.HashFunc is the
	// hash that made the digest, *rsa.PSSOptions asks for RSASSA-PSS, and an
	// Ed25519 key gets the message itself with crypto.Hash(0). An ECDSA
	// signature is the ASN.1 form of RFC 3279, section 2.2.3.
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Scheme is how a message becomes a signature, by the names of TUF
// (https://theupdateframework.github.io/specification/latest/#keytype-rsa and
// following) and, where TUF has none, of securesystemslib.
type Scheme string

// Schemes.
const (
	Ed25519        Scheme = "ed25519"             // RFC 8032
	ECDSAP256      Scheme = "ecdsa-sha2-nistp256" // FIPS 186-5, SHA-256, ASN.1
	RSAPSSSHA256   Scheme = "rsassa-pss-sha256"   // RFC 8017, section 8.1; salt as long as the digest
	RSAPKCS1SHA256 Scheme = "rsa-pkcs1v15-sha256" // RFC 8017, section 8.2; Authenticode and PKCS #7
	minRSABits            = 2048
)

// ErrSignature says that a signature is not one of the key over the message.
var ErrSignature = errors.New("wrong signature")

// Fits tells whether the scheme works with a public key; the error says why not.
func (s Scheme) Fits(key crypto.PublicKey) error {
	switch key := key.(type) {
	case ed25519.PublicKey:
		if s == Ed25519 {
			return nil
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return fmt.Errorf("an ECDSA key on the curve %s: want P-256", key.Curve.Params().Name)
		}
		if s == ECDSAP256 {
			return nil
		}
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits: want %d or more", key.N.BitLen(), minRSABits)
		}
		if s == RSAPSSSHA256 || s == RSAPKCS1SHA256 {
			return nil
		}
	}
	return fmt.Errorf("%s cannot be used with a key of type %T", s, key)
}

// prepare gives what a key gets to sign for a message.
func (s Scheme) prepare(message []byte) ([]byte, crypto.SignerOpts) {
	if s == Ed25519 {
		return message, crypto.Hash(0)
	}
	digest := sha256.Sum256(message)
	if s == RSAPSSSHA256 {
		return digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	return digest[:], crypto.SHA256
}

// Message signs a whole message. The signature is checked before it is
// returned, since a token may hold another key than the one it shows.
func Message(ctx context.Context, signer Signer, scheme Scheme, message []byte) ([]byte, error) {
	if err := scheme.Fits(signer.Public()); err != nil {
		return nil, err
	}
	digest, opts := scheme.prepare(message)
	sig, err := signer.Sign(ctx, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if err := Verify(signer.Public(), scheme, message, sig); err != nil {
		return nil, fmt.Errorf("sign: what the key made does not fit its public half: %w", err)
	}
	return sig, nil
}

// Verify checks a signature over a whole message. Its error wraps ErrSignature
// unless the key does not fit the scheme.
func Verify(key crypto.PublicKey, scheme Scheme, message, sig []byte) error {
	if err := scheme.Fits(key); err != nil {
		return err
	}
	digest, opts := scheme.prepare(message)
	ok := false
	switch key := key.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, digest, sig)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, digest, sig)
	case *rsa.PublicKey:
		if pss, isPSS := opts.(*rsa.PSSOptions); isPSS {
			ok = rsa.VerifyPSS(key, crypto.SHA256, digest, sig, pss) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, sig) == nil
		}
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// Fingerprint is the SHA-256 over the SubjectPublicKeyInfo (RFC 5280) of a
// public key, 64 hexadecimal digits.
func Fingerprint(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Crypto makes a signer usable for libraries that want a crypto.Signer.
func Crypto(ctx context.Context, signer Signer) crypto.Signer { return adapter{ctx, signer} }

type adapter struct {
	ctx    context.Context // crypto.Signer has no place for one
	signer Signer
}

func (a adapter) Public() crypto.PublicKey { return a.signer.Public() }

func (a adapter) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return a.signer.Sign(a.ctx, digest, opts)
}
