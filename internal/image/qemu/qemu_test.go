package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func installed(t *testing.T) {
	t.Helper()
	if _, err := findBinary(); err != nil {
		t.Skip(err)
	}
}

func TestProbeTCG(t *testing.T) {
	installed(t)
	if err := Probe(t.Context(), "tcg"); err != nil {
		t.Error(err)
	}
}

func TestProbeFails(t *testing.T) {
	installed(t)
	if err := Probe(t.Context(), "no-such-accelerator"); err == nil {
		t.Error("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Probe(ctx, "tcg"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Start(t.Context(), Machine{Disk: "disk"})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install qemu-system-x86") {
		t.Error(err)
	}
	_, err = findFirmware(t.TempDir(), firmwares)
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install ovmf") {
		t.Error(err)
	}
}

func TestFindFirmware(t *testing.T) {
	root := t.TempDir()
	// Half of a firmware is none.
	for _, p := range []string{"usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"} {
		p = filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := findFirmware(root, firmwares)
	if err != nil || f.Vars != root+"/usr/share/edk2/ovmf/OVMF_VARS.fd" {
		t.Error(f, err)
	}
}

func TestArgs(t *testing.T) {
	m := Machine{Disk: "/a,b.img", Snapshot: true, Drives: []Drive{{Path: "/c.img", Serial: "oci"}, {Path: "/data.img", Writable: true}}, CPUs: 2, NoReboot: true, State: "/s t",
		Firmware: Firmware{Code: "/code", Vars: "/vars"}, Extra: []string{"-vga", "std"}}
	got := m.args("tcg", "/tmp/vars")
	for _, want := range [][]string{
		{"-m", "1024"}, {"-smp", "2"}, {"-no-reboot"}, {"-vga", "std"},
		{"-drive", "if=none,id=disk,format=raw,discard=unmap,file=/a,,b.img,snapshot=on"},
		{"-drive", "if=none,id=drive0,format=raw,readonly=on,file=/c.img", "-device", "virtio-blk-pci,drive=drive0,serial=oci"},
		{"-drive", "if=none,id=drive1,format=raw,discard=unmap,file=/data.img,snapshot=on", "-device", "virtio-blk-pci,drive=drive1"},
		{"-drive", "if=pflash,format=raw,file=/tmp/vars"},
		{"-incoming", "exec:cat <'/s t'"},
	} {
		if i := slices.Index(got, want[len(want)-1]); i < len(want)-1 || !slices.Equal(got[i-len(want)+1:i+1], want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if slices.Contains(got, "q35,smm=on") {
		t.Errorf("SMM in %q", got)
	}
	m.Firmware.SMM = true
	got = m.args("tcg", "/tmp/vars")
	for _, want := range []string{"q35,smm=on", "driver=cfi.pflash01,property=secure,value=on"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	direct := Machine{Kernel: "/bzImage", Cmdline: "console=ttyS0 ro"}.args("kvm", "")
	if s := strings.Join(direct, " "); !strings.Contains(s, "-kernel /bzImage -append console=ttyS0 ro") ||
		!strings.Contains(s, "-cpu host") || strings.Contains(s, "pflash") || strings.Contains(s, "-initrd") {
		t.Error(s)
	}
}

func TestMachineErrors(t *testing.T) {
	installed(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 2<<30); err != nil {
		t.Fatal(err)
	}
	fw := Firmware{Code: disk, Vars: disk}
	for _, tt := range []struct {
		name string
		m    Machine
		want string
	}{
		{"nothing", Machine{Firmware: fw}, "needs a disk or a kernel"},
		{"no disk", Machine{Firmware: fw, Disk: disk + "x"}, "no such file"},
		{"no drive", Machine{Firmware: fw, Disk: disk, Drives: []Drive{{Path: disk + "y"}}}, "no such file"},
		{"serial", Machine{Firmware: fw, Disk: disk, Drives: []Drive{{Path: disk, Serial: "a,b"}}}, "serial number"},
		{"nothing to grow", Machine{Kernel: disk, GrowToGiB: 1}, "no disk to grow"},
		{"accel", Machine{Kernel: disk, Accel: "xen"}, "want auto, kvm or tcg"},
		{"argument", Machine{Kernel: disk, Accel: "tcg", Extra: []string{"-no-such-option"}}, "no-such-option"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Start(t.Context(), tt.m)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Disks that are large enough, or only read, do not grow.
func TestSmall(t *testing.T) {
	t.Parallel()
	sized := func(gib int64) string {
		path := filepath.Join(t.TempDir(), "disk")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, gib<<30)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	two, four := sized(2), sized(4)
	for _, tt := range []struct {
		m    Machine
		want []string
	}{
		{Machine{Disk: two, Drives: []Drive{{Path: two}, {Path: two, Writable: true}}}, []string{"disk", "drive1"}},
		{Machine{Disk: four, Drives: []Drive{{Path: two, Writable: true}, {Path: four, Writable: true}}}, []string{"drive0"}},
		{Machine{Disk: four, Format: "qcow2"}, []string{"disk"}},
	} {
		tt.m.GrowToGiB = 3
		got, err := tt.m.small()
		if d := cmp.Diff(tt.want, got); d != "" || err != nil {
			t.Error(d, err)
		}
	}
}

// syncBuffer lets the test look at output that is still being written.
type syncBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	hit  chan struct{} // closed when the output holds want
	want string
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	had := strings.Contains(b.buf.String(), b.want)
	b.buf.Write(p)
	if !had && strings.Contains(b.buf.String(), b.want) {
		close(b.hit)
	}
	return len(p), nil
}

// The firmware runs, says on the serial console that the empty disk has
// nothing to boot, and the machine ends when told. The image stays as it was.
func TestStart(t *testing.T) {
	installed(t)
	if _, err := FindFirmware(); err != nil {
		t.Skip(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out := &syncBuffer{hit: make(chan struct{}), want: "BdsDxe"}
	stdin, keep := io.Pipe() // open and silent, as a terminal
	defer keep.Close()
	vm, err := Start(ctx, Machine{Disk: disk, Snapshot: true, GrowToGiB: 1, MemoryMiB: 128, Accel: "tcg", Stdin: stdin, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-out.hit:
	case <-ctx.Done():
		t.Error("the firmware said nothing")
	}
	if err := vm.Quit(); err != nil {
		t.Error(err)
	}
	if err := vm.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(vm.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", vm.dir, err)
	}
	if st, err := os.Stat(disk); err != nil || st.Size() != 1<<20 {
		t.Error("the image changed", st, err)
	}
}

// A machine that was saved goes on where it was: the firmware's shell waits for a
// command, which it gets in another machine than the one it was started in.
func TestSave(t *testing.T) {
	installed(t)
	if _, err := FindFirmware(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	disk, copied, state := filepath.Join(dir, "disk"), filepath.Join(dir, "copy"), filepath.Join(dir, "it's state")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	see := func(want string) *syncBuffer { return &syncBuffer{hit: make(chan struct{}), want: want} }
	wait := func(b *syncBuffer) {
		t.Helper()
		select {
		case <-b.hit:
		case <-ctx.Done():
			t.Fatalf("no %q in %q", b.want, b.buf.String())
		}
	}
	m := Machine{Disk: disk, MemoryMiB: 128, Accel: "tcg"}
	first := see("Shell> ")
	m.Stdout = first
	vm, err := Start(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	wait(first)
	if err := vm.Save(ctx, state, func() error { return copyFile(copied, disk) }); err != nil {
		t.Fatal(err)
	}
	if err := vm.Kill(); err != nil {
		t.Error(err)
	}
	stdin, key := io.Pipe()
	defer key.Close()
	second := see("goes on")
	m.Disk, m.State, m.Stdin, m.Stdout = copied, state, stdin, second
	if vm, err = Start(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(key, "echo goe^s on\r"); err != nil {
		t.Error(err)
	}
	wait(second)
	if strings.Contains(second.buf.String(), "BdsDxe") {
		t.Errorf("the firmware was started anew: %q", second.buf.String())
	}
	if err := vm.Kill(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(vm.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", vm.dir, err)
	}
}

func TestStartCancelled(t *testing.T) {
	installed(t)
	if _, err := FindFirmware(); err != nil {
		t.Skip(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	vm, err := Start(ctx, Machine{Disk: disk, MemoryMiB: 128, Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := vm.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
