package compare

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// content is what a file of some kind consists of.
type content struct {
	attrs   []attr
	members []member
	// unread says that some members' data could not be read.
	unread bool
}

// attr is a property with one value, or a list of them.
type attr struct {
	key    string
	values []string
	// derived marks what follows from the rest: it is only reported if
	// nothing else of the same content differs.
	derived bool
}

// member is a named part. Two members may have the same name.
type member struct {
	name    string
	attrs   []attr
	data    blob
	derived bool // as in attr
}

func value(key string, v any) attr { return attr{key: key, values: []string{fmt.Sprint(v)}} }

func derived(a attr) attr {
	a.derived = true
	return a
}

// comparison collects the differences of one pair of files.
type comparison struct {
	found      []Difference // at most maxDetails
	count      int          // all of them
	spoolLimit int64
	spools     []*os.File
}

func (c *comparison) report(path, what, a, b string) {
	if c.count++; c.count <= maxDetails {
		c.found = append(c.found, Difference{Path: path, What: what, A: a, B: b})
	}
}

// blobs compares two files or members; its errors are those of reading.
func (c *comparison) blobs(path string, a, b blob, depth int) error {
	if a.size == b.size {
		if first, _, err := differing(a, b, false); err != nil || first < 0 {
			return err
		}
	}
	ka, err := kindOf(a)
	if err != nil {
		return err
	}
	kb, err := kindOf(b)
	if err != nil {
		return err
	}
	before := c.count
	if ka != kb && a.size > 0 && b.size > 0 {
		c.report(path, "kind", ka.String(), kb.String())
	}
	if ka != nil && ka == kb && depth < maxDepth {
		defer c.release(len(c.spools))
		ca, errA := ka.open(c, a)
		cb, errB := ka.open(c, b)
		if err := errors.Join(errA, errB); errors.Is(err, errSpool) {
			return err
		} else if err != nil {
			c.report(path, "as "+ka.name, message(errA), message(errB))
		} else {
			if err := c.contents(path, ca, cb, depth); err != nil {
				return err
			}
			if c.count > before {
				return nil
			}
			if ca.unread || cb.unread {
				c.report(path, "equal in all members that could be read, but not in its bytes", "", "")
			} else {
				c.report(path, "equal in all members, but not in its bytes", "", "")
			}
		}
	}
	if ka == nil && kb == nil {
		if done, err := c.text(path, a, b); done || err != nil {
			return err
		}
	}
	return c.bytes(path, a, b)
}

func message(err error) string {
	if err == nil {
		return "intact"
	}
	return showOne(err.Error())
}

func (c *comparison) contents(path string, a, b content, depth int) error {
	before := c.count
	c.attrs(path, a.attrs, b.attrs, false)
	c.order(path, a.members, b.members)
	if err := c.members(path, a.members, b.members, depth, false); err != nil || c.count > before {
		return err
	}
	c.attrs(path, a.attrs, b.attrs, true)
	return c.members(path, a.members, b.members, depth, true)
}

// members compares in two passes: what is not derived, and if that is equal
// everywhere, the rest.
func (c *comparison) members(path string, as, bs []member, depth int, derived bool) error {
	for _, p := range pairs(as, bs, func(m member) string { return m.name }) {
		sub := path + ": " + p.name
		m := cmp.Or(p.a, p.b)
		switch {
		case p.a != nil && p.b != nil:
			if m.derived == derived {
				c.attrs(sub, p.a.attrs, p.b.attrs, false)
				if err := c.blobs(sub, p.a.data, p.b.data, depth+1); err != nil {
					return err
				}
			}
			if derived {
				c.attrs(sub, p.a.attrs, p.b.attrs, true)
			}
		case m.derived != derived:
		case p.a == nil:
			c.report(sub, "only in B", "", "")
		default:
			c.report(sub, "only in A", "", "")
		}
	}
	return nil
}

// order reports members that both sides have in another sequence.
func (c *comparison) order(path string, as, bs []member) {
	var a, b []string
	for _, p := range pairs(as, bs, func(m member) string { return m.name }) {
		if p.a != nil && p.b != nil {
			a = append(a, p.name)
		}
	}
	for _, p := range pairs(bs, as, func(m member) string { return m.name }) {
		if p.a != nil && p.b != nil {
			b = append(b, p.name)
		}
	}
	for i := range a {
		if a[i] != b[i] {
			va, vb := show(a[i], b[i])
			c.report(path, fmt.Sprintf("order of members, from number %d on", i+1), va, vb)
			return
		}
	}
}

func (c *comparison) attrs(path string, as, bs []attr, derived bool) {
	for _, p := range pairs(as, bs, func(a attr) string { return a.key }) {
		switch {
		case p.a == nil && p.b.derived == derived:
			c.report(path, p.name, "", showOne(strings.Join(p.b.values, " ")))
		case p.b == nil && p.a.derived == derived:
			c.report(path, p.name, showOne(strings.Join(p.a.values, " ")), "")
		case p.a != nil && p.b != nil && p.a.derived == derived:
			c.values(path, p.name, p.a.values, p.b.values)
		}
	}
}

