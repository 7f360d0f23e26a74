package workspace

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// UserFile is the name of the user's configuration, in the folder slipway of the
// user's configuration folder.
const UserFile = "config.toml"

// EnvCacheRef names the environment variable that comes before every
// configuration of Cache.Ref; "off" is no team cache.
const EnvCacheRef = "SLIPWAY_CACHE_REF"

// User is the user's configuration.
type User struct {
	Cache Cache `toml:"cache" doc:"The team's shared cache of results, in an OCI registry."`

	positions
}

// LoadUser reads the user's configuration: $XDG_CONFIG_HOME/slipway/config.toml, or
// that of ~/.config. A missing file says nothing. Findings come all at once as an
// error of type Errors.
func LoadUser() (*User, error) {
	u := &User{}
	dir, err := os.UserConfigDir()
	if err != nil {
		return u, nil // no home, no configuration
	}
	path := filepath.Join(dir, "slipway", UserFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, err
	}
	pos, findings := decode(path, data, u)
	u.positions = pos
	return u, findings.Err()
}

// TeamCache is the team cache of a workspace for a user, with absolute paths of
// key files; Ref is empty where there is none.
func (w *Workspace) TeamCache(u *User) Cache {
	c := w.Config.Cache
	absolute := func(dir, path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	keys := func(dir string, list []string) (paths []string) {
		for _, k := range list {
			paths = append(paths, absolute(dir, k))
		}
		return paths
	}
	c.PublicKeys, c.SignKey = keys(w.Root, c.PublicKeys), absolute(w.Root, c.SignKey)
	userDir := filepath.Dir(u.positions.file)
	for key, take := range map[string]func(){
		"cache.ref":         func() { c.Ref = u.Cache.Ref },
		"cache.read":        func() { c.Read = u.Cache.Read },
		"cache.write":       func() { c.Write = u.Cache.Write },
		"cache.insecure":    func() { c.Insecure = u.Cache.Insecure },
		"cache.public-keys": func() { c.PublicKeys = keys(userDir, u.Cache.PublicKeys) },
		"cache.sign-key":    func() { c.SignKey = absolute(userDir, u.Cache.SignKey) },
	} {
		if _, ok := u.at[key]; ok {
			take()
		}
	}
	if c.Ref = cmp.Or(os.Getenv(EnvCacheRef), c.Ref); c.Ref == "off" {
		c.Ref = ""
	}
	return c
}
