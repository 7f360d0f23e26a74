package format

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"text/template"
)

// hardwareVersion is that of the machine: ESXi 6.7 U2 and all later ones.
const hardwareVersion = 15

// controllers and networks are resource types of CIM and subtypes of VMware.
var (
	controllers = map[Controller]device{
		AHCI:   {"SATA controller", 20, "vmware.sata.ahci"},
		NVMe:   {"NVMe controller", 20, "vmware.nvme.controller"},
		PVSCSI: {"SCSI controller", 6, "VirtualSCSI"},
	}
	networks = map[Network]device{
		E1000E:  {"Network adapter", 10, "E1000e"},
		VMXNET3: {"Network adapter", 10, "VmxNet3"},
	}
)

type device struct {
	Name    string
	Type    int
	Subtype string
}

// All values that go into the descriptor are numbers or names in nameForm, so
// that nothing needs to be escaped.
//
//go:embed ova.ovf.tmpl
var descriptorText string

var descriptor = sync.OnceValue(func() *template.Template { return template.Must(template.New("ovf").Parse(descriptorText)) })

// ovaDisk is a disk in an OVA: the part of the descriptor that is about it, and the
// content of its file.
type ovaDisk struct {
	N              int // counted from 1
	File           string
	Size, Capacity int64
	Address, Item  int // on the controller, and the number of the item

	content *os.File
}

// writeOVA makes the archive in the order that DSP0243 1.1, section 5.3, wants:
// descriptor, manifest, then the files in the order of the references. The disks,
// that of the system first, come last but are written first, to files beside the
// archive, as the other two hold their sizes and digests.
func writeOVA(ctx context.Context, w *os.File, src *Disk, o Options) (err error) {
	stem := o.stem()
	disks := []*ovaDisk{{N: 1, File: stem + ".vmdk", Capacity: src.size, Item: 4}}
	sources := []*Disk{src}
	if o.Data != nil {
		disks = append(disks, &ovaDisk{N: 2, File: stem + "-data.vmdk", Capacity: o.Data.size, Address: 1, Item: 6})
		sources = append(sources, o.Data)
	}
	for i, d := range disks {
		if d.content, err = os.CreateTemp(filepath.Dir(w.Name()), ".vmdk-*"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.content.Close()) }()
		if err := os.Remove(d.content.Name()); err != nil {
			return err
		}
		of := o
		if i > 0 {
			of.Seed += "-data"
		}
		if err := writeVMDK(ctx, d.content, sources[i], of); err != nil {
			return err
		}
		if d.Size, err = d.content.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	var ovf bytes.Buffer
	if err := descriptor().Execute(&ovf, map[string]any{
		"Options": o, "Disks": disks,
		"Controller": controllers[o.Controller], "Network": networks[o.Network], "Hardware": hardwareVersion,
	}); err != nil {
		return err
	}
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\n", stem, sha256.Sum256(ovf.Bytes()))
	for _, d := range disks {
		digest, err := digestOf(ctx, io.NewSectionReader(d.content, 0, d.Size))
		if err != nil {
			return err
		}
		manifest += fmt.Sprintf("SHA256(%s)= %s\n", d.File, digest)
	}

	buffered := bufio.NewWriterSize(w, mib)
	out := tar.NewWriter(buffered)
	add := func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: o.Time, Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(out, ctxReader{ctx, r})
		return err
	}
	if err := errors.Join(add(stem+".ovf", int64(ovf.Len()), &ovf), add(stem+".mf", int64(len(manifest)), strings.NewReader(manifest))); err != nil {
		return err
	}
	for _, d := range disks {
		if err := add(d.File, d.Size, io.NewSectionReader(d.content, 0, d.Size)); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), buffered.Flush())
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func digestOf(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, ctxReader{ctx, r}, make([]byte, mib)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// openOVA returns the part of the archive that is its first disk, which is that of
// the system, and a check of all digests in its manifest.
func openOVA(f io.ReaderAt, fileSize int64) (system *io.SectionReader, check func(context.Context) error, err error) {
	files := map[string]*io.SectionReader{}
	var disk string
	var manifests []string
	section := io.NewSectionReader(f, 0, fileSize)
	for r := tar.NewReader(section); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		// A sparse file would be stored in another form.
		if h.Typeflag != tar.TypeReg || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
			return nil, nil, fmt.Errorf("%q is not a regular file", h.Name)
		}
		if _, ok := files[h.Name]; ok || len(files) == 64 {
			return nil, nil, fmt.Errorf("%q: there are two of that name, or more than 64 files", h.Name)
		}
		// Next has read the header and nothing behind it.
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, nil, err
		}
		if h.Size > fileSize-at {
			return nil, nil, fmt.Errorf("%q: %w", h.Name, io.ErrUnexpectedEOF)
		}
		files[h.Name] = io.NewSectionReader(f, at, h.Size)
		switch strings.ToLower(path.Ext(h.Name)) {
		case ".vmdk":
			disk = cmp.Or(disk, h.Name)
		case ".mf":
			manifests = append(manifests, h.Name)
		}
	}
	if disk == "" {
		return nil, nil, errors.New("it holds no file *.vmdk")
	}
	return files[disk], func(ctx context.Context) error {
		if len(manifests) != 1 {
			return fmt.Errorf("it holds %d manifests *.mf, want one", len(manifests))
		}
		return checkManifest(ctx, manifests[0], files)
	}, nil
}

var manifestLine = regexp.MustCompile(`^SHA256\s?\((.+)\)\s?=\s?([0-9A-Fa-f]{64})$`)

// checkManifest compares the digest of every file. The manifest itself and its
// signature have none.
func checkManifest(ctx context.Context, name string, files map[string]*io.SectionReader) error {
	text := make([]byte, min(files[name].Size(), mib))
	if n, err := files[name].ReadAt(text, 0); n < len(text) {
		return fmt.Errorf("%s: %w", name, noEOF(err))
	}
	listed := map[string]bool{name: true}
	for line := range strings.Lines(string(text)) {
		m := manifestLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			return fmt.Errorf("%s: line %q is not of the form SHA256(file)= digest", name, strings.TrimSpace(line))
		}
		f, ok := files[m[1]]
		if !ok {
			return fmt.Errorf("%s: there is no file %q", name, m[1])
		}
		got, err := digestOf(ctx, io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			return err
		}
		if !strings.EqualFold(got, m[2]) {
			return fmt.Errorf("%s: %q has SHA-256 digest %s, not %s", name, m[1], got, strings.ToLower(m[2]))
		}
		listed[m[1]] = true
	}
	for f := range files {
		if !listed[f] && path.Ext(f) != ".cert" {
			return fmt.Errorf("%s: file %q is not listed", name, f)
		}
	}
	return nil
}
