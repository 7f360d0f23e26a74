package provenance

import (
	"bytes"
	"context"
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
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	attestation "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"slipway/internal/sign"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() *Statement {
	sum := func(c string) map[string]string { return map[string]string{"sha256": strings.Repeat(c, 64)} }
	s := New("v1.0.0", BuildDefinition{
		ExternalParameters: map[string]any{"workspace": "testos", "version": "0.1.0", "variant": "dev", "arch": "x86_64"},
		InternalParameters: map[string]any{"key": strings.Repeat("0", 64), "sourceDateEpoch": 1700000000},
		ResolvedDependencies: []Resource{
			{Name: "sdk", Digest: sum("1"), MediaType: "application/vnd.oci.image.manifest.v1+json"},
			{Name: "a.tar.gz", URI: "https://example.org/a.tar.gz?x=<1>&y", Digest: map[string]string{"sha512": strings.Repeat("2", 128)}, Annotations: map[string]string{"package": "packages/a"}},
		},
	})
	s.Subject = []Resource{{Name: "os.img", Digest: sum("3")}, {Name: "os-uki.efi", Digest: sum("4")}}
	return s
}

// seeded is a key that is always the same.
func seeded() sign.Signer { return parsed(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))) }

func parsed(private any) sign.Signer {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	key, err := sign.Parse(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		panic(err)
	}
	return key.Signer
}

func TestGolden(t *testing.T) {
	t.Parallel()
	plain, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := sample().Sign(t.Context(), seeded())
	if err != nil {
		t.Fatal(err)
	}
	for golden, got := range map[string][]byte{"testdata/statement.intoto.json": plain, "testdata/envelope.intoto.jsonl": signed} {
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-), got (+):\n%s", golden, diff)
		}
	}
	if bytes.Count(signed, []byte("\n")) != 1 {
		t.Error("the envelope is not one line")
	}
	for _, data := range [][]byte{plain, signed} {
		f, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		want := sample()
		want.Predicate.BuildDefinition.InternalParameters["sourceDateEpoch"] = float64(1700000000) // as JSON has it
		if diff := cmp.Diff(want, f.Statement); diff != "" {
			t.Errorf("written (-), read (+):\n%s", diff)
		}
	}
}

// in-toto's own types read the statement, and nothing in it is unknown to them.
func TestAttestation(t *testing.T) {
	t.Parallel()
	plain, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(plain, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := protojson.Marshal(s.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	var p attestation.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	rsaKey, errRSA := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(errRSA, errEC); err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]sign.Signer{"ed25519": seeded(), "rsa": parsed(rsaKey), "ecdsa": parsed(ecKey)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, errOne := sample().Sign(t.Context(), signer)
			two, errTwo := sample().Sign(t.Context(), signer)
			if err := errors.Join(errOne, errTwo); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(one, two) == (name == "ecdsa") {
				t.Errorf("signed twice alike: %v", bytes.Equal(one, two))
			}
			f, err := Parse(one)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Verify(t.Context(), signer.Public()); err != nil {
				t.Error(err)
			}
			// the library by itself agrees
			var envelope dsse.Envelope
			if err := json.Unmarshal(one, &envelope); err != nil {
				t.Fatal(err)
			}
			pae := dsse.PAE(PayloadType, f.Payload)
			sig, err := base64.StdEncoding.DecodeString(envelope.Signatures[0].Sig)
			if err != nil {
				t.Fatal(err)
			}
			scheme := map[string]sign.Scheme{"ed25519": sign.Ed25519, "rsa": sign.RSAPKCS1SHA256, "ecdsa": sign.ECDSAP256}[name]
			if err := sign.Verify(signer.Public(), scheme, pae, sig); err != nil {
				t.Error(err)
			}
			if id, err := sign.Fingerprint(signer.Public()); err != nil || envelope.Signatures[0].KeyID != id {
				t.Errorf("keyid %s, want %s: %v", envelope.Signatures[0].KeyID, id, err)
			}
		})
	}
	small, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sample().Sign(t.Context(), parsed(small)); err == nil || !strings.Contains(err.Error(), "want P-256") {
		t.Error(err)
	}
}

