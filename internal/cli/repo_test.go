package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/image/imagetest"
)

// release STEM VARIANT VERSION [TEXT]: writes the images of a release, STEM-root.img,
// STEM-hash.img and STEM-uki.efi. With another text they have other content.
func cmdRelease(ts *testscript.TestScript, _ bool, args []string) {
	stem := ts.MkAbs(args[0])
	root, hash, kernel, err := imagetest.Release(strings.Join(args[1:], " "), "VARIANT_ID="+args[1]+"\nIMAGE_VERSION="+args[2]+"\n")
	ts.Check(errors.Join(err, os.MkdirAll(filepath.Dir(stem), 0o755)))
	for name, data := range map[string][]byte{"-root.img": root, "-hash.img": hash, "-uki.efi": kernel} {
		ts.Check(os.WriteFile(stem+name, data, 0o644))
	}
}
