package pkcs11

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const slotsText = `Available slots:
Slot 0 (0x4210024d): SoftHSM slot ID 0x4210024d
  token label        : sl: ip
  token manufacturer : SoftHSM project
  token model        : SoftHSM v2
  token flags        : login required, rng, token initialized, PIN initialized, other flags=0x20
  hardware version   : 2.6
  serial num         : 4f0d22174210024d
  pin min/max        : 4/255
Slot 1 (0x1): SoftHSM slot ID 0x1
  token state:   uninitialized
`

const objectsText = `Public Key Object; RSA 2048 bits
  label:      db: signing
  ID:         01ff
  Usage:      encrypt, verify, wrap
  Access:     local
Public Key Object; EC  EC_POINT 256 bits
  EC_POINT:   04410403
  EC_PARAMS:  06082a8648ce3d030107
  ID:         02
Certificate Object; type = X.509 cert
  label:      c
  subject:    DN: CN=label: x
  serial:     01
  ID:         03
`

func TestParse(t *testing.T) {
	t.Parallel()
	slots := []slot{{"0x4210024d", "sl: ip", "SoftHSM project", "SoftHSM v2", "4f0d22174210024d"}}
	if d := cmp.Diff(slots, parseSlots(slotsText), cmp.AllowUnexported(slot{})); d != "" {
		t.Error(d)
	}
	objects := []object{
		{"Public Key Object; RSA 2048 bits", "db: signing", "\x01\xff"},
		{"Public Key Object; EC  EC_POINT 256 bits", "", "\x02"},
		{"Certificate Object; type = X.509 cert", "c", "\x03"},
	}
	if d := cmp.Diff(objects, parseObjects(objectsText), cmp.AllowUnexported(object{})); d != "" {
		t.Error(d)
	}
	if got, want := objects[0].String(), "object=db: signing;id=%01%ff (RSA 2048 bits)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for text, want := range map[string]bool{
		"pkcs11:?module-path=/m": true, "pkcs11:token=sl:%20ip%20%20?module-path=/m": true, "pkcs11:slot-id=1108345421?module-path=/m": true,
		"pkcs11:slot-id=1?module-path=/m": false, "pkcs11:serial=4f?module-path=/m": false, "pkcs11:model=SoftHSM%20v1?module-path=/m": false,
		"pkcs11:manufacturer=SoftHSM%20project;serial=4f0d22174210024d?module-path=/m": true,
	} {
		u, err := ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.matches(slots[0]); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(slotsText)
	f.Add(objectsText)
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseSlots(text) {
			if s.id == "" || s.label == "" {
				t.Errorf("%+v", s)
			}
		}
		for _, o := range parseObjects(text) {
			_ = o.String()
		}
	})
}
