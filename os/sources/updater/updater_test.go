package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"debug/pe"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"dinghy/internal/boot"
	"dinghy/internal/gpt"
	"dinghy/internal/kerneltest"
	"dinghy/internal/repo"
	"dinghy/update"
)

var one, two, three = build("1.0.0", 150), build("1.1.0", 160), build("1.2.0", 20)

func (w *world) files(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(w.images())) {
		names = append(names, e.Name())
	}
	return names
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestUpdateAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	w.repo.add(t, one, "1.0.0")
	w.repo.publish(t)
	ok(t, w.check(t.Context(), false))
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	ok(t, w.check(t.Context(), false))
	ok(t, w.prepare(t.Context(), false))
	equal(t, "prepared", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.1.0.efi.prepared"})
	equal(t, "boots", w.bootable(t), []string{"1.0.0"})
	ok(t, w.prepare(t.Context(), false))

	ok(t, w.activate())
	ok(t, w.activate())
	ok(t, w.prepare(t.Context(), false))
	equal(t, "activated", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.1.0+3.efi"})
	equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})

	// another thought, and yet another
	ok(t, w.revert())
	ok(t, w.revert())
	equal(t, "boots after revert", w.bootable(t), []string{"1.0.0", "1.1.0"})
	ok(t, w.check(t.Context(), false))
	if !strings.Contains(w.log.String(), "did not become good here: [1.1.0]") {
		t.Errorf("check offers what was left:\n%s", &w.log)
	}
	ok(t, w.activate())

	// the loader counts and the new system starts
	ok(t, os.Rename(w.images()+"/dinghy_1.1.0+3.efi", w.images()+"/dinghy_1.1.0+2-1.efi"))
	w.boots(two, "1.0.0")
	if err := w.prepare(t.Context(), false); err != nil {
		t.Errorf("nothing to prepare, but %v", err)
	}
	w.repo.add(t, three, "1.0.0")
	w.repo.publish(t)
	if err := w.prepare(t.Context(), false); err == nil || !strings.Contains(err.Error(), "has not become good yet") {
		t.Errorf("the fallback would be overwritten: %v", err)
	}
	ok(t, w.markGood())
	ok(t, w.markGood())
	equal(t, "good", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.1.0.efi"})
	w.log.Reset()
	ok(t, w.status())
	var st status
	ok(t, json.Unmarshal(w.log.Bytes(), &st))
	next := v("1.1.0")
	equal(t, "status", st, status{Variant: "dev", Running: &system{v("1.1.0"), true, -1}, Other: &system{v("1.0.0"), true, -1}, Next: &next})

	// back to the first, which stays the default although it is older
	ok(t, w.revert())
	ok(t, w.revert())
	ok(t, w.markGood())
	equal(t, "left", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.1.0+0.efi"})
	equal(t, "boots after revert", w.bootable(t), []string{"1.0.0", "1.1.0"})
	w.boots(one, "1.0.0")
	ok(t, w.prepare(t.Context(), false))
	ok(t, w.activate())
	equal(t, "third", w.bootable(t), []string{"1.2.0", "1.0.0"})
	// a shorter system was written over a longer one
	equal(t, "files", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.2.0+3.efi"})

	// all its tries are in vain
	ok(t, os.Rename(w.images()+"/dinghy_1.2.0+3.efi", w.images()+"/dinghy_1.2.0+0-3.efi"))
	equal(t, "fallback", w.bootable(t), []string{"1.0.0", "1.2.0"})
	w.log.Reset()
	ok(t, w.prepare(t.Context(), false))
	if !strings.Contains(w.log.String(), "no update") {
		t.Errorf("a release that failed is installed again:\n%s", &w.log)
	}
	if err := w.revert(); err == nil || !strings.Contains(err.Error(), "1.2.0 did not become good") {
		t.Errorf("revert to a system that failed: %v", err)
	}
	ok(t, w.prepare(t.Context(), true))
	ok(t, w.activate())
	equal(t, "new tries", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.2.0+3.efi"})
	left := must[[]string](t)(filepath.Glob(w.dir + "/repository/targets/*"))
	if len(left) != 1 || !strings.HasSuffix(left[0], "manifest.json") {
		t.Errorf("downloads are left: %v", left)
	}
}

// Slots of Bottlerocket's layout are found by their types, and keep their names.
func TestBottlerocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	table, _, err := gpt.Read(w.disk, w.disk.Size())
	ok(t, err)
	names := []string{"esp", "BOTTLEROCKET-ROOT-A", "BOTTLEROCKET-HASH-A", "BOTTLEROCKET-ROOT-B", "BOTTLEROCKET-HASH-B", "data"}
	for i, kind := range []gpt.GUID{gpt.TypeBottlerocketRoot, gpt.TypeBottlerocketHash, gpt.TypeBottlerocketRoot, gpt.TypeBottlerocketHash} {
		table.Entries[1+i].Type, table.Entries[1+i].Name = kind, names[1+i]
	}
	ok(t, table.Write(w.disk))
	for _, next := range []built{two, three} {
		w.repo.add(t, next, "1.0.0")
		w.repo.publish(t)
		ok(t, w.prepare(t.Context(), false))
		ok(t, w.activate())
		equal(t, "boots", w.bootable(t)[0], next.version)
		w.boots(next, "1.0.0")
		ok(t, w.markGood())
	}
	table, _, err = gpt.Read(w.disk, w.disk.Size())
	ok(t, err)
	var got []string
	for _, e := range table.Entries {
		got = append(got, e.Name)
	}
	equal(t, "names", got, names)
}

// TestPowerCut cuts the power ahead of every single change.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		w := newWorld(t, one)
		// the other slot holds an older system, which is the fallback
		w.repo.add(t, build("0.9.0", 100), "1.0.0")
		w.repo.add(t, two, "1.0.0")
		w.repo.publish(t)
		w.cutAt(n)
		err := w.prepare(t.Context(), false)
		if err == nil {
			err = w.activate()
		}
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d changes", n)
			}
			equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatalf("change %d: %v", n, err)
		}
		w.disk.cut(mathrand.New(mathrand.NewPCG(1, uint64(n))))
		w.powerOn()
		versions := w.bootable(t)
		if first := versions[0]; first != "1.0.0" && first != "1.1.0" {
			t.Fatalf("change %d: %v", n, versions)
		}
		if versions[len(versions)-1] != "1.0.0" {
			t.Fatalf("change %d: no fallback: %v", n, versions)
		}
		ok(t, w.prepare(t.Context(), false))
		ok(t, w.activate())
		equal(t, fmt.Sprintf("after change %d boots", n), w.bootable(t), []string{"1.1.0", "1.0.0"})
		equal(t, "files", w.files(t), []string{"dinghy_1.0.0.efi", "dinghy_1.1.0+3.efi"})
	}
}

