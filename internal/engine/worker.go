package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/diff/apply"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/session"
	ctdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt"
)

// namespace is BuildKit's name in the containerd metadata; it is part of the
// on-disk format.
const namespace = "buildkit"

// findRunc returns the path of the OCI runtime.
func findRunc() (string, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("runc is not in PATH (%s): install it with: apt-get install runc", os.Getenv("PATH"))
	}
	return path, nil
}

// backend is a BuildKit controller and what must be closed with it.
type backend struct {
	*control.Controller
	steps       *stepCounter
	snapshotter snapshots.Snapshotter
}

// Close closes every database, so that the cache is found again. No build may
// run any more.
func (b *backend) Close() error {
	return errors.Join(b.Controller.Close(), b.snapshotter.Close())
}

// newBackend wires BuildKit: one runc worker, no frontends, no remote caches,
// no history beyond what running builds need. done is closed when the daemon
// begins to stop.
func newBackend(ctx context.Context, f files, runc string, done <-chan struct{}) (_ *backend, err error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, fmt.Errorf("session manager: %w", err)
	}
	opt, steps, snapshotter, err := workerOptions(f, runc)
	if err != nil {
		return nil, err
	}
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	workers := &worker.Controller{}
	if err := workers.Add(exportingWorker{w}); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(f.state, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("cache index: %w", err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(f.state, "history.db"), 0o600, boltOptions())
	if err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	c, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		CacheManager:     solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		HistoryDB:        history,
		HistoryConfig:    &config.HistoryConfig{MaxEntries: new(int64(1))},
		CacheStore:       cache,
		LeaseManager:     w.LeaseManager(),
		ContentStore:     w.ContentStore(),
		GarbageCollect:   w.GarbageCollect,
		GracefulStop:     done,
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return &backend{Controller: c, steps: steps, snapshotter: snapshotter}, nil
}

func boltOptions() *bolt.Options {
	return &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true}
}

func newSnapshotter(state, name string) (snapshots.Snapshotter, error) {
	dir := filepath.Join(workerRoot(state, name), "snapshots")
	if name == "overlayfs" {
		return overlay.NewSnapshotter(dir, overlay.AsynchronousRemove)
	}
	return native.NewSnapshotter(dir)
}

