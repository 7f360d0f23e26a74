package cli

import (
	"context"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/image"
	"slipway/internal/image/imagetest"
)

// rootdisk FILE KIND VERSION SYSTEMD
//
// It makes a small disk whose root is a file system of a kind, erofs or ext4, with /etc/motd,
// /etc/ssl/certs/ca-certificates.crt and /usr/share/os/root.json, and whose kernel
// has a stub that says it is of that version of systemd.
func cmdRootDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: rootdisk FILE KIND VERSION SYSTEMD")
	}
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), "parts")
	ts.Check(err)
	in, err := imagetest.RootInputs(dir, args[1], args[2], args[3], map[string]string{
		"etc/motd": "hello\n", "etc/ssl/certs/ca-certificates.crt": "old\n", "usr/share/os/root.json": "{}\n", "usr/share/os/copy": "a\n",
	})
	ts.Check(err)
	_, err = image.Assemble(context.Background(), in, ts.MkAbs(args[0]))
	ts.Check(err)
}
