package cli

import (
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/image"
	"slipway/internal/image/uki"
)

func imageAddon(g *global) *cobra.Command {
	var out, parameters, uname string
	var unsigned bool
	cmd := &cobra.Command{
		Use:   "addon --output FILE" + image.AddonEnding + " --kernel-parameters PARAMETERS",
		Short: "Make kernel parameters into an addon for unified kernel images",
		Long: `Addon makes an EFI program that holds kernel parameters alone. On the EFI system
partition of a host, in the folder /loader/addons, it adds them to the command line
of every unified kernel image whose systemd-stub has version 254 or later. With
Secure Boot it must be signed with a key that the firmware trusts, or it is ignored:
the table [signing] of the user's configuration names the key.

So hosts get parameters of their own while the signed image stays the same for all.
slipway image repack --addon puts an addon into a disk image.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !strings.HasSuffix(out, image.AddonEnding) {
				return fmt.Errorf("--output %s: the name must end in %s", out, image.AddonEnding)
			}
			list := image.SplitCmdline(parameters)
			if len(list) == 0 {
				return errors.New("--kernel-parameters: there are none")
			}
			if err := errors.Join(image.CheckParameters(list), image.CheckCmdline(parameters)); err != nil {
				return err
			}
			machine, ok := map[string]uint16{"x86_64": pe.IMAGE_FILE_MACHINE_AMD64, "aarch64": pe.IMAGE_FILE_MACHINE_ARM64}[g.arch]
			if !ok {
				return fmt.Errorf("--arch %s: want x86_64 or aarch64", g.arch)
			}
			signer, err := openSigner(unsigned)
			if err != nil {
				return err
			}
			data, err := uki.Addon{Machine: machine, Cmdline: strings.Join(list, " "), Uname: uname}.Build()
			if err != nil {
				return err
			}
			return writeAddon(cmd.Context(), out, data, signer.EFI())
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to make; its name ends in "+image.AddonEnding)
	cmd.Flags().StringVar(&parameters, "kernel-parameters", "", "the parameters, divided by spaces")
	cmd.Flags().StringVar(&uname, "uname", "", "only for kernels of this release (default: for all)")
	cmd.Flags().BoolVar(&unsigned, "unsigned", false, "do not sign it")
	_ = cmd.MarkFlagRequired("output")
	_ = cmd.MarkFlagRequired("kernel-parameters")
	return cmd
}

func writeAddon(ctx context.Context, out string, data []byte, sign image.SignEFI) (err error) {
	if sign != nil {
		if data, err = sign(ctx, filepath.Base(out), data); err != nil {
			return fmt.Errorf("sign %s: %w", out, err)
		}
	}
	return os.WriteFile(out, data, 0o644)
}
