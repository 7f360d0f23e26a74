package erofs

import (
	"errors"
	"fmt"
)

const (
	xattrHeader = 12
	superXattrs = 44 // block of the shared attributes
	maxXattrs   = 1 << 18
)

// xattrNames are the beginnings of names by their number.
var xattrNames = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

// xattributes reads the extended attributes of an inode: those behind it, and those
// that it shares with others.
func (l *reader) xattributes(i inode) (map[string]string, error) {
	out := map[string]string{}
	if i.end-i.xattrs < xattrHeader || i.end-i.xattrs > maxXattrs {
		return out, nil
	}
	b := make([]byte, i.end-i.xattrs)
	if _, err := l.r.ReadAt(b, i.xattrs); err != nil {
		return nil, fmt.Errorf("extended attributes: %w", err)
	}
	shared := int(b[4])
	if xattrHeader+4*shared > len(b) {
		return nil, errors.New("extended attributes: damaged")
	}
	entry := make([]byte, 4+255+1<<16)
	for n := range shared {
		at := int64(le.Uint32(l.super[superXattrs:]))*l.block + 4*int64(le.Uint32(b[xattrHeader+4*n:]))
		read, err := l.r.ReadAt(entry, at)
		if read < 4 {
			return nil, fmt.Errorf("extended attributes: %w", err)
		}
		if _, err := xattr(out, entry[:read]); err != nil {
			return nil, err
		}
	}
	for rest := b[xattrHeader+4*shared:]; len(rest) >= 4 && le.Uint32(rest) != 0; {
		n, err := xattr(out, rest)
		if err != nil {
			return nil, err
		}
		rest = rest[min(n, len(rest)):]
	}
	return out, nil
}

// xattr reads one attribute, and gives its length with what fills it up.
func xattr(out map[string]string, b []byte) (int, error) {
	name, value := int(b[0]), int(le.Uint16(b[2:]))
	prefix, ok := xattrNames[b[1]]
	switch {
	case 4+name+value > len(b):
		return 0, errors.New("extended attributes: damaged")
	case !ok:
		return 0, fmt.Errorf("extended attributes of the kind %d are not read", b[1])
	}
	out[prefix+string(b[4:4+name])] = string(b[4+name : 4+name+value])
	return (4 + name + value + 3) &^ 3, nil
}
