package authenticode

import (
	"bytes"
	"errors"
	"testing"
)

func TestStrip(t *testing.T) {
	t.Parallel()
	one, two := identities()[0], identities()[1]
	image := program(0)
	same, err := Strip(image)
	if err != nil || !bytes.Equal(same, image) {
		t.Errorf("unsigned, it changes (%v)", err)
	}
	plain, err := Strip(signed(t, signed(t, image, one), two))
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(plain, one.certificate, two.certificate); !errors.Is(err, ErrUnsigned) {
		t.Errorf("stripped: %v", err)
	}
	if len(plain) != len(image) || sum(plain) != le.Uint32(plain[88+optChecksum:]) {
		t.Errorf("%d bytes with checksum %#x", len(plain), le.Uint32(plain[88+optChecksum:]))
	}
	if !bytes.Equal(signed(t, plain, one), signed(t, image, one)) {
		t.Error("signed anew, it is another program")
	}
	if _, err := Strip([]byte("MZ")); err == nil {
		t.Error("took what is no program")
	}
}
