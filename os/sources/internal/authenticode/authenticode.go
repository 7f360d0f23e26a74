// Package authenticode checks the signatures of EFI programs, as firmware with
// Secure Boot does (Windows Authenticode Portable Executable Signature Format 1.0;
// UEFI 2.10, section 32.2): of SHA-256 and RSA.
package authenticode

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrChanged is wrapped where a program is not the one that was signed.
var ErrChanged = errors.New("it was changed after it was signed")

// Offsets in the headers (PE Format, "Optional Header Image-Only"), and the length
// of the head of a certificate.
const (
	peOffset    = 0x3c
	coffSize    = 24 // with the signature
	optChecksum = 64
	optSecurity = 112 + 4*8 // of PE32+
	certHead    = 8
	certPKCS    = 2
)

var (
	le               = binary.LittleEndian
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// Signers gives the certificates by which a program is signed, none for an unsigned
// one. It is an error if one of the signatures is wrong; whether the certificates
// are trusted is up to the caller.
func Signers(image []byte) ([]*x509.Certificate, error) {
	digest, table, err := split(image)
	if err != nil {
		return nil, err
	}
	var signers []*x509.Certificate
	for len(table) > 0 {
		if len(table) < certHead {
			return nil, errors.New("its certificate table is cut off")
		}
		size := int(le.Uint32(table))
		if size < certHead || size > len(table) || le.Uint16(table[6:]) != certPKCS {
			return nil, errors.New("its certificate table holds something other than signatures of PKCS #7")
		}
		signer, err := verify(table[certHead:size], digest)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", len(signers)+1, err)
		}
		signers = append(signers, signer)
		table = table[min((size+7)&^7, len(table)):]
	}
	return signers, nil
}

// split gives the digest of what is signed, and the certificate table.
func split(image []byte) (digest [sha256.Size]byte, table []byte, err error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return digest, nil, fmt.Errorf("not an EFI program: %w", err)
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || header.NumberOfRvaAndSizes < 5 {
		return digest, nil, errors.New("not an EFI program of 64 bits with room for signatures")
	}
	opt := int(le.Uint32(image[peOffset:])) + coffSize
	end, headers := len(image), int(header.SizeOfHeaders)
	if d := header.DataDirectory[4]; d.Size > 0 {
		if int(d.VirtualAddress)+int(d.Size) != end {
			return digest, nil, errors.New("its signatures do not end the file")
		}
		end -= int(d.Size)
		table = image[end:]
	}
	if headers < opt+optSecurity+8 || headers > end {
		return digest, nil, fmt.Errorf("%d bytes of headers", headers)
	}
	h := sha256.New()
	h.Write(image[:opt+optChecksum])
	h.Write(image[opt+optChecksum+4 : opt+optSecurity])
	h.Write(image[opt+optSecurity+8 : headers])
	at := headers
	sections := slices.Clone(f.Sections)
	slices.SortFunc(sections, func(a, b *pe.Section) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, s := range sections {
		if s.Size == 0 {
			continue
		}
		// With gaps or overlaps, implementations do not agree on the digest.
		if int(s.Offset) != at || at+int(s.Size) > end {
			return digest, nil, fmt.Errorf("its section %s does not follow what is before it", s.Name)
		}
		h.Write(image[at : at+int(s.Size)])
		at += int(s.Size)
	}
	h.Write(image[at:end])
	return [sha256.Size]byte(h.Sum(nil)), table, nil
}

// The parts of PKCS #7 (RFC 2315) that such signatures have.
type (
	contentInfo struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Algorithms   asn1.RawValue
		Content      contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version    int
		Issuer     asn1.RawValue
		Digest     algorithm
		Attributes asn1.RawValue `asn1:"tag:0"`
		Algorithm  algorithm
		Signature  []byte
		Unsigned   asn1.RawValue `asn1:"optional,tag:1"`
	}
	algorithm struct {
		ID         asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	indirectData struct {
		Kind   asn1.RawValue
		Digest struct {
			Algorithm algorithm
			Value     []byte
		}
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue
	}
)

// verify gives the certificate that signed the digest.
func verify(der []byte, digest [sha256.Size]byte) (*x509.Certificate, error) {
	var outer contentInfo
	var data signedData
	var content indirectData
	var raw asn1.RawValue
	for _, step := range []struct {
		der  func() []byte
		into any
	}{
		{func() []byte { return der }, &outer}, {func() []byte { return outer.Value.Bytes }, &data},
		{func() []byte { return data.Content.Value.Bytes }, &content}, {func() []byte { return data.Content.Value.Bytes }, &raw},
	} {
		if _, err := asn1.Unmarshal(step.der(), step.into); err != nil {
			return nil, fmt.Errorf("PKCS #7: %w", err)
		}
	}
	if !outer.Type.Equal(oidSignedData) || !data.Content.Type.Equal(oidIndirectData) || len(data.Signers) != 1 ||
		!data.Signers[0].Digest.ID.Equal(oidSHA256) || !content.Digest.Algorithm.ID.Equal(oidSHA256) {
		return nil, errors.New("PKCS #7: not one signature of an EFI program with SHA-256")
	}
	if !bytes.Equal(content.Digest.Value, digest[:]) {
		return nil, ErrChanged
	}
	s := data.Signers[0]
	signed, err := messageDigest(s.Attributes.Bytes)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw.Bytes); !bytes.Equal(signed, sum[:]) {
		return nil, ErrChanged
	}
	certificates, err := x509.ParseCertificates(data.Certificates.Bytes)
	if err != nil {
		return nil, err
	}
	// They are signed as the SET that they are, not by the tag that stands for it.
	attributes := slices.Clone(s.Attributes.FullBytes)
	attributes[0] = asn1.TagSet | 0x20
	for _, c := range certificates {
		if c.CheckSignature(x509.SHA256WithRSA, attributes, s.Signature) == nil {
			return c, nil
		}
	}
	return nil, errors.New("it is by none of the certificates that it brings")
}

// messageDigest finds the digest among the attributes that are signed.
func messageDigest(attributes []byte) (digest []byte, err error) {
	for len(attributes) > 0 {
		var a attribute
		if attributes, err = asn1.Unmarshal(attributes, &a); err != nil {
			return nil, fmt.Errorf("signed attributes: %w", err)
		}
		if a.Type.Equal(oidMessageDigest) {
			if _, err := asn1.Unmarshal(a.Values.Bytes, &digest); err != nil {
				return nil, fmt.Errorf("signed attributes: %w", err)
			}
		}
	}
	return digest, nil
}
