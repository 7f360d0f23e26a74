package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cpus is how many processors the scripts below believe to have.
const cpus = 4

// sandboxScript is what runs in place of rpmbuild: a make as specs call it.
const sandboxScript = `
mkdir "$RUN/$NAME"
bash -ec 'make -j4 -s -f "$MAKEFILE" "$GOAL"'
`

// step is a makefile whose recipes note how many run in all sandboxes. The goal
// "meet" has recipes that end once there are as many as processors at once; those
// of "hang" do not end.
const step = `
names := 1 2 3 4 5 6 7 8 9 10 11 12
crowd: $(names:%=crowd-%)
crowd-%:
	@touch $$RUN/$$NAME/$*; ls $$RUN/* | grep -c '^[0-9]' >> $$COUNTS; sleep 0.02; rm $$RUN/$$NAME/$*
meet: meet-1 meet-2 meet-3 meet-4
meet-%:
	@touch $$RUN/$$NAME/$*; until [ "$$(ls $$RUN/$$NAME | wc -l)" -ge 4 ]; do sleep 0.01; done
hang: hang-1 hang-2 hang-3 hang-4
hang-%:
	@touch $$RUN/$$NAME/$*; sleep 600
below:
	@$(MAKE) -s -f $$MAKEFILE meet
install:
	@bash -c 'make -s -f $$MAKEFILE meet-1'
`

// sandboxes runs scripts as sandboxes do, beside each other, with one job budget.
type sandboxes struct {
	*testing.T
	dir string
}

func newSandboxes(t *testing.T) sandboxes {
	t.Parallel()
	for _, tool := range []string{"make", "flock"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"run", "jobs"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "makefile"), []byte(step), 0o644); err != nil {
		t.Fatal(err)
	}
	return sandboxes{t, dir}
}

// start begins a sandbox as a process group of its own.
func (s sandboxes) start(name, goal, script string) *exec.Cmd {
	s.Helper()
	cmd := exec.Command("/bin/bash", "-euo", "pipefail", "-c", jobsScript+script, "slipway")
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS="+strconv.Itoa(cpus), "SLIPWAY_JOBS="+filepath.Join(s.dir, "jobs"), "RUN="+filepath.Join(s.dir, "run"),
		"COUNTS="+filepath.Join(s.dir, "counts"), "MAKEFILE="+filepath.Join(s.dir, "makefile"), "NAME="+name, "GOAL="+goal, "MAKEFLAGS=", "MAKELEVEL=")
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.kill(cmd) })
	return cmd
}

// kill ends a sandbox as the engine does: all of its processes at once.
func (s sandboxes) kill(cmd *exec.Cmd) {
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.Error(err)
	}
	_ = cmd.Wait() // killed, or waited for already
}

// end waits for a sandbox that is to do well.
func (s sandboxes) end(cmd *exec.Cmd) string {
	s.Helper()
	watch := time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer watch.Stop()
	if err := cmd.Wait(); err != nil {
		s.Fatalf("%v: %s%s", err, cmd.Stdout, cmd.Stderr)
	}
	if text := cmd.Stderr.(*bytes.Buffer).String(); text != "" {
		s.Errorf("standard error: %s", text)
	}
	return cmd.Stdout.(*bytes.Buffer).String()
}

func (s sandboxes) waitFor(pattern string, n int) {
	s.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		found, err := filepath.Glob(filepath.Join(s.dir, "run", pattern))
		if err != nil {
			s.Fatal(err)
		}
		if len(found) == n {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s: %v instead of %d", pattern, found, n)
		}
	}
}

// A make alone has all processors, also in makes below it.
func TestJobsAlone(t *testing.T) {
	s := newSandboxes(t)
	for _, goal := range []string{"meet", "below"} {
		if out := s.end(s.start(goal, goal, sandboxScript)); out != "" {
			t.Errorf("%s printed %q", goal, out)
		}
	}
}

// Three sandboxes together run no more jobs than there are tokens, and one each.
func TestJobsAreShared(t *testing.T) {
	s := newSandboxes(t)
	holder := s.start("holder", "", `touch "$RUN/ready"; sleep 600`)
	s.waitFor("ready", 1) // the budget is made once, not by whoever of the three is first
	var all []*exec.Cmd
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, s.start(name, "crowd", sandboxScript))
	}
	for _, cmd := range all {
		s.end(cmd)
	}
	s.kill(holder)
	raw, err := os.ReadFile(filepath.Join(s.dir, "counts"))
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for _, word := range strings.Fields(string(raw)) {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	if limit := cpus - 1 + len(all); most > limit || most <= len(all) {
		t.Errorf("%d jobs at once, of %d", most, limit)
	}
}

// Tokens that a killed sandbox had are lost while others run, who go on with one
// job, and are back once none runs.
func TestJobsOfKilledSandbox(t *testing.T) {
	s := newSandboxes(t)
	killed := s.start("killed", "hang", sandboxScript)
	s.waitFor("killed/*", cpus)
	other := s.start("other", "hang", sandboxScript)
	s.waitFor("other/*", 1)
	s.kill(killed)
	late := s.start("late", "crowd", sandboxScript)
	s.end(late)
	raw, err := os.ReadFile(filepath.Join(s.dir, "counts"))
	if err != nil {
		t.Fatal(err)
	}
	// its own, other's, and the files that the killed one left
	if got, want := string(raw), strings.Repeat(fmt.Sprintln(1+1+cpus), 12); got != want {
		t.Errorf("jobs at once: %q", got)
	}
	s.kill(other)
	s.end(s.start("again", "meet", sandboxScript))
}

