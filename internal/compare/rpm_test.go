package compare

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pkg is the package that rpmbuild makes, with one file of each sort.
type pkg struct {
	Summary, Requires, Script string
	Config                    string // content of /etc/x.conf
	Mode, MTime, Owner, Link  string
	Extra                     string // a further file
	Library                   []byte
	Compression               string
}

func basePkg() pkg {
	return pkg{Summary: "one", Requires: "sh", Script: "true", Config: "a = 1\nb = 2\n", Mode: "0644", MTime: "@1000000000", Owner: "root",
		Link: "x.conf", Compression: "w3.zstdio",
		Library: makeELF("abcd", []part{{name: ".text", data: "\x90\xc3"}, {name: ".rodata", data: "constant\x00"}})}
}

// build runs rpmbuild with nothing of the machine's configuration that shows.
func (p pkg) build(t *testing.T, rpmbuild, name string) string {
	t.Helper()
	top := filepath.Join(t.TempDir(), name)
	lib := writeFile(t, filepath.Join(top, "lib"), p.Library)
	conf := writeFile(t, filepath.Join(top, "conf"), []byte(p.Config))
	extra := ""
	if p.Extra != "" {
		extra = p.Extra + "\n"
	}
	spec := writeFile(t, filepath.Join(top, "x.spec"), fmt.Appendf(nil, `Name: x
Version: 1
Release: 1
Summary: %s
License: MIT
Requires: %s
%%description
A package.
%%install
mkdir -p %%{buildroot}/etc %%{buildroot}/usr/lib
cp %s %%{buildroot}/usr/lib/libx.so.1
cp %s %%{buildroot}/etc/x.conf
ln -s %s %%{buildroot}/etc/x.link
for f in /etc/x.conf /usr/lib/libx.so.1 %s; do
	test -e %%{buildroot}$f || echo more > %%{buildroot}$f
	touch -d %s %%{buildroot}$f
done
touch -h -d @1000000000 %%{buildroot}/etc/x.link
%%post
%s
%%files
%%attr(0755, root, root) /usr/lib/libx.so.1
%%attr(%s, %s, root) /etc/x.conf
/etc/x.link
%s`, p.Summary, p.Requires, lib, conf, p.Link, p.Extra, p.MTime, p.Script, p.Mode, p.Owner, extra))
	args := []string{"-bb", "--nodeps", "--target", "noarch"}
	for k, v := range map[string]string{"_topdir": top, "_rpmdir": top, "_tmppath": top, "_dbpath": filepath.Join(top, "db"),
		"_buildhost": "build", "use_source_date_epoch_as_buildtime": "1", "clamp_mtime_to_source_date_epoch": "0",
		"__os_install_post": "%{nil}", "debug_package": "%{nil}", "_binary_payload": p.Compression,
		"_binaries_in_noarch_packages_terminate_build": "0", "_rpmfilename": "%%{NAME}.rpm", "__find_provides": "%{nil}",
		"_use_internal_dependency_generator": "0", "__find_requires": "%{nil}"} {
		args = append(args, "--define", k+" "+v)
	}
	cmd := exec.Command(rpmbuild, append(args, spec)...)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "HOME="+top, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rpmbuild: %v\n%s", err, out)
	}
	return filepath.Join(top, "x.rpm")
}

func TestRPM(t *testing.T) {
	t.Parallel()
	rpmbuild, err := exec.LookPath("rpmbuild")
	if err != nil {
		t.Skip(err)
	}
	base := basePkg().build(t, rpmbuild, "base")
	for _, test := range []struct {
		name string
		edit func(*pkg)
	}{
		{"rpm-equal", func(*pkg) {}},
		{"rpm-summary", func(p *pkg) { p.Summary = "two" }},
		{"rpm-requires", func(p *pkg) { p.Requires = "sh, libfoo >= 2" }},
		{"rpm-script", func(p *pkg) { p.Script = "false" }},
		{"rpm-content", func(p *pkg) { p.Config = "a = 1\nb = 3\n" }},
		{"rpm-mode", func(p *pkg) { p.Mode = "0600" }},
		{"rpm-owner", func(p *pkg) { p.Owner = "daemon" }},
		{"rpm-mtime", func(p *pkg) { p.MTime = "@1000000001" }},
		{"rpm-link", func(p *pkg) { p.Link = "y.conf" }},
		{"rpm-member", func(p *pkg) { p.Extra = "/etc/more" }},
		{"rpm-compression", func(p *pkg) { p.Compression = "w9.gzdio" }},
		{"rpm-elf", func(p *pkg) {
			p.Library = makeELF("abcd", []part{{name: ".text", data: "\x90\xc3"}, {name: ".rodata", data: "Constant\x00"}})
		}},
		{"rpm-build-id", func(p *pkg) {
			p.Library = []byte(strings.Replace(string(p.Library), "abcd", "wxyz", 1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := basePkg()
			test.edit(&p)
			other := p.build(t, rpmbuild, "other")
			golden(t, test.name, mustFiles(t, base, other))
		})
	}
	raw, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"rpm-truncated-header": 200, "rpm-truncated-payload": len(raw) - 10} {
		ds := mustFiles(t, base, writeFile(t, filepath.Join(t.TempDir(), "x.rpm"), raw[:n]))
		golden(t, name, ds[:1]) // then the size, which depends on rpmbuild
	}
}