// Whatever is changed of an envelope, it is refused.
func TestTampering(t *testing.T) {
	t.Parallel()
	signed, err := sample().Sign(t.Context(), seeded())
	if err != nil {
		t.Fatal(err)
	}
	other := parsed(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32)))
	change := func(f func(e *dsse.Envelope)) []byte {
		var e dsse.Envelope
		if err := json.Unmarshal(signed, &e); err != nil {
			t.Fatal(err)
		}
		f(&e)
		data, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	forged := sample()
	forged.Subject[0].Digest["sha256"] = strings.Repeat("f", 64)
	forgedPayload, err := forged.Encode()
	if err != nil {
		t.Fatal(err)
	}
	forgedEnvelope, err := forged.Sign(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"payload", change(func(e *dsse.Envelope) { e.Payload = base64.StdEncoding.EncodeToString(forgedPayload) }), "the provenance was changed after it was signed"},
		{"signature", change(func(e *dsse.Envelope) { e.Signatures[0].Sig = base64.StdEncoding.EncodeToString(make([]byte, 64)) }), "the provenance was changed after it was signed"},
		{"key id", change(func(e *dsse.Envelope) { e.Signatures[0].KeyID = "x" }), "the provenance is signed by x"},
		{"no base64", change(func(e *dsse.Envelope) { e.Signatures[0].Sig = "!" }), "wrong signature"},
		{"no signature", change(func(e *dsse.Envelope) { e.Signatures = nil }), "the envelope has no signature"},
		{"payload type", change(func(e *dsse.Envelope) { e.PayloadType = "text/plain" }), `the envelope holds "text/plain"`},
		{"other key", forgedEnvelope, "wrong signature: the key is "},
		{"plain", forgedPayload, "the provenance is not signed"},
		{"two lines", append(bytes.Clone(signed), signed...), "more than one line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := Parse(tt.data)
			if err == nil {
				err = f.Verify(context.Background(), seeded().Public())
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	change := func(f func(s *Statement)) string {
		s := sample()
		f(s)
		data, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, tt := range []struct{ name, data, want string }{
		{"empty", "", "EOF"},
		{"other JSON", "{}", `_type is ""`},
		{"list", "[]", "cannot unmarshal array"},
		{"old statement", change(func(s *Statement) { s.Type = "https://in-toto.io/Statement/v0.1" }), "want https://in-toto.io/Statement/v1"},
		{"other predicate", change(func(s *Statement) { s.PredicateType = "https://slsa.dev/provenance/v0.2" }), "want https://slsa.dev/provenance/v1"},
		{"no builder", change(func(s *Statement) { s.Predicate.RunDetails.Builder.ID = "" }), "the id of the builder is missing"},
		{"no subject", change(func(s *Statement) { s.Subject = nil }), "it has no subject"},
		{"path", change(func(s *Statement) { s.Subject[0].Name = "../x" }), `subject "../x": want the name of a file without folders`},
		{"dots", change(func(s *Statement) { s.Subject[0].Name = ".." }), `subject "..": want`},
		{"no name", change(func(s *Statement) { s.Subject[0].Name = "" }), `subject "": want`},
		{"short digest", change(func(s *Statement) { s.Subject[1].Digest["sha256"] = "12" }), `subject os-uki.efi has the sha256 "12"`},
		{"no digest", change(func(s *Statement) { s.Subject[1].Digest = nil }), `subject os-uki.efi has the sha256 ""`},
		{"twice", change(func(s *Statement) { s.Subject[1].Name = "os.img" }), "subject os.img stands twice"},
		{"envelope of nothing", `{"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": [{"sig": ""}]}`, "unexpected end of JSON input"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := Parse([]byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "provenance: ") {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	plain, errPlain := sample().Encode()
	signed, errSigned := sample().Sign(context.Background(), seeded())
	if err := errors.Join(errPlain, errSigned); err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		for _, s := range file.Statement.Subject {
			if strings.Contains(s.Name, "/") || len(s.Digest["sha256"]) != 64 {
				t.Errorf("%+v", s)
			}
		}
		if err := file.Verify(t.Context(), seeded().Public()); err == nil && !bytes.Equal(file.Payload, plain) {
			t.Errorf("verified: %s", file.Payload)
		}
	})
}
