package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"dinghy/internal/datastore"
	"dinghy/update"
)

const script = `#!/bin/sh
[ "$1 $3 $#" = "--source --target 5" ] || exit 9
cp -R "$2/." "$4" || exit 8
case "$5" in
--forward) echo "+NAME" >> "$4/live/trace" ;;
--backward) echo "-NAME" >> "$4/live/trace" ;;
esac
END
`

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a folder with what the migrator works with: the datastore, and below
// kept what the updater has kept, expired long ago.
type machine struct{ dir string }

func (m machine) kept(name string) string { return filepath.Join(m.dir, "kept", name) }

// keep makes the updater have kept a repository whose migrations are these: of
// each program its name, <from>_<to>_<text>, and what it ends with, or only
// <from>_<to> for a step without programs.
func (m machine) keep(t *testing.T, programs ...[2]string) {
	t.Helper()
	ok(t, os.RemoveAll(m.kept("")))
	ok(t, os.MkdirAll(m.kept("targets"), 0o755))
	past := time.Unix(1, 0)
	targets := metadata.Targets(past)
	target := func(name string, data []byte) update.File {
		sum := sha256.Sum256(data)
		f := update.File{Target: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
		info, err := metadata.TargetFile().FromBytes(name, data, "sha256")
		ok(t, err)
		targets.Signed.Targets[name] = info
		ok(t, os.WriteFile(m.kept("targets/"+f.SHA256+"."+name), data, 0o600))
		return f
	}
	manifest := update.Manifest{Schema: update.Schema}
	for _, p := range programs {
		parts := strings.SplitN(p[0], "_", 3)
		from, err := update.ParseVersion(parts[0])
		ok(t, err)
		to, err := update.ParseVersion(parts[1])
		ok(t, err)
		at := slices.IndexFunc(manifest.Migrations, func(s update.Migration) bool { return s.From == from && s.To == to })
		if at < 0 {
			at = len(manifest.Migrations)
			manifest.Migrations = append(manifest.Migrations, update.Migration{From: from, To: to, Files: []update.File{}})
		}
		if len(parts) == 3 {
			text := strings.NewReplacer("NAME", p[0], "END", p[1]).Replace(script)
			manifest.Migrations[at].Files = append(manifest.Migrations[at].Files, target(p[0], []byte(text)))
		}
	}
	data, err := manifest.Marshal()
	ok(t, err)
	target(update.ManifestTarget, data)

	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	ok(t, err)
	key, err := metadata.KeyFromPublicKey(private.Public())
	ok(t, err)
	root, snapshot, timestamp := metadata.Root(past), metadata.Snapshot(past), metadata.Timestamp(past)
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		ok(t, root.Signed.AddKey(key, role))
	}
	_, err = root.Sign(signer)
	ok(t, err)
	ok(t, root.ToFile(m.kept("1.root.json"), false))
	_, err = targets.Sign(signer)
	ok(t, err)
	ok(t, targets.ToFile(m.kept("1.targets.json"), false))
	_, err = snapshot.Sign(signer)
	ok(t, err)
	ok(t, snapshot.ToFile(m.kept("1.snapshot.json"), false))
	_, err = timestamp.Sign(signer)
	ok(t, err)
	ok(t, timestamp.ToFile(m.kept("timestamp.json"), false))
}

// args are those of the migrator in a system with this format version.
func (m machine) args(t *testing.T, version string) []string {
	t.Helper()
	text := "ID=dinghy\nVARIANT_ID=dev\nIMAGE_VERSION=1.0.0\nDATASTORE_VERSION=" + version + "\n"
	ok(t, os.WriteFile(m.dir+"/os-release", []byte(text), 0o644))
	return []string{"-datastore", m.dir + "/datastore", "-os-release", m.dir + "/os-release",
		"-repository", m.kept(""), "-root", m.kept("1.root.json"), "-scratch", m.dir}
}

// check holds version and trace of the current datastore against what is wanted.
func (m machine) check(t *testing.T, version, trace string) {
	t.Helper()
	dir, got, err := datastore.Store{Dir: m.dir + "/datastore"}.Current()
	ok(t, err)
	data, _ := os.ReadFile(dir + "/live/trace")
	if got.String() != version || strings.Join(strings.Fields(string(data)), " ") != trace {
		t.Errorf("version %s with %q, want %s with %q", got, data, version, trace)
	}
	for _, pattern := range []string{"/datastore/.work*", "/migrator-*"} {
		if left, _ := filepath.Glob(m.dir + pattern); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
}

func TestMigrate(t *testing.T) {
	m := machine{t.TempDir()}
	// not by name: the order is that of the manifest
	a, b, c := "1.0.0_1.1.0_z", "1.0.0_1.1.0_b", "1.1.0_1.2.0_c"
	m.keep(t, [2]string{a}, [2]string{b}, [2]string{c, "exit 3"}, [2]string{"1.2.0_1.3.0"})
	var log bytes.Buffer
	ok(t, run(m.args(t, "1.0.0"), &log))
	m.check(t, "1.0.0", "")
	if err := run(m.args(t, "1.2.0"), &log); err == nil || err.Error() != "the datastore stays at version 1.0.0, this system needs 1.2.0: migration "+c+": exit status 3" {
		t.Errorf("a step that fails: %v", err)
	}
	m.check(t, "1.0.0", "")
	m.keep(t, [2]string{a}, [2]string{b}, [2]string{c}, [2]string{"1.2.0_1.3.0"})
	ok(t, run(m.args(t, "1.2.0"), &log))
	m.check(t, "1.2.0", "+"+a+" +"+b+" +"+c)
	ok(t, run(m.args(t, "1.3.0"), &log))
	m.check(t, "1.3.0", "+"+a+" +"+b+" +"+c)
	ok(t, run(m.args(t, "1.0.0"), &log))
	m.check(t, "1.0.0", "+"+a+" +"+b+" +"+c+" -"+c+" -"+b+" -"+a)
	if want := "the datastore went from version 1.3.0 to 1.0.0\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("log %q does not end in %q", log.String(), want)
	}
}

