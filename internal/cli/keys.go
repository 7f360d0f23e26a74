package cli

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/image/efivar"
	"slipway/internal/image/gpt"
	"slipway/internal/image/qemu"
	"slipway/internal/sign"
)

// Times of what keys init makes. The updates of variables are old, so that any
// later one is taken.
var (
	certificatesFrom  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	certificatesUntil = time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC)
	updatesAt         = certificatesFrom
)

// secureBootKeys are the keys of Secure Boot in the order of trust, with which of
// them signs updates of each.
var secureBootKeys = []secureBootKey{
	{efivar.PK, efivar.PK, "platform key"},
	{efivar.KEK, efivar.PK, "key exchange key"},
	{efivar.DB, efivar.KEK, "boot signing key"},
}

type secureBootKey struct{ name, signedBy, subject string }

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys COMMAND",
		Short: "Make keys for Secure Boot",
		RunE:  group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(keysInit(), keysEnroll())
	return cmd
}

func keysInit() *cobra.Command {
	var bits int
	var name string
	var own []string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a platform key, a key exchange key and a signing key",
		Long: `Init makes the three keys of Secure Boot in a folder: PK, KEK and db, each with a
certificate (.crt), a signature list (.esl) and a signed update of the firmware's
variable (.auth). Disk images are signed with db.key; its certificate is db.crt.
Nothing that is there is overwritten.

With --key NAME=KEY a key that exists is taken, such as one in a token, and only
its certificate, list and update are made:

    slipway keys init keys --key 'db=pkcs11:token=signing;object=db?module-path=…'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bits != 2048 && bits != 3072 && bits != 4096 {
				return fmt.Errorf("--rsa-bits %d: firmware knows RSA keys of 2048, 3072 and 4096 bits", bits)
			}
			given, err := givenKeys(own)
			if err != nil {
				return err
			}
			files, err := makeKeys(cmd.Context(), name, bits, given)
			if err != nil {
				return err
			}
			if err := writeNew(args[0], files); err != nil {
				return err
			}
			for _, f := range files {
				fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(args[0], f.name))
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&bits, "rsa-bits", 3072, "size of the keys: 2048, 3072 or 4096")
	cmd.Flags().StringVar(&name, "name", "Slipway", "whose keys they are, for the names in the certificates")
	cmd.Flags().StringArrayVar(&own, "key", nil, "PK=KEY, KEK=KEY or db=KEY: a key to take instead of a new one, a PEM file or the pkcs11: URI of one in a token; may be repeated")
	return cmd
}

// newFile is a file to be made.
type newFile struct {
	name string
	data []byte
	mode os.FileMode
}

// givenKeys loads the keys of --key by their names.
func givenKeys(flags []string) (map[string]*sign.Key, error) {
	given := map[string]*sign.Key{}
	for _, f := range flags {
		name, ref, ok := strings.Cut(f, "=")
		known := slices.ContainsFunc(secureBootKeys, func(k secureBootKey) bool { return k.name == name })
		switch {
		case !ok || !known || ref == "":
			return nil, errors.New("--key: want PK=KEY, KEK=KEY or db=KEY")
		case given[name] != nil:
			return nil, fmt.Errorf("--key: %s is there twice", name)
		}
		key, err := sign.Load(ref)
		if err != nil {
			return nil, err
		}
		if key.Signer == nil {
			return nil, fmt.Errorf("--key: %s is a public key: its certificate must be signed with the private one", ref)
		}
		if err := sign.RSAPKCS1SHA256.Fits(key.Public); err != nil {
			return nil, fmt.Errorf("--key: %s: Secure Boot wants RSA: %w", ref, err)
		}
		given[name] = key
	}
	return given, nil
}

// newKey makes a private key, and gives it with its PEM.
func newKey(bits int) (*sign.Key, []byte, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	key, err := sign.Parse(text)
	return key, text, err
}

// makeKeys gives the files of keys: those that are given by name, and new ones.
func makeKeys(ctx context.Context, name string, bits int, given map[string]*sign.Key) ([]newFile, error) {
	type pair struct {
		signer      sign.Signer
		certificate *x509.Certificate
	}
	var files []newFile
	pairs := map[string]pair{}
	for _, k := range secureBootKeys {
		key := given[k.name]
		if key == nil {
			var text []byte
			var err error
			if key, text, err = newKey(bits); err != nil {
				return nil, err
			}
			files = append(files, newFile{k.name + ".key", text, 0o600})
		}
		certificate, err := selfSigned(ctx, name+" "+k.subject, key)
		if err != nil {
			return nil, err
		}
		pairs[k.name] = pair{key.Signer, certificate}
		files = append(files, newFile{k.name + ".crt", sign.MarshalCertificate(certificate), 0o644})
	}
	owner := ownerOf(pairs[efivar.PK].certificate)
	for _, k := range secureBootKeys {
		list := efivar.List(efivar.Signature{Owner: owner, Certificate: pairs[k.name].certificate})
		v, err := efivar.New(k.name, list, updatesAt)
		if err != nil {
			return nil, err
		}
		by := pairs[k.signedBy]
		update, err := efivar.Update(ctx, v, by.certificate, by.signer)
		if err != nil {
			return nil, err
		}
		files = append(files, newFile{k.name + ".esl", list, 0o644}, newFile{k.name + ".auth", update, 0o644})
	}
	return files, nil
}

// selfSigned makes a certificate of a key. Its serial number is made from the
// key, so that the certificate of a key is always the same.
func selfSigned(ctx context.Context, name string, key *sign.Key) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	sum[0] &= 0x7f // positive; at most 20 bytes by RFC 5280, section 4.1.2.2
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(sum[:16]), Subject: pkix.Name{CommonName: name},
		NotBefore: certificatesFrom, NotAfter: certificatesUntil,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, SignatureAlgorithm: x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public, sign.Crypto(ctx, key.Signer))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ownerOf makes the owner of entries in signature lists from the platform key: a
// version 8 UUID (RFC 9562).
func ownerOf(certificate *x509.Certificate) gpt.GUID {
	sum := sha256.Sum256(certificate.Raw)
	g := gpt.GUID(sum[:16])
	g[6], g[8] = g[6]&0x0f|0x80, g[8]&0x3f|0x80
	return g
}

// writeNew makes files in a folder, all of them or none.
func writeNew(dir string, files []newFile) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil {
			return fmt.Errorf("%s is there already: keys are never overwritten; name another folder", filepath.Join(dir, f.name))
		}
	}
	var made []string
	defer func() {
		if err != nil {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if err != nil {
			return err
		}
		made = append(made, path)
		_, err = w.Write(f.data)
		if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
			return err
		}
	}
	return nil
}

func keysEnroll() *cobra.Command {
	var vars, out string
	cmd := &cobra.Command{
		Use:   "enroll-vars DIR",
		Short: "Put the keys of a folder into the firmware variables of virtual machines",
		Long: `Enroll-vars makes a file of variables for OVMF, the UEFI firmware of virtual
machines, in which Secure Boot is on with PK, KEK and db of the folder, and with
dbx.esl if it is there. slipway run --secure-boot FILE boots with it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if vars == "" {
				firmware, err := qemu.FindSecureFirmware()
				if err != nil {
					return err
				}
				vars = firmware.Vars
			}
			if out == "" {
				out = filepath.Join(args[0], "OVMF_VARS.fd")
			}
			lists := map[string][]byte{}
			for _, name := range []string{efivar.PK, efivar.KEK, efivar.DB, efivar.DBX} {
				path := filepath.Join(args[0], name+".esl")
				list, err := os.ReadFile(path)
				if name == efivar.DBX && errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err != nil {
					return fmt.Errorf("%w: slipway keys init makes it", err)
				}
				if _, err := efivar.ParseList(list); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				lists[name] = list
			}
			image, err := os.ReadFile(vars)
			if err != nil {
				return err
			}
			if image, err = efivar.Enroll(image, lists, updatesAt); err != nil {
				return fmt.Errorf("%s: %w", vars, err)
			}
			if err := writeNew(filepath.Dir(out), []newFile{{filepath.Base(out), image, 0o644}}); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out)
			return nil
		},
	}
	cmd.Flags().StringVar(&vars, "vars", "", "variables to begin with (default: those of this machine's OVMF)")
	cmd.Flags().StringVar(&out, "output", "", "file to make (default: OVMF_VARS.fd in DIR)")
	return cmd
}
