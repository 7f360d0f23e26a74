package rpmspec

import "strings"

// evr is [epoch:]version[-release].
type evr struct {
	epoch, version, release string
	hasEpoch, hasRelease    bool
}

func splitEVR(s string) evr {
	var v evr
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	rest := s
	if i < len(s) && s[i] == ':' {
		v.hasEpoch = true
		v.epoch, rest = s[:i], s[i+1:]
		if v.epoch == "" {
			v.epoch = "0"
		}
	}
	v.version = rest
	if j := strings.LastIndexByte(rest, '-'); j >= 0 {
		v.hasRelease = true
		v.version, v.release = rest[:j], rest[j+1:]
	}
	return v
}

// String puts the parts together again.
func (v evr) String() string {
	s := v.version
	if v.hasEpoch {
		s = v.epoch + ":" + s
	}
	if v.hasRelease {
		s += "-" + v.release
	}
	return s
}

// compareEVR orders versions as rpm does; a missing epoch is 0, a missing
// release comes before any.
func compareEVR(a, b evr) int {
	epoch := func(v evr) string {
		if v.hasEpoch {
			return v.epoch
		}
		return "0"
	}
	if c := CompareVersions(epoch(a), epoch(b)); c != 0 {
		return c
	}
	if c := CompareVersions(a.version, b.version); c != 0 {
		return c
	}
	switch {
	case a.hasRelease && b.hasRelease:
		return CompareVersions(a.release, b.release)
	case a.hasRelease:
		return 1
	case b.hasRelease:
		return -1
	}
	return 0
}

// CompareVersions orders two version or release strings (no epoch) by rpm's
// rules: runs of digits compare as numbers, runs of letters as text, numbers
// are newer than letters, '~' sorts before everything, even the end, and '^'
// just after the end. The result is -1, 0 or 1.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	for a != "" || b != "" {
		a, b = trimSeparators(a), trimSeparators(b)
		at, bt := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~")
		if at || bt {
			switch {
			case !at:
				return 1
			case !bt:
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		ac, bc := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^")
		if ac || bc {
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case !ac:
				return 1
			case !bc:
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			break
		}
		class := isAlpha
		if isDigit(a[0]) {
			class = isDigit
		}
		x, y := run(a, class), run(b, class)
		a, b = a[len(x):], b[len(y):]
		if y == "" { // different kinds: numbers win
			if isDigit(x[0]) {
				return 1
			}
			return -1
		}
		if isDigit(x[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				if len(x) > len(y) {
					return 1
				}
				return -1
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	switch {
	case a == "" && b == "":
		return 0
	case a != "":
		return 1
	}
	return -1
}

func trimSeparators(s string) string {
	i := 0
	for i < len(s) && !isAlpha(s[i]) && !isDigit(s[i]) && s[i] != '~' && s[i] != '^' {
		i++
	}
	return s[i:]
}

// run is the longest prefix of s of one class.
func run(s string, class func(byte) bool) string {
	i := 0
	for i < len(s) && class(s[i]) {
		i++
	}
	return s[:i]
}

// CompareEVR orders two [epoch:]version[-release] by rpm's rules; a missing
// epoch is 0, a missing release comes before any. The result is -1, 0 or 1.
func CompareEVR(a, b string) int { return compareEVR(splitEVR(a), splitEVR(b)) }

// Overlap reports whether two versioned dependencies on one capability have a
// version in common, as rpm does to match Requires, Conflicts and Obsoletes with
// Provides. A comparison is as in [Term]; an empty one stands for any version. A
// version is [epoch:]version[-release]; a missing epoch is 0, and "= 1" without
// a release holds every release of 1.
func Overlap(cmpA, versionA, cmpB, versionB string) bool {
	if cmpA == "" || cmpB == "" {
		return true
	}
	a, b := splitEVR(versionA), splitEVR(versionB)
	var open string // of the one that has no release, where the other has one
	if a.release == "" || b.release == "" {
		switch {
		case a.release != "":
			open = cmpB
		case b.release != "":
			open = cmpA
		}
		a.hasRelease, b.hasRelease = false, false
	}
	has := strings.Contains
	switch order := compareEVR(a, b); {
	case order < 0:
		return has(cmpA, ">") || has(cmpB, "<")
	case order > 0:
		return has(cmpA, "<") || has(cmpB, ">")
	}
	return has(open, "=") || has(cmpA, "=") && has(cmpB, "=") || has(cmpA, "<") && has(cmpB, "<") || has(cmpA, ">") && has(cmpB, ">")
}
