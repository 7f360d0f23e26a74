package rpm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// payloadSpec makes one file of each sort, two of them links of one file.
const payloadSpec = `Name: x
Version: 1
Release: 1
Summary: x
License: MIT
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/usr/share/d
printf text > %{buildroot}/usr/share/d/b
printf linked > %{buildroot}/usr/share/d/c
ln %{buildroot}/usr/share/d/c %{buildroot}/usr/share/d/e
ln -s b %{buildroot}/usr/share/d/link
: > %{buildroot}/usr/share/d/empty
chmod 0750 %{buildroot}/usr/share/d/b
%files
%dir /usr/share/d
/usr/share/d/*
%ghost /usr/share/ghost
`

func TestFiles(t *testing.T) {
	t.Parallel()
	want := []string{
		"/usr/share/d drwxr-xr-x", `/usr/share/d/b -rwxr-x--- "text"`, "/usr/share/d/c -rw-r--r-- it is a hard link", `/usr/share/d/e -rw-r--r-- "linked"`,
		`/usr/share/d/empty -rw-r--r-- ""`, "/usr/share/d/link Lrwxrwxrwx",
	}
	for _, payload := range []string{"w3.zstdio", "w6.gzdio", "w6.xzdio", "w.ufdio"} {
		t.Run(payload, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			spec := filepath.Join(top, "x.spec")
			if err := os.WriteFile(spec, []byte(payloadSpec), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"-bb", "--nodeps", "--target", "noarch"}
			for k, v := range map[string]string{"_topdir": top, "_rpmdir": top, "_tmppath": top, "_dbpath": top + "/db", "__os_install_post": "%{nil}",
				"_binary_payload": payload, "_rpmfilename": "%%{NAME}.rpm"} {
				args = append(args, "--define", k+" "+v)
			}
			cmd := exec.Command("rpmbuild", append(args, spec)...)
			cmd.Env = append(os.Environ(), "HOME="+top)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got []string
			path := filepath.Join(top, "x.rpm")
			err := Files(path, func(f File, content io.Reader) error {
				line := f.Path + " " + f.Mode.String()
				if f.Mode.IsRegular() {
					text, err := io.ReadAll(content)
					if err == nil {
						line += fmt.Sprintf(" %q", text)
						if int64(len(text)) != f.Size {
							t.Errorf("%s has %d bytes, not %d", f.Path, len(text), f.Size)
						}
					} else {
						line += " " + err.Error()
					}
				}
				got = append(got, line)
				return nil
			})
			slices.Sort(got) // rpm puts links last
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
			// an error of take ends it
			stop := errors.New("stop")
			n := 0
			if err := Files(path, func(File, io.Reader) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
				t.Errorf("%v after %d files", err, n)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{"": raw, "payload": raw[:len(raw)-100], "header": raw[:2000], "lead": []byte("hello")} {
				cut := filepath.Join(top, "cut")
				if err := os.WriteFile(cut, data, 0o644); err != nil {
					t.Fatal(err)
				}
				err := Files(cut, func(_ File, content io.Reader) error {
					if _, err := io.Copy(io.Discard, content); !errors.Is(err, errLink) {
						return err
					}
					return nil
				})
				if (err == nil) != (name == "") || err != nil && !strings.HasPrefix(err.Error(), cut+": ") {
					t.Errorf("cut in the %s: %v", name, err)
				}
			}
		})
	}
	if err := Files(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(sample(f))
	f.Add(sample(f)[:5500])
	f.Fuzz(func(t *testing.T, data []byte) {
		total := int64(0)
		_ = files(bytes.NewReader(data), func(_ File, content io.Reader) error {
			n, err := io.Copy(io.Discard, io.LimitReader(content, 1<<20))
			if total += n; total > 1<<24 {
				return errors.New("enough")
			}
			return err
		})
	})
}
