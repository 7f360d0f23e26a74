package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/imagetest"
	"slipway/internal/progress"
	"slipway/internal/sdk"
	"slipway/internal/store"
	"slipway/internal/tufrepo"
	updates "slipway/internal/update"
	"slipway/internal/workspace"
)

const migrationsIndex = `# settings of hosts
package = "moves"

[[migration]]
from = "1.0.0"
to = "1.1.0"
files = ["z-first", "a-second"]

[[migration]]
from = "1.1.0"
to = "1.2.0"
`

const migratingVariant = `included-packages = ["os"]
[image-layout]
esp-size-mib = 40
root-size-mib = 8
hash-size-mib = 1
data-size-mib = 4
`

// migrating is a workspace in a folder, whose targets are made by the test: RPMs
// by rpmbuild, images of nothing.
type migrating struct {
	t         *testing.T
	root      string
	cache     string
	requires  string            // of the package os
	programs  map[string]string // in the RPM, by path
	osRelease string            // further lines
}

func newMigrating(t *testing.T) *migrating {
	t.Helper()
	m := &migrating{t: t, root: t.TempDir(), cache: t.TempDir(), programs: map[string]string{
		"/usr/share/migrations/1.0.0_1.1.0_z-first": "first", "/usr/share/migrations/1.0.0_1.1.0_a-second": "second", "/usr/share/licenses/x": "text",
	}}
	m.write("slipway.toml", "schema = 1\nname = \"testos\"\nvendor = \"acme\"\nversion = \"1.2.3\"\nsource-date-epoch = 1700000000\n")
	m.write("sdk/sdk.toml", "name = \"s\"\nsuite = \"bookworm\"\npackages = [\"rpm\"]\narches = [\"x86_64\"]\n")
	m.write("packages/os/package.toml", "")
	m.write("packages/moves/package.toml", "")
	m.write("variants/dev/variant.toml", migratingVariant)
	m.write(workspace.MigrationsFile, migrationsIndex)
	return m
}

func (m *migrating) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		m.t.Fatal(err)
	}
}

// newImage has the image made anew, with further lines in os-release.
func (m *migrating) newImage(osRelease string) {
	m.t.Helper()
	m.osRelease = osRelease
	m.write("variants/dev/variant.toml", migratingVariant+"[image-features]\nnew = true\n")
}

// specs are those of the packages: os, which is in the image, and moves with the
// programs.
func (m *migrating) specs() (osSpec, moves string) {
	var s strings.Builder
	const head = "Version: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n"
	s.WriteString("Name: acme-moves\n" + head + "%description\nx\n%install\nmkdir -p %{buildroot}\n")
	for _, path := range slices.Sorted(maps.Keys(m.programs)) {
		if to, ok := strings.CutPrefix(m.programs[path], "link:"); ok {
			fmt.Fprintf(&s, "mkdir -p %%{buildroot}%s\nln -s %s %%{buildroot}%s\n", filepath.Dir(path), to, path)
			continue
		}
		fmt.Fprintf(&s, "mkdir -p %%{buildroot}%s\nprintf '%%s' '%s' > %%{buildroot}%s\n", filepath.Dir(path), m.programs[path], path)
	}
	s.WriteString("%files\n/usr\n")
	return "Name: acme-os\n" + head + m.requires + "%description\nx\n%files\n", s.String()
}