// TestPowerCutOverOlder does so where the slot held another system before, and
// through mark-good and revert.
func TestPowerCutOverOlder(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		w := newWorld(t, one)
		w.repo.add(t, two, "1.0.0")
		w.repo.publish(t)
		ok(t, w.prepare(t.Context(), false))
		ok(t, w.activate())
		w.boots(two, "1.0.0")
		w.repo.add(t, three, "1.0.0")
		w.repo.publish(t)
		w.cutAt(n)
		steps := []func() error{w.markGood, func() error { return w.prepare(t.Context(), false) }, w.activate, w.revert}
		var err error
		for _, step := range steps {
			if err = step(); err != nil {
				break
			}
		}
		if err == nil {
			equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.2.0"})
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatalf("change %d: %v", n, err)
		}
		w.disk.cut(mathrand.New(mathrand.NewPCG(2, uint64(n))))
		w.powerOn()
		if versions := w.bootable(t); !strings.Contains(strings.Join(versions, " "), "1.1.0") {
			t.Fatalf("change %d: the running system does not boot: %v", n, versions)
		}
		for _, step := range []func() error{w.markGood, func() error { return w.prepare(t.Context(), true) }, w.activate} {
			ok(t, step())
		}
		equal(t, fmt.Sprintf("after change %d boots", n), w.bootable(t), []string{"1.2.0", "1.1.0"})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, w *world, u *update.Update)
		after  func(t *testing.T, w *world, u *update.Update) // when published
		want   string
	}{
		"other variant":          {change: func(_ *testing.T, w *world, _ *update.Update) { w.release.Variant = "prod" }, want: "the repository has no release of variant prod for x86_64"},
		"other architecture":     {change: func(_ *testing.T, w *world, _ *update.Update) { w.arch = "aarch64" }, want: "the repository has no release of variant dev for aarch64"},
		"no repository":          {change: func(t *testing.T, w *world, _ *update.Update) { ok(t, w.conf.Set("updates.repository", "")) }, want: "no update repository is set"},
		"relative folder":        {change: func(t *testing.T, w *world, _ *update.Update) { ok(t, w.conf.Set("updates.repository", "repo")) }, want: "want an absolute path or an address"},
		"unknown lock":           {change: func(t *testing.T, w *world, _ *update.Update) { ok(t, w.conf.Set("updates.version-lock", "9.9.9")) }, want: "no release 9.9.9 of dev"},
		"seed":                   {change: func(t *testing.T, w *world, _ *update.Update) { ok(t, w.conf.Set("updates.seed", 2048)) }, want: "updates.seed is 2048: want 0 to 2047"},
		"root too large":         {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Root.ContentSize = slotMiB<<20 + 1 }, want: "its root file system has 1048577 bytes, partition 4 holds 1048576"},
		"content longer":         {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Root.ContentSize -= block }, want: "root.img.zst: more than the 651264 bytes that the manifest gives its content"},
		"content shorter":        {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Root.ContentSize += block }, want: "its content has 655360 bytes, the manifest gives it 659456"},
		"content differs":        {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Hash.ContentSHA256 = strings.Repeat("0", 64) }, want: "SHA-256 of its content is"},
		"not compressed as said": {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Root.Compression = update.LZ4 }, want: "root.img.zst: lz4: bad magic number"},
		"hash tree of another": {change: func(_ *testing.T, w *world, u *update.Update) {
			i := &u.Images.Hash
			i.File, i.Compression = w.repo.target("other-tree", one.tree), update.None
			i.ContentSize, i.ContentSHA256 = i.Size, i.SHA256
		}, want: "what was read back from the disk: verity mismatch"},
		"root hash of the running system": {change: func(_ *testing.T, w *world, u *update.Update) {
			again := one
			again.version = two.version
			w.repo.kernel(u, again.kernel(pe.IMAGE_FILE_MACHINE_AMD64, "dev"))
		}, want: "it has the root hash of the running system"},
		"no kernel image":                 {change: func(_ *testing.T, w *world, u *update.Update) { w.repo.kernel(u, []byte("text")) }, want: "not a unified kernel image"},
		"kernel image of another version": {change: func(_ *testing.T, w *world, u *update.Update) { w.repo.kernel(u, one.uki) }, want: "its kernel image is that of dinghy, variant dev, version 1.0.0"},
		"kernel image of another variant": {change: func(_ *testing.T, w *world, u *update.Update) {
			w.repo.kernel(u, two.kernel(pe.IMAGE_FILE_MACHINE_AMD64, "prod"))
		}, want: "its kernel image is that of dinghy, variant prod, version 1.1.0"},
		"kernel image of another machine": {change: func(_ *testing.T, w *world, u *update.Update) {
			w.repo.kernel(u, two.kernel(pe.IMAGE_FILE_MACHINE_ARM64, "dev"))
		}, want: "its kernel image is for aarch64, this machine is x86_64"},
		"kernel image of an unknown machine": {change: func(_ *testing.T, w *world, u *update.Update) {
			w.repo.kernel(u, two.kernel(pe.IMAGE_FILE_MACHINE_I386, "dev"))
		}, want: "unified kernel image: for an unknown machine 0x14c"},
		"kernel image without command line": {change: func(_ *testing.T, w *world, u *update.Update) {
			w.repo.kernel(u, kerneltest.Image(pe.IMAGE_FILE_MACHINE_AMD64, ".osrel", "ID=dinghy\n"))
		}, want: "no section .cmdline"},
		"kernel image without version": {change: func(_ *testing.T, w *world, u *update.Update) {
			w.repo.kernel(u, kerneltest.Image(pe.IMAGE_FILE_MACHINE_AMD64, ".osrel", "ID=dinghy\nVARIANT_ID=dev\n", ".cmdline", two.cmdline()))
		}, want: "os-release in its kernel image: there is no IMAGE_VERSION"},
		"kernel image of another root": {change: func(_ *testing.T, w *world, u *update.Update) {
			other := three
			other.version = two.version
			w.repo.kernel(u, other.kernel(pe.IMAGE_FILE_MACHINE_AMD64, "dev"))
		}, want: "what was read back from the disk: verity mismatch"},
		"manifest against metadata": {change: func(_ *testing.T, _ *world, u *update.Update) { u.Images.Root.Size++ }, want: "the manifest and the signed metadata name different sizes"},
		"truncated": {after: func(t *testing.T, w *world, u *update.Update) {
			ok(t, os.Truncate(w.repo.path(u.Images.Root.Target), 100))
		}, want: "root.img.zst: 100 bytes, the signed metadata give it"},
		"oversized": {after: func(t *testing.T, w *world, u *update.Update) {
			data := w.repo.targets[u.Images.Root.Target]
			ok(t, os.WriteFile(w.repo.path(u.Images.Root.Target), append(bytes.Clone(data), 0), 0o644))
		}, want: "root.img.zst: more than the"},
		"other bytes": {after: func(t *testing.T, w *world, u *update.Update) {
			data := bytes.Clone(w.repo.targets[u.Images.Root.Target])
			data[50] ^= 1
			ok(t, os.WriteFile(w.repo.path(u.Images.Root.Target), data, 0o644))
		}, want: "root.img.zst: SHA-256 is"},
		"missing": {after: func(t *testing.T, w *world, u *update.Update) { ok(t, os.Remove(w.repo.path(u.Images.Root.Target))) }, want: "no such file"},
		"expired": {change: func(_ *testing.T, w *world, _ *update.Update) { w.repo.expires = time.Now().Add(-time.Hour) }, want: "expired"},
		"other keys": {change: func(t *testing.T, w *world, _ *update.Update) {
			w.root = filepath.Join(newRepository(t).dir, "1.root.json")
		}, want: "timestamp"},
		"no root":       {change: func(t *testing.T, w *world, _ *update.Update) { w.root += ".missing" }, want: "no such file"},
		"no migrations": {change: func(_ *testing.T, w *world, _ *update.Update) { w.release.Datastore = v("0.5.0") }, want: "no migrations lead from datastore 0.5.0 to 1.0.0"},
		"one slot": {change: func(t *testing.T, w *world, _ *update.Update) {
			table, _, err := gpt.Read(w.disk, w.disk.Size())
			ok(t, err)
			table.Entries = append(table.Entries[:3], table.Entries[5])
			ok(t, table.Write(w.disk))
		}, want: "needs two of each (image-layout.slots)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, one)
			u := w.repo.add(t, two, "1.0.0")
			if c.change != nil {
				c.change(t, w, u)
			}
			w.repo.publish(t)
			if c.after != nil {
				c.after(t, w, u)
			}
			err := w.prepare(t.Context(), false)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			equal(t, "boots", w.bootable(t), []string{"1.0.0"})
			if err := w.activate(); err == nil {
				t.Error("it can be activated")
			}
		})
	}
}

