// Package authenticode signs EFI programs and checks their signatures, by
// Windows Authenticode Portable Executable Signature Format (version 1.0) as the
// UEFI specification (2.10, section 32.2) takes it over: SHA-256 and RSA.
package authenticode

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"

	"slipway/internal/image/uki"
	"slipway/internal/sign"
	"slipway/internal/sign/pkcs7"
)

// ErrUnsigned is wrapped by errors about a program without any signature.
var ErrUnsigned = errors.New("not signed")

var (
	oidIndirectData = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
)

// Offsets in the headers (PE Format, "Optional Header Image-Only").
const (
	peOffset      = 0x3c
	coffSize      = 24 // with the signature
	sectionHeader = 40
	optHeaders    = 60
	optChecksum   = 64
	magicPE32     = 0x10b
	magicPE32Plus = 0x20b

	certHeader    = 8 // WIN_CERTIFICATE (UEFI 2.10, section 32.2.4)
	certRevision  = 0x0200
	certPKCS      = 0x0002
	alignment     = 8
	maxSignatures = 16
)

// layout is where the parts of a program lie that the hash leaves out.
type layout struct {
	checksum, directory int // offsets of the fields
	end                 int // of what is hashed: the certificate table or the end of the file
	table               []byte
}

var le = binary.LittleEndian

