package build

import (
	"bytes"
	"context"
	"errors"
	"os"

	"slipway/internal/image"
	"slipway/internal/image/format"
	"slipway/internal/image/inspect"
	"slipway/internal/image/verity"
	"slipway/internal/workspace"
)

// Signer signs disk images that are there already; nil signs nothing.
type Signer struct{ signing *signing }

// OpenSigner opens key and certificate of a user's configuration; nil where it has
// none.
func OpenSigner(s workspace.Signing) (*Signer, error) {
	signing, err := openSigning(s)
	if signing == nil || err != nil {
		return nil, err
	}
	return &Signer{signing}, nil
}

// EFI signs EFI programs; nil where nothing signs.
func (s *Signer) EFI() image.SignEFI {
	if s == nil {
		return nil
	}
	return s.signing.signer()
}

// WriteUpdate writes what an update takes from a disk beside it, with the signature
// of the root hash where something signs, and gives the paths: stem with the
// endings that builds have.
func (s *Signer) WriteUpdate(ctx context.Context, d *format.Disk, stem string) ([]string, error) {
	u, err := inspect.ReadUpdate(d)
	if err != nil {
		return nil, err
	}
	paths := []string{stem + endRoot, stem + endHash, stem + endUKI}
	err = errors.Join(writeFile(ctx, paths[0], u.Root), writeFile(ctx, paths[1], u.Hash), writeFile(ctx, paths[2], bytes.NewReader(u.UKI)))
	if err != nil {
		return nil, err
	}
	signature := []string{stem + verity.HashEnding, stem + verity.SignatureEnding}
	if s != nil {
		paths, err = append(paths, signature...), s.signing.writeRootHash(ctx, stem, u.RootHash)
	} else { // of what was here before
		err = errors.Join(os.RemoveAll(signature[0]), os.RemoveAll(signature[1]))
	}
	for _, path := range paths {
		if err == nil {
			err = os.Chmod(path, 0o644)
		}
	}
	return paths, err
}
