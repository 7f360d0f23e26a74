// Package pkcs11test makes tokens of SoftHSM for tests.
package pkcs11test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
)

// EnvConfig names the environment variable with the configuration of SoftHSM.
const EnvConfig = "SOFTHSM2_CONF"

// places are where Debian puts the library.
var places = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*-linux-gnu/softhsm/libsofthsm2.so"}

// Module is the path of SoftHSM's library.
func Module() (string, error) {
	for _, p := range places {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("SoftHSM is not installed: apt-get install softhsm2 opensc")
}

// Token is a token whose content lies in a folder. Programs see it where EnvConfig
// has the value Config.
type Token struct {
	Module, Config, Label, PIN string
}

// New makes a token in a folder, which several of them may share.
func New(dir, label, pin string) (*Token, error) {
	module, err := Module()
	if err != nil {
		return nil, err
	}
	t := &Token{Module: module, Config: filepath.Join(dir, "softhsm2.conf"), Label: label, PIN: pin}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(t.Config, []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600); err != nil {
		return nil, err
	}
	return t, t.run("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", pin)
}

// Generate makes a key pair. kind is as pkcs11-tool has it: "rsa:2048",
// "EC:prime256v1".
func (t *Token) Generate(kind, label, id string) error {
	return t.Tool("--keypairgen", "--key-type", kind, "--label", label, "--id", id)
}

// Tool runs pkcs11-tool, logged into the token.
func (t *Token) Tool(args ...string) error {
	return t.run("pkcs11-tool", append([]string{"--module", t.Module, "--token-label", t.Label, "--login", "--pin", t.PIN}, args...)...)
}

// URI names a key of the token by its label.
func (t *Token) URI(object string) string {
	return "pkcs11:token=" + url.PathEscape(t.Label) + ";object=" + url.PathEscape(object) + "?module-path=" + t.Module
}

func (t *Token) run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), EnvConfig+"="+t.Config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
