package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"

	"slipway/internal/build"
	"slipway/internal/engine"
	"slipway/internal/progress"
	"slipway/internal/store"
)

var (
	kills    = flag.Int("kills", 5, "how many times TestKills kills")
	killSeed = flag.Uint64("kill-seed", 0, "what TestKills draws its numbers from; one of its own when 0")
)

// siteNeeds are the packages of the workspaces here, with what each needs.
var siteNeeds = map[string][]string{
	"base": nil, "tool": nil, "lib": {"base"}, "extra": {"base", "tool"}, "app": {"lib", "tool"}, "top": {"app", "extra"},
}

// siteSpec makes packages whose files come from their own and from those of the
// packages they need; the nonce has no part in them.
var siteSpec = template.Must(template.New("").Parse(`Name: %{_cross_os}{{.Name}}
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
Source0: content
Source1: nonce
{{range .Needs}}BuildRequires: %{_cross_os}{{.}}-devel
{{end}}%description
x
%package devel
Summary: x
%description devel
x
%prep
%build
cat %{SOURCE0} {{range .Needs}}%{_cross_sysroot}%{_cross_datadir}/{{.}}/interface {{end}}> interface
sleep 0.2
seq -f "%.0f $(sha256sum < interface)" 20000 > bulk
%install
install -D -m 0644 interface %{buildroot}%{_cross_datadir}/{{.Name}}/interface
install -D -m 0644 bulk %{buildroot}%{_cross_datadir}/{{.Name}}/bulk
%files
%{_cross_datadir}/{{.Name}}/bulk
%files devel
%{_cross_datadir}/{{.Name}}/interface
`))

// site is a place to build a workspace in: checkouts of it, a cache, an engine.
type site struct {
	*testing.T
	dir, cache, state string
	roots             []string
	nonces, caches    int
	want              map[string]map[string]map[string]string // by content, target and file name: digest
	full              time.Duration                           // what an undisturbed build of everything takes
}

