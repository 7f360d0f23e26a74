package sign

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// LoadCertificate reads a file with one X.509 certificate (RFC 5280), in PEM or
// DER.
func LoadCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	c, err := ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	return c, nil
}

// ParseCertificate is LoadCertificate for what a file holds.
func ParseCertificate(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		if len(data) > 0 && data[0] == 0x30 { // a SEQUENCE: DER
			return x509.ParseCertificate(data)
		}
		return nil, errors.New(`no certificate in it ("-----BEGIN CERTIFICATE-----")`)
	}
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("PEM block %q: want a certificate", block.Type)
	}
	if second, _ := pem.Decode(rest); second != nil {
		return nil, fmt.Errorf("a second PEM block %q follows: keep one certificate a file", second.Type)
	}
	return x509.ParseCertificate(block.Bytes)
}

// MarshalCertificate writes a certificate as PEM, such as LoadCertificate reads.
func MarshalCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
