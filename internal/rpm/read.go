package rpm

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sassoftware/go-rpmutils"
)

// ReadFile reads the metadata of the binary RPM at path.
func ReadFile(path string) (*Metadata, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Read reads the metadata of a binary RPM, from its headers; it may read on a
// little into the payload. A header that does not match its digest, a damaged one
// and a source RPM are errors.
func Read(r io.Reader) (m *Metadata, err error) {
	data, err := headers(bufio.NewReader(r))
	if err != nil {
		return nil, err
	}
	// The library checks the digest, but not every offset in a header.
	defer func() {
		if p := recover(); p != nil {
			re, ok := p.(runtime.Error)
			if !ok {
				panic(p)
			}
			m, err = nil, fmt.Errorf("the RPM's header is damaged: %w", re)
		}
	}()
	h, err := rpmutils.ReadHeader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the RPM's header cannot be read: %w", err)
	}
	return metadata(h)
}

// Sizes in bytes. rpm itself accepts no larger headers; see hdrblobRead in its
// lib/header.c.
const (
	leadSize       = 96
	introSize      = 16
	entrySize      = 16
	maxHeader      = 256 << 20
	maxEntries     = 0xffff
	maxPath        = 4096 // PATH_MAX
	maxTotalOfPath = 64 << 20
)

// headers copies lead, signature header and header, checking the lengths they
// claim, so that memory is taken only for what is really there.
func headers(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	take := func(n int64, what string) ([]byte, error) {
		start := b.Len()
		if _, err := io.CopyN(&b, r, n); err != nil {
			if errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("not an RPM, or cut off: it ends within the %s", what)
			}
			return nil, err
		}
		return b.Bytes()[start:], nil
	}
	lead, err := take(leadSize, "lead")
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(lead, []byte("\xed\xab\xee\xdb")) {
		return nil, errors.New("not an RPM")
	}
	for _, what := range [...]string{"signature", "header"} {
		intro, err := take(introSize, what)
		if err != nil {
			return nil, err
		}
		entries, size := int64(binary.BigEndian.Uint32(intro[8:])), int64(binary.BigEndian.Uint32(intro[12:]))
		if entries > maxEntries || size > maxHeader {
			return nil, fmt.Errorf("the RPM's %s is damaged: %d entries and %d bytes are more than rpm allows", what, entries, size)
		}
		if what == "signature" {
			size = (size + 7) &^ 7
		}
		if _, err := take(entries*entrySize+size, what); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// metadata takes the tags apart.
func metadata(h *rpmutils.RpmHeader) (*Metadata, error) {
	if !h.HasTag(rpmutils.SOURCERPM) {
		return nil, errors.New("this is a source RPM: a binary RPM is needed")
	}
	m := new(Metadata)
	for _, t := range [...]struct {
		to   *string
		tag  int
		name string
	}{
		{&m.Name, rpmutils.NAME, "Name"},
		{&m.Version, rpmutils.VERSION, "Version"},
		{&m.Release, rpmutils.RELEASE, "Release"},
		{&m.Arch, rpmutils.ARCH, "Arch"},
		{&m.SourceRPM, rpmutils.SOURCERPM, "SourceRPM"},
	} {
		s, err := h.GetString(t.tag)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		if s == "" || !utf8.ValidString(s) || strings.ContainsAny(s, blanks) {
			return nil, fmt.Errorf("%s: %q is not valid", t.name, s)
		}
		*t.to = s
	}
	if h.HasTag(rpmutils.EPOCH) {
		epoch, err := h.GetUint32s(rpmutils.EPOCH)
		if err != nil {
			return nil, fmt.Errorf("Epoch: %w", err)
		}
		if len(epoch) != 1 {
			return nil, fmt.Errorf("Epoch: %d values instead of one", len(epoch))
		}
		m.Epoch = epoch[0]
	}
	for _, t := range [...]struct {
		to                    *[]Dep
		name                  string
		names, flags, version int
	}{
		{&m.Provides, "Provides", rpmutils.PROVIDENAME, rpmutils.PROVIDEFLAGS, rpmutils.PROVIDEVERSION},
		{&m.Requires, "Requires", rpmutils.REQUIRENAME, rpmutils.REQUIREFLAGS, rpmutils.REQUIREVERSION},
		{&m.Conflicts, "Conflicts", rpmutils.CONFLICTNAME, rpmutils.CONFLICTFLAGS, rpmutils.CONFLICTVERSION},
		{&m.Obsoletes, "Obsoletes", rpmutils.OBSOLETENAME, rpmutils.OBSOLETEFLAGS, rpmutils.OBSOLETEVERSION},
	} {
		deps, err := dependencies(h, t.names, t.flags, t.version)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		*t.to = deps
	}
	var err error
	if m.Files, err = primaryFiles(h); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	return m, nil
}

// Bits of a dependency's flags, RPMSENSE_… in rpm's rpmds.h.
const (
	senseLess    = 1 << 1
	senseGreater = 1 << 2
	senseEqual   = 1 << 3
)

var comparisons = map[uint32]string{
	0:                         "",
	senseLess:                 "<",
	senseLess | senseEqual:    "<=",
	senseEqual:                "=",
	senseGreater | senseEqual: ">=",
	senseGreater:              ">",
}

func dependencies(h *rpmutils.RpmHeader, nameTag, flagsTag, versionTag int) ([]Dep, error) {
	if !h.HasTag(nameTag) {
		return nil, nil
	}
	names, err := h.GetStrings(nameTag)
	if err != nil {
		return nil, err
	}
	flags, err := h.GetUint32s(flagsTag)
	if err != nil {
		return nil, err
	}
	versions, err := h.GetStrings(versionTag)
	if err != nil {
		return nil, err
	}
	if len(flags) != len(names) || len(versions) != len(names) {
		return nil, fmt.Errorf("%d names, %d flags and %d versions", len(names), len(flags), len(versions))
	}
	var deps []Dep
	for i, name := range names {
		if strings.HasPrefix(name, "rpmlib(") {
			continue
		}
		d := Dep{Name: name}
		if !d.Rich() {
			sense, ok := comparisons[flags[i]&(senseLess|senseGreater|senseEqual)]
			if !ok {
				return nil, fmt.Errorf("%q: flags %#x are no comparison", name, flags[i])
			}
			if d.Cmp = sense; sense != "" {
				d.EVR = versions[i]
			}
		}
		if !utf8.ValidString(d.Name) || !utf8.ValidString(d.EVR) {
			return nil, fmt.Errorf("%q is not UTF-8", d.String())
		}
		if err := d.check(); err != nil {
			return nil, err
		}
		deps = append(deps, d)
	}
	slices.SortFunc(deps, func(a, b Dep) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Cmp, b.Cmp), strings.Compare(a.EVR, b.EVR))
	})
	return slices.Compact(deps), nil
}

