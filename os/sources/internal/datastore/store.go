package datastore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dinghy/internal/durable"
	"dinghy/update"
)

const (
	currentLink = "current"
	workPrefix  = ".work-"
)

// Store is the folder of datastores:
//
//	current -> v1.1.0_<random>
//	v1.1.0_<random>/live/…   in format version 1.1.0
//	v1.0.0_<random>/live/…   what was current before
type Store struct {
	Dir string
	Ops durable.Ops
}

// Step turns the datastore in the folder source into one in the empty folder
// target, which is of the format version To.
type Step struct {
	To  update.Version
	Run func(source, target string) error
}

// Current is the folder in use and its version; "" if there is none yet.
func (s Store) Current() (dir string, version update.Version, err error) {
	link := filepath.Join(s.Dir, currentLink)
	name, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return "", version, nil
	}
	if err != nil {
		return "", version, err
	}
	text, _, ok := strings.Cut(strings.TrimPrefix(name, "v"), "_")
	version, err = update.ParseVersion(text)
	if !ok || err != nil || name != filepath.Base(name) || name[0] != 'v' {
		return "", version, fmt.Errorf("%s leads to %q: want a folder beside it that is named v<version>_<text>", link, name)
	}
	dir = filepath.Join(s.Dir, name)
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = errors.New("not a folder")
	}
	if err != nil {
		return "", version, fmt.Errorf("%s: %w", link, err)
	}
	return dir, version, nil
}

// Create makes an empty datastore of the version the current one.
func (s Store) Create(version update.Version) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	return s.build(version, func(work string) (string, error) {
		dir := filepath.Join(work, "new")
		return dir, os.MkdirAll(filepath.Join(dir, Live), 0o755)
	})
}

// Migrate runs the steps one after the other, from the current datastore on,
// and makes the result current. Until that happens, in one rename, the current
// datastore is as it was; if a step fails it stays, and nothing is left of the
// others. It is kept beside the new one afterwards.
func (s Store) Migrate(steps []Step) error {
	dir, _, err := s.Current()
	if err != nil {
		return err
	}
	if dir == "" {
		return fmt.Errorf("%s holds no datastore", s.Dir)
	}
	if len(steps) == 0 {
		return nil
	}
	return s.build(steps[len(steps)-1].To, func(work string) (string, error) {
		source := dir
		for i, step := range steps {
			target := filepath.Join(work, fmt.Sprint(i))
			if err := s.before("migrate to " + step.To.String()); err != nil {
				return "", err
			}
			if err := os.Mkdir(target, 0o755); err != nil {
				return "", err
			}
			if err := step.Run(source, target); err != nil {
				return "", err
			}
			source = target
		}
		return source, nil
	})
}

func (s Store) before(change string) error {
	if s.Ops.Before == nil {
		return nil
	}
	return s.Ops.Before(change)
}

func (s Store) build(version update.Version, fill func(work string) (string, error)) (err error) {
	old, _, err := s.Current()
	if err != nil {
		return err
	}
	// what an interrupted run left
	if err := s.clean(filepath.Base(old)); err != nil {
		return err
	}
	work, err := os.MkdirTemp(s.Dir, workPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(work))
		}
	}()
	made, err := fill(work)
	if err != nil {
		return err
	}
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	if err := durable.SyncTree(made); err != nil {
		return err
	}
	name := "v" + version.String() + "_" + strings.ToLower(rand.Text())
	if err := s.Ops.Rename(made, filepath.Join(s.Dir, name)); err != nil {
		return err
	}
	if err := s.Ops.Symlink(name, filepath.Join(s.Dir, currentLink)); err != nil {
		return err // the link may have been made; the next run removes what is not in use
	}
	// From here on the new one is current: what is left over does no harm, and
	// the next run removes it.
	_ = s.clean(name, filepath.Base(old))
	return nil
}

// clean removes what is not among the names, except for files of others.
func (s Store) clean(keep ...string) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		ours := strings.HasPrefix(name, workPrefix) || durable.Temporary(name) || e.IsDir() && name[0] == 'v' && strings.Contains(name, "_")
		for _, k := range keep {
			ours = ours && name != k
		}
		if ours {
			if err := s.Ops.Remove(filepath.Join(s.Dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
