package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"dinghy/internal/boot"
	"dinghy/internal/datastore"
	"dinghy/internal/durable"
	"dinghy/internal/gpt"
	"dinghy/internal/osrelease"
	"dinghy/internal/repo"
	"dinghy/internal/verity"
	"dinghy/update"
)

// disk is the disk that the system runs from.
type disk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	Sync() error
	Exclusive(change func() error) error
	Forget() error // what is cached, so that reads come from the disk
}

// host is the machine as far as updates go.
type host struct {
	disk      disk
	esp       string // where the EFI system partition is mounted
	efivars   string // where the variables of the firmware are mounted
	dir       string // of the updater's state
	cmdline   string // of the running kernel
	release   osrelease.Release
	arch      string // as uname -m
	machineID string
	root      string // file: trusted root of the repository
	settings  []datastore.Tree
	idle      time.Duration // without a byte, after which a server is given up
	tries     int           // boots that a new system has to become good
	now       func() time.Time
	ops       durable.Ops
	log       io.Writer // what was done or asked for
	warn      io.Writer // what is odd
}

// state is what cannot be seen on the disk.
type state struct {
	Seed *int `json:"seed,omitempty"` // 0 to update.Seeds-1, drawn once
	// Failed are versions that did not become good here, or were left.
	Failed   []update.Version `json:"failed,omitempty"`
	Prepared *prepared        `json:"prepared,omitempty"`
}

// prepared is the system in the other slot, ready to be activated.
type prepared struct {
	Version  update.Version `json:"version"`
	RootHash string         `json:"rootHash"`
	UKI      update.File    `json:"uki"`
}

func (h *host) statePath() string { return filepath.Join(h.dir, "state.json") }

func (h *host) readState() (s state, err error) {
	data, err := os.ReadFile(h.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("state of the updater: %w (%s can be removed; what is installed stays as it is)", err, h.statePath())
	}
	return s, nil
}

func (h *host) writeState(s state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if old, err := os.ReadFile(h.statePath()); err == nil && string(old) == string(data) {
		return nil
	}
	return h.ops.WriteFile(h.statePath(), data, 0o600)
}

// lock keeps other runs of the updater away until the file is closed.
func (h *host) lock() (io.Closer, error) {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(h.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another updater is at work: %w", err), f.Close())
	}
	return f, nil
}

// setting reads a setting below settings.updates; later folders win.
func (h *host) setting(name string, to any) error {
	for _, s := range h.settings {
		if _, err := s.Get("updates."+name, to); err != nil {
			return fmt.Errorf("setting updates.%s: %w", name, err)
		}
	}
	return nil
}

// situation is what is where.
type situation struct {
	table         *gpt.Table
	active, other boot.Slot
	images        []boot.Image // as the boot loader prefers them
	running       *boot.Image  // nil: not found on the EFI system partition
	second        *boot.Image  // that of the other slot, if there is one
	hash          verity.RootHash
}

func (h *host) images() string { return filepath.Join(h.esp, "EFI", "Linux") }

// hidden is where the UKI of a prepared system lies; the boot loader does not see it.
func (h *host) hidden(v update.Version) string {
	return filepath.Join(h.images(), h.release.ID+"_"+v.String()+".efi.prepared")
}

func rootHash(path string) (verity.RootHash, error) {
	f, err := os.Open(path)
	if err != nil {
		return verity.RootHash{}, err
	}
	defer f.Close()
	k, err := boot.ReadKernel(f)
	if err != nil {
		return k.RootHash, fmt.Errorf("%s: %w", path, err)
	}
	return k.RootHash, nil
}

func (h *host) look() (s situation, err error) {
	if s.hash, err = boot.RootHash(h.cmdline); err != nil {
		return s, err
	}
	// A damaged copy is mended when the table is next written.
	if s.table, _, err = gpt.Read(h.disk, h.disk.Size()); err != nil {
		return s, err
	}
	if s.active, s.other, err = boot.Slots(s.table, s.hash); err != nil {
		return s, err
	}
	if s.images, err = boot.List(h.images(), h.release.ID); err != nil {
		return s, fmt.Errorf("EFI system partition: %w", err)
	}
	for i := range s.images {
		// One that cannot be read cannot be booted either.
		hash, err := rootHash(s.images[i].Path())
		switch {
		case err != nil:
			fmt.Fprintf(h.warn, "ignored: %v\n", err)
		case hash == s.hash:
			s.running = &s.images[i]
		case s.other.Holds(s.table, hash) && s.second == nil:
			s.second = &s.images[i]
		}
	}
	return s, nil
}