// What cannot be verified is not run, and the message says what to do.
func TestRefused(t *testing.T) {
	a, b := "1.0.0_1.1.0_a", "1.1.0_1.2.0_b"
	program := func(t *testing.T, m machine, name string) string {
		t.Helper()
		found, err := filepath.Glob(m.kept("targets/*." + name))
		ok(t, err)
		if len(found) != 1 {
			t.Fatalf("%s: %v", name, found)
		}
		return found[0]
	}
	const revert = "boot the system that it belongs to (updater revert --reboot), and have the updater prepare the other anew"
	for name, c := range map[string]struct {
		damage func(t *testing.T, m machine)
		to     string
		want   []string
	}{
		"nothing kept":    {func(t *testing.T, m machine) { ok(t, os.RemoveAll(m.kept(""))) }, "1.2.0", []string{"cannot be read: ", "no such file", revert}},
		"no trusted root": {func(t *testing.T, m machine) { ok(t, os.Remove(m.kept("1.root.json"))) }, "1.2.0", []string{"1.root.json: no such file", revert}},
		"metadata": {func(t *testing.T, m machine) {
			ok(t, os.WriteFile(m.kept("1.targets.json"), []byte("{}"), 0o600))
		}, "1.2.0", []string{"what the updater kept of the update repository cannot be read: repository ", revert}},
		"manifest": {func(t *testing.T, m machine) {
			ok(t, os.Truncate(program(t, m, update.ManifestTarget), 10))
		}, "1.2.0", []string{"target manifest.json: 10 bytes, the signed metadata give it ", revert}},
		"missing link": {func(*testing.T, machine) {}, "2.0.0",
			[]string{"no migrations lead from datastore 1.0.0 to 2.0.0: publish the missing step, boot the system that the datastore belongs to"}},
		"missing program": {func(t *testing.T, m machine) { ok(t, os.Remove(program(t, m, b))) }, "1.2.0",
			[]string{"migration " + b + ": open ", "no such file"}},
		"changed program": {func(t *testing.T, m machine) {
			path := program(t, m, b)
			data, err := os.ReadFile(path)
			ok(t, err)
			data[len(data)-2] ^= 1
			ok(t, os.WriteFile(path, data, 0o600))
		}, "1.2.0", []string{"migration " + b + ": target " + b + ": SHA-256 is "}},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine{t.TempDir()}
			m.keep(t, [2]string{a}, [2]string{b})
			args := m.args(t, "1.0.0")
			ok(t, run(args, os.Stderr))
			c.damage(t, m)
			err := run(m.args(t, c.to), os.Stderr)
			for _, want := range append(c.want, "the datastore stays at version 1.0.0, this system needs "+c.to+": ") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %s", err, want)
				}
			}
			m.check(t, "1.0.0", "")
			// the system that the datastore belongs to needs nothing of it
			ok(t, run(m.args(t, "1.0.0"), os.Stderr))
		})
	}
}

// TestKilled kills the migrator within each step; the next run completes.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("MIGRATE_BELOW"); dir != "" {
		ok(t, run(machine{dir}.args(t, "1.2.0"), os.Stderr))
		return
	}
	names := []string{"1.0.0_1.1.0_a", "1.0.0_1.1.0_b", "1.1.0_1.2.0_c"}
	programs := func(killer string) (list [][2]string) {
		for _, n := range names {
			p := [2]string{n}
			if n == killer {
				p[1] = "kill -9 $PPID"
			}
			list = append(list, p)
		}
		return list
	}
	for _, killer := range names {
		m := machine{t.TempDir()}
		m.keep(t, programs(killer)...)
		ok(t, run(m.args(t, "1.0.0"), os.Stderr))
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "MIGRATE_BELOW="+m.dir)
		if out, err := cmd.CombinedOutput(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("%v\n%s", err, out)
		}
		left, _ := filepath.Glob(m.dir + "/migrator-*") // lies in memory
		for _, dir := range left {
			ok(t, os.RemoveAll(dir))
		}
		if _, version, err := (datastore.Store{Dir: m.dir + "/datastore"}).Current(); err != nil || fmt.Sprint(version) != "1.0.0" {
			t.Errorf("killed in %s: version %s, %v", killer, version, err)
		}
		m.keep(t, programs("")...)
		ok(t, run(m.args(t, "1.2.0"), os.Stderr))
		m.check(t, "1.2.0", "+"+strings.Join(names, " +"))
	}
}