// newSite makes a site with checkouts of the workspace, and finds out what builds
// of the contents a and b that nobody disturbs give.
func newSite(t *testing.T, checkouts int) *site {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if why := engineMissing(); why != "" {
		t.Skip(why)
	}
	dir, err := os.MkdirTemp(scratch, "")
	s := &site{T: t, dir: dir, state: filepath.Join(dir, "engine"), want: map[string]map[string]map[string]string{}}
	s.check(err)
	t.Cleanup(func() {
		if err := errors.Join(stopEngine(s.state), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for i := range checkouts {
		root := filepath.Join(dir, strings.Repeat("checkout", i+1))
		s.roots = append(s.roots, root)
		s.check(underlay("testdata/base", root))
		for name, needs := range siteNeeds {
			var spec bytes.Buffer
			s.check(siteSpec.Execute(&spec, struct {
				Name  string
				Needs []string
			}{name, needs}))
			for file, text := range map[string]string{"package.toml": "", name + ".spec": spec.String(), "content": name + "\n"} {
				s.check(write(filepath.Join(root, "packages", name, file), text))
			}
		}
	}
	s.freshCache()
	for _, content := range []string{"a", "b"} {
		s.edit(content, maps.Keys(siteNeeds))
		began := time.Now()
		s.succeed(s.start(s.roots[0]))
		s.full = time.Since(began) // the last one: the first had to start the engine
		s.want[content] = s.shown(s.roots[0])
	}
	if cmp.Equal(s.want["a"]["packages/top"], s.want["b"]["packages/top"]) {
		t.Fatal("both contents give the same")
	}
	s.freshCache()
	return s
}

func (s *site) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func write(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
}

// freshCache goes on with a cache that holds nothing but the SDK.
func (s *site) freshCache() {
	if s.cache != "" {
		s.check(os.RemoveAll(s.cache))
	}
	s.caches++
	s.cache = filepath.Join(s.dir, "cache"+strconv.Itoa(s.caches))
	for i, root := range s.roots {
		cache := s.cache
		if i > 0 { // the lock is the same
			cache = s.TempDir()
		}
		s.check(pinSDK(root, cache, fixtureSDK))
	}
}

// edit gives the package that the others need another content, and some packages
// a new nonce, so that they must be built again and come out as before.
func (s *site) edit(content string, fresh func(func(string) bool)) {
	for name := range fresh {
		s.nonces++
		for _, root := range s.roots {
			s.check(write(filepath.Join(root, "packages", name, "nonce"), strconv.Itoa(s.nonces)))
		}
	}
	for _, root := range s.roots {
		s.check(write(filepath.Join(root, "packages", "base", "content"), content))
	}
}

// running is a slipway that builds everything.
type running struct {
	cmd   *exec.Cmd
	out   output
	ended chan struct{}
}

func (s *site) start(root string) *running {
	r := &running{cmd: exec.Command("slipway", "build", "-j", "2", "packages/top"), ended: make(chan struct{})}
	r.cmd.Dir, r.cmd.Stderr = root, &r.out
	r.cmd.Env = append(os.Environ(), "HOME="+s.dir, "SLIPWAY_CACHE="+s.cache, engine.EnvState+"="+s.state, engine.EnvIdle+"=2m")
	s.check(r.cmd.Start())
	go func() {
		_ = r.cmd.Wait() // ProcessState says it
		close(r.ended)
	}()
	return r
}

// end waits for the end of a build and gives its exit status, -1 after a signal.
func (s *site) end(r *running) int {
	s.Helper()
	select {
	case <-r.ended:
	case <-time.After(5 * soon):
		_ = r.cmd.Process.Kill()
		<-r.ended
		s.Fatalf("hangs:\n%s", r.out.String())
	}
	return r.cmd.ProcessState.ExitCode()
}

func (s *site) succeed(r *running) {
	s.Helper()
	if code := s.end(r); code != 0 {
		log, _ := os.ReadFile(filepath.Join(s.state, "engine.log"))
		s.Fatalf("exit status %d:\n%s\nengine:\n%s", code, r.out.String(), log[max(0, len(log)-4000):])
	}
}

var (
	builtLine = regexp.MustCompile(`(?m)^(packages/\S+): built in `)
	phaseLine = regexp.MustCompile(`(?m)^(packages/\S+): ([%a-z]+)`)
)

// built are the targets that a build says it has built.
func (r *running) built() (names []string) {
	for _, m := range builtLine.FindAllStringSubmatch(r.out.String(), -1) {
		names = append(names, m[1])
	}
	return names
}

// phases says what a build is doing, from what it has printed.
func (r *running) phases() []string {
	now := map[string]string{}
	text := r.out.String()
	for _, m := range phaseLine.FindAllStringSubmatch(text, -1) {
		now[m[1]] = m[2]
	}
	maps.DeleteFunc(now, func(_, phase string) bool { return phase == string(progress.Built) })
	switch {
	case len(now) > 0:
		return slices.Sorted(maps.Values(now))
	case text == "":
		return []string{"planning"}
	}
	return []string{"between targets"}
}

// shown gives the digests of the RPMs below build/, by target and file name.
func (s *site) shown(root string) map[string]map[string]string {
	s.Helper()
	all := map[string]map[string]string{}
	rpms := filepath.Join(root, "build", "rpms")
	s.check(filepath.WalkDir(rpms, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(rpms, path)
		if err != nil {
			return err
		}
		name, file, _ := strings.Cut(rel, "/")
		if all["packages/"+name] == nil {
			all["packages/"+name] = map[string]string{}
		}
		all["packages/"+name][file], err = digestOf(path)
		return err
	}))
	return all
}

func digestOf(path string) (string, error) {
	text, err := os.ReadFile(path)
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), err
}

// keys are those that have a result in the store.
func (s *site) keys() map[string]bool {
	s.Helper()
	keys := map[string]bool{}
	dir := filepath.Join(s.cache, "store")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return keys
	}
	results, err := store.Open(dir)
	s.check(err)
	list, err := results.List()
	s.check(err)
	for _, info := range list {
		keys[info.Key] = true
	}
	return keys
}

