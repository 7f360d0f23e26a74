package pkcs11

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]URI{
		"pkcs11:token=a;object=b?module-path=/m.so": {Token: "a", Object: "b", ModulePath: "/m.so"},
		"PKCS11:token=two%20words%3B;manufacturer=m;model=n;serial=12;slot-id=7;id=%01%ff;type=private?module-path=/m&pin-source=file:/p": {
			Token: "two words;", Manufacturer: "m", Model: "n", Serial: "12", SlotID: "7", ID: "\x01\xff", ModulePath: "/m", PINSource: "/p",
		},
		"pkcs11:?pin-source=file:///p%20q&module-path=/m": {ModulePath: "/m", PINSource: "/p q"},
		"pkcs11:?pin-source=/p&module-path=/m":            {ModulePath: "/m", PINSource: "/p"},
	} {
		got, err := ParseURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, *got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	const secret = "31415926"
	for text, want := range map[string]string{
		"keys/db.key":                                              "begins with pkcs11:",
		"pkcs11:object=a":                                          "add ?module-path=",
		"pkcs11:?module-path":                                      "module-path is empty",
		"pkcs11:?module-path=libsofthsm2.so":                       "module-path: want an absolute path",
		"pkcs11:objekt=a?module-path=/m":                           `unknown attribute "objekt": want one of id, manufacturer, model, object, serial, slot-id, token, type`,
		"pkcs11:object=a;b;c?module-path=/m":                       `unknown attribute "b"`,
		"pkcs11:object=a&module-path=/m":                           "add ?module-path=",
		"pkcs11:object=a;object=b?module-path=/m":                  "object is there twice",
		"pkcs11:object=100%?module-path=/m":                        "object: want %XX for each byte",
		"pkcs11:object=a%00?module-path=/m":                        "object has a byte zero in it",
		"pkcs11:type=cert?module-path=/m":                          "type=cert: only private keys sign",
		"pkcs11:slot-id=0x1?module-path=/m":                        "slot-id=0x1: want a decimal number",
		"pkcs11:?module-path=/m&pin-source=pin":                    "pin-source: want an absolute path",
		"pkcs11:?module-path=/m&pin-source=%7ccat /p":              "pin-source: programs are not run",
		"pkcs11:object=a?module-path=/m&pin-value=" + secret:       "pin-value: other processes",
		"pkcs11:object=a;pin-value=" + secret + "?module-path=/m":  "pin-value: other processes",
		"pkcs11:object=a?module-path=/m&pin-source=file:" + secret: "pin-source: want an absolute path",
		"pkcs11:object=a?module-path=/m&PIN-VALUE=%zz" + secret:    `unknown attribute "PIN-VALUE"`,
		"pkcs11:object=a?pin-source=%zz" + secret:                  "pin-source: want %XX",
	} {
		_, err := ParseURI(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the message holds the PIN: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"key.pem": "key.pem",
		"pkcs11:token=a;object=b?module-path=/m&pin-source=/p":                                "pkcs11:token=a;object=b?module-path=/m&pin-source=/p",
		"pkcs11:token=a;pin=" + secret + "?pin-value=" + secret + "&module-path=/m&" + secret: "pkcs11:token=a;…?…&module-path=/m&…",
	} {
		if got := Show(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=a;object=b;id=%01?module-path=/m&pin-source=file:/p")
	f.Add("pkcs11:;;?&&")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			return
		}
		if u.ModulePath == "" || u.ModulePath[0] != '/' || u.PINSource != "" && u.PINSource[0] != '/' {
			t.Errorf("%q: %+v", text, u)
		}
		if Show(text) != scheme+text[len(scheme):] {
			t.Errorf("%q is shown as %q, though all of it is known", text, Show(text))
		}
	})
}
