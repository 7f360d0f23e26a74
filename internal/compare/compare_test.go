package compare

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"slipway/internal/image/fat"
	"slipway/internal/image/gpt"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, ds []Difference) {
	t.Helper()
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&b, d)
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func mustFiles(t *testing.T, a, b string) []Difference {
	t.Helper()
	ds, err := Files(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

// part is a member of the archives and objects that the tests make.
type part struct {
	name string
	data string
	mode int64
	time int64
}

func change(ps []part, f func([]part) []part) []part { return f(slices.Clone(ps)) }

var parts = []part{{"one", "first\n", 0o644, 100}, {"two", "second\nline\n", 0o755, 200}, {"three", "\x00\x01\x02\x03", 0o644, 300}}

func makeTar(ps []part) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range ps {
		must(w.WriteHeader(&tar.Header{Name: p.name, Size: int64(len(p.data)), Mode: p.mode, ModTime: time.Unix(p.time, 0), Typeflag: tar.TypeReg}))
		must2(io.WriteString(w, p.data))
	}
	must(w.Close())
	return b.Bytes()
}

// makeAr gives the second member a name of the GNU table, the third a BSD one.
func makeAr(ps []part) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	add := func(name, data string, p part) {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, p.time, 0, 0, p.mode, len(data), data)
		if len(data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	add("/", "\x00\x00\x00\x00", part{})
	add("//", "a-long-name-of-two.o/\n", part{})
	for i, p := range ps {
		switch i {
		case 1:
			add("/0", p.data, p)
		case 2:
			add(fmt.Sprintf("#1/%d", len(p.name)), p.name+p.data, p)
		default:
			add(p.name+"/", p.data, p)
		}
	}
	return b.Bytes()
}

func makeCpio(ps []part) []byte {
	var b bytes.Buffer
	for i, p := range append(slices.Clone(ps), part{name: cpioTrailer}) {
		fmt.Fprintf(&b, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", cpioMagic,
			i+1, 0o100000|p.mode, 0, 0, 1, p.time, len(p.data), 0, 0, 0, 0, len(p.name)+1, 0, p.name)
		b.Write(make([]byte, align4(int64(b.Len()))-int64(b.Len())))
		b.WriteString(p.data)
		b.Write(make([]byte, align4(int64(b.Len()))-int64(b.Len())))
	}
	return b.Bytes()
}

func makeGzip(data []byte, level int, t int64) []byte {
	var b bytes.Buffer
	w := must2(gzip.NewWriterLevel(&b, level))
	w.ModTime = time.Unix(t, 0)
	must2(w.Write(data))
	must(w.Close())
	return b.Bytes()
}

func makeZstd(data []byte) []byte { return must2(zstd.NewWriter(nil)).EncodeAll(data, nil) }

// What xz and bzip2 make of "hello\n" and "hallo\n"; no package here writes them.
const (
	xzHello    = "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x00\x00\xa5\x60\x97\xf1\x94\xf6\xfd\xe0\x00\x01\x1e\x06\xc1\x2f\xa4\x1d\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a"
	xzHallo    = "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x05\x68\x61\x6c\x6c\x6f\x0a\x00\x00\x00\x58\xff\x89\x91\x3f\x84\x90\x02\x00\x01\x1e\x06\xc1\x2f\xa4\x1d\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a"
	bzip2Hello = "\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xc1\xc0\x80\xe2\x00\x00\x01\x41\x00\x00\x10\x02\x44\xa0\x00\x30\xcd\x00\xc3\x46\x29\x97\x17\x72\x45\x38\x50\x90\xc1\xc0\x80\xe2"
	bzip2Hallo = "\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xe1\x34\x03\x61\x00\x00\x01\x41\x00\x00\x10\x20\x44\xa0\x00\x30\xcd\x00\xc3\x46\x29\x97\x17\x72\x45\x38\x50\x90\xe1\x34\x03\x61"
)

// makeELF makes an ELF64 object with a build ID of 4 bytes if id is not empty.
func makeELF(id string, ps []part) []byte {
	if id != "" {
		note := binary.LittleEndian.AppendUint32(nil, 4)
		note = binary.LittleEndian.AppendUint32(note, uint32(len(id)))
		note = binary.LittleEndian.AppendUint32(note, 3)
		ps = append([]part{{name: buildIDSection, data: string(note) + "GNU\x00" + id}}, ps...)
	}
	names := "\x00"
	sections := []elf.Section64{{}}
	body := []byte{}
	at := uint64(binary.Size(elf.Header64{}))
	for _, p := range append(slices.Clone(ps), part{name: ".shstrtab"}) {
		s := elf.Section64{Name: uint32(len(names)), Type: uint32(elf.SHT_PROGBITS), Off: at + uint64(len(body)), Addralign: 1}
		names += p.name + "\x00"
		if p.name == ".shstrtab" {
			s.Type, p.data = uint32(elf.SHT_STRTAB), names
		}
		s.Size = uint64(len(p.data))
		body = append(body, p.data...)
		sections = append(sections, s)
	}
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: at + uint64(len(body)),
		Ehsize: 64, Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: uint16(len(sections) - 1)}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	must(binary.Write(&b, binary.LittleEndian, h))
	b.Write(body)
	must(binary.Write(&b, binary.LittleEndian, sections))
	return b.Bytes()
}

