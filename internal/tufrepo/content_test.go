package tufrepo

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/imagetest"
	"slipway/internal/image/verity"
	"slipway/internal/sign"
)

// Images are those of the release, and fit each other.
func TestContent(t *testing.T) {
	t.Parallel()
	other := release(t, "1.0.1")
	kernel := func(t *testing.T, change func([]byte) []byte) string {
		t.Helper()
		_, _, data, err := imagetest.Release("root of 1.0.0", osRelease("dev", "1.0.0"))
		if err != nil {
			t.Fatal(err)
		}
		return write(t, filepath.Join(t.TempDir(), "uki.efi"), change(data))
	}
	for name, c := range map[string]struct {
		osRelease string // "": the right one
		change    func(t *testing.T, rel *Release)
		want      string
	}{
		"right":           {},
		"VERSION_ID":      {osRelease: "VARIANT_ID=dev\nVERSION_ID=1.0.0\n"},
		"image's version": {osRelease: "VARIANT_ID=dev\nVERSION_ID=3\nIMAGE_VERSION=1.0.0\n"},
		"no kernel": {change: func(t *testing.T, rel *Release) {
			rel.UKI = write(t, filepath.Join(t.TempDir(), "uki.efi"), []byte("text"))
		}, want: "uki.efi: not a unified kernel image: "},
		"other variant":   {osRelease: osRelease("prod", "1.0.0"), want: `VARIANT_ID in its os-release is "prod": the release is of variant dev`},
		"no variant":      {osRelease: "IMAGE_VERSION=1.0.0\n", want: `VARIANT_ID in its os-release is "": the release is of variant dev`},
		"other version":   {osRelease: osRelease("dev", "1.0.1"), want: `the version in its os-release is "1.0.1": the release is 1.0.0`},
		"other named":     {change: func(_ *testing.T, rel *Release) { rel.Variant = "prod" }, want: `VARIANT_ID in its os-release is "dev": the release is of variant prod`},
		"other arch":      {change: func(_ *testing.T, rel *Release) { rel.Arch = "aarch64" }, want: "it is a program for machine 0x8664: the release is for aarch64"},
		"unknown arch":    {change: func(_ *testing.T, rel *Release) { rel.Arch = "riscv64" }, want: "the release is for riscv64"},
		"kernel of other": {change: func(_ *testing.T, rel *Release) { rel.UKI, rel.Version = other.UKI, other.Version }, want: "x-root.img.zst: root, hash tree and the root hash in the kernel image do not fit: verity mismatch: the root hash is"},
		"tree of other":   {change: func(_ *testing.T, rel *Release) { rel.Hash = other.Hash }, want: "x-root.img.zst: root, hash tree and the root hash in the kernel image do not fit: verity mismatch: data block 0"},
		"root of other":   {change: func(_ *testing.T, rel *Release) { rel.Root = other.Root }, want: "do not fit: verity mismatch: data block 0"},
		"no tree": {change: func(t *testing.T, rel *Release) {
			rel.Hash = write(t, filepath.Join(t.TempDir(), "x-hash.img"), []byte("text"))
		}, want: "do not fit: verity superblock"},
		"root cut off": {change: func(t *testing.T, rel *Release) {
			rel.Root = write(t, filepath.Join(t.TempDir(), "x-root.img"), make([]byte, verity.BlockSize)[:1])
		}, want: "do not fit: data block 0: unexpected EOF"},
		"root goes on": {change: func(t *testing.T, rel *Release) {
			root, _, _, err := imagetest.Release("root of 1.0.0", "")
			if err != nil {
				t.Fatal(err)
			}
			rel.Root = write(t, filepath.Join(t.TempDir(), "x-root.img"), append(root, 0))
		}, want: "x-root.img: the hash tree protects 12288 bytes of the root, it has 1 more"},
		"other machine": {change: func(t *testing.T, rel *Release) {
			rel.UKI = kernel(t, func(data []byte) []byte {
				binary.LittleEndian.PutUint16(data[68:], pe.IMAGE_FILE_MACHINE_ARM64)
				return data
			})
		}, want: "it is a program for machine 0xaa64: the release is for x86_64"},
		"no verity": {change: func(t *testing.T, rel *Release) {
			rel.UKI = kernel(t, func(data []byte) []byte {
				return bytes.Replace(data, []byte("dm-mod.create"), []byte("dm-mod.cr_ate"), 1)
			})
		}, want: "its command line has no dm-mod.create= with a dm-verity root"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, p, clk := newRepo(t)
			rel := release(t, "1.0.0")
			if c.osRelease != "" {
				rel = releaseWith(t, "1.0.0", "root of 1.0.0", c.osRelease)
			}
			if c.change != nil {
				c.change(t, &rel)
			}
			change, err := r.Add(t.Context(), p, rel)
			if c.want == "" {
				commit(t, r, p, change, err)
				check(t, r, clk)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			if files, err := filepath.Glob(r.path("targets/*")); len(files) > 0 || err != nil {
				t.Errorf("copied: %v, %v", files, err)
			}
		})
	}
}

// efiKey is a key that signs EFI programs.
func efiKey(t *testing.T, name string) func(path string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	k, err := sign.Parse(pemKey(t, private))
	if err != nil {
		t.Fatal(err)
	}
	return func(path string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := authenticode.Sign(t.Context(), data, certificate, k.Signer)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, signed)
	}
}

// A host that runs a signed kernel image can go on to the next release.
func TestOtherSigner(t *testing.T) {
	t.Parallel()
	r, p, clk := newRepo(t)
	a, b := efiKey(t, "a"), efiKey(t, "b")
	signed := func(v string, keys ...func(string)) Release {
		rel := release(t, v)
		for _, key := range keys {
			key(rel.UKI)
		}
		return rel
	}
	refused := func(want string, rel Release) {
		t.Helper()
		if _, err := r.Add(t.Context(), p, rel); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	add(t, r, p, signed("1.0.0"))
	add(t, r, p, signed("1.1.0", a))
	refused("the kernel image of release dev x86_64 1.2.0 is not signed, that of release dev x86_64 1.1.0 is: hosts would refuse it (--other-signer", signed("1.2.0"))
	refused("the kernel image of release dev x86_64 1.2.0 is signed by CN=b, that of release dev x86_64 1.1.0 by CN=a", signed("1.2.0", b))
	changed := signed("1.2.0", a)
	data, err := os.ReadFile(changed.UKI)
	if err != nil {
		t.Fatal(err)
	}
	data[20]++
	write(t, changed.UKI, data)
	refused("the program was changed after it was signed", changed)

	add(t, r, p, signed("1.2.0", b, a))
	add(t, r, p, signed("1.3.0", b))
	other := releaseWith(t, "1.0.0", "root", osRelease("prod", "1.0.0"))
	other.Variant = "prod"
	add(t, r, p, other)
	plain := signed("1.4.0")
	plain.OtherSigner = true
	add(t, r, p, plain)
	// what is published can be added again, whatever the newest is
	if c, err := r.Add(t.Context(), p, release(t, "1.0.0")); c != nil || err != nil {
		t.Errorf("again: %v, %v", c, err)
	}
	check(t, r, clk)
}
