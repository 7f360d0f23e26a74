//go:build e2e

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// releases are three releases of the workspace, made as its maintainers would,
// with throw-away keys.
type releases struct {
	first  string // disk image of 0.1.0
	update string // repository with 0.1.0 and 0.2.0
	keys   keys   // with which their disks and kernel images are signed
	broken string // repository with 0.1.0 and 0.3.0, which does not reach its target
}

var (
	releasesOnce sync.Once
	releasesMade releases
	releasesDir  string // removed by TestMain
)

func TestMain(m *testing.M) {
	code := m.Run()
	if releasesDir != "" {
		os.RemoveAll(releasesDir)
	}
	os.Exit(code)
}

// makeReleases makes them once for all tests.
func makeReleases(t *testing.T) releases {
	t.Helper()
	releasesOnce.Do(func() {
		var err error
		if releasesDir, err = os.MkdirTemp("", "slipway-releases-"); err != nil {
			t.Fatal(err)
		}
		releasesMade = buildReleases(t, releasesDir)
	})
	if releasesMade.broken == "" {
		t.Fatal("the releases could not be made, see the first test")
	}
	return releasesMade
}

func buildReleases(t *testing.T, dir string) (r releases) {
	t.Helper()
	w := copyWorkspace(t, filepath.Join(dir, "os"))
	r.keys = makeKeys(t, dir)
	w.env = r.keys.env
	r.update, r.broken = filepath.Join(dir, "update"), filepath.Join(dir, "broken")

	settings := "schema = 1\n"
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		writeKey(t, filepath.Join(dir, role+".pem"))
		settings += fmt.Sprintf("[repos.main.%s]\nkeys = [\"../%s.pem\"]\n", role, role)
	}
	writeFile(t, filepath.Join(w.dir, "repos.toml"), settings)
	w.slipway("repo", "init", r.update)
	w.add("update-root", `
Source0: root.json
%description
%{summary}.
%prep
%build
%install
install -D -p -m 0644 %{S:0} %{buildroot}%{_cross_datadir}/dinghy/root.json
%files
%{_cross_datadir}/dinghy/root.json
`)
	root, err := os.ReadFile(filepath.Join(r.update, "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(w.dir, "packages", "update-root", "root.json"), string(root))

	publish := func(repository string) string {
		w.slipway("build")
		w.slipway("repo", "add", repository, "--image-dir", filepath.Dir(w.image()))
		return w.image()
	}
	r.first = publish(r.update)
	tool(t, "cp", "-r", r.update, r.broken)
	w.release("0.2.0")
	w.edit("packages/release/os-release", "DATASTORE_VERSION=0.1.0", "DATASTORE_VERSION=0.2.0")
	publish(r.update)
	w.release("0.3.0")
	w.add("broken", `
%description
%{summary}.
%prep
%build
%install
install -d %{buildroot}%{_cross_unitdir}/multi-user.target.requires
printf '[Service]\nType=oneshot\nExecStart=/usr/bin/false\n' >%{buildroot}%{_cross_unitdir}/broken.service
ln -s ../broken.service %{buildroot}%{_cross_unitdir}/multi-user.target.requires/broken.service
%files
%{_cross_unitdir}/*
`)
	publish(r.broken)
	for _, repository := range []string{r.update, r.broken} {
		w.slipway("repo", "validate", repository)
	}
	return r
}

// workspaceCopy is a copy of the workspace that can be changed. It shares the
// caches, so that only what was changed is built.
type workspaceCopy struct {
	t       *testing.T
	dir     string
	variant string
	version string
	env     []string // of slipway
}

func copyWorkspace(t *testing.T, to string) *workspaceCopy {
	t.Helper()
	image(t) // says what is missing
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(*workspace)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "build" {
			tool(t, "cp", "-a", filepath.Join(*workspace, e.Name()), to)
		}
	}
	w := &workspaceCopy{t: t, dir: to, version: "0.1.0"}
	_, text, _ := strings.Cut(w.read("slipway.toml"), `default-variant = "`)
	w.variant, _, _ = strings.Cut(text, `"`)
	return w
}

func (w *workspaceCopy) read(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *workspaceCopy) edit(name, from, to string) {
	w.t.Helper()
	text := w.read(name)
	if strings.Count(text, from) != 1 {
		w.t.Fatalf("%s: want %q once in:\n%s", name, from, text)
	}
	writeFile(w.t, filepath.Join(w.dir, name), strings.Replace(text, from, to, 1))
}

// image is the disk image that a build makes.
func (w *workspaceCopy) image() string {
	return filepath.Join(w.dir, "build", "images", "x86_64-"+w.variant, w.version, fmt.Sprintf("dinghy-%s-x86_64-%s.img", w.variant, w.version))
}

// release raises the version.
func (w *workspaceCopy) release(version string) {
	w.t.Helper()
	w.edit("slipway.toml", "\nversion = \""+w.version+`"`, "\nversion = \""+version+`"`)
	w.version = version
}

// add adds a package to the workspace and to its variant.
func (w *workspaceCopy) add(name, spec string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "packages", name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	writeFile(w.t, filepath.Join(dir, "package.toml"), "# no external files\n")
	writeFile(w.t, filepath.Join(dir, name+".spec"), "Name: %{_cross_os}"+name+`
Version: 1
Release: 1%{?dist}
Summary: Part of a test
License: Apache-2.0
BuildArch: noarch
`+strings.TrimPrefix(spec, "\n"))
	w.include(name)
}

// include adds an RPM to the variant.
func (w *workspaceCopy) include(name string) {
	w.t.Helper()
	w.edit(filepath.Join("variants", w.variant, "variant.toml"), "included-packages = [\n", "included-packages = [\n  \""+name+"\",\n")
}

func (w *workspaceCopy) slipway(args ...string) {
	w.t.Helper()
	command(w.t, w.env, append([]string{"-C", w.dir}, args...)...)
}

// writeKey writes a new Ed25519 key as PKCS #8 in PEM.
func writeKey(t *testing.T, path string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
