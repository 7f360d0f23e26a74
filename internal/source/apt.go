package source

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

// aptEntry is a stanza or line of apt's list of sources (sources.list(5)).
type aptEntry struct {
	URIs, Suites, Components []string
	SignedBy                 string
}

var aptFileName = regexp.MustCompile(`^[A-Za-z0-9_.-]+\.(list|sources)$`)

// readAptSources reads sources.list and the files of sources.list.d as apt does, in its order.
func readAptSources(dir string) ([]aptEntry, error) {
	paths := []string{filepath.Join(dir, "sources.list")}
	files, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range files {
		if aptFileName.MatchString(e.Name()) {
			paths = append(paths, filepath.Join(dir, "sources.list.d", e.Name()))
		}
	}
	var all []aptEntry
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parse := parseAptList
		if strings.HasSuffix(path, ".sources") {
			parse = parseAptDeb822
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

// parseAptList reads the one-line format: deb [option=value …] URI SUITE COMPONENT….
func parseAptList(name string, r io.Reader) ([]aptEntry, error) {
	var entries []aptEntry
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		words := aptWords(lines.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] != "deb" && words[0] != "deb-src" {
			return nil, fmt.Errorf("%s:%d: type %q is neither deb nor deb-src", name, n, words[0])
		}
		words = words[1:]
		var e aptEntry
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

// aptWords splits a line at blanks, but not within [brackets] or "quotes", and drops a comment.
func aptWords(line string) []string {
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

// parseAptDeb822 reads the stanza format.
func parseAptDeb822(name string, r io.Reader) ([]aptEntry, error) {
	var entries []aptEntry
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
		entries = append(entries, aptEntry{
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

// debianArchives picks the entries that may be a Debian archive, the likeliest first: those signed with Debian's keyring, those that
// leave the key to apt and have a Debian suite, and at last those with a Debian suite and another key (a private mirror, or some
// vendor's packages for that suite). Every file is verified, so a wrong guess costs a request and no more.
func debianArchives(entries []aptEntry) []aptEntry {
	var ranks [3][]aptEntry
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

// poolAddresses are the addresses that a source package's file may have in these archives, main first. The security archive keeps its pool under
// "updates".
func poolAddresses(archives []aptEntry, source, file string) []string {
	prefix := source[:1]
	if strings.HasPrefix(source, "lib") && len(source) > 3 {
		prefix = source[:4]
	}
	var all []string
	for _, e := range archives {
		components := append([]string{"main"}, e.Components...)
		for _, uri := range e.URIs {
			if strings.HasPrefix(uri, "cdrom:") {
				continue
			}
			for _, component := range components {
				for _, suite := range e.Suites {
					pool := "pool/"
					if strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates") {
						pool = "pool/updates/"
					}
					address := strings.TrimRight(uri, "/") + "/" + pool + component + "/" + prefix + "/" + source + "/" + file
					if !slices.Contains(all, address) {
						all = append(all, address)
					}
				}
			}
		}
	}
	return all
}
