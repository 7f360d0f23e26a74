package update

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is the version of a release or of a datastore's format: three numbers.
type Version struct{ Major, Minor, Patch uint32 }

// ParseVersion reads "1.2.3": three numbers without leading zeros.
func ParseVersion(text string) (Version, error) {
	var v Version
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return Version{}, fmt.Errorf("version %q: want three numbers with dots between, such as 1.2.0", text)
	}
	for i, n := range []*uint32{&v.Major, &v.Minor, &v.Patch} {
		number, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil || strconv.FormatUint(number, 10) != parts[i] {
			return Version{}, fmt.Errorf("version %q: %q is not a number without leading zeros below 2^32", text, parts[i])
		}
		*n = uint32(number)
	}
	return v, nil
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Compare is negative when v is before w, 0 when they are the same, and positive
// when v is after w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// MarshalText writes the version for encoding/json.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the version for encoding/json.
func (v *Version) UnmarshalText(text []byte) (err error) {
	*v, err = ParseVersion(string(text))
	return err
}