// values reports which values only one side has; of lists with the same
// values, the first that moved.
func (c *comparison) values(path, key string, a, b []string) {
	if slices.Equal(a, b) {
		return
	}
	onlyA, onlyB := without(a, b), without(b, a)
	if len(onlyA)+len(onlyB) > 0 {
		va, vb := show(strings.Join(onlyA, " "), strings.Join(onlyB, " "))
		if len(onlyA) == 0 {
			va, vb = "", showOne(strings.Join(onlyB, " "))
		}
		if len(onlyB) == 0 {
			va, vb = showOne(strings.Join(onlyA, " ")), ""
		}
		c.report(path, key, va, vb)
		return
	}
	for i := range a {
		if a[i] != b[i] {
			va, vb := show(a[i], b[i])
			c.report(path, fmt.Sprintf("%s, order from number %d on", key, i+1), va, vb)
			return
		}
	}
}

// without returns the values of a that are left when each of b's has taken
// one away.
func without(a, b []string) (left []string) {
	n := map[string]int{}
	for _, v := range b {
		n[v]++
	}
	for _, v := range a {
		if n[v]--; n[v] < 0 {
			left = append(left, v)
		}
	}
	return left
}

// bytes reports what can be said of two blobs that are known to differ.
func (c *comparison) bytes(path string, a, b blob) error {
	first, count, err := differing(a, b, true)
	if err != nil {
		return err
	}
	if a.size != b.size {
		c.report(path, "size", plural(a.size, "byte"), plural(b.size, "byte"))
	}
	if first < 0 {
		return nil
	}
	verb := "differ"
	if count == 1 {
		verb = "differs"
	}
	what := fmt.Sprintf("%s %s, the first at offset %#x", plural(count, "byte"), verb, first)
	if a.size != b.size { // what moved differs everywhere
		what = fmt.Sprintf("bytes differ from offset %#x on", first)
	}
	const excerpt = 16
	ea, err := a.bytes(first, min(excerpt, a.size-first))
	if err != nil {
		return err
	}
	eb, err := b.bytes(first, min(excerpt, b.size-first))
	if err != nil {
		return err
	}
	ta, tb := bytes.TrimRight(ea, "\x00"), bytes.TrimRight(eb, "\x00")
	if printable(ta) && printable(tb) {
		c.report(path, what, strconv.Quote(string(ta)), strconv.Quote(string(tb)))
	} else {
		c.report(path, what, hex.EncodeToString(ea), hex.EncodeToString(eb))
	}
	return nil
}

func plural(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func printable(b []byte) bool {
	return len(b) > 0 && utf8.Valid(b) && bytes.IndexFunc(b, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}

// maxShown bounds the length of a value in bytes.
const maxShown = 72

// show abbreviates two values around their first difference, and quotes both
// if one of them is more than a plain word.
func show(a, b string) (string, string) {
	const before = 16
	start := 0
	for start < min(len(a), len(b)) && a[start] == b[start] {
		start++
	}
	if start -= before; start < before || max(len(a), len(b)) <= maxShown {
		start = 0
	}
	for start > 0 && !utf8.RuneStart(a[start]) {
		start--
	}
	quote := !plain(a) || !plain(b)
	return abbreviate(a, start, quote), abbreviate(b, start, quote)
}

func showOne(s string) string { return abbreviate(s, 0, !plain(s)) }

func abbreviate(s string, start int, quote bool) string {
	head, tail := "", ""
	if start > 0 {
		s, head = s[start:], "…"
	}
	if len(s) > maxShown {
		end := maxShown
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s, tail = s[:end], "…"
	}
	if quote {
		s = strconv.Quote(s)
	}
	return head + s + tail
}

func plain(s string) bool {
	return s != "" && strconv.Quote(s) == `"`+s+`"` && !strings.Contains(s, " ")
}

type pair[T any] struct {
	name string
	a, b *T
}

// pairs brings together what has the same key, the second of a name with the
// second: in the order of as, then what only bs has.
func pairs[T any](as, bs []T, key func(T) string) []pair[T] {
	index := map[string]*T{}
	for name, b := range numbered(bs, key) {
		index[name] = b
	}
	var out []pair[T]
	for name, a := range numbered(as, key) {
		out = append(out, pair[T]{name, a, index[name]})
		delete(index, name)
	}
	for name, b := range numbered(bs, key) {
		if index[name] != nil {
			out = append(out, pair[T]{name, nil, b})
		}
	}
	return out
}

func numbered[T any](ts []T, key func(T) string) func(func(string, *T) bool) {
	return func(yield func(string, *T) bool) {
		seen := map[string]int{}
		for i := range ts {
			name := key(ts[i])
			if seen[name]++; seen[name] > 1 {
				name = fmt.Sprintf("%s (%d)", name, seen[name])
			}
			if !yield(name, &ts[i]) {
				return
			}
		}
	}
}
