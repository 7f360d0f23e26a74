package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"

	continuity "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/worker/base"
)

// Attributes of a local export by which the client says where it has the folder. An
// engine that finds the mark there sees the same folder and copies the files itself:
// that is ten times as fast as to send them through the session, which BuildKit does
// for any client.
const (
	attrExportDir  = "slipway-dir"
	attrExportMark = "slipway-mark" // name of an empty file in the folder, which the engine removes
)

// exportEntry asks for the files of a result in a folder; done removes what was put
// there to ask.
func exportEntry(dir string) (entry client.ExportEntry, done func(), err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return entry, nil, err
	}
	mark := ".export-" + rand.Text()
	path := filepath.Join(dir, mark)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return entry, nil, err
	}
	return client.ExportEntry{
		Type: client.ExporterLocal, OutputDir: dir,
		Attrs: map[string]string{attrExportDir: dir, attrExportMark: mark},
	}, func() { os.Remove(path) }, nil
}

// exportingWorker is BuildKit's worker whose exporter of local files copies where it
// can.
type exportingWorker struct{ *base.Worker }

func (w exportingWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	e, err := w.Worker.Exporter(name, sm)
	if err == nil && name == client.ExporterLocal {
		e = copyingExporter{e}
	}
	return e, err
}

type copyingExporter struct{ exporter.Exporter }

func (e copyingExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	dir, mark := attrs[attrExportDir], attrs[attrExportMark]
	delete(attrs, attrExportDir)
	delete(attrs, attrExportMark)
	i, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil || !filepath.IsAbs(dir) || filepath.Base(mark) != mark || os.Remove(filepath.Join(dir, mark)) != nil {
		return i, err
	}
	return copyingInstance{i, dir}, nil
}

type copyingInstance struct {
	exporter.ExporterInstance
	dir string
}

func (i copyingInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (_ map[string]string, _ exporter.FinalizeFunc, _ exporter.DescriptorReference, err error) {
	if src.Ref == nil {
		return nil, nil, nil, nil // the result is empty
	}
	mountable, err := src.Ref.Mount(ctx, true, session.NewGroup(info.SessionID))
	if err != nil {
		return nil, nil, nil, err
	}
	mounter := snapshot.LocalMounter(mountable)
	from, err := mounter.Mount()
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { err = errors.Join(err, mounter.Unmount()) }()
	return nil, nil, nil, copyTree(ctx, from, i.dir)
}

// copyTree adds the files of a folder to another, whose owner they get.
func copyTree(ctx context.Context, from, to string) error {
	info, err := os.Stat(to)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner", to)
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == from {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			err = os.MkdirAll(target, 0o755)
		case info.Mode().IsRegular():
			err = errors.Join(continuity.CopyFile(target, path), os.Chmod(target, info.Mode().Perm()), os.Chtimes(target, info.ModTime(), info.ModTime()))
		default:
			err = fmt.Errorf("the result has %s, which is neither a file nor a folder", rel)
		}
		if err != nil {
			return err
		}
		return os.Lchown(target, int(owner.Uid), int(owner.Gid))
	})
}