// primaryFiles lists the files that primary.xml lists, but none whose path is not
// UTF-8, which no dependency can name.
func primaryFiles(h *rpmutils.RpmHeader) ([]string, error) {
	if !h.HasTag(rpmutils.BASENAMES) {
		return nil, nil
	}
	names, err := h.GetStrings(rpmutils.BASENAMES)
	if err != nil {
		return nil, err
	}
	dirs, err := h.GetStrings(rpmutils.DIRNAMES)
	if err != nil {
		return nil, err
	}
	indexes, err := h.GetUint32s(rpmutils.DIRINDEXES)
	if err != nil {
		return nil, err
	}
	if len(indexes) != len(names) {
		return nil, fmt.Errorf("%d names in %d folders", len(names), len(indexes))
	}
	var files []string
	total := 0
	for i, name := range names {
		if int64(indexes[i]) >= int64(len(dirs)) {
			return nil, fmt.Errorf("%q is in folder %d of %d", name, indexes[i], len(dirs))
		}
		dir := dirs[indexes[i]]
		// A header of some bytes can make paths of many gigabytes.
		if len(dir)+len(name) > maxPath {
			return nil, fmt.Errorf("a path of %d bytes is longer than %d", len(dir)+len(name), maxPath)
		}
		if path := dir + name; primary(path) && utf8.ValidString(path) {
			if total += len(path); total > maxTotalOfPath {
				return nil, fmt.Errorf("the paths are longer than %d bytes in total", maxTotalOfPath)
			}
			files = append(files, path)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// primary is createrepo's rule for primary.xml.
func primary(path string) bool {
	return strings.HasPrefix(path, "/etc/") || strings.Contains(path, "bin/") || path == "/usr/lib/sendmail"
}