// TestSigners takes kernel images that the firmware will, as far as that can be told.
func TestSigners(t *testing.T) {
	t.Parallel()
	a, b := kerneltest.NewKey("a"), kerneltest.NewKey("b")
	sign := func(uki []byte, keys string) []byte {
		for _, k := range keys {
			uki = map[rune]kerneltest.Key{'a': a, 'b': b}[k].Sign(uki)
		}
		return uki
	}
	for name, c := range map[string]struct {
		secure        byte
		running, next string // keys that signed
		damaged       bool
		want          string // "": it is taken
	}{
		"unsigned machine":           {},
		"first signed one":           {next: "a"},
		"same key":                   {secure: 1, running: "a", next: "a"},
		"same key, Secure Boot off":  {running: "a", next: "a"},
		"to a new key by both":       {secure: 1, running: "a", next: "ba"},
		"from both to the new key":   {secure: 1, running: "ba", next: "b"},
		"unsigned":                   {running: "a", want: "its kernel image is not signed, that of the running system is"},
		"unsigned, Secure Boot":      {secure: 1, running: "a", want: "Secure Boot is on, and its kernel image is not signed"},
		"both unsigned, Secure Boot": {secure: 1, want: "Secure Boot is on, and its kernel image is not signed"},
		"another key":                {secure: 1, running: "a", next: "b", want: "its kernel image is signed by CN=b, that of the running system by CN=a"},
		"changed":                    {secure: 1, running: "a", next: "a", damaged: true, want: "Secure Boot: its kernel image: signature 1: it was changed after it was signed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, one)
			ok(t, os.WriteFile(filepath.Join(w.images(), "dinghy_1.0.0.efi"), sign(one.uki, c.running), 0o644))
			ok(t, os.WriteFile(filepath.Join(w.efivars, "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"), []byte{6, 0, 0, 0, c.secure}, 0o644))
			u := w.repo.add(t, two, "1.0.0")
			uki := sign(two.uki, c.next)
			if c.damaged {
				uki[20]++ // of the DOS header, which nothing reads
			}
			w.repo.kernel(u, uki)
			w.repo.publish(t)
			before := bytes.Clone(w.disk.data)
			err := w.prepare(t.Context(), false)
			if c.want == "" {
				ok(t, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if !bytes.Equal(w.disk.data, before) {
				t.Error("the disk was changed")
			}
		})
	}
}

// TestMetadata changes metadata as who controls the server or the line to it
// could, and who has some of the keys. The machine has seen version 2 of all.
func TestMetadata(t *testing.T) {
	t.Parallel()
	read := func(t *testing.T, w *world, name string) []byte {
		t.Helper()
		return must[[]byte](t)(os.ReadFile(filepath.Join(w.repo.dir, name)))
	}
	write := func(t *testing.T, w *world, name string, data []byte) {
		t.Helper()
		ok(t, os.WriteFile(filepath.Join(w.repo.dir, name), data, 0o644))
	}
	expired := func(role string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.repo.past = role
			w.repo.publish(t)
		}
	}
	// mixed publishes version 3, but with a file of version 2 among the others.
	mixed := func(file string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.repo.publish(t)
			write(t, w, "3."+file, read(t, w, "2."+file))
		}
	}
	for name, c := range map[string]struct {
		attack func(t *testing.T, w *world)
		want   string
	}{
		"expired timestamp": {expired("timestamp"), "timestamp.json is expired"},
		"expired snapshot":  {expired("snapshot"), "snapshot.json is expired"},
		"expired targets":   {expired("targets"), "new targets is expired"},
		"expired root": {func(t *testing.T, w *world) {
			w.repo.past = "root"
			w.repo.publishRoot(t, 2)
		}, "final root.json is expired"},
		"replayed timestamp": {func(t *testing.T, w *world) {
			write(t, w, "timestamp.json", read(t, w, "older"))
		}, "new timestamp version 1 must be >= 2"},
		"replayed snapshot": {func(t *testing.T, w *world) {
			w.repo.publishTimestamp(t, 3, 1)
		}, "new snapshot version 1 must be >= 2"},
		"mixed snapshot": {mixed("snapshot.json"), "expected 3, got 2"},
		"mixed targets":  {mixed("targets.json"), "expected targets version 3, got 2"},
		"timestamp of another repository": {func(t *testing.T, w *world) {
			other := newWorld(t, one)
			for range 3 {
				other.repo.publish(t)
			}
			write(t, w, "timestamp.json", read(t, other, "timestamp.json"))
		}, "Verifying timestamp failed, not enough signatures, got 0, want 1"},
		"targets of another repository": {func(t *testing.T, w *world) {
			w.repo.publish(t)
			other := newWorld(t, one)
			for range 3 {
				other.repo.publish(t)
			}
			write(t, w, "3.targets.json", read(t, other, "3.targets.json"))
		}, "Verifying targets failed, not enough signatures, got 0, want 1"},
		"root of another repository": {func(t *testing.T, w *world) {
			other := newRepository(t)
			other.publishRoot(t, 2)
			write(t, w, "2.root.json", must[[]byte](t)(os.ReadFile(filepath.Join(other.dir, "2.root.json"))))
		}, "Verifying root failed, not enough signatures, got 0, want 1"},
		"key of another role": {func(t *testing.T, w *world) {
			w.repo.keys["timestamp"] = w.repo.keys["snapshot"]
			w.repo.publish(t)
		}, "Verifying timestamp failed"},
		"changed after signing": {func(t *testing.T, w *world) {
			w.repo.publish(t)
			write(t, w, "3.targets.json", bytes.Replace(read(t, w, "3.targets.json"), []byte(`"length":`), []byte(`"length":1`), 1))
		}, "Verifying targets failed"},
		"truncated timestamp": {func(t *testing.T, w *world) {
			write(t, w, "timestamp.json", read(t, w, "timestamp.json")[:100])
		}, "unexpected end of JSON input"},
		"endless timestamp": {func(t *testing.T, w *world) {
			write(t, w, "timestamp.json", bytes.Repeat([]byte(" "), 1<<20+1))
		}, "timestamp.json is larger than 1048576 bytes"},
		"endless targets": {func(t *testing.T, w *world) {
			w.repo.publish(t)
			write(t, w, "3.targets.json", bytes.Repeat([]byte(" "), 16<<20+1))
		}, "3.targets.json is larger than 16777216 bytes"},
		"missing timestamp": {func(t *testing.T, w *world) { ok(t, os.Remove(w.repo.dir+"/timestamp.json")) }, "timestamp.json"},
		"missing snapshot":  {func(t *testing.T, w *world) { w.repo.publishTimestamp(t, 3, 3) }, "3.snapshot.json"},
		"older manifest": {func(t *testing.T, w *world) {
			before := read(t, w, "targets/"+filepath.Base(w.repo.path(update.ManifestTarget)))
			w.repo.add(t, three, "1.0.0")
			w.repo.publish(t)
			ok(t, os.WriteFile(w.repo.path(update.ManifestTarget), before, 0o644))
		}, "target manifest.json: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, one)
			w.repo.add(t, two, "1.0.0")
			w.repo.publish(t)
			write(t, w, "older", read(t, w, "timestamp.json"))
			w.repo.publish(t)
			ok(t, w.check(t.Context(), false))
			c.attack(t, w)
			err := w.prepare(t.Context(), false)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			t.Log(err)
			equal(t, "boots", w.bootable(t), []string{"1.0.0"})
			if err := w.activate(); err == nil {
				t.Error("it can be activated")
			}
		})
	}
}

