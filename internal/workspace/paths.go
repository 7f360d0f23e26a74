package workspace

import (
	"io/fs"
	"path/filepath"
	"slices"
)

// Paths gives all that builds are made from, absolute, each once: the files, and
// the folders to which a file could be added that would belong to them. Not all
// need to be there.
func (w *Workspace) Paths() (files, dirs []string, err error) {
	files = []string{filepath.Join(w.Root, RootFile), filepath.Join(w.Root, LockFile), w.SDK.Manifest}
	dirs = []string{filepath.Join(w.Root, packagesDir), filepath.Join(w.Root, variantsDir), filepath.Join(w.Root, migrationsDir)}
	if w.Migrations != nil {
		files = append(files, filepath.Join(w.Root, filepath.FromSlash(MigrationsFile)))
	}
	groups := map[string]bool{}
	for _, p := range w.Packages {
		dirs, files = append(dirs, p.Dir), append(files, p.Manifest)
		for _, f := range p.Files {
			files = append(files, filepath.Join(p.Dir, f))
		}
		for _, g := range p.SourceGroups {
			groups[g] = true
		}
	}
	for _, v := range w.Variants {
		dirs, files = append(dirs, v.Dir), append(files, v.Manifest)
	}
	for g := range groups {
		err := filepath.WalkDir(filepath.Join(w.Root, sourcesDir, filepath.FromSlash(g)), func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
			case e.IsDir():
				dirs = append(dirs, path)
			default:
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(files)
	slices.Sort(dirs)
	return slices.Compact(files), slices.Compact(dirs), nil // groups may lie in each other
}
