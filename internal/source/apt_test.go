package source

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseAptSources(t *testing.T) {
	for _, tc := range []struct {
		name  string
		parse func(string, io.Reader) ([]aptEntry, error)
		text  string
		want  []aptEntry
		err   string
	}{
		{"one line each", parseAptList, `
# a comment
deb http://mirror.test/debian bookworm main contrib # trailing
  deb-src	http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x.test/ trixie main
deb [ signed-by=/k.asc ]https://y.test/ ./
deb cdrom:[Debian GNU/Linux 12.0 _Bookworm_]/ bookworm main
deb "http://quoted.test/a b" stable main
`, []aptEntry{
			{URIs: []string{"http://mirror.test/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}},
			{URIs: []string{"http://mirror.test/debian"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
			{URIs: []string{"https://x.test/"}, Suites: []string{"trixie"}, Components: []string{"main"}, SignedBy: "/usr/share/keyrings/x.gpg"},
			{URIs: []string{"https://y.test/"}, Suites: []string{"./"}, Components: []string{}, SignedBy: "/k.asc"},
			{URIs: []string{"cdrom:[Debian GNU/Linux 12.0 _Bookworm_]/"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
			{URIs: []string{"http://quoted.test/a b"}, Suites: []string{"stable"}, Components: []string{"main"}},
		}, ""},
		{"unknown type", parseAptList, "\nrpm http://x.test stable main\n", nil, `f:2: type "rpm"`},
		{"too short", parseAptList, "deb http://x.test\n", nil, "f:1: an entry is"},
		{"stanzas", parseAptDeb822, `# head

Types: deb deb-src
# within
URIs: http://a.test/debian
 http://b.test/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
SIGNED-BY: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.test
Suites: sid

Types: deb
URIs: http://c.test/
Suites: sid
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
`, []aptEntry{
			{URIs: []string{"http://a.test/debian", "http://b.test/debian"}, Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main", "contrib"}, SignedBy: "/usr/share/keyrings/debian-archive-keyring.gpg"},
			{URIs: []string{"http://c.test/"}, Suites: []string{"sid"}, Components: []string{"main"}, SignedBy: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nabc"},
		}, ""},
		{"missing field", parseAptDeb822, "\nTypes: deb\nSuites: sid\n", nil, "f:2: this stanza has no URIs field"},
		{"no field", parseAptDeb822, "Types: deb\nhello\n", nil, "f:2: not a field"},
		{"stray continuation", parseAptDeb822, " x\n", nil, "f:1: a continuation line"},
		{"unknown stanza type", parseAptDeb822, "Types: rpm\nURIs: x\nSuites: y\n", nil, `f:1: type "rpm"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.parse("f", strings.NewReader(tc.text))
			if tc.err != "" {
				wantError(t, err, tc.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseAptSources(f *testing.F) {
	f.Add("deb [signed-by=/k arch=amd64] http://m.test/debian bookworm main # c\n")
	f.Add("deb cdrom:[a b]/ sid main\ndeb \"x y\" sid main\n")
	f.Add("Types: deb\nURIs: a\n b\nSuites: sid\nComponents: main\nSigned-By: /k\n\n# c\nEnabled: no\n")
	f.Add("deb [[]]] a b")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string, io.Reader) ([]aptEntry, error){parseAptList, parseAptDeb822} {
			entries, err := parse("f", strings.NewReader(text))
			if err != nil {
				if !strings.HasPrefix(err.Error(), "f:") {
					t.Errorf("the error names no position: %v", err)
				}
				continue
			}
			for _, e := range entries {
				if len(e.URIs) == 0 || len(e.Suites) == 0 {
					t.Errorf("%q gave %+v", text, e)
				}
			}
			for _, a := range poolAddresses(debianArchives(entries), "kmod", "f") {
				if !strings.Contains(a, "/pool/") || !strings.HasSuffix(a, "/k/kmod/f") {
					t.Errorf("%q gave the address %q", text, a)
				}
			}
		}
	})
}

func TestPoolAddresses(t *testing.T) {
	dir := t.TempDir()
	mirrors := filepath.Join(dir, "mirrors.txt")
	write(t, mirrors, "# ours\nhttp://m1.test/debian\tpriority:1\nhttp://m2.test/debian/\n")
	write(t, filepath.Join(dir, "sources.list"), `deb http://plain.test/debian bookworm main non-free
deb http://plain.test/debian bookworm-updates main
deb http://flat.test/ ./
deb http://ppa.test/ cloud-bookworm main
deb http://noble.test/ noble main
deb cdrom:[disc]/ bookworm main
`)
	write(t, filepath.Join(dir, "sources.list.d/vendor.list"), "deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.test/ bookworm main\n")
	write(t, filepath.Join(dir, "sources.list.d/debian.sources"), `Types: deb
URIs: mirror+file:`+mirrors+`
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://sec.test/debian-security
Suites: bookworm-security
Components: contrib main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`)
	write(t, filepath.Join(dir, "sources.list.d/off.list.disabled"), "not read\n")
	entries, err := readAptSources(dir)
	if err != nil {
		t.Fatal(err)
	}
	archives := debianArchives(entries)
	want := []string{
		"http://m1.test/debian/pool/main/k/kmod/f",
		"http://m2.test/debian/pool/main/k/kmod/f",
		"http://sec.test/debian-security/pool/updates/main/k/kmod/f",
		"http://sec.test/debian-security/pool/updates/contrib/k/kmod/f",
		"http://plain.test/debian/pool/main/k/kmod/f",
		"http://plain.test/debian/pool/non-free/k/kmod/f",
		"http://vendor.test/pool/main/k/kmod/f",
	}
	if diff := cmp.Diff(want, poolAddresses(archives, "kmod", "f")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for source, prefix := range map[string]string{"libcap2": "libc", "lib": "l", "zlib": "z", "libx": "libx"} {
		if got, want := poolAddresses(archives[:1], source, "f")[0], "http://m1.test/debian/pool/main/"+prefix+"/"+source+"/f"; got != want {
			t.Errorf("%s is asked at %s, want %s", source, got, want)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
