package imagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"slipway/internal/image"
	"slipway/internal/image/verity"
)

// RootInputs is Inputs with a root that is a file system of a kind, erofs or ext4, with
// some files by their paths, and with a stub that says it has a version of systemd.
func RootInputs(dir, kind, version, systemd string, files map[string]string) (image.Inputs, error) {
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
	var times strings.Builder // mke2fs takes over those of the files here
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		for _, field := range []string{"atime", "ctime", "mtime"} {
			fmt.Fprintf(&times, "sif /%s %s @1700000000\n", strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), field)
		}
		return err
	})
	script := filepath.Join(dir, "times")
	if err := errors.Join(err, os.WriteFile(script, []byte(times.String()), 0o600)); err != nil {
		return in, err
	}
	const id = "00000000-0000-8000-8000-000000000000"
	in.RootType = kind
	for _, args := range map[string][][]string{
		"erofs": {{"mkfs.erofs", "--quiet", "-zlz4hc,9", "-C65536", "-T1700000000", "--all-root", "-U" + id, in.Root, root}},
		"ext4": {{"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-N", "256", "-m", "0", "-U", id, "-E", "root_owner=0:0,hash_seed=" + id,
			"-O", "none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,metadata_csum,sparse_super", "-d", root, in.Root, "2048"},
			{"debugfs", "-w", "-f", script, in.Root}, {"resize2fs", "-M", in.Root}},
	}[kind] {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			return in, fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	data, err := os.ReadFile(in.Root)
	if err != nil {
		return in, err
	}
	tree, hash, err := verity.Format(context.Background(), bytes.NewReader(data), verity.Superblock{DataBlocks: uint64(len(data) / verity.BlockSize), Salt: []byte{0, 0xff}})
	in.RootHash = hash
	return in, errors.Join(err, os.WriteFile(in.Hash, tree, 0o600))
}
