package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// exported reads a directory of small files.
func exported(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		got[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func outOf(st llb.State) llb.State {
	return llb.Scratch().File(llb.Copy(st, "/out/", "/", &llb.CopyInfo{CopyDirContentsOnly: true}))
}

func TestSolveExports(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	blobs := t.TempDir()
	blob, err := putBlob(blobs, []byte("a source archive"))
	if err != nil {
		t.Fatal(err)
	}
	job.Stores["sources"] = blobs
	local := t.TempDir()
	if err := os.WriteFile(filepath.Join(local, "pkg.spec"), []byte("Name: pkg"), 0o644); err != nil {
		t.Fatal(err)
	}
	job.Locals = map[string]string{"pkg": local}

	step := run(root, "copy /in/archive.tar /out/archive -- copy /spec/pkg.spec /out/spec -- write /out/hello world",
		llb.AddMount("/in", llb.OCILayoutBlob("slipway.test/source@"+blob.Digest.String(),
			llb.ImageBlobOCIStore("", "sources"), llb.Filename("archive.tar")), llb.Readonly),
		llb.AddMount("/spec", llb.Local("pkg"), llb.Readonly))
	job.Def = outOf(step.Root())
	job.ExportDir = t.TempDir()
	res, err := c.Solve(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"archive": "a source archive", "spec": "Name: pkg", "hello": "world"}
	if diff := cmp.Diff(want, exported(t, job.ExportDir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Result{Ran: 1}, *res); diff != "" {
		t.Error(diff)
	}

	// The client's stores are only read.
	entries, err := os.ReadDir(blobs)
	if err != nil || len(entries) != 1 {
		t.Errorf("the store has changed: %v, %v", entries, err)
	}
}

// With Mtime set nothing of a directory gets to the step but names, contents and
// whether a file can be run, however often it changes; and no folder without files.
func TestSolveMtime(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	dir := t.TempDir()
	job.Locals = map[string]string{"pkg": dir}
	job.Mtime = time.Unix(1700000000, 123456789)
	files := llb.Local("pkg", llb.IncludePatterns([]string{"a", "b", "sub"}))
	job.Def = run(root, "list /in -- cat /in/a -- cat /in/sub/b", llb.IgnoreCache, llb.AddMount("/in", files, llb.Readonly)).Root()
	var lines []string
	job.OnEvent = func(e Event) {
		if e.Kind == VertexLine {
			lines = append(lines, e.Line)
		}
	}
	solve := func(want ...string) {
		t.Helper()
		lines = nil
		if _, err := c.Solve(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Error(diff)
		}
	}
	a, b, sub := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b"), filepath.Join(dir, "sub")
	old := time.Unix(978307200, 0)
	setup := errors.Join(
		os.Mkdir(sub, 0o700), os.WriteFile(a, []byte("one"), 0o664), os.Chmod(a, 0o664), os.Link(a, filepath.Join(sub, "same")),
		os.WriteFile(b, []byte("run"), 0o4711), os.Chmod(b, 0o711|os.ModeSetuid), os.Symlink("b", filepath.Join(sub, "link")),
		unix.Setxattr(b, "user.note", []byte("x"), 0), os.Chtimes(a, old, old), os.MkdirAll(filepath.Join(sub, "empty", "deep"), 0o755))
	if setup != nil {
		t.Fatal(setup)
	}
	const rest = "mtime=1700000000.123456789 owner=0:0"
	listed := []string{
		"/in/a mode=100644 " + rest + " links=1 size=3 attributes=0",
		"/in/sub mode=40755 " + rest + " links=0 size=0 attributes=0",
		"/in/sub/b mode=100755 " + rest + " links=1 size=3 attributes=0",
		"/in/sub/link mode=120777 " + rest + " links=1 size=1 attributes=0",
		"/in/sub/same mode=100644 " + rest + " links=1 size=3 attributes=0",
	}
	solve(append(listed, "one", "run")...)
	// neither time nor size tell of the change
	if err := errors.Join(os.WriteFile(a, []byte("two"), 0o664), os.Chmod(b, 0o755), os.Chtimes(a, old, old)); err != nil {
		t.Fatal(err)
	}
	solve(append(listed, "two", "run")...)
}

// What the engine copies itself and what it sends are the same.
func TestCopiedExport(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	job.Def = outOf(run(root, "write /out/a one").Root()).File(llb.Mkdir("/boot", 0o700).Mkfile("/boot/b", 0o755, []byte("two"), llb.WithUIDGID(7, 8)))
	state := func(dir string) (list []string) {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			var st unix.Stat_t
			data, err := os.ReadFile(path)
			list = append(list, fmt.Sprintf("%s %q", strings.TrimPrefix(path, dir), data))
			err = errors.Join(err, unix.Stat(path, &st))
			list = append(list, fmt.Sprintf("mode %o, owner %d:%d, time %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	def, err := job.Def.Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	copied, sent := t.TempDir(), t.TempDir()
	for _, dir := range []string{copied, sent} {
		job.ExportDir = dir
		_, err := c.run(t.Context(), job, def, func(ctx context.Context, bk *client.Client, opt client.SolveOpt, updates chan *client.SolveStatus) error {
			mark := filepath.Join(dir, opt.Exports[0].Attrs[attrExportMark])
			if dir == sent { // as for an engine that does not see the folder
				if err := os.Remove(mark); err != nil {
					return err
				}
			}
			_, err := bk.Solve(ctx, def, opt, updates)
			if _, gone := os.Stat(mark); !os.IsNotExist(gone) {
				t.Errorf("the engine did not see the folder: %v", gone)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	got := state(copied)
	if diff := cmp.Diff(state(sent), got); diff != "" || len(got) != 4 {
		t.Errorf("sent and copied (-, +): %s\n%s", diff, got)
	}
}

func TestSolveCache(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	// What made the input differs, its content does not: the step that reads
	// it must come from the cache, and with it the time it stamped.
	build := func(producer string, want Result) map[string]string {
		t.Helper()
		input := outOf(run(root, producer).Root())
		step := run(root, "copy /in/value /out/value -- stamp /out/stamp", llb.AddMount("/in", input, llb.Readonly))
		job.Def = outOf(step.Root())
		job.ExportDir = t.TempDir()
		res, err := c.Solve(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, *res); diff != "" {
			t.Errorf("%s: %s", producer, diff)
		}
		return exported(t, job.ExportDir)
	}
	first := build("write /out/value same", Result{Ran: 2})
	second := build("write /out/value same", Result{Cached: 2})
	third := build("echo noise -- write /out/value same", Result{Ran: 1, Cached: 1})
	fourth := build("write /out/value different", Result{Ran: 2})
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("same build ran again: %s", diff)
	}
	if diff := cmp.Diff(first, third); diff != "" {
		t.Errorf("same input content, but the step ran again: %s", diff)
	}
	if fourth["stamp"] == first["stamp"] || fourth["value"] != "different" {
		t.Errorf("changed input, but the step did not run: %v", fourth)
	}
}

func TestSolveEvents(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	const step = "probe parts -- echo last"
	job.Def = run(root, "parts -- echo last").Root()
	var log bytes.Buffer
	var states, lines []string
	job.Log = &log
	job.OnEvent = func(e Event) {
		if e.Vertex != step {
			return
		}
		switch e.Kind {
		case VertexStarted:
			states = append(states, "started")
		case VertexLine:
			lines = append(lines, e.Line)
		case VertexFinished:
			states = append(states, fmt.Sprintf("finished cached=%t err=%q", e.Cached, e.Err))
		}
	}
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"started", `finished cached=false err=""`}, states); diff != "" {
		t.Errorf("states: %s", diff)
	}
	if diff := cmp.Diff([]string{"out-whole", "last", "err-whole"}, lines); diff != "" {
		t.Errorf("lines: %s", diff)
	}
	if diff := cmp.Diff("==> "+step+"\nout-whole\nlast\nerr-whole\n", log.String()); diff != "" {
		t.Errorf("log: %s", diff)
	}

	states, lines = nil, nil
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"started", `finished cached=true err=""`}, states); diff != "" {
		t.Errorf("states of a cached step: %s", diff)
	}
	if len(lines) > 0 {
		t.Errorf("lines of a cached step: %q", lines)
	}
}

// BuildKit would clip a step's log at 2 MiB.
func TestSolveLongLog(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	const lines = 40_000 // of 100 bytes
	job.Def = run(root, fmt.Sprintf("lines %d", lines)).Root()
	n := 0
	job.OnEvent = func(e Event) {
		if e.Kind == VertexLine {
			if e.Line != fmt.Sprintf("%099d", n) {
				t.Fatalf("line %d is %q", n, e.Line)
			}
			n++
		}
	}
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if n != lines {
		t.Errorf("got %d lines, want %d", n, lines)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestSolveErrors(t *testing.T) {
	c := sharedClient(t)
	root, base := probe(t)
	tests := []struct {
		name string
		def  llb.State
		edit func(*Job)
		exit int    // of the ExitError; 0 means that it must be none
		want string // in the message
	}{
		{name: "step", def: run(root, "echo hm -- exit 42").Root(), exit: 42, want: "probe echo hm -- exit 42: exit status 42"},
		{name: "no such program", def: root.Run(llb.Args([]string{"/nowhere"}), llb.WithCustomName("nowhere")).Root(), exit: 1, want: "nowhere: exit status 1"},
		{name: "host network", def: run(root, "echo hi", llb.Network(pb.NetMode_HOST)).Root(), want: "network.host is not allowed"},
		{name: "insecure", def: run(root, "echo hi", llb.Security(pb.SecurityMode_INSECURE)).Root(), want: "security.insecure is not allowed"},
		{name: "image", def: llb.Image("docker.io/library/busybox:latest"), want: "denied by policy"},
		{name: "http", def: llb.HTTP("https://slipway.test/x.tar"), want: "denied by policy"},
		{name: "git", def: llb.Git("https://slipway.test/x.git", "main"), want: "denied by policy"},
		{name: "not in the list", def: run(root, "echo hi").Root(), edit: func(j *Job) { j.AllowSources = []string{"local://*"} }, want: "denied by policy"},
		{name: "local not given", def: llb.Local("missing"), want: "local directory missing not enabled"},
		{name: "local does not exist", def: llb.Local("pkg"), edit: func(j *Job) { j.Locals = map[string]string{"pkg": "/does/not/exist"} }, want: `local directory "pkg" (/does/not/exist)`},
		{name: "store does not exist", def: root, edit: func(j *Job) { j.Stores = map[string]string{"sdk": "/does/not/exist"} }, want: `store "sdk"`},
		{name: "blob not in store", def: llb.OCILayout("slipway.test/x@"+digest.FromString("x").String(), llb.OCIStore("", "sdk")), want: "blobs/sha256/" + digest.FromString("x").Encoded()},
		{name: "log", def: run(root, "echo to a full disk").Root(), edit: func(j *Job) { j.Log = failingWriter{} }, want: "writing its log: no space left"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			job := base
			job.Def = tt.def
			if tt.edit != nil {
				tt.edit(&job)
			}
			_, err := c.Solve(t.Context(), job)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q lacks %q", err, tt.want)
			}
			var exit *ExitError
			if errors.As(err, &exit) != (tt.exit != 0) {
				t.Errorf("ExitError: %t in %#v", exit != nil, err)
			} else if exit != nil && exit.ExitCode != tt.exit {
				t.Errorf("exit code %d, want %d", exit.ExitCode, tt.exit)
			}
			if errors.Is(err, ErrLost) {
				t.Errorf("taken for engine trouble: %v", err)
			}
		})
	}
}

func TestSolveAllowSources(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	job.Def = run(root, "echo allowed").Root()
	job.AllowSources = []string{"oci-layout://slipway.test/probe@*"}
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

func TestNoNetwork(t *testing.T) {
	c := sharedClient(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if conn, err := net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err) // reachable from here, so a failure below means the sandbox
	} else {
		conn.Close()
	}
	for name, mode := range map[string]pb.NetMode{"none": pb.NetMode_NONE, "unset": pb.NetMode_UNSET} {
		t.Run(name, func(t *testing.T) {
			root, job := probe(t)
			job.Def = run(root, "interfaces -- dial "+listener.Addr().String(), llb.Network(mode)).Root()
			var interfaces []string
			job.OnEvent = func(e Event) {
				if name, ok := strings.CutPrefix(e.Line, "interface "); ok {
					interfaces = append(interfaces, name)
				}
			}
			_, err := c.Solve(t.Context(), job)
			var exit *ExitError
			if !errors.As(err, &exit) || exit.ExitCode != 1 {
				t.Errorf("dialling out of the sandbox: %v", err)
			}
			if diff := cmp.Diff([]string{"lo"}, interfaces); diff != "" {
				t.Errorf("interfaces: %s", diff)
			}
		})
	}
}

func TestSolveCancel(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	errPressed := errors.New("interrupted by the user")
	ctx, cancel := context.WithCancelCause(t.Context())
	job.Def = run(root, "echo running -- sleep 600").Root()
	job.OnEvent = func(e Event) {
		if e.Line == "running" {
			cancel(errPressed)
		}
	}
	if _, err := c.Solve(ctx, job); !errors.Is(err, errPressed) {
		t.Fatalf("got %v, want the cause of the cancellation", err)
	}
	waitFor(t, "the daemon to cancel the build", func() bool {
		st, err := c.Status(t.Context())
		return err == nil && st.Builds == 0
	})
	// The daemon lives and builds.
	job.OnEvent = nil
	job.Def = run(root, "echo after a cancellation").Root()
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Error(err)
	}
}

// What came of a layer before its transfer broke off, as it does when slipway or its
// engine is killed, does not stand in the way of the next build.
func TestSolveAfterHalfLayer(t *testing.T) {
	needEngine(t)
	c := connect(t, newState(t))
	root, job := probe(t)
	whole := job.Stores["sdk"]
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	job.Stores["sdk"] = dir
	layer, size := "", int64(0) // the largest blob
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if info, ierr := d.Info(); err == nil && ierr == nil && !d.IsDir() && info.Size() > size {
			layer, size = path, info.Size()
		}
		return err
	})
	if err = errors.Join(err, os.Truncate(layer, size/2)); err != nil {
		t.Fatal(err)
	}
	job.Def = run(root, "echo built").Root()
	if _, err := c.Solve(t.Context(), job); err == nil {
		t.Fatal("built with half a layer")
	}
	if err := os.CopyFS(filepath.Join(dir, "again"), os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	job.Stores["sdk"] = filepath.Join(dir, "again")
	if _, err := c.Solve(t.Context(), job); err != nil {
		t.Error(err)
	}
}

func TestSolveConcurrently(t *testing.T) {
	c := sharedClient(t)
	root, job := probe(t)
	errs := make(chan error)
	for i := range 4 {
		go func() {
			job := job
			text := fmt.Sprintf("build %d", i)
			job.Def = outOf(run(root, "write /out/text "+text).Root())
			dir, err := os.MkdirTemp(scratch, "export")
			if err != nil {
				errs <- err
				return
			}
			job.ExportDir = dir
			if _, err = c.Solve(t.Context(), job); err == nil {
				var data []byte
				if data, err = os.ReadFile(filepath.Join(dir, "text")); err == nil && string(data) != text {
					err = fmt.Errorf("got %q, want %q", data, text)
				}
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestUsageAndPrune(t *testing.T) {
	c := connect(t, newState(t))
	root, job := probe(t)
	mount := llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("test:ccache", llb.CacheMountShared))
	build := func() string {
		t.Helper()
		job.Def = outOf(run(root, "write /cache/object file -- stamp /out/stamp", mount).Root())
		job.ExportDir = t.TempDir()
		if _, err := c.Solve(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		return exported(t, job.ExportDir)["stamp"]
	}
	first := build()
	// BuildKit lets go of a build's mounts and results a moment after its end.
	var before Usage
	waitFor(t, "the usage to show what was built", func() bool {
		var err error
		if before, err = c.DiskUsage(t.Context()); err != nil {
			t.Fatal(err)
		}
		return before.Total > before.CacheMounts && before.CacheMounts > 0 && before.Records > 0
	})
	waitFor(t, "prune to remove all but the cache mount", func() bool {
		if _, err := c.Prune(t.Context(), PruneOptions{}); err != nil {
			t.Fatal(err)
		}
		after, err := c.DiskUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return after.Total == after.CacheMounts && after.CacheMounts == before.CacheMounts
	})
	if build() == first {
		t.Error("a pruned result came from the cache")
	}
	waitFor(t, "prune to remove everything", func() bool {
		if _, err := c.Prune(t.Context(), PruneOptions{CacheMounts: true}); err != nil {
			t.Fatal(err)
		}
		after, err := c.DiskUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return after.Records == 0
	})
}
