// Package tree is what the file systems of roots consist of, whatever their kind.
package tree

import "io"

// Bits of File.Mode that say what a file is.
const (
	TypeMask   = 0xf000
	Dir        = 0x4000
	Regular    = 0x8000
	Link       = 0xa000
	CharDevice = 0x2000
	Device     = 0x6000 // of blocks
)

// File is a file of any type.
type File struct {
	Path     string // from the root, without a slash before it; "." is the root itself
	Mode     uint16 // as stat(2) has it
	UID, GID uint32
	Device   uint32            // of a device, as stored
	Size     int64             // bytes, uncompressed
	Xattrs   map[string]string // extended attributes by their full names, as stored
	// Open reads the content of a regular file, or the target of a symbolic link.
	Open func() (io.Reader, error)
}

// Type is the part of the mode that says what the file is.
func (f File) Type() uint16 { return f.Mode & TypeMask }

// Entry is a regular file.
type Entry struct {
	Path string // from the root, without a slash before it
	Size int64  // bytes, uncompressed
}

// Entries gives the regular files in the order that they have.
func Entries(files []File) (out []Entry) {
	for _, f := range files {
		if f.Type() == Regular {
			out = append(out, Entry{f.Path, f.Size})
		}
	}
	return out
}