// What a power cut left of the metadata that were seen is no hindrance.
func TestDamagedMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	ok(t, w.check(t.Context(), false))
	for _, file := range must[[]string](t)(filepath.Glob(w.dir + "/repository/seen/*")) {
		ok(t, os.Truncate(file, 10))
	}
	ok(t, w.check(t.Context(), false))
}

func TestWhich(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	w.repo.add(t, two, "1.0.0")
	u := w.repo.add(t, three, "1.0.0")
	start := time.Now().UTC().Truncate(time.Second)
	u.Waves = update.Waves{0: start, 2048: start.Add(2048 * time.Hour)}
	w.repo.publish(t)
	offered := func(want string) {
		t.Helper()
		w.log.Reset()
		ok(t, w.check(t.Context(), false))
		if !strings.HasPrefix(w.log.String(), want) {
			t.Errorf("%s, want %s", &w.log, want)
		}
	}
	ok(t, w.conf.Set("updates.seed", 100))
	w.now = func() time.Time { return start.Add(99 * time.Hour) }
	offered("1.1.0 can")
	w.now = func() time.Time { return start.Add(101 * time.Hour) }
	offered("1.2.0 can")
	ok(t, w.conf.Set("updates.version-lock", "1.1.0"))
	offered("1.1.0 can")
	ok(t, w.conf.Set("updates.version-lock", "latest"))
	ok(t, w.conf.Set("updates.seed", 2000))
	offered("1.1.0 can")
	ok(t, w.conf.Set("updates.ignore-waves", true))
	offered("1.2.0 can")
	highest := v("1.1.0")
	for i := range w.repo.manifest.Updates {
		w.repo.manifest.Updates[i].MaxVersion = &highest
	}
	w.repo.publish(t)
	offered("1.1.0 can")
	for i := range w.repo.manifest.Updates {
		w.repo.manifest.Updates[i].PausedAt = &start
	}
	w.repo.publish(t)
	offered("no update")
}

