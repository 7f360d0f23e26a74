package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, s *Store, content string) Blob {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := fetchOne(t, s, Item{Name: "f", URL: "file://" + path, SHA512: sha512Of([]byte(content))}, quick())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "store")
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open(file)
	wantError(t, err, "open source store", file)
}

func TestOpenDropsOldParts(t *testing.T) {
	s := newStore(t)
	part := filepath.Join(s.dir, "tmp", "x.part")
	if err := os.WriteFile(part, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// The server's date, which apt gives to its downloads, is not the part's age.
	old := time.Now().Add(-10 * keepParts)
	if err := os.Chtimes(part, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(part); err != nil {
		t.Errorf("a fresh part was dropped: %v", err)
	}
}

func TestLookupMiss(t *testing.T) {
	s := newStore(t)
	b := put(t, s, "hello")
	other256, other512 := sums([]byte("other"))
	for _, item := range []Item{
		{},
		{SHA256: other256},
		{SHA512: other512},
		{SHA512: b.SHA512, SHA256: other256},
		{SHA512: other512, SHA256: b.SHA256},
		{SHA512: "../sha512/" + b.SHA512},
		{SHA256: "../sha256/" + b.SHA256},
	} {
		if got, ok := s.Lookup(item); ok {
			t.Errorf("Lookup(%+v) = %+v", item, got)
		}
	}
}

func TestVerify(t *testing.T) {
	s := newStore(t)
	good, bad, lost := put(t, s, "good"), put(t, s, "bad content"), put(t, s, "index lost")
	if _, damage, err := s.Verify(t.Context()); err != nil || damage != nil {
		t.Fatalf("a sound store: %v, %v", damage, err)
	}
	if err := errors.Join(
		os.Chmod(bad.Path, 0o644), os.WriteFile(bad.Path, []byte("BAD CONTENT"), 0o644), // the size stays
		os.WriteFile(filepath.Join(s.dir, "sha512", good.SHA512), []byte(bad.SHA256), 0o644),
		os.Remove(filepath.Join(s.dir, "sha256", lost.SHA256)),
	); err != nil {
		t.Fatal(err)
	}
	if b, ok := s.Lookup(Item{SHA512: good.SHA512}); ok {
		t.Errorf("a damaged index led to %v", b)
	}
	_, damage, err := s.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got256, _ := sums([]byte("BAD CONTENT"))
	if diff := cmp.Diff([]Damage{{Path: bad.Path, Want: bad.SHA256, Got: got256}}, damage); diff != "" {
		t.Errorf("damage (-want +got):\n%s", diff)
	}
	if _, ok := s.Lookup(Item{SHA512: bad.SHA512}); ok {
		t.Error("the damaged file is still there")
	}
	for _, b := range []Blob{good, lost} {
		if got, ok := s.Lookup(Item{SHA512: b.SHA512}); !ok || got != b {
			t.Errorf("Lookup after Verify: %v, %v", got, ok)
		}
	}
	if got := put(t, s, "bad content"); got != bad {
		t.Errorf("fetched again: %v", got)
	}
}

func TestHashFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Blob{ // FIPS 180-2, appendices B.1 and C.1
		Path:   path,
		SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		SHA512: "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
		Size:   3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := HashFile(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("missing file: %v", err)
	}
}

func TestAdd(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("content")))
	for name, tc := range map[string]struct{ sum, content string }{
		"other content":   {sum, "other"},
		"nothing":         {sum, ""},
		"not a digest":    {"../../x", "content"},
		"digest too long": {sum + "0", "content"},
	} {
		if err := s.Add(t.Context(), tc.sum, strings.NewReader(tc.content)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, ok := s.Lookup(Item{SHA256: sum}); ok {
		t.Fatal("wrong content is in the store")
	}
	for range 2 {
		if err := s.Add(t.Context(), sum, strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	b, ok := s.Lookup(Item{SHA256: sum})
	if !ok {
		t.Fatal("it is not in the store")
	}
	if err := os.Chmod(b.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Path, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), sum, strings.NewReader("other")); err == nil {
		t.Error("other content for a damaged file: no error")
	}
	if err := s.Add(t.Context(), sum, strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	if n, damage, err := s.Verify(t.Context()); n != 1 || damage != nil || err != nil {
		t.Errorf("%d files, damage %v, %v", n, damage, err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}
