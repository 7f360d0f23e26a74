package compare

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxText = 16 << 20
	// maxLines bounds the differing lines that are reported of one text.
	maxLines = 3
)

// text reports the first lines that differ if both are UTF-8 text that fits
// into memory. Behind an inserted line nothing is where it was, so only the
// first is reported of texts with different numbers of lines.
func (c *comparison) text(path string, a, b blob) (done bool, err error) {
	var lines [2][]string
	for i, side := range []blob{a, b} {
		if side.size > maxText {
			return false, nil
		}
		raw, err := side.bytes(0, side.size)
		if err != nil {
			return false, err
		}
		if bytes.IndexByte(raw, 0) >= 0 || !utf8.Valid(raw) {
			return false, nil
		}
		lines[i] = strings.SplitAfter(string(raw), "\n")
		if n := len(lines[i]); lines[i][n-1] == "" {
			lines[i] = lines[i][:n-1]
		}
	}
	la, lb := lines[0], lines[1]
	left := maxLines
	if len(la) != len(lb) {
		c.report(path, "length", plural(int64(len(la)), "line"), plural(int64(len(lb)), "line"))
		left = 1
	}
	for i := range max(len(la), len(lb)) {
		var va, vb string
		switch {
		case i >= len(la):
			vb = showOne(strings.TrimSuffix(lb[i], "\n"))
		case i >= len(lb):
			va = showOne(strings.TrimSuffix(la[i], "\n"))
		case la[i] == lb[i]:
			continue
		default:
			ta, tb := strings.TrimSuffix(la[i], "\n"), strings.TrimSuffix(lb[i], "\n")
			if ta == tb { // one ends without a newline
				ta, tb = la[i], lb[i]
			}
			va, vb = show(ta, tb)
		}
		if left--; left < 0 {
			c.report(path, "and more lines", "", "")
			break
		}
		c.report(path, fmt.Sprintf("line %d", i+1), va, vb)
		if len(la) != len(lb) {
			break
		}
	}
	return true, nil
}