// A seed that was drawn stays, though the machine id changes with every boot.
func TestSeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	ok(t, w.check(t.Context(), false))
	first := must[state](t)(w.readState())
	w.machineID = "4567"
	ok(t, w.check(t.Context(), false))
	equal(t, "seed", *must[state](t)(w.readState()).Seed, *first.Seed)
}

func TestResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	u := w.repo.add(t, two, "1.0.0")
	w.repo.manifest.Migrations = []update.Migration{{From: v("1.0.0"), To: v("1.1.0"), Files: []update.File{w.repo.target("add-x", []byte("program"))}}}
	u.Datastore = v("1.1.0")
	w.repo.publish(t)
	files := http.FileServer(http.Dir(w.repo.dir))
	var ranges []string
	served := 0
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, u.Images.Root.Target) {
			if served++; served <= 2 { // ends in the middle
				data := w.repo.targets[u.Images.Root.Target]
				ranges = append(ranges, req.Header.Get("Range"))
				if served == 1 {
					rw.Header().Set("Content-Length", fmt.Sprint(len(data)))
					_, _ = rw.Write(data[:1000])
					return
				}
			}
		}
		files.ServeHTTP(rw, req)
	}))
	defer server.Close()
	ok(t, w.conf.Set("updates.repository", server.URL))
	ok(t, w.prepare(t.Context(), false))
	equal(t, "ranges", ranges, []string{"", "bytes=1000-"})
	ok(t, w.activate())
	equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})

	// what is kept serves without the server, also after all has expired
	server.Close()
	kept, err := repo.OpenKept(t.Context(), must[[]byte](t)(os.ReadFile(w.root)), filepath.Join(w.dir, "repository"))
	ok(t, err)
	var program bytes.Buffer
	ok(t, kept.Copy(&program, kept.Manifest.Migrations[0].Files[0]))
	equal(t, "migration", program.String(), "program")
}

