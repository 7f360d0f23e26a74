package recipe

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// filesystem runs the script on a tree, as the sandbox does, and gives the folder
// with the parts.
func filesystem(t *testing.T, kind, compression string, fill func(t *testing.T, root, parts string)) (parts, output string, err error) {
	t.Helper()
	dir := t.TempDir()
	root, parts := filepath.Join(dir, "root"), filepath.Join(dir, "parts")
	for _, d := range []string{"root/usr/bin", "root/usr/lib/a \"b\" c", "parts/boot"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "usr/bin/tool", strings.Repeat("program ", 1<<16))
	put(t, root, "usr/lib/a \"b\" c/x y", "text")
	for i := range 300 {
		put(t, root, fmt.Sprintf("usr/lib/%s-%d", strings.Repeat("n", i%50), i), fmt.Sprint(i))
	}
	for name, to := range map[string]string{"usr/bin/link": "tool", "bin": "usr/bin"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "usr/bin/tool"), filepath.Join(root, "usr/bin/hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(root, 0o755) }) // an error leaves it there
	fill(t, root, parts)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", "root=$1 parts=$2\n"+strings.ReplaceAll(filesystemScript, "/tmp/", dir+"/"), "slipway", root, parts)
	cmd.Env = append(os.Environ(), "PATH="+searchPath, "LANG=C.UTF-8", "TZ=UTC", "SOURCE_DATE_EPOCH=1700000000", "SLIPWAY_FILESYSTEM="+kind, "SLIPWAY_COMPRESSION="+compression,
		"SLIPWAY_UUID=01234567-89ab-8def-8123-456789abcdef")
	out, err := cmd.CombinedOutput()
	return parts, string(out), err
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// policy ships a policy of three labels.
func policy(t *testing.T, root, _ string) {
	put(t, root, "etc/selinux/config", "SELINUX=enforcing\n# SELINUXTYPE=other\nSELINUXTYPE=tiny\n")
	put(t, root, "etc/selinux/tiny/contexts/files/file_contexts", `/.*	system_u:object_r:os_t:s0
/	-d	system_u:object_r:root_t:s0
/usr/bin/.*	--	system_u:object_r:exec_t:s0
/usr/lib/a.*	<<none>>
`)
}

func plain(*testing.T, string, string) {}

// owned gives a file another owner and a capability, where the test may.
func owned(t *testing.T, root, _ string) {
	if os.Geteuid() != 0 {
		return
	}
	path := filepath.Join(root, "usr/bin/tool")
	capability := []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // cap_net_raw+ep
	if err := os.Chown(path, 7, 8); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(path, "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Referees accept what is made, and the same tree gives the same bytes, whatever
// times its files have that are newer than the release's.
func TestFilesystem(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"erofs", "ext4"} {
		for name, fill := range map[string]func(*testing.T, string, string){"plain": plain, "policy": policy, "owned": owned} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				var made [2]string
				for i := range made {
					parts, out, err := filesystem(t, kind, "lz4hc", func(t *testing.T, root, parts string) {
						fill(t, root, parts)
						for file, seconds := range map[string]int{"usr/bin/tool": 1700000001 + i, "usr/lib/-0": 1000} {
							when := time.Unix(int64(seconds), 0)
							if err := os.Chtimes(filepath.Join(root, file), when.Add(time.Duration(i)*time.Hour), when); err != nil {
								t.Fatal(err)
							}
						}
					})
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					made[i] = parts
				}
				root := filepath.Join(made[0], "root."+kind)
				a, errA := os.ReadFile(root)
				b, errB := os.ReadFile(filepath.Join(made[1], "root."+kind))
				if errA != nil || errB != nil || !bytes.Equal(a, b) {
					t.Errorf("two builds differ (%v, %v)", errA, errB)
				}
				if kind == "erofs" {
					run(t, "fsck.erofs", root)
				} else {
					run(t, "e2fsck", "-fn", root)
					ext4(t, root, name)
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(made[0]), "root")); !os.IsNotExist(err) {
					t.Error("the tree is still there")
				}
				// SELinux reads a label from the attribute security.selinux: mkfs.erofs
				// writes the names of attributes without what they all begin with
				data, err := os.ReadFile(root)
				if err != nil {
					t.Fatal(err)
				}
				for _, label := range []string{"root_t", "os_t", "exec_t"} {
					if n := bytes.Count(data, []byte("selinuxsystem_u:object_r:"+label+":s0")); kind == "erofs" && (n > 0) != (name == "policy") {
						t.Errorf("%d times the label %s", n, label)
					}
				}
			})
		}
	}
}

