package inspect

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/provenance"
	"slipway/internal/sbom"
	"slipway/internal/sign"
)

// Documents is what the files beside a disk image say of it.
type Documents struct {
	// SBOMs are the bills of materials, by file name.
	SBOMs []SBOM
	// Provenance is the file name of the provenance; "" where there is none.
	Provenance string
	// Matched and Absent are how many of the files that the provenance names lie
	// beside the image as they were made, and how many do not lie there.
	Matched, Absent int
	// SignedBy are the keys that the provenance says it is signed with; only where
	// a key was given is it known to be so.
	SignedBy []string
}

// SBOM is a bill of materials beside an image.
type SBOM struct {
	File   string
	Format string // see sbom.List
	RPMs   int
	// Compared tells whether there was an inventory to compare with.
	Compared bool
}

// VerifyDocuments checks what lies beside a disk image, without reading the disk
// itself as one:
//
//   - each bill of materials lists the same packages as the inventory;
//   - the provenance names the image by its digest, as every other file that it
//     names and that is there, and names the bills of materials;
//   - it is signed with the key, where key is not nil; then it must be there.
//
// What is not there is not checked. The error is one of reading, not a finding.
func VerifyDocuments(ctx context.Context, image string, key crypto.PublicKey) (*Documents, []Finding, error) {
	v := &documents{ctx: ctx, dir: filepath.Dir(image), image: filepath.Base(image)}
	v.base = stem(v.image)
	for _, end := range []string{sbom.EndSPDX, sbom.EndCycloneDX} {
		if err := v.sbom(v.base+end, image); err != nil {
			return nil, nil, err
		}
	}
	return &v.Documents, v.findings, v.provenance(key)
}

// documents collects findings.
type documents struct {
	Documents
	ctx         context.Context
	dir         string
	image, base string // name of the image, and without its ending
	findings    []Finding
}

func (v *documents) add(where, what string, a ...any) {
	v.findings = append(v.findings, Finding{where, fmt.Sprintf(what, a...)})
}

func (v *documents) sbom(name, image string) error {
	data, err := os.ReadFile(filepath.Join(v.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := sbom.Read(data)
	if err != nil {
		v.add(name, "%v", err)
		v.SBOMs = append(v.SBOMs, SBOM{File: name})
		return nil
	}
	s := SBOM{File: name, Format: list.Format, RPMs: len(list.RPMs)}
	if list.Name != v.base {
		v.add(name, "it is the bill of materials of %q", list.Name)
	}
	inventory, err := Inventory(image)
	switch {
	case err == nil:
		s.Compared = true
		there := map[sbom.RPM]int{}
		for _, p := range inventory {
			there[sbom.RPM{Name: p.Name, EVR: p.EVR(), Arch: p.Arch}]++
		}
		for _, r := range list.RPMs {
			if there[r]--; there[r] < 0 {
				v.add(name, "it lists %s, which %s does not have", r, InventoryFile)
			}
		}
		for _, p := range inventory {
			r := sbom.RPM{Name: p.Name, EVR: p.EVR(), Arch: p.Arch}
			if there[r] > 0 {
				there[r] = 0
				v.add(name, "it does not list %s, which %s has", r, InventoryFile)
			}
		}
	case !errors.Is(err, fs.ErrNotExist):
		v.add(InventoryFile, "%v", err)
	}
	v.SBOMs = append(v.SBOMs, s)
	return nil
}

func (v *documents) provenance(key crypto.PublicKey) error {
	file, err := v.findProvenance(key != nil)
	if file == nil {
		return err
	}
	v.SignedBy = file.KeyIDs
	if key != nil {
		switch err := file.Verify(v.ctx, key); {
		case errors.Is(err, provenance.ErrUnsigned), errors.Is(err, sign.ErrSignature):
			v.add(v.Provenance, "%v", err)
			return nil // then it says nothing
		case err != nil:
			return err
		}
	}
	named := map[string]bool{}
	for _, s := range file.Statement.Subject {
		named[s.Name] = true
		sum, err := Digest(v.ctx, filepath.Join(v.dir, s.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			v.Absent++
		case err != nil:
			return err
		case sum != s.Digest["sha256"]:
			v.add(s.Name, "its sha256 is %s, %s says %s", sum, v.Provenance, s.Digest["sha256"])
		default:
			v.Matched++
		}
	}
	for _, name := range append([]string{v.image}, v.sbomNames()...) {
		if !named[name] {
			v.add(v.Provenance, "it does not name %s", name)
		}
	}
	return nil
}

func (v *documents) sbomNames() (names []string) {
	for _, s := range v.SBOMs {
		names = append(names, s.File)
	}
	return names
}

// findProvenance reads the provenance beside the image; nil where there is none or
// it cannot be read, which is a finding. One that is not signed does not count
// beside one that is.
func (v *documents) findProvenance(needed bool) (*provenance.File, error) {
	for _, end := range []string{provenance.EndSigned, provenance.EndUnsigned} {
		name := v.base + end
		data, err := os.ReadFile(filepath.Join(v.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v.Provenance = name
		f, err := provenance.Parse(data)
		if err != nil {
			v.add(name, "%v", err)
			return nil, nil
		}
		if len(f.KeyIDs) == 0 && end == provenance.EndSigned {
			v.add(name, "%v, though its name says so", provenance.ErrUnsigned)
			return nil, nil
		}
		return f, nil
	}
	if needed {
		v.add(v.image, "there is no %s beside it, so nothing is signed", v.base+provenance.EndSigned)
	}
	return nil, nil
}

// Digest is the SHA-256 of a file, 64 hexadecimal digits. Holes, of which disks are
// full, are not read.
func Digest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h, zeros := sha256.New(), make([]byte, 1<<16)
	for at, size := int64(0), info.Size(); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // there is a hole up to the end
			data, err = size, nil
		}
		if err != nil {
			return "", err
		}
		for ; at < data; at += min(int64(len(zeros)), data-at) {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			h.Write(zeros[:min(int64(len(zeros)), data-at)])
		}
		if data == size {
			break
		}
		if at, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return "", err
		}
		if _, err := io.CopyBuffer(h, &interrupted{ctx, io.NewSectionReader(f, data, at-data)}, make([]byte, 1<<16)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// interrupted is a reader that ends with its context.
type interrupted struct {
	ctx context.Context
	r   io.Reader
}

func (i *interrupted) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// Lines are what was checked, one line each, for people.
func (d *Documents) Lines(checkedKey bool) []string {
	var lines []string
	for _, s := range d.SBOMs {
		line := fmt.Sprintf("%s: %s, packages: %d", s.File, s.Format, s.RPMs)
		if s.Compared {
			line += ", those of " + InventoryFile
		} else {
			line += ", not compared: there is no " + InventoryFile + " beside it"
		}
		lines = append(lines, line)
	}
	if d.Provenance == "" {
		return lines
	}
	line := fmt.Sprintf("%s: files that match: %d", d.Provenance, d.Matched)
	if d.Absent > 0 {
		line += fmt.Sprintf(", not here: %d", d.Absent)
	}
	switch {
	case len(d.SignedBy) == 0:
		line += ", not signed"
	case checkedKey:
		line += ", signed by the key"
	default:
		line += ", signature by " + strings.Join(d.SignedBy, ", ") + " not checked: give --key"
	}
	return append(lines, line)
}
