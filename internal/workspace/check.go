package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/module"

	"slipway/internal/image"
)

// A rule says what is wrong with a text and what to do; both empty for nothing.
type rule = func(text string) (msg, hint string)

// checks are the rules that the check and keys tags name.
var checks = map[string]rule{
	"name":       pattern(`^[a-z][a-z0-9-]*$`, "is not a name", "a lower-case letter, then lower-case letters, digits and dashes"),
	"vendor":     pattern(`^[a-z][a-z0-9_]*$`, "is not a vendor name", "a lower-case letter, then lower-case letters, digits and underscores"),
	"version":    pattern(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`, "is not a version", "three numbers with dots between, such as 0.1.0"),
	"folder":     folderName,
	"suite":      pattern(`^[a-z][a-z0-9./-]*$`, "is not a name", "lower-case letters, digits, dots, dashes and slashes"),
	"deb":        pattern(`^[a-z0-9][a-z0-9+.-]+$`, "is not the name of a Debian package", "lower-case letters, digits, plus, dot and dash"),
	"rpm":        pattern(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`, "is not the name of an RPM", "letters, digits, plus, dot, dash and underscore; no version, no file name"),
	"goversion":  pattern(`^[1-9][0-9]*\.[0-9]+(\.[0-9]+|(rc|beta)[1-9][0-9]*)?$`, "is not a version of Go", "such as 1.26.8, without \"go\" before it"),
	"macro":      pattern(`^[A-Za-z_][A-Za-z0-9_]{2,}$`, "is not a name that RPM takes for a macro", "three or more letters, digits and underscores, without %"),
	"feature":    pattern(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`, "is not the name of a feature", "lower-case words with single dashes between, such as in-place-updates"),
	"text":       pattern(`^[^\pC]+$`, "is not one line of text", ""),
	"cmdline":    kernelParameter,
	"addon":      pattern(`^[a-z0-9][a-z0-9-]{0,63}$`, "is not the name of an addon", "up to 64 lower-case letters, digits and dashes, no dash first"),
	"web":        address("https", "http"),
	"lookaside":  address("https", "http", "file"),
	"url":        sourceURL,
	"filename":   fileName,
	"group":      sourceGroup,
	"migration":  pattern(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`, "is not the name of a migration", "up to 100 letters, digits, dots, dashes and underscores, the first a letter or digit"),
	"size":       func(text string) (msg, hint string) { _, msg, hint = size(text); return msg, hint },
	"repository": pattern(`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`, "is not a repository of a registry", "a host and a path without tag, such as registry.example.com/team/slipway-cache"),
	"sha256":     digest("SHA-256", 64),
	"sha512":     digest("SHA-512", 128),
}

var folderName = pattern(`^[A-Za-z0-9][A-Za-z0-9_.+-]*$`, "is not a folder name that Slipway takes", "letters, digits, plus, dot, dash and underscore")

func pattern(expr, msg, hint string) rule {
	// compiled when it is needed: all of them would take a tenth of a no-op build
	re := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
	return func(text string) (string, string) {
		if re().MatchString(text) {
			return "", ""
		}
		return fmt.Sprintf("%s: %q", msg, text), hint
	}
}

// digest checks a hexadecimal digest as the tools print it.
func digest(name string, digits int) rule {
	return func(text string) (string, string) {
		for i, c := range []byte(text) {
			switch {
			case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			case c >= 'A' && c <= 'F':
				return "has upper-case digits", "write it in lower case"
			default:
				return fmt.Sprintf("has %q at place %d, which is no hexadecimal digit", c, i+1), "only the digits, without a prefix such as sha256:"
			}
		}
		if len(text) != digits {
			hint := "compare it with the whole digest"
			switch len(text) {
			case 64:
				hint = "as long as a SHA-256: is the key sha256 meant?"
			case 128:
				hint = "as long as a SHA-512: is the key sha512 meant?"
			}
			return fmt.Sprintf("has %d digits; a %s has %d", len(text), name, digits), hint
		}
		return "", ""
	}
}

// fileName checks the name of a file that lies directly in a folder.
func fileName(text string) (string, string) {
	const hint = "a file name without folders"
	switch {
	case text == "":
		return "is empty", hint
	case strings.HasPrefix(text, "/"):
		return fmt.Sprintf("is an absolute path: %q", text), hint
	case text == "." || text == ".." || strings.HasPrefix(text, "../") || strings.Contains(text, "/../") || strings.HasSuffix(text, "/.."):
		return fmt.Sprintf("leaves its folder: %q", text), hint
	case strings.Contains(text, "/"):
		return fmt.Sprintf("has more than one component: %q", text), hint
	}
	return sourceFile(text)
}

