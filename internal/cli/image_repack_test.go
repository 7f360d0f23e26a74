package cli

import (
	"context"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/image"
	"slipway/internal/image/imagetest"
)

// erofsdisk FILE VERSION SYSTEMD
//
// It makes a small disk whose root is a file system with /etc/motd,
// /etc/ssl/certs/ca-certificates.crt and /usr/share/os/root.json, and whose kernel
// has a stub that says it is of that version of systemd.
func cmdErofsDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: erofsdisk FILE VERSION SYSTEMD")
	}
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), "parts")
	ts.Check(err)
	in, err := imagetest.ErofsInputs(dir, args[1], args[2], map[string]string{
		"etc/motd": "hello\n", "etc/ssl/certs/ca-certificates.crt": "old\n", "usr/share/os/root.json": "{}\n", "usr/share/os/copy": "a\n",
	})
	ts.Check(err)
	_, err = image.Assemble(context.Background(), in, ts.MkAbs(args[0]))
	ts.Check(err)
}
