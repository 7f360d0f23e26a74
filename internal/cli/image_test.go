package cli

import (
	"context"
	"errors"
	"os"
	"strconv"

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

// patch FILE OFFSET
//
// It changes the byte at an offset, behind the last byte where it is negative.
func cmdPatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: patch FILE OFFSET")
	}
	off, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
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
