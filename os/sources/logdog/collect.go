package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	topFolder = "logs"  // everything in the archive lies below it
	maxSize   = 1 << 26 // bytes kept of one output; the rest is cut off and reported
)

type collector struct {
	settings []string
	timeout  time.Duration
}

// archive carries out the requests and writes the archive in one rename. A
// request that fails does not stop the others: what went wrong stands in
// errors.txt of the archive. It reports how many failed.
func (c collector) archive(ctx context.Context, requests []request, output string) (failed int, err error) {
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(output), ".logdog-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	gz := gzip.NewWriter(f)
	tw := tar.NewWriter(gz)
	add := func(name string, content []byte) error {
		h := &tar.Header{Name: topFolder + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: time.Now()}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(content)
		return err
	}

	var problems bytes.Buffer
	for _, r := range requests {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		files, err := c.collect(ctx, r)
		if err != nil {
			failed++
			fmt.Fprintf(&problems, "%s: %s %s: %v\n", r.where, r.kind, r.output, err)
		}
		for _, file := range files {
			if err := add(file.name, file.content); err != nil {
				return failed, err
			}
		}
	}
	if problems.Len() > 0 {
		if err := add("errors.txt", problems.Bytes()); err != nil {
			return failed, err
		}
	}
	if err := errors.Join(tw.Close(), gz.Close(), f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return failed, err
	}
	return failed, os.Rename(f.Name(), output)
}

type collected struct {
	name    string
	content []byte
}

// collect gives the files of one request. It may give both files and an error.
func (c collector) collect(ctx context.Context, r request) ([]collected, error) {
	switch r.kind {
	case "exec":
		content, err := c.output(ctx, r.args)
		return []collected{{r.output, content}}, err
	case "file":
		content, err := read(r.args[0])
		if err != nil && content == nil {
			return nil, err
		}
		return []collected{{r.output, content}}, err
	case "settings":
		content, err := c.readSettings(r.args)
		if err != nil {
			return nil, err
		}
		return []collected{{r.output, content}}, nil
	default: // glob; the parser lets nothing else through
		paths, err := filepath.Glob(r.args[0])
		if err != nil {
			return nil, err
		}
		var files []collected
		var errs []error
		for _, path := range paths {
			if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
				continue
			}
			content, err := read(path)
			errs = append(errs, err)
			if content != nil {
				files = append(files, collected{strings.TrimPrefix(path, "/"), content})
			}
		}
		return files, errors.Join(errs...)
	}
}

func (c collector) output(ctx context.Context, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("took longer than %s", c.timeout))
	defer cancel()
	out := &limited{}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil && out.cut {
		err = errTooLong
	}
	return out.Bytes(), err
}

var errTooLong = fmt.Errorf("cut off after %d MiB", maxSize>>20)

// limited is a buffer that takes in everything and keeps the first maxSize bytes.
type limited struct {
	bytes.Buffer
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if room := maxSize - l.Len(); len(p) > room {
		p, l.cut = p[:room], true
	}
	_, _ = l.Buffer.Write(p)
	return n, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxSize {
		return content[:maxSize], fmt.Errorf("%s: %w", path, errTooLong)
	}
	return content, nil
}

// readSettings gives the settings whose dotted names are or lie below one of the
// prefixes as one JSON object. A setting is a file; its path below a settings
// folder is the dotted name, percent-encoded segment by segment; it holds a JSON
// value. Files with a dot in the name are metadata.
func (c collector) readSettings(prefixes []string) ([]byte, error) {
	all := map[string]any{}
	for _, dir := range c.settings {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || e.IsDir() || strings.Contains(e.Name(), ".") {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			var names []string
			for _, segment := range strings.Split(rel, "/") {
				name, err := url.PathUnescape(segment)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				names = append(names, name)
			}
			if !wanted(names, prefixes) {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var value any
			if err := json.Unmarshal(content, &value); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			set(all, names, value)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	content, err := json.MarshalIndent(all, "", "  ")
	return append(content, '\n'), err
}

func wanted(names, prefixes []string) bool {
	if len(prefixes) == 0 {
		return true
	}
	return slices.ContainsFunc(prefixes, func(p string) bool {
		want := strings.Split(strings.TrimPrefix(p, "settings."), ".")
		return len(names) >= len(want) && slices.Equal(names[:len(want)], want)
	})
}

func set(tree map[string]any, names []string, value any) {
	for _, n := range names[:len(names)-1] {
		next, ok := tree[n].(map[string]any)
		if !ok {
			next = map[string]any{}
			tree[n] = next
		}
		tree = next
	}
	tree[names[len(names)-1]] = value
}
