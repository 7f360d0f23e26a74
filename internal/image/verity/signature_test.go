package verity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
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
	"slipway/internal/sign/pkcs7"
)

// OpenSSL checks what slipway signed, and slipway what OpenSSL signed in the way
// of the kernel's and systemd's documentation.
func TestSignature(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	certificate := certificateOf(t, private.Public(), private)
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
	key, err := sign.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	hash := RootHash{1, 2, 0xfe}
	ours, err := hash.Sign(t.Context(), certificate, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(args ...string) string {
		t.Helper()
		var errOut bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, &errOut)
		}
		return string(out)
	}
	signature, content, cert := write("root.hash.p7s", ours), write("root.hash", hash.SignedText()), write("crt", sign.MarshalCertificate(certificate))
	for _, command := range []string{"smime", "cms"} {
		if got := run(command, "-verify", "-inform", "DER", "-in", signature, "-content", content, "-binary", "-CAfile", cert, "-purpose", "any"); got != hash.String() {
			t.Errorf("openssl %s read %q", command, got)
		}
	}
	theirs := filepath.Join(dir, "theirs")
	run("smime", "-sign", "-noattr", "-binary", "-in", content, "-inkey", write("key", text), "-signer", cert, "-outform", "der", "-out", theirs)
	der, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"ours": ours, "theirs": der} {
		if by, err := hash.VerifySignature(der); err != nil || !by.Equal(certificate) {
			t.Errorf("%s: by %v: %v", name, by, err)
		}
		other := hash
		other[31] = 1
		if _, err := other.VerifySignature(der); !errors.Is(err, sign.ErrSignature) {
			t.Errorf("%s, another root hash: %v", name, err)
		}
	}
	if _, err := hash.Attach(certificate, make([]byte, 256)); !errors.Is(err, sign.ErrSignature) {
		t.Errorf("a wrong signature: %v", err)
	}
	raw, err := sign.Message(t.Context(), key.Signer, SignedScheme, hash.SignedText())
	if err != nil {
		t.Fatal(err)
	}
	inside, err := pkcs7.Signed{ContentType: pkcs7.OIDData, Content: pkcs7.TLV(4, hash.SignedText()), Certificate: certificate, Signature: raw}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hash.VerifySignature(inside); err == nil || !strings.Contains(err.Error(), "detached") {
		t.Errorf("with the root hash inside: %v", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckCertificate(certificateOf(t, ec.Public(), private)); err == nil || !strings.Contains(err.Error(), "signed with RSA") {
		t.Errorf("ECDSA: %v", err)
	}
}

func certificateOf(t *testing.T, public any, by *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "verity"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