// next chooses the release to install, or nil, with why there is none.
func (h *host) next(ctx context.Context, retry bool) (*repo.Repo, *update.Update, string, error) {
	var place, lock string
	var ignoreWaves bool
	var seed *int
	if err := errors.Join(h.setting("repository", &place), h.setting("version-lock", &lock),
		h.setting("ignore-waves", &ignoreWaves), h.setting("seed", &seed)); err != nil {
		return nil, nil, "", err
	}
	if place == "" {
		return nil, nil, "", errors.New("no update repository is set: set updates.repository to its address or folder")
	}
	st, err := h.readState()
	if err != nil {
		return nil, nil, "", err
	}
	if seed == nil {
		if st.Seed == nil {
			sum := sha256.Sum256([]byte("update seed " + h.machineID))
			n := int(binary.BigEndian.Uint16(sum[:]) % update.Seeds)
			st.Seed = &n
		}
		seed = st.Seed
	}
	if *seed < 0 || *seed >= update.Seeds {
		return nil, nil, "", fmt.Errorf("setting updates.seed is %d: want 0 to %d", *seed, update.Seeds-1)
	}
	sit, err := h.look()
	if err != nil {
		return nil, nil, "", err
	}
	if s := sit.second; s != nil && s.Bad() && !slices.Contains(st.Failed, s.Version) {
		st.Failed = append(st.Failed, s.Version)
	}
	if err := h.writeState(st); err != nil {
		return nil, nil, "", err
	}
	root, err := os.ReadFile(h.root)
	if err != nil {
		return nil, nil, "", err
	}
	r, err := repo.Open(ctx, place, root, filepath.Join(h.dir, "repository"), h.ops, h.idle)
	if err != nil {
		return nil, nil, "", err
	}
	offered := *r.Manifest
	why := fmt.Sprintf("%s is the newest that this machine may take now", h.release.Version)
	if lock != "" && lock != "latest" {
		want, err := update.ParseVersion(lock)
		if err != nil {
			return nil, nil, "", fmt.Errorf("setting updates.version-lock: %w", err)
		}
		if r.Manifest.Update(h.release.Variant, h.arch, want) == nil {
			return nil, nil, "", fmt.Errorf("setting updates.version-lock: the repository has no release %s of %s for %s", want, h.release.Variant, h.arch)
		}
		offered.Updates = slices.DeleteFunc(slices.Clone(offered.Updates), func(u update.Update) bool { return u.Version != want })
		why = fmt.Sprintf("%s is set as the version, and this machine has %s", want, h.release.Version)
	}
	if !slices.ContainsFunc(r.Manifest.Updates, func(u update.Update) bool { return u.Variant == h.release.Variant && u.Arch == h.arch }) {
		return nil, nil, "", fmt.Errorf("the repository has no release of variant %s for %s", h.release.Variant, h.arch)
	}
	if !retry {
		offered.Updates = slices.DeleteFunc(slices.Clone(offered.Updates), func(u update.Update) bool {
			return u.Variant == h.release.Variant && slices.Contains(st.Failed, u.Version)
		})
	}
	u := offered.Next(update.Host{Variant: h.release.Variant, Arch: h.arch, Version: h.release.Version, Seed: *seed, IgnoreWaves: ignoreWaves}, h.now())
	if u == nil && len(st.Failed) > 0 && !retry {
		why += fmt.Sprintf("; left out, since they did not become good here: %v (--retry takes them)", st.Failed)
	}
	return r, u, why, nil
}

// check tells which release would be installed.
func (h *host) check(ctx context.Context, retry bool) error {
	l, err := h.lock()
	if err != nil {
		return err
	}
	defer l.Close()
	_, u, why, err := h.next(ctx, retry)
	if err != nil {
		return err
	}
	if u == nil {
		fmt.Fprintf(h.log, "no update: %s\n", why)
		return nil
	}
	fmt.Fprintf(h.log, "%s can be installed\n", u.Version)
	return nil
}