// ext4 looks into an ext4 root by way of debugfs.
func ext4(t *testing.T, root, name string) {
	t.Helper()
	stat := func(path string) string { return run(t, "debugfs", "-R", `stat "`+path+`"`, root) }
	attributes := func(path string) string { return run(t, "debugfs", "-R", `ea_list "`+path+`"`, root) }
	contains := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
	head := run(t, "dumpe2fs", "-h", root)
	contains(head, "UUID:          01234567-89ab-8def-8123-456789abcdef", "Hash Seed:      01234567-89ab-8def-8123-456789abcdef", "created:       Tue Nov 14 22:13:20 2023")
	if strings.Contains(head, "has_journal") {
		t.Error("it has a journal")
	}
	contains(stat("/"), "Type: directory    Mode:  0555")
	tool := stat("/usr/bin/hard")
	contains(tool, "Links: 2 ", "ctime: 0x6553f100:00000000", "mtime: 0x6553f100:00000000", "atime: 0x6553f100:00000000", "crtime: 0x6553f100:00000000")
	contains(stat("/usr/lib/-0"), "ctime: 0x000003e8:00000000", "mtime: 0x000003e8:00000000", "atime: 0x000003e8:00000000")
	contains(run(t, "debugfs", "-R", `cat "/usr/lib/a ""b"" c/x y"`, root), "text")
	switch {
	case name == "policy":
		contains(attributes("/"), `security.selinux (27) = "system_u:object_r:root_t:s0"`)
		contains(attributes("/usr/bin/tool"), `security.selinux (27) = "system_u:object_r:exec_t:s0"`)
		contains(attributes("/usr/bin/link"), `security.selinux (25) = "system_u:object_r:os_t:s0"`)
		if text := attributes(`/usr/lib/a ""b"" c/x y`); strings.Contains(text, "selinux") {
			t.Errorf("a label in spite of <<none>>: %s", text)
		}
	case name == "owned" && os.Geteuid() == 0:
		contains(tool, "User:     7   Group:     8")
		contains(attributes("/usr/bin/tool"), "security.capability (20)")
	}
}

func TestFilesystemErrors(t *testing.T) {
	t.Parallel()
	config := func(text string) func(*testing.T, string, string) {
		return func(t *testing.T, root, _ string) { put(t, root, "etc/selinux/config", text) }
	}
	kernel := func(text string) func(*testing.T, string, string) {
		return func(t *testing.T, _, parts string) { put(t, parts, "boot/config", text) }
	}
	for name, tt := range map[string]struct {
		kind, compression string
		fill              func(*testing.T, string, string)
		want              string
	}{
		"no type":     {"erofs", "lz4hc", config("SELINUX=enforcing\n"), "/etc/selinux/config of the image has no SELINUXTYPE=<policy>"},
		"no contexts": {"ext4", "", config("SELINUXTYPE=tiny\n"), "names the policy tiny, but no package ships /etc/selinux/tiny/contexts/files/file_contexts"},
		"bad contexts": {"ext4", "", func(t *testing.T, root, parts string) {
			policy(t, root, parts)
			put(t, root, "etc/selinux/tiny/contexts/files/file_contexts", "/(.* system_u:object_r:os_t:s0\n")
		}, "etc/selinux/tiny/contexts/files/file_contexts has no label for /, or is damaged"},
		"no ext4":    {"ext4", "", kernel("CONFIG_EXT4_FS=m\n"), "the kernel could not read the root: its /boot/config has no CONFIG_EXT4_FS=y"},
		"no zstd":    {"erofs", "zstd", kernel("CONFIG_EROFS_FS=y\nCONFIG_EROFS_FS_ZIP=y\n"), "has no CONFIG_EROFS_FS_ZIP_ZSTD=y"},
		"line break": {"ext4", "", func(t *testing.T, root, _ string) { put(t, root, "usr/a\nb", "") }, "the image has a file with a line break in its name: b'/usr/a\\nb'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts, out, err := filesystem(t, tt.kind, tt.compression, tt.fill)
			if err == nil || !strings.Contains(out, tt.want) {
				t.Errorf("%v\n%s\nwant %s", err, out, tt.want)
			}
			if _, err := os.Stat(filepath.Join(parts, "root.hash")); !os.IsNotExist(err) {
				t.Error("there is a root hash")
			}
		})
	}
}
