package sbom

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"slipway/internal/rpm"
)

// MediaPrograms is the media type of what RPMs of one build ship of Go: a JSON
// object from file names of RPMs to lists of Program.
const MediaPrograms = "application/vnd.slipway.go-programs.v1+json"

// Program is a Go program, or a library that Go made, in an RPM.
type Program struct {
	Path    string   `json:"path"`              // absolute, in the image
	Go      string   `json:"go"`                // version of the toolchain and standard library, "1.26.8"
	Main    Module   `json:"main,omitzero"`     // of which it is built
	Modules []Module `json:"modules,omitempty"` // that are linked into it, sorted
}

// Module is a Go module by path and version (https://go.dev/ref/mod#versions).
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"` // empty where Go did not know it
}

// ReadPrograms reads the Go build info of every program in a binary RPM, sorted by
// path. What has none that can be read is not listed.
func ReadPrograms(path string) ([]Program, error) {
	var list []Program
	err := rpm.Files(path, func(f rpm.File, content io.Reader) error {
		if !f.Mode.IsRegular() {
			return nil
		}
		head := make([]byte, headSize)
		_, err := io.ReadFull(content, head)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || rpm.IsLink(err) {
			return nil
		}
		if err == nil && !linked(head) {
			return nil
		}
		file := bytes.NewBuffer(head)
		if err == nil {
			_, err = io.Copy(file, content)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if p, ok := program(f.Path, file.Bytes()); ok {
			list = append(list, p)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Program) int { return strings.Compare(a.Path, b.Path) })
	return list, err
}

// headSize is how many bytes linked looks at.
const headSize = 18

// linked tells by the first bytes whether a file is an ELF program or shared object.
func linked(head []byte) bool {
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	kind := elf.Type(order.Uint16(head[16:]))
	return kind == elf.ET_EXEC || kind == elf.ET_DYN
}

func program(path string, content []byte) (p Program, ok bool) {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return p, false
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ") // experiments may follow
	p = Program{Path: path, Go: version, Main: module(&info.Main)}
	for _, d := range info.Deps {
		p.Modules = append(p.Modules, module(d))
	}
	slices.SortFunc(p.Modules, func(a, b Module) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version)) })
	return p, true
}

// module is what was really linked. What a folder stands for keeps its name, of an
// unknown version.
func module(m *debug.Module) Module {
	if m.Replace != nil {
		if m.Replace.Version == "" {
			return Module{Path: m.Path}
		}
		m = m.Replace
	}
	if m.Version == "(devel)" {
		return Module{Path: m.Path}
	}
	return Module{Path: m.Path, Version: m.Version}
}
