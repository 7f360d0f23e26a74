package source

import (
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"strings"

	"golang.org/x/mod/module"
)

// URL is the parsed address of an external file.
type URL struct {
	Kind            string // "http" (https too), "file", "debian", "go" or "vendor"
	Path            string // file: absolute path; vendor: folder of a module, relative to Options.Root
	Source, File    string // debian: source package and the name of its file in the archive
	Module, Version string // go: module path and pinned version
}

var debianSource = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
var debianFile = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.~_-]*$`)

// ParseURL understands these addresses:
//
//	https://HOST/PATH, http://HOST/PATH
//	file:///ABSOLUTE/PATH
//	debian:SOURCE/FILE         an upstream file of a Debian source package, from the archive that the host's apt uses
//	go:MODULE@VERSION          a Go module with its dependencies vendored, as a tar archive
//	go:./FOLDER                the dependencies of the workspace's Go module in a folder, as a tar archive of its folder vendor
func ParseURL(raw string) (URL, error) {
	scheme, rest, ok := strings.Cut(raw, ":")
	if !ok {
		return URL{}, fmt.Errorf("address %q has no scheme: use https:, http:, file:, debian: or go:", raw)
	}
	switch scheme {
	case "http", "https":
		u, err := url.Parse(raw)
		if err != nil {
			return URL{}, fmt.Errorf("malformed address: %w", err)
		}
		if u.Hostname() == "" {
			return URL{}, fmt.Errorf("address %q names no host", raw)
		}
		return URL{Kind: "http"}, nil
	case "file":
		u, err := url.Parse(raw)
		if err != nil {
			return URL{}, fmt.Errorf("malformed address: %w", err)
		}
		if u.Host != "" && u.Host != "localhost" {
			return URL{}, fmt.Errorf("address %q names the host %q: a file address is file:///absolute/path", raw, u.Host)
		}
		if !path.IsAbs(u.Path) {
			return URL{}, fmt.Errorf("address %q is relative: a file address is file:///absolute/path (files beside the manifest need no address)", raw)
		}
		if strings.ContainsRune(u.Path, 0) {
			return URL{}, fmt.Errorf("address %q holds a NUL byte", raw)
		}
		return URL{Kind: "file", Path: path.Clean(u.Path)}, nil
	case "debian":
		source, file, _ := strings.Cut(rest, "/")
		if !debianSource.MatchString(source) || !debianFile.MatchString(file) {
			return URL{}, fmt.Errorf("address %q is not debian:SOURCE/FILE, such as debian:kmod/kmod_30.orig.tar.xz", raw)
		}
		return URL{Kind: "debian", Source: source, File: file}, nil
	case "go":
		if folder, ok := strings.CutPrefix(rest, "./"); ok {
			if !fs.ValidPath(folder) || strings.ContainsRune(folder, 0) {
				return URL{}, fmt.Errorf("address %q is not go:./FOLDER with a folder of the workspace, such as go:./sources", raw)
			}
			return URL{Kind: "vendor", Path: folder}, nil
		}
		mod, version, _ := strings.Cut(rest, "@")
		if err := module.Check(mod, version); err != nil {
			return URL{}, fmt.Errorf("address %q is not go:MODULE@VERSION with a full version, such as go:example.com/tool@v1.2.3: %w", raw, err)
		}
		if module.CanonicalVersion(version) != version {
			return URL{}, fmt.Errorf("address %q: %q does not pin one version", raw, version)
		}
		return URL{Kind: "go", Module: mod, Version: version}, nil
	}
	return URL{}, fmt.Errorf("address %q has the unknown scheme %q: use https:, http:, file:, debian: or go:", raw, scheme)
}