// prepare writes the next release to the other slot. Nothing that boots changes
// by that, except that the system that was in that slot is gone.
func (h *host) prepare(ctx context.Context, retry bool) error {
	l, err := h.lock()
	if err != nil {
		return err
	}
	defer l.Close()
	r, u, why, err := h.next(ctx, retry)
	if err != nil {
		return err
	}
	if u == nil {
		fmt.Fprintf(h.log, "no update: %s\n", why)
		return nil
	}
	s, err := h.look()
	if err != nil {
		return err
	}
	// The other slot holds what the machine falls back to.
	switch {
	case s.running == nil:
		return fmt.Errorf("%s has no kernel image of the running system: without the other slot the machine could not boot", h.images())
	case s.running.Left != boot.Uncounted:
		return fmt.Errorf("the running system %s has not become good yet (%s): the other slot is needed until it has", s.running.Version, s.running.File)
	}
	if what, err := h.ready(u, s); err != nil {
		return err
	} else if what != "" && !retry {
		fmt.Fprintf(h.log, "%s is %s\n", u.Version, what)
		return h.prune(r)
	}
	hash, err := h.fetch(ctx, r, u, s)
	if err != nil {
		return fmt.Errorf("%s: %w", u, err)
	}
	if err := h.fill(ctx, r, u, s, hash); err != nil {
		return fmt.Errorf("%s: %w", u, err)
	}
	if s, err = h.look(); err != nil {
		return err
	}
	if n := s.second; n != nil {
		if n.Version == u.Version { // it may have been damaged
			if err := h.placeUKI(r, u, n.Path()); err != nil {
				return fmt.Errorf("%s: %w", u, err)
			}
		}
		fmt.Fprintf(h.log, "%s is installed as %s\n", u.Version, n.File)
		return h.prune(r)
	}
	if err := h.placeUKI(r, u, h.hidden(u.Version)); err != nil {
		return fmt.Errorf("%s: %w", u, err)
	}
	if err := r.Keep(); err != nil {
		return err
	}
	// Only now it can be activated.
	st, err := h.readState()
	if err != nil {
		return err
	}
	st.Prepared = &prepared{u.Version, hash.String(), u.Images.UKI.File}
	if err := h.writeState(st); err != nil {
		return err
	}
	if err := h.prune(r); err != nil {
		return err
	}
	fmt.Fprintf(h.log, "%s is prepared\n", u.Version)
	return nil
}

// ready tells whether the other slot has the release already, and how; "" means it
// has not. Root and hash tree were verified then, and are at every boot.
func (h *host) ready(u *update.Update, s situation) (string, error) {
	if n := s.second; n != nil {
		if !n.Bad() && n.Version == u.Version && digest(n.Path()) == u.Images.UKI.SHA256 {
			return "installed as " + n.File, nil
		}
		return "", nil
	}
	st, err := h.readState()
	if err != nil || st.Prepared == nil {
		return "", err
	}
	if p := st.Prepared; p.Version == u.Version && p.UKI == u.Images.UKI.File && h.holds(p, s) {
		return "prepared", nil
	}
	return "", nil
}

// holds tells whether the other slot and the EFI system partition are as a prepared
// system has left them.
func (h *host) holds(p *prepared, s situation) bool {
	hash, err := verity.ParseRootHash(p.RootHash)
	return err == nil && s.other.Holds(s.table, hash) && digest(h.hidden(p.Version)) == p.UKI.SHA256
}

// prune removes downloads that are installed; a later return to an older
// system needs the migrations.
func (h *host) prune(r *repo.Repo) error {
	var keep []update.File
	for _, m := range r.Manifest.Migrations {
		keep = append(keep, m.Files...)
	}
	return r.Prune(keep)
}

// fetch downloads all that the release needs and refuses it if it cannot be
// installed, before anything on the disk is touched.
func (h *host) fetch(ctx context.Context, r *repo.Repo, u *update.Update, s situation) (hash verity.RootHash, err error) {
	for _, f := range []struct {
		what  string
		image update.Image
		index int
	}{{"root file system", u.Images.Root, s.other.Root}, {"hash tree", u.Images.Hash, s.other.Hash}} {
		if e := s.table.Entries[f.index]; f.image.ContentSize > e.Size() {
			return hash, fmt.Errorf("its %s has %d bytes, partition %d holds %d", f.what, f.image.ContentSize, f.index+1, e.Size())
		}
	}
	if u.Images.UKI.Compression != update.None {
		return hash, errors.New("its kernel image is compressed: this updater takes it as it is")
	}
	steps, err := r.Manifest.MigrationPath(h.release.Datastore, u.Datastore)
	if err != nil {
		return hash, err
	}
	files := []update.File{u.Images.UKI.File}
	for _, step := range steps {
		files = append(files, step.Files...)
	}
	for i := 0; i < len(files); i++ {
		path, err := h.download(ctx, r, files[i])
		if err != nil {
			return hash, err
		}
		if i > 0 {
			continue
		}
		if hash, err = h.checkKernel(path, u, s.running); err != nil {
			return hash, err
		}
		if hash == s.hash {
			return hash, errors.New("it has the root hash of the running system")
		}
		if !s.other.Holds(s.table, hash) {
			files = append(files, u.Images.Hash.File, u.Images.Root.File)
		}
	}
	return hash, h.room(u.Images.UKI.Size, s)
}

