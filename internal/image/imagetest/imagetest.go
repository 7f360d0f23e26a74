// Package imagetest makes small disks for tests.
package imagetest

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	"slipway/internal/image"
	"slipway/internal/image/uki"
	"slipway/internal/image/verity"
)

// EFI makes the smallest EFI program that has room for more sections: one
// section with the given name and content.
func EFI(name, content string) []byte {
	const coff, opt, table, headers = 64, 88, 328, 1024
	b := make([]byte, headers+512)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[coff+6:], 1)
	le.PutUint16(b[coff+20:], table-opt)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+32:], 512)
	le.PutUint32(b[opt+36:], 512)
	le.PutUint32(b[opt+60:], headers)
	le.PutUint32(b[opt+108:], 16)
	copy(b[table:], name)
	le.PutUint32(b[table+8:], uint32(len(content)))
	le.PutUint32(b[table+12:], 4096)
	le.PutUint32(b[table+16:], 512)
	le.PutUint32(b[table+20:], headers)
	copy(b[headers:], content)
	return b
}

// Tree is the hash device of a root of at most 128 blocks, by the kernel's
// Documentation/admin-guide/device-mapper/verity.rst.
func Tree(root, salt []byte) (tree []byte, hash verity.RootHash) {
	tree = make([]byte, 2*verity.BlockSize)
	le := binary.LittleEndian
	copy(tree, "verity\x00\x00")
	le.PutUint32(tree[8:], 1)
	le.PutUint32(tree[12:], 1)
	copy(tree[16:], "\x11\x11\x11\x11\x22\x22\x83\x33\x84\x44\x55\x55\x55\x55\x55\x55")
	copy(tree[32:], "sha256")
	le.PutUint32(tree[64:], verity.BlockSize)
	le.PutUint32(tree[68:], verity.BlockSize)
	le.PutUint64(tree[72:], uint64(len(root)/verity.BlockSize))
	le.PutUint16(tree[80:], uint16(len(salt)))
	copy(tree[88:], salt)
	digest := func(block []byte) [sha256.Size]byte {
		return sha256.Sum256(append(append([]byte{}, salt...), block...))
	}
	for i := 0; i < len(root)/verity.BlockSize; i++ {
		sum := digest(root[i*verity.BlockSize : (i+1)*verity.BlockSize])
		copy(tree[verity.BlockSize+i*len(sum):], sum[:])
	}
	return tree, verity.RootHash(digest(tree[verity.BlockSize:]))
}

// Release makes the images of an update: a root of three blocks that holds a text, its
// hash tree, and a kernel image that boots it and has an os-release.
func Release(text, osRelease string) (root, tree, kernel []byte, err error) {
	root = make([]byte, 3*verity.BlockSize)
	copy(root, text)
	tree, hash := Tree(root, []byte{0, 0xff})
	super, err := verity.ReadSuperblock(bytes.NewReader(tree))
	if err != nil {
		return nil, nil, nil, err
	}
	line, err := image.Cmdline(nil, "erofs", hash, super, image.RestartOnCorruption)
	if err != nil {
		return nil, nil, nil, err
	}
	kernel, err = uki.Build(uki.Image{Stub: EFI(".sdmagic", "systemd-stub"), Kernel: EFI(".text", "kernel"), OSRelease: []byte(osRelease), Cmdline: line})
	return root, tree, kernel, err
}

// Inputs writes a set of parts into a folder: a root of three blocks, the middle
// one zero, whose third begins with the version.
func Inputs(dir, version string) (image.Inputs, error) {
	var errs []error
	write := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		errs = append(errs, os.WriteFile(p, data, 0o600))
		return p
	}
	root := make([]byte, 3*verity.BlockSize)
	copy(root, "first")
	copy(root[2*verity.BlockSize:], version)
	tree, hash := Tree(root, []byte{0, 0xff})
	in := image.Inputs{
		Arch: image.X86_64, Layout: image.Layout{ESPSizeMiB: 40, RootSizeMiB: 8, HashSizeMiB: 1, DataSizeMiB: 4, Slots: 2},
		Name: "testos", Version: version, Tries: 3,
		Root: write("root.erofs", root), Hash: write("root.verity", tree), RootHash: hash, RootType: "erofs",
		Kernel:    write("bzImage", EFI(".text", "kernel")),
		OSRelease: write("os-release", []byte("ID=testos\nPRETTY_NAME=\"Test \\\"OS\\\"\"\n# a comment\nVERSION_ID='"+version+"'\n")), Uname: "6.1.176",
		Stub: write("stub", EFI(".sdmagic", "systemd-stub")), BootLoader: write("loader", EFI(".text", "systemd-boot")),
		KernelParameters: []string{"console=ttyS0"}, OnCorruption: image.RestartOnCorruption, Time: time.Unix(1700000000, 0),
	}
	return in, errors.Join(errs...)
}
