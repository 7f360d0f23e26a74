package efivar

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf16"

	"slipway/internal/image/gpt"
)

// The store of variables of EDK II: a firmware volume (Platform Initialization
// 1.8, volume 3, section 3.2.1) with VARIABLE_STORE_HEADER and
// AUTHENTICATED_VARIABLE_HEADERs (MdeModulePkg/Include/Guid/VariableFormat.h).
var (
	volumeNVData = guid("fff12b8d-7696-4c8b-a985-2747075b4f50") // EFI_SYSTEM_NV_DATA_FV_GUID
	storeKind    = guid("aaf32c78-947b-439a-a180-2e144ec37792") // gEfiAuthenticatedVariableGuid
	enableVendor = guid("f0a30bc7-af08-4556-99c4-001009c93a44") // gEfiSecureBootEnableDisableGuid
)

const (
	volumeSignature = 40
	volumeHeader    = 48 // offset of its length
	storeHeader     = 28
	storeFormatted  = 0x5a
	storeHealthy    = 0xfe
	variableHeader  = 60
	variableStart   = 0x55aa
	variableAdded   = 0x3f
	// A variable that is being replaced is valid until its successor is.
	variableReplaced = variableAdded & 0xfe
)

// SecureBootEnable is OVMF's switch: with it, and a platform key, Secure Boot is
// on.
func SecureBootEnable() Variable {
	return Variable{Name: "SecureBootEnable", Vendor: enableVendor, Attributes: NonVolatile | BootService, Data: []byte{1}}
}

// region finds the bytes of a flash image that hold variables.
func region(image []byte) (from, to int, err error) {
	bad := func(format string, a ...any) (int, int, error) {
		return 0, 0, fmt.Errorf("variables of the firmware: "+format, a...)
	}
	if len(image) < 64 || gpt.FromDisk([16]byte(image[16:32])) != volumeNVData || string(image[volumeSignature:volumeSignature+4]) != "_FVH" {
		return bad("no volume of OVMF's: want a file such as OVMF_VARS_4M.fd")
	}
	from = int(le.Uint16(image[volumeHeader:]))
	if from < 56 || from+storeHeader > len(image) {
		return bad("a volume header of %d bytes", from)
	}
	header := image[from:]
	size := int64(le.Uint32(header[16:]))
	if kind := gpt.FromDisk([16]byte(header[:16])); kind != storeKind {
		return bad("a store of kind %s: want one of authenticated variables", kind)
	}
	if header[20] != storeFormatted || header[21] != storeHealthy || size < storeHeader || int64(from)+size > int64(len(image)) {
		return bad("the store (%d bytes) is not formatted or damaged", size)
	}
	return from + storeHeader, from + int(size), nil
}

// ReadStore reads the variables of a flash image such as OVMF_VARS_4M.fd.
func ReadStore(image []byte) ([]Variable, error) {
	from, to, err := region(image)
	if err != nil {
		return nil, err
	}
	var out []Variable
	for at := from; at+variableHeader <= to && le.Uint16(image[at:]) == variableStart; {
		h := image[at:to]
		nameSize, dataSize := int64(le.Uint32(h[36:])), int64(le.Uint32(h[40:]))
		end := variableHeader + nameSize + dataSize
		if nameSize < 2 || nameSize%2 != 0 || end > int64(len(h)) {
			return nil, fmt.Errorf("variables of the firmware: one at %d with a name of %d and %d bytes of data", at, nameSize, dataSize)
		}
		if state := h[2]; state == variableAdded || state == variableReplaced {
			var units []uint16
			for name := h[variableHeader : variableHeader+nameSize-2]; len(name) > 0; name = name[2:] {
				units = append(units, le.Uint16(name))
			}
			v := Variable{
				Name: string(utf16.Decode(units)), Vendor: gpt.FromDisk([16]byte(h[44:60])), Attributes: le.Uint32(h[4:]),
				Time: parseTime(h[16:]), Data: slices.Clone(h[variableHeader+nameSize : end]),
			}
			if i := slices.IndexFunc(out, v.same); i < 0 {
				out = append(out, v)
			} else if state == variableAdded {
				out[i] = v
			}
		}
		at += int(end+3) &^ 3
	}
	return out, nil
}

func (v Variable) same(o Variable) bool { return v.Name == o.Name && v.Vendor == o.Vendor }

// WriteStore gives a flash image that is like another one, with these variables
// set; those that are there already are replaced.
func WriteStore(image []byte, set ...Variable) ([]byte, error) {
	variables, err := ReadStore(image)
	if err != nil {
		return nil, err
	}
	for _, v := range set {
		if i := slices.IndexFunc(variables, v.same); i >= 0 {
			variables[i] = v
		} else {
			variables = append(variables, v)
		}
	}
	from, to, err := region(image)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, v := range variables {
		if v.Name == "" || len(v.Data) == 0 {
			return nil, errors.New("variables of the firmware: one without name or data")
		}
		name := append(utf16le(v.Name), 0, 0)
		h := make([]byte, variableHeader)
		le.PutUint16(h, variableStart)
		h[2] = variableAdded
		le.PutUint32(h[4:], v.Attributes)
		copy(h[16:], efiTime(v.Time))
		le.PutUint32(h[36:], uint32(len(name)))
		le.PutUint32(h[40:], uint32(len(v.Data)))
		vendor := v.Vendor.Disk()
		copy(h[44:], vendor[:])
		b = append(append(append(b, h...), name...), v.Data...)
		b = append(b, bytes.Repeat([]byte{0xff}, -len(b)&3)...)
	}
	if len(b) > to-from {
		return nil, fmt.Errorf("variables of the firmware: they take %d bytes, %d have room", len(b), to-from)
	}
	out := slices.Clone(image)
	// erased flash reads as ones
	copy(out[from:to], append(b, bytes.Repeat([]byte{0xff}, to-from-len(b))...))
	return out, nil
}

// Enroll gives a flash image of variables in which Secure Boot is on with these
// lists of signatures: those of PK, KEK and db, and maybe dbx, by name.
func Enroll(image []byte, lists map[string][]byte, at time.Time) ([]byte, error) {
	set := []Variable{SecureBootEnable()}
	for _, name := range []string{PK, KEK, DB, DBX} {
		if len(lists[name]) == 0 {
			if name == DBX {
				continue
			}
			return nil, fmt.Errorf("no signature list for %s", name)
		}
		v, err := New(name, lists[name], at)
		if err != nil {
			return nil, err
		}
		set = append(set, v)
	}
	return WriteStore(image, set...)
}
