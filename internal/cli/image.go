package cli

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"slipway/internal/compare"
	"slipway/internal/image/efivar"
	"slipway/internal/image/format"
	"slipway/internal/image/inspect"
	"slipway/internal/provenance"
	"slipway/internal/sign"
)

func imageCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image COMMAND",
		Short: "Look into disk images, check, compare, convert and change them",
		Long: `Image works on the files that slipway build makes, and needs no workspace. Every
command reads every format that slipway writes: ` + kindNames() + `;
what a file is, its content tells.`,
		RunE: group, SuggestionsMinimumDistance: 2, DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(imageInspect(), imageVerify(), imageDiff(), imageConvert(), imageRepack(), imageAddon(g))
	return cmd
}

func kindNames() string {
	var names []string
	for _, k := range format.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// withDisk opens a disk image for the length of f.
func withDisk(ctx context.Context, path string, f func(*format.Disk) error) error {
	d, err := format.Open(ctx, path)
	if err != nil {
		return err
	}
	if err := errors.Join(f(d), d.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func imageInspect() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what lies on a disk image",
		Long: `Inspect shows the partitions of a disk image, its slots (a root with its hash
tree), the files of the EFI system partition, and of each unified kernel image
the command line, the os-release and the root hash that it boots. Nothing is
verified: see slipway image verify.

With --json everything that is known is printed as JSON; sizes are in bytes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDisk(cmd.Context(), args[0], func(d *format.Disk) error {
				r, err := inspect.Disk(d)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), r)
				}
				return printDisk(cmd.OutOrStdout(), r)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func printDisk(w io.Writer, r *inspect.Report) error {
	fmt.Fprintf(w, "%s, %s, disk %s\n", r.Format, units.BytesSize(float64(r.Size)), r.Table.Disk)
	fmt.Fprintf(w, "primary partition table: %s\nbackup partition table: %s\n\n", r.Table.Primary, r.Table.Backup)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "#\tLABEL\tTYPE\tUUID\tSTART MiB\tSIZE MiB\tCONTENT")
	for _, p := range r.Partitions {
		content := p.Content
		if p.ReadOnly {
			content += ", read-only"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Number, cmp.Or(p.Label, "-"), p.TypeName, p.UUID, mebibytes(p.Start), mebibytes(p.Size), content)
	}
	fmt.Fprintln(t, "\nSLOT\tPARTITIONS\tVERSION\tROOT HASH")
	for _, s := range r.Slots {
		version, hash := s.Version, s.RootHash
		if s.Empty {
			version, hash = "-", "blank"
		}
		fmt.Fprintf(t, "%s\t%d, %d\t%s\t%s\n", s.Name, s.Root, s.Hash, cmp.Or(version, "?"), hash)
	}
	fmt.Fprintln(t, "\nESP FILE\tBYTES\tSIGNED BY")
	for _, f := range r.ESP {
		signers := strings.Join(f.Signers, "; ")
		if f.Signatures != "" {
			signers = "bad: " + f.Signatures
		}
		fmt.Fprintf(t, "/%s\t%d\t%s\n", f.Path, f.Size, cmp.Or(signers, "-"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, k := range r.Kernels {
		fmt.Fprintf(w, "\n/%s\n", k.Path)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		row := func(name, value string) {
			if value != "" {
				fmt.Fprintf(t, "  %s\t%s\n", name, value)
			}
		}
		row("error", k.Error)
		row("name", k.Name)
		row("version", k.Version)
		tries := "good, not counted"
		if k.TriesLeft != nil {
			tries = fmt.Sprintf("%d boots left", *k.TriesLeft)
			if k.TriesDone != nil {
				tries += fmt.Sprintf(", %d done", *k.TriesDone)
			}
		}
		row("tries", tries)
		row("system", cmp.Or(k.OSRelease["PRETTY_NAME"], k.OSRelease["NAME"], k.OSRelease["ID"]))
		row("kernel", k.Uname)
		row("root hash", k.RootHash)
		row("command line", k.Cmdline)
		for _, s := range k.Sections {
			row("section "+s.Name, fmt.Sprintf("%d bytes, sha256 %s", s.Size, s.SHA256))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// mebibytes is a size in MiB, exact where it is whole.
func mebibytes(n int64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprint(n >> 20)
	}
	return fmt.Sprintf("%.2f", float64(n)/(1<<20))
}

func imageVerify() *cobra.Command {
	var keyRef string
	var certificates []string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that a disk image is undamaged, fits together, and is what was built",
		Long: `Verify reads a whole disk image and checks the checksums of its format, both
copies of the partition table, the checksums and signatures of all EFI programs,
that each kernel finds its root by the UUIDs of the partitions, which are the two
halves of the root hash, and each root block by block against its hash tree and
that root hash. The root hash and its signature beside the image, FILE without its
ending and with -root.hash and -root.hash.p7s, are checked where they are there.

So are the documents beside it: the bills of materials (-sbom.spdx.json and
-sbom.cdx.json) must list the same packages as inventory.json, and the provenance
(-provenance.intoto.jsonl, or .json without a signature) must have the digests of the
image, of the bills of materials and of whatever else it names that is there. With
--key there must be provenance, signed with that key.

Whoever can write the image can also sign it, so say with --cert whose signatures
count: then every EFI program (boot loader, kernels, addons) must be signed by one of
these certificates, and so must the root hash where it lies beside the image.

Each finding is one line on standard output; with any, the exit status is 1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			key, err := provenanceKey(keyRef)
			if err != nil {
				return err
			}
			trusted, err := trustedCertificates(certificates)
			if err != nil {
				return err
			}
			return withDisk(cmd.Context(), args[0], func(d *format.Disk) error {
				r, findings, err := inspect.Verify(cmd.Context(), d)
				if err != nil {
					return err
				}
				var signer string
				if r != nil {
					var wrong []inspect.Finding
					if signer, wrong, err = inspect.VerifyRootHash(args[0], r, trusted); err != nil {
						return err
					}
					findings = append(findings, wrong...)
					if trusted != nil {
						findings = append(findings, inspect.VerifySigners(r, trusted)...)
					}
				}
				documents, wrong, err := inspect.VerifyDocuments(cmd.Context(), args[0], key)
				if err != nil {
					return err
				}
				findings = append(findings, wrong...)
				for _, f := range findings {
					fmt.Fprintln(out, f)
				}
				if len(findings) > 0 {
					return fmt.Errorf("not as it was made; findings: %d", len(findings))
				}
				filled := 0
				for _, s := range r.Slots {
					if !s.Empty {
						filled++
						fmt.Fprintf(out, "slot %s: %s, root hash %s: %s of data\n", s.Name, cmp.Or(s.Version, "no version"), s.RootHash, units.BytesSize(float64(s.Verity.DataSize)))
					}
				}
				if signer != "" {
					fmt.Fprintf(out, "root hash signed by %s\n", signer)
				}
				if trusted == nil {
					fmt.Fprintln(out, "signers of boot loader, kernels, addons and root hash: not checked: give --cert")
				} else {
					fmt.Fprintln(out, "boot loader, kernels and addons: signed by a certificate of --cert")
				}
				for _, line := range documents.Lines(key != nil) {
					fmt.Fprintln(out, line)
				}
				fmt.Fprintf(out, "partitions: %d, slots: %d, filled: %d, kernels: %d, all good\n", len(r.Partitions), len(r.Slots), filled, len(r.Kernels))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&keyRef, "key", "", "key with which the provenance must be signed: a PEM file, public or private, or a pkcs11: URI")
	cmd.Flags().StringArrayVar(&certificates, "cert", nil, "certificate by which EFI programs and root hash must be signed: PEM, or an .esl file with several; may be repeated")
	return cmd
}

// trustedCertificates reads the certificates in the files; nil where none is given.
func trustedCertificates(files []string) (trusted []*x509.Certificate, err error) {
	for _, name := range files {
		if filepath.Ext(name) != ".esl" {
			c, err := sign.LoadCertificate(name)
			if err != nil {
				return nil, fmt.Errorf("--cert: %w", err)
			}
			trusted = append(trusted, c)
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--cert: %w", err)
		}
		list, err := efivar.ParseList(data)
		if err != nil {
			return nil, fmt.Errorf("--cert: %s: %w", name, err)
		}
		before := len(trusted)
		for _, s := range list {
			if s.Certificate != nil {
				trusted = append(trusted, s.Certificate)
			}
		}
		if len(trusted) == before {
			return nil, fmt.Errorf("--cert: %s: no certificate in it", name)
		}
	}
	return trusted, nil
}

// provenanceKey loads the public half of the key in a flag; nil where it is not
// given.
func provenanceKey(ref string) (crypto.PublicKey, error) {
	if ref == "" {
		return nil, nil
	}
	k, err := sign.Load(ref)
	if err == nil {
		_, err = provenance.KeyID(k.Public)
	}
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	return k.Public, nil
}

// imageDifferences is what image diff prints as JSON.
type imageDifferences struct {
	Equal       bool                    `json:"equal"`
	Differences []string                `json:"differences"`
	Packages    []inspect.PackageChange `json:"packages,omitempty"`
}

func imageDiff() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show in what two disk images differ",
		Long: `Diff compares the disks in two files, which may have different formats: partition
table, partitions, files of the EFI system partition, sections of the kernels, and of
the files of the root content, mode, owner, extended attributes and targets of links.
It also compares the inventory.json beside each, where both have one: packages that
were added, removed or changed, and by how much each changes the size of the
root, installed and uncompressed, in bytes.

The exit status is 1 where the disks differ.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var found []compare.Difference
			err := withDisk(cmd.Context(), args[0], func(a *format.Disk) error {
				return withDisk(cmd.Context(), args[1], func(b *format.Disk) (err error) {
					found, err = compare.Disks("disk", a, b)
					return err
				})
			})
			if err != nil {
				return err
			}
			packages, listed, err := inspect.PackageChanges(args[0], args[1])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				d := imageDifferences{Equal: len(found) == 0, Differences: []string{}, Packages: packages}
				for _, f := range found {
					d.Differences = append(d.Differences, f.String())
				}
				err = writeJSON(out, d)
			} else {
				for _, f := range found {
					fmt.Fprintln(out, f)
				}
				err = printPackages(out, packages, listed)
			}
			if err == nil && len(found) > 0 {
				return fmt.Errorf("the disks of %s and %s differ", args[0], args[1])
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the differences as JSON")
	return cmd
}

func printPackages(w io.Writer, changes []inspect.PackageChange, listed bool) error {
	if !listed {
		fmt.Fprintf(w, "packages were not compared: an image has no %s beside it\n", inspect.InventoryFile)
		return nil
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, "packages: no changes")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nPACKAGE\tA\tB\tSIZE A\tSIZE B\tCHANGE")
	var total int64
	for _, c := range changes {
		total += c.SizeB - c.SizeA
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%+d\n", c.Name, cmp.Or(c.A, "-"), cmp.Or(c.B, "-"), c.SizeA, c.SizeB, c.SizeB-c.SizeA)
	}
	fmt.Fprintf(t, "all\t\t\t\t\t%+d\n", total)
	return t.Flush()
}

func imageConvert() *cobra.Command {
	var kind string
	var o format.Options
	cmd := &cobra.Command{
		Use:   "convert FILE OUT --format FORMAT",
		Short: "Write a disk image in another format",
		Long: `Convert writes the disk in FILE to OUT in another format: ` + kindNames() + `.
The same disk and flags give the same file, whatever format FILE has. VMDK and
OVA are compressed, for import into VMware's products; vhd is what Azure takes. A
file that is there is replaced when the new one is complete.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := format.ParseKind(kind)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if a, err := os.Stat(args[0]); err == nil {
				if b, err := os.Stat(args[1]); err == nil && os.SameFile(a, b) {
					return fmt.Errorf("%s and %s are one file", args[0], args[1])
				}
			}
			if o.Name == "" {
				o.Name = strings.TrimSuffix(filepath.Base(args[1]), k.Extension())
			}
			o.Seed, o.Time = o.Name+"\x00"+o.Version, time.Unix(0, 0)
			return withDisk(cmd.Context(), args[0], func(d *format.Disk) error {
				if err := d.Check(cmd.Context()); err != nil {
					return err
				}
				return format.Convert(cmd.Context(), k, d, args[1], o)
			})
		},
	}
	cmd.Flags().StringVar(&kind, "format", "", "format to write")
	cmd.Flags().StringVar(&o.Name, "name", "", "name of the machine in an OVA (default: OUT without its ending)")
	cmd.Flags().StringVar(&o.Version, "image-version", "", "version of the machine in an OVA")
	_ = cmd.MarkFlagRequired("format")
	return cmd
}
