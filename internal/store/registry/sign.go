package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The format is that of https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md:
// a manifest under the tag sha256-<hex>.sig whose layers are payloads, each with
// the signature as an annotation.
const (
	payloadMediaType    = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	payloadType         = "cosign container image signature"
	// claimTag binds a signature to a tag as well. A result needs no such claim:
	// its manifest names its key.
	claimTag = "dev.slipway.tag"

	maxPayload    = 64 << 10 // bytes
	maxSignatures = 32       // looked at for one digest
)

// payload is what is signed: "simple signing" of containers-signature(5).
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// payloadOf is the payload that this package signs for a manifest.
func (r *Registry) payloadOf(d digest.Digest, tag string) []byte {
	var p payload
	p.Critical.Identity.Reference = r.repo.Name()
	p.Critical.Image.Digest = d
	p.Critical.Type = payloadType
	if tag != "" {
		p.Optional = map[string]any{claimTag: tag}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings always encode
	}
	return raw
}

// SignatureError says that a manifest was refused. It is an ErrUnsigned or an
// ErrBadSignature.
type SignatureError struct {
	Target   string   // "packages/glibc"
	Key      string   // key of the target, or the tag of an image
	Ref      string   // repository
	Expected []string // the keys that were allowed, as PublicKey.String has them
	Err      error
}

// Error implements error.
func (e *SignatureError) Error() string {
	return fmt.Sprintf("%s (key %s) in %s: %v: expected a signature by %s", e.Target, e.Key, e.Ref, e.Err, strings.Join(e.Expected, " or "))
}

// Unwrap is ErrUnsigned or ErrBadSignature, wrapped.
func (e *SignatureError) Unwrap() error { return e.Err }

// verify asks for a signature of a manifest by any of the allowed keys; that it
// claims the tag as well, if one is given.
func (r *Registry) verify(ctx context.Context, d digest.Digest, target, key, tag string) error {
	if len(r.cfg.PublicKeys) == 0 {
		return nil
	}
	err := r.verifyAny(ctx, d, tag, r.cfg.PublicKeys)
	if !errors.Is(err, ErrUnsigned) && !errors.Is(err, ErrBadSignature) {
		return err
	}
	e := &SignatureError{Target: target, Key: key, Ref: r.cfg.Ref, Err: err}
	for _, k := range r.cfg.PublicKeys {
		e.Expected = append(e.Expected, k.String())
	}
	return e
}

func (r *Registry) verifyAny(ctx context.Context, d digest.Digest, tag string, allowed []*PublicKey) error {
	layers, err := r.signatures(ctx, d)
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		return ErrUnsigned
	}
	own := r.payloadOf(d, tag)
	var why []error
	for _, l := range layers {
		raw := own // saves asking for what is known
		if l.Digest != digest.FromBytes(own) {
			raw, err = r.fetchSmall(ctx, l, maxPayload)
			if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
				why = append(why, err)
				continue
			}
			if err != nil {
				return err
			}
		}
		if err := verifyOne(raw, l.Annotations[signatureAnnotation], d, tag, allowed); err != nil {
			why = append(why, err)
			continue
		}
		return nil
	}
	return fmt.Errorf("%w: %w", ErrBadSignature, errors.Join(slices.CompactFunc(why, func(a, b error) bool { return a.Error() == b.Error() })...))
}

// verifyOne checks the signature first: what is not signed is not looked at.
func verifyOne(raw []byte, encoded string, d digest.Digest, tag string, allowed []*PublicKey) error {
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("its signature: %w", err)
	}
	if !slices.ContainsFunc(allowed, func(k *PublicKey) bool { return k.verify(raw, signature) }) {
		return errors.New("its signature is by another key, or of something else")
	}
	var p payload
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("its signed payload: %w", err)
	}
	if p.Critical.Type != payloadType || p.Critical.Image.Digest != d {
		return fmt.Errorf("the signature is for %q %s", p.Critical.Type, p.Critical.Image.Digest)
	}
	if tag != "" && p.Optional[claimTag] != tag {
		return fmt.Errorf("the signature is for the tag %v (%s)", p.Optional[claimTag], claimTag)
	}
	return nil
}

// signatures lists the signatures of a manifest; none is no error.
func (r *Registry) signatures(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	raw, err := r.manifest(ctx, sigTag(d))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the signatures of %s in %s: %w", d, r.cfg.Ref, err)
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	layers := slices.DeleteFunc(m.Layers, func(l ocispec.Descriptor) bool {
		return l.MediaType != payloadMediaType || l.Annotations[signatureAnnotation] == ""
	})
	return layers[:min(len(layers), maxSignatures)], nil
}

// sign adds the signature of a manifest to those that are there already.
func (r *Registry) sign(ctx context.Context, d digest.Digest, tag string, opts []remote.Option) error {
	raw := r.payloadOf(d, tag)
	own, err := r.cfg.SignKey.Public()
	if err != nil {
		return &localError{err}
	}
	there, err := r.signatures(ctx, d)
	if err != nil && !errors.Is(err, ErrBadSignature) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	if slices.ContainsFunc(there, func(l ocispec.Descriptor) bool {
		signature, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
		return err == nil && l.Digest == digest.FromBytes(raw) && own.verify(raw, signature)
	}) {
		return nil
	}
	signature, err := r.cfg.SignKey.sign(raw)
	if err != nil {
		return &localError{fmt.Errorf("sign with %s: %w", r.cfg.SignKey.path, err)}
	}
	encoded := base64.StdEncoding.EncodeToString(signature)
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range there {
		content, err := r.fetchSmall(ctx, l, maxPayload)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
			continue // a signature that nobody can verify
		}
		if err != nil {
			return err
		}
		if img, err = appendPayload(img, content, l.Annotations); err != nil {
			return err
		}
	}
	if img, err = appendPayload(img, raw, map[string]string{signatureAnnotation: encoded}); err != nil {
		return err
	}
	return remote.Write(r.repo.Tag(sigTag(d)), img, opts...)
}

func appendPayload(img v1.Image, raw []byte, annotations map[string]string) (v1.Image, error) {
	return mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(raw, payloadMediaType), Annotations: annotations})
}
