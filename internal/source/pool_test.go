package source

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/apt"
)

func TestPoolAddresses(t *testing.T) {
	dir := t.TempDir()
	mirrors := filepath.Join(dir, "mirrors.txt")
	write(t, mirrors, "# ours\nhttp://m1.test/debian\tpriority:1\nhttp://m2.test/debian/\n")
	write(t, filepath.Join(dir, "sources.list"), `deb http://plain.test/debian bookworm main non-free
deb http://plain.test/debian bookworm-updates main
deb http://flat.test/ ./
deb http://ppa.test/ cloud-bookworm main
deb http://noble.test/ noble main
deb cdrom:[disc]/ bookworm main
`)
	write(t, filepath.Join(dir, "sources.list.d/vendor.list"), "deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.test/ bookworm main\n")
	write(t, filepath.Join(dir, "sources.list.d/debian.sources"), `Types: deb
URIs: mirror+file:`+mirrors+`
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://sec.test/debian-security
Suites: bookworm-security
Components: contrib main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`)
	write(t, filepath.Join(dir, "sources.list.d/off.list.disabled"), "not read\n")
	entries, err := apt.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	archives := apt.Debian(entries)
	want := []string{
		"http://m1.test/debian/pool/main/k/kmod/f",
		"http://m2.test/debian/pool/main/k/kmod/f",
		"http://sec.test/debian-security/pool/updates/main/k/kmod/f",
		"http://sec.test/debian-security/pool/updates/contrib/k/kmod/f",
		"http://plain.test/debian/pool/main/k/kmod/f",
		"http://plain.test/debian/pool/non-free/k/kmod/f",
		"http://vendor.test/pool/main/k/kmod/f",
	}
	if diff := cmp.Diff(want, poolAddresses(archives, "kmod", "f")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for source, prefix := range map[string]string{"libcap2": "libc", "lib": "l", "zlib": "z", "libx": "libx"} {
		if got, want := poolAddresses(archives[:1], source, "f")[0], "http://m1.test/debian/pool/main/"+prefix+"/"+source+"/f"; got != want {
			t.Errorf("%s is asked at %s, want %s", source, got, want)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
