package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/leftover"
)

// envDaemon makes the test binary a daemon.
const envDaemon = "SLIPWAY_TEST_ENGINE_DAEMON"

// scratch holds the state roots of all tests: short paths, because sockets
// live there, and one place to look for leftovers.
var scratch string

func TestMain(m *testing.M) {
	if os.Getenv(envDaemon) != "" {
		if err := Serve(context.Background(), ServeOptions{Build: os.Getenv("SLIPWAY_TEST_ENGINE_BUILD")}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) (code int) {
	var err error
	if scratch, err = os.MkdirTemp("", "slipway-engine"); err == nil {
		scratch, err = filepath.EvalSymlinks(scratch)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(stopShared(), leftover.Check(scratch, EnvState), os.RemoveAll(scratch)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

func needEngine(t *testing.T) {
	t.Helper()
	if err := checkRoot(); err != nil {
		t.Skip(err)
	}
	if _, err := findRunc(); err != nil {
		t.Skip(err)
	}
}

// newState makes a state root. Its daemon, if one runs at the end, is stopped.
func newState(t *testing.T) string {
	t.Helper()
	needEngine(t)
	dir, err := os.MkdirTemp(scratch, "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c, err := Find(context.Background(), dir)
		if err == nil {
			err = c.Stop(context.Background())
		}
		if err != nil && !errors.Is(err, ErrNotRunning) {
			t.Error(err)
		}
	})
	return dir
}

// daemonOptions makes Connect start this test binary as the daemon of state.
func daemonOptions(t testing.TB, state string) Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{State: state, Spawn: []string{"env", envDaemon + "=1", exe}}
}

func connect(t *testing.T, state string) *Client {
	t.Helper()
	c, err := Connect(t.Context(), daemonOptions(t, state))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// shared is the daemon of the tests that do not care for its life.
var shared struct {
	sync.Mutex
	state string
}

func sharedClient(t *testing.T) *Client {
	t.Helper()
	needEngine(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.state == "" {
		shared.state = filepath.Join(scratch, "shared")
	}
	return connect(t, shared.state)
}

func stopShared() error {
	if shared.state == "" {
		return nil
	}
	c, err := Find(context.Background(), shared.state)
	if err != nil {
		return err
	}
	return c.Stop(context.Background())
}

// image is an OCI layout with the probe program, made once.
type image struct {
	dir    string
	digest digest.Digest
}

var probeImage = sync.OnceValues(func() (image, error) {
	dir := filepath.Join(scratch, "image")
	bin := filepath.Join(scratch, "probe")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return image{}, fmt.Errorf("%w: %s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return image{}, err
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, h := range []tar.Header{
		{Name: "probe", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg},
		{Name: "out/", Mode: 0o777, Typeflag: tar.TypeDir},
		{Name: "etc/", Mode: 0o755, Typeflag: tar.TypeDir},
	} {
		err = errors.Join(err, tw.WriteHeader(&h))
		if h.Size > 0 {
			_, werr := tw.Write(program)
			err = errors.Join(err, werr)
		}
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		return image{}, err
	}
	layerDesc, err := putBlob(dir, layer.Bytes())
	if err != nil {
		return image{}, err
	}
	layerDesc.MediaType = ocispecs.MediaTypeImageLayer
	config, err := putJSON(dir, ocispecs.MediaTypeImageConfig, ocispecs.Image{
		Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return image{}, err
	}
	manifest, err := putJSON(dir, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispecs.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispecs.Descriptor{layerDesc},
	})
	return image{dir, manifest.Digest}, err
})

func putJSON(dir, mediaType string, v any) (ocispecs.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	desc, err := putBlob(dir, data)
	desc.MediaType = mediaType
	return desc, err
}

func putBlob(dir string, data []byte) (ocispecs.Descriptor, error) {
	dgst := digest.FromBytes(data)
	blobs := filepath.Join(dir, "blobs", "sha256")
	err := os.MkdirAll(blobs, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(blobs, dgst.Encoded()), data, 0o644)
	}
	return ocispecs.Descriptor{Digest: dgst, Size: int64(len(data))}, err
}

// probe returns the root file system with the probe program, and a job that
// can read it.
func probe(t *testing.T) (llb.State, Job) {
	t.Helper()
	img, err := probeImage()
	if err != nil {
		t.Fatal(err)
	}
	root := llb.OCILayout("slipway.test/probe@"+img.digest.String(), llb.OCIStore("", "sdk"))
	return root, Job{Name: t.Name(), Stores: map[string]string{"sdk": img.dir}}
}

// run is a probe step, named after its command line.
func run(root llb.State, commands string, opts ...llb.RunOption) llb.ExecState {
	args := append([]string{"/probe"}, strings.Fields(commands)...)
	return root.Run(append([]llb.RunOption{llb.Args(args), llb.WithCustomName("probe " + commands), llb.Network(llb.NetModeNone)}, opts...)...)
}

// waitFor polls a condition that another process brings about.
func waitFor(t *testing.T, what string, met func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !met(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}
