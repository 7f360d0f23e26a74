package sign

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

func TestCertificate(t *testing.T) {
	t.Parallel()
	key := generate(t)["ecdsa"]
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "c"}, NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := block("CERTIFICATE", der, nil)
	for name, data := range map[string][]byte{"PEM": text, "DER": der} {
		c, err := ParseCertificate(data)
		if err != nil || !bytes.Equal(MarshalCertificate(c), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"nothing": {nil, "no certificate in it"},
		"a key":   {block("PUBLIC KEY", []byte{1}, nil), `PEM block "PUBLIC KEY": want a certificate`},
		"two":     {append(append([]byte{}, text...), text...), "keep one certificate a file"},
		"damaged": {block("CERTIFICATE", der[:40], nil), "x509"},
	} {
		if _, err := ParseCertificate(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := LoadCertificate("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
