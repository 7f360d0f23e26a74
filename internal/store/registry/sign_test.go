package registry

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"slipway/internal/sign/pkcs11"
	"slipway/internal/sign/pkcs11/pkcs11test"
	"slipway/internal/store"
	"slipway/internal/store/registry/registrytest"
)

// pair is a private key and its public key, as files.
type pair struct{ privateFile, publicFile string }

type keys struct{ ed25519, ecdsa, stranger pair }

func newKeys(t *testing.T) keys {
	t.Helper()
	dir := t.TempDir()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keys{writePair(t, dir, "ed25519", ed), writePair(t, dir, "ecdsa", ec), writePair(t, dir, "stranger", other)}
}

func writePair(t *testing.T, dir, name string, key crypto.Signer) pair {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", private),
		writePEM(t, filepath.Join(dir, name+".pub"), "PUBLIC KEY", public),
	}
}

func writePEM(t *testing.T, path, kind string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p pair) private(t *testing.T) *PrivateKey {
	t.Helper()
	k, err := LoadPrivateKey(p.privateFile)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p pair) public(t *testing.T) []*PublicKey {
	t.Helper()
	k, err := LoadPublicKey(p.publicFile)
	if err != nil {
		t.Fatal(err)
	}
	return []*PublicKey{k}
}

