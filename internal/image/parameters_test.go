package image

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/verity"
)

func TestSplitCmdline(t *testing.T) {
	for line, want := range map[string][]string{
		"":                           {},
		"  a  b ":                    {"a", "b"},
		`a="b c" d "e f"=g`:          {`a="b c"`, "d", `"e f"=g`},
		`dm-mod.create="r,,,ro,0 1"`: {`dm-mod.create="r,,,ro,0 1"`},
	} {
		if d := cmp.Diff(want, SplitCmdline(line)); d != "" {
			t.Errorf("%q: %s", line, d)
		}
	}
}

func TestChangeRoot(t *testing.T) {
	a := VerityRoot{verity.RootHash{1}, verity.Superblock{DataBlocks: 10, Salt: []byte{1}}}
	b := VerityRoot{verity.RootHash{2}, verity.Superblock{DataBlocks: 20}}
	line := func(r VerityRoot, mode Corruption, parameters ...string) string {
		t.Helper()
		l, err := Cmdline(parameters, "erofs", r.Hash, r.Super, mode)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, mode := range []Corruption{RestartOnCorruption, PanicOnCorruption, ErrorOnCorruption} {
		got, err := ChangeRoot(line(a, mode, "console=ttyS0", `x="y z"`), a, b, []string{"quiet"})
		if want := line(b, mode, "console=ttyS0", `x="y z"`, "quiet"); err != nil || got != want {
			t.Errorf("%s: got %s (%v), want %s", mode, got, err, want)
		}
	}
	good := line(a, RestartOnCorruption, "console=ttyS0")
	for _, bad := range []string{"", "console=ttyS0", good + " quiet", strings.Replace(good, " ro ", " rw ", 1), line(b, RestartOnCorruption)} {
		if _, err := ChangeRoot(bad, a, b, nil); err == nil {
			t.Errorf("took %q", bad)
		}
	}
	for _, p := range []string{"root=/dev/sda", "a b\"", strings.Repeat("x", 2048)} {
		if _, err := ChangeRoot(good, a, b, []string{p}); err == nil {
			t.Errorf("took the parameter %.20q", p)
		}
	}
}