var sourceFile = pattern(`^[A-Za-z0-9_][A-Za-z0-9_.+~^@=,-]*$`, "is not a file name that Slipway takes", "letters, digits and _ . + ~ ^ @ = , - only, not beginning with a dot")

func sourceGroup(text string) (string, string) {
	const hint = "a folder below sources/, such as logdog or api/server; a dot is all of sources/"
	if text == "." {
		return "", ""
	}
	if strings.HasPrefix(text, "/") {
		return fmt.Sprintf("is an absolute path: %q", text), hint
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == ".." {
			return fmt.Sprintf("leaves sources/: %q", text), hint
		}
		if msg, _ := folderName(part); msg != "" {
			return fmt.Sprintf("is not a folder name that Slipway takes: %q", text), hint
		}
	}
	return "", ""
}

// ParseSize reads an amount of memory, such as 6GiB, and gives it in bytes. The
// error quotes the text and says what is wrong with it.
func ParseSize(text string) (int64, error) {
	n, msg, hint := size(text)
	switch {
	case hint != "":
		return 0, fmt.Errorf("%s (%s)", msg, hint)
	case msg != "":
		return 0, errors.New(msg)
	}
	return n, nil
}

func size(text string) (n int64, msg, hint string) {
	hint = "a whole number and KiB, MiB, GiB or TiB, such as 6GiB"
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		digits, ok := strings.CutSuffix(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		shift := 10 * (i + 1)
		switch {
		case errors.Is(err, strconv.ErrRange) || n > math.MaxInt64>>shift:
			return 0, fmt.Sprintf("is more than can be counted: %q", text), ""
		case err != nil:
			return 0, fmt.Sprintf("is not an amount of memory: %q", text), hint
		case n == 0:
			return 0, fmt.Sprintf("is nothing: %q", text), "leave it out where it is not known"
		}
		return int64(n) << shift, "", ""
	}
	return 0, fmt.Sprintf("is not an amount of memory: %q", text), hint
}

// kernelParameter checks one parameter: the kernel divides its command line at
// blanks outside double quotes.
func kernelParameter(text string) (string, string) {
	quoted := false
	for _, c := range text {
		switch {
		case c < ' ' || c > '~':
			return fmt.Sprintf("holds %q, which the kernel command line cannot", c), ""
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			return fmt.Sprintf("is more than one parameter: %q", text), "make it several entries, or put the value in double quotes"
		}
	}
	switch {
	case text == "":
		return "is empty", ""
	case quoted:
		return fmt.Sprintf("has a double quote that is not closed: %q", text), ""
	}
	if err := image.CheckParameter(text); err != nil {
		return "cannot be: " + err.Error(), ""
	}
	return "", ""
}

func address(schemes ...string) rule {
	return func(text string) (string, string) {
		u, err := url.Parse(text)
		if err != nil {
			return "is not an address: " + err.Error(), ""
		}
		for _, s := range schemes {
			if u.Scheme != s {
				continue
			}
			switch {
			case s == "file" && (u.Host != "" || !strings.HasPrefix(u.Path, "/")):
				return fmt.Sprintf("is not the address of a local file: %q", text), "file:/// and an absolute path"
			case s != "file" && u.Hostname() == "":
				return fmt.Sprintf("names no host: %q", text), ""
			}
			return "", ""
		}
		return fmt.Sprintf("is not an address that is known here: %q", text), "known kinds: " + strings.Join(schemes, ", ")
	}
}

var debianSource = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

func sourceURL(text string) (string, string) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "debian":
		const hint = "debian:<source package>/<tarball>, such as debian:kmod/kmod_30+20221128.orig.tar.xz"
		source, tarball, ok := strings.Cut(rest, "/")
		if !ok || !debianSource.MatchString(source) {
			return fmt.Sprintf("names no Debian source package: %q", text), hint
		}
		if msg, _ := fileName(tarball); msg != "" {
			return fmt.Sprintf("names no tarball: %q", text), hint
		}
		return "", ""
	case "go":
		const hint = "go:<module>@<version>, such as go:golang.org/x/sys@v0.49.0, or go:./<folder of a module in the workspace>"
		if folder, ok := strings.CutPrefix(rest, "./"); ok {
			if !fs.ValidPath(folder) {
				return fmt.Sprintf("names no folder of the workspace: %q", text), hint
			}
			return "", ""
		}
		path, version, ok := strings.Cut(rest, "@")
		if !ok {
			return fmt.Sprintf("names no version: %q", text), hint
		}
		if err := module.Check(path, version); err != nil {
			return "is not a Go module: " + err.Error(), hint
		}
		return "", ""
	case "https", "http", "file":
		return address(kind)(text)
	}
	return fmt.Sprintf("is not an address that is known here: %q", text), "known kinds: https, http, file, debian, go"
}
