package build

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/image"
	"slipway/internal/image/imagetest"
	"slipway/internal/progress"
	"slipway/internal/sign"
	"slipway/internal/sign/pkcs11"
	"slipway/internal/sign/pkcs11/pkcs11test"
	"slipway/internal/store"
	"slipway/internal/workspace"
)

// keyFiles writes a key and its certificate.
func keyFiles(t *testing.T, kind string) (key, certificate string) {
	t.Helper()
	var private any
	var err error
	if kind == "rsa" {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	parsed, err := sign.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: kind}, NotAfter: time.Unix(1<<33, 0)}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, parsed.Public, sign.Crypto(context.Background(), parsed.Signer)); err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, certificate = filepath.Join(dir, "key"), filepath.Join(dir, "crt")
	for path, data := range map[string][]byte{key: text, certificate: sign.MarshalCertificate(c)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, certificate
}

func TestOpenSigning(t *testing.T) {
	t.Parallel()
	key, certificate := keyFiles(t, "rsa")
	_, other := keyFiles(t, "rsa")
	ecKey, ec := keyFiles(t, "ecdsa")
	alone, err := openSigning(workspace.Signing{VerityKey: key, VerityCert: certificate})
	if err != nil || alone.signer() != nil {
		t.Errorf("a key for root hashes alone: %v %v", alone, err)
	}
	if s, err := openSigning(workspace.Signing{}); s != nil || err != nil || s.signer() != nil {
		t.Errorf("without keys: %v %v", s, err)
	}
	s, err := openSigning(workspace.Signing{SecureBootKey: key, SecureBootCert: certificate})
	if err != nil || s.signer() == nil {
		t.Fatal(s, err)
	}
	for want, c := range map[string]workspace.Signing{
		"is not the certificate of the key": {SecureBootKey: key, SecureBootCert: other},
		"Secure Boot wants RSA":             {SecureBootKey: ecKey, SecureBootCert: ec},
		"no such file or directory":         {SecureBootKey: key + "x", SecureBootCert: certificate},
		"want a certificate":                {SecureBootKey: key, SecureBootCert: key},
		"root hashes are signed with RSA":   {SecureBootKey: key, SecureBootCert: certificate, VerityKey: ecKey, VerityCert: ec},
	} {
		if _, err := openSigning(c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[signing]") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Another certificate, or another addon, makes another disk of the same parts;
// another certificate also makes another record of what was built.
func TestSigningStamp(t *testing.T) {
	t.Parallel()
	ws := &workspace.Workspace{Root: t.TempDir()}
	seen := map[string]string{}
	one, two := signingOf(t), signingOf(t)
	for name, s := range map[string]workspace.Signing{
		"none": {}, "one": one, "two": signingOf(t),
		"another for root hashes": {SecureBootKey: one.SecureBootKey, SecureBootCert: one.SecureBootCert, VerityKey: two.SecureBootKey, VerityCert: two.SecureBootCert},
	} {
		b := &Builder{ws: ws, opt: Options{Signing: s}}
		stamp, err := b.stamp(&workspace.Variant{Name: "dev"}, &store.Result{Digest: "sha256:1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, made := range []string{stamp.Key(), recordPath(ws.Root, Options{Signing: s}, nil)} {
			if twin := seen[made]; twin != "" {
				t.Errorf("%s and %s have the same: %v", name, twin, made)
			}
			seen[made] = name
		}
	}
	b := &Builder{ws: ws}
	for _, a := range []workspace.BootAddon{
		{Name: "a", KernelParameters: []string{"x"}}, {Name: "b", KernelParameters: []string{"x"}}, {Name: "a", KernelParameters: []string{"y"}},
	} {
		stamp := func() string {
			stamp, err := b.stamp(&workspace.Variant{Name: "dev", BootAddons: []workspace.BootAddon{a}}, &store.Result{Digest: "sha256:1"})
			if err != nil {
				t.Fatal(err)
			}
			return stamp.Key()
		}
		made := stamp()
		if twin := seen[made]; twin != "" {
			t.Errorf("%v has the stamp of %s", a, twin)
		}
		seen[made] = a.Name
		if a.Pos.Line = 7; stamp() != made {
			t.Errorf("%v in another line has another stamp", a)
		}
	}
}

func signingOf(t *testing.T) workspace.Signing {
	key, certificate := keyFiles(t, "rsa")
	return workspace.Signing{SecureBootKey: key, SecureBootCert: certificate}
}

// The root hash is signed beside the disk, and what is there is verified without
// the key.
func TestRootHashCompanion(t *testing.T) {
	t.Parallel()
	s := signingOf(t)
	s.VerityKey, s.VerityCert = keyFiles(t, "rsa")
	in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := openSigning(s)
	if err != nil {
		t.Fatal(err)
	}
	in.Sign = opened.signer()
	display := progress.New(io.Discard, progress.Options{Mode: progress.Plain})
	defer display.Close()
	b := &Builder{
		ws: &workspace.Workspace{Root: t.TempDir(), Config: workspace.Config{Name: "testos", Version: "0.1.0"}}, opt: Options{Arch: "x86_64", Signing: s},
		display: display, signing: func() (*signing, error) { return opened, nil },
	}
	v := &workspace.Variant{Name: "dev", ImageFormats: []string{"raw"}, ImageLayout: in.Layout.WithDefaults()}
	disk := b.ImagePath(v)
	if err := os.MkdirAll(filepath.Dir(disk), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Assemble(t.Context(), in, disk); err != nil {
		t.Fatal(err)
	}
	if err := b.writeCompanions(t.Context(), v, disk); err != nil {
		t.Fatal(err)
	}
	stem := strings.TrimSuffix(disk, ".img")
	out, err := exec.CommandContext(t.Context(), "openssl", "cms", "-verify", "-inform", "DER", "-in", stem+"-root.hash.p7s", "-content", stem+"-root.hash",
		"-binary", "-CAfile", s.VerityCert, "-purpose", "any").Output()
	if err != nil || string(out) != in.RootHash.String() {
		t.Errorf("openssl: %q %v", out, err)
	}
	if err := os.Remove(s.VerityKey); err != nil {
		t.Fatal(err)
	}
	if wrong, err := b.verifyCompanions(t.Context(), v, disk); err != nil || len(wrong) > 0 {
		t.Error(wrong, err)
	}
	der, err := os.ReadFile(stem + "-root.hash.p7s")
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	if err := errors.Join(os.Remove(stem+"-root.hash.p7s"), os.WriteFile(stem+"-root.hash.p7s", der, 0o600), os.Remove(stem+"-root.hash")); err != nil {
		t.Fatal(err)
	}
	if wrong, err := b.verifyCompanions(t.Context(), v, disk); err != nil || len(wrong) != 2 {
		t.Error(wrong, err)
	}
	b.opt.Signing = workspace.Signing{}
	if err := b.writeCompanions(t.Context(), v, disk); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(stem + "-root.hash*"); len(left) > 0 || err != nil {
		t.Errorf("left: %v (%v)", left, err)
	}
}

// A build signs with a key in a token as with one in a file.
func TestSigningWithToken(t *testing.T) {
	token, err := pkcs11test.New(t.TempDir(), "build", "271828")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(pkcs11test.EnvConfig, token.Config)
	key, certificate := keyFiles(t, "rsa")
	loaded, err := sign.LoadCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	cert, pin := filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "pin")
	if err := errors.Join(os.WriteFile(cert, loaded.Raw, 0o600), os.WriteFile(pin, []byte(token.PIN), 0o600),
		token.Tool("--write-object", key, "--type", "privkey", "--usage-sign", "--label", "db", "--id", "01"),
		token.Tool("--write-object", cert, "--type", "cert", "--label", "db", "--id", "01")); err != nil {
		t.Fatal(err)
	}
	var disks [2][]byte
	for i, ref := range []string{key, token.URI("db") + "&pin-source=" + pin} {
		in, err := imagetest.Inputs(t.TempDir(), "0.1.0")
		if err != nil {
			t.Fatal(err)
		}
		signing, err := openSigning(workspace.Signing{SecureBootKey: ref, SecureBootCert: certificate})
		if err != nil {
			t.Fatal(err)
		}
		in.Sign = signing.signer()
		disk := filepath.Join(t.TempDir(), "disk.img")
		if _, err := image.Assemble(t.Context(), in, disk); err != nil {
			t.Fatal(err)
		}
		if disks[i], err = os.ReadFile(disk); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("the token made another disk than the file")
	}
	opened, err := openSigning(workspace.Signing{SecureBootKey: token.URI("db"), SecureBootCert: certificate})
	if err != nil {
		t.Fatal(err)
	}
	for pin, want := range map[string]string{token.PIN: "", "": "the token wants a PIN"} {
		t.Setenv(pkcs11.EnvPIN, pin)
		err := opened.ready(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[signing]")) {
			t.Errorf("PIN %q: %v", pin, err)
		}
	}
}
