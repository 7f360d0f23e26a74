package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
	"slipway/internal/sign"
)

// Folders of the EFI system partition with programs that firmware or boot loader
// start.
const (
	dirBoot   = "EFI/BOOT/"
	dirLinux  = "EFI/Linux/"
	dirAddons = "loader/addons/"
)

// SignEFI makes the signed form of an EFI program, which is the file of a path on
// the EFI system partition.
type SignEFI func(ctx context.Context, path string, program []byte) ([]byte, error)

// SignWith signs for Secure Boot with a certificate and its key.
func SignWith(certificate *x509.Certificate, signer sign.Signer) SignEFI {
	return func(ctx context.Context, _ string, program []byte) ([]byte, error) {
		return authenticode.Sign(ctx, program, certificate, signer)
	}
}

func (s SignEFI) volume(ctx context.Context, esp *fat.Volume) error {
	if s == nil {
		return nil
	}
	for i, f := range esp.Files {
		if !isProgram(f.Path) {
			continue
		}
		signed, err := s(ctx, f.Path, f.Data)
		if err != nil {
			return fmt.Errorf("sign /%s: %w", f.Path, err)
		}
		esp.Files[i].Data = signed
	}
	return nil
}

func isProgram(path string) bool {
	return (strings.HasPrefix(path, dirBoot) || strings.HasPrefix(path, dirLinux) || strings.HasPrefix(path, dirAddons)) && strings.HasSuffix(strings.ToLower(path), ".efi")
}

// Programs gives the EFI programs of the disk image at path, raw, that Secure Boot
// has to know: boot loader and unified kernel images.
func Programs(path string) ([]fat.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, esp, err := openESP(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []fat.File
	for _, f := range esp.Files {
		if isProgram(f.Path) {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no EFI program in /%s or /%s", path, dirBoot, dirLinux)
	}
	return out, nil
}

// openESP finds the EFI system partition of a disk.
func openESP(f *os.File) (gpt.Entry, *fat.Volume, error) {
	st, err := f.Stat()
	if err != nil {
		return gpt.Entry{}, nil, err
	}
	table, _, err := gpt.Read(f, st.Size())
	if err != nil {
		return gpt.Entry{}, nil, err
	}
	for _, e := range table.Entries {
		if e.Type != gpt.TypeESP {
			continue
		}
		v, err := fat.ReadVolume(io.NewSectionReader(f, e.Start(), e.Size()))
		if err != nil {
			return e, nil, fmt.Errorf("EFI system partition: %w", err)
		}
		return e, v, nil
	}
	return gpt.Entry{}, nil, errors.New("no EFI system partition")
}

// Resign writes to out the raw disk image at path, with the EFI programs that
// sign makes of its own. A disk of Assemble becomes the same as if Assemble had
// signed it. The file out appears only when it is complete.
func Resign(ctx context.Context, path, out string, sign SignEFI) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	e, esp, err := openESP(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := sign.volume(ctx, esp); err != nil {
		return err
	}
	if need, err := esp.Need(e.Size()); err != nil {
		return err
	} else if need > e.Size() {
		return fmt.Errorf("the signed EFI file system has %d bytes, its partition %d: raise image-layout.esp-size-mib", need, e.Size())
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return create(out, st.Size(), func(to *os.File) error {
		behind := e.Start() + e.Size()
		if err := copySparse(ctx, to, io.NewSectionReader(f, 0, e.Start())); err != nil {
			return err
		}
		if err := esp.Write(io.NewOffsetWriter(to, e.Start()), e.Size()); err != nil {
			return err
		}
		if err := copySparse(ctx, io.NewOffsetWriter(to, behind), io.NewSectionReader(f, behind, st.Size()-behind)); err != nil {
			return err
		}
		return to.Sync()
	})
}