// An encrypted key, as cosign writes it, is the same key.
func TestEncryptedKey(t *testing.T) {
	k := newKeys(t)
	plain := k.ecdsa.private(t)
	text, err := os.ReadFile(k.ecdsa.privateFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	secret, err := encrypted.Encrypt(block.Bytes, []byte("tops3cret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY"} {
		path := writePEM(t, filepath.Join(t.TempDir(), "cosign.key"), kind, secret)
		t.Setenv(PasswordVariable, "tops3cret")
		got, err := LoadPrivateKey(path)
		if err != nil {
			t.Fatal(err)
		}
		if !plain.signer.(*ecdsa.PrivateKey).Equal(got.signer) {
			t.Error("another key came out")
		}
		t.Setenv(PasswordVariable, "wrong")
		if _, err := LoadPrivateKey(path); err == nil || !strings.Contains(err.Error(), "check the password in "+PasswordVariable) {
			t.Errorf("wrong password: %v", err)
		}
		os.Unsetenv(PasswordVariable) // t.Setenv restores it
		if _, err := LoadPrivateKey(path); err == nil || !strings.Contains(err.Error(), "put its password into the environment variable "+PasswordVariable) {
			t.Errorf("no password: %v", err)
		}
	}
}

func TestLoadKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newKeys(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long := writePair(t, dir, "p384", p384)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPair := writePair(t, dir, "rsa", rsaKey)
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbled := writePEM(t, filepath.Join(dir, "garbled"), "PRIVATE KEY", []byte("x"))
	garbledPub := writePEM(t, filepath.Join(dir, "garbled.pub"), "PUBLIC KEY", []byte("x"))
	sec1 := writePEM(t, filepath.Join(dir, "sec1"), "EC PRIVATE KEY", []byte("x"))
	for _, tc := range []struct {
		path    string
		private string // message; "" where it is read
		public  string
	}{
		{k.ed25519.privateFile, "", `holds a "PRIVATE KEY", want a "PUBLIC KEY": openssl pkey -pubout`},
		{k.ed25519.publicFile, "holds a public key", ""},
		{k.ecdsa.privateFile, "", "openssl pkey -pubout"},
		{k.ecdsa.publicFile, "holds a public key", ""},
		{long.privateFile, "neither ed25519 nor ECDSA P-256", "openssl"},
		{long.publicFile, "public", "neither ed25519 nor ECDSA P-256"},
		{rsaPair.privateFile, "neither ed25519 nor ECDSA P-256", "openssl"},
		{rsaPair.publicFile, "public", "neither ed25519 nor ECDSA P-256"},
		{text, "not a PEM file", "not a PEM file"},
		{filepath.Join(dir, "absent"), "no such file", "no such file"},
		{garbled, "asn1", "openssl"},
		{garbledPub, "public", "asn1"},
		{sec1, "openssl pkcs8 -topk8", "openssl pkey"},
	} {
		check := func(what, want string, err error) {
			switch {
			case want == "" && err != nil:
				t.Errorf("%s key %s: %v", what, tc.path, err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), tc.path)):
				t.Errorf("%s key %s: got %v, want its name and %q", what, tc.path, err, want)
			}
		}
		_, err := LoadPrivateKey(tc.path)
		check("private", tc.private, err)
		_, err = LoadPublicKey(tc.path)
		check("public", tc.public, err)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	res := newResult(t, "packages/glibc", "rpm")
	d := digest.FromBytes(res.manifest)
	signed := func(p pair, raw []byte) ocispec.Descriptor {
		t.Helper()
		signature, err := p.private(t).sign(raw)
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{
			MediaType: payloadMediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
			Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signature)},
		}
	}
	payloadFor := func(d digest.Digest, kind string) []byte {
		return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"elsewhere"},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, d, kind)
	}
	right := payloadFor(d, payloadType)
	changed := func(l ocispec.Descriptor, f func(*ocispec.Descriptor)) ocispec.Descriptor {
		l.Annotations = map[string]string{signatureAnnotation: l.Annotations[signatureAnnotation]}
		f(&l)
		return l
	}
	both := append(k.ed25519.public(t), k.ecdsa.public(t)...)
	for _, tc := range []struct {
		name    string
		layers  []ocispec.Descriptor
		blobs   [][]byte
		allowed []*PublicKey // nil: ed25519
		want    error
		text    string
	}{
		{name: "none", want: ErrUnsigned},
		{name: "other layers", layers: []ocispec.Descriptor{{MediaType: "text/plain", Digest: digest.FromBytes(right), Size: int64(len(right))}}, want: ErrUnsigned},
		{name: "ed25519", layers: []ocispec.Descriptor{signed(k.ed25519, right)}, blobs: [][]byte{right}},
		{name: "ecdsa", layers: []ocispec.Descriptor{signed(k.ecdsa, right)}, blobs: [][]byte{right}, allowed: k.ecdsa.public(t)},
		{name: "second allowed key", layers: []ocispec.Descriptor{signed(k.ecdsa, right)}, blobs: [][]byte{right}, allowed: both},
		{name: "second signature", layers: []ocispec.Descriptor{signed(k.stranger, right), signed(k.ed25519, right)}, blobs: [][]byte{right}},
		{name: "wrong key", layers: []ocispec.Descriptor{signed(k.stranger, right)}, blobs: [][]byte{right}, want: ErrBadSignature, text: "another key"},
		{name: "wrong kind of key", layers: []ocispec.Descriptor{signed(k.ecdsa, right)}, blobs: [][]byte{right}, want: ErrBadSignature, text: "another key"},
		{name: "another digest", layers: []ocispec.Descriptor{signed(k.ed25519, payloadFor(digest.FromString("x"), payloadType))},
			blobs: [][]byte{payloadFor(digest.FromString("x"), payloadType)}, want: ErrBadSignature, text: digest.FromString("x").String()},
		{name: "another purpose", layers: []ocispec.Descriptor{signed(k.ed25519, payloadFor(d, "receipt"))}, blobs: [][]byte{payloadFor(d, "receipt")}, want: ErrBadSignature, text: "receipt"},
		{name: "signed garbage", layers: []ocispec.Descriptor{signed(k.ed25519, []byte("{"))}, blobs: [][]byte{[]byte("{")}, want: ErrBadSignature},
		{name: "payload swapped", layers: []ocispec.Descriptor{changed(signed(k.ed25519, payloadFor(digest.FromString("x"), payloadType)),
			func(l *ocispec.Descriptor) { l.Digest, l.Size = digest.FromBytes(right), int64(len(right)) })}, blobs: [][]byte{right}, want: ErrBadSignature},
		{name: "payload lost", layers: []ocispec.Descriptor{signed(k.ed25519, right)}, want: ErrBadSignature},
		{name: "payload huge", layers: []ocispec.Descriptor{changed(signed(k.ed25519, right), func(l *ocispec.Descriptor) { l.Size = maxPayload + 1 })}, blobs: [][]byte{right}, want: ErrBadSignature},
		{name: "no base64", layers: []ocispec.Descriptor{changed(signed(k.ed25519, right), func(l *ocispec.Descriptor) { l.Annotations[signatureAnnotation] = "?" })},
			blobs: [][]byte{right}, want: ErrBadSignature, text: "base64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if tc.allowed == nil {
				tc.allowed = k.ed25519.public(t)
			}
			r, warned := open(t, s.host(), func(c *Config) { c.PublicKeys = tc.allowed })
			if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
				t.Fatal(err)
			}
			if tc.layers != nil {
				s.put(t, sigTag(d), encode(t, ocispec.Manifest{
					Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
					Config: res.m.Config, Layers: tc.layers,
				}))
			}
			// the payloads come as the layers of a result
			helper := newResult(t, "helper")
			for _, b := range tc.blobs {
				l := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromBytes(b), Size: int64(len(b))}
				helper.m.Layers = append(helper.m.Layers, l)
				helper.blobs[l.Digest.String()] = b
			}
			if err := r.Push(t.Context(), encode(t, helper.m), helper.open); err != nil {
				t.Fatal(err)
			}

			_, err := r.Lookup(t.Context(), res.key)
			if tc.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *SignatureError
			if !errors.Is(err, tc.want) || !errors.As(err, &refused) {
				t.Fatalf("got %v, want a SignatureError that is %v", err, tc.want)
			}
			want := SignatureError{Target: "packages/glibc", Key: res.key, Ref: r.Ref()}
			for _, k := range tc.allowed {
				want.Expected = append(want.Expected, k.String())
			}
			got := *refused
			got.Err = nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for _, part := range []string{"packages/glibc", res.key, r.Ref(), tc.allowed[0].String(), tc.text} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if r.Down() != nil || len(warned.get()) > 0 {
				t.Errorf("down: %v, warned %q", r.Down(), warned.get())
			}
		})
	}
}

