package source

import (
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	for _, tc := range []struct {
		raw  string
		want URL
		err  string
	}{
		{raw: "https://example.test/a/b.tar.gz", want: URL{Kind: "http"}},
		{raw: "http://example.test:8080/?q=1", want: URL{Kind: "http"}},
		{raw: "file:///srv/a%20b", want: URL{Kind: "file", Path: "/srv/a b"}},
		{raw: "file:/srv/../a", want: URL{Kind: "file", Path: "/a"}},
		{raw: "file://localhost/a", want: URL{Kind: "file", Path: "/a"}},
		{raw: "debian:libxcrypt/libxcrypt_4.4.33.orig.tar.xz", want: URL{Kind: "debian", Source: "libxcrypt", File: "libxcrypt_4.4.33.orig.tar.xz"}},
		{raw: "debian:kmod/kmod_30+20221128.orig.tar.xz", want: URL{Kind: "debian", Source: "kmod", File: "kmod_30+20221128.orig.tar.xz"}},
		{raw: "go:example.com/tool/v2@v2.1.5", want: URL{Kind: "go", Module: "example.com/tool/v2", Version: "v2.1.5"}},
		{raw: "go:example.com/tool@v0.0.0-20240101000000-0123456789ab", want: URL{Kind: "go", Module: "example.com/tool", Version: "v0.0.0-20240101000000-0123456789ab"}},

		{raw: "", err: "no scheme"},
		{raw: "a.tar.gz", err: "no scheme"},
		{raw: "https:///a", err: "names no host"},
		{raw: "https://exa mple/", err: "malformed"},
		{raw: "http://example.test/%zz", err: "malformed"},
		{raw: "file:a", err: "relative"},
		{raw: "file:", err: "relative"},
		{raw: "file://host/a", err: `names the host "host"`},
		{raw: "file:///a%00b", err: "NUL"},
		{raw: "debian:kmod", err: "debian:SOURCE/FILE"},
		{raw: "debian:kmod/", err: "debian:SOURCE/FILE"},
		{raw: "debian:Kmod/x", err: "debian:SOURCE/FILE"},
		{raw: "debian:kmod/../x", err: "debian:SOURCE/FILE"},
		{raw: "debian:../x", err: "debian:SOURCE/FILE"},
		{raw: "debian:kmod/a/b", err: "debian:SOURCE/FILE"},
		{raw: "go:example.com/tool", err: "go:MODULE@VERSION"},
		{raw: "go:example.com/tool@latest", err: "go:MODULE@VERSION"},
		{raw: "go:example.com/tool@v1", err: "does not pin one version"},
		{raw: "go:example.com/tool@v2.0.0", err: "go:MODULE@VERSION"},
		{raw: "go:-x@v1.0.0", err: "go:MODULE@VERSION"},
		{raw: "ftp://example.test/a", err: `unknown scheme "ftp"`},
	} {
		got, err := ParseURL(tc.raw)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("ParseURL(%q) = %v, %v; want an error with %q", tc.raw, got, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("ParseURL(%q): %v", tc.raw, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("ParseURL(%q) (-want +got):\n%s", tc.raw, diff)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"https://example.test/a", "file:///a/../b", "debian:kmod/kmod_30.orig.tar.xz", "go:example.com/tool/v2@v2.1.5", "go:gopkg.in/yaml.v3@v3.0.1", "file:a", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseURL(raw)
		if err != nil {
			return
		}
		switch u.Kind {
		case "http":
		case "file":
			if !path.IsAbs(u.Path) || path.Clean(u.Path) != u.Path {
				t.Errorf("path %q", u.Path)
			}
		case "debian":
			if strings.ContainsAny(u.Source+u.File, "/ \n%") || strings.HasPrefix(u.File, ".") || len(u.Source) < 2 {
				t.Errorf("%q became %+v", raw, u)
			}
			if raw != "debian:"+u.Source+"/"+u.File {
				t.Errorf("%q became %+v", raw, u)
			}
		case "go":
			if raw != "go:"+u.Module+"@"+u.Version || strings.HasPrefix(u.Module, "-") {
				t.Errorf("%q became %+v", raw, u)
			}
		default:
			t.Errorf("%q became %+v", raw, u)
		}
	})
}
