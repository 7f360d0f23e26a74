// Package pkcs7 writes and reads the part of PKCS #7 (RFC 2315) that UEFI uses:
// SignedData of one signer with RSA (PKCS #1 v1.5) and SHA-256. The same input
// makes the same bytes: there is no signing time.
package pkcs7

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"slipway/internal/sign"
)

// Object identifiers (RFC 2315, section 14; RFC 2985, section 5.3; RFC 8017).
var (
	OIDData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	OIDSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256RSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// Tags of DER (X.690, section 8).
const (
	tagOctetString = 0x04
	tagSequence    = 0x30
	tagSet         = 0x31
)

// TLV is the DER of an element with a tag byte, and the parts as its contents.
func TLV(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	out := []byte{tag}
	if n := len(content); n < 0x80 {
		out = append(out, byte(n))
	} else {
		var length []byte
		for ; n > 0; n >>= 8 {
			length = append([]byte{byte(n)}, length...)
		}
		out = append(append(out, 0x80|byte(len(length))), length...)
	}
	return append(out, content...)
}

// Sequence is the DER of a SEQUENCE of elements.
func Sequence(parts ...[]byte) []byte { return TLV(tagSequence, parts...) }

// OID is the DER of an object identifier.
func OID(id asn1.ObjectIdentifier) []byte {
	der, err := asn1.Marshal(id)
	if err != nil {
		panic(err) // only for identifiers that are none
	}
	return der
}

// SHA256Algorithm is the DER of the AlgorithmIdentifier of SHA-256.
func SHA256Algorithm() []byte { return Sequence(OID(oidSHA256), asn1.NullBytes) }

// Attributes gives the DER of the authenticated attributes for content of a
// type: what is signed when there are attributes. content is without its tag and
// length (RFC 2315, section 9.3).
func Attributes(contentType asn1.ObjectIdentifier, content []byte) []byte {
	sum := sha256.Sum256(content)
	list := [][]byte{
		Sequence(OID(oidContentType), TLV(tagSet, OID(contentType))),
		Sequence(OID(oidMessageDigest), TLV(tagSet, TLV(tagOctetString, sum[:]))),
	}
	slices.SortFunc(list, bytes.Compare) // a SET OF is sorted in DER
	return TLV(tagSet, list...)
}

// Signed is what Marshal puts together.
type Signed struct {
	ContentType asn1.ObjectIdentifier
	Content     []byte // DER of the content; nil where it is detached
	Attributes  []byte // as Attributes gives them; nil for none
	Certificate *x509.Certificate
	Signature   []byte // PKCS #1 v1.5 with SHA-256, over Attributes or else over the content
}

// Marshal gives the DER of SignedData without a ContentInfo around it.
func (s Signed) Marshal() ([]byte, error) {
	serial, err := asn1.Marshal(s.Certificate.SerialNumber)
	if err != nil {
		return nil, err
	}
	var content, attributes []byte
	if s.Content != nil {
		content = TLV(0xa0, s.Content)
	}
	if s.Attributes != nil {
		attributes = slices.Clone(s.Attributes)
		attributes[0] = 0xa0 // [0] IMPLICIT SET OF
	}
	one := []byte{2, 1, 1} // INTEGER 1
	return Sequence(
		one,
		TLV(tagSet, SHA256Algorithm()),
		Sequence(OID(s.ContentType), content),
		TLV(0xa0, s.Certificate.Raw),
		TLV(tagSet, Sequence(
			one,
			Sequence(s.Certificate.RawIssuer, serial),
			SHA256Algorithm(),
			attributes,
			Sequence(OID(oidRSA), asn1.NullBytes),
			TLV(tagOctetString, s.Signature),
		)),
	), nil
}

// Wrap puts a ContentInfo around SignedData.
func Wrap(signedData []byte) []byte { return Sequence(OID(OIDSignedData), TLV(0xa0, signedData)) }

// SignedData is what Parse has read.
type SignedData struct {
	ContentType asn1.ObjectIdentifier
	Content     []byte // DER of the content with its tag; nil where it is detached
	// Certificate is that of the signer.
	Certificate *x509.Certificate

	attributes []byte // DER with the tag of a SET; nil for none
	digest     []byte // from the attributes
	signature  []byte
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

type algorithm struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type signedData struct {
	Version          int
	DigestAlgorithms []algorithm `asn1:"set"`
	ContentInfo      contentInfo
	Certificates     asn1.RawValue `asn1:"optional,tag:0"`
	CRLs             asn1.RawValue `asn1:"optional,tag:1"`
	Signers          []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version   int
	Issuer    issuerAndSerial
	Digest    algorithm
	Signed    asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm algorithm
	Signature []byte
	Unsigned  asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Name   asn1.RawValue
	Serial asn1.RawValue
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue
}

// Parse reads SignedData, with or without a ContentInfo around it. Bytes behind
// it are ignored, as they are by firmware: signatures are padded. Nothing is
// verified yet.
func Parse(der []byte) (*SignedData, error) {
	bad := func(err error) (*SignedData, error) { return nil, fmt.Errorf("PKCS #7: %w", err) }
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err == nil {
		if !outer.Type.Equal(OIDSignedData) {
			return bad(fmt.Errorf("content of type %s instead of SignedData", outer.Type))
		}
		der = outer.Content.FullBytes
		if inner, err := unwrap(der); err == nil {
			der = inner
		}
	}
	var raw signedData
	if _, err := asn1.Unmarshal(der, &raw); err != nil {
		return bad(err)
	}
	if len(raw.Signers) != 1 {
		return bad(fmt.Errorf("%d signers, want 1", len(raw.Signers)))
	}
	signer := raw.Signers[0]
	if !signer.Digest.Algorithm.Equal(oidSHA256) {
		return bad(fmt.Errorf("digest algorithm %s, want SHA-256", signer.Digest.Algorithm))
	}
	if a := signer.Algorithm.Algorithm; !a.Equal(oidRSA) && !a.Equal(oidSHA256RSA) {
		return bad(fmt.Errorf("signature algorithm %s, want RSA", a))
	}
	s := &SignedData{ContentType: raw.ContentInfo.Type, signature: signer.Signature}
	if len(raw.ContentInfo.Content.FullBytes) > 0 {
		content, err := unwrap(raw.ContentInfo.Content.FullBytes)
		if err != nil {
			return bad(err)
		}
		s.Content = content
	}
	certificates, err := x509.ParseCertificates(raw.Certificates.Bytes)
	if err != nil {
		return bad(err)
	}
	for _, c := range certificates {
		serial, err := asn1.Marshal(c.SerialNumber)
		if err == nil && bytes.Equal(c.RawIssuer, signer.Issuer.Name.FullBytes) && bytes.Equal(serial, signer.Issuer.Serial.FullBytes) {
			s.Certificate = c
		}
	}
	if s.Certificate == nil {
		return bad(errors.New("the signer's certificate is missing"))
	}
	if len(signer.Signed.FullBytes) > 0 {
		s.attributes = slices.Clone(signer.Signed.FullBytes)
		s.attributes[0] = tagSet
		if err := s.readAttributes(signer.Signed.Bytes); err != nil {
			return bad(err)
		}
	}
	return s, nil
}

// unwrap gives the element inside an explicit [0], or der itself where the
// decoder has taken that off already.
func unwrap(der []byte) ([]byte, error) {
	if len(der) == 0 || der[0] != 0xa0 {
		return der, nil
	}
	var outer, inner asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, err
	}
	if _, err := asn1.Unmarshal(outer.Bytes, &inner); err != nil {
		return nil, err
	}
	return inner.FullBytes, nil
}

func (s *SignedData) readAttributes(list []byte) error {
	contentType := false
	for len(list) > 0 {
		var a attribute
		rest, err := asn1.Unmarshal(list, &a)
		if err != nil {
			return fmt.Errorf("authenticated attributes: %w", err)
		}
		list = rest
		switch {
		case a.Type.Equal(oidMessageDigest):
			if s.digest != nil {
				return errors.New("two message digests")
			}
			if _, err := asn1.Unmarshal(a.Values.Bytes, &s.digest); err != nil {
				return fmt.Errorf("message digest: %w", err)
			}
		case a.Type.Equal(oidContentType):
			var t asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(a.Values.Bytes, &t); err != nil || !t.Equal(s.ContentType) {
				return errors.New("the attribute of the content's type is another one")
			}
			contentType = true
		}
	}
	if s.digest == nil || !contentType {
		return errors.New("authenticated attributes without digest or type of the content")
	}
	return nil
}

// Verify checks that the signer's certificate has signed the content, which is
// given without tag and length. Whether the certificate is trusted is up to the
// caller. Its error wraps sign.ErrSignature where the signature is wrong.
func (s *SignedData) Verify(content []byte) error {
	signed := content
	if s.attributes != nil {
		if sum := sha256.Sum256(content); !bytes.Equal(sum[:], s.digest) {
			return fmt.Errorf("the content has another digest than the signed one: %w", sign.ErrSignature)
		}
		signed = s.attributes
	}
	return sign.Verify(s.Certificate.PublicKey, sign.RSAPKCS1SHA256, signed, s.signature)
}
