package workspace

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Near returns up to three of the known names that name may be a slip of, the
// nearest first. It looks at each known name once.
func Near(name string, known []string) []string {
	limit := len(name) / 3
	type match struct {
		name string
		dist int
	}
	var found []match
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k), limit); d <= limit {
			found = append(found, match{k, d})
		}
	}
	slices.SortFunc(found, func(a, b match) int {
		return cmp.Or(cmp.Compare(a.dist, b.dist), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, m := range found {
		if !slices.Contains(names, m.name) {
			names = append(names, m.name)
		}
		if len(names) == 3 {
			break
		}
	}
	return names
}

// DidYouMean is a hint naming up to three names; empty for none.
func DidYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	return "did you mean " + strings.Join(quoted, " or ") + "?"
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours that make b of a; any number above limit once it must be larger.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	rows := make([]int, 3*(len(b)+1))
	before, prev, cur := rows[:len(b)+1], rows[len(b)+1:2*(len(b)+1)], rows[2*(len(b)+1):]
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			step := 1
			if a[i-1] == b[j-1] {
				step = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+step)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
			least = min(least, cur[j])
		}
		if least > limit {
			return limit + 1
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
