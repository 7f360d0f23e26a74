package format

import (
	"archive/tar"
	"bufio"
	"bytes"
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

var descriptor = template.Must(template.New("ovf").Parse(descriptorText))

// writeOVA makes the archive in the order that DSP0243 1.1, section 5.3, wants:
// descriptor, manifest, then the files in the order of the references. The
// disk comes last but is written first, to a file beside the archive, as the
// other two hold its size and digest.
func writeOVA(ctx context.Context, w *os.File, src *Disk, o Options) (err error) {
	disk, err := os.CreateTemp(filepath.Dir(w.Name()), ".vmdk-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	if err := os.Remove(disk.Name()); err != nil {
		return err
	}
	if err := writeVMDK(ctx, disk, src, o); err != nil {
		return err
	}
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	stem := o.stem()
	var ovf bytes.Buffer
	if err := descriptor.Execute(&ovf, map[string]any{
		"Options": o, "File": stem + ".vmdk", "FileSize": size, "Capacity": src.size,
		"Controller": controllers[o.Controller], "Network": networks[o.Network], "Hardware": hardwareVersion,
	}); err != nil {
		return err
	}
	digest, err := digestOf(ctx, io.NewSectionReader(disk, 0, size))
	if err != nil {
		return err
	}
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s.vmdk)= %s\n", stem, sha256.Sum256(ovf.Bytes()), stem, digest)

	buffered := bufio.NewWriterSize(w, mib)
	out := tar.NewWriter(buffered)
	for _, f := range []struct {
		extension string
		size      int64
		r         io.Reader
	}{
		{".ovf", int64(ovf.Len()), &ovf},
		{".mf", int64(len(manifest)), strings.NewReader(manifest)},
		{".vmdk", size, io.NewSectionReader(disk, 0, size)},
	} {
		h := &tar.Header{Name: stem + f.extension, Mode: 0o644, Size: f.size, ModTime: o.Time, Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, ctxReader{ctx, f.r}); err != nil {
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

// openOVA returns the part of the archive that is its disk, and a check of all
// digests in its manifest.
func openOVA(f io.ReaderAt, fileSize int64) (disk *io.SectionReader, check func(context.Context) error, err error) {
	files := map[string]*io.SectionReader{}
	var disks, manifests []string
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
			disks = append(disks, h.Name)
		case ".mf":
			manifests = append(manifests, h.Name)
		}
	}
	if len(disks) != 1 {
		return nil, nil, fmt.Errorf("it holds %d files *.vmdk, want one", len(disks))
	}
	return files[disks[0]], func(ctx context.Context) error {
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
