// Package kerneltest makes small unified kernel images for tests, and signs them.
package kerneltest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"time"
)

// Image is an EFI program for a machine of debug/pe, with nothing but these
// sections, by their names in turn with their contents.
func Image(machine uint16, sections ...string) []byte {
	const headers = 512
	b := make([]byte, headers)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[68:], machine)
	le.PutUint16(b[70:], uint16(len(sections)/2))
	le.PutUint16(b[84:], 240) // optional header
	opt := b[88:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[60:], headers)
	le.PutUint32(opt[108:], 16)
	for i := 0; i < len(sections); i += 2 {
		s, data := b[328+i/2*40:], sections[i+1]
		copy(s, sections[i])
		le.PutUint32(s[8:], uint32(len(data)))
		data += string(make([]byte, -len(data)&7))
		le.PutUint32(s[16:], uint32(len(data)))
		le.PutUint32(s[20:], uint32(len(b)))
		b = append(b, data...)
	}
	return b
}

// Key is a key with a certificate.
type Key struct {
	private     *rsa.PrivateKey
	Certificate *x509.Certificate
}

// NewKey makes a key whose certificate is of this name.
func NewKey(name string) Key {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	check(err)
	c, err = x509.ParseCertificate(der)
	check(err)
	return Key{private, c}
}

func check(err error) {
	if err != nil {
		panic(err) // of a test's own making
	}
}

func der(v any) asn1.RawValue {
	data, err := asn1.Marshal(v)
	check(err)
	return asn1.RawValue{FullBytes: data}
}

func wrap(class, tag int, parts ...asn1.RawValue) asn1.RawValue {
	var b []byte
	for _, p := range parts {
		b = append(b, p.FullBytes...)
	}
	return der(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: b})
}

// Sign adds a signature to a program that Image made, behind those that it has.
func (k Key) Sign(image []byte) []byte {
	sequence := func(parts ...asn1.RawValue) asn1.RawValue {
		return wrap(asn1.ClassUniversal, asn1.TagSequence, parts...)
	}
	set := func(parts ...asn1.RawValue) asn1.RawValue {
		return wrap(asn1.ClassUniversal, asn1.TagSet, parts...)
	}
	tagged := func(parts ...asn1.RawValue) asn1.RawValue {
		return wrap(asn1.ClassContextSpecific, 0, parts...)
	}
	oid := func(id ...int) asn1.RawValue { return der(asn1.ObjectIdentifier(id)) }
	const checksum, security = 88 + 64, 88 + 112 + 32
	le := binary.LittleEndian
	end := len(image)
	if at := le.Uint32(image[security:]); at > 0 {
		end = int(at)
	}
	digest := sha256.Sum256(bytes.Join([][]byte{image[:checksum], image[checksum+4 : security], image[security+8 : end]}, nil))
	sha := sequence(oid(2, 16, 840, 1, 101, 3, 4, 2, 1), der(asn1.NullRawValue))
	indirect := oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 4)
	content := sequence(sequence(oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 15)), sequence(sha, der(digest[:])))
	var inner asn1.RawValue
	_, err := asn1.Unmarshal(content.FullBytes, &inner)
	check(err)
	sum := sha256.Sum256(inner.Bytes)
	list := []asn1.RawValue{
		sequence(oid(1, 2, 840, 113549, 1, 9, 3), set(indirect)),
		sequence(oid(1, 2, 840, 113549, 1, 9, 4), set(der(sum[:]))),
	}
	message := sha256.Sum256(set(list...).FullBytes)
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.private, crypto.SHA256, message[:])
	check(err)
	issuer := sequence(asn1.RawValue{FullBytes: k.Certificate.RawIssuer}, der(k.Certificate.SerialNumber))
	signer := sequence(der(1), issuer, sha, tagged(list...), sequence(oid(1, 2, 840, 113549, 1, 1, 1), der(asn1.NullRawValue)), der(signature))
	signed := sequence(der(1), set(sha), sequence(indirect, tagged(content)), tagged(asn1.RawValue{FullBytes: k.Certificate.Raw}), set(signer))
	all := sequence(oid(1, 2, 840, 113549, 1, 7, 2), tagged(signed)).FullBytes
	all = append(all, make([]byte, -len(all)&7)...)
	entry := le.AppendUint32(nil, uint32(8+len(all)))
	entry = append(le.AppendUint32(entry, 0x00020200), all...)
	out := append(bytes.Clone(image), entry...)
	le.PutUint32(out[security:], uint32(end))
	le.PutUint32(out[security+4:], uint32(len(out)-end))
	return out
}