// parse finds the layout. It refuses files in which sections overlap or leave
// gaps: there, implementations do not agree on the hash.
func parse(image []byte) (l layout, err error) {
	bad := func(format string, a ...any) (layout, error) {
		return layout{}, fmt.Errorf("EFI program: "+format, a...)
	}
	size := uint64(len(image))
	if size < 64 || string(image[:2]) != "MZ" {
		return bad("no DOS header")
	}
	coff := uint64(le.Uint32(image[peOffset:]))
	opt := coff + coffSize
	if opt+2 > size || string(image[coff:coff+4]) != "PE\x00\x00" {
		return bad("no PE header")
	}
	directories := uint64(96)
	switch magic := le.Uint16(image[opt:]); magic {
	case magicPE32:
	case magicPE32Plus:
		directories += 16
	default:
		return bad("optional header of kind %#x", magic)
	}
	sections := opt + uint64(le.Uint16(image[coff+20:]))
	count := uint64(le.Uint16(image[coff+6:]))
	directory := opt + directories + 4*8
	if sections+count*sectionHeader > size || directory+8 > sections || le.Uint32(image[opt+directories-4:]) < 5 {
		return bad("its headers have no room for a certificate table")
	}
	l = layout{checksum: int(opt) + optChecksum, directory: int(directory), end: len(image)}
	headers := uint64(le.Uint32(image[opt+optHeaders:]))
	if headers < sections+count*sectionHeader || headers > size {
		return bad("%d bytes of headers", headers)
	}
	at, length := uint64(le.Uint32(image[directory:])), uint64(le.Uint32(image[directory+4:]))
	if at != 0 || length != 0 {
		if at < headers || at%alignment != 0 || length < certHeader || at+length != size {
			return bad("the certificate table (%d bytes at %d) does not end the file of %d bytes", length, at, size)
		}
		l.end, l.table = int(at), image[at:]
	}
	type extent struct{ from, to uint64 }
	var extents []extent
	for i := range count {
		h := image[sections+i*sectionHeader:]
		if n := uint64(le.Uint32(h[16:])); n > 0 {
			from := uint64(le.Uint32(h[20:]))
			extents = append(extents, extent{from, from + n})
		}
	}
	slices.SortFunc(extents, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	next := headers
	for _, e := range extents {
		if e.from != next || e.to > uint64(l.end) {
			return bad("a section lies from %d to %d of %d bytes, the part before it ends at %d", e.from, e.to, l.end, next)
		}
		next = e.to
	}
	return l, nil
}

// Digest is the Authenticode hash of a program: SHA-256 without checksum and
// certificate table, with the zeros that fill the program up to a multiple of 8
// bytes before it is signed. It is the same for a signed and an unsigned one.
func Digest(image []byte) ([sha256.Size]byte, error) {
	l, err := parse(image)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return l.digest(image), nil
}

func (l layout) digest(image []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(image[:l.checksum])
	h.Write(image[l.checksum+4 : l.directory])
	h.Write(image[l.directory+8 : l.end])
	h.Write(make([]byte, -l.end&(alignment-1)))
	return [sha256.Size]byte(h.Sum(sum[:0]))
}

// indirectData is the DER of SpcIndirectDataContent, without tag and length.
func indirectData(digest [sha256.Size]byte) []byte {
	var text []byte
	for _, u := range utf16.Encode([]rune("<<<Obsolete>>>")) {
		text = binary.BigEndian.AppendUint16(text, u)
	}
	file := pkcs7.TLV(0xa0, pkcs7.TLV(0xa2, pkcs7.TLV(0x80, text)))
	data := pkcs7.Sequence(pkcs7.OID(oidPEImageData), pkcs7.Sequence([]byte{3, 1, 0}, file))
	return append(data, pkcs7.Sequence(pkcs7.SHA256Algorithm(), pkcs7.TLV(4, digest[:]))...)
}

// ToBeSigned gives the bytes over which the signature of a program is made, by
// RSASSA-PKCS1-v1_5 with SHA-256: the DER of the authenticated attributes.
func ToBeSigned(image []byte) ([]byte, error) {
	digest, err := Digest(image)
	if err != nil {
		return nil, err
	}
	return pkcs7.Attributes(oidIndirectData, indirectData(digest)), nil
}

// Attach checks a signature over ToBeSigned and gives the program with it, behind
// those that it has.
func Attach(image []byte, certificate *x509.Certificate, signature []byte) ([]byte, error) {
	l, err := parse(image)
	if err != nil {
		return nil, err
	}
	if err := CheckCertificate(certificate); err != nil {
		return nil, err
	}
	content := indirectData(l.digest(image))
	attributes := pkcs7.Attributes(oidIndirectData, content)
	if err := sign.Verify(certificate.PublicKey, sign.RSAPKCS1SHA256, attributes, signature); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certificate.Subject, err)
	}
	der, err := pkcs7.Signed{ContentType: oidIndirectData, Content: pkcs7.Sequence(content), Attributes: attributes, Certificate: certificate, Signature: signature}.Marshal()
	if err != nil {
		return nil, err
	}
	der = pkcs7.Wrap(der)
	der = append(der, make([]byte, -len(der)&(alignment-1))...)
	entry := le.AppendUint32(nil, uint32(certHeader+len(der)))
	entry = le.AppendUint16(entry, certRevision)
	entry = append(le.AppendUint16(entry, certPKCS), der...)

	out := slices.Clone(image[:l.end])
	out = append(out, make([]byte, -len(out)&(alignment-1))...)
	at := len(out)
	out = append(append(out, l.table...), entry...)
	if int64(len(out)) > 1<<31-1 {
		return nil, fmt.Errorf("EFI program: %d bytes: want less than 2 GiB", len(out))
	}
	le.PutUint32(out[l.directory:], uint32(at))
	le.PutUint32(out[l.directory+4:], uint32(len(out)-at))
	le.PutUint32(out[l.checksum:], 0)
	le.PutUint32(out[l.checksum:], uki.Checksum(out))
	return out, nil
}

// CheckCertificate tells whether a certificate can be used: firmware is only sure
// to know RSA keys of 2048 bits or more (UEFI 2.10, section 32.3.1).
func CheckCertificate(certificate *x509.Certificate) error {
	if _, ok := certificate.PublicKey.(*rsa.PublicKey); !ok {
		return fmt.Errorf("certificate %s has a %s key: Secure Boot wants RSA", certificate.Subject, certificate.PublicKeyAlgorithm)
	}
	return sign.RSAPKCS1SHA256.Fits(certificate.PublicKey)
}