func (h *host) download(ctx context.Context, r *repo.Repo, f update.File) (string, error) {
	fmt.Fprintf(h.log, "download %s (%d bytes)\n", f.Target, f.Size)
	return r.Download(ctx, f)
}

// room checks that the kernel image will fit when the others are gone.
func (h *host) room(need int64, s situation) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(h.images(), &fs); err != nil {
		return err
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	names, err := h.strangers(s)
	if err != nil {
		return err
	}
	for _, n := range names {
		if st, err := os.Stat(n); err == nil {
			free += st.Size()
		}
	}
	if need > free {
		return fmt.Errorf("its kernel image has %d bytes, the EFI system partition has room for %d", need, free)
	}
	return nil
}

// strangers are the kernel images of this operating system, seen and unseen by
// the boot loader, other than that of the running system.
func (h *host) strangers(s situation) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(h.images(), h.release.ID+"_*.efi*"))
	if err != nil || s.running == nil {
		return names, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == s.running.Path() })
	for _, n := range names {
		if first := firstBlock(n); first != 0 && first == firstBlock(s.running.Path()) {
			return nil, fmt.Errorf("%s and %s are the same blocks, as a power cut within a rename leaves them: removing one would destroy both; run fsck.vfat on the EFI system partition", n, s.running.Path())
		}
	}
	return names, nil
}

// firstBlock is where a file begins on its file system, 0 where that is not told.
func firstBlock(path string) int32 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	const fibmap = 1 // FIBMAP of <linux/fs.h>
	var block int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fibmap, uintptr(unsafe.Pointer(&block))); errno != 0 {
		return 0
	}
	return block
}

// fill writes root and hash to the other slot, unless they are there.
func (h *host) fill(ctx context.Context, r *repo.Repo, u *update.Update, s situation, hash verity.RootHash) error {
	if s.other.Holds(s.table, hash) {
		err := h.verify(ctx, u, s, hash)
		if err == nil {
			return nil
		}
		fmt.Fprintf(h.log, "the slot is written again: %v\n", err)
		for _, f := range []update.File{u.Images.Hash.File, u.Images.Root.File} {
			if _, err := h.download(ctx, r, f); err != nil {
				return err
			}
		}
	}
	// First nothing may lead to the slot any more, then it may change.
	names, err := h.strangers(s)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := h.ops.Remove(n); err != nil {
			return err
		}
	}
	var blank [2]gpt.GUID
	for i := range blank {
		_, _ = rand.Read(blank[i][:]) // never fails
		blank[i][6] = blank[i][6]&0x0f | 0x40
		blank[i][8] = blank[i][8]&0x3f | 0x80
	}
	s.other.Clear(s.table, blank[0], blank[1])
	if err := h.writeTable(s.table); err != nil {
		return err
	}
	for _, f := range []struct {
		image update.Image
		index int
	}{{u.Images.Root, s.other.Root}, {u.Images.Hash, s.other.Hash}} {
		fmt.Fprintf(h.log, "write %s to partition %d\n", f.image.Target, f.index+1)
		if err := h.writeImage(ctx, r, f.image, s.table.Entries[f.index]); err != nil {
			return err
		}
	}
	if err := h.disk.Sync(); err != nil {
		return err
	}
	if err := h.verify(ctx, u, s, hash); err != nil {
		return err
	}
	s.other.Fill(s.table, hash, u.Version.String())
	return h.writeTable(s.table)
}

func (h *host) writeTable(t *gpt.Table) error {
	return h.disk.Exclusive(func() error { return t.Write(h.disk) })
}

