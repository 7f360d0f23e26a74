package inspect

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// InventoryFile is the name of the list of packages beside an image.
const InventoryFile = "inventory.json"

// Package is one package of an image, as its inventory lists it.
type Package struct {
	Name    string `json:"name"`
	Epoch   int    `json:"epoch"`
	Version string `json:"version"`
	Release string `json:"release"`
	Arch    string `json:"arch"`
	Size    int64  `json:"size"` // installed, bytes
}

// EVR is epoch, version and release as RPM writes them.
func (p Package) EVR() string {
	evr := p.Version + "-" + p.Release
	if p.Epoch != 0 {
		return fmt.Sprintf("%d:%s", p.Epoch, evr)
	}
	return evr
}

// Inventory reads the list of packages beside an image, sorted by name. Without
// one the error wraps fs.ErrNotExist.
func Inventory(image string) ([]Package, error) {
	path := filepath.Join(filepath.Dir(image), InventoryFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list struct {
		Packages []Package `json:"packages"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	slices.SortFunc(list.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.EVR(), b.EVR()))
	})
	return list.Packages, nil
}

// PackageChange is a package that two images do not have alike.
type PackageChange struct {
	Name string `json:"name"`
	// A and B are epoch, version and release; empty where that image does not
	// have the package.
	A string `json:"a,omitempty"`
	B string `json:"b,omitempty"`
	// SizeA and SizeB are installed sizes in bytes.
	SizeA int64 `json:"sizeA"`
	SizeB int64 `json:"sizeB"`
}

// PackageChanges compares the inventories beside two images: packages that were
// added, removed, or have another version or size, those that change the size
// most first. Packages are told apart by name; of several with one name, the
// first goes with the first. ok is false where one image has no inventory.
func PackageChanges(imageA, imageB string) (changes []PackageChange, ok bool, err error) {
	a, errA := Inventory(imageA)
	b, errB := Inventory(imageB)
	if errors.Is(errA, fs.ErrNotExist) || errors.Is(errB, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err := errors.Join(errA, errB); err != nil {
		return nil, false, err
	}
	changes = []PackageChange{}
	for len(a)+len(b) > 0 {
		var c PackageChange
		if len(b) == 0 || len(a) > 0 && a[0].Name <= b[0].Name {
			c.Name, c.A, c.SizeA = a[0].Name, a[0].EVR(), a[0].Size
			a = a[1:]
		}
		if len(b) > 0 && (c.Name == b[0].Name || c.Name == "") {
			c.Name, c.B, c.SizeB = b[0].Name, b[0].EVR(), b[0].Size
			b = b[1:]
		}
		if c.A != c.B || c.SizeA != c.SizeB {
			changes = append(changes, c)
		}
	}
	slices.SortStableFunc(changes, func(a, b PackageChange) int {
		return cmp.Compare(abs(b.SizeB-b.SizeA), abs(a.SizeB-a.SizeA))
	})
	return changes, true, nil
}

func abs(n int64) int64 { return max(n, -n) }
