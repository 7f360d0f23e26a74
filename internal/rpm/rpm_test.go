package rpm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRead(t *testing.T) {
	t.Parallel()
	m, err := ReadFile("testdata/sample.rpm")
	if err != nil {
		t.Fatal(err)
	}
	code, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, code, "", "  "); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/sample.json"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("golden (-), got (+):\n%s", diff)
	}
	again, err := Decode(code)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, again); diff != "" {
		t.Errorf("read (-), decoded (+):\n%s", diff)
	}
}

func sample(t testing.TB) []byte {
	data, err := os.ReadFile("testdata/sample.rpm")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	change := func(f func(data []byte) []byte) []byte { return f(sample(t)) }
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "cut off: it ends within the lead"},
		{"other file", bytes.Repeat([]byte("x"), 200), "not an RPM"},
		{"cut in signature", sample(t)[:120], "ends within the signature"},
		{"cut in header", sample(t)[:5500], "ends within the header"},
		{"many entries", change(func(d []byte) []byte {
			binary.BigEndian.PutUint32(d[leadSize+8:], 0xffffffff)
			return d
		}), "4294967295 entries"},
		{"much data", change(func(d []byte) []byte {
			binary.BigEndian.PutUint32(d[leadSize+12:], maxHeader)
			return d
		}), "ends within the signature"},
		{"changed header", change(func(d []byte) []byte {
			i := bytes.LastIndex(d, []byte("sample\x00"))
			d[i] = 'S'
			return d
		}), "mismatch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := Read(bytes.NewReader(tt.data))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want %q", m, err, tt.want)
			}
		})
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
}

// TestReadMemory claims a large header where there is none. It counts what the
// whole process allocates, so it does not run beside others.
func TestReadMemory(t *testing.T) {
	data := sample(t)[:leadSize+introSize]
	binary.BigEndian.PutUint32(data[leadSize+8:], maxEntries)
	binary.BigEndian.PutUint32(data[leadSize+12:], maxHeader)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Read(bytes.NewReader(data)); err == nil {
		t.Error("no error")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes of input took %d bytes of memory", len(data), n)
	}
}

func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		``, `{`, `{}`, `{"name":1}`, `{"name":"a","provides":["b >="]}`, `{"name":"a","provides":["b ~ 1"]}`,
		`{"name":"a","requires":[""]}`, `{"name":"a","requires":["b = 1 2"]}`, `{"name":"a","requires":["b c"]}`,
	} {
		if m, err := Decode([]byte(in)); err == nil {
			t.Errorf("%s: %v instead of an error", in, m)
		}
	}
}

func TestPrimary(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/bin/sh": true, "/usr/sbin/x": true, "/etc/a/b": true, "/usr/lib/sendmail": true, "/opt/foobin/x": true,
		"/usr/bin": false, "/etc": false, "/usr/share/etc/x": false, "/usr/lib/x": false,
	} {
		if got := primary(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// FuzzRead looks for RPMs that break Read. What it reads must encode, and decode
// to the same.
func FuzzRead(f *testing.F) {
	data := sample(f)
	f.Add(data)
	// The same without digests in the signature, so that changes reach the parser.
	size := int(binary.BigEndian.Uint32(data[leadSize+8:]))*entrySize + (int(binary.BigEndian.Uint32(data[leadSize+12:]))+7)&^7
	bare := append(bytes.Clone(data[:leadSize+8]), 0, 0, 0, 0, 0, 0, 0, 0)
	f.Add(append(bare, data[leadSize+introSize+size:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		code, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(code)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Fatalf("read (-), decoded (+):\n%s", diff)
		}
	})
}

// FuzzParseDep checks that a dependency that reads is written the same.
func FuzzParseDep(f *testing.F) {
	f.Add("a")
	f.Add("a >= 1:2-3")
	f.Add("(a if b)")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDep(s); err == nil && d.String() != s {
			t.Fatalf("%q reads as %q", s, d)
		}
	})
}

// large is metadata of the size of the C library's.
func large() *Metadata {
	m := &Metadata{Name: "libc", Version: "2.36", Release: "1", Arch: "x86_64", SourceRPM: "libc-2.36-1.src.rpm"}
	for i := range 100 {
		m.Provides = append(m.Provides, Dep{Name: fmt.Sprintf("libc.so.6(GLIBC_2.%d)(64bit)", i)})
	}
	for i := range 20 {
		m.Requires = append(m.Requires, Dep{Name: fmt.Sprintf("ld-linux-x86-64.so.2(GLIBC_2.%d)(64bit)", i)})
	}
	m.Requires = append(m.Requires, Dep{"libgcc", ">=", "12.2.0-1"})
	m.Files = []string{"/usr/bin/getconf", "/usr/bin/getent", "/usr/bin/ldconfig"}
	return m
}

func BenchmarkDecode(b *testing.B) {
	code, err := large().Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(code)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(code); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	data := sample(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