// makePE makes a PE32+ image with padded sections.
func makePE(t uint32, ps []part) []byte {
	const coff, opt = 64, 64 + 4 + 20
	b := make([]byte, 1024)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], coff)
	copy(b[coff:], "PE\x00\x00")
	le.PutUint16(b[coff+4:], 0x8664)
	le.PutUint16(b[coff+6:], uint16(len(ps)))
	le.PutUint32(b[coff+8:], t)
	le.PutUint16(b[coff+20:], 240)
	le.PutUint16(b[coff+22:], 0x206)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+60:], 1024)
	le.PutUint16(b[opt+68:], 10)
	le.PutUint32(b[opt+108:], 16)
	for i, p := range ps {
		h := b[opt+240+i*40:]
		copy(h, p.name)
		le.PutUint32(h[8:], uint32(len(p.data)))
		le.PutUint32(h[12:], uint32(0x1000*(i+1)))
		le.PutUint32(h[16:], uint32((len(p.data)+511)/512*512))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, p.data...)
		b = append(b, make([]byte, (512-len(p.data)%512)%512)...)
	}
	return b
}

var testTable = gpt.Table{Disk: gpt.GUID{1}, Sectors: 40 << 11, Entries: []gpt.Entry{
	{Type: gpt.TypeESP, GUID: gpt.GUID{2}, First: 2048, Last: 36<<11 - 1, Name: "esp"},
	{Type: gpt.TypeRootX86_64, GUID: gpt.GUID{3}, First: 36 << 11, Last: 37<<11 - 1, Name: "_empty", Attributes: gpt.AttributeReadOnly},
	{Type: gpt.TypeRootX86_64, GUID: gpt.GUID{4}, First: 37 << 11, Last: 38<<11 - 1, Name: "_empty", Attributes: gpt.AttributeReadOnly},
}}

