//go:build e2e

// Package e2e boots the image that slipway made and looks at what runs in it.
//
//	go test -tags e2e ./e2e -slipway PATH -workspace PATH
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/image/gpt"
)

var (
	slipway   = flag.String("slipway", "", "the slipway program")
	workspace = flag.String("workspace", "", "the workspace of the image")
)

// bootTime is generous: under emulation on a busy machine a boot takes minutes.
const bootTime = 15 * time.Minute

func image(t *testing.T) string {
	t.Helper()
	if *slipway == "" || *workspace == "" {
		t.Fatal("say which program and which workspace: -slipway PATH -workspace PATH")
	}
	images, err := filepath.Glob(filepath.Join(*workspace, "build", "images", "*", "latest", "*.img"))
	images = slices.DeleteFunc(images, func(path string) bool { // the parts of the disk
		return strings.HasSuffix(path, "-root.img") || strings.HasSuffix(path, "-hash.img")
	})
	if err != nil || len(images) != 1 {
		t.Fatalf("want one image, have %v (%v): run make image", images, err)
	}
	return images[0]
}

// run boots an image and runs a script in it. It gives what the script printed,
// what was on the serial console, and slipway's error.
func run(t *testing.T, image, script string, args ...string) (out, console string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	log := filepath.Join(t.TempDir(), "console.log")
	args = append([]string{"run", "--image", image, "--accel", "tcg", "--timeout", bootTime.String(), "--console-log", log, "--exec", script}, args...)
	cmd := exec.CommandContext(ctx, *slipway, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	text, readErr := os.ReadFile(log)
	if readErr != nil {
		t.Logf("no console log: %v", readErr)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), string(text), err
}

// section is a part of a script's output.
func section(out, name string) string {
	_, rest, ok := strings.Cut(out, "=== "+name+"\n")
	if !ok {
		return ""
	}
	text, _, _ := strings.Cut(rest, "=== ")
	return text
}

const checks = `
say() { echo "=== $1"; }
say running
systemctl is-system-running --wait
say failed
systemctl list-units --failed --no-legend --plain
say root
findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS /
say verity
cat /sys/block/dm-0/dm/name /sys/block/dm-0/ro
ls /sys/block/dm-0/slaves
[[ "$(cat /proc/cmdline)" != *dm-mod.create=*\ verity\ 1\ PARTUUID=* ]] || echo table
say write
touch /usr/probe 2>&1
say data
findmnt --noheadings --output SOURCE,FSTYPE /var
lsblk --noheadings --bytes --output SIZE "$(findmnt --noheadings --output SOURCE /var)"
df --block-size=1 --output=size /var | tail -n 1
touch /var/probe && echo writable
say containerd
ctr version
say container
mkdir -p /var/tmp/e2e
head -c @ARCHIVE_SIZE@ /dev/disk/by-id/virtio-ociimage > /var/tmp/e2e/image.tar
ctr image import /var/tmp/e2e/image.tar
ctr run --rm slipway.local/hello:latest hello
echo "status $?"
say logdog
logdog --output /var/tmp/e2e/logs.tar.gz
od -A n -t x1 -N 2 /var/tmp/e2e/logs.tar.gz
say packages
ls /usr/bin/rpm /usr/bin/dnf /var/lib/rpm /usr/lib/sysimage/rpm 2>&1
say blame
systemd-analyze
say end
`

func TestBoot(t *testing.T) {
	archive := containerImage(t)
	st, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	// a drive's size is a whole number of sectors
	if err := os.Truncate(archive, (st.Size()+511)/512*512); err != nil {
		t.Fatal(err)
	}
	script := strings.ReplaceAll(checks, "@ARCHIVE_SIZE@", fmt.Sprint(st.Size()))
	out, console, err := run(t, image(t), script, "--disk-size", "4", "--drive", archive+"=ociimage")
	if err != nil || section(out, "blame") == "" {
		t.Fatalf("%v\n--- output\n%s\n--- console\n%s", err, out, console)
	}
	t.Logf("%s", out)

	if got := strings.TrimSpace(section(out, "running")); got != "running" {
		t.Errorf("the system is %q; failed units: %s", got, section(out, "failed"))
	}
	root := strings.Fields(section(out, "root"))
	if len(root) != 3 || root[1] != "erofs" || !strings.HasPrefix(root[2], "ro") {
		t.Errorf("root is %q, want a read-only erofs", root)
	}
	if got := strings.Fields(section(out, "verity")); !slices.Equal(got, []string{"root", "1", "vda2", "vda3", "table"}) {
		t.Errorf("the root device is %q, want a read-only verity target over vda2 and vda3", got)
	}
	if got := section(out, "write"); !strings.Contains(got, "Read-only file system") {
		t.Errorf("writing to /usr: %q", got)
	}
	data := strings.Fields(section(out, "data"))
	if len(data) != 5 || data[1] != "ext4" || data[4] != "writable" {
		t.Errorf("data partition: %q", data)
	} else {
		// built with 256 MiB; the disk has 4 GiB
		for _, size := range data[2:4] {
			if len(size) < 10 {
				t.Errorf("data partition of %s bytes, file system of %s bytes: not grown", data[2], data[3])
			}
		}
	}
	if got := section(out, "containerd"); strings.Count(got, "Version:") != 2 {
		t.Errorf("ctr version: %q", got)
	}
	if got := section(out, "container"); !strings.Contains(got, "hello from a container, pid 1\n") || !strings.Contains(got, "status 0\n") {
		t.Errorf("container: %q", got)
	}
	if got := section(out, "logdog"); !strings.Contains(got, " requests, 0 failed") || !strings.Contains(got, "1f 8b") {
		t.Errorf("logdog: %q", got)
	}
	if got := section(out, "packages"); strings.Count(got, "No such file or directory") != 4 {
		t.Errorf("a package manager or its database is in the image: %q", got)
	}
}

// TestCorruptRoot flips one byte of the root partition where every boot reads it.
func TestCorruptRoot(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.img")
	if out, err := exec.Command("cp", "--sparse=always", image(t), disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := rootOffset(t, f) + 1024 // the erofs superblock
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	out, console, err := run(t, disk, "echo booted", "--timeout", "3m")
	if err == nil {
		t.Fatalf("a changed root file system booted:\n%s", out)
	}
	if !strings.Contains(console, "device-mapper: verity: ") || !strings.Contains(console, "is corrupted") {
		t.Errorf("the console does not say that verity found it:\n%s", console)
	}
}

func rootOffset(t *testing.T, f *os.File) int64 {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, _, err := gpt.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range table.Entries {
		if strings.HasPrefix(e.Name, "root_") {
			return e.Start()
		}
	}
	t.Fatal("no root partition")
	return 0
}

// containerImage makes a container image of one static program, as an OCI
// archive that ctr can import.
func containerImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "hello.go")
	program := "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc main() { fmt.Println(\"hello from a container, pid\", os.Getpid()) }\n"
	if err := os.WriteFile(source, []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "hello")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return writeOCIArchive(t, dir, binary)
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
