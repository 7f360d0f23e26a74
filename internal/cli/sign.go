package cli

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/image"
	"slipway/internal/image/format"
	"slipway/internal/image/inspect"
	"slipway/internal/sign"
	"slipway/internal/tufrepo"
)

func signCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign COMMAND",
		Short: "Sign images and update repositories with keys that are elsewhere",
		Long: `Sign signs in steps what needs keys that are not where images are built: prepare
writes into a folder, the request, what is to be signed; there, or wherever the
folder is taken, signatures are added; apply takes them back. The same commands
serve the boot loader, the unified kernel image and the verity root hash of a disk
image, and the metadata of an update repository.

With the keys at hand, in files or tokens, none of this is needed: builds sign with
the keys in the table [signing] of the user's configuration, and slipway repo with
those in repos.toml.`,
		RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(signPrepare(), signAdd(), signApply())
	return cmd
}

func signPrepare() *cobra.Command {
	var disk, repository, certificate, verityCert string
	cmd := &cobra.Command{
		Use:   "prepare DIR",
		Short: "Write what is to be signed into a folder",
		Long: `Prepare writes a request into a new folder: for each signature that is wanted a
file .tbs with the bytes to be signed, and request.json, which says what they are
and by which scheme and key each is to be signed into a file .sig beside it. With
--image these are the EFI programs of an unsigned disk image and its verity root
hash, with --repository the metadata of a change that waits for signatures.

Where slipway is at hand, slipway sign add makes the signatures. Otherwise, by
scheme:

    rsa-pkcs1v15-sha256, ecdsa-sha2-nistp256
        openssl dgst -sha256 -sign KEY -out NAME.sig NAME.tbs
    rsassa-pss-sha256
        openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 -sign KEY -out NAME.sig NAME.tbs
    ed25519
        openssl pkeyutl -sign -rawin -inkey KEY -in NAME.tbs -out NAME.sig`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r *sign.Request
			var err error
			switch {
			case (disk == "") == (repository == ""):
				return errors.New("what is to be signed: give --image or --repository")
			case disk != "" && certificate == "":
				return errors.New("signed by whom: give --cert")
			case disk != "":
				r, err = imageRequest(disk, certificate, cmp.Or(verityCert, certificate))
			case certificate != "" || verityCert != "":
				return errors.New("--cert and --verity-cert are for --image")
			default:
				err = with(cmd.Context(), repository, false, func(repo *tufrepo.Repo) (err error) {
					r, err = repo.Request()
					return err
				})
			}
			if err != nil {
				return err
			}
			if err := r.Write(args[0]); err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, w := range r.Wanted {
				fmt.Fprintf(t, "%s\t%s\t%s\n", filepath.Join(args[0], w.Message), w.Scheme, w.What)
			}
			return t.Flush()
		},
	}
	cmd.Flags().StringVar(&disk, "image", "", "disk image, raw, that was built without keys")
	cmd.Flags().StringVar(&certificate, "cert", "", "certificate of the key that will sign the image for Secure Boot")
	cmd.Flags().StringVar(&verityCert, "verity-cert", "", "certificate of the key that will sign its root hash (default: that of --cert)")
	cmd.Flags().StringVar(&repository, "repository", "", "folder of an update repository in which a change waits for signatures")
	return cmd
}

func imageRequest(disk, certificate, verityCert string) (*sign.Request, error) {
	boot, err := sign.LoadCertificate(certificate)
	if err != nil {
		return nil, err
	}
	root, err := sign.LoadCertificate(verityCert)
	if err != nil {
		return nil, err
	}
	d, err := format.OpenRaw(disk)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", disk, err)
	}
	return image.NewRequest(disk, u.RootHash, boot, root)
}

func signAdd() *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "add DIR",
		Short: "Add the signatures of a key to a folder",
		Long: `Add makes the signatures that the folder of prepare wants of a key, and writes
them into it. Neither the image nor the repository is needed for that.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return errors.New("signed with what: give --key")
			}
			r, err := sign.ReadRequest(args[0])
			if err != nil {
				return err
			}
			loaded, err := loadKeys(keys)
			if err != nil {
				return err
			}
			n := 0
			for _, k := range loaded {
				more, err := r.Sign(cmd.Context(), args[0], k)
				if err != nil {
					return err
				}
				n += more
			}
			fmt.Fprintf(cmd.OutOrStdout(), "signatures: %d new, of %d\n", n, len(r.Wanted))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "private key: a PEM file, or the pkcs11: URI of one in a token; may be repeated")
	return cmd
}

func signApply() *cobra.Command {
	var disk, repository, out string
	cmd := &cobra.Command{
		Use:   "apply DIR",
		Short: "Take the signatures in a folder into the image or repository",
		Long: `Apply checks the signatures that were added to the folder of prepare.

Of a disk image it makes the signed one, which is the same as one that was signed as
it was built, and beside it the files of the image that are signed too: OUTPUT
without .img and with -uki.efi, -root.hash and -root.hash.p7s. The root and its hash
tree are not changed; slipway image convert makes other formats of the signed disk.

A change of an update repository is published when there are enough signatures;
with less of them it goes on waiting for the others.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := sign.ReadRequest(args[0])
			if err != nil {
				return err
			}
			missing := func(err error) error {
				var m *sign.MissingError
				if errors.As(err, &m) {
					return fmt.Errorf("%s: %w; see slipway sign prepare --help", args[0], err)
				}
				return err
			}
			if r.Kind == sign.RequestRepository {
				if disk != "" || out != "" {
					return errors.New("--image and --output are for images: the request is for an update repository")
				}
				dir := cmp.Or(repository, r.Subject)
				return with(cmd.Context(), dir, false, func(repo *tufrepo.Repo) error {
					if err := whole(dir, missing(repo.ApplyRequest(cmd.Context(), r))); err != nil {
						return err
					}
					printExpiries(cmd.OutOrStdout(), repo.Expiries(), time.Now())
					return nil
				})
			}
			if repository != "" {
				return errors.New("--repository is for update repositories: the request is for an image")
			}
			if out == "" {
				return errors.New("where to: give --output")
			}
			beside, err := image.ApplyRequest(cmd.Context(), r, disk, out)
			if err != nil {
				return missing(err)
			}
			for _, path := range append([]string{out}, beside...) {
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&disk, "image", "", "the unsigned disk image (default: where it was when it was prepared)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "signed disk image to make")
	cmd.Flags().StringVar(&repository, "repository", "", "the update repository (default: where it was when it was prepared)")
	return cmd
}