// dropUnnoted removes the folders in dir that a killed daemon had made for snapshots
// and not yet noted: the next snapshots get the same numbers, and could not be put
// there.
func dropUnnoted(ctx context.Context, sn snapshots.Snapshotter, dir string) error {
	c, ok := sn.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	err := c.Cleanup(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	entries, err := os.ReadDir(dir) // before the first snapshot, none is noted
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// workerRoot is where the worker of one snapshotter keeps its state: a change
// of snapshotter begins afresh rather than reading what it cannot.
func workerRoot(state, snapshotter string) string {
	return filepath.Join(state, "runc-"+snapshotter)
}

// workerOptions assembles the runc worker below the state root.
func workerOptions(f files, runc string) (opt base.WorkerOpt, steps *stepCounter, sn snapshots.Snapshotter, err error) {
	name := "overlayfs"
	if err := overlayutils.Supported(f.state); err != nil {
		name = "native"
		logrus.Warnf("overlayfs does not work in %s: %v; layers are copied, which is slow and takes much space", f.state, err)
	}
	root := workerRoot(f.state, name)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return opt, nil, nil, err
	}
	fail := func(what string, err error) (base.WorkerOpt, *stepCounter, snapshots.Snapshotter, error) {
		return base.WorkerOpt{}, nil, nil, fmt.Errorf("%s: %w", what, err)
	}

	monitor, err := resources.NewMonitor()
	if err != nil {
		return fail("resource monitor", err)
	}
	// A step that asks for nothing gets no network either; host mode has no
	// provider at all.
	networks := map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: network.NewNoneProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
	run, err := runcexecutor.New(runcexecutor.Opt{
		Root:              executorRoot(f.state, name),
		CommandCandidates: []string{runc},
		ProcessMode:       oci.ProcessSandbox,
		ResourceMonitor:   monitor,
	}, networks)
	if err != nil {
		return fail("runc executor", err)
	}
	steps = &stepCounter{Executor: run}

	sn, err = newSnapshotter(f.state, name)
	if err != nil {
		return fail("snapshotter", err)
	}
	if err := dropUnnoted(context.Background(), sn, filepath.Join(root, "snapshots", "snapshots")); err != nil {
		return fail("snapshotter", err)
	}
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return fail("content store", err)
	}
	db, err := boltutil.Open(filepath.Join(root, "containerdmeta.db"), 0o600, boltOptions())
	if err != nil {
		return fail("content metadata", err)
	}
	mdb := ctdmetadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{name: sn})
	if err := mdb.Init(context.Background()); err != nil {
		return fail("content metadata", err)
	}
	content := ctdsnapshot.NewContentStore(fromBegin{mdb.ContentStore()}, namespace)
	refs, err := metadata.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return fail("cache metadata", err)
	}
	id, err := base.ID(root)
	if err != nil {
		return fail("worker id", err)
	}
	space, err := disk.GetDiskStat(f.state)
	if err != nil {
		return fail("disk size", err)
	}
	return base.WorkerOpt{
		ID:   id,
		Root: root,
		Labels: map[string]string{
			label.Executor:       "oci",
			label.Snapshotter:    name,
			label.Network:        "none",
			label.OCIProcessMode: oci.ProcessSandbox.String(),
		},
		Platforms:        []ocispecs.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         gcPolicy(space.Total),
		BuildkitVersion:  client.BuildkitVersion{Package: version.Package, Version: buildKitVersion()},
		NetworkProviders: networks,
		Executor:         steps,
		Snapshotter:      ctdsnapshot.NewSnapshotter(name, mdb.Snapshotter(name), namespace, nil),
		ContentStore:     content,
		Applier:          apply.NewFileSystemApplier(content),
		Differ:           walking.NewWalkingDiff(content),
		RegistryHosts:    resolver.NewRegistryConfig(nil),
		LeaseManager:     leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(mdb), namespace),
		GarbageCollect:   mdb.GarbageCollect,
		MetadataStore:    refs,
		ContentMetadata:  io.Closer(db),
		MountPoolRoot:    filepath.Join(root, "cachemounts"),
		ResourceMonitor:  monitor,
	}, steps, sn, nil
}

const gigabyte = 1_000_000_000

// gcPolicy says what is thrown away, in order, after builds, of a cache on a disk
// of so many bytes. BuildKit compares
// each limit with the size of the whole cache, whatever the rule's filter, so
// the filter only chooses the victims: uploaded sources first, then ordinary
// layers, and cache mounts (compiler caches, dear to refill) at the very end
// and not once the whole cache is below 20 GB, or a quarter of a small disk.
func gcPolicy(disk int64) []client.PruneInfo {
	var (
		reserved = min(20*gigabyte, disk/4)
		most     = min(100*gigabyte, disk*3/4)
		free     = min(10*gigabyte, disk/10)
	)
	const notCacheMounts = "type!=" + string(client.UsageRecordTypeCacheMount)
	return []client.PruneInfo{
		{Filter: []string{"type==source.local", "type==source.git.checkout"}, MaxUsedSpace: reserved, MinFreeSpace: free},
		{Filter: []string{notCacheMounts}, MaxUsedSpace: most, MinFreeSpace: free},
		{Filter: []string{notCacheMounts}, MaxUsedSpace: most, MinFreeSpace: free, All: true},
		{MaxUsedSpace: most, MinFreeSpace: free, ReservedSpace: reserved, All: true},
	}
}

// stepCounter is an executor that knows how many containers run, so that a
// stopping daemon can wait for their end before it closes the databases.
type stepCounter struct {
	executor.Executor
	wg sync.WaitGroup
}

func (s *stepCounter) Run(ctx context.Context, id string, rootfs executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	s.wg.Add(1)
	defer s.wg.Done()
	defer gather(&process)()
	return s.Executor.Run(ctx, id, rootfs, mounts, process, started)
}

func (s *stepCounter) Exec(ctx context.Context, id string, process executor.ProcessInfo) error {
	s.wg.Add(1)
	defer s.wg.Done()
	return s.Executor.Exec(ctx, id, process)
}