// A registry that changes what was signed cannot make it fit again.
func TestTampered(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKeys(t)
	r, _ := open(t, s.host(), func(c *Config) { c.SignKey, c.PublicKeys = k.ed25519.private(t), k.ed25519.public(t) })
	res := newResult(t, "packages/glibc", "rpm")
	if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
		t.Fatal(err)
	}
	evil := newResult(t, "packages/glibc", "evil rpm")
	s.put(t, evil.key, evil.manifest)
	if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrUnsigned) {
		t.Errorf("other layers: %v", err)
	}
	// with the signatures of the right one
	client, err := r.connect(t.Context(), &r.pull)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.do(t.Context(), client, "GET", "manifests/"+sigTag(digest.FromBytes(res.manifest)), nil, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	s.put(t, sigTag(digest.FromBytes(evil.manifest)), b.Bytes())
	if _, err := r.Lookup(t.Context(), res.key); !errors.Is(err, ErrBadSignature) {
		t.Errorf("signatures of another: %v", err)
	}
	// building it anew, and pushing that, heals it
	if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup(t.Context(), res.key); err != nil {
		t.Error(err)
	}
}

// Signatures of several machines add up, and signing again changes nothing.
func TestSignAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKeys(t)
	res := newResult(t, "packages/glibc", "rpm")
	push := func(p *pair) []string {
		t.Helper()
		r, _ := open(t, s.host(), func(c *Config) {
			if p != nil {
				c.SignKey = p.private(t)
			}
		})
		if err := r.Push(t.Context(), res.manifest, res.open); err != nil {
			t.Fatal(err)
		}
		return s.requests()
	}
	push(nil) // by somebody who does not sign
	push(&k.ed25519)
	push(&k.ecdsa)
	tag := sigTag(digest.FromBytes(res.manifest))
	for _, p := range []pair{k.ed25519, k.ecdsa} {
		if diff := cmp.Diff([]string{"GET manifests/" + res.key, "GET manifests/" + tag}, push(&p)); diff != "" {
			t.Errorf("signed again: %s", diff)
		}
		r, _ := open(t, s.host(), func(c *Config) { c.PublicKeys = p.public(t) })
		if _, err := r.Lookup(t.Context(), res.key); err != nil {
			t.Error(err)
		}
		// the payload of one's own making is not asked for
		if diff := cmp.Diff([]string{"GET manifests/" + res.key, "GET manifests/" + tag}, s.requests()); diff != "" {
			t.Error(diff)
		}
	}
}

