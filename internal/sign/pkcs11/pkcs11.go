// Package pkcs11 signs with private keys that lie in tokens: smart cards, security
// modules, and programs that act as such. PKCS #11 is spoken by pkcs11-tool of
// OpenSC in a process of its own, see docs/decisions/0011-tokens-by-pkcs11-tool.md.
package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Key is a private key in a token. It is a sign.Signer.
type Key struct {
	token  token
	object object
	public crypto.PublicKey
}

// Open finds the private key that a URI names (RFC 7512; see ParseURI), by the
// public key or the certificate that the token has of it under the same label and
// ID. It logs in only where these cannot be seen without. Keys are RSA or ECDSA.
func Open(ctx context.Context, text string) (*Key, error) {
	uri, err := ParseURI(text)
	if err != nil {
		return nil, err
	}
	t := token{uri}
	s, err := t.slot(ctx)
	if err != nil {
		return nil, err
	}
	var seen []object
	for _, try := range []struct {
		kind  string
		login bool
	}{{"pubkey", false}, {"cert", false}, {"pubkey", true}, {"cert", true}} {
		objects, err := t.objects(ctx, s, try.kind, try.login)
		if err != nil {
			return nil, err
		}
		found := slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return !uri.matchesObject(o) })
		if len(found) > 1 {
			return nil, fmt.Errorf("%d keys fit: choose one of %s", len(found), list(found))
		}
		if len(found) == 1 {
			k := &Key{token: t, object: found[0]}
			k.public, err = k.read(ctx, s, try.kind, try.login)
			return k, err
		}
		seen = append(seen, objects...)
	}
	private, err := t.objects(ctx, s, "privkey", true)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(private, uri.matchesObject) {
		return nil, errors.New("the token has the private key, but neither its public key nor its certificate: put one of them into the token, with the same label and ID")
	}
	seen = append(seen, private...)
	slices.SortStableFunc(seen, compare) // public keys, of which more is known, first
	seen = slices.CompactFunc(seen, func(a, b object) bool { return compare(a, b) == 0 })
	if len(seen) == 0 {
		return nil, fmt.Errorf("no such key: %s is empty", s)
	}
	return nil, fmt.Errorf("no such key; %s has %s", s, list(seen))
}

// read gives the public half as the token shows it.
func (k *Key) read(ctx context.Context, s slot, kind string, login bool) (crypto.PublicKey, error) {
	args := append([]string{"--read-object", "--type", kind, "--slot", s.id}, k.object.arguments()...)
	var der []byte
	var err error
	if login {
		_, der, err = k.token.login(ctx, s, nil, args...)
	} else {
		_, der, err = k.token.run(ctx, "", nil, args...)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.object, err)
	}
	var public crypto.PublicKey
	if kind == "cert" {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.object, err)
		}
		public = certificate.PublicKey
	} else if public, err = x509.ParsePKIXPublicKey(der); err != nil {
		public = nil // of a kind that is not known
	}
	switch public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return public, nil
	}
	return nil, fmt.Errorf("%s: %w", k.object, errKind)
}

// Public is the public half: *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Ready logs in and looks for the private key, so that what is wrong with either is
// known before a signature is needed.
func (k *Key) Ready(ctx context.Context) error {
	s, err := k.token.slot(ctx)
	if err != nil {
		return err
	}
	private, err := k.token.objects(ctx, s, "privkey", true)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(private, func(o object) bool { return compare(o, k.object) == 0 || k.object.id != "" && o.id == k.object.id }) {
		return fmt.Errorf("%s: %w", k.object, errNoPrivate)
	}
	return nil
}

// digestInfo precedes a SHA-256 in a signature by PKCS #1 v1.5 (RFC 8017,
// section 9.2).
var digestInfo = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

// Sign signs a SHA-256 digest, by the rules of crypto.Signer.
func (k *Key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	args, input, err := k.mechanism(digest, opts)
	if err != nil {
		return nil, err
	}
	s, err := k.token.slot(ctx) // the token may have been plugged in elsewhere
	if err != nil {
		return nil, err
	}
	args = append(append([]string{"--sign", "--slot", s.id}, k.object.arguments()...), args...)
	_, signature, err := k.token.login(ctx, s, input, args...)
	if err != nil {
		return nil, err
	}
	if ec, ok := k.public.(*ecdsa.PublicKey); ok {
		n := (ec.Params().N.BitLen() + 7) / 8
		if len(signature) != 2*n {
			return nil, fmt.Errorf("the token made a signature of %d bytes: want %d", len(signature), 2*n)
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:])})
	}
	return signature, nil
}

// mechanism gives how pkcs11-tool is to sign, and what.
func (k *Key) mechanism(digest []byte, opts crypto.SignerOpts) (args []string, input []byte, err error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, nil, fmt.Errorf("keys in tokens sign digests by SHA-256, not by %s", opts.HashFunc())
	}
	if _, ok := k.public.(*ecdsa.PublicKey); ok {
		return []string{"--mechanism", "ECDSA", "--signature-format", "rs"}, digest, nil
	}
	if _, ok := opts.(*rsa.PSSOptions); ok {
		return []string{"--mechanism", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "32"}, digest, nil
	}
	return []string{"--mechanism", "RSA-PKCS"}, append(slices.Clone(digestInfo), digest...), nil
}
