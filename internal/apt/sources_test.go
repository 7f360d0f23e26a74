package apt

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		parse func(string, io.Reader) ([]Entry, error)
		text  string
		want  []Entry
		err   string
	}{
		{"one line each", parseList, `
# a comment
deb http://mirror.test/debian bookworm main contrib # trailing
  deb-src	http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x.test/ trixie main
deb [ signed-by=/k.asc ]https://y.test/ ./
deb cdrom:[Debian GNU/Linux 12.0 _Bookworm_]/ bookworm main
deb "http://quoted.test/a b" stable main
`, []Entry{
			{URIs: []string{"http://mirror.test/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}},
			{URIs: []string{"http://mirror.test/debian"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
			{URIs: []string{"https://x.test/"}, Suites: []string{"trixie"}, Components: []string{"main"}, SignedBy: "/usr/share/keyrings/x.gpg"},
			{URIs: []string{"https://y.test/"}, Suites: []string{"./"}, Components: []string{}, SignedBy: "/k.asc"},
			{URIs: []string{"cdrom:[Debian GNU/Linux 12.0 _Bookworm_]/"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
			{URIs: []string{"http://quoted.test/a b"}, Suites: []string{"stable"}, Components: []string{"main"}},
		}, ""},
		{"unknown type", parseList, "\nrpm http://x.test stable main\n", nil, `f:2: type "rpm"`},
		{"too short", parseList, "deb http://x.test\n", nil, "f:1: an entry is"},
		{"stanzas", parseDeb822, `# head

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
`, []Entry{
			{URIs: []string{"http://a.test/debian", "http://b.test/debian"}, Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main", "contrib"}, SignedBy: "/usr/share/keyrings/debian-archive-keyring.gpg"},
			{URIs: []string{"http://c.test/"}, Suites: []string{"sid"}, Components: []string{"main"}, SignedBy: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nabc"},
		}, ""},
		{"missing field", parseDeb822, "\nTypes: deb\nSuites: sid\n", nil, "f:2: this stanza has no URIs field"},
		{"no field", parseDeb822, "Types: deb\nhello\n", nil, "f:2: not a field"},
		{"stray continuation", parseDeb822, " x\n", nil, "f:1: a continuation line"},
		{"unknown stanza type", parseDeb822, "Types: rpm\nURIs: x\nSuites: y\n", nil, `f:1: type "rpm"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.parse("f", strings.NewReader(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
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

func FuzzParse(f *testing.F) {
	f.Add("deb [signed-by=/k arch=amd64] http://m.test/debian bookworm main # c\n")
	f.Add("deb cdrom:[a b]/ sid main\ndeb \"x y\" sid main\n")
	f.Add("Types: deb\nURIs: a\n b\nSuites: sid\nComponents: main\nSigned-By: /k\n\n# c\nEnabled: no\n")
	f.Add("deb [[]]] a b")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string, io.Reader) ([]Entry, error){parseList, parseDeb822} {
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
			for _, e := range Debian(entries) {
				if len(e.URIs) == 0 || len(e.Suites) == 0 || len(e.Components) == 0 {
					t.Errorf("%q gave the archive %+v", text, e)
				}
			}
		}
	})
}
