// Package efivar writes the variables of Secure Boot: signature lists, signed
// updates of PK, KEK, db and dbx, and stores of variables with them in flash
// images of OVMF (UEFI 2.10, sections 8.2 and 32.4).
package efivar

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unicode/utf16"

	"slipway/internal/image/gpt"
	"slipway/internal/sign"
	"slipway/internal/sign/pkcs7"
)

var le = binary.LittleEndian

func guid(s string) gpt.GUID {
	g, err := gpt.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// Vendors of variables.
var (
	Global   = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c") // EFI_GLOBAL_VARIABLE
	Security = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f") // EFI_IMAGE_SECURITY_DATABASE_GUID
)

var (
	typeX509   = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072") // EFI_CERT_X509_GUID
	typeSHA256 = guid("c1c41626-504c-4092-aca9-41f936934328") // EFI_CERT_SHA256_GUID
	typePKCS7  = guid("4aafd29d-68df-49ee-8aa9-347d375665a7") // EFI_CERT_TYPE_PKCS7_GUID
)

// Attributes of variables (UEFI 2.10, section 8.2.1).
const (
	NonVolatile     uint32 = 0x01
	BootService     uint32 = 0x02
	Runtime         uint32 = 0x04
	TimeBased       uint32 = 0x20 // changed only by signed updates
	AppendWrite     uint32 = 0x40 // of an update: add to what is there
	SecureBootKinds        = NonVolatile | BootService | Runtime | TimeBased
)

// Variable is a variable of the firmware.
type Variable struct {
	Name       string
	Vendor     gpt.GUID
	Attributes uint32
	Time       time.Time // of the last signed update; zero for others
	Data       []byte
}

// The variables of Secure Boot, by their names.
const (
	PK  = "PK"  // the platform key: who may change KEK
	KEK = "KEK" // who may change db and dbx
	DB  = "db"  // what may start
	DBX = "dbx" // what may not
)

// New gives one of the variables PK, KEK, db and dbx with a list of signatures.
func New(name string, list []byte, at time.Time) (Variable, error) {
	v := Variable{Name: name, Attributes: SecureBootKinds, Time: at, Data: list}
	switch name {
	case PK, KEK:
		v.Vendor = Global
	case DB, DBX:
		v.Vendor = Security
	default:
		return v, fmt.Errorf("variable %q: Secure Boot has PK, KEK, db and dbx", name)
	}
	return v, nil
}

// Signature is an entry of a signature list: a certificate, or the SHA-256 of a
// program (its Authenticode hash).
type Signature struct {
	Owner       gpt.GUID
	Certificate *x509.Certificate
	SHA256      []byte // 32 bytes; only without Certificate
}

const (
	listHeader = 28 // EFI_SIGNATURE_LIST
	ownerSize  = 16
	digestSize = 32
)

// List is the content of a variable of Secure Boot: a signature list for each
// certificate, and one for all digests together at the first one's place.
func List(signatures ...Signature) []byte {
	var out []byte
	header := func(kind gpt.GUID, size, count int) {
		id := kind.Disk()
		out = append(out, id[:]...)
		out = le.AppendUint32(out, uint32(listHeader+size*count))
		out = le.AppendUint32(out, 0)
		out = le.AppendUint32(out, uint32(size))
	}
	entry := func(owner gpt.GUID, data []byte) {
		id := owner.Disk()
		out = append(append(out, id[:]...), data...)
	}
	var digests []Signature
	for _, s := range signatures {
		if s.Certificate == nil {
			digests = append(digests, s)
		}
	}
	for _, s := range signatures {
		if s.Certificate != nil {
			header(typeX509, ownerSize+len(s.Certificate.Raw), 1)
			entry(s.Owner, s.Certificate.Raw)
		} else if len(digests) > 0 {
			header(typeSHA256, ownerSize+digestSize, len(digests))
			for _, d := range digests {
				entry(d.Owner, d.SHA256)
			}
			digests = nil
		}
	}
	return out
}

// ParseList reads what List writes. Lists of other kinds than X.509 certificates
// and SHA-256 are errors.
func ParseList(data []byte) ([]Signature, error) {
	var out []Signature
	for at := 0; at < len(data); {
		b := data[at:]
		if len(b) < listHeader {
			return nil, fmt.Errorf("signature list at %d: %d bytes are too few for a header", at, len(b))
		}
		total, header, size := int64(le.Uint32(b[16:])), int64(le.Uint32(b[20:])), int64(le.Uint32(b[24:]))
		if total > int64(len(b)) || size <= ownerSize || header != 0 || total < listHeader+size || (total-listHeader)%size != 0 {
			return nil, fmt.Errorf("signature list at %d: %d of %d bytes, entries of %d and a header of %d", at, total, len(b), size, header)
		}
		kind := gpt.FromDisk([16]byte(b[:16]))
		for entries := b[listHeader:total]; len(entries) > 0; entries = entries[size:] {
			s := Signature{Owner: gpt.FromDisk([16]byte(entries[:ownerSize]))}
			body := entries[ownerSize:size]
			switch kind {
			case typeX509:
				var err error
				if s.Certificate, err = x509.ParseCertificate(body); err != nil {
					return nil, fmt.Errorf("signature list at %d: %w", at, err)
				}
			case typeSHA256:
				if len(body) != digestSize {
					return nil, fmt.Errorf("signature list at %d: a SHA-256 of %d bytes", at, len(body))
				}
				s.SHA256 = slices.Clone(body)
			default:
				return nil, fmt.Errorf("signature list at %d: unknown type %s", at, kind)
			}
			out = append(out, s)
		}
		at += int(total)
	}
	return out, nil
}

// efiTime is EFI_TIME in UTC. Its fields below the second stay zero, as they
// must in signed updates.
func efiTime(t time.Time) []byte {
	b := make([]byte, 16)
	if t.IsZero() {
		return b
	}
	t = t.UTC()
	le.PutUint16(b, uint16(t.Year()))
	b[2], b[3], b[4], b[5], b[6] = byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())
	return b
}

