// Package boot handles the unified kernel images on the EFI system partition,
// among which systemd-boot chooses, and what they say about the root file system.
// How boots are counted in file names is described in the UAPI group's
// "Automatic Boot Assessment" and "Boot Loader Specification".
package boot

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dinghy/internal/gpt"
	"dinghy/internal/verity"
	"dinghy/update"
)

// Uncounted is the Left of an image whose boots are not counted: it is good.
const Uncounted = -1

// Image is a unified kernel image as its file name tells it:
// <name>_<version>.efi, or <name>_<version>+<left>-<done>.efi.
type Image struct {
	Dir, File string
	Name      string
	Version   update.Version
	Left      int // boots that remain until it counts as bad; Uncounted
	Done      int // boots so far
}

var pattern = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9.-]*)_([0-9.]+)(?:\+([0-9]{1,6})(?:-([0-9]{1,6}))?)?\.efi$`)

// Parse reads a file name.
func Parse(file string) (i Image, ok bool) {
	m := pattern.FindStringSubmatch(file)
	if m == nil {
		return i, false
	}
	v, err := update.ParseVersion(m[2])
	if err != nil {
		return i, false
	}
	i = Image{File: file, Name: m[1], Version: v, Left: Uncounted}
	if m[3] != "" {
		i.Left, _ = strconv.Atoi(m[3]) // digits, and few
		i.Done, _ = strconv.Atoi(m[4])
	}
	return i, true
}

// Counted is the name of the image's file with this many boots left and none done.
func (i Image) Counted(left int) string {
	name := i.Name + "_" + i.Version.String()
	if left != Uncounted {
		name += fmt.Sprintf("+%d", left)
	}
	return name + ".efi"
}

// Path is the image's file.
func (i Image) Path() string { return filepath.Join(i.Dir, i.File) }

// Bad tells that the boot loader takes every other image first.
func (i Image) Bad() bool { return i.Left == 0 }

// List returns the images of a name in a folder in the order in which
// systemd-boot prefers them.
func List(dir, name string) ([]Image, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, e := range entries {
		if i, ok := Parse(e.Name()); ok && i.Name == name {
			i.Dir = dir
			images = append(images, i)
		}
	}
	slices.SortStableFunc(images, func(a, b Image) int {
		if a.Bad() != b.Bad() {
			if a.Bad() {
				return 1
			}
			return -1
		}
		return cmp.Or(b.Version.Compare(a.Version), strings.Compare(a.File, b.File))
	})
	return images, nil
}

// RootHash finds the root hash of the root file system in a kernel command
// line that sets it up with dm-mod.create, and checks that the line names the
// partitions by it.
func RootHash(cmdline string) (verity.RootHash, error) {
	_, table, ok := strings.Cut(cmdline, `dm-mod.create="root,`)
	table, _, end := strings.Cut(table, `"`)
	fields := strings.Fields(table)
	at := slices.Index(fields, "sha256")
	if !ok || !end || at < 0 || at+1 == len(fields) {
		return verity.RootHash{}, errors.New("the kernel command line has no dm-verity root (dm-mod.create)")
	}
	h, err := verity.ParseRootHash(fields[at+1])
	if err != nil {
		return h, fmt.Errorf("kernel command line: %w", err)
	}
	root, hash := PartitionGUIDs(h)
	for _, g := range []gpt.GUID{root, hash} {
		if !slices.Contains(fields, "PARTUUID="+g.String()) {
			return h, fmt.Errorf("the kernel command line does not name partition %s, which root hash %s asks for", g, h)
		}
	}
	return h, nil
}

// PartitionGUIDs are the halves of a root hash, by which its root and hash
// partition are found.
func PartitionGUIDs(h verity.RootHash) (root, hash gpt.GUID) {
	return gpt.GUID(h[:16]), gpt.GUID(h[16:])
}
