package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/authenticode"
	"slipway/internal/sign"
)

type signingKey struct {
	*sign.Key
	certificate *x509.Certificate
}

var signingKeys = sync.OnceValue(func() (keys [2]signingKey) {
	for i := range keys {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1<<33, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			panic(err)
		}
		if keys[i].certificate, err = x509.ParseCertificate(der); err != nil {
			panic(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
		if keys[i].Key, err = sign.Parse(text); err != nil {
			panic(err)
		}
	}
	return keys
})

// signable are inputs with a boot loader that is a program.
func signable(t *testing.T) Inputs {
	t.Helper()
	in := inputs(t)
	if err := os.WriteFile(in.BootLoader, efi(".text", "systemd-boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	return in
}

func assemble(t *testing.T, in Inputs) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "disk.img")
	if _, err := Assemble(t.Context(), in, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func bytesOf(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A disk is the same whether it is signed while it is put together, later, or with
// signatures that were made elsewhere.
func TestSigned(t *testing.T) {
	t.Parallel()
	key := signingKeys()[0]
	in := signable(t)
	stub(t, &in, "254")
	in.Addons = []Addon{{"site", []string{"site=1"}}}
	unsigned := assemble(t, in)
	in.Sign = SignWith(key.certificate, key.Signer)
	direct := assemble(t, in)
	programs, err := Programs(direct)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range programs {
		paths = append(paths, p.Path)
		if err := authenticode.Verify(p.Data, key.certificate); err != nil {
			t.Errorf("%s: %v", p.Path, err)
		}
	}
	if d := cmp.Diff([]string{"EFI/BOOT/BOOTX64.EFI", "EFI/Linux/" + in.Name + "_" + in.Version + "+3.efi", "loader/addons/site.addon.efi"}, paths); d != "" {
		t.Error(d)
	}
	dir := t.TempDir()
	for name, signer := range map[string]SignEFI{"unsigned": nil, "later": in.Sign} {
		out := filepath.Join(dir, name)
		if err := Resign(t.Context(), unsigned, out, signer); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"unsigned": unsigned, "later": direct}[name]
		if !bytes.Equal(bytesOf(t, out), bytesOf(t, want)) {
			t.Errorf("%s: another disk than that of Assemble", name)
		}
	}

	request := filepath.Join(dir, "request")
	r, err := NewRequest(unsigned, in.RootHash, key.certificate, key.certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(request); err != nil {
		t.Fatal(err)
	}
	read := func() *sign.Request {
		t.Helper()
		read, err := sign.ReadRequest(request)
		if err != nil {
			t.Fatal(err)
		}
		return read
	}
	if d := cmp.Diff(r, read()); d != "" {
		t.Error(d)
	}
	out := filepath.Join(dir, "applied.img")
	var missing *sign.MissingError
	if _, err := ApplyRequest(t.Context(), r, "", out); !errors.As(err, &missing) || len(missing.Files) != 4 {
		t.Errorf("without signatures: %v", err)
	}
	if _, err := r.Sign(t.Context(), request, signingKeys()[1].Key); err == nil || !strings.Contains(err.Error(), "no signature is wanted of the key") {
		t.Errorf("another key: %v", err)
	}
	if n, err := r.Sign(t.Context(), request, key.Key); n != 4 || err != nil {
		t.Errorf("%d signatures: %v", n, err)
	}
	other := signable(t)
	stub(t, &other, "254")
	other.Addons = in.Addons
	other.KernelParameters = append(other.KernelParameters, "quiet")
	if _, err := ApplyRequest(t.Context(), read(), assemble(t, other), out); err == nil || !strings.Contains(err.Error(), "the image is another one") {
		t.Errorf("another image: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a disk without right signatures: %v", err)
	}
	beside, err := ApplyRequest(t.Context(), read(), "", out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytesOf(t, out), bytesOf(t, direct)) {
		t.Error("signed elsewhere, the disk is another one")
	}
	stem := strings.TrimSuffix(out, ".img")
	if d := cmp.Diff([]string{stem + "-uki.efi", stem + "-root.hash", stem + "-root.hash.p7s"}, beside); d != "" {
		t.Fatal(d)
	}
	if !bytes.Equal(bytesOf(t, beside[0]), programs[1].Data) {
		t.Error("the kernel beside the disk is another one")
	}
	if got := string(bytesOf(t, beside[1])); got != in.RootHash.String() {
		t.Errorf("root hash %s", got)
	}
	if by, err := in.RootHash.VerifySignature(bytesOf(t, beside[2])); err != nil || !by.Equal(key.certificate) {
		t.Errorf("root hash signed by %v: %v", by, err)
	}

	if _, err := NewRequest(direct, in.RootHash, key.certificate, key.certificate); err == nil || !strings.Contains(err.Error(), "is signed already, by CN=db") {
		t.Error(err)
	}
}

func TestSignErrors(t *testing.T) {
	t.Parallel()
	in := signable(t)
	in.Sign = func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no token") }
	if _, err := Assemble(t.Context(), in, filepath.Join(t.TempDir(), "disk")); err == nil || err.Error() != "sign /EFI/BOOT/BOOTX64.EFI: no token" {
		t.Error(err)
	}
	blank := filepath.Join(t.TempDir(), "blank")
	truncate(t, blank, mib)
	if err := Resign(t.Context(), blank, blank+".out", nil); err == nil || !strings.Contains(err.Error(), "no valid GUID partition table") {
		t.Error(err)
	}
}
