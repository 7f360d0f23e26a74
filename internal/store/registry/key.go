package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"slipway/internal/sign"
	"slipway/internal/sign/pkcs11"
)

// PasswordVariable is the environment variable with the password of an encrypted
// private key; cosign's own.
const PasswordVariable = "COSIGN_PASSWORD"

// PrivateKey signs manifests.
type PrivateKey struct {
	path   string
	signer crypto.Signer // ed25519, or ECDSA P-256
}

// PublicKey is a key that manifests may be signed with.
type PublicKey struct {
	path string
	id   string // "sha256:" and the start of the digest of its PKIX form
	key  crypto.PublicKey
}

// String names the key: its file and a fingerprint.
func (k *PublicKey) String() string { return fmt.Sprintf("%s (%s)", k.path, k.id) }

// LoadPrivateKey reads a PEM file with a private key, ed25519 or ECDSA P-256: in
// PKCS#8, or encrypted by cosign with the password in $COSIGN_PASSWORD. A pkcs11:
// URI names such a key in a token (see sign.Load).
func LoadPrivateKey(path string) (*PrivateKey, error) {
	if pkcs11.IsURI(path) {
		key, err := sign.Load(path)
		if err != nil {
			return nil, err
		}
		if !supported(key.Public) {
			return nil, fmt.Errorf("private key: %s is neither ed25519 nor ECDSA P-256", path)
		}
		return &PrivateKey{path, sign.Crypto(context.Background(), key.Signer)}, nil
	}
	block, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	der := block.Bytes
	switch block.Type {
	case "PRIVATE KEY":
	case "ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY":
		password, ok := os.LookupEnv(PasswordVariable)
		if !ok {
			return nil, fmt.Errorf("private key: %s is encrypted: put its password into the environment variable %s", path, PasswordVariable)
		}
		if der, err = encrypted.Decrypt(block.Bytes, []byte(password)); err != nil {
			return nil, fmt.Errorf("private key: %s cannot be decrypted: check the password in %s: %w", path, PasswordVariable, err)
		}
	case "PUBLIC KEY":
		return nil, fmt.Errorf("private key: %s holds a public key", path)
	default:
		return nil, fmt.Errorf("private key: %s holds a %q, want PKCS#8 or a key of cosign: openssl pkcs8 -topk8 -nocrypt converts others", path, block.Type)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("private key: %s: %w", path, err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok || !supported(signer.Public()) {
		return nil, fmt.Errorf("private key: %s is neither ed25519 nor ECDSA P-256", path)
	}
	return &PrivateKey{path, signer}, nil
}

// LoadPublicKey reads a PEM file with a public key in PKIX form, ed25519 or ECDSA
// P-256, such as cosign.pub.
func LoadPublicKey(path string) (*PublicKey, error) {
	block, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if block.Type != "PUBLIC KEY" {
		hint := ""
		if strings.Contains(block.Type, "PRIVATE") {
			hint = ": openssl pkey -pubout prints the public key that belongs to it"
		}
		return nil, fmt.Errorf("public key: %s holds a %q, want a \"PUBLIC KEY\"%s", path, block.Type, hint)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %s: %w", path, err)
	}
	return newPublicKey(path, key)
}

// Public is the public half of the key.
func (k *PrivateKey) Public() (*PublicKey, error) { return newPublicKey(k.path, k.signer.Public()) }

func newPublicKey(path string, key crypto.PublicKey) (*PublicKey, error) {
	if !supported(key) {
		return nil, fmt.Errorf("public key: %s is neither ed25519 nor ECDSA P-256", path)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("public key: %s: %w", path, err)
	}
	sum := sha256.Sum256(der)
	return &PublicKey{path, "sha256:" + hex.EncodeToString(sum[:8]), key}, nil
}

func supported(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256()
	}
	return false
}

func readPEM(path string) (*pem.Block, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(path + " is not a PEM file")
	}
	return block, nil
}

// sign signs as cosign does: ed25519 the message itself, ECDSA its SHA-256, in
// ASN.1 (with a key in a file by RFC 6979, so that signing again gives the same).
func (k *PrivateKey) sign(message []byte) ([]byte, error) {
	if _, ok := k.signer.Public().(ed25519.PublicKey); ok {
		return k.signer.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.signer.Sign(nil, sum[:], crypto.SHA256)
}

func (k *PublicKey) verify(message, signature []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	}
	return false
}
