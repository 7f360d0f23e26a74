package gpt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// types are the kinds of partitions that have a name: those of the UEFI
// specification, of the Discoverable Partitions Specification under the names of
// systemd-repart(8), of GRUB, and of Bottlerocket, whose layout there is a plan
// for.
var types = map[string]GUID{
	"esp":               TypeESP,
	"xbootldr":          mustParse("bc13c2ff-59e6-4262-a352-b275fd6f7172"),
	"root-x86-64":       TypeRootX86_64,
	"root-x86-64-hash":  TypeRootVerityX86_64,
	"root-arm64":        TypeRootARM64,
	"root-arm64-hash":   TypeRootVerityARM64,
	"var":               TypeVar,
	"tmp":               mustParse("7ec6f557-3bc5-4aca-b293-16ef5df639d1"),
	"srv":               mustParse("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
	"home":              mustParse("933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
	"swap":              mustParse("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
	"linux-generic":     mustParse("0fc63daf-8483-4772-8e79-3d69d8477de4"),
	"bios-boot":         mustParse("21686148-6449-6e6f-744e-656564454649"),
	"bottlerocket-boot": mustParse("6b636168-7420-6568-2070-6c616e657421"),
	"bottlerocket-root": TypeBottlerocketRoot,
	"bottlerocket-hash": TypeBottlerocketHash,

	"bottlerocket-reserved":   mustParse("0c5d99a5-d331-4147-baef-08e2b855bdc9"),
	"bottlerocket-efi-backup": mustParse("b39ce39c-0a00-b4ab-2d11-f18f8237a21c"),
	"bottlerocket-private":    mustParse("440408bb-eb0b-4328-a6e5-a29038fad706"),
	"bottlerocket-data":       mustParse("626f7474-6c65-6474-6861-726d61726b73"),
}

// TypeName is the name of a partition type, or its GUID where it has none.
func TypeName(t GUID) string {
	for name, guid := range types {
		if guid == t {
			return name
		}
	}
	return t.String()
}

// ParseType reads a partition type: a name, or a GUID. The names root and hash
// mean those of an architecture as uname(1) calls it. The error lists all names.
func ParseType(s, arch string) (GUID, error) {
	name := s
	if s == "root" || s == "hash" {
		name = "root-" + map[string]string{"x86_64": "x86-64", "aarch64": "arm64"}[arch]
		if s == "hash" {
			name += "-hash"
		}
	}
	if t, ok := types[name]; ok {
		return t, nil
	}
	if t, err := ParseGUID(s); err == nil && t != (GUID{}) {
		return t, nil
	}
	names := append([]string{"root", "hash"}, slices.Sorted(maps.Keys(types))...)
	return GUID{}, fmt.Errorf("partition type %q is neither a GUID nor one of %s", s, strings.Join(names, ", "))
}

// IsRoot says whether partitions of this type hold a root file system.
func IsRoot(t GUID) bool {
	return t == TypeRootX86_64 || t == TypeRootARM64 || t == TypeBottlerocketRoot
}

// IsHash says whether partitions of this type hold the hash tree of a root file
// system.
func IsHash(t GUID) bool {
	return t == TypeRootVerityX86_64 || t == TypeRootVerityARM64 || t == TypeBottlerocketHash
}