// A server without ranges sends everything again.
// TestPreparedAgain downloads nothing for a release that is in the other slot already,
// activated or not, and all that is missing once it is damaged.
func TestPreparedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	u := w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	var asked []string
	files := http.FileServer(http.Dir(w.repo.dir))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if _, target, ok := strings.Cut(req.URL.Path, ".dev-"); ok {
			asked = append(asked, target)
		}
		files.ServeHTTP(rw, req)
	}))
	defer server.Close()
	ok(t, w.conf.Set("updates.repository", server.URL))
	prepares := func(what string, retry bool, want ...string) {
		t.Helper()
		asked = nil
		writes := w.disk.writes
		ok(t, w.prepare(t.Context(), retry))
		equal(t, what, asked, want)
		if wrote := w.disk.writes > writes; wrote != (what == "first") {
			t.Errorf("%s: wrote to the disk: %t", what, wrote)
		}
	}
	const uki, root, tree = "x86_64-1.1.0-uki.efi", "x86_64-1.1.0-root.img.zst", "x86_64-1.1.0-hash.img.lz4"
	prepares("first", false, uki, tree, root)
	prepares("prepared", false)
	prepares("asked for", true, uki)
	ok(t, os.WriteFile(w.hidden(u.Version), []byte("damaged"), 0o644))
	prepares("damaged", false, uki)
	prepares("mended", false)
	ok(t, w.activate())
	prepares("activated", false)
	ok(t, os.WriteFile(filepath.Join(w.images(), "dinghy_1.1.0+3.efi"), append(bytes.Clone(two.uki), 0), 0o644))
	prepares("damaged after activation", false, uki)
	prepares("mended after activation", false)
}

