package pkcs7

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/sign"
)

// sample signs a message, with the content inside or detached.
func sample(t testing.TB, message []byte, detached, attributes bool) (Signed, []byte) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "signer"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	s := Signed{ContentType: OIDData}
	if s.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if !detached {
		s.Content = TLV(tagOctetString, message)
	}
	over := message
	if attributes {
		s.Attributes = Attributes(OIDData, message)
		over = s.Attributes
	}
	key, err := sign.Parse(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
	if err != nil {
		t.Fatal(err)
	}
	if s.Signature, err = sign.Message(t.Context(), key.Signer, sign.RSAPKCS1SHA256, over); err != nil {
		t.Fatal(err)
	}
	out, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return s, out
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	message := bytes.Repeat([]byte("message "), 40)
	for _, c := range []struct {
		name                 string
		detached, attributes bool
	}{{"inside", false, true}, {"detached", true, true}, {"no attributes", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			made, der := sample(t, message, c.detached, c.attributes)
			for _, form := range [][]byte{der, Wrap(der), append(Wrap(der), 0, 0, 0)} {
				s, err := Parse(form)
				if err != nil {
					t.Fatal(err)
				}
				if !s.ContentType.Equal(OIDData) || !bytes.Equal(s.Content, made.Content) || !s.Certificate.Equal(made.Certificate) {
					t.Errorf("%v", s)
				}
				if err := s.Verify(message); err != nil {
					t.Error(err)
				}
				if err := s.Verify(message[1:]); !errors.Is(err, sign.ErrSignature) {
					t.Errorf("another content: %v", err)
				}
			}
			if tool, err := exec.LookPath("openssl"); err == nil {
				dir := t.TempDir()
				certificate, content, signature := filepath.Join(dir, "crt"), filepath.Join(dir, "content"), filepath.Join(dir, "p7")
				err := errors.Join(os.WriteFile(content, message, 0o600), os.WriteFile(signature, Wrap(der), 0o600),
					os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate.Raw}), 0o600))
				if err != nil {
					t.Fatal(err)
				}
				out, err := exec.CommandContext(t.Context(), tool, "smime", "-verify", "-inform", "DER", "-in", signature, "-content", content, "-binary", "-CAfile", certificate, "-purpose", "any", "-out", os.DevNull).CombinedOutput()
				if err != nil {
					t.Errorf("openssl: %v\n%s", err, out)
				}
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	_, der := sample(t, []byte("message"), false, true)
	replace := func(old, with []byte) []byte { return bytes.ReplaceAll(der, old, with) }
	for _, c := range []struct {
		name string
		der  []byte
		want string
	}{
		{"nothing", nil, "syntax error"},
		{"cut", der[:len(der)-1], "data truncated"},
		{"not signed data", Sequence(OID(OIDData), TLV(0xa0, TLV(4))), "instead of SignedData"},
		{"digest", replace(OID(oidSHA256), OID(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2})), "want SHA-256"},
		{"another serial number", func() []byte {
			b := bytes.Clone(der)
			b[bytes.LastIndex(b, []byte{2, 1, 5, 0x30})+2]++ // that of the signer
			return b
		}(), "the signer's certificate is missing"},
		{"type of the content", replace(TLV(tagSet, OID(OIDData)), TLV(tagSet, OID(OIDSignedData))), "the attribute of the content's type"},
		{"no digest", replace(OID(oidMessageDigest), OID(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 9})), "without digest"},
	} {
		if _, err := Parse(c.der); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestTLV(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 127, 128, 255, 256, 70000} {
		want, err := asn1.Marshal(make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		if got := TLV(tagOctetString, make([]byte, n/2), make([]byte, n-n/2)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %x, want %x", n, got[:5], want[:5])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, detached := range []bool{true, false} {
		_, der := sample(f, []byte("message"), detached, !detached)
		f.Add(der)
		f.Add(Wrap(der))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := Parse(der)
		if err != nil {
			return
		}
		if s.Certificate == nil {
			t.Fatal("no certificate and no error")
		}
		_ = s.Verify(s.Content)
	})
}