// Sign gives a program with a signature of the signer, whose key is that of the
// certificate. The same key makes the same bytes.
func Sign(ctx context.Context, image []byte, certificate *x509.Certificate, signer sign.Signer) ([]byte, error) {
	if key, ok := certificate.PublicKey.(*rsa.PublicKey); !ok || !key.Equal(signer.Public()) {
		return nil, fmt.Errorf("certificate %s is not one of the key", certificate.Subject)
	}
	message, err := ToBeSigned(image)
	if err != nil {
		return nil, err
	}
	signature, err := sign.Message(ctx, signer, sign.RSAPKCS1SHA256, message)
	if err != nil {
		return nil, err
	}
	return Attach(image, certificate, signature)
}

// Signers verifies all signatures of a program and gives the certificates that
// made them, none for an unsigned one. An error wraps sign.ErrSignature where a
// signature does not fit the program.
func Signers(image []byte) ([]*x509.Certificate, error) {
	l, err := parse(image)
	if err != nil {
		return nil, err
	}
	digest := l.digest(image)
	var out []*x509.Certificate
	for table := l.table; len(table) > 0; {
		if len(out) == maxSignatures {
			return nil, fmt.Errorf("EFI program: more than %d signatures", maxSignatures)
		}
		if len(table) < certHeader {
			return nil, errors.New("EFI program: the certificate table is cut off")
		}
		length := int64(le.Uint32(table))
		if length < certHeader || length > int64(len(table)) {
			return nil, fmt.Errorf("EFI program: a certificate of %d bytes in %d", length, len(table))
		}
		if kind := le.Uint16(table[6:]); kind != certPKCS {
			return nil, fmt.Errorf("EFI program: a certificate of type %#x: want PKCS #7", kind)
		}
		certificate, err := verify(table[certHeader:length], digest)
		if err != nil {
			return nil, fmt.Errorf("EFI program: signature %d: %w", len(out)+1, err)
		}
		out = append(out, certificate)
		table = table[min(length+(-length&(alignment-1)), int64(len(table))):]
	}
	return out, nil
}

func verify(der []byte, digest [sha256.Size]byte) (*x509.Certificate, error) {
	s, err := pkcs7.Parse(der)
	if err != nil {
		return nil, err
	}
	var content asn1.RawValue
	if !s.ContentType.Equal(oidIndirectData) || s.Content == nil {
		return nil, fmt.Errorf("content of type %s, want SpcIndirectDataContent", s.ContentType)
	}
	if _, err := asn1.Unmarshal(s.Content, &content); err != nil {
		return nil, err
	}
	if err := s.Verify(content.Bytes); err != nil {
		return nil, err
	}
	var parsed struct {
		Data   asn1.RawValue
		Digest struct {
			Algorithm asn1.RawValue
			Digest    []byte
		}
	}
	if _, err := asn1.Unmarshal(s.Content, &parsed); err != nil {
		return nil, err
	}
	if !bytes.Equal(parsed.Digest.Digest, digest[:]) || !bytes.Equal(parsed.Digest.Algorithm.FullBytes, pkcs7.SHA256Algorithm()) {
		return nil, fmt.Errorf("the program was changed after it was signed: %w", sign.ErrSignature)
	}
	return s.Certificate, nil
}

// Verify checks that all signatures of a program are right and that one is of a
// trusted certificate, as firmware does with the certificates of its db that have
// signed themselves. Its error wraps ErrUnsigned or sign.ErrSignature.
func Verify(image []byte, trusted ...*x509.Certificate) error {
	signers, err := Signers(image)
	if err != nil {
		return err
	}
	if len(signers) == 0 {
		return fmt.Errorf("EFI program: %w", ErrUnsigned)
	}
	for _, s := range signers {
		if slices.ContainsFunc(trusted, s.Equal) {
			return nil
		}
	}
	return fmt.Errorf("EFI program: signed by %s, who is not trusted: %w", signers[0].Subject, sign.ErrSignature)
}
