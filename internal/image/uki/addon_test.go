package uki

import (
	"bytes"
	"debug/pe"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAddon(t *testing.T) {
	for _, want := range []Addon{
		{Machine: pe.IMAGE_FILE_MACHINE_AMD64, Cmdline: "quiet console=ttyS1"},
		{Machine: pe.IMAGE_FILE_MACHINE_ARM64, Cmdline: "debug", Uname: "6.1.176"},
	} {
		data, err := want.Build()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadAddon(data)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		again, err := want.Build()
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("second addon differs (%v)", err)
		}
		f, err := pe.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		h := f.OptionalHeader.(*pe.OptionalHeader64)
		for _, s := range f.Sections {
			if s.VirtualAddress < h.SizeOfHeaders {
				t.Errorf("%s is loaded at %#x, over the headers", s.Name, s.VirtualAddress)
			}
		}
		if h.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION || f.Characteristics&pe.IMAGE_FILE_RELOCS_STRIPPED != 0 || h.SizeOfImage%h.SectionAlignment != 0 {
			t.Errorf("subsystem %d, characteristics %#x, %d bytes in memory", h.Subsystem, f.Characteristics, h.SizeOfImage)
		}
	}
	for want, a := range map[string]Addon{
		"machine 0x14c":          {Machine: pe.IMAGE_FILE_MACHINE_I386, Cmdline: "a"},
		"no kernel parameters":   {Machine: pe.IMAGE_FILE_MACHINE_AMD64},
		"command line \"a\\nb\"": {Machine: pe.IMAGE_FILE_MACHINE_AMD64, Cmdline: "a\nb"},
		"kernel release":         {Machine: pe.IMAGE_FILE_MACHINE_AMD64, Cmdline: "a", Uname: "a\x00"},
	} {
		if _, err := a.Build(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	kernel, err := Build(input())
	if err != nil {
		t.Fatal(err)
	}
	for want, data := range map[string][]byte{"section .linux": kernel, "no section .cmdline": stub(), "no EFI program": []byte("text")} {
		if _, err := ReadAddon(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestObjdumpAcceptsAddon has another reader of PE files look at an addon.
func TestObjdumpAcceptsAddon(t *testing.T) {
	tool, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed")
	}
	data, err := Addon{Machine: pe.IMAGE_FILE_MACHINE_AMD64, Cmdline: "quiet"}.Build()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "a.addon.efi")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "-s", "-j", ".cmdline", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pei-x86-64") || !strings.Contains(string(out), "quiet") {
		t.Errorf("%v\n%s", err, out)
	}
}
