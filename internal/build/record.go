package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipway/internal/graph"
	"slipway/internal/plan"
	"slipway/internal/progress"
	"slipway/internal/store"
)

// recordPath is where the record of a build or plan of these targets is kept.
func recordPath(root string, opt Options, names []string) string {
	parts := append([]string{root, opt.Arch}, names...)
	if _, rootCert := opt.Signing.RootHash(); rootCert != "" {
		parts = append(parts, "")
		for _, file := range []string{opt.Signing.SecureBootCert, rootCert} {
			certificate, _ := os.ReadFile(file) // the build says what is wrong with it
			parts = append(parts, string(certificate))
		}
	}
	if ref := opt.Signing.ProvenanceKey; ref != "" {
		key, _ := os.ReadFile(ref) // likewise; one in a token goes by its URI
		parts = append(parts, "", "provenance", ref, string(key))
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return filepath.Join(opt.Cache, "plans", hex.EncodeToString(sum[:16]))
}

// recordMade stands for this program: another may make other things of the same.
func recordMade() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	info, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("no inode number")
	}
	return fmt.Sprintf("%s %x %x %x", self, st.Ino, info.Size(), info.ModTime().UnixNano()), nil
}

// BuildCurrent is Build where the record of the last one, and no other file that
// is read, tells that the named targets of the workspace at root are built and
// shown below build/: all there is to do then is to write the report. It gives
// that, and what Outputs gives; ok is false where Build has to find out.
func BuildCurrent(root string, opt Options, names []string) (report *Report, outputs []string, ok bool, err error) {
	began := time.Now()
	r, ok := current(root, opt, names, true)
	if !ok {
		return nil, nil, false, nil
	}
	var rows []*Row
	for _, t := range r.Targets {
		rows = append(rows, &Row{Name: t.Name, Status: progress.Cached, Source: t.From, CPU: t.CPU, Memory: t.Memory})
	}
	report = newReport(began, rows, nil)
	return report, r.Outputs, true, report.write(reportsDir(root))
}

// CurrentPlan is Plan from the record of the last build or plan, if nothing has
// changed since and all targets have results.
func CurrentPlan(root string, opt Options, names []string) ([]PlanRow, bool) {
	r, ok := current(root, opt, names, false)
	if !ok {
		return nil, false
	}
	rows := make([]PlanRow, len(r.Targets))
	for i, t := range r.Targets {
		rows[i] = PlanRow{Name: t.Name, Status: PlanCached, From: t.From, Key: t.Key}
	}
	return rows, true
}

// current reads a record that holds; built tells whether it must be that of a build.
func current(root string, opt Options, names []string, built bool) (*plan.Record, bool) {
	opt = opt.withDefaults()
	made, err := recordMade()
	if err != nil {
		return nil, false
	}
	r, ok := plan.ReadRecord(recordPath(root, opt, names), made)
	if !ok || built && len(r.Outputs) == 0 || !r.Holds() {
		return nil, false
	}
	results, err := store.Open(filepath.Join(opt.Cache, "store"))
	if err != nil {
		return nil, false
	}
	err = results.Session(func() error {
		for _, t := range r.Targets {
			if !results.Has(t.Key, t.Manifest) {
				return store.ErrCorrupt
			}
		}
		return nil
	})
	return r, err == nil
}

// record notes that all targets are built and shown, so that the next build has
// only to find out whether anything has changed.
func (b *Builder) record(began time.Time, names []string, targets []*graph.Target) error {
	r := &plan.Record{Outputs: b.Outputs(names)}
	wanted, err := b.lookupNames(names)
	if err != nil {
		return err
	}
	for _, t := range targets {
		var paths []string
		if t.Variant != nil {
			paths = b.imageFiles(t.Variant)
		} else {
			paths = append(paths, b.rpmDir(t))
			for _, f := range b.result(t.Name).Files {
				paths = append(paths, filepath.Join(b.rpmDir(t), filepath.FromSlash(f.Name)))
			}
		}
		for _, path := range paths {
			err := r.Show(path)
			if errors.Is(err, fs.ErrNotExist) && !slices.Contains(wanted, t) {
				break // it lies in the team cache
			}
			if err != nil {
				return err
			}
		}
	}
	return b.writeRecord(r, began, names, targets)
}

// recordPlan notes that all targets have results, and variants their disks.
func (b *Builder) recordPlan(began time.Time, names []string, targets []*graph.Target) error {
	if _, ok := current(b.ws.Root, b.opt, names, true); ok {
		return nil // says more
	}
	r := &plan.Record{}
	for _, t := range targets {
		if t.Variant == nil {
			continue
		}
		for _, path := range append(b.companions(t.Variant), b.ImagePath(t.Variant), b.stampFile(t.Variant)) {
			if err := r.Show(path); err != nil {
				return err
			}
		}
	}
	return b.writeRecord(r, began, names, targets)
}

func (b *Builder) writeRecord(r *plan.Record, began time.Time, names []string, targets []*graph.Target) error {
	var err error
	if r.Made, err = recordMade(); err != nil {
		return err
	}
	for _, t := range targets {
		res := b.result(t.Name)
		if res == nil {
			return nil
		}
		cpu, memory := used(res)
		r.Targets = append(r.Targets, plan.Planned{Name: t.Name, Key: res.Key, Manifest: res.Digest, From: b.from(res), CPU: cpu, Memory: memory})
		for _, f := range b.results.Missing(res) {
			r.Lack(b.results.Path(f.Digest))
		}
	}
	err = r.Watch(b.ws, began)
	if err == nil {
		err = r.Write(recordPath(b.ws.Root, b.opt, names))
	}
	if errors.Is(err, plan.ErrRacy) || errors.Is(err, fs.ErrNotExist) {
		return nil // somebody works on the files; the next build looks at them anew
	}
	return err
}
