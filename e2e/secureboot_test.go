//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecureBoot signs a disk in both ways and boots it with Secure Boot. The image
// of the workspace is rebuilt with keys in the user's configuration and, at the end,
// without them; nothing but the disk is made anew.
func TestSecureBoot(t *testing.T) {
	unsigned := filepath.Join(t.TempDir(), "unsigned.img")
	copySparse(t, image(t), unsigned)
	keys, config := filepath.Join(t.TempDir(), "keys"), t.TempDir()
	command(t, nil, "keys", "init", keys, "--rsa-bits", "2048")
	command(t, nil, "keys", "enroll-vars", keys)
	vars := filepath.Join(keys, "OVMF_VARS.fd")

	text := "[signing]\nsecure-boot-key = \"" + filepath.Join(keys, "db.key") + "\"\nsecure-boot-cert = \"" + filepath.Join(keys, "db.crt") + "\"\n"
	if err := errors.Join(os.Mkdir(filepath.Join(config, "slipway"), 0o755), os.WriteFile(filepath.Join(config, "slipway", "config.toml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	command(t, []string{"XDG_CONFIG_HOME=" + config}, "-C", *workspace, "build")
	t.Cleanup(func() { command(t, nil, "-C", *workspace, "build") })
	signed := filepath.Join(t.TempDir(), "signed.img")
	copySparse(t, image(t), signed)

	t.Run("offline", func(t *testing.T) {
		request, out := filepath.Join(t.TempDir(), "request"), filepath.Join(t.TempDir(), "disk.img")
		command(t, nil, "sign", "prepare", request, "--image", unsigned, "--cert", filepath.Join(keys, "db.crt"))
		messages, err := filepath.Glob(filepath.Join(request, "*.tbs"))
		if err != nil || len(messages) != 2 {
			t.Fatalf("%v (%v): want those of boot loader and kernel", messages, err)
		}
		for _, m := range messages {
			cmd := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-sign", filepath.Join(keys, "db.key"), "-out", strings.TrimSuffix(m, ".tbs")+".sig", m)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		command(t, nil, "sign", "apply", request, "--output", out)
		if text, err := exec.CommandContext(t.Context(), "cmp", out, signed).CombinedOutput(); err != nil {
			t.Errorf("signed elsewhere, the disk is another one: %s", text)
		}
	})
	t.Run("signed", func(t *testing.T) {
		out, console, err := run(t, signed, secureBootState, "--secure-boot", vars)
		// efivarfs puts the attributes before the value
		if err != nil || strings.TrimSpace(out) != "06 00 00 00 01" {
			t.Errorf("SecureBoot is %q: %v\n%s", out, err, console)
		}
	})
	t.Run("unsigned", func(t *testing.T) {
		out, console, err := run(t, unsigned, "echo booted", "--secure-boot", vars, "--timeout", "3m")
		if err == nil {
			t.Fatalf("an unsigned image booted:\n%s", out)
		}
		if !strings.Contains(console, "Access Denied") {
			t.Errorf("the firmware does not say that it refused the boot loader:\n%s", console)
		}
	})
}

const secureBootState = `
mkdir -p /run/efivars
mount -t efivarfs efivarfs /run/efivars
od -A n -t x1 /run/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
`

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// command runs slipway with more environment.
func command(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(*slipway, args...) // also in Cleanup, where t.Context has ended
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("slipway %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
}