// makeDisk makes a sparse disk with a FAT volume, and lets f change it.
func makeDisk(t *testing.T, dir, name string, table gpt.Table, f func(*os.File)) string {
	t.Helper()
	disk, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.Truncate(int64(table.Sectors) * gpt.SectorSize); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	f(disk)
	return disk.Name()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must2[T any](v T, err error) T {
	must(err)
	return v
}

func TestFiles(t *testing.T) {
	t.Parallel()
	chmod := change(parts, func(p []part) []part { p[1].mode = 0o700; return p })
	touch := change(parts, func(p []part) []part { p[1].time = 7; return p })
	edit := change(parts, func(p []part) []part { p[1].data = "second\nLine\n"; return p })
	grow := change(parts, func(p []part) []part { p[2].data += "\x04"; return p })
	extra := change(parts, func(p []part) []part { return append(p, part{name: "four", data: "4\n"}) })
	swap := change(parts, func(p []part) []part { p[0], p[1] = p[1], p[0]; return p })
	many := func(suffix string) (ps []part) {
		for i := range 30 {
			ps = append(ps, part{name: fmt.Sprintf("file%02d", i), data: suffix})
		}
		return ps
	}
	numbers := make([]byte, 4096)
	for i := range numbers {
		numbers[i] = byte(i % 251)
	}
	patched := slices.Clone(numbers)
	patched[1000], patched[3000] = 255, 255
	lines := func(edit ...string) []byte {
		return []byte(strings.NewReplacer(edit...).Replace("one\ntwo\nthree\nfour\nfive\nsix\n"))
	}
	sections := []part{{name: ".text", data: "\x90\x90\xc3"}, {name: ".rodata", data: "Oct 01 2026\x00"}}
	uki := func(initrd []part, cmdline string) []byte {
		return makePE(0, []part{{name: ".text", data: "code"}, {name: ".cmdline", data: cmdline},
			{name: ".initrd", data: string(makeZstd(makeCpio(initrd)))}})
	}
	for _, test := range []struct {
		name string
		a, b []byte
	}{
		{"tar-mode", makeTar(parts), makeTar(chmod)},
		{"tar-mtime", makeTar(parts), makeTar(touch)},
		{"tar-content", makeTar(parts), makeTar(edit)},
		{"tar-size", makeTar(parts), makeTar(grow)},
		{"tar-member", makeTar(parts), makeTar(extra)},
		{"tar-order", makeTar(parts), makeTar(swap)},
		{"tar-many", makeTar(many("a\n")), makeTar(many("b\n"))},
		{"tar-padding", makeTar(parts), append(makeTar(parts), make([]byte, 512)...)},
		{"ar-content", makeAr(parts), makeAr(edit)},
		{"ar-mtime", makeAr(parts), makeAr(touch)},
		{"ar-bsd-name", makeAr(parts), makeAr(grow)},
		{"cpio-mode", makeCpio(parts), makeCpio(chmod)},
		{"cpio-second-archive", append(makeCpio(parts), makeGzip(makeCpio(parts), 1, 0)...), append(makeCpio(parts), makeGzip(makeCpio(edit), 1, 0)...)},
		{"gzip-mtime", makeGzip(lines(), 6, 1), makeGzip(lines(), 6, 2)},
		{"gzip-level", makeGzip(numbers, 0, 1), makeGzip(numbers, 9, 1)},
		{"gzip-tar", makeGzip(makeTar(parts), 6, 1), makeGzip(makeTar(edit), 6, 1)},
		{"gzip-truncated", makeGzip(lines(), 6, 1), makeGzip(lines(), 6, 1)[:20]},
		{"zstd", makeZstd(lines()), makeZstd(lines("two", "TWO"))},
		{"xz", []byte(xzHello), []byte(xzHallo)},
		{"bzip2", []byte(bzip2Hello), []byte(bzip2Hallo)},
		{"elf-section", makeELF("", sections), makeELF("", change(sections, func(p []part) []part { p[1].data = "Oct 02 2026\x00"; return p }))},
		{"elf-moved", makeELF("", sections), makeELF("", change(sections, func(p []part) []part { p[0].data += "\x90"; return p }))},
		{"elf-build-id", makeELF("abcd", sections), makeELF("abce", sections)},
		{"elf-machine", makeELF("", sections), func() []byte { b := makeELF("", sections); b[18] = byte(elf.EM_386); return b }()},
		{"pe-timestamp", makePE(1, sections), makePE(2, sections)},
		{"uki", uki(parts, "quiet"), uki(edit, "quiet ro")},
		{"text-lines", lines(), lines("one", "1", "three", "3", "five", "5", "six", "6")},
		{"text-insert", lines(), lines("two", "two\ntwo and a half")},
		{"text-newline", lines(), lines("six\n", "six")},
		{"text-long", append(lines(), strings.Repeat("ä", 300)+"x"...), append(lines(), strings.Repeat("ä", 300)+"y"...)},
		{"data", numbers, patched},
		{"data-size", numbers, append(slices.Clone(patched), 1, 2)},
		{"kind", makeTar(parts), lines()},
		{"empty", lines(), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			a, b := writeFile(t, dir+"/a/file", test.a), writeFile(t, dir+"/b/file", test.b)
			golden(t, test.name, mustFiles(t, a, b))
			if ds := mustFiles(t, a, writeFile(t, dir+"/c/file", test.a)); len(ds) > 0 {
				t.Errorf("differences of equal files: %v", ds)
			}
		})
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	volume := func(cmdline string) func(*os.File) {
		return func(f *os.File) {
			v := fat.Volume{ID: 1, Label: "ESP", Time: time.Unix(1e9, 0), Files: []fat.File{{Path: "/EFI/Linux/os.efi",
				Data: makePE(0, []part{{name: ".text", data: "code"}, {name: ".cmdline", data: cmdline}})}}}
			must(v.Write(io.NewOffsetWriter(f, 1<<20), 35<<20))
		}
	}
	patch := func(off int64, data string) func(*os.File) {
		return func(f *os.File) {
			volume("quiet")(f)
			must2(f.WriteAt([]byte(data), off))
		}
	}
	moved, renamed := testTable, testTable
	moved.Entries, renamed.Entries = slices.Clone(testTable.Entries), slices.Clone(testTable.Entries)
	moved.Entries[2].First, moved.Entries[2].Last = 38<<11, 39<<11-1
	renamed.Entries[1].Name, renamed.Entries[2].GUID = "root_1", gpt.GUID{9}
	larger := testTable
	larger.Sectors += 2048
	good := makeDisk(t, dir, "good.img", testTable, volume("quiet"))
	for _, test := range []struct {
		name  string
		table gpt.Table
		write func(*os.File)
	}{
		{"disk-esp", testTable, volume("debug")},
		{"disk-partition", testTable, patch(37<<20+4096, "Slipway")},
		{"disk-gap", testTable, patch(38<<20+512, "x")},
		{"disk-boot-code", testTable, patch(0, "\xeb\x3c")},
		{"disk-moved", moved, volume("quiet")},
		{"disk-renamed", renamed, volume("quiet")},
		{"disk-larger", larger, volume("quiet")},
		{"disk-backup", testTable, patch(40<<20-512, "x")},
		{"disk-equal", testTable, volume("quiet")},
	} {
		golden(t, test.name, mustFiles(t, good, makeDisk(t, dir, test.name, test.table, test.write)))
	}
}

// Of the file systems that roots have, it is named which files differ, and in what.
func TestRoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for n, files := range []map[string]string{
		{"usr/bin/tool": "program", "usr/lib/same": "text", "usr/lib/old": "x"},
		{"usr/bin/tool": "another program", "usr/lib/same": "text", "usr/lib/new": "x"},
		{"usr/bin/tool": "PROGRAM", "usr/lib/same": "text", "usr/lib/old": "x"},
		{"usr/bin/tool": "program", "usr/lib/same": "text", "usr/lib/old": "x"},
	} {
		tree := filepath.Join(dir, fmt.Sprint(n))
		for name, text := range files {
			writeFile(t, filepath.Join(tree, name), []byte(text))
		}
		target, mode := "same", os.FileMode(0o644)
		if n == 3 {
			target, mode = "tool", 0o755|os.ModeSetuid
		}
		if err := errors.Join(os.Symlink(target, filepath.Join(tree, "usr/lib/link")), os.Chmod(filepath.Join(tree, "usr/bin/tool"), mode)); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"mkfs.erofs", "--quiet", "-T1", "-U01234567-89ab-8def-8123-456789abcdef", tree + ".erofs", tree},
			{"mke2fs", "-q", "-t", "ext4", "-U", "01234567-89ab-8def-8123-456789abcdef", "-d", tree, tree + ".ext4", "4M"},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	}
	for _, kind := range []string{"erofs", "ext4"} {
		image := func(n string) string { return filepath.Join(dir, n+"."+kind) }
		holds := func(text string) string {
			sum := sha256.Sum256([]byte(text))
			return fmt.Sprintf("\"%d bytes, sha256 %x\"", len(text), sum[:16])
		}
		for _, tt := range []struct {
			a, b string
			want []string // without the name
		}{
			{"0", "1", []string{"usr/bin/tool: content: " + holds("program") + " -> " + holds("another program"), "usr/lib/old: only in A", "usr/lib/new: only in B"}},
			{"0", "2", []string{"usr/bin/tool: content: " + holds("program") + " -> " + holds("PROGRAM")}},
			{"0", "3", []string{"usr/bin/tool: mode: 0100644 -> 0104755", "usr/lib/link: content: same -> tool"}},
			{"0", "0", nil},
		} {
			var got []string
			for _, d := range mustFiles(t, image(tt.a), image(tt.b)) {
				got = append(got, strings.TrimPrefix(d.String(), tt.a+"."+kind+": "))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("%s, %s and %s: %s", kind, tt.a, tt.b, d)
			}
		}
	}
}

