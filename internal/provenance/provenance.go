// Package provenance says how an image was made: SLSA v1 provenance
// (https://slsa.dev/spec/v1.0/provenance) in an in-toto statement
// (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md), which a
// DSSE envelope signs (https://github.com/secure-systems-lab/dsse).
//
// The types are this package's own: those of in-toto's attestation module are made
// by protobuf, whose JSON is not the same from build to build of the program.
package provenance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"slipway/internal/sign"
)

// Endings of the files beside an image, after its name without ending: a signed
// envelope by the rules for bundles
// (https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md), one
// envelope a line; and a statement that nobody has signed, which is no bundle.
const (
	EndSigned   = "-provenance.intoto.jsonl"
	EndUnsigned = "-provenance.intoto.json"
)

// Names of types, as they stand in statements and envelopes.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	PayloadType   = "application/vnd.in-toto+json"
	// BuildType is how Slipway builds images; docs/supply-chain.md has what its
	// parameters and dependencies are.
	BuildType = "slipway:image/v1"
	// BuilderID is Slipway on a machine that nobody vouches for but who holds the
	// key.
	BuilderID = "slipway:builder/v1"
)

// Statement is an in-toto statement with provenance of SLSA v1.
type Statement struct {
	Type          string     `json:"_type"` // StatementType
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"` // PredicateType
	Predicate     Predicate  `json:"predicate"`
}

// Resource is a file or artefact by its digests
// (https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md).
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"` // hexadecimal by algorithm: "sha256", "sha512"
	MediaType   string            `json:"mediaType,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Predicate is the provenance.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is all that decides what comes out of a build.
type BuildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters,omitempty"`
	ResolvedDependencies []Resource     `json:"resolvedDependencies,omitempty"`
}

// RunDetails are of the one build. There are no times and no identity of the run:
// the same build gives the same statement.
type RunDetails struct {
	Builder Builder `json:"builder"`
}

// Builder is what has built.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"` // of programs by name
}

// New is a statement by this version of Slipway, without subjects.
func New(version string, d BuildDefinition) *Statement {
	d.BuildType = BuildType
	return &Statement{
		Type: StatementType, PredicateType: PredicateType, Subject: []Resource{},
		Predicate: Predicate{d, RunDetails{Builder{BuilderID, map[string]string{"slipway": version}}}},
	}
}

// Encode writes the statement as JSON, the same for the same content.
func (s *Statement) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(s)
	return b.Bytes(), err
}

// Sign writes the envelope of a statement, one line. The signature is the same each
// time with keys of Ed25519 and RSA; those of ECDSA differ.
func (s *Statement) Sign(ctx context.Context, signer sign.Signer) ([]byte, error) {
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	k, err := newKey(signer.Public())
	if err != nil {
		return nil, err
	}
	k.signer = signer
	by, err := dsse.NewEnvelopeSigner(k)
	if err != nil {
		return nil, err
	}
	envelope, err := by.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(envelope)
	return append(line, '\n'), err
}

// File is a statement as it was read.
type File struct {
	Statement *Statement
	// Payload is the text of the statement.
	Payload []byte
	// KeyIDs are the keys that signatures claim to be of; none where the statement
	// is not signed.
	KeyIDs []string

	envelope *dsse.Envelope
}

