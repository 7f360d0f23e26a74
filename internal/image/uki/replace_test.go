package uki

import (
	"bytes"
	"debug/pe"
	"strings"
	"testing"
)

func TestWithCmdline(t *testing.T) {
	in := input()
	in.Initrd = []byte("initrd")
	for _, line := range []string{"short", strings.Repeat("long ", 1000), in.Cmdline} {
		old, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		other := in
		other.Cmdline = line
		want, err := Build(other)
		if err != nil {
			t.Fatal(err)
		}
		got, err := WithCmdline(old, line)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%.10s: it is not what Build makes (%v)", line, err)
		}
	}
	foreign, err := Append(stub(), []Section{{Name: ".cmdline", Data: []byte("a")}, {Name: ".other", Data: []byte("b")}})
	if err != nil {
		t.Fatal(err)
	}
	bare, err := Append(stub(), []Section{{Name: ".linux", Data: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	for want, image := range map[string][]byte{
		"no sections of a unified kernel image":                                   stub(),
		"section .other lies behind .cmdline: this image was not made by slipway": foreign,
		"section .cmdline is missing":                                             bare,
		"PE image: ":                                                              []byte("MZ"),
	} {
		if _, err := WithCmdline(image, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestStubVersion(t *testing.T) {
	magic := func(text string) []byte {
		return minimal(pe.IMAGE_FILE_MACHINE_AMD64, 2, Section{Name: ".sdmagic", Address: 0x1000, Data: []byte(text)})
	}
	for _, tt := range []struct {
		text, version string
		major         int
		err           string
	}{
		{"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00", "252.39-1~deb12u2", 252, ""},
		{"#### LoaderInfo: systemd-stub 254 ####", "254", 254, ""},
		{"#### LoaderInfo: systemd-boot 254 ####", "", 0, "names no version of systemd-stub"},
		{"systemd-stub", "", 0, "names no version"},
		{"#### LoaderInfo: systemd-stub next ####", "", 0, "names no version"},
	} {
		version, major, err := StubVersion(magic(tt.text))
		if version != tt.version || major != tt.major || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q %d %v", tt.text, version, major, err)
		}
	}
	if _, _, err := StubVersion(minimal(pe.IMAGE_FILE_MACHINE_AMD64, 1, Section{Name: ".text", Address: 0x1000, Data: []byte("x")})); err == nil {
		t.Error("found a stub where there is none")
	}
}
