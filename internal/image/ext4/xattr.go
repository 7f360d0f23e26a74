package ext4

import (
	"errors"
	"fmt"
)

const (
	xattrMagic  = 0xea020000
	xattrHeader = 32 // of a block
	xattrEntry  = 16
)

// xattrNames are the beginnings of names by their number.
var xattrNames = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl",
}

// xattrs reads the extended attributes of an inode: those behind it, and those in a
// block.
func (l *reader) xattrs(inode []byte) (map[string]string, error) {
	out := map[string]string{}
	if len(inode) > 0x82 {
		if start := 128 + int(le.Uint16(inode[0x80:])); start+4 <= len(inode) && le.Uint32(inode[start:]) == xattrMagic {
			if err := xattrEntries(out, inode[start+4:], 0); err != nil {
				return nil, err
			}
		}
	}
	if at := int64(le.Uint32(inode[0x68:])) | int64(le.Uint16(inode[0x76:]))<<32; at != 0 {
		block := make([]byte, l.block)
		if _, err := l.r.ReadAt(block, at*l.block); err != nil {
			return nil, fmt.Errorf("extended attributes: %w", err)
		}
		if le.Uint32(block) != xattrMagic {
			return nil, errors.New("extended attributes: damaged")
		}
		if err := xattrEntries(out, block, xattrHeader); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// xattrEntries reads entries from an offset on; places of values count from the
// start.
func xattrEntries(out map[string]string, b []byte, at int) error {
	for at+4 <= len(b) && le.Uint32(b[at:]) != 0 {
		if at+xattrEntry > len(b) || at+xattrEntry+int(b[at]) > len(b) {
			return errors.New("extended attributes: damaged")
		}
		e, name := b[at:], string(b[at+xattrEntry:][:b[at]])
		from, n := int64(le.Uint16(e[2:])), int64(le.Uint32(e[8:]))
		prefix, ok := xattrNames[e[1]]
		switch {
		case le.Uint32(e[4:]) != 0 || !ok:
			return fmt.Errorf("extended attribute %q of the kind %d is not handled", name, e[1])
		case from+n > int64(len(b)):
			return errors.New("extended attributes: damaged")
		}
		out[prefix+name] = string(b[from : from+n])
		at += (xattrEntry + len(name) + 3) / 4 * 4
	}
	return nil
}
