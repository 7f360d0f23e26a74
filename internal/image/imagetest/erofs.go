package imagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"slipway/internal/image"
	"slipway/internal/image/verity"
)

// ErofsInputs is Inputs with a root that is an EROFS, made by mkfs.erofs, with some
// files by their paths, and with a stub that says it has a version of systemd.
func ErofsInputs(dir, version, systemd string, files map[string]string) (image.Inputs, error) {
	in, err := Inputs(dir, version)
	if err != nil {
		return in, err
	}
	root := filepath.Join(dir, "root")
	errs := []error{os.WriteFile(in.Stub, EFI(".sdmagic", "#### LoaderInfo: systemd-stub "+systemd+" ####\x00"), 0o600), os.Remove(in.Root)}
	for name, text := range files {
		path := filepath.Join(root, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return in, err
	}
	if out, err := exec.Command("mkfs.erofs", "--quiet", "-zlz4hc,9", "-C65536", "-T1700000000", "--all-root", "-U00000000-0000-8000-8000-000000000000", in.Root, root).CombinedOutput(); err != nil {
		return in, fmt.Errorf("mkfs.erofs: %w: %s", err, out)
	}
	data, err := os.ReadFile(in.Root)
	if err != nil {
		return in, err
	}
	tree, hash, err := verity.Format(context.Background(), bytes.NewReader(data), verity.Superblock{DataBlocks: uint64(len(data) / verity.BlockSize), Salt: []byte{0, 0xff}})
	in.RootHash = hash
	return in, errors.Join(err, os.WriteFile(in.Hash, tree, 0o600))
}
