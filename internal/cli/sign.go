package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"slipway/internal/image"
	"slipway/internal/sign"
)

func signCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign COMMAND",
		Short: "Sign a disk image for Secure Boot with a key that is elsewhere",
		Long: `Sign signs the boot loader and the unified kernel image of a disk image in two
steps, so that the key need not be where images are built: prepare writes out what
is to be signed, apply puts the signatures in. With the key at hand, the table
[signing] of the user's configuration makes builds sign by themselves.`,
		RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(signPrepare(), signApply())
	return cmd
}

func signPrepare() *cobra.Command {
	var disk, certificate string
	cmd := &cobra.Command{
		Use:   "prepare DIR",
		Short: "Write what is to be signed into a folder",
		Long: `Prepare writes into a new folder, for each EFI program of an unsigned disk image,
a file .tbs with the bytes to be signed, and request.json, which says what they
are. Each is to be signed by RSASSA-PKCS1-v1_5 with SHA-256 into a file .sig:

    openssl dgst -sha256 -sign db.key -out NAME.sig NAME.tbs`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if disk == "" || certificate == "" {
				return errors.New("which image, and signed by whom: give --image and --cert")
			}
			c, err := sign.LoadCertificate(certificate)
			if err != nil {
				return err
			}
			r, err := image.NewRequest(args[0], disk, c)
			if err != nil {
				return err
			}
			for _, p := range r.Programs {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\t/%s\n", filepath.Join(args[0], p.Message), p.Path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&disk, "image", "", "disk image, raw, that was built without keys")
	cmd.Flags().StringVar(&certificate, "cert", "", "certificate of the key that will sign")
	return cmd
}

func signApply() *cobra.Command {
	var disk, out, uki string
	cmd := &cobra.Command{
		Use:   "apply DIR",
		Short: "Make the signed disk image from the signatures in a folder",
		Long: `Apply checks the signatures that were put into the folder of prepare, and makes
the signed disk image. It is the same as one that was signed as it was built.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("where to: give --output")
			}
			r, err := image.ReadRequest(args[0])
			if err != nil {
				return err
			}
			err = r.Apply(cmd.Context(), args[0], disk, out)
			var missing *image.MissingSignaturesError
			if errors.As(err, &missing) {
				return fmt.Errorf("%s: %w; see slipway sign prepare --help", args[0], err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out)
			if uki == "" {
				return nil
			}
			data, err := image.UnifiedKernel(out)
			if err != nil {
				return err
			}
			if err := os.WriteFile(uki, data, 0o644); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), uki)
			return nil
		},
	}
	cmd.Flags().StringVar(&disk, "image", "", "the unsigned disk image (default: where it was when it was prepared)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "signed disk image to make")
	cmd.Flags().StringVar(&uki, "uki", "", "file to write the signed unified kernel image to as well, for slipway repo add --uki")
	return cmd
}
