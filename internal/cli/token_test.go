package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/sign/pkcs11/pkcs11test"
)

// token PIN NAME=KIND...
//
// It makes a token with keys, labelled by the names, and sets each name in capitals
// to the URI of the key, and MODULE to the library. Kinds are those of pkcs11-tool
// --key-type. pkcs11-tool then notes its arguments in $WORK/pkcs11-tool.log.
func cmdToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: token PIN NAME=KIND...")
	}
	dir := filepath.Join(ts.Getenv("WORK"), "token")
	token, err := pkcs11test.New(dir, "script", args[0])
	ts.Check(err)
	ts.Setenv(pkcs11test.EnvConfig, token.Config)
	ts.Setenv("MODULE", token.Module)
	for i, arg := range args[1:] {
		name, kind, _ := strings.Cut(arg, "=")
		ts.Check(token.Generate(kind, name, fmt.Sprintf("%02x", i+1)))
		ts.Setenv(strings.ToUpper(name), token.URI(name))
	}
	real, err := exec.LookPath("pkcs11-tool")
	ts.Check(err)
	noted := "#!/bin/sh\necho \"$*\" >>" + ts.Getenv("WORK") + "/pkcs11-tool.log\nexec " + real + " \"$@\"\n"
	ts.Check(os.WriteFile(filepath.Join(dir, "pkcs11-tool"), []byte(noted), 0o755))
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}
