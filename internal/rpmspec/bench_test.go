package rpmspec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bigSpec is a spec of 300 lines of the usual mixture.
func bigSpec() string {
	var b strings.Builder
	b.WriteString("%global kver 6.1\n%bcond_without tests\nName: %{_cross_os}big\nVersion: %{kver}\nRelease: 1%{?dist}\nSummary: s\nLicense: MIT\n")
	for i := range 30 {
		fmt.Fprintf(&b, "Source%d: https://example.org/%%{name}-%%{version}-%d.tar.gz\nBuildRequires: %%{_cross_os}lib%d-devel\n", i, i, i)
	}
	b.WriteString("%description\n%{summary}.\n")
	for i := range 10 {
		fmt.Fprintf(&b, "%%package p%d\nSummary: p\nRequires: %%{name} = %%{version}-%%{release}\nRequires: (%%{name}-x and %%{_cross_os}image-feature(f%d))\n%%if %%{with tests}\nRequires: t\n%%endif\n%%description p%d\n%%{summary}.\n", i, i, i)
	}
	b.WriteString("%build\n")
	for range 20 {
		b.WriteString("%cross_configure --x\nmake %{?_smp_mflags} CC=%{_cross_target}-gcc\n")
	}
	b.WriteString("%files\n")
	for i := strings.Count(b.String(), "\n"); i < 300; i++ {
		fmt.Fprintf(&b, "%%{_cross_libdir}/lib%d.so.*\n", i)
	}
	return b.String()
}

// BenchmarkParse is the time for a spec of 300 lines that is in memory.
func BenchmarkParse(b *testing.B) {
	m := NewMacros()
	if err := m.LoadFile(macroPack(b)); err != nil {
		b.Fatal(err)
	}
	text := bigSpec()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseText("big.spec", text, Options{Macros: m}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCorpus is the time for all fixtures and the repository's own specs,
// from disk.
func BenchmarkCorpus(b *testing.B) {
	m := NewMacros()
	if err := m.LoadFile(macroPack(b)); err != nil {
		b.Fatal(err)
	}
	specs := corpus(b)
	for b.Loop() {
		for _, s := range specs {
			if _, err := Parse(s, Options{Macros: m, SourceDir: filepath.Dir(s)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(specs)), "specs/op")
}

// BenchmarkNewMacros is the time to load the macro pack.
func BenchmarkNewMacros(b *testing.B) {
	pack, err := os.ReadFile(macroPack(b))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m := NewMacros()
		if err := m.Load("pack", strings.NewReader(string(pack))); err != nil {
			b.Fatal(err)
		}
	}
}