// builder reads the workspace as it is.
func (m *migrating) builder() *Builder {
	m.t.Helper()
	osSpec, moves := m.specs()
	m.write("packages/os/os.spec", osSpec)
	m.write("packages/moves/moves.spec", moves)
	time.Sleep(30 * time.Millisecond) // else it is too new for a record
	ws, err := workspace.Load(m.root)
	if err != nil {
		m.t.Fatal(err)
	}
	lock := &sdk.Lock{Digest: "sha256:" + strings.Repeat("0", 64), Suite: "bookworm", Components: ws.SDK.Components, Arch: runtime.GOARCH, Requested: ws.SDK.Packages,
		Packages: []sdk.LockedPackage{{Name: "rpm", Version: "1", Arch: runtime.GOARCH, SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/rpm.deb"}}}
	if lock.Key, err = sdk.Key(ws, lock); err != nil {
		m.t.Fatal(err)
	}
	path := filepath.Join(m.root, sdk.LockFile)
	if _, err := os.Stat(path); err != nil {
		if err := sdk.WriteLock(path, lock); err != nil {
			m.t.Fatal(err)
		}
	}
	b, err := New(ws, m.options())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { b.Close(m.t.Context()) })
	return b
}

func (m *migrating) options() Options {
	display := progress.New(io.Discard, progress.Options{Mode: progress.Plain})
	m.t.Cleanup(display.Close)
	return Options{Arch: "x86_64", Cache: m.cache, Display: display}
}

// make puts results of what has none into the store, instead of an engine. It
// gives the targets that it made.
func (m *migrating) make() (made []string, err error) {
	m.t.Helper()
	for range 3 { // package, variant, and nothing
		b := m.builder()
		targets, err := b.closure([]string{"variants/dev"})
		if err != nil {
			m.t.Fatal(err)
		}
		steps, err := b.steps(m.t.Context(), targets)
		if err != nil {
			return nil, err
		}
		for _, s := range steps {
			if s.result != nil || len(s.waits) > 0 {
				continue
			}
			a := store.Artifact{Target: s.target.Name, Arch: "x86_64", Inputs: s.inputs.Encode(), Dir: m.t.TempDir(), Attachments: map[string][]byte{}}
			if s.target.Package != nil {
				m.rpmbuild(s.target.Package.Spec, a.Dir)
				if a.Attachments[mediaRPMs], err = describeRPMs(a.Dir); err != nil {
					m.t.Fatal(err)
				}
			} else {
				m.parts(a.Dir)
			}
			if _, err := b.results.Put(m.t.Context(), a); err != nil {
				m.t.Fatal(err)
			}
			made = append(made, s.target.Name)
		}
	}
	return made, nil
}

func (m *migrating) rpmbuild(spec, out string) {
	m.t.Helper()
	top := m.t.TempDir()
	args := []string{"-bb", "--nodeps", "--target", "noarch"}
	for k, v := range map[string]string{"_topdir": top, "_rpmdir": out, "_tmppath": top, "_dbpath": filepath.Join(top, "db"), "_buildhost": "build",
		"use_source_date_epoch_as_buildtime": "1", "clamp_mtime_to_source_date_epoch": "1", "__os_install_post": "%{nil}", "debug_package": "%{nil}",
		"_rpmfilename": "%%{NAME}-%%{VERSION}.rpm"} {
		args = append(args, "--define", k+" "+v)
	}
	cmd := exec.Command("rpmbuild", append(args, spec)...)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "HOME="+top, "LC_ALL=C")
	if text, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("rpmbuild: %v\n%s", err, text)
	}
}

// parts makes the parts of an image.
func (m *migrating) parts(dir string) {
	m.t.Helper()
	in, err := imagetest.Inputs(m.t.TempDir(), "1.2.3")
	if err != nil {
		m.t.Fatal(err)
	}
	for name, from := range map[string]string{
		"root.erofs": in.Root, "root.verity": in.Hash, "boot/vmlinuz": in.Kernel, "os-release": in.OSRelease,
		"linuxx64.efi.stub": in.Stub, "systemd-bootx64.efi": in.BootLoader,
	} {
		raw, err := os.ReadFile(from)
		if name == "os-release" {
			raw = append(raw, m.osRelease...)
		}
		to := filepath.Join(dir, name)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, raw, 0o644)); err != nil {
			m.t.Fatal(err)
		}
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, "root.hash"), []byte(in.RootHash.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "inventory.tsv"), []byte("acme-os\t0\t1\t1\tnoarch\tx\t(none)\t10\tx\n"), 0o644))
	if err != nil {
		m.t.Fatal(err)
	}
}

