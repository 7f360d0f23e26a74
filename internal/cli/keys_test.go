package cli

import (
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/efivar"
	"slipway/internal/sign"
)

func execute(t *testing.T, args ...string) error {
	t.Helper()
	cmd := New()
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	return cmd.ExecuteContext(t.Context())
}

func TestKeysInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := execute(t, "keys", "init", dir, "--rsa-bits", "2048", "--name", "Acme"); err != nil {
		t.Fatal(err)
	}
	certificates := map[string]*x509.Certificate{}
	for _, k := range secureBootKeys {
		c, err := sign.LoadCertificate(filepath.Join(dir, k.name+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil || c.Subject.CommonName != "Acme "+k.subject {
			t.Errorf("%s: %s: %v", k.name, c.Subject, err)
		}
		if err := authenticode.CheckCertificate(c); err != nil {
			t.Error(err)
		}
		key, err := sign.Load(filepath.Join(dir, k.name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := selfSigned(t.Context(), c.Subject.CommonName, key)
		if err != nil || !again.Equal(c) {
			t.Errorf("%s: the certificate of the key is another one the second time (%v)", k.name, err)
		}
		if st, err := os.Stat(filepath.Join(dir, k.name+".key")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v (%v)", k.name, st.Mode(), err)
		}
		certificates[k.name] = c
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lists := map[string][]byte{}
	for _, k := range secureBootKeys {
		v, by, err := efivar.VerifyUpdate(k.name, read(k.name+".auth"))
		if err != nil || !by.Equal(certificates[k.signedBy]) {
			t.Fatalf("%s.auth: by %v: %v", k.name, by, err)
		}
		lists[k.name] = read(k.name + ".esl")
		if string(v.Data) != string(lists[k.name]) {
			t.Errorf("%s: .auth and .esl differ", k.name)
		}
		list, err := efivar.ParseList(v.Data)
		if err != nil || len(list) != 1 || !list[0].Certificate.Equal(certificates[k.name]) {
			t.Errorf("%s: %v (%v)", k.name, list, err)
		}
	}

	t.Run("enroll-vars", func(t *testing.T) {
		const empty = "/usr/share/OVMF/OVMF_VARS_4M.fd"
		if _, err := os.Stat(empty); err != nil {
			t.Skip("OVMF is not installed")
		}
		if err := execute(t, "keys", "enroll-vars", dir, "--vars", empty); err != nil {
			t.Fatal(err)
		}
		variables, err := efivar.ReadStore(read("OVMF_VARS.fd"))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, v := range variables {
			if want, ok := lists[v.Name]; ok && string(want) == string(v.Data) && v.Time.Equal(updatesAt) {
				found++
			}
		}
		if found != 3 {
			t.Errorf("%d of 3 keys are enrolled: %v", found, variables)
		}
		if err := execute(t, "keys", "enroll-vars", dir, "--vars", empty); err == nil {
			t.Error("the file of variables was overwritten")
		}
	})
}
