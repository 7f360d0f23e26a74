package inspect

import (
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image"
	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/verity"
	"slipway/internal/sign"
)

// A disk and its root hash are trusted for who has signed them.
func TestSigners(t *testing.T) {
	t.Parallel()
	type keys struct {
		certificate *x509.Certificate
		signer      sign.Signer
	}
	key := func(name string) keys {
		certificate, signer, err := imagetest.Signer(name)
		if err != nil {
			t.Fatal(err)
		}
		return keys{certificate, signer}
	}
	ours, theirs := key("ours"), key("theirs")
	const (
		loader, kernel, addon = "/EFI/BOOT/BOOTX64.EFI", "/EFI/Linux/testos_0.1.0+3.efi", "/loader/addons/a.addon.EFI"
		unsigned              = ": EFI program: not signed"
		foreign               = "signed by CN=theirs, who is not trusted"
		foreignProgram        = ": EFI program: " + foreign + ": wrong signature"
	)
	both := func(k keys) map[string]keys { return map[string]keys{loader: k, kernel: k} }
	for _, tt := range []struct {
		name     string
		programs map[string]keys // with the key of their signature; nil is none
		root     []keys          // who signs the root hash
		hash     bool            // lies beside the image
		trusted  []keys
		want     []string
	}{
		{"unsigned", both(keys{}), nil, false, []keys{ours}, []string{loader + unsigned, kernel + unsigned}},
		{"ours", both(ours), nil, false, []keys{ours}, nil},
		{"one of two", map[string]keys{loader: theirs, kernel: ours}, nil, false, []keys{ours, theirs}, nil},
		{"theirs", both(theirs), nil, false, []keys{ours}, []string{loader + foreignProgram, kernel + foreignProgram}},
		{"boot loader of theirs", map[string]keys{loader: theirs, kernel: ours}, nil, false, []keys{ours}, []string{loader + foreignProgram}},
		{"unsigned addon", map[string]keys{loader: ours, kernel: ours, addon: {}}, nil, false, []keys{ours}, []string{addon + unsigned}},
		{"addon of theirs", map[string]keys{loader: ours, kernel: ours, addon: theirs}, nil, false, []keys{ours}, []string{addon + foreignProgram}},
		{"another program", map[string]keys{loader: ours, kernel: ours, "/EFI/other/x.efi": theirs}, nil, false, []keys{ours}, []string{"/EFI/other/x.efi" + foreignProgram}},
		{"no boot loader", map[string]keys{kernel: ours}, nil, false, []keys{ours}, []string{"/EFI/BOOT: there is no boot loader in it"}},
		{"root hash of ours", both(ours), []keys{ours}, true, []keys{ours}, nil},
		{"root hash of theirs", both(ours), []keys{theirs}, true, []keys{ours}, []string{"disk-root.hash.p7s: " + foreign}},
		{"root hash of theirs, trusted too", both(ours), []keys{theirs}, true, []keys{ours, theirs}, nil},
		{"root hash unsigned", both(ours), nil, true, []keys{ours}, []string{"disk-root.hash.p7s: it is missing, so the root hash beside the image is not signed"}},
		{"nobody asks", both(theirs), nil, true, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := assemble(t)
			esp := section(open(t, path), tableOf(t, path).Entries[0])
			volume, err := fat.ReadVolume(esp)
			if err != nil {
				t.Fatal(err)
			}
			data := map[string][]byte{}
			for _, f := range volume.Files {
				data["/"+f.Path] = f.Data
			}
			volume.Files = nil
			for _, name := range []string{loader, kernel, addon, "/EFI/other/x.efi"} {
				k, ok := tt.programs[name]
				if !ok {
					continue
				}
				program := data[name]
				if program == nil {
					program = imagetest.EFI(".cmdline", "a=1")
				}
				if k.signer != nil {
					if program, err = image.SignWith(k.certificate, k.signer)(t.Context(), name, program); err != nil {
						t.Fatal(err)
					}
				}
				volume.Files = append(volume.Files, fat.File{Path: name[1:], Data: program})
			}
			writeESP(t, path, volume)
			r, findings, err := Verify(t.Context(), open(t, path))
			if err != nil || len(findings) > 0 {
				t.Fatal(findings, err)
			}
			stem := filepath.Join(filepath.Dir(path), "disk")
			if tt.hash {
				if err := os.WriteFile(stem+verity.HashEnding, r.Slots[0].root.SignedText(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, k := range tt.root {
				der, err := r.Slots[0].root.Sign(t.Context(), k.certificate, k.signer)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(stem+verity.SignatureEnding, der, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var trusted []*x509.Certificate
			for _, k := range tt.trusted {
				trusted = append(trusted, k.certificate)
			}
			var got []string
			if trusted != nil {
				for _, f := range VerifySigners(r, trusted) {
					got = append(got, f.String())
				}
			}
			signer, findings, err := VerifyRootHash(path, r, trusted)
			if err != nil {
				t.Fatal(err)
			}
			if (signer != "") != (len(tt.root) > 0) {
				t.Errorf("signer of the root hash: %q", signer)
			}
			for _, f := range findings {
				f.Where = filepath.Base(f.Where)
				got = append(got, f.String())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func tableOf(t *testing.T, path string) *gpt.Table {
	t.Helper()
	d := open(t, path)
	table, _, err := gpt.Read(d, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// writeESP puts other files on the EFI system partition.
func writeESP(t *testing.T, path string, volume *fat.Volume) {
	t.Helper()
	e := tableOf(t, path).Entries[0]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blank := make([]byte, e.Size())
	if _, err := f.WriteAt(blank, e.Start()); err != nil {
		t.Fatal(err)
	}
	if err := volume.Write(io.NewOffsetWriter(f, e.Start()), e.Size()); err != nil {
		t.Fatal(err)
	}
}
