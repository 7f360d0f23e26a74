package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"slipway/internal/sign"
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

// Signing is with which keys disk images are signed. Keys are references as
// sign.Load takes them, certificates are files.
type Signing struct {
	SecureBootKey  string `toml:"secure-boot-key" check:"text" default-doc:"disk images are not signed" doc:"Private key for Secure Boot, RSA: a PEM file, such as the db.key of slipway keys init, relative to the file that names it, or the pkcs11: URI of a key in a token."`
	SecureBootCert string `toml:"secure-boot-cert" check:"text" default-doc:"disk images are not signed" doc:"File with the key's X.509 certificate in PEM, which the firmware of hosts trusts."`
	VerityKey      string `toml:"verity-key" check:"text" default-doc:"the key for Secure Boot" doc:"Private key for the verity root hashes of images, RSA: a PEM file or a pkcs11: URI."`
	VerityCert     string `toml:"verity-cert" check:"text" default-doc:"the certificate for Secure Boot" doc:"File with the key's X.509 certificate in PEM, which kernels or systemd trust for root hashes."`
	ProvenanceKey  string `toml:"provenance-key" check:"text" default-doc:"provenance is not signed" doc:"Private key for the provenance of images, Ed25519, RSA or ECDSA P-256: a PEM file or a pkcs11: URI."`
}

// Enabled tells whether disk images are signed.
func (s Signing) Enabled() bool { return s.SecureBootKey != "" }

// RootHash gives key and certificate with which root hashes are signed; "" where
// they are not.
func (s Signing) RootHash() (key, certificate string) {
	if s.VerityKey != "" {
		return s.VerityKey, s.VerityCert
	}
	return s.SecureBootKey, s.SecureBootCert
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
	for _, pair := range [][2]string{
		{"secure-boot-key", "secure-boot-cert"}, {"secure-boot-cert", "secure-boot-key"}, {"verity-key", "verity-cert"}, {"verity-cert", "verity-key"},
	} {
		if at, ok := u.at["signing."+pair[0]]; ok {
			if _, ok := u.at["signing."+pair[1]]; !ok {
				findings.add(at, "signing."+pair[1], `"signing.`+pair[1]+`" is missing`, "key and certificate go together; slipway keys init makes them")
			}
		}
	}
	for _, ref := range []*string{&u.Signing.SecureBootKey, &u.Signing.SecureBootCert, &u.Signing.VerityKey, &u.Signing.VerityCert, &u.Signing.ProvenanceKey} {
		*ref = sign.Ref(filepath.Dir(path), *ref)
	}
	return u, findings.Err()
}

// TeamCache is the team cache of a workspace for a user, with absolute paths of
// key files; Ref is empty where there is none.
func (w *Workspace) TeamCache(u *User) Cache {
	c := w.Config.Cache
	keys := func(dir string, list []string) (paths []string) {
		for _, k := range list {
			paths = append(paths, sign.Ref(dir, k))
		}
		return paths
	}
	c.PublicKeys, c.SignKey = keys(w.Root, c.PublicKeys), sign.Ref(w.Root, c.SignKey)
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
		"cache.sign-key":    func() { c.SignKey = sign.Ref(userDir, u.Cache.SignKey) },
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