type countingReader struct {
	io.ReaderAt
	n int64
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	r.n += int64(len(p))
	return r.ReaderAt.ReadAt(p, off)
}

// Holes are not read, wherever the other side has its data.
func TestSparse(t *testing.T) {
	t.Parallel()
	const size, at = 1 << 30, 600<<20 + 17
	open := func(name string, write bool) (blob, *countingReader) {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		must(f.Truncate(size))
		must2(f.WriteAt([]byte("both"), 4096))
		if write {
			must2(f.WriteAt([]byte("data"), at))
		}
		b := fileBlob(f, size)
		if b.zeroUntil(100<<20) == 100<<20 {
			t.Skip("the file system of temporary files has no holes")
		}
		r := &countingReader{ReaderAt: f}
		b.r = r
		return b, r
	}
	a, ra := open("a", false)
	b, rb := open("b", true)
	for _, cut := range []int64{0, 512, 1 << 20} {
		ra.n, rb.n = 0, 0
		sa, sb := must2(a.section(cut, size-cut)), must2(b.section(cut, size-cut))
		first, count, err := differing(sa, sb, true)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int64{at - cut, 4}, []int64{first, count}); diff != "" {
			t.Errorf("from %d: first and count (-want +got):\n%s", cut, diff)
		}
		if ra.n > 4<<20 || rb.n > 4<<20 {
			t.Errorf("from %d: read %d and %d bytes", cut, ra.n, rb.n)
		}
	}
}

