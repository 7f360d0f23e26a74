package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// request is one line of a configuration file:
//
//	exec OUTPUT COMMAND [ARGUMENT…]    standard output and error of a command
//	file OUTPUT PATH                   one file
//	glob PATTERN                       every file that matches, under its own path
//	settings OUTPUT [PREFIX…]          settings below the prefixes (all without one), as JSON
type request struct {
	kind   string
	output string   // path in the archive; empty for glob
	args   []string // what follows
	where  string   // file:line
}

// readConf reads every *.conf of the folders in order of their names; a file
// hides those of the same name in earlier folders. Folders may be missing.
func readConf(dirs []string) ([]request, error) {
	byName := map[string]string{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") {
				byName[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	names := []string{}
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)

	var all []request
	var errs []error
	outputs := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(byName[name])
		if err != nil {
			return nil, err
		}
		requests, err := parseConf(byName[name], string(text))
		errs = append(errs, err)
		for _, r := range requests {
			if before, ok := outputs[r.output]; ok && r.output != "" {
				errs = append(errs, fmt.Errorf("%s: output %q is used by %s already", r.where, r.output, before))
				continue
			}
			outputs[r.output] = r.where
			all = append(all, r)
		}
	}
	return all, errors.Join(errs...)
}

func parseConf(file, text string) ([]request, error) {
	var requests []request
	var errs []error
	for n, line := range strings.Split(text, "\n") {
		where := fmt.Sprintf("%s:%d", file, n+1)
		words, err := split(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
			continue
		}
		if len(words) == 0 {
			continue
		}
		r := request{kind: words[0], args: words[1:], where: where}
		least, most := 0, 0
		switch r.kind {
		case "exec":
			least, most = 2, 1000
		case "file":
			least, most = 2, 2
		case "settings":
			least, most = 1, 1000
		case "glob":
			least, most = 1, 1
		default:
			errs = append(errs, fmt.Errorf("%s: unknown request %q: one of exec, file, glob, settings", where, r.kind))
			continue
		}
		if len(r.args) < least || len(r.args) > most {
			errs = append(errs, fmt.Errorf("%s: %s takes %d to %d words, not %d", where, r.kind, least, most, len(r.args)))
			continue
		}
		if r.kind == "glob" {
			if _, err := filepath.Match(r.args[0], ""); err != nil || !filepath.IsAbs(r.args[0]) {
				errs = append(errs, fmt.Errorf("%s: %q is no absolute file pattern", where, r.args[0]))
				continue
			}
		} else {
			r.output, r.args = r.args[0], r.args[1:]
			if !filepath.IsLocal(r.output) {
				errs = append(errs, fmt.Errorf("%s: output %q leaves the archive", where, r.output))
				continue
			}
		}
		requests = append(requests, r)
	}
	return requests, errors.Join(errs...)
}

// split takes a line apart at blanks. Double quotes hold words together, # at
// the start of a word begins a comment.
func split(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\r")
		if line == "" || line[0] == '#' {
			return words, nil
		}
		var word strings.Builder
		quoted := false
		i := 0
		for ; i < len(line) && (quoted || !strings.ContainsRune(" \t\r", rune(line[i]))); i++ {
			if line[i] == '"' {
				quoted = !quoted
				continue
			}
			word.WriteByte(line[i])
		}
		if quoted {
			return nil, errors.New("quote without an end")
		}
		words = append(words, word.String())
		line = line[i:]
	}
}
