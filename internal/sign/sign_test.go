package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
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
)

func generate(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec, "rsa": r}
}

func block(kind string, der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// forms are all PEM files of a private key that Load reads.
func forms(key crypto.Signer) map[string][]byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	out := map[string][]byte{"PKCS #8": block("PRIVATE KEY", der, err)}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		out["SEC 1"] = append(block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}, nil), block("EC PRIVATE KEY", der, err)...)
	case *rsa.PrivateKey:
		out["PKCS #1"] = block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil)
	}
	return out
}

var schemes = map[string][]Scheme{"ed25519": {Ed25519}, "ecdsa": {ECDSAP256}, "rsa": {RSAPSSSHA256, RSAPKCS1SHA256}}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	keys, others := generate(t), generate(t)
	for kind, private := range keys {
		for form, text := range forms(private) {
			for _, scheme := range schemes[kind] {
				t.Run(kind+" "+form+" "+string(scheme), func(t *testing.T) {
					t.Parallel()
					path := filepath.Join(t.TempDir(), "key.pem")
					if err := os.WriteFile(path, text, 0o600); err != nil {
						t.Fatal(err)
					}
					key, err := Load(path)
					if err != nil {
						t.Fatal(err)
					}
					message := []byte("message")
					sig, err := Message(t.Context(), key.Signer, scheme, message)
					if err != nil {
						t.Fatal(err)
					}
					// the public half by itself
					text, err := MarshalPublic(key.Public)
					if err != nil {
						t.Fatal(err)
					}
					public, err := Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					if public.Signer != nil {
						t.Error("a public key can sign")
					}
					if err := Verify(public.Public, scheme, message, sig); err != nil {
						t.Error(err)
					}
					if err := Verify(public.Public, scheme, []byte("massage"), sig); !errors.Is(err, ErrSignature) {
						t.Errorf("another message: %v", err)
					}
					if err := Verify(others[kind].Public(), scheme, message, sig); !errors.Is(err, ErrSignature) {
						t.Errorf("another key: %v", err)
					}
					sig[len(sig)/2] ^= 1
					if err := Verify(public.Public, scheme, message, sig); !errors.Is(err, ErrSignature) {
						t.Errorf("another signature: %v", err)
					}
				})
			}
		}
	}
}

// OpenSSL is the second opinion on schemes and on the form of signatures.
func TestOpenSSLAgrees(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	options := map[Scheme][]string{
		Ed25519: {"-rawin"}, ECDSAP256: {"-rawin", "-digest", "sha256"},
		RSAPKCS1SHA256: {"-rawin", "-digest", "sha256"},
		RSAPSSSHA256:   {"-rawin", "-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32"},
	}
	for kind, private := range generate(t) {
		for _, scheme := range schemes[kind] {
			t.Run(string(scheme), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				write := func(name string, data []byte) string {
					path := filepath.Join(dir, name)
					if err := os.WriteFile(path, data, 0o600); err != nil {
						t.Fatal(err)
					}
					return path
				}
				pemFile := write("key.pem", forms(private)["PKCS #8"])
				message := []byte("a message of some length")
				messageFile := write("message", message)
				run := func(args ...string) {
					t.Helper()
					if out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput(); err != nil {
						t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
					}
				}
				key, err := Load(pemFile)
				if err != nil {
					t.Fatal(err)
				}
				sig, err := Message(t.Context(), key.Signer, scheme, message)
				if err != nil {
					t.Fatal(err)
				}
				run(append([]string{"pkeyutl", "-verify", "-inkey", pemFile, "-in", messageFile, "-sigfile", write("sig", sig)}, options[scheme]...)...)
				theirs := filepath.Join(dir, "theirs")
				run(append([]string{"pkeyutl", "-sign", "-inkey", pemFile, "-in", messageFile, "-out", theirs}, options[scheme]...)...)
				raw, err := os.ReadFile(theirs)
				if err != nil {
					t.Fatal(err)
				}
				if err := Verify(key.Public, scheme, message, raw); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestWrongKeys(t *testing.T) {
	t.Parallel()
	keys := generate(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		scheme Scheme
		key    crypto.PublicKey
		want   string
	}{
		{"P-384", ECDSAP256, p384.Public(), "an ECDSA key on the curve P-384: want P-256"},
		{"short RSA", RSAPSSSHA256, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}, "an RSA key of 1024 bits: want 2048 or more"},
		{"scheme of another key", Ed25519, keys["rsa"].Public(), "ed25519 cannot be used with a key of type *rsa.PublicKey"},
		{"no key", Ed25519, nil, "ed25519 cannot be used with a key of type <nil>"},
	} {
		if err := c.scheme.Fits(c.key); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if err := Verify(c.key, c.scheme, nil, nil); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("%s: verify: %v", c.name, err)
		}
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}})
	ed := forms(keys["ed25519"])["PKCS #8"]
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"no PEM":                    {[]byte("hello"), "no PEM block"},
		"two keys":                  {append(append([]byte{}, ed...), ed...), "keep one key a file"},
		"certificate":               {block("CERTIFICATE", []byte{1}, nil), `PEM block "CERTIFICATE": want a private or public key`},
		"encrypted":                 {encrypted, "the key is encrypted"},
		"encrypted 8":               {block("ENCRYPTED PRIVATE KEY", []byte{1}, nil), "the key is encrypted"},
		"not a key":                 {block("PRIVATE KEY", []byte{1}, nil), "asn1"},
		"only the P-256 parameters": {block("EC PARAMETERS", []byte{1}, nil), "no PEM block"},
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := Load("/nonexistent/key.pem"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// swapped is a token that shows one key and signs with another.
type swapped struct{ Signer }

func (s swapped) Public() crypto.PublicKey {
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	return public
}

func TestMessageChecksTheSigner(t *testing.T) {
	t.Parallel()
	key, err := Parse(forms(generate(t)["ed25519"])["PKCS #8"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Message(t.Context(), swapped{key.Signer}, Ed25519, []byte("x")); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Message(ctx, key.Signer, Ed25519, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A signer works where the standard library wants a crypto.Signer.
func TestCrypto(t *testing.T) {
	t.Parallel()
	for kind, private := range generate(t) {
		key, err := Parse(forms(private)["PKCS #8"])
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: kind}, NotAfter: time.Unix(1<<33, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public, Crypto(t.Context(), key.Signer))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	got, err := Fingerprint(ed25519.NewKeyFromSeed(make([]byte, 32)).Public())
	if err != nil {
		t.Fatal(err)
	}
	// openssl pkey -pubin -outform DER | sha256sum
	if want := "339e2ff917630507b6a423b5ce084e285d1fa65d93b3e27a6195d3bbebc9ae23"; got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	seed := ed25519.NewKeyFromSeed(make([]byte, 32))
	f.Add(forms(seed)["PKCS #8"])
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := Parse(data)
		if err != nil {
			return
		}
		text, err := MarshalPublic(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Public.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public) {
			t.Fatal("the public key changed on its way through PEM")
		}
	})
}