// build makes everything and runs a build, which then has all results.
func (m *migrating) build() error {
	m.t.Helper()
	if _, err := m.make(); err != nil {
		return err
	}
	return m.builder().Build(m.t.Context(), nil)
}

func (m *migrating) archive() string {
	return filepath.Join(m.root, "build/images/x86_64-dev/1.2.3/testos-dev-x86_64-1.2.3-migrations.tar")
}

func (m *migrating) current() bool {
	_, _, ok, err := BuildCurrent(m.root, m.options(), nil)
	if err != nil {
		m.t.Error(err)
	}
	return ok
}

// entries lists an archive: "name mode mtime owner content".
func entries(t *testing.T, path string) (list []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %o %d %d:%d %s", h.Name, h.Mode, h.ModTime.Unix(), h.Uid, h.Gid, text))
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	m := newMigrating(t)
	m.osRelease = "DATASTORE_VERSION=1.2.0\n"
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"migrations.toml 644 1700000000 0:0 " + migrationsIndex,
		"1.0.0_1.1.0_a-second 755 1700000000 0:0 second",
		"1.0.0_1.1.0_z-first 755 1700000000 0:0 first",
	}
	if diff := cmp.Diff(want, entries(t, m.archive())); diff != "" {
		t.Error(diff)
	}
	if !m.current() {
		t.Error("the next build is not a no-op")
	}

	// An update repository takes it.
	rel := tufrepo.Release{Variant: "dev", Arch: "x86_64", Version: updates.Version{Major: 1, Minor: 2, Patch: 3}}
	if err := rel.FromDir(filepath.Dir(m.archive())); err != nil || rel.Migrations != m.archive() {
		t.Errorf("%+v, %v", rel, err)
	}

	// Another program makes another archive, and nothing else.
	first, err := os.ReadFile(m.archive())
	if err != nil {
		t.Fatal(err)
	}
	disk := strings.TrimSuffix(m.archive(), "-migrations.tar")
	states := func() (list []os.FileInfo) {
		for _, path := range []string{disk + ".img", disk + "-root.img", disk + "-uki.efi"} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, info)
		}
		return list
	}
	before := states()
	const path = "/usr/share/migrations/1.0.0_1.1.0_z-first"
	m.programs[path] = "changed"
	rows, err := m.builder().Plan(t.Context(), nil, false)
	if err != nil || len(rows) != 3 || rows[0].Name != "packages/moves" || rows[0].Status != PlanBuild || rows[1].Status != PlanCached || rows[2].Status != PlanCached {
		t.Errorf("%+v, %v", rows, err)
	}
	list, err := m.builder().Verify(t.Context(), nil)
	if err != nil || len(list) != 3 || !strings.Contains(strings.Join(list[2].Findings, "\n"), "the migrations are not checked: packages/moves, which ships them, has no result: slipway build variants/dev makes it") {
		t.Errorf("%+v, %v", list, err)
	}
	if made, err := m.make(); err != nil || !slices.Equal(made, []string{"packages/moves"}) {
		t.Errorf("made %v", made)
	}
	if m.current() {
		t.Error("the record holds")
	}
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	want[2] = "1.0.0_1.1.0_z-first 755 1700000000 0:0 changed"
	if diff := cmp.Diff(want, entries(t, m.archive())); diff != "" {
		t.Error(diff)
	}
	for i, after := range states() {
		if !os.SameFile(before[i], after) || !before[i].ModTime().Equal(after.ModTime()) {
			t.Errorf("%s was written again", after.Name())
		}
	}

	// The list alone, which is no target's input.
	m.write(workspace.MigrationsFile, migrationsIndex+"# x\n")
	if made, err := m.make(); err != nil || len(made) > 0 || m.current() {
		t.Errorf("made %v, record holds: %v", made, m.current())
	}
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	want[0] += "# x\n"
	if diff := cmp.Diff(want, entries(t, m.archive())); diff != "" {
		t.Error(diff)
	}

	// What was is made again bit by bit, in another folder and another cache.
	other := newMigrating(t)
	other.osRelease = m.osRelease
	if err := other.build(); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(other.archive()); err != nil || string(again) != string(first) {
		t.Errorf("another archive of the same: %v", err)
	}

	// Damage is found and mended.
	for name, damage := range map[string]func() error{
		"changed": func() error {
			return errors.Join(os.Remove(m.archive()), os.WriteFile(m.archive(), []byte("x"), 0o644))
		},
		"missing":  func() error { return os.Remove(m.archive()) },
		"no stamp": func() error { return os.Remove(filepath.Join(filepath.Dir(m.archive()), ".migrations")) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		for _, good := range []bool{false, true} {
			list, err := m.builder().Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			v := list[len(list)-1]
			if v.Good() != good || !good && !strings.Contains(strings.Join(v.Findings, "\n"), "-migrations.tar is missing, or is not of the migrations of now: slipway build variants/dev shows it again") {
				t.Errorf("%s: %s %v", name, v.Status, v.Findings)
			}
			if err := m.build(); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, entries(t, m.archive())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}

	// Without migrations, or without updates, there is no archive.
	if err := os.RemoveAll(filepath.Join(m.root, "migrations")); err != nil {
		t.Fatal(err)
	}
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(m.archive()), "*igrations*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestMigrationsWrong(t *testing.T) {
	t.Parallel()
	const dir = "/usr/share/migrations/"
	for name, c := range map[string]struct {
		change func(m *migrating)
		want   string
	}{
		"not in the RPM": {func(m *migrating) { delete(m.programs, dir+"1.0.0_1.1.0_z-first") },
			`migrations/migrations.toml:7:10: acme-moves, which packages/moves makes, has no /usr/share/migrations/1.0.0_1.1.0_z-first (have the spec build and install it, or remove it from the step)`},
		"not listed": {func(m *migrating) { m.programs[dir+"1.1.0_1.2.0_more"] = "x" },
			`migrations/migrations.toml:2:11: acme-moves, which packages/moves makes, has /usr/share/migrations/1.1.0_1.2.0_more, which no step names (name "more" in the files of the step from 1.1.0 to 1.2.0, or do not install it)`},
		"another name": {func(m *migrating) { m.programs[dir+"README"] = "x" },
			`has /usr/share/migrations/README, which no step names (the form is <from>_<to>_<name>)`},
		"link": {func(m *migrating) { m.programs[dir+"1.0.0_1.1.0_z-first"] = "link:1.0.0_1.1.0_a-second" },
			`acme-moves has /usr/share/migrations/1.0.0_1.1.0_z-first, which is not a regular file`},
		"in the image": {func(m *migrating) { m.requires = "Requires: acme-moves\n" },
			`migrations/migrations.toml:2:11: the RPM acme-moves, which ships the migrations, would be installed in variants/dev (migrations are never in an image, hosts get them from the update repository; see Requires of acme-os, which packages/os makes)`},
		"no way to the image's version": {func(m *migrating) { m.newImage("DATASTORE_VERSION=1.3.0\n") },
			`migrations/migrations.toml: the image works with data of version 1.3.0, as DATASTORE_VERSION in its os-release says, but no step leads there (add [[migration]] with from = "1.2.0" and to = "1.3.0"; it needs no programs where only the version changes)`},
		"an unknown version": {func(m *migrating) { m.newImage("DATASTORE_VERSION=1.0.5\n") }, `but no step leads there (the versions are 1.0.0, 1.1.0, 1.2.0)`},
		"no version":         {func(m *migrating) { m.newImage("DATASTORE_VERSION=1\n") }, `os-release of the image: DATASTORE_VERSION: version "1": want three numbers`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMigrating(t)
			if err := m.build(); err != nil {
				t.Fatal(err)
			}
			c.change(m)
			err := m.build()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
			if m.current() {
				t.Error("the build counts as done")
			}
			// an archive of before would be taken for one of now
			if _, err := os.Stat(m.archive()); (err == nil) != (name == "in the image") {
				t.Errorf("the archive: %v", err)
			}
		})
	}
}
