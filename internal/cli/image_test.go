package cli

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"slipway/internal/image"
	"slipway/internal/image/imagetest"
)

// disk FILE VERSION
//
// It makes a small disk image.
func cmdDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: disk FILE VERSION")
	}
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), "parts")
	ts.Check(err)
	in, err := imagetest.Inputs(dir, args[1])
	ts.Check(err)
	_, err = image.Assemble(context.Background(), in, ts.MkAbs(args[0]))
	ts.Check(err)
}

// patch FILE OFFSET|TEXT
//
// It changes the byte at an offset, counted from the end where it is negative, or
// the first of a text.
func cmdPatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: patch FILE OFFSET|TEXT")
	}
	off, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		if off = int64(strings.Index(ts.ReadFile(args[0]), args[1])); off < 0 {
			ts.Fatalf("%s does not hold %q", args[0], args[1])
		}
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	if off < 0 {
		st, err := f.Stat()
		ts.Check(err)
		off += st.Size()
	}
	b := make([]byte, 1)
	_, rerr := f.ReadAt(b, off)
	b[0] ^= 1
	_, werr := f.WriteAt(b, off)
	ts.Check(errors.Join(rerr, werr, f.Close()))
}
