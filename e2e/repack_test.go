//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const repacked = `
say() { echo "=== $1"; }
say running
systemctl is-system-running --wait
say files
cat /etc/motd /usr/share/e2e/new/file
say owner
stat --format '%a %u %g' /etc/ssl/certs/ca-certificates.crt /usr/share/e2e/new/file
say bundle
cat /etc/ssl/certs/ca-certificates.crt
say root
findmnt --noheadings --output SOURCE,FSTYPE /
say cmdline
cat /proc/cmdline
say end
`

// TestRepack changes files of a finished image, signs it, and gives it an addon that
// is signed and one that is not. With Secure Boot, it boots with the files and with
// the parameters of the signed addon alone.
func TestRepack(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	k := makeKeys(t, dir)
	bundle, err := os.ReadFile(k.path("PK.crt"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path("text"), "repacked\n")

	command(t, k.env, "image", "addon", "--output", path("signed.addon.efi"), "--kernel-parameters", "e2e.signed=1 e2e.more=2")
	command(t, nil, "image", "addon", "--output", path("plain.addon.efi"), "--kernel-parameters", "e2e.plain=1", "--unsigned")
	command(t, k.env, "image", "repack", image(t), "--output", path("signed.img"), "--addon", path("signed.addon.efi"),
		"--file", "/etc/motd="+path("text"), "--file", "usr/share/e2e/new/file="+path("text"), "--ca-bundle", k.path("PK.crt"))
	command(t, nil, "image", "repack", path("signed.img"), "--output", path("disk.img"), "--addon", path("plain.addon.efi"))
	command(t, nil, "image", "verify", path("disk.img"))
	hash, err := os.ReadFile(path("signed-root.hash"))
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "fsck.erofs", path("disk-root.img"))
	tool(t, "veritysetup", "verify", path("disk-root.img"), path("disk-hash.img"), string(hash))
	tool(t, "sbverify", "--cert", k.path("db.crt"), path("disk-uki.efi"))

	out, console, err := run(t, path("disk.img"), repacked, "--secure-boot", k.vars)
	if err != nil || !strings.Contains(out, "=== end") {
		t.Fatalf("%v\n--- output\n%s\n--- console\n%s", err, out, console)
	}
	for name, want := range map[string]string{
		"running": "running\n", "files": "repacked\nrepacked\n", "owner": "644 0 0\n644 0 0\n", "bundle": string(bundle),
	} {
		if got := section(out, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := strings.Fields(section(out, "root")); len(got) != 2 || got[0] != "/dev/dm-0" || got[1] != "erofs" {
		t.Errorf("root: %q", got)
	}
	line := section(out, "cmdline")
	if !strings.Contains(line, string(hash)) || !strings.HasSuffix(strings.TrimSpace(line), " e2e.signed=1 e2e.more=2") || strings.Contains(line, "e2e.plain") {
		t.Errorf("command line: %s", line)
	}
	if !strings.Contains(console, `\loader\addons\plain.addon.efi`) || !strings.Contains(console, "Access denied") {
		t.Errorf("the stub does not say that it refused the addon that is not signed:\n%s", console)
	}
}
