package tufrepo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"slipway/internal/sign"
)

// tufKey is a public key in the form of TUF's metadata.
type tufKey struct {
	id     string // key ID, 64 hexadecimal digits
	public crypto.PublicKey
	scheme sign.Scheme
	key    *metadata.Key
}

// newKey puts a public key into the form of TUF (specification, section 4.2):
// Ed25519, ECDSA on P-256 or RSA with PSS.
func newKey(public crypto.PublicKey) (*tufKey, error) {
	k := &tufKey{public: public}
	switch public.(type) {
	case *rsa.PublicKey:
		k.scheme = sign.RSAPSSSHA256
	case *ecdsa.PublicKey:
		k.scheme = sign.ECDSAP256
	default:
		k.scheme = sign.Ed25519
	}
	err := k.scheme.Fits(public)
	if err != nil {
		return nil, err
	}
	if k.key, err = metadata.KeyFromPublicKey(public); err != nil {
		return nil, err
	}
	k.id, err = k.key.ID()
	return k, err
}

// fromMetadata reads a key of a root.
func fromMetadata(key *metadata.Key) (*tufKey, error) {
	public, err := key.ToPublicKey()
	if err != nil {
		return nil, err
	}
	k := &tufKey{public: public, scheme: sign.Scheme(key.Scheme), key: key}
	if err := k.scheme.Fits(public); err != nil {
		return nil, err
	}
	k.id, err = key.ID()
	return k, err
}