// ErrUnsigned says that a statement has no signature.
var ErrUnsigned = errors.New("the provenance is not signed")

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Parse reads a statement, or one envelope with a statement in it. No signature is
// checked. Its type must be provenance of SLSA v1, by any builder; its subjects
// must have names without folders, each once, and SHA-256 digests.
func Parse(data []byte) (*File, error) {
	var head struct {
		PayloadType *string `json:"payloadType"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&head); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	if d.More() {
		return nil, errors.New("provenance: more than one line: want one statement or envelope")
	}
	f := &File{Payload: data}
	if head.PayloadType != nil {
		f.envelope = &dsse.Envelope{}
		err := json.Unmarshal(data, f.envelope)
		if err == nil && f.envelope.PayloadType != PayloadType {
			err = fmt.Errorf("the envelope holds %q: want %s", f.envelope.PayloadType, PayloadType)
		}
		if err == nil && len(f.envelope.Signatures) == 0 {
			err = errors.New("the envelope has no signature")
		}
		if err == nil {
			f.Payload, err = f.envelope.DecodeB64Payload()
		}
		if err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
		for _, s := range f.envelope.Signatures {
			f.KeyIDs = append(f.KeyIDs, s.KeyID)
		}
	}
	f.Statement = &Statement{}
	if err := json.Unmarshal(f.Payload, f.Statement); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	if err := f.Statement.check(); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return f, nil
}

func (s *Statement) check() error {
	switch {
	case s.Type != StatementType:
		return fmt.Errorf("_type is %q: want %s", s.Type, StatementType)
	case s.PredicateType != PredicateType:
		return fmt.Errorf("predicateType is %q: want %s", s.PredicateType, PredicateType)
	case s.Predicate.BuildDefinition.BuildType == "" || s.Predicate.RunDetails.Builder.ID == "":
		return errors.New("buildType or the id of the builder is missing")
	case len(s.Subject) == 0:
		return errors.New("it has no subject")
	}
	seen := map[string]bool{}
	for _, r := range s.Subject {
		switch {
		case r.Name == "" || r.Name == "." || r.Name == ".." || path.Base(r.Name) != r.Name || strings.Contains(r.Name, "\x00"):
			return fmt.Errorf("subject %q: want the name of a file without folders", r.Name)
		case !digestPattern.MatchString(r.Digest["sha256"]):
			return fmt.Errorf("subject %s has the sha256 %q: want 64 hexadecimal digits", r.Name, r.Digest["sha256"])
		case seen[r.Name]:
			return fmt.Errorf("subject %s stands twice", r.Name)
		}
		seen[r.Name] = true
	}
	return nil
}

// Verify checks that the statement is signed with a key. Without any signature the
// error is ErrUnsigned; else it wraps sign.ErrSignature unless the key is of a kind
// that cannot be used.
func (f *File) Verify(ctx context.Context, public crypto.PublicKey) error {
	if f.envelope == nil {
		return ErrUnsigned
	}
	k, err := newKey(public)
	if err != nil {
		return err
	}
	by, err := dsse.NewEnvelopeVerifier(k)
	if err != nil {
		return err
	}
	if _, err := by.Verify(ctx, f.envelope); err != nil {
		if slices.Contains(f.KeyIDs, k.id) {
			return fmt.Errorf("%w of the key %s: the provenance was changed after it was signed", sign.ErrSignature, k.id)
		}
		return fmt.Errorf("%w: the key is %s, the provenance is signed by %s", sign.ErrSignature, k.id, strings.Join(f.KeyIDs, ", "))
	}
	return nil
}

// key signs and verifies envelopes. Its id is the fingerprint of the public key.
type key struct {
	public crypto.PublicKey
	scheme sign.Scheme
	id     string
	signer sign.Signer // nil where it only verifies
}

// newKey chooses the scheme by the kind of the key: those by which cosign and
// others check envelopes.
func newKey(public crypto.PublicKey) (*key, error) {
	k := &key{public: public, scheme: sign.Ed25519}
	switch public.(type) {
	case *ecdsa.PublicKey:
		k.scheme = sign.ECDSAP256
	case *rsa.PublicKey:
		k.scheme = sign.RSAPKCS1SHA256
	}
	err := k.scheme.Fits(public)
	if err == nil {
		k.id, err = sign.Fingerprint(public)
	}
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return k, nil
}

// KeyID is the name of a key in envelopes: its fingerprint, see sign.Fingerprint. The
// error says that keys of its kind do not sign provenance.
func KeyID(public crypto.PublicKey) (string, error) {
	k, err := newKey(public)
	if err != nil {
		return "", err
	}
	return k.id, nil
}

func (k *key) KeyID() (string, error)   { return k.id, nil }
func (k *key) Public() crypto.PublicKey { return k.public }

func (k *key) Sign(ctx context.Context, data []byte) ([]byte, error) {
	return sign.Message(ctx, k.signer, k.scheme, data)
}

func (k *key) Verify(_ context.Context, data, sig []byte) error {
	return sign.Verify(k.public, k.scheme, data, sig)
}
