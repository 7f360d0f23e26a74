package efivar

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/gpt"
	"slipway/internal/sign"
	"slipway/internal/sign/pkcs7"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	owner = guid("11111111-2222-4333-8444-555555555555")
	at    = time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)
)

// fixed is the key of testdata, with a certificate that is always the same.
func fixed(t testing.TB) (*sign.Key, *x509.Certificate) {
	t.Helper()
	key, err := sign.Load("testdata/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "test"}, NotBefore: at, NotAfter: at.AddDate(100, 0, 0)}
	der, err := x509.CreateCertificate(nil, template, template, key.Public, sign.Crypto(t.Context(), key.Signer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, c
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed: %d bytes, want %d", name, len(got), len(want))
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func pemFile(t *testing.T, c *x509.Certificate) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGolden(t *testing.T) {
	t.Parallel()
	key, c := fixed(t)
	list := List(Signature{Owner: owner, Certificate: c})
	golden(t, "db.esl", list)
	golden(t, "dbx.esl", List(Signature{Owner: owner, SHA256: bytes.Repeat([]byte{1}, 32)}, Signature{Owner: owner, SHA256: bytes.Repeat([]byte{2}, 32)}))
	for _, name := range []string{PK, KEK, DB, DBX} {
		v, err := New(name, list, at)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := Update(t.Context(), v, c, key.Signer)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".auth", auth)
		got, by, err := VerifyUpdate(name, auth)
		if err != nil || !by.Equal(c) {
			t.Fatal(err)
		}
		if d := cmp.Diff(v, got); d != "" {
			t.Error(d)
		}
	}
}

// The list of cert-to-efi-sig-list is the same, and the signature of an update is
// over the bytes that sign-efi-sig-list signs.
func TestOthersAgree(t *testing.T) {
	t.Parallel()
	key, c := fixed(t)
	list := List(Signature{Owner: owner, Certificate: c})
	t.Run("cert-to-efi-sig-list", func(t *testing.T) {
		theirs := filepath.Join(t.TempDir(), "db.esl")
		run(t, "cert-to-efi-sig-list", "-g", owner.String(), pemFile(t, c), theirs)
		b, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, list) {
			t.Errorf("%x, want %x", b, list)
		}
	})
	t.Run("sign-efi-sig-list", func(t *testing.T) {
		dir := t.TempDir()
		esl, theirs, message := filepath.Join(dir, "KEK.esl"), filepath.Join(dir, "KEK.auth"), filepath.Join(dir, "message")
		if err := os.WriteFile(esl, list, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := New(KEK, list, at)
		if err != nil {
			t.Fatal(err)
		}
		run(t, "sign-efi-sig-list", "-t", "2023-11-14 22:13:20", "-o", "-k", "testdata/key.pem", "-c", pemFile(t, c), "KEK", esl, message)
		if b, err := os.ReadFile(message); err != nil || !bytes.Equal(b, v.ToBeSigned()) {
			t.Errorf("to be signed: %x, want %x (%v)", v.ToBeSigned(), b, err)
		}
		run(t, "sign-efi-sig-list", "-t", "2023-11-14 22:13:20", "-k", "testdata/key.pem", "-c", pemFile(t, c), "KEK", esl, theirs)
		b, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		got, by, err := VerifyUpdate(KEK, b)
		if err != nil {
			t.Fatal(err)
		}
		if !by.Equal(c) || cmp.Diff(v, got) != "" {
			t.Error(cmp.Diff(v, got))
		}
	})
	t.Run("openssl", func(t *testing.T) {
		dir := t.TempDir()
		v, err := New(DB, list, at)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := Update(t.Context(), v, c, key.Signer)
		if err != nil {
			t.Fatal(err)
		}
		der, message := filepath.Join(dir, "p7"), filepath.Join(dir, "message")
		length := le.Uint32(auth[16:])
		wrapped := pkcs7.Wrap(auth[16+authHeader : 16+length])
		if err := errors.Join(os.WriteFile(der, wrapped, 0o600), os.WriteFile(message, v.ToBeSigned(), 0o600)); err != nil {
			t.Fatal(err)
		}
		run(t, "openssl", "smime", "-verify", "-inform", "DER", "-in", der, "-content", message, "-binary", "-CAfile", pemFile(t, c), "-purpose", "any", "-out", os.DevNull)
	})
}

func TestTampered(t *testing.T) {
	t.Parallel()
	key, c := fixed(t)
	v, err := New(DB, List(Signature{Owner: owner, Certificate: c}), at)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := Update(t.Context(), v, c, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	length := int(le.Uint32(auth[16:]))
	for _, i := range []int{0, 3, 6, 16 + length, len(auth) - 1} {
		changed := slices.Clone(auth)
		changed[i]++
		if _, _, err := VerifyUpdate(DB, changed); !errors.Is(err, sign.ErrSignature) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	if _, _, err := VerifyUpdate(KEK, auth); !errors.Is(err, sign.ErrSignature) {
		t.Errorf("another variable: %v", err)
	}
	if _, _, err := VerifyUpdate("BootOrder", auth); err == nil || !strings.Contains(err.Error(), "PK, KEK, db and dbx") {
		t.Error(err)
	}
	if _, _, err := VerifyUpdate(DB, auth[:30]); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Error(err)
	}
}

func TestListErrors(t *testing.T) {
	t.Parallel()
	_, c := fixed(t)
	good := List(Signature{Owner: owner, Certificate: c}, Signature{Owner: owner, SHA256: make([]byte, 32)})
	got, err := ParseList(good)
	if err != nil || len(got) != 2 || !got[0].Certificate.Equal(c) || len(got[1].SHA256) != 32 || got[1].Owner != owner {
		t.Fatal(got, err)
	}
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"header", func(b []byte) []byte { return b[:20] }, "too few for a header"},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, "signature list at"},
		{"type", func(b []byte) []byte { b[0]++; return b }, "unknown type"},
		{"size 0", func(b []byte) []byte { le.PutUint32(b[24:], 0); return b }, "entries of 0"},
		{"certificate", func(b []byte) []byte { b[listHeader+ownerSize]++; return b }, "x509"},
	} {
		if _, err := ParseList(tt.change(slices.Clone(good))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// empty is a small flash image without variables.
func empty(size int) []byte {
	b := bytes.Repeat([]byte{0xff}, 72+size+100)
	copy(b, make([]byte, 72+storeHeader))
	volume, kind := volumeNVData.Disk(), storeKind.Disk()
	copy(b[16:], volume[:])
	copy(b[volumeSignature:], "_FVH")
	le.PutUint16(b[volumeHeader:], 72)
	copy(b[72:], kind[:])
	le.PutUint32(b[72+16:], uint32(size))
	b[72+20], b[72+21] = storeFormatted, storeHealthy
	return b
}

func TestStore(t *testing.T) {
	t.Parallel()
	lists := map[string][]byte{PK: {1, 2, 3}, KEK: {4, 5}, DB: {6}}
	image := empty(2000)
	boot := Variable{Name: "BootOrder", Vendor: Global, Attributes: 7, Data: []byte{0, 0}}
	image, err := WriteStore(image, boot, Variable{Name: PK, Vendor: Global, Attributes: SecureBootKinds, Data: []byte{9, 9, 9, 9}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := Enroll(image, lists, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != len(image) || !bytes.Equal(out[72+2000:], image[72+2000:]) {
		t.Error("bytes behind the store have changed")
	}
	got, err := ReadStore(out)
	if err != nil {
		t.Fatal(err)
	}
	want := []Variable{
		boot,
		{Name: PK, Vendor: Global, Attributes: 0x27, Time: at, Data: lists[PK]},
		SecureBootEnable(),
		{Name: KEK, Vendor: Global, Attributes: 0x27, Time: at, Data: lists[KEK]},
		{Name: DB, Vendor: Security, Attributes: 0x27, Time: at, Data: lists[DB]},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	again, err := Enroll(out, lists, at)
	if err != nil || !bytes.Equal(again, out) {
		t.Errorf("enrolled again, the image is another one (%v)", err)
	}

	if _, err := Enroll(image, map[string][]byte{PK: {1}}, at); err == nil || !strings.Contains(err.Error(), "no signature list for KEK") {
		t.Error(err)
	}
	if _, err := Enroll(empty(200), lists, at); err == nil || !strings.Contains(err.Error(), "have room") {
		t.Error(err)
	}
	for _, tt := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"nothing", nil, "no volume of OVMF's"},
		{"zeros", make([]byte, 1000), "no volume of OVMF's"},
		{"cut", empty(2000)[:1000], "not formatted or damaged"},
		{"variable", func() []byte { b := slices.Clone(out); le.PutUint32(b[100+40:], 1<<31); return b }(), "one at 100 with a name"},
	} {
		if _, err := ReadStore(tt.image); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// What Debian enrolled is read, and written again it says the same.
func TestStoreOfOVMF(t *testing.T) {
	t.Parallel()
	image, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	if err != nil {
		t.Skip("OVMF is not installed")
	}
	variables, err := ReadStore(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{PK, KEK, DB} {
		i := slices.IndexFunc(variables, func(v Variable) bool { return v.Name == name })
		if i < 0 {
			t.Fatalf("no %s", name)
		}
		v, err := New(name, nil, time.Time{})
		if err != nil || v.Vendor != variables[i].Vendor || v.Attributes != variables[i].Attributes {
			t.Errorf("%s: vendor %s, attributes %#x (%v)", name, variables[i].Vendor, variables[i].Attributes, err)
		}
		if list, err := ParseList(variables[i].Data); err != nil || len(list) == 0 || list[0].Certificate == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	enable := SecureBootEnable()
	i := slices.IndexFunc(variables, enable.same)
	if i < 0 || cmp.Diff(enable, variables[i]) != "" {
		t.Errorf("SecureBootEnable is %v", variables)
	}
	out, err := WriteStore(image)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadStore(out)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(variables, again); d != "" {
		t.Error(d)
	}
}

func FuzzParseList(f *testing.F) {
	_, c := fixed(f)
	f.Add(List(Signature{Owner: owner, Certificate: c}, Signature{Owner: owner, SHA256: make([]byte, 32)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseList(b)
		if err != nil {
			return
		}
		again, err := ParseList(List(list...))
		if err != nil || len(again) != len(list) {
			t.Fatal(err)
		}
	})
}

func FuzzVerifyUpdate(f *testing.F) {
	for _, name := range []string{"db.auth", "PK.auth"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _, err := VerifyUpdate(DB, b)
		if err == nil && !bytes.HasSuffix(b, v.Data) {
			t.Fatal("data that is not in the update")
		}
	})
}

func FuzzStore(f *testing.F) {
	image, err := Enroll(empty(400), map[string][]byte{PK: {1}, KEK: {2}, DB: {3}}, at)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ReadStore(b); err != nil {
			return
		}
		v := Variable{Name: "x", Vendor: gpt.GUID{1}, Data: []byte{1}}
		out, err := WriteStore(b, v)
		if err != nil {
			return // no room
		}
		got, err := ReadStore(out)
		if err != nil || !slices.ContainsFunc(got, v.same) {
			t.Fatal(err)
		}
	})
}