// TestStall gives up servers that hold a connection without sending anything, and
// takes up the rest from one that sends again.
func TestStall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		stalls  int  // requests for the root that get half of what is left
		nothing bool // or, but for the first, nothing
		want    string
	}{
		"once":     {stalls: 1},
		"often":    {stalls: 4}, // each brings something
		"for good": {stalls: 1 << 20, nothing: true, want: "bytes: nothing came for 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, one)
			w.idle = time.Second
			u := w.repo.add(t, two, "1.0.0")
			w.repo.publish(t)
			data := w.repo.targets[u.Images.Root.Target]
			files, asked := http.FileServer(http.Dir(w.repo.dir)), 0
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
				if strings.HasSuffix(req.URL.Path, u.Images.Root.Target) {
					if asked++; asked <= c.stalls {
						var from int
						if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &from); err == nil {
							rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
							rw.WriteHeader(http.StatusPartialContent)
						}
						if !c.nothing || asked == 1 {
							_, _ = rw.Write(data[from : from+(len(data)-from)/2])
						}
						rw.(http.Flusher).Flush()
						<-req.Context().Done()
						return
					}
				}
				files.ServeHTTP(rw, req)
			}))
			defer server.Close()
			ok(t, w.conf.Set("updates.repository", server.URL))
			err := w.prepare(t.Context(), false)
			if c.want == "" {
				ok(t, err)
				if asked <= c.stalls {
					t.Errorf("%d requests", asked)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, one)
		w.idle = time.Second
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
		defer server.Close()
		ok(t, w.conf.Set("updates.repository", server.URL))
		if err := w.prepare(t.Context(), false); err == nil || !strings.Contains(err.Error(), "nothing came for 1s") {
			t.Errorf("%v", err)
		}
	})
}