func parseTime(b []byte) time.Time {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return time.Time{}
	}
	return time.Date(int(le.Uint16(b)), time.Month(b[2]), int(b[3]), int(b[4]), int(b[5]), int(b[6]), 0, time.UTC)
}

func utf16le(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = le.AppendUint16(out, u)
	}
	return out
}

const (
	authHeader   = 24 // WIN_CERTIFICATE_UEFI_GUID
	authRevision = 0x0200
	authGUID     = 0x0ef1 // WIN_CERT_TYPE_EFI_GUID
)

// ToBeSigned gives the bytes over which the signature of an update is made, by
// RSASSA-PKCS1-v1_5 with SHA-256 (UEFI 2.10, section 8.2.2).
func (v Variable) ToBeSigned() []byte {
	vendor := v.Vendor.Disk()
	return bytes.Join([][]byte{utf16le(v.Name), vendor[:], le.AppendUint32(nil, v.Attributes), efiTime(v.Time), v.Data}, nil)
}

// Update is a signed update that sets a variable: EFI_VARIABLE_AUTHENTICATION_2
// and the data. Firmware takes it if its time is later than the variable's, and
// the certificate one of those that may change the variable.
func Update(ctx context.Context, v Variable, certificate *x509.Certificate, signer sign.Signer) ([]byte, error) {
	if key, ok := certificate.PublicKey.(*rsa.PublicKey); !ok || !key.Equal(signer.Public()) {
		return nil, fmt.Errorf("certificate %s is not one of the key", certificate.Subject)
	}
	signature, err := sign.Message(ctx, signer, sign.RSAPKCS1SHA256, v.ToBeSigned())
	if err != nil {
		return nil, err
	}
	// Without a ContentInfo around it, which older firmware does not know.
	der, err := pkcs7.Signed{ContentType: pkcs7.OIDData, Certificate: certificate, Signature: signature}.Marshal()
	if err != nil {
		return nil, err
	}
	out := efiTime(v.Time)
	out = le.AppendUint32(out, uint32(authHeader+len(der)))
	out = le.AppendUint16(out, authRevision)
	out = le.AppendUint16(out, authGUID)
	kind := typePKCS7.Disk()
	out = append(append(out, kind[:]...), der...)
	return append(out, v.Data...), nil
}

// VerifyUpdate reads a signed update of one of Secure Boot's variables and checks
// its signature. It gives the variable and the certificate that signed it; its
// error wraps sign.ErrSignature where the signature is wrong.
func VerifyUpdate(name string, update []byte) (Variable, *x509.Certificate, error) {
	bad := func(err error) (Variable, *x509.Certificate, error) {
		return Variable{}, nil, fmt.Errorf("update of %s: %w", name, err)
	}
	if len(update) < 16+authHeader {
		return bad(fmt.Errorf("%d bytes are too few", len(update)))
	}
	length := int64(le.Uint32(update[16:]))
	if length < authHeader || 16+length > int64(len(update)) || le.Uint16(update[22:]) != authGUID || gpt.FromDisk([16]byte(update[24:40])) != typePKCS7 {
		return bad(fmt.Errorf("no PKCS #7 certificate: %d bytes of type %#x", length, le.Uint16(update[22:])))
	}
	v, err := New(name, slices.Clone(update[16+length:]), parseTime(update))
	if err != nil {
		return bad(err)
	}
	s, err := pkcs7.Parse(update[16+authHeader : 16+length])
	if err != nil {
		return bad(err)
	}
	if err := s.Verify(v.ToBeSigned()); err != nil {
		return bad(err)
	}
	return v, s.Certificate, nil
}
