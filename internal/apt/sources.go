// Package apt reads the host's list of package sources (sources.list(5)), so
// that mirrors need not be named anywhere else.
package apt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Entry is a stanza or a line of apt's list of sources.
type Entry struct {
	URIs, Suites, Components []string
	SignedBy                 string // path of a keyring, or a key; empty where apt's own keys hold
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9_.-]+\.(list|sources)$`)

// Read reads sources.list and the files of sources.list.d below dir, usually
// /etc/apt, in the order in which apt does. Lists of mirrors in files
// (apt-transport-mirror(1)) are replaced by what they name.
func Read(dir string) ([]Entry, error) {
	paths := []string{filepath.Join(dir, "sources.list")}
	files, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range files {
		if fileName.MatchString(e.Name()) {
			paths = append(paths, filepath.Join(dir, "sources.list.d", e.Name()))
		}
	}
	var all []Entry
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parse := parseList
		if strings.HasSuffix(path, ".sources") {
			parse = parseDeb822
		}
		entries, err := parse(path, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if entries[i].URIs, err = expandMirrorLists(entries[i].URIs); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
		all = append(all, entries...)
	}
	return all, nil
}

// parseList reads the one-line format: deb [option=value …] URI SUITE COMPONENT….
func parseList(name string, r io.Reader) ([]Entry, error) {
	var entries []Entry
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		words := split(lines.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] != "deb" && words[0] != "deb-src" {
			return nil, fmt.Errorf("%s:%d: type %q is neither deb nor deb-src", name, n, words[0])
		}
		words = words[1:]
		var e Entry
		if len(words) > 0 && strings.HasPrefix(words[0], "[") {
			for option := range strings.FieldsSeq(strings.Trim(words[0], "[]")) {
				key, value, _ := strings.Cut(option, "=")
				if strings.EqualFold(strings.TrimRight(key, "+-"), "signed-by") {
					e.SignedBy = value
				}
			}
			words = words[1:]
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("%s:%d: an entry is: deb [options] URI SUITE COMPONENT...", name, n)
		}
		e.URIs, e.Suites, e.Components = words[:1:1], words[1:2:2], words[2:]
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entries, nil
}

// split splits a line at blanks, but not within [brackets] or "quotes", and drops a comment.
func split(line string) []string {
	var words []string
	var word strings.Builder
	var bracket, quote, any bool
	end := func() {
		if any {
			words = append(words, word.String())
		}
		word.Reset()
		any = false
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '"' && !bracket:
			quote, any = !quote, true
			continue
		case quote:
		case c == '[':
			bracket = true
		case c == ']':
			word.WriteByte(c)
			if bracket = false; strings.HasPrefix(word.String(), "[") { // options need no blank behind them
				end()
			}
			continue
		case bracket:
		case c == '#':
			end()
			return words
		case c == ' ' || c == '\t' || c == '\r':
			end()
			continue
		}
		word.WriteByte(c)
		any = true
	}
	end()
	return words
}

// parseDeb822 reads the stanza format.
func parseDeb822(name string, r io.Reader) ([]Entry, error) {
	var entries []Entry
	fields := map[string]string{}
	first, last := 0, ""
	end := func() error {
		defer func() { fields, first, last = map[string]string{}, 0, "" }()
		if len(fields) == 0 || slices.Contains([]string{"no", "false", "0", "off", "without", "disable"}, strings.ToLower(fields["enabled"])) {
			return nil
		}
		for _, key := range []string{"Types", "URIs", "Suites"} {
			if fields[strings.ToLower(key)] == "" {
				return fmt.Errorf("%s:%d: this stanza has no %s field", name, first, key)
			}
		}
		for _, typ := range strings.Fields(fields["types"]) {
			if typ != "deb" && typ != "deb-src" {
				return fmt.Errorf("%s:%d: type %q is neither deb nor deb-src", name, first, typ)
			}
		}
		entries = append(entries, Entry{
			URIs:       strings.Fields(fields["uris"]),
			Suites:     strings.Fields(fields["suites"]),
			Components: strings.Fields(fields["components"]),
			SignedBy:   fields["signed-by"],
		})
		return nil
	}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			if err := end(); err != nil {
				return nil, err
			}
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("%s:%d: a continuation line without a field before it", name, n)
			}
			fields[last] = strings.TrimSpace(fields[last] + "\n" + strings.TrimSpace(line))
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok || key == "" {
				return nil, fmt.Errorf("%s:%d: not a field (Name: value)", name, n)
			}
			if first == 0 {
				first = n
			}
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := end(); err != nil {
		return nil, err
	}
	return entries, nil
}

// expandMirrorLists replaces mirror+file:PATH, which cloud images use, by the addresses in that file (apt-transport-mirror(1)):
// apt's downloader takes only complete addresses.
func expandMirrorLists(uris []string) ([]string, error) {
	var all []string
	for _, uri := range uris {
		path, ok := strings.CutPrefix(uri, "mirror+file:")
		if !ok {
			all = append(all, uri)
			continue
		}
		if strings.HasPrefix(path, "//") {
			path = strings.TrimLeft(path, "/")
			path = "/" + path
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
				all = append(all, words[0])
			}
		}
	}
	return all, nil
}

var debianSuite = regexp.MustCompile(`^(buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|experimental|testing|stable|(old)+stable)(-updates|-security|-backports|-backports-sloppy|-proposed-updates|/updates)?$`)

// Debian picks the entries that may be a Debian archive, the likeliest first: those signed with Debian's keyring, those that
// leave the key to apt and have a Debian suite, and at last those with a Debian suite and another key (a private mirror, or some
// vendor's packages for that suite). Every file is verified, so a wrong guess costs a request and no more.
func Debian(entries []Entry) []Entry {
	var ranks [3][]Entry
	for _, e := range entries {
		if !slices.Contains(e.Components, "main") {
			continue
		}
		known := slices.ContainsFunc(e.Suites, debianSuite.MatchString)
		switch {
		case strings.HasPrefix(filepath.Base(e.SignedBy), "debian-archive-"):
			ranks[0] = append(ranks[0], e)
		case known && e.SignedBy == "":
			ranks[1] = append(ranks[1], e)
		case known:
			ranks[2] = append(ranks[2], e)
		}
	}
	return slices.Concat(ranks[:]...)
}
