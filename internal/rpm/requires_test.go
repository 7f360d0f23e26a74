package rpm

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequires(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	deps := func(texts ...string) (list []Dep) {
		for _, text := range texts {
			d, err := ParseDep(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, d)
		}
		return list
	}
	add := func(name string, provides []Dep, files ...string) *Package {
		p := &Package{Metadata: &Metadata{Name: name, Version: "1", Release: "1", Arch: "x86_64", Provides: provides, Files: files}}
		if err := x.Add(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	add("shell", nil, "/bin/sh")
	add("libc", deps("libc.so.6()(64bit)", "libc = 1"))
	add("one", deps("either"))
	add("two", deps("either", "extra"))
	for _, tt := range []struct {
		requires []Dep
		want     []string
	}{
		{nil, nil},
		{deps("libc"), []string{"libc"}},
		{deps("libc.so.6()(64bit)", "libc >= 1"), []string{"libc"}},
		{deps("libc >= 2"), nil},
		{deps("/bin/sh", "self"), []string{"shell"}},
		{deps("either"), []string{"one", "two"}},
		{deps("(either with extra)"), []string{"two"}},
		{deps("(shell and libc)"), []string{"libc", "shell"}},
		{deps("(shell or libc)"), []string{"libc", "shell"}},
		{deps("(shell if libc)"), []string{"shell"}},
		{deps("(shell if libc else one)"), []string{"one", "shell"}},
		{deps("(libc or (shell unless one))"), []string{"libc", "shell"}},
	} {
		t.Run(fmt.Sprint(tt.requires), func(t *testing.T) {
			p := &Package{Metadata: &Metadata{Name: "self", Version: "1", Release: "1", Arch: "x86_64", Requires: tt.requires}}
			if err := x.Add(p); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, q := range x.Requires(p) {
				if q.Name != "self" {
					got = append(got, q.Name)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