// A large stream goes through a temporary file with holes, which is gone
// afterwards.
func TestSpool(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir+"/tmp")
	must(os.Mkdir(dir+"/tmp", 0o777))
	data := make([]byte, 5<<20+3)
	copy(data[4<<20+5:], "here")
	a := writeFile(t, dir+"/a/x.gz", makeGzip(data, 1, 0))
	data[4<<20+6]++
	b := writeFile(t, dir+"/b/x.gz", makeGzip(data, 1, 0))
	golden(t, "spool", mustFiles(t, a, b))
	left, err := os.ReadDir(dir + "/tmp")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	ds, err := files("x.gz", a, b, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "spool-limit", ds[:1])
	t.Setenv("TMPDIR", dir+"/missing")
	if _, err := Files(a, b); err == nil || !strings.Contains(err.Error(), "temporary file") {
		t.Errorf("without a folder for temporary files: %v", err)
	}
}

func TestDirs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range [][2]string{
		{"a/same.txt", "same\n"}, {"b/same.txt", "same\n"},
		{"a/boot/vmlinuz", "1\x00"}, {"b/boot/vmlinuz", "2\x00"},
		{"a/old/one", ""}, {"a/old/two", ""}, {"b/new.txt", ""},
		{"a/what", ""}, {"b/what/is", ""}, {"a/old.txt", ""}, {"b/old.txt", ""},
	} {
		writeFile(t, filepath.Join(dir, f[0]), []byte(f[1]))
	}
	must(os.Symlink("0.1.0", dir+"/a/latest"))
	must(os.Symlink("0.2.0", dir+"/b/latest"))
	must(os.Symlink("a", dir+"/link"))
	ds, err := Dirs(dir+"/a", dir+"/b")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "dirs", ds)
	if ds, err := Dirs(dir+"/a", dir+"/link"); err != nil || len(ds) > 0 {
		t.Errorf("folder and link to it: %v, %v", ds, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := writeFile(t, dir+"/file", nil)
	for _, test := range []struct {
		f    func(a, b string) ([]Difference, error)
		a, b string
		want string
	}{
		{Files, file, dir, dir + " is not a regular file"},
		{Files, file, dir + "/none", dir + "/none: no such file"},
		{Dirs, dir, dir + "/none", dir + "/none: "},
		{Dirs, file, dir, file + " is not a folder"},
	} {
		if ds, err := test.f(test.a, test.b); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s and %s: %v, %v; want an error with %q", test.a, test.b, ds, err, test.want)
		}
	}
}

