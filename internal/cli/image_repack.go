package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/build"
	"slipway/internal/image"
	"slipway/internal/image/erofs"
	"slipway/internal/image/fat"
	"slipway/internal/image/format"
	"slipway/internal/image/inspect"
	"slipway/internal/image/repack"
	"slipway/internal/workspace"
)

// openSigner opens the keys of the user's configuration; nil where nothing signs.
func openSigner(unsigned bool) (*build.Signer, error) {
	if unsigned {
		return nil, nil
	}
	user, err := workspace.LoadUser()
	if err != nil {
		return nil, err
	}
	return build.OpenSigner(user.Signing)
}

type repackFlags struct {
	output, kind, parameters string
	files, addons            []string
	caBundle, rootJSON       string
	unsigned                 bool
}

func imageRepack() *cobra.Command {
	f := &repackFlags{}
	cmd := &cobra.Command{
		Use:   "repack FILE --output NEW",
		Short: "Make a disk image into one with other files, parameters, addons or signatures",
		Long: `Repack makes a finished disk image, of any format, into another. It needs no
workspace, no privileges and, but for files of ext4, no programs, and the same image
and changes always give the same bytes. ext4 takes e2fsprogs, whose version decides
the bytes.

--file replaces a file of the root file system, which keeps its owner, mode and
extended attributes, or adds one, of root, with the mode 0644, or 0755 where SOURCE
may be executed; --file DEST= removes it. The root then gets a new hash tree, its
partitions get new UUIDs, and the kernel a command line with the new root hash.
Everything else stays as it is: kernel, layout, labels, data.

The image is verified first; a damaged one is refused, and so is one that has run.
With keys in the table [signing] of the user's configuration, all EFI programs are
signed with them in place of the signatures they have. Without, a signed kernel is
only changed with --unsigned.

Of an image with a slot for updates, what an update needs comes to lie beside NEW,
as slipway build has it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, args[0])
		},
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "disk image to make")
	cmd.Flags().StringVar(&f.kind, "format", "", "its format (default: what the ending of NEW says, else raw)")
	cmd.Flags().StringArrayVar(&f.files, "file", nil, "DEST=SOURCE: put the file SOURCE at the path DEST; without SOURCE, remove it")
	cmd.Flags().StringVar(&f.caBundle, "ca-bundle", "", "certificates, PEM, in place of the image's bundle of trusted authorities")
	cmd.Flags().StringVar(&f.rootJSON, "root-json", "", "trusted root of an update repository in place of the image's root.json")
	cmd.Flags().StringVar(&f.parameters, "kernel-parameters", "", "parameters to put behind those of the kernel's command line")
	cmd.Flags().StringArrayVar(&f.addons, "addon", nil, "addon to put on the EFI system partition; see slipway image addon")
	cmd.Flags().BoolVar(&f.unsigned, "unsigned", false, "sign nothing, and take all signatures away")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

func (f *repackFlags) run(cmd *cobra.Command, in string) (err error) {
	ctx := cmd.Context()
	kind := kindOf(f.output)
	if f.kind != "" {
		if kind, err = format.ParseKind(f.kind); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
	}
	if a, err := os.Stat(in); err == nil {
		if b, err := os.Stat(f.output); err == nil && os.SameFile(a, b) {
			return fmt.Errorf("%s and %s are one file", in, f.output)
		}
	}
	c := repack.Changes{Parameters: image.SplitCmdline(f.parameters), Unsigned: f.unsigned}
	signer, err := openSigner(f.unsigned)
	if err != nil {
		return err
	}
	c.Sign = signer.EFI()
	if f.files == nil && f.caBundle+f.rootJSON+f.parameters == "" && f.addons == nil && c.Sign == nil && !c.Unsigned {
		return errors.New("nothing is to change: give --file, --ca-bundle, --root-json, --kernel-parameters, --addon, --unsigned, or keys in [signing] of the user's configuration")
	}
	for _, name := range f.addons {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		base := filepath.Base(name)
		if !strings.HasSuffix(base, image.AddonEnding) {
			return fmt.Errorf("--addon %s: its name must end in %s", name, image.AddonEnding)
		}
		c.Addons = append(c.Addons, fat.File{Path: base, Data: data})
	}
	for _, arg := range f.files {
		dest, source, ok := strings.Cut(arg, "=")
		clean := strings.TrimPrefix(dest, "/")
		if !ok || !filepath.IsLocal(clean) || path.Clean(clean) != clean || clean == "." {
			return fmt.Errorf("--file %s: want DEST=SOURCE, where DEST is a path from the root without . and ..", arg)
		}
		change := erofs.Change{Path: clean}
		if source != "" {
			content, err := openSource(&change, source)
			if err != nil {
				return fmt.Errorf("--file %s: %w", dest, err)
			}
			defer content.Close()
		}
		c.Files = append(c.Files, change)
	}
	return withDisk(ctx, in, func(d *format.Disk) error {
		for _, one := range f.wellKnown() {
			if one.source == "" {
				continue
			}
			change, err := one.change(d)
			if err != nil {
				return fmt.Errorf("%s %s: %w", one.flag, one.source, err)
			}
			c.Files = append(c.Files, change)
		}
		return f.write(ctx, cmd.OutOrStdout(), d, kind, c, signer)
	})
}

// openSource opens the new content of a file, which stays open for the change.
func openSource(c *erofs.Change, source string) (*os.File, error) {
	src, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	st, err := src.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", source)
	}
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	c.Content, c.Executable = io.NewSectionReader(src, 0, st.Size()), st.Mode()&0o100 != 0
	return src, nil
}

// wellKnown is a file that images have somewhere.
type wellKnown struct {
	flag, source string
	names        []string
	check        func([]byte) error
}

func (f *repackFlags) wellKnown() []wellKnown {
	return []wellKnown{
		{"--ca-bundle", f.caBundle, []string{"ca-certificates.crt", "ca-bundle.crt", "ca-bundle.pem", "tls-ca-bundle.pem"}, checkBundle},
		{"--root-json", f.rootJSON, []string{"root.json"}, checkRootJSON},
	}
}

// change finds the one file of the root with one of the names.
func (w wellKnown) change(d *format.Disk) (c erofs.Change, err error) {
	data, err := os.ReadFile(w.source)
	if err != nil {
		return c, err
	}
	if err := w.check(data); err != nil {
		return c, err
	}
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		return c, err
	}
	files, err := repack.List(u.Root)
	if err != nil {
		return c, fmt.Errorf("root file system: %w", err)
	}
	var found []string
	for _, file := range files {
		if slices.Contains(w.names, path.Base(file.Path)) {
			found = append(found, "/"+file.Path)
		}
	}
	if len(found) != 1 {
		return c, fmt.Errorf("the image has %d files named %s, want one: say which with --file; there are: %s", len(found), strings.Join(w.names, " or "), strings.Join(append(found, ""), " "))
	}
	return erofs.Change{Path: found[0][1:], Content: io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))}, nil
}

func checkBundle(data []byte) error {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %s, want certificates alone", block.Type)
		}
		n++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n, err)
		}
	}
	if n == 0 {
		return errors.New("holds no certificate in PEM")
	}
	return nil
}

func checkRootJSON(data []byte) error {
	var root struct {
		Signed struct {
			Type string `json:"_type"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(data, &root); err != nil {
		return err
	}
	if root.Signed.Type != "root" {
		return fmt.Errorf(`is TUF metadata of type %q, want "root"`, root.Signed.Type)
	}
	return nil
}

// kindOf is the format whose files end as the name does.
func kindOf(name string) format.Kind {
	best := format.Raw
	for _, k := range format.Kinds() {
		if strings.HasSuffix(name, k.Extension()) && (len(k.Extension()) > len(best.Extension()) || !strings.HasSuffix(name, best.Extension())) {
			best = k
		}
	}
	return best
}

// write makes the new image, and then what lies beside it.
func (f *repackFlags) write(ctx context.Context, w io.Writer, d *format.Disk, kind format.Kind, c repack.Changes, signer *build.Signer) (err error) {
	raw, err := os.CreateTemp(filepath.Dir(f.output), "."+filepath.Base(f.output)+".*")
	if err != nil {
		return err
	}
	defer func() {
		raw.Close()
		if rerr := os.Remove(raw.Name()); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	report, err := repack.Write(ctx, d, c, raw)
	if err != nil {
		return err
	}
	made, err := format.OpenRaw(raw.Name())
	if err != nil {
		return err
	}
	defer made.Close()
	stem := strings.TrimSuffix(f.output, kind.Extension())
	if kind == format.Raw {
		err = errors.Join(raw.Chmod(0o644), os.Rename(raw.Name(), f.output))
	} else {
		o := format.Options{Name: filepath.Base(stem), Version: report.Version, Seed: report.Hash.String(), Time: time.Unix(0, 0)}
		err = format.Convert(ctx, kind, made, f.output, o)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(w, f.output)
	if report.Slots > 1 {
		paths, err := signer.WriteUpdate(ctx, made, stem)
		if err != nil {
			return err
		}
		for _, path := range paths {
			fmt.Fprintln(w, path)
		}
	}
	fmt.Fprintf(w, "root hash: %s\n", report.Hash)
	return nil
}
