package compare

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// openTar lists a tar archive of any format of archive/tar, but for sparse
// files.
func openTar(_ *comparison, b blob) (content, error) {
	var out content
	r := b.reader()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return content{}, err
		}
		m := member{name: h.Name, attrs: []attr{
			value("type", string(h.Typeflag)), value("mode", fmt.Sprintf("%04o", h.Mode)),
			value("owner", fmt.Sprintf("%d:%d (%s:%s)", h.Uid, h.Gid, h.Uname, h.Gname)),
			value("mtime", timestamp(h.ModTime)), value("atime", timestamp(h.AccessTime)), value("ctime", timestamp(h.ChangeTime)),
			value("link target", h.Linkname), value("device", fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)),
		}}
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return content{}, fmt.Errorf("%s is a sparse file", h.Name)
			}
			m.attrs = append(m.attrs, derived(value("PAX record "+k, h.PAXRecords[k])))
		}
		m.attrs = append(m.attrs, derived(value("header format", h.Format)))
		switch h.Typeflag {
		case tar.TypeGNUSparse:
			return content{}, fmt.Errorf("%s is a sparse file", h.Name)
		case tar.TypeReg:
			// The reader has read nothing behind the header.
			at, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return content{}, err
			}
			if m.data, err = b.section(at, h.Size); err != nil {
				return content{}, fmt.Errorf("%s: %w", h.Name, err)
			}
		}
		out.members = append(out.members, m)
	}
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
)

// openAr lists an ar archive with the long names of GNU or BSD (ar(5)).
func openAr(_ *comparison, b blob) (content, error) {
	var out content
	var longNames []byte
	for at := int64(len(arMagic)); at < b.size; {
		h, err := b.bytes(at, arHeader)
		if err != nil {
			return content{}, err
		}
		field := func(from, to int) string { return strings.TrimRight(string(h[from:to]), " ") }
		size, err := strconv.ParseInt(field(48, 58), 10, 64)
		if err != nil || string(h[58:]) != "`\n" {
			return content{}, fmt.Errorf("no member header at %d", at)
		}
		data, err := b.section(at+arHeader, size)
		if err != nil {
			return content{}, err
		}
		name := field(0, 16)
		switch {
		case name == "/" || name == "/SYM64/":
			name = "symbol table"
		case name == "//":
			name = "long names"
			if longNames, err = data.bytes(0, data.size); err != nil {
				return content{}, err
			}
		case strings.HasPrefix(name, "/"):
			i, err := strconv.Atoi(name[1:])
			if err != nil || i < 0 || i >= len(longNames) {
				return content{}, fmt.Errorf("no long name %q", name)
			}
			long, _, _ := bytes.Cut(longNames[i:], []byte("\n"))
			name = strings.TrimSuffix(string(long), "/")
		case strings.HasPrefix(name, "#1/"):
			n, err := strconv.ParseInt(name[3:], 10, 64)
			if err != nil || n > 4096 {
				return content{}, fmt.Errorf("long name %q", name)
			}
			long, err := data.bytes(0, n)
			if err != nil {
				return content{}, err
			}
			name = strings.TrimRight(string(long), "\x00")
			if data, err = data.section(n, data.size-n); err != nil {
				return content{}, err
			}
		default:
			name = strings.TrimSuffix(name, "/")
		}
		out.members = append(out.members, member{name: name, data: data, attrs: []attr{
			value("mtime", field(16, 28)), value("owner", field(28, 34)+":"+field(34, 40)), value("mode", field(40, 48)),
		}})
		at += arHeader + size + size%2
	}
	// The tables at the start follow from the members.
	for i := range out.members {
		out.members[i].derived = out.members[i].name == "symbol table" || out.members[i].name == "long names"
	}
	return out, nil
}

const (
	cpioMagic   = "070701"
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
	// maxCpioName is PATH_MAX of Linux.
	maxCpioName = 4096
)

// openCpio lists a cpio archive of the format newc (initramfs buffer format of
// the Linux kernel). What follows the trailer and its padding, such as a second
// archive of an initrd, is a member too. go-rpmutils has a reader of its own,
// but that one allocates whatever size a header announces.
func openCpio(_ *comparison, b blob) (content, error) {
	var out content
	for at := int64(0); ; {
		h, err := b.bytes(at, cpioHeader)
		if err != nil {
			return content{}, err
		}
		if string(h[:6]) != cpioMagic {
			return content{}, fmt.Errorf("no member header at %d", at)
		}
		var f [13]int64 // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
		for i := range f {
			if f[i], err = strconv.ParseInt(string(h[6+8*i:14+8*i]), 16, 64); err != nil {
				return content{}, fmt.Errorf("member header at %d: %w", at, err)
			}
		}
		size, nameSize := f[6], f[11]
		if size < 0 || nameSize < 1 || nameSize > maxCpioName {
			return content{}, fmt.Errorf("member header at %d: name of %d bytes, content of %d", at, nameSize, size)
		}
		raw, err := b.bytes(at+cpioHeader, nameSize)
		if err != nil {
			return content{}, err
		}
		name := string(raw[:nameSize-1])
		start := align4(at + cpioHeader + nameSize)
		if name == cpioTrailer {
			err := cpioRest(b, start, &out)
			return out, err
		}
		data, err := b.section(start, size)
		if err != nil {
			return content{}, fmt.Errorf("%s: %w", name, err)
		}
		out.members = append(out.members, member{name: name, data: data, attrs: []attr{
			value("mode", fmt.Sprintf("%06o", f[1])), value("owner", fmt.Sprintf("%d:%d", f[2], f[3])),
			value("mtime", timestamp(time.Unix(f[5], 0))), value("device", fmt.Sprintf("%d,%d", f[9], f[10])),
			derived(value("links", f[4])), derived(value("inode", fmt.Sprintf("%d on %d,%d", f[0], f[7], f[8]))),
		}})
		at = align4(start + size)
	}
}

func cpioRest(b blob, at int64, out *content) error {
	buf := make([]byte, 64<<10)
	for at < b.size {
		k := min(int64(len(buf)), b.size-at)
		if err := readFull(b, buf[:k], at); err != nil {
			return err
		}
		if i := bytes.IndexFunc(buf[:k], func(r rune) bool { return r != 0 }); i >= 0 {
			rest, err := b.section(at+int64(i), b.size-at-int64(i))
			out.members = append(out.members, member{name: "behind the trailer", data: rest})
			return err
		}
		at += k
	}
	return nil
}

func align4(n int64) int64 { return (n + 3) &^ 3 }
