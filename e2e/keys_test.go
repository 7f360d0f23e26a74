//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/image/qemu"
)

// keys are throw-away keys for Secure Boot.
type keys struct {
	dir  string
	vars string   // the firmware's variables that trust them
	env  []string // has slipway sign with them
}

func makeKeys(t *testing.T, dir string) keys {
	t.Helper()
	k := keys{dir: filepath.Join(dir, "keys"), env: []string{"XDG_CONFIG_HOME=" + dir}}
	k.vars = k.path("OVMF_VARS.fd")
	command(t, nil, "keys", "init", k.dir, "--rsa-bits", "2048")
	command(t, nil, "keys", "enroll-vars", k.dir)
	if err := os.Mkdir(filepath.Join(dir, "slipway"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "slipway", "config.toml"),
		"[signing]\nsecure-boot-key = \""+k.path("db.key")+"\"\nsecure-boot-cert = \""+k.path("db.crt")+"\"\n")
	return k
}

func (k keys) path(name string) string { return filepath.Join(k.dir, name) }

// firmware is firmware with Secure Boot that trusts the keys.
func (k keys) firmware(t *testing.T) qemu.Firmware {
	t.Helper()
	firmware, err := qemu.FindSecureFirmware()
	if err != nil {
		t.Fatal(err)
	}
	firmware.Vars = k.vars
	return firmware
}
