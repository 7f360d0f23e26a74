package imagetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"time"

	"slipway/internal/sign"
)

// Signer makes a new key for Secure Boot, and its certificate with the common name.
func Signer(name string) (*x509.Certificate, sign.Signer, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	certificate, errCertificate := x509.ParseCertificate(der)
	key, errKey := sign.Parse(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
	if err := errors.Join(errCertificate, errKey); err != nil {
		return nil, nil, err
	}
	return certificate, key.Signer, nil
}
