package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"slipway/internal/sign/pkcs11"
)

// Ref makes a reference to a key that a file in dir names usable elsewhere: paths
// become absolute, URIs of PKCS #11 stay as they are, as does "".
func Ref(dir, ref string) string {
	if ref == "" || pkcs11.IsURI(ref) || filepath.IsAbs(ref) {
		return ref
	}
	return filepath.Join(dir, ref)
}

// Key is a key by its public half. Signer is nil where the private half is not
// at hand, and signatures must come from elsewhere.
type Key struct {
	Ref    string // where it was loaded from: a path or a URI, for messages
	Public crypto.PublicKey
	Signer Signer
}

// Ready tells whether the key can sign, as far as that is known without doing it:
// the token of a key in one must take its PIN.
func (k *Key) Ready(ctx context.Context) error {
	if k.Signer == nil {
		return fmt.Errorf("%s is a public key: name the private one", k.Ref)
	}
	if token, ok := k.Signer.(*pkcs11.Key); ok {
		if err := token.Ready(ctx); err != nil {
			return fmt.Errorf("key %s: %w", k.Ref, err)
		}
	}
	return nil
}

// Load opens the key that a reference names. A URI of PKCS #11 (RFC 7512; see
// pkcs11.ParseURI) names a private key in a token. Anything else is the path of a
// PEM file: a private key as PKCS #8 (RFC 5958), PKCS #1 (RFC 8017, "RSA PRIVATE
// KEY") or SEC 1 (RFC 5915, "EC PRIVATE KEY"), or a public key as
// SubjectPublicKeyInfo (RFC 5280, "PUBLIC KEY").
func Load(ref string) (*Key, error) {
	if pkcs11.IsURI(ref) {
		key, err := pkcs11.Open(context.Background(), ref)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", pkcs11.Show(ref), err)
		}
		return &Key{Ref: ref, Public: key.Public(), Signer: key}, nil
	}
	return loadFile(ref)
}

func loadFile(path string) (*Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	key, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	key.Ref = path
	return key, nil
}

// Parse reads a key from PEM text, such as the files of Load hold.
func Parse(data []byte) (*Key, error) {
	var block *pem.Block
	for {
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New(`no PEM block with a key in it ("-----BEGIN PRIVATE KEY-----" or "-----BEGIN PUBLIC KEY-----")`)
		}
		if block.Type != "EC PARAMETERS" { // openssl ecparam puts it before the key
			break
		}
	}
	if rest, _ := pem.Decode(data); rest != nil {
		return nil, fmt.Errorf("a second PEM block %q follows: keep one key a file", rest.Type)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errEncrypted
		}
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errEncrypted
		}
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errEncrypted
	default:
		return nil, fmt.Errorf("PEM block %q: want a private or public key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey, *rsa.PublicKey:
		return &Key{Public: key}, nil
	case ed25519.PrivateKey:
		return memory(key), nil
	case *ecdsa.PrivateKey:
		return memory(key), nil
	case *rsa.PrivateKey:
		return memory(key), nil
	}
	return nil, fmt.Errorf("a key of type %T: want RSA, ECDSA or Ed25519", key)
}

var errEncrypted = errors.New("the key is encrypted: decrypt it into a file in memory, or keep it in a token")

func memory(key crypto.Signer) *Key {
	return &Key{Public: key.Public(), Signer: private{key}}
}

// private is a private key in this process.
type private struct{ key crypto.Signer }

func (p private) Public() crypto.PublicKey { return p.key.Public() }

func (p private) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.key.Sign(rand.Reader, digest, opts)
}

// MarshalPublic writes a public key as PEM, such as Load reads.
func MarshalPublic(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "PUBLIC KEY", Bytes: der}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