// samples is one file of each kind.
func samples() map[string][]byte {
	text := []byte("some text\nin lines\n")
	m := map[string][]byte{
		"tar": makeTar(parts), "ar": makeAr(parts), "cpio": makeCpio(parts), "gzip": makeGzip(text, 6, 1), "zstd": makeZstd(text),
		"elf": makeELF("abcd", parts), "pe": makePE(1, parts), "text": text, "rpm": makeRPM(makeZstd(makeCpio([]part{{name: "./a", data: "x\n"}}))),
		"xz": []byte(xzHello), "bzip2": []byte(bzip2Hello),
	}
	var disk memory = make([]byte, 128<<9)
	table := gpt.Table{Disk: gpt.GUID{1}, Sectors: 128, Entries: []gpt.Entry{{Type: gpt.TypeESP, GUID: gpt.GUID{2}, First: 40, Last: 60, Name: "esp"}}}
	must(table.Write(disk))
	copy(disk[40*512:], text)
	m["gpt"] = disk
	return m
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// makeRPM makes a package of one file, as far as a reader looks.
func makeRPM(payload []byte) []byte {
	b := make([]byte, rpmLead)
	copy(b, "\xed\xab\xee\xdb\x03\x00")
	be := binary.BigEndian
	header := func(tags ...[3]any) {
		var index, data []byte
		for _, tag := range tags {
			count := uint32(1)
			kind := tag[1].(int)
			for kind == 4 && len(data)%4 != 0 {
				data = append(data, 0)
			}
			index = be.AppendUint32(index, uint32(tag[0].(int)))
			index = be.AppendUint32(index, uint32(kind))
			index = be.AppendUint32(index, uint32(len(data)))
			index = be.AppendUint32(index, count)
			switch v := tag[2].(type) {
			case string:
				data = append(append(data, v...), 0)
			case int:
				data = be.AppendUint32(data, uint32(v))
			}
		}
		b = be.AppendUint32(b, 0x8eade801)
		b = be.AppendUint32(b, 0)
		b = be.AppendUint32(b, uint32(len(tags)))
		b = be.AppendUint32(b, uint32(len(data)))
		b = append(append(b, index...), data...)
	}
	header([3]any{1000, 4, 4711})
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	header([3]any{1000, 6, "a"}, [3]any{1004, 6, "summary"}, [3]any{1116, 4, 0}, [3]any{1117, 8, "a"}, [3]any{1118, 8, "/"},
		[3]any{1028, 4, 2}, [3]any{1030, 4, 0o100644}, [3]any{1034, 4, 100}, [3]any{1039, 8, "root"}, [3]any{1040, 8, "root"})
	return append(b, payload...)
}

// Damage is a difference, of the kind's own or in the bytes.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, data := range samples() {
		if c := check(t, data, data); c.count > 0 {
			t.Errorf("%s: equal blobs differ: %v", name, c.found)
		}
		step := max(1, len(data)/200)
		for n := 0; n < len(data); n += step {
			check(t, data, data[:n])
			flipped := slices.Clone(data)
			flipped[n] ^= 0xff
			check(t, data, flipped)
			check(t, flipped, data[:n])
		}
	}
}

// check compares a and b and what must hold for any pair.
func check(t testing.TB, a, b []byte) *comparison {
	t.Helper()
	c := &comparison{spoolLimit: 1 << 20}
	if err := c.blobs("x", bytesBlob(a), bytesBlob(b), 0); err != nil {
		t.Fatal(err)
	}
	c.release(0)
	if (c.count == 0) != bytes.Equal(a, b) {
		t.Fatalf("%d differences, equal: %t", c.count, bytes.Equal(a, b))
	}
	if len(c.found) != min(c.count, maxDetails) {
		t.Fatalf("%d of %d differences", len(c.found), c.count)
	}
	for _, d := range c.found {
		if !strings.HasPrefix(d.String(), "x: ") && d.Path != "x" || d.What == "" {
			t.Fatalf("difference %#v", d)
		}
	}
	return c
}

func FuzzKinds(f *testing.F) {
	for _, data := range samples() {
		f.Add(data, data)
		flipped := slices.Clone(data)
		flipped[len(data)*3/4] ^= 1
		f.Add(data, flipped)
		f.Add(flipped, data[:len(data)-3])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) { check(t, a, b) })
}

// What a compiler makes differs in the section of the constant.
func TestCompiled(t *testing.T) {
	t.Parallel()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	var objects []string
	for _, text := range []string{"built on monday", "built on sunday"} {
		o := filepath.Join(dir, fmt.Sprintf("%d.o", len(objects)))
		cmd := exec.Command(gcc, "-c", "-x", "c", "-o", o, "-")
		cmd.Stdin = strings.NewReader(`const char stamp[] = "` + text + `";`)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		objects = append(objects, o)
	}
	want := []Difference{{Path: "0.o: .rodata", What: "2 bytes differ, the first at offset 0x9", A: `"monday"`, B: `"sunday"`}}
	if diff := cmp.Diff(want, mustFiles(t, objects[0], objects[1])); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FAT12 and FAT16 are looked into as FAT32 is.
func TestSmallFAT(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{2 << 20, 5 << 20} {
		var files [2]string
		for i := range files {
			files[i] = filepath.Join(t.TempDir(), "esp")
			f := must2(os.Create(files[i]))
			v := fat.Volume{Time: time.Unix(1e9, 0), Files: []fat.File{{Path: "EFI/os.txt", Data: []byte{'0' + byte(i), '\n'}}}}
			must(errors.Join(f.Truncate(size), v.Write(f, size), f.Close()))
		}
		if found := fmt.Sprint(mustFiles(t, files[0], files[1])); !strings.Contains(found, "EFI/os.txt") {
			t.Errorf("%d bytes: %s", size, found)
		}
	}
}