// verify reads the other slot back from the disk and holds it against the root hash.
func (h *host) verify(ctx context.Context, u *update.Update, s situation, hash verity.RootHash) error {
	if err := h.disk.Forget(); err != nil {
		return err
	}
	part := func(i int) io.ReaderAt {
		e := s.table.Entries[i]
		return io.NewSectionReader(h.disk, e.Start(), e.Size())
	}
	super, err := verity.Verify(ctx, part(s.other.Root), part(s.other.Hash), hash)
	if err != nil {
		return fmt.Errorf("what was read back from the disk: %w", err)
	}
	if int64(super.DataBlocks)*verity.BlockSize != u.Images.Root.ContentSize {
		return fmt.Errorf("the hash tree is for %d bytes, the root file system has %d", super.DataBlocks*verity.BlockSize, u.Images.Root.ContentSize)
	}
	return nil
}

// placeUKI makes a file the kernel image, verified: where the boot loader does not
// see it, or in the place of a damaged one.
func (h *host) placeUKI(r *repo.Repo, u *update.Update, path string) error {
	want := u.Images.UKI.File
	left, err := filepath.Glob(filepath.Join(h.images(), "*.efi*"))
	if err != nil {
		return err
	}
	for _, name := range left { // by an earlier run that was cut off
		if durable.Temporary(filepath.Base(name)) {
			if err := h.ops.Remove(name); err != nil {
				return err
			}
		}
	}
	if digest(path) == want.SHA256 {
		return nil
	}
	var data sliceWriter
	if err := r.Copy(&data, want); err != nil {
		return err
	}
	return h.ops.WriteFile(path, data, 0o644)
}

type sliceWriter []byte

func (s *sliceWriter) Write(b []byte) (int, error) {
	*s = append(*s, b...)
	return len(b), nil
}

