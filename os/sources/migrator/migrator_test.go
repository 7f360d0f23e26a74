package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dinghy/internal/datastore"
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

type machine struct{ dir string }

func (m machine) program(t *testing.T, name, end string) {
	t.Helper()
	ok(t, os.MkdirAll(m.dir+"/migrations", 0o755))
	text := strings.NewReplacer("NAME", name, "END", end).Replace(script)
	ok(t, os.WriteFile(filepath.Join(m.dir, "migrations", name), []byte(text), 0o755))
}

// args are those of the migrator in a system with this format version.
func (m machine) args(t *testing.T, version string) []string {
	t.Helper()
	text := "ID=dinghy\nVARIANT_ID=dev\nIMAGE_VERSION=1.0.0\nDATASTORE_VERSION=" + version + "\n"
	ok(t, os.WriteFile(m.dir+"/os-release", []byte(text), 0o644))
	return []string{"-datastore", m.dir + "/datastore", "-os-release", m.dir + "/os-release", "-migrations", m.dir + "/migrations",
		"-repository", m.dir + "/none", "-root", m.dir + "/none", "-scratch", m.dir}
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
}

func TestMigrate(t *testing.T) {
	m := machine{t.TempDir()}
	a, b, c := "1.0.0_1.1.0_a", "1.0.0_1.1.0_b", "1.1.0_1.2.0_c"
	m.program(t, a, "")
	m.program(t, b, "")
	m.program(t, c, "exit 3")
	var log bytes.Buffer
	ok(t, run(m.args(t, "1.0.0"), &log))
	m.check(t, "1.0.0", "")
	if err := run(m.args(t, "1.2.0"), &log); err == nil || !strings.Contains(err.Error(), "migration "+c+": exit status 3") {
		t.Errorf("a step that fails: %v", err)
	}
	m.check(t, "1.0.0", "")
	if left, _ := os.ReadDir(m.dir + "/datastore"); len(left) != 2 {
		t.Errorf("left over: %v", left)
	}
	m.program(t, c, "")
	ok(t, run(m.args(t, "1.2.0"), &log))
	m.check(t, "1.2.0", "+"+a+" +"+b+" +"+c)
	ok(t, run(m.args(t, "1.0.0"), &log))
	m.check(t, "1.0.0", "+"+a+" +"+b+" +"+c+" -"+c+" -"+b+" -"+a)
	if err := run(m.args(t, "2.0.0"), &log); err == nil || !strings.Contains(err.Error(), "no migrations lead from datastore 1.0.0 to 2.0.0") {
		t.Errorf("no way: %v", err)
	}
}

// TestKilled kills the migrator within each step; the next run completes.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("MIGRATE_BELOW"); dir != "" {
		ok(t, run(machine{dir}.args(t, "1.2.0"), os.Stderr))
		return
	}
	names := []string{"1.0.0_1.1.0_a", "1.0.0_1.1.0_b", "1.1.0_1.2.0_c"}
	for _, killer := range names {
		m := machine{t.TempDir()}
		for _, n := range names {
			end := ""
			if n == killer {
				end = "kill -9 $PPID"
			}
			m.program(t, n, end)
		}
		ok(t, run(m.args(t, "1.0.0"), os.Stderr))
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "MIGRATE_BELOW="+m.dir)
		if out, err := cmd.CombinedOutput(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("%v\n%s", err, out)
		}
		m.check(t, "1.0.0", "")
		m.program(t, killer, "")
		ok(t, run(m.args(t, "1.2.0"), os.Stderr))
		m.check(t, "1.2.0", "+"+strings.Join(names, " +"))
		if left, _ := filepath.Glob(m.dir + "/datastore/.work*"); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
}
