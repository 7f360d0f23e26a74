//go:build e2e

package e2e

import (
	"bytes"
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
	k := makeKeys(t, t.TempDir())
	command(t, k.env, "-C", *workspace, "build")
	t.Cleanup(func() { command(t, nil, "-C", *workspace, "build") })
	signed := filepath.Join(t.TempDir(), "signed.img")
	copySparse(t, image(t), signed)

	t.Run("offline", func(t *testing.T) {
		request, out := filepath.Join(t.TempDir(), "request"), filepath.Join(t.TempDir(), "disk.img")
		command(t, nil, "sign", "prepare", request, "--image", unsigned, "--cert", k.path("db.crt"))
		messages, err := filepath.Glob(filepath.Join(request, "*.tbs"))
		if err != nil || len(messages) != 3 {
			t.Fatalf("%v (%v): want those of boot loader, kernel and root hash", messages, err)
		}
		for _, m := range messages {
			cmd := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-sign", k.path("db.key"), "-out", strings.TrimSuffix(m, ".tbs")+".sig", m)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		command(t, nil, "sign", "apply", request, "--output", out)
		if text, err := exec.CommandContext(t.Context(), "cmp", out, signed).CombinedOutput(); err != nil {
			t.Errorf("signed elsewhere, the disk is another one: %s", text)
		}
		command(t, nil, "image", "verify", out, "--cert", k.path("db.crt"))
	})
	t.Run("signed", func(t *testing.T) {
		out, console, err := run(t, signed, secureBootState, "--secure-boot", k.vars)
		// efivarfs puts the attributes before the value
		if err != nil || strings.TrimSpace(out) != "06 00 00 00 01" {
			t.Errorf("SecureBoot is %q: %v\n%s", out, err, console)
		}
	})
	t.Run("unsigned", func(t *testing.T) {
		out, console, err := run(t, unsigned, "echo booted", "--secure-boot", k.vars, "--timeout", "90s")
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