// right checks all that builds have made: below build/, and in the store.
func (s *site) right(content string, roots ...string) {
	s.Helper()
	for _, root := range roots {
		if diff := cmp.Diff(s.want[content], s.shown(root)); diff != "" {
			s.Fatalf("build/ of content %s (-want +got):\n%s", content, diff)
		}
	}
	results, err := store.Open(filepath.Join(s.cache, "store"))
	s.check(err)
	n, bad, err := results.VerifyAll(context.Background())
	if s.check(err); len(bad) > 0 || n < len(siteNeeds) {
		s.Fatalf("%d results, damaged: %v", n, bad)
	}
	for key := range s.keys() {
		r, ok, err := results.Get(key)
		if s.check(err); !ok {
			s.Fatalf("result %s is gone", key)
		}
		got := map[string]string{}
		for _, f := range r.Files {
			got[f.Name] = f.Digest
		}
		if !cmp.Equal(got, s.want["a"][r.Target]) && !cmp.Equal(got, s.want["b"][r.Target]) {
			s.Fatalf("%s in the store is neither that of content a nor that of b: %v", r.Target, got)
		}
	}
	// also blobs that no result has
	blobs, err := os.ReadDir(filepath.Join(results.Dir(), "blobs", "sha256"))
	s.check(err)
	for _, b := range blobs {
		if d, err := digestOf(results.Path("sha256:" + b.Name())); err != nil || d != "sha256:"+b.Name() {
			s.Fatalf("blob %s holds %s: %v", b.Name(), d, err)
		}
	}
	// what was killed left goes with the next build, or when it has become old
	for _, pattern := range []string{store.TempResult + "*", "*"} {
		release, err := results.Use()
		s.check(err)
		release()
		left, err := filepath.Glob(filepath.Join(results.Dir(), "tmp", pattern))
		if s.check(err); len(left) > 0 {
			s.Fatalf("left in the store: %v", left)
		}
		if left, err = filepath.Glob(filepath.Join(results.Dir(), "tmp", "*")); len(left) > len(siteNeeds) {
			s.Fatalf("too much is left in the store, %v: %v", err, left)
		}
		old := time.Now().Add(-2 * time.Hour)
		for _, path := range left {
			s.check(os.Chtimes(path, old, old))
		}
	}
}

// clean waits until no sandbox is left: neither a container of the engine, nor a
// mount below its state, nor a process that has such a mount as its root.
func (s *site) clean() {
	s.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(s.state, "*", "executor", "*", "config.json"))
		s.check(err)
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.dir))
		s.check(err)
		for _, m := range mounts {
			left = append(left, m.Mountpoint)
		}
		procs, err := filepath.Glob("/proc/[0-9]*/mountinfo")
		s.check(err)
		for _, p := range procs {
			if text, _ := os.ReadFile(p); bytes.Contains(text, []byte(s.state+"/")) { // none, if it has ended
				left = append(left, p)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("left: %v", left)
		}
	}
}