// A make that is not told to use all processors is left alone.
func TestJobsAreForParallelMakes(t *testing.T) {
	s := newSandboxes(t)
	show := `bash -ec 'command() { shift; echo "$MAKEFLAGS|$*"; }; make install DESTDIR=x; make -j2 all; make -j4 all; make V=1 -j4 "a b"; MAKEFLAGS=s; make -j4; MAKELEVEL=1; make -j4'`
	got := s.end(s.start("a", "", show))
	want := `|install DESTDIR=x
|-j2 all
 -j4 --jobserver-auth=200,200|all
 -j4 --jobserver-auth=200,200|V=1 a b
s -j4 --jobserver-auth=200,200|
s|-j4
`
	if got != want {
		t.Errorf("got %s", got)
	}
}

// ninja and go have the tokens that are free when they start, and give them back
// however they end.
func TestJobsOfOthers(t *testing.T) {
	s := newSandboxes(t)
	show := `bash -ec 'command() { shift; echo "${GOMAXPROCS:-}|$*"; }; ninja -C b all; ninja -j4 "a b"; ninja -j2 all; go build ./...; GOMAXPROCS=3; go vet; unset GOMAXPROCS
		command() { return 3; }; ninja || echo "status $?"; go || echo "status $?"
		command() { shift; echo "${GOMAXPROCS:-}|$*"; }; go build; ninja'`
	alone := `|-j4 -C b all
|-j4 a b
|-j2 all
4|build ./...
3|vet
status 3
status 3
4|build
|-j4
`
	if diff := cmp.Diff(alone, s.end(s.start("a", "", show))); diff != "" {
		t.Error(diff)
	}
	for _, tool := range []string{"make -j4 -s -f $MAKEFILE hang", "command() { touch $RUN/$NAME/{1..4}; sleep 600; }; ninja", "command() { touch $RUN/$NAME/{1..4}; sleep 600; }; go build"} {
		holder := s.start("holder", "", `rm -rf "$RUN/$NAME"; mkdir "$RUN/$NAME"; bash -ec '`+tool+`'`)
		s.waitFor("holder/*", cpus)
		got := s.end(s.start("beside", "", `bash -ec 'command() { shift; echo "${GOMAXPROCS:-}|$*"; }; go build; ninja'`))
		if diff := cmp.Diff("1|build\n|-j1\n", got); diff != "" {
			t.Errorf("beside %s: %s", tool, diff)
		}
		s.kill(holder)
		if err := os.RemoveAll(filepath.Join(s.dir, "run", "holder")); err != nil {
			t.Fatal(err)
		}
	}
}

// The budget reaches the makes of a spec through rpmbuild, and only them.
func TestJobsReachRpmbuild(t *testing.T) {
	s := newSandboxes(t)
	if _, err := exec.LookPath("rpmbuild"); err != nil {
		t.Skip(err)
	}
	spec := `Name: a
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%build
mkdir "$RUN/$NAME"
make %{?_smp_mflags} -s -f "$MAKEFILE" meet
%install
echo "processors: $RPM_BUILD_NCPUS %{_smp_build_ncpus} %{?_smp_mflags}"
%files
`
	path := filepath.Join(s.dir, "a.spec")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	out := s.end(s.start("rpm", "", fmt.Sprintf(`rpmbuild -bb --define '_topdir %s' --define '_buildshell /bin/bash' %s 2>&1`, filepath.Join(s.dir, "top"), path)))
	if !strings.Contains(out, "\nprocessors: 4 4 -j4\n") {
		t.Errorf("rpmbuild printed %s", out)
	}
	if strings.Contains(out, "jobserver") {
		t.Errorf("the jobserver shows: %s", out)
	}
}

// A script says what it used, and keeps its exit status.
func TestMeasured(t *testing.T) {
	t.Parallel()
	_, v2 := os.Stat("/sys/fs/cgroup/memory.stat")
	_, v1 := os.Stat("/sys/fs/cgroup/memory/memory.stat")
	if v1 != nil && v2 != nil {
		t.Skip(v1) // sandboxes always have one
	}
	for script, status := range map[string]int{"echo did": 0, "echo did; exit 7": 7, "echo did; false": 1} {
		cmd := exec.Command("/bin/bash", "-euo", "pipefail", "-c", measureScript+script, "slipway")
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		out, err := cmd.Output()
		if got := cmd.ProcessState.ExitCode(); got != status {
			t.Errorf("%s: exit status %d, %v", script, got, err)
		}
		if !regexp.MustCompile(`^did\n\+ slipway: times (\d+m[\d.]+s ){4}\n\+ slipway: memory [1-9]\d*\n$`).Match(out) {
			t.Errorf("%s printed %q", script, out)
		}
	}
}