// What another machine made for a key stays, unless a machine that signs finds no
// signature that it knows, or the result is not whole.
func TestPushAnother(t *testing.T) {
	t.Parallel()
	host := registrytest.Start(t).Host
	k := newKeys(t)
	none := func(*Config) {}
	signs := func(p pair) func(*Config) {
		return func(c *Config) { c.SignKey, c.PublicKeys = p.private(t), p.public(t) }
	}
	knows := func(c *Config) { c.PublicKeys = k.ed25519.public(t) }
	for _, tc := range []struct {
		name          string
		first, second func(*Config)
		wrong         bool // the tag leads to the result of another key
		replaced      bool
	}{
		{name: "unsigned by unsigned", first: none, second: none},
		{name: "signed by unsigned", first: signs(k.ed25519), second: none},
		{name: "signed by one that knows the key", first: signs(k.ed25519), second: knows},
		{name: "unsigned by one that knows the key", first: none, second: knows},
		{name: "signed by one that signs", first: signs(k.ed25519), second: func(c *Config) { c.SignKey, c.PublicKeys = k.ecdsa.private(t), k.ed25519.public(t) }},
		{name: "signed by the same key", first: signs(k.ed25519), second: func(c *Config) { c.SignKey = k.ed25519.private(t) }},
		{name: "unsigned by one that signs", first: none, second: signs(k.ed25519), replaced: true},
		{name: "signed by a stranger", first: signs(k.stranger), second: signs(k.ed25519), replaced: true},
		{name: "of another key", first: none, second: none, wrong: true, replaced: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			at := func(c *Config) { c.Ref = host + "/" + strings.ReplaceAll(tc.name, " ", "-") }
			first, second := newResult(t, "packages/glibc", "rpm"), newResult(t, "packages/glibc", "rpm")
			first.m.Annotations[store.AnnotationWall], second.m.Annotations[store.AnnotationWall] = "1.0", "2.0"
			first.manifest, second.manifest = encode(t, first.m), encode(t, second.m)
			r, _ := open(t, host, at, tc.first)
			if err := r.Push(t.Context(), first.manifest, first.open); err != nil {
				t.Fatal(err)
			}
			if tc.wrong {
				other := newResult(t, "packages/other", "rpm")
				if err := errors.Join(r.Push(t.Context(), other.manifest, other.open), remote.Put(r.repo.Tag(first.key), rawManifest(other.manifest))); err != nil {
					t.Fatal(err)
				}
			}
			r, warned := open(t, host, at, tc.second)
			if err := r.Push(t.Context(), second.manifest, second.open); err != nil {
				t.Fatal(err)
			}
			want, pushed := first.manifest, int64(0)
			if tc.replaced {
				want, pushed = second.manifest, 1
			}
			got, err := r.manifest(t.Context(), first.key)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			if n := r.Stats().Pushed; n != pushed || len(warned.get()) > 0 {
				t.Errorf("pushed %d, want %d; warned %q", n, pushed, warned.get())
			}
		})
	}
}

// The form of the payload and of the annotations is cosign's.
func TestPayload(t *testing.T) {
	t.Parallel()
	r, _ := open(t, "registry.example.com")
	d := digest.FromString("manifest")
	for _, tc := range []struct{ tag, optional string }{
		{"", "null"},
		{"sdk-1", `{"dev.slipway.tag":"sdk-1"}`},
	} {
		want := `{"critical":{"identity":{"docker-reference":"registry.example.com/team/cache"},"image":{"docker-manifest-digest":"` + d.String() +
			`"},"type":"cosign container image signature"},"optional":` + tc.optional + `}`
		if diff := cmp.Diff(want, string(r.payloadOf(d, tc.tag))); diff != "" {
			t.Error(diff)
		}
	}
	if got, want := sigTag(d), "sha256-"+d.Encoded()+".sig"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !json.Valid(r.payloadOf(d, "a\"b")) {
		t.Error("the payload is no JSON")
	}
}

// A key in a token signs as one in a file.
func TestTokenKey(t *testing.T) {
	token, err := pkcs11test.New(t.TempDir(), "team", "271828")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(token.Generate("EC:prime256v1", "cache", "01"), token.Generate("rsa:2048", "rsa", "02")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(pkcs11test.EnvConfig, token.Config)
	t.Setenv(pkcs11.EnvPIN, token.PIN)
	k, err := LoadPrivateKey(token.URI("cache"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	signature, err := k.sign(message)
	if err != nil || !public.verify(message, signature) || public.verify([]byte("massage"), signature) {
		t.Errorf("signature %x (%v)", signature, err)
	}
	if _, err := LoadPrivateKey(token.URI("rsa")); err == nil || !strings.Contains(err.Error(), "is neither ed25519 nor ECDSA P-256") {
		t.Errorf("RSA: %v", err)
	}
}
