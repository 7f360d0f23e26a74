package pkcs11_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/sign"
	"slipway/internal/sign/pkcs11"
	"slipway/internal/sign/pkcs11/pkcs11test"
)

const pin = "271828"

// newToken makes a token, which all programs of the test see.
func newToken(t *testing.T, label string) *pkcs11test.Token {
	t.Helper()
	token, err := pkcs11test.New(t.TempDir(), label, pin)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(pkcs11test.EnvConfig, token.Config)
	t.Setenv(pkcs11.EnvPIN, pin)
	return token
}

func TestToken(t *testing.T) {
	token := newToken(t, "slipway; test")
	dir := t.TempDir()
	for _, k := range [][3]string{{"rsa:2048", "db", "01"}, {"EC:prime256v1", "online", "02"}, {"EC:secp384r1", "p384", "03"}, {"rsa:2048", "twin", "04"}, {"rsa:2048", "twin", "05"}, {"EC:edwards25519", "ed", "07"}} {
		if err := token.Generate(k[0], k[1], k[2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(token.Generate("rsa:2048", "alone", "08"), token.Tool("--delete-object", "--type", "privkey", "--id", "08")); err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("a message longer than any buffer "), 1000)
	for object, schemes := range map[string][]sign.Scheme{
		"db": {sign.RSAPKCS1SHA256, sign.RSAPSSSHA256}, "online": {sign.ECDSAP256},
	} {
		key, err := sign.Load(token.URI(object))
		if err != nil {
			t.Fatal(err)
		}
		for _, scheme := range schemes {
			for _, message := range [][]byte{nil, []byte("message"), long} {
				signature, err := sign.Message(t.Context(), key.Signer, scheme, message)
				if err != nil {
					t.Fatalf("%s: %v", scheme, err)
				}
				if err := sign.Verify(key.Public, scheme, message, signature); err != nil {
					t.Errorf("%s: %v", scheme, err)
				}
			}
		}
	}
	// by ID, and with the PIN in a file
	pinFile := filepath.Join(dir, "pin")
	if err := os.WriteFile(pinFile, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(pkcs11.EnvPIN, "")
	key, err := sign.Load("pkcs11:token=slipway%3B%20test;id=%02?module-path=" + token.Module + "&pin-source=file:" + pinFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Message(t.Context(), key.Signer, sign.ECDSAP256, []byte("x")); err != nil {
		t.Error(err)
	}
	t.Setenv(pkcs11.EnvPIN, pin)

	t.Run("a key by its certificate", func(t *testing.T) {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "c"}, NotAfter: time.Unix(1<<33, 0)}
		certificate, err2 := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		keyFile, certFile := filepath.Join(dir, "key"), filepath.Join(dir, "crt")
		if err := errors.Join(err, err2, os.WriteFile(keyFile, der, 0o600), os.WriteFile(certFile, certificate, 0o600),
			token.Tool("--write-object", keyFile, "--type", "privkey", "--usage-sign", "--label", "imported", "--id", "06")); err != nil {
			t.Fatal(err)
		}
		if _, err := sign.Load(token.URI("imported")); err == nil || !strings.Contains(err.Error(), "neither its public key nor its certificate") {
			t.Errorf("without a certificate: %v", err)
		}
		if err := token.Tool("--write-object", certFile, "--type", "cert", "--label", "imported", "--id", "06"); err != nil {
			t.Fatal(err)
		}
		key, err := sign.Load(token.URI("imported"))
		if err != nil {
			t.Fatal(err)
		}
		if !private.PublicKey.Equal(key.Public) {
			t.Error("another key")
		}
		if _, err := sign.Message(t.Context(), key.Signer, sign.RSAPKCS1SHA256, []byte("x")); err != nil {
			t.Error(err)
		}
	})

	t.Run("messages", func(t *testing.T) {
		_, err := sign.Load(token.URI("nobody"))
		for _, want := range []string{"key pkcs11:token=slipway%3B%20test;object=nobody?module-path=", "no such key; token=slipway; test (SoftHSM v2, serial=", "object=db;id=%01 (RSA 2048 bits)", "object=online;id=%02"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no key: %v, want %s", err, want)
			}
		}
		for uri, want := range map[string]string{
			token.URI("ed"):   "object=ed;id=%07 (EC_EDWARDS EC_POINT 255 bits): the key cannot be used: keys in tokens are RSA or ECDSA on P-256",
			token.URI("twin"): "2 keys fit: choose one of object=twin;id=%04 (RSA 2048 bits), object=twin;id=%05 (RSA 2048 bits)",
			strings.Replace(token.URI("db"), "slipway", "harbour", 1):   "no such token; there is token=slipway; test (",
			strings.Replace(token.URI("db"), token.Module, "/no.so", 1): "stat /no.so: no such file or directory: install the library of the token",
			strings.Replace(token.URI("db"), token.Module, pinFile, 1):  pinFile + " is not a PKCS #11 library",
		} {
			if _, err := sign.Load(uri); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", uri, err, want)
			}
		}
		db, err := sign.Load(token.URI("db"))
		if err != nil {
			t.Fatal(err)
		}
		alone, err := sign.Load(token.URI("alone"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Ready(t.Context()), key.Ready(t.Context())); err != nil {
			t.Error(err)
		}
		_, signErr := sign.Message(t.Context(), alone.Signer, sign.RSAPKCS1SHA256, nil)
		for _, err := range []error{alone.Ready(t.Context()), signErr} {
			if err == nil || !strings.Contains(err.Error(), "the token has the public key, but not the private one") {
				t.Errorf("a public key alone: %v", err)
			}
		}
		if _, err := db.Signer.Sign(t.Context(), make([]byte, 64), crypto.SHA512); err == nil || !strings.Contains(err.Error(), "SHA-256, not by SHA-512") {
			t.Errorf("SHA-512: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := sign.Message(ctx, db.Signer, sign.RSAPKCS1SHA256, nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for _, c := range []struct{ pin, want string }{
			{"", "the token wants a PIN"}, {"000000", "in $SLIPWAY_PKCS11_PIN: it is wrong; it is not tried again"},
		} {
			t.Setenv(pkcs11.EnvPIN, c.pin)
			if _, err := sign.Message(t.Context(), db.Signer, sign.RSAPKCS1SHA256, nil); err == nil || !strings.Contains(err.Error(), c.want) || c.pin != "" && strings.Contains(err.Error(), c.pin) {
				t.Errorf("PIN %q: %v, want %s", c.pin, err, c.want)
			}
		}
		// the right one is not tried after a wrong one, or else a wrong one would be
		t.Setenv(pkcs11.EnvPIN, pin)
		if _, err := sign.Message(t.Context(), db.Signer, sign.RSAPKCS1SHA256, nil); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("after a wrong PIN: %v", err)
		}
	})

	t.Run("no program", func(t *testing.T) {
		t.Setenv("PATH", dir)
		if _, err := sign.Load(token.URI("db")); err == nil || !strings.Contains(err.Error(), "apt-get install opensc") {
			t.Error(err)
		}
	})
}

func TestNoToken(t *testing.T) {
	token := newToken(t, "empty")
	if _, err := sign.Load(token.URI("db")); err == nil || !strings.Contains(err.Error(), "no such key: token=empty") {
		t.Errorf("an empty token: %v", err)
	}
	config := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(config, []byte("directories.tokendir = "+t.TempDir()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(pkcs11test.EnvConfig, config)
	if _, err := sign.Load(token.URI("db")); err == nil || !strings.Contains(err.Error(), "shows no token") {
		t.Errorf("no token: %v", err)
	}
}
