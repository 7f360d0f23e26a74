package authenticode

import (
	"slices"

	"slipway/internal/image/uki"
)

// Strip gives a program without its signatures; one that has none stays as it is.
func Strip(image []byte) ([]byte, error) {
	l, err := parse(image)
	if err != nil || len(l.table) == 0 {
		return image, err
	}
	out := slices.Clone(image[:l.end])
	clear(out[l.directory : l.directory+8])
	clear(out[l.checksum : l.checksum+4])
	le.PutUint32(out[l.checksum:], uki.Checksum(out))
	return out, nil
}