// TestHTTPS trusts the authorities of the system, here one of its own, and no others.
func TestHTTPS(t *testing.T) {
	template := func(serial int64) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	}
	key := func() *ecdsa.PrivateKey {
		return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	caKey, serverKey := key(), key()
	ca, leaf := template(1), template(2)
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.Subject.CommonName = "authority"
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	caDER := must[[]byte](t)(x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey))
	leafDER := must[[]byte](t)(x509.CreateCertificate(rand.Reader, leaf, ca, serverKey.Public(), caKey))
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	ok(t, os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o644))
	t.Setenv("SSL_CERT_FILE", bundle) // read once in a process, at the first connection of this kind
	t.Setenv("SSL_CERT_DIR", t.TempDir())

	w := newWorld(t, one)
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	stranger := httptest.NewUnstartedServer(http.FileServer(http.Dir(w.repo.dir)))
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	stranger.StartTLS()
	defer stranger.Close()
	ok(t, w.conf.Set("updates.repository", stranger.URL))
	if err := w.prepare(t.Context(), false); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("a server of another authority: %v", err)
	}
	server := httptest.NewUnstartedServer(http.FileServer(http.Dir(w.repo.dir)))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: serverKey}}}
	server.StartTLS()
	defer server.Close()
	ok(t, w.conf.Set("updates.repository", server.URL))
	ok(t, w.prepare(t.Context(), false))
	ok(t, w.activate())
	equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})
}

func TestResumeWithoutRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	u := w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	part := filepath.Join(w.dir, "repository/targets", filepath.Base(w.repo.path(u.Images.Root.Target))+".part")
	ok(t, os.MkdirAll(filepath.Dir(part), 0o755))
	ok(t, os.WriteFile(part, make([]byte, 500), 0o644))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		data, err := os.ReadFile(w.repo.dir + req.URL.Path)
		if err != nil {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = rw.Write(data)
	}))
	defer server.Close()
	ok(t, w.conf.Set("updates.repository", server.URL))
	ok(t, w.prepare(t.Context(), false))
	ok(t, w.activate())
	equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})
}

// A damaged prepared system is not activated, and is made anew.
func TestDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	ok(t, w.prepare(t.Context(), false))
	ok(t, os.WriteFile(w.hidden(v("1.1.0")), two.uki[:100], 0o644))
	if err := w.activate(); err == nil || !strings.Contains(err.Error(), "prepare it again") {
		t.Errorf("damaged kernel image: %v", err)
	}
	ok(t, w.prepare(t.Context(), false))
	table, _, err := gpt.Read(w.disk, w.disk.Size())
	ok(t, err)
	w.disk.data[table.Entries[3].Start()+5000] ^= 1
	ok(t, w.prepare(t.Context(), true))
	if !strings.Contains(w.log.String(), "the slot is written again: what was read back") {
		t.Errorf("the damaged slot stays:\n%s", &w.log)
	}
	ok(t, w.activate())
	equal(t, "boots", w.bootable(t), []string{"1.1.0", "1.0.0"})
}

func TestImageNames(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]boot.Image{
		"dinghy_1.2.3.efi":      {Name: "dinghy", Version: v("1.2.3"), Left: -1},
		"dinghy_1.2.3+3.efi":    {Name: "dinghy", Version: v("1.2.3"), Left: 3},
		"dinghy_1.2.3+0-12.efi": {Name: "dinghy", Version: v("1.2.3"), Left: 0, Done: 12},
	} {
		got, fits := boot.Parse(file)
		if want.File = file; !fits || got != want {
			t.Errorf("%s: %+v %t", file, got, fits)
		}
	}
	for _, file := range []string{"dinghy_1.2.3.efi.prepared", "dinghy_1.2.efi", "dinghy_1.2.3+.efi", "dinghy_1.2.3+x.efi", "dinghy-1.2.3.efi", "BOOTX64.EFI"} {
		if got, fits := boot.Parse(file); fits {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

func TestRootHash(t *testing.T) {
	t.Parallel()
	equal(t, "root hash", must[[32]byte](t)(boot.RootHash(one.cmdline())), [32]byte(one.hash))
	for name, line := range map[string]string{
		"none":             "root=/dev/vda2",
		"no end":           strings.TrimSuffix(one.cmdline(), `"`),
		"other partitions": strings.ReplaceAll(one.cmdline(), one.hash.String(), two.hash.String()),
		"not hexadecimal":  strings.ReplaceAll(one.cmdline(), one.hash.String(), "x"),
	} {
		if got, err := boot.RootHash(line); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}
