package build

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/sign"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// keyFiles writes a key and its certificate.
func keyFiles(t *testing.T, kind string) (key, certificate string) {
	t.Helper()
	var private any
	var err error
	if kind == "rsa" {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	parsed, err := sign.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: kind}, NotAfter: time.Unix(1<<33, 0)}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, parsed.Public, sign.Crypto(context.Background(), parsed.Signer)); err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, certificate = filepath.Join(dir, "key"), filepath.Join(dir, "crt")
	for path, data := range map[string][]byte{key: text, certificate: sign.MarshalCertificate(c)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, certificate
}

func TestOpenSigning(t *testing.T) {
	t.Parallel()
	key, certificate := keyFiles(t, "rsa")
	_, other := keyFiles(t, "rsa")
	ecKey, ec := keyFiles(t, "ecdsa")
	if s, err := openSigning(workspace.Signing{}); s != nil || err != nil || s.signer() != nil || s.id() != "" {
		t.Errorf("without keys: %v %v", s, err)
	}
	s, err := openSigning(workspace.Signing{SecureBootKey: key, SecureBootCert: certificate})
	if err != nil || s.signer() == nil || len(s.id()) != 64 {
		t.Fatal(s, err)
	}
	for want, c := range map[string]workspace.Signing{
		"is not the certificate of the key": {SecureBootKey: key, SecureBootCert: other},
		"Secure Boot wants RSA":             {SecureBootKey: ecKey, SecureBootCert: ec},
		"no such file or directory":         {SecureBootKey: key + "x", SecureBootCert: certificate},
		"want a certificate":                {SecureBootKey: key, SecureBootCert: key},
	} {
		if _, err := openSigning(c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[signing]") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Another certificate makes another disk of the same parts, and another record of
// what was built.
func TestSigningStamp(t *testing.T) {
	t.Parallel()
	ws := &workspace.Workspace{Root: t.TempDir()}
	seen := map[any]string{}
	for name, s := range map[string]workspace.Signing{"none": {}, "one": signingOf(t), "two": signingOf(t)} {
		b := &Builder{ws: ws, signing: func() (*signing, error) { return openSigning(s) }}
		stamp, err := b.stamp(&workspace.Variant{Name: "dev"}, &store.Result{Digest: "sha256:1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, made := range []any{stamp, recordPath(ws.Root, Options{Signing: s}, nil)} {
			if twin := seen[made]; twin != "" {
				t.Errorf("%s and %s have the same: %v", name, twin, made)
			}
			seen[made] = name
		}
	}
}

func signingOf(t *testing.T) workspace.Signing {
	key, certificate := keyFiles(t, "rsa")
	return workspace.Signing{SecureBootKey: key, SecureBootCert: certificate}
}