// digest is the SHA-256 of a file as in a manifest, "" if it cannot be read.
func digest(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// activate makes the prepared system the one that boots next, with a limited
// number of tries; after them the boot loader takes the running one again.
func (h *host) activate() error {
	l, err := h.lock()
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := h.look()
	if err != nil {
		return err
	}
	st, err := h.readState()
	if err != nil {
		return err
	}
	if s.running == nil || s.running.Left != boot.Uncounted && !left(s.running) {
		return errors.New("the running system has not become good yet: there would be nothing to fall back to")
	}
	if n := s.second; n != nil {
		switch {
		case s.images[0] == *n:
			fmt.Fprintf(h.log, "%s boots next\n", n.Version)
			return h.accept(st, n.Version)
		case n.Bad():
			if err := h.ops.Rename(n.Path(), filepath.Join(n.Dir, n.Counted(h.tries))); err != nil {
				return err
			}
			fmt.Fprintf(h.log, "%s boots next, once more with %d tries\n", n.Version, h.tries)
			return h.accept(st, n.Version)
		}
		return fmt.Errorf("the other slot holds %s, which is older than the running %s: go back to it with revert", n.Version, s.running.Version)
	}
	p := st.Prepared
	if p == nil {
		return errors.New("no update is prepared")
	}
	if !h.holds(p, s) {
		return fmt.Errorf("%s is no longer prepared as it was: prepare it again", p.Version)
	}
	image := boot.Image{Name: h.release.ID, Version: p.Version}
	if err := h.ops.Rename(h.hidden(p.Version), filepath.Join(h.images(), image.Counted(h.tries))); err != nil {
		return err
	}
	fmt.Fprintf(h.log, "%s boots next, with %d tries\n", p.Version, h.tries)
	return h.accept(st, p.Version)
}

// accept forgets that a version failed: it was asked for.
func (h *host) accept(st state, v update.Version) error {
	st.Failed = slices.DeleteFunc(st.Failed, func(f update.Version) bool { return f == v })
	return h.writeState(st)
}

// revert makes the system boot next that does not by now: the running one, if
// the other was activated, else the other.
func (h *host) revert() error {
	l, err := h.lock()
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := h.look()
	if err != nil {
		return err
	}
	st, err := h.readState()
	if err != nil {
		return err
	}
	switch {
	case s.running == nil:
		return fmt.Errorf("%s has no kernel image of the running system", h.images())
	case s.second == nil:
		return errors.New("the other slot holds no system to go back to")
	}
	leave, stay := s.running, s.second
	if !s.running.Bad() && s.images[0] == *s.second {
		leave, stay = s.second, s.running
	}
	switch {
	case left(leave):
		fmt.Fprintf(h.log, "%s boots next\n", stay.Version)
		return nil
	case left(stay):
		fmt.Fprintf(h.log, "%s boots next, since %s was left\n", leave.Version, stay.Version)
		return nil
	case stay.Bad():
		return fmt.Errorf("%s did not become good, so the machine stays with %s: activate gives it new tries", stay.Version, leave.Version)
	}
	// The loader takes an image without tries last.
	if !slices.Contains(st.Failed, leave.Version) {
		st.Failed = append(st.Failed, leave.Version)
	}
	if err := h.writeState(st); err != nil {
		return err
	}
	if err := h.ops.Rename(leave.Path(), filepath.Join(leave.Dir, leave.Counted(0))); err != nil {
		return err
	}
	fmt.Fprintf(h.log, "%s boots next\n", stay.Version)
	return nil
}

// left tells that an image was left with revert: it has no tries, and used none.
func left(i *boot.Image) bool { return i.Bad() && i.Done == 0 }

// markGood ends the counting of boots for the running system.
func (h *host) markGood() error {
	l, err := h.lock()
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := h.look()
	switch {
	case err != nil:
		return err
	case s.running == nil:
		return fmt.Errorf("%s has no kernel image of the running system", h.images())
	case s.running.Left == boot.Uncounted:
		fmt.Fprintf(h.log, "%s is good\n", s.running.Version)
		return nil
	case left(s.running):
		fmt.Fprintf(h.log, "%s was left with revert and stays so\n", s.running.Version)
		return nil
	}
	if err := h.ops.Rename(s.running.Path(), filepath.Join(s.running.Dir, s.running.Counted(boot.Uncounted))); err != nil {
		return err
	}
	st, err := h.readState()
	if err != nil {
		return err
	}
	if st.Prepared != nil && st.Prepared.Version == s.running.Version {
		st.Prepared = nil
	}
	fmt.Fprintf(h.log, "%s is good\n", s.running.Version)
	return h.accept(st, s.running.Version)
}

// bootFailed tells whether the machine should reboot, since the boot went wrong:
// the running system is on trial, and after its tries the boot loader takes the
// other. It needs nothing but the EFI system partition.
func (h *host) bootFailed() (reboot bool, err error) {
	s, err := h.look()
	switch {
	case err != nil:
		return false, err
	case s.running == nil:
		return false, fmt.Errorf("%s has no kernel image of the running system", h.images())
	case s.running.Left == boot.Uncounted:
		fmt.Fprintf(h.log, "%s has been good before: the machine stays as it is\n", s.running.Version)
		return false, nil
	case s.second == nil:
		fmt.Fprintf(h.log, "the other slot holds nothing to fall back to: the machine stays as it is\n")
		return false, nil
	}
	fmt.Fprintf(h.log, "%s has %d tries left\n", s.running.Version, s.running.Left)
	return true, nil
}

// status is what the command of this name prints, as JSON.
type status struct {
	Variant  string           `json:"variant"`
	Running  *system          `json:"running"`
	Other    *system          `json:"other,omitempty"`    // in the other slot, if it boots
	Prepared *update.Version  `json:"prepared,omitempty"` // not yet activated
	Next     *update.Version  `json:"next,omitempty"`     // that the boot loader takes
	Failed   []update.Version `json:"failed,omitempty"`
}

type system struct {
	Version update.Version `json:"version"`
	Good    bool           `json:"good"`
	Left    int            `json:"triesLeft"` // -1: boots are not counted
}

func (h *host) status() error {
	s, err := h.look()
	if err != nil {
		return err
	}
	st, err := h.readState()
	if err != nil {
		return err
	}
	out := status{Variant: h.release.Variant, Failed: st.Failed}
	about := func(i *boot.Image) *system {
		if i == nil {
			return nil
		}
		return &system{i.Version, i.Left == boot.Uncounted, i.Left}
	}
	out.Running, out.Other = about(s.running), about(s.second)
	if len(s.images) > 0 {
		out.Next = &s.images[0].Version
	}
	if p := st.Prepared; p != nil && s.second == nil && h.holds(p, s) {
		out.Prepared = &p.Version
	}
	e := json.NewEncoder(h.log)
	e.SetIndent("", "  ")
	return e.Encode(out)
}
