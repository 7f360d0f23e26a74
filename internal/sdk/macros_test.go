package sdk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/workspace"
)

func testWorkspace() *workspace.Workspace {
	return &workspace.Workspace{
		Root:   "/ws",
		Config: workspace.Config{Name: "dinghy", Vendor: "acme", ReleaseEpoch: 1700000000},
		SDK: &workspace.SDK{
			Name: "sdk", Suite: "bookworm", Components: []string{"main"},
			Packages: []string{"make", "gcc"}, Arches: []string{"x86_64"}, Go: "1.26.8",
		},
	}
}

func TestMacrosHasNoPlaceholders(t *testing.T) {
	for _, a := range []string{"x86_64", "aarch64"} {
		text, err := Macros(testWorkspace(), a)
		if err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(text, "@NAMES@", "", 1)
		if i := strings.IndexByte(text, '@'); i >= 0 {
			t.Errorf("%s: a placeholder is left: %.40q", a, text[i:])
		}
	}
}

// rpm itself reads the macro file, so that what it makes of it is tested.
func TestMacrosInRPM(t *testing.T) {
	rpm, err := exec.LookPath("rpm")
	if err != nil {
		t.Skip("rpm is not installed")
	}
	tests := []struct {
		name, arch string
		debug      bool
		macros     map[string]string
		eval, want string
	}{
		{name: "target", arch: "x86_64", eval: "%{_cross_target} %{_cross_karch} %{_cross_kimage} %{_cross_efi_arch} %{_cross_go_arch} %{_cross_cpu_family}",
			want: "x86_64-acme-linux-gnu x86 bzImage x64 amd64 x86"},
		{name: "other target", arch: "aarch64", eval: "%{_cross_target} %{_cross_karch} %{_cross_kimage} %{_cross_efi_arch} %{_cross_go_arch} %{_cross_cpu_family}",
			want: "aarch64-acme-linux-gnu arm64 Image aa64 arm64 arm"},
		{name: "prefix", arch: "x86_64", eval: "%{_cross_os}x", want: "acme-x"},
		{name: "no debuginfo", arch: "x86_64", eval: "%{_cross_cflags}%{debug_package}", want: "-O2  -pipe"},
		{name: "debuginfo", arch: "x86_64", debug: true, eval: "%{_cross_cflags}", want: "-O2 -g -pipe"},
		{name: "own macro wins", arch: "x86_64", macros: map[string]string{"_cross_kimage": "vmlinux"}, eval: "%{_cross_kimage}", want: "vmlinux"},
		{name: "several lines", arch: "x86_64", macros: map[string]string{"greet": "echo a\necho b", "zz": "after"}, eval: "%greet|%zz", want: "echo a\necho b|after"},
		{name: "empty", arch: "x86_64", macros: map[string]string{"none": "", "zz": "after"}, eval: "[%none]%zz", want: "[]after"},
		{name: "case in shell", arch: "x86_64", macros: map[string]string{"c": "case x in x) : ;; esac", "d": "after"}, eval: "%d", want: "after"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ws := testWorkspace()
			ws.Config.Build.Debuginfo, ws.Config.Macros = tt.debug, tt.macros
			text, err := Macros(ws, tt.arch)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "macros")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			// after rpm's own macros, as below /etc/rpm
			out, err := exec.Command(rpm, "--macros", "/usr/lib/rpm/macros:"+file, "--eval", tt.eval).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got := strings.TrimSpace(string(out))
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s is %q, want %q", tt.eval, got, tt.want)
			}
		})
	}
}

func TestMacrosErrors(t *testing.T) {
	tests := []struct {
		name, arch string
		macros     map[string]string
		want       string
	}{
		{"arch", "riscv64", nil, `architecture "riscv64" is unknown: use x86_64 or aarch64`},
		{"brace", "x86_64", map[string]string{"m": "%{?x"}, "slipway.toml: macros.m: %{ is not closed in the body: rpm would read on into the next macro"},
		{"parenthesis", "x86_64", map[string]string{"m": "a %(echo (b)"}, "slipway.toml: macros.m: %( is not closed in the body: rpm would read on into the next macro"},
		{"backslash", "x86_64", map[string]string{"m": `a \`}, "slipway.toml: macros.m: the body ends with a backslash, which would continue it into the next macro: remove it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ws := testWorkspace()
			ws.Config.Macros = tt.macros
			_, err := Macros(ws, tt.arch)
			if diff := cmp.Diff(tt.want, errText(err)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
