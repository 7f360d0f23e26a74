package gpt

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a globally unique identifier in the byte order of its text form.
// On disk the first three fields are little endian (UEFI 2.10, appendix A).
type GUID [16]byte

// Partition types of the UEFI specification, of the Discoverable Partitions
// Specification (UAPI.2), and of Bottlerocket for a root file system and its hash
// tree.
var (
	TypeESP              = mustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	TypeRootX86_64       = mustParse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
	TypeRootVerityX86_64 = mustParse("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
	TypeRootARM64        = mustParse("b921b045-1df0-41c3-af44-4c6f280d3fae")
	TypeRootVerityARM64  = mustParse("df3300ce-d69f-4c92-978c-9bfb0f38d820")
	TypeVar              = mustParse("4d21b016-b534-45c2-a9fb-5c16e091fd2d")
	TypeBottlerocketRoot = mustParse("5526016a-1a97-4ea4-b39a-b7c8c6ca4502")
	TypeBottlerocketHash = mustParse("598f10af-c955-4456-6a99-7720068a6cea")
)

// ParseGUID reads the text form, five groups of 8-4-4-4-12 hexadecimal
// digits in either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("GUID %q is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	// Exactly 32 digits remain only if no group holds a hyphen of its own.
	if n, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil || n != len(g) {
		return GUID{}, fmt.Errorf("GUID %q holds something other than hexadecimal digits", s)
	}
	return g, nil
}

func mustParse(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// String returns the text form in lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:16])
}

// MarshalText implements encoding.TextMarshaler.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *GUID) UnmarshalText(text []byte) error {
	v, err := ParseGUID(string(text))
	if err == nil {
		*g = v
	}
	return err
}

// Disk returns the GUID in the byte order of the disk, and of all of UEFI's
// structures.
func (g GUID) Disk() [16]byte { return g.swap() }

// FromDisk is the GUID of which Disk gives b.
func FromDisk(b [16]byte) GUID { return GUID(b).swap() }

// swap turns the text order into the disk order and back.
func (g GUID) swap() GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}
