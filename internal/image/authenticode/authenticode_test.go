package authenticode

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/sign"
)

// program makes a small EFI program: headers of 1024 bytes and one section, with
// extra bytes behind it that no section holds.
func program(extra int) []byte {
	const coff, opt, table, headers = 64, 88, 328, 1024
	b := make([]byte, headers+512, headers+512+extra)
	copy(b, "MZ")
	le.PutUint32(b[60:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[coff+6:], 1)
	le.PutUint16(b[coff+20:], table-opt)
	le.PutUint16(b[coff+22:], pe.IMAGE_FILE_EXECUTABLE_IMAGE)
	le.PutUint16(b[opt:], magicPE32Plus)
	le.PutUint32(b[opt+16:], 4096) // entry
	le.PutUint32(b[opt+32:], 4096)
	le.PutUint32(b[opt+36:], 512)
	le.PutUint32(b[opt+56:], 8192)
	le.PutUint32(b[opt+60:], headers)
	le.PutUint16(b[opt+68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint32(b[opt+108:], 16)
	copy(b[table:], ".text")
	le.PutUint32(b[table+8:], 11)
	le.PutUint32(b[table+12:], 4096)
	le.PutUint32(b[table+16:], 512)
	le.PutUint32(b[table+20:], headers)
	copy(b[headers:], "hello world")
	for i := range extra {
		b = append(b, byte(i+1))
	}
	return b
}

type signer struct{ key crypto.Signer }

func (s signer) Public() crypto.PublicKey { return s.key.Public() }

func (s signer) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(rand.Reader, digest, opts)
}

type identity struct {
	signer
	certificate *x509.Certificate
}

func newIdentity(name string, key crypto.Signer) identity {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return identity{signer{key}, c}
}

var identities = sync.OnceValue(func() [2]identity {
	var out [2]identity
	for i, name := range []string{"one", "two"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out[i] = newIdentity(name, key)
	}
	return out
})

func signed(t testing.TB, image []byte, id identity) []byte {
	t.Helper()
	out, err := Sign(context.Background(), image, id.certificate, id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	one, two := identities()[0], identities()[1]
	for _, extra := range []int{0, 1, 7, 8} {
		image := program(extra)
		before := slices.Clone(image)
		out := signed(t, image, one)
		if !bytes.Equal(image, before) {
			t.Fatal("the input was changed")
		}
		if !bytes.Equal(out, signed(t, image, one)) {
			t.Error("signed twice, two results")
		}
		if err := Verify(out, two.certificate, one.certificate); err != nil {
			t.Error(err)
		}
		if err := Verify(out, two.certificate); !errors.Is(err, sign.ErrSignature) {
			t.Errorf("not trusted: %v", err)
		}
		if err := Verify(image, one.certificate); !errors.Is(err, ErrUnsigned) {
			t.Errorf("unsigned: %v", err)
		}
		a, err := Digest(image)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Digest(out)
		if err != nil || a != b {
			t.Errorf("digest %x, after signing %x (%v)", a, b, err)
		}
		both := signed(t, out, two)
		if err := Verify(both, two.certificate); err != nil {
			t.Error(err)
		}
		if got, err := Signers(both); err != nil || len(got) != 2 {
			t.Errorf("%d signers (%v)", len(got), err)
		}
		// debug/pe takes it as before, and the checksum is that of the file.
		f, err := pe.NewFile(bytes.NewReader(both))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := f.OptionalHeader.(*pe.OptionalHeader64).CheckSum, sum(both); got != want {
			t.Errorf("checksum %#x, want %#x", got, want)
		}
	}
}

// sum is the checksum of a PE file by another way: the carries at the end.
func sum(b []byte) uint32 {
	b = slices.Clone(b)
	copy(b[88+optChecksum:], make([]byte, 4))
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var total uint64
	for i := 0; i < len(b); i += 2 {
		total += uint64(le.Uint16(b[i:]))
	}
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	return uint32(total) + uint32(len(b))
}

// Every byte counts: of the program, but for the checksum, and of the signature.
func TestTampered(t *testing.T) {
	t.Parallel()
	one := identities()[0]
	out := signed(t, program(3), one)
	l, err := parse(out)
	if err != nil {
		t.Fatal(err)
	}
	for at := range out {
		if at >= l.checksum && at < l.checksum+4 {
			continue
		}
		changed := slices.Clone(out)
		changed[at] ^= 0x40
		if err := Verify(changed, one.certificate); err == nil && at < l.end {
			t.Errorf("byte %d of %d is changed, and the signature is right", at, len(out))
		}
	}
	if err := Verify(append(slices.Clone(out), make([]byte, 8)...), one.certificate); err == nil {
		t.Error("bytes behind the certificate table")
	}
	// A signature of another program.
	other := program(3)
	other[1024]++
	table := slices.Concat(other, make([]byte, -len(other)&7), out[l.end:])
	copy(table[l.directory:l.directory+8], out[l.directory:])
	if err := Verify(table, one.certificate); !errors.Is(err, sign.ErrSignature) {
		t.Errorf("signature of another program: %v", err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	one, two := identities()[0], identities()[1]
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	put := func(at int, v uint32) []byte {
		b := program(0)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"empty", nil, "no DOS header"},
		{"no PE", make([]byte, 512), "no DOS header"},
		{"PE header outside", put(60, 1<<31), "no PE header"},
		{"kind", put(88, 0x107), "optional header of kind 0x107"},
		{"few directories", put(88+108, 4), "no room for a certificate table"},
		{"many sections", put(64+4, 0xffff<<16|0x8664), "no room for a certificate table"},
		{"headers", put(88+60, 1<<20), "1048576 bytes of headers"},
		{"gap", put(328+20, 1032), "a section lies from 1032 to 1544"},
		{"overlap", put(328+20, 1000), "a section lies from 1000 to 1512"},
		{"cut", program(0)[:1400], "a section lies from 1024 to 1536 of 1400 bytes"},
		{"table", put(88+112+32, 8), "the certificate table (0 bytes at 8) does not end the file"},
	} {
		if _, err := Sign(t.Context(), c.image, one.certificate, one); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if _, err := Signers(c.image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: signers: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := Sign(t.Context(), program(0), one.certificate, two); err == nil || !strings.Contains(err.Error(), "not one of the key") {
		t.Errorf("another key: %v", err)
	}
	if _, err := Attach(program(0), newIdentity("ec", ec).certificate, nil); err == nil || !strings.Contains(err.Error(), "Secure Boot wants RSA") {
		t.Errorf("ECDSA: %v", err)
	}
	if _, err := Attach(program(0), one.certificate, make([]byte, 256)); !errors.Is(err, sign.ErrSignature) {
		t.Errorf("wrong signature: %v", err)
	}
}

// Other programs have the last word.
func TestOthersAgree(t *testing.T) {
	t.Parallel()
	one, two := identities()[0], identities()[1]
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	certificate := func(id identity) string {
		return write(id.certificate.Subject.CommonName+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.certificate.Raw}))
	}
	key, err := x509.MarshalPKCS8PrivateKey(one.key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := write("one.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	for _, extra := range []int{0, 5} {
		image := program(extra)
		good := write("good.efi", signed(t, image, one))
		changed := signed(t, image, one)
		changed[1030] ^= 1
		bad := write("bad.efi", changed)
		double := write("double.efi", signed(t, signed(t, image, one), two))
		t.Run("sbverify", func(t *testing.T) {
			tool, err := exec.LookPath("sbverify")
			if err != nil {
				t.Skip("sbverify is not installed (Debian: sbsigntool)")
			}
			verify := func(file string, id identity) error {
				out, err := exec.CommandContext(t.Context(), tool, "--cert", certificate(id), file).CombinedOutput()
				t.Logf("%s", out)
				return err
			}
			for _, c := range []struct {
				file string
				id   identity
				ok   bool
			}{{good, one, true}, {good, two, false}, {bad, one, false}, {double, one, true}, {double, two, true}} {
				if err := verify(c.file, c.id); (err == nil) != c.ok {
					t.Errorf("%s by %s: %v", filepath.Base(c.file), c.id.certificate.Subject, err)
				}
			}
		})
		t.Run("sbsign", func(t *testing.T) {
			tool, err := exec.LookPath("sbsign")
			if err != nil {
				t.Skip("sbsign is not installed (Debian: sbsigntool)")
			}
			theirs := filepath.Join(dir, "theirs.efi")
			if out, err := exec.CommandContext(t.Context(), tool, "--key", keyFile, "--cert", certificate(one), "--output", theirs, write("plain.efi", image)).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			b, err := os.ReadFile(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if err := Verify(b, one.certificate); err != nil {
				t.Error(err)
			}
		})
		t.Run("osslsigncode", func(t *testing.T) {
			tool, err := exec.LookPath("osslsigncode")
			if err != nil {
				t.Skip("osslsigncode is not installed")
			}
			digest, err := Digest(image)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), tool, "verify", "-CAfile", certificate(one), "-in", good).CombinedOutput()
			if err != nil || !strings.Contains(strings.ToLower(string(out)), hex.EncodeToString(digest[:])) {
				t.Errorf("%v, want digest %x\n%s", err, digest, out)
			}
			if out, err := exec.CommandContext(t.Context(), tool, "verify", "-CAfile", certificate(one), "-in", bad).CombinedOutput(); err == nil {
				t.Errorf("a changed program verifies:\n%s", out)
			}
		})
	}
}

func FuzzSigners(f *testing.F) {
	f.Add(program(0))
	f.Add(signed(f, program(5), identities()[0]))
	f.Fuzz(func(t *testing.T, image []byte) {
		if _, err := Signers(image); err != nil {
			return
		}
		// what is well formed can be signed
		out := signed(t, image, identities()[1])
		if err := Verify(out, identities()[1].certificate); err != nil {
			t.Fatal(err)
		}
	})
}