// killEngine kills the engine of the site, and tells whether there was one.
func (s *site) killEngine() bool {
	text, _ := os.ReadFile(filepath.Join(s.state, "engine.pid"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return false
	}
	// the file of an engine that was killed stays, and its number may be another's now
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer p.Release()
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return bytes.Contains(env, []byte(engine.EnvState+"="+s.state+"\x00")) && p.Kill() == nil
}

// minus are the keys that only a has.
func minus(a, b map[string]bool) (n int) {
	for key := range a {
		if !b[key] {
			n++
		}
	}
	return n
}

// TestKills kills slipway, its engine or both with SIGKILL at random times of
// builds. The next build makes what was missing, no more, and all of it is as if
// nothing had happened.
func TestKills(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s := newSite(t, 1)
	t.Logf("seed %d, an undisturbed build takes %v", seed, s.full)
	rng := rand.New(rand.NewPCG(seed, 0))
	chance := func(percent int) bool { return rng.IntN(100) < percent }
	root, names := s.roots[0], slices.Sorted(maps.Keys(siteNeeds))
	whom, when := map[string]int{}, map[string]int{}
	hits, attempts, finished, resumed := 0, 0, 0, 0
	for hits < *kills {
		if attempts++; attempts > 4**kills+20 {
			t.Fatalf("only %d of %d builds were hit", hits, attempts)
		}
		anew := false
		switch {
		case chance(5):
			anew = true
			s.freshCache()
		case chance(5):
			anew = true
			s.check(os.RemoveAll(filepath.Join(s.cache, "store")))
		case chance(5):
			s.check(os.RemoveAll(filepath.Join(root, "build")))
		case chance(3):
			s.check(errors.Join(stopEngine(s.state), os.RemoveAll(s.state)))
		}
		content, fresh := []string{"a", "b"}[rng.IntN(2)], names
		if !anew && chance(30) {
			fresh = nil
			for _, name := range names {
				if chance(50) {
					fresh = append(fresh, name)
				}
			}
		}
		s.edit(content, slices.Values(fresh))
		before := s.keys()

		for again := true; again && hits < *kills; again = chance(25) {
			r := s.start(root)
			select {
			case <-time.After(time.Duration(rng.Float64() * float64(s.full))):
			case <-r.ended:
			}
			victim, doing, hit := []string{"slipway", "engine", "both"}[rng.IntN(3)], r.phases(), false
			if victim != "engine" {
				_ = r.cmd.Process.Kill()
			}
			select {
			case <-r.ended:
			default:
				if victim != "slipway" {
					hit = s.killEngine()
				}
			}
			code := s.end(r)
			switch {
			case code == -1 && victim != "engine":
				hit = true
			case code != 0 && (!hit || code != 1 || !strings.Contains(r.out.String(), "engine")):
				t.Fatalf("the %s is killed in %v: exit status %d:\n%s", victim, doing, code, r.out.String())
			}
			if hit {
				hits++
				t.Logf("kill %d: %s, doing %v", hits, victim, doing)
				whom[victim]++
				for _, phase := range doing {
					when[phase]++
				}
			}
		}

		had := s.keys()
		r := s.start(root)
		s.succeed(r)
		after := s.keys()
		if built, missing := len(r.built()), minus(after, had); built != missing {
			t.Fatalf("%d built, but %d results are new:\n%s", built, missing, r.out.String())
		}
		if n := minus(after, before); len(fresh) == len(names) && n != len(names) {
			t.Fatalf("%d new results instead of %d:\n%s", n, len(names), r.out.String())
		}
		t.Logf("content %s, %d packages touched: %d results were there, %d built", content, len(fresh), minus(had, before), len(r.built()))
		finished, resumed = finished+minus(had, before), resumed+minus(after, had)
		s.right(content, root)
		s.clean()
	}
	t.Logf("%d kills in %d rounds: %v", hits, attempts, whom)
	t.Logf("what the builds were doing, two targets at once: %v", when)
	t.Logf("results that were there after a kill: %d, made by the next build: %d", finished, resumed)
}

// TestResume interrupts or kills a build when it has done a part: the next one
// does the rest.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	for _, test := range []struct {
		name string
		act  func(*running) bool
		code int
	}{
		{"interrupt", func(r *running) bool { return r.cmd.Process.Signal(os.Interrupt) == nil }, 130},
		{"kill", func(r *running) bool { return r.cmd.Process.Kill() == nil }, -1},
		{"kill the engine", func(*running) bool { return s.killEngine() }, 1},
	} {
		s.edit("a", maps.Keys(siteNeeds))
		before := s.keys()
		r := s.start(s.roots[0])
		s.await(r, "packages/app: %build")
		if !test.act(r) {
			t.Fatalf("%s: nothing to act on", test.name)
		}
		if code := s.end(r); code != test.code {
			t.Fatalf("%s: exit status %d instead of %d:\n%s", test.name, code, test.code, r.out.String())
		}
		had := s.keys()
		done := minus(had, before)
		if said := len(r.built()); said < 3 || done < said || done > 5 {
			t.Fatalf("%s: %d results, %d said to be built:\n%s", test.name, done, said, r.out.String())
		}
		next := s.start(s.roots[0])
		s.succeed(next)
		if built := next.built(); len(built) != len(siteNeeds)-done || !slices.Contains(built, "packages/app") {
			t.Fatalf("%s: %v are built after %d results:\n%s", test.name, built, done, next.out.String())
		}
		if want := fmt.Sprintf("%d built, %d cached in ", len(siteNeeds)-done, done); !strings.Contains(next.out.String(), want) {
			t.Fatalf("%s: not %q:\n%s", test.name, want, next.out.String())
		}
		s.right("a", s.roots[0])
		s.clean()
		t.Logf("%s: %d of %d were there", test.name, done, len(siteNeeds))
	}
}

