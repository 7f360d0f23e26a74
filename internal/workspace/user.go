package workspace

import (
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
	Cache   Cache   `toml:"cache" doc:"The team's shared cache of results, in an OCI registry."`
	Signing Signing `toml:"signing" doc:"Keys with which disk images are signed as they are put together."`

	positions
}

// Signing is with which keys disk images are signed.
type Signing struct {
	SecureBootKey  string `toml:"secure-boot-key" check:"text" default-doc:"disk images are not signed" doc:"File with the private key for Secure Boot, RSA in PEM, such as the db.key of slipway keys init; relative to the file that names it."`
	SecureBootCert string `toml:"secure-boot-cert" check:"text" default-doc:"disk images are not signed" doc:"File with the key's X.509 certificate in PEM, which the firmware of hosts trusts."`
}

// Enabled tells whether disk images are signed.
func (s Signing) Enabled() bool { return s.SecureBootKey != "" }

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
	for _, pair := range [][2]string{{"secure-boot-key", "secure-boot-cert"}, {"secure-boot-cert", "secure-boot-key"}} {
		if at, ok := u.at["signing."+pair[0]]; ok {
			if _, ok := u.at["signing."+pair[1]]; !ok {
				findings.add(at, "signing."+pair[1], `"signing.`+pair[1]+`" is missing`, "key and certificate go together; slipway keys init makes them")
			}
		}
	}
	u.Signing.SecureBootKey, u.Signing.SecureBootCert = absolute(filepath.Dir(path), u.Signing.SecureBootKey), absolute(filepath.Dir(path), u.Signing.SecureBootCert)
	return u, findings.Err()
}

// absolute gives a path that a file of a folder names.
func absolute(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// TeamCache is the team cache of a workspace for a user, with absolute paths of
// key files; Ref is empty where there is none.
func (w *Workspace) TeamCache(u *User) Cache {
	c := w.Config.Cache
	keys := func(dir string, list []string) (paths []string) {
		for _, k := range list {
			paths = append(paths, absolute(dir, k))
		}
		return paths
	}
	c.PublicKeys, c.SignKey = keys(w.Root, c.PublicKeys), absolute(w.Root, c.SignKey)
	c.Places = map[string]Position{}
	for _, key := range []string{"ref", "public-keys", "sign-key"} {
		c.Places[key] = w.Config.Position("cache." + key)
		if u.written("cache." + key) {
			c.Places[key] = u.Position("cache." + key)
		}
	}
	userDir := filepath.Dir(u.file)
	for key, take := range map[string]func(){
		"cache.ref":         func() { c.Ref = u.Cache.Ref },
		"cache.read":        func() { c.Read = u.Cache.Read },
		"cache.write":       func() { c.Write = u.Cache.Write },
		"cache.insecure":    func() { c.Insecure = u.Cache.Insecure },
		"cache.public-keys": func() { c.PublicKeys = keys(userDir, u.Cache.PublicKeys) },
		"cache.sign-key":    func() { c.SignKey = absolute(userDir, u.Cache.SignKey) },
	} {
		if u.written(key) {
			take()
		}
	}
	if ref := os.Getenv(EnvCacheRef); ref != "" {
		c.Ref, c.Places["ref"] = ref, Position{File: "$" + EnvCacheRef}
	}
	if c.Ref == "off" {
		c.Ref = ""
	}
	return c
}
