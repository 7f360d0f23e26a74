package authenticode

import (
	"bytes"
	"crypto/x509"
	"debug/pe"
	"os"
	"strings"
	"testing"

	"dinghy/internal/kerneltest"
)

// lastSignature is where the octets of the last signature begin.
func lastSignature(image []byte) int { return bytes.LastIndex(image, []byte{4, 0x82, 1, 0}) + 4 }

func TestSigners(t *testing.T) {
	t.Parallel()
	a, b := kerneltest.NewKey("a"), kerneltest.NewKey("b")
	plain := kerneltest.Image(pe.IMAGE_FILE_MACHINE_AMD64, ".osrel", "ID=x\n", ".cmdline", "quiet")
	change := func(image []byte, at int) []byte {
		image = bytes.Clone(image)
		image[at] ^= 1
		return image
	}
	signed := a.Sign(plain)
	for name, c := range map[string]struct {
		image   []byte
		signers []*x509.Certificate
		want    string // part of the error
	}{
		"unsigned":           {image: plain},
		"signed":             {image: signed, signers: []*x509.Certificate{a.Certificate}},
		"by two":             {image: b.Sign(signed), signers: []*x509.Certificate{a.Certificate, b.Certificate}},
		"other checksum":     {image: change(signed, 88+64), signers: []*x509.Certificate{a.Certificate}},
		"other header":       {image: change(signed, 68+16), want: "not an EFI program"},
		"other section":      {image: change(signed, 512), want: "signature 1: it was changed after it was signed"},
		"other signature":    {image: change(signed, lastSignature(signed)), want: "signature 1: it is by none of the certificates that it brings"},
		"other second":       {image: change(b.Sign(signed), lastSignature(b.Sign(signed))), want: "signature 2: it is by none of the certificates that it brings"},
		"cut off":            {image: signed[:len(signed)-8], want: "its signatures do not end the file"},
		"more behind":        {image: append(bytes.Clone(signed), 0), want: "its signatures do not end the file"},
		"another kind":       {image: change(signed, len(plain)+6), want: "other than signatures of PKCS #7"},
		"no program":         {image: []byte("text"), want: "not an EFI program"},
		"signature of zeros": {image: append(bytes.Clone(signed[:len(plain)+8]), make([]byte, len(signed)-len(plain)-8)...), want: "PKCS #7: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Signers(c.image)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.signers) {
				t.Fatalf("%d signers, want %d", len(got), len(c.signers))
			}
			for i := range got {
				if !got[i].Equal(c.signers[i]) {
					t.Errorf("signer %d is %s", i, got[i].Subject)
				}
			}
		})
	}
}

// TestSlipways reads what slipway and sbsign signed, and refuses it when it is changed.
func TestSlipways(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"testdata/slipway.efi", "testdata/sbsign.efi"} {
		image, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		signers, err := Signers(image)
		if err != nil || len(signers) != 1 || signers[0].Subject.CommonName != "db" {
			t.Errorf("%s: %v, %v", name, signers, err)
		}
		image[1100] ^= 1
		if _, err := Signers(image); err == nil {
			t.Errorf("%s: changed, and still good", name)
		}
	}
}