// await waits until a build prints a text.
func (s *site) await(r *running, text string) {
	s.Helper()
	for !strings.Contains(r.out.String(), text) {
		select {
		case <-r.ended:
			s.Fatalf("it ended before this came: %s:\n%s", text, r.out.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestConcurrentBuilds builds the same four times at once, in two checkouts: each
// target is built once, also if one of the builds is killed.
func TestConcurrentBuilds(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2)
	s.check(stopEngine(s.state)) // the four start it
	for round, kill := range []bool{false, true, false, true} {
		content := []string{"a", "b"}[round%2]
		if round == 0 {
			s.freshCache()
		}
		s.edit(content, maps.Keys(siteNeeds))
		for _, root := range s.roots {
			s.check(os.RemoveAll(filepath.Join(root, "build")))
		}
		var all []*running
		for i := range 4 {
			all = append(all, s.start(s.roots[i%2]))
		}
		var victim *running
		doing := ""
		for end := time.Now().Add(soon); kill && victim == nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("none of the four builds anything")
			}
			for _, r := range all {
				if m := regexp.MustCompile(`(?m)^(packages/(?:lib|extra)): %build`).FindStringSubmatch(r.out.String()); m != nil {
					victim, doing = r, m[1]
					s.check(r.cmd.Process.Signal(syscall.SIGKILL))
					break
				}
			}
		}
		count := map[string]int{}
		for _, r := range all {
			if r == victim {
				if code := s.end(r); code != -1 {
					t.Fatalf("exit status %d of what was killed:\n%s", code, r.out.String())
				}
			} else {
				s.succeed(r)
			}
			for _, name := range r.built() {
				count[name]++
			}
		}
		for name := range siteNeeds {
			// what was killed may have stored a result without having come to say so
			n := count["packages/"+name]
			if n > 1 || n == 0 && (!kill || doing == "packages/"+name) {
				t.Errorf("round %d: packages/%s is built %d times", round, name, n)
			}
		}
		reports := 0
		for _, root := range s.roots {
			list, damaged, err := build.Reports(root, 4)
			s.check(errors.Join(append(damaged, err)...))
			for _, report := range list {
				for _, row := range report.Targets {
					if row.Status == progress.Built {
						reports++
					}
				}
			}
		}
		if !kill && reports != len(siteNeeds) {
			t.Errorf("round %d: the reports say %d built", round, reports)
		}
		if t.Failed() {
			for i, r := range all {
				t.Logf("build %d:\n%s", i, r.out.String())
			}
			t.FailNow()
		}
		s.right(content, s.roots...)
		s.clean()
		if n := len(s.keys()); n != (round+1)*len(siteNeeds) {
			t.Fatalf("round %d: %d results in the store", round, n)
		}
	}
}
