package verity

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pattern(blocks int) []byte {
	b := make([]byte, blocks*BlockSize)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(b)
	return b
}

// format makes a hash device by a plain reading of the specification: whole
// levels in memory, from the bottom up. It shares no code with Verify.
func format(t *testing.T, data, salt []byte) (hash []byte, root RootHash) {
	t.Helper()
	s := Superblock{Salt: salt}
	super := make([]byte, BlockSize)
	copy(super, "verity")
	le := binary.LittleEndian
	le.PutUint32(super[8:], 1)
	le.PutUint32(super[12:], 1)
	copy(super[32:], "sha256")
	le.PutUint32(super[64:], BlockSize)
	le.PutUint32(super[68:], BlockSize)
	le.PutUint64(super[72:], uint64(len(data)/BlockSize))
	le.PutUint16(super[80:], uint16(len(salt)))
	copy(super[88:], salt)
	var tree []byte
	for len(data) > BlockSize {
		var level []byte
		for ; len(data) > 0; data = data[BlockSize:] {
			d := s.digest(data[:BlockSize])
			level = append(level, d[:]...)
		}
		level = append(level, make([]byte, (BlockSize-len(level)%BlockSize)%BlockSize)...)
		tree, data = append(bytes.Clone(level), tree...), level
	}
	return append(super, tree...), s.digest(data)
}

func TestVerify(t *testing.T) {
	for _, blocks := range []int{1, 2, 127, 128, 129, 1000, 128*128 + 1} {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			data := pattern(blocks)
			hash, root := format(t, data, []byte("some salt"))
			s, err := Verify(t.Context(), bytes.NewReader(data), bytes.NewReader(hash), root)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(Superblock{DataBlocks: uint64(blocks), Salt: []byte("some salt")}, s); d != "" {
				t.Error(d)
			}
			if s.HashSize() != int64(len(hash)) {
				t.Errorf("HashSize is %d, the file has %d", s.HashSize(), len(hash))
			}
		})
	}
}

func TestVerifyMismatch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(data, hash []byte, root *RootHash)
		want  string
	}{
		{"data", func(d, _ []byte, _ *RootHash) { d[178*BlockSize+5] ^= 1 }, "data block 178 "},
		{"top", func(_, h []byte, _ *RootHash) { h[BlockSize+1] ^= 1 }, "level 0 hash block 0 "},
		{"unused", func(_, h []byte, _ *RootHash) { h[len(h)-1] ^= 1 }, "level 0 hash block 2 "},
		{"root", func(_, _ []byte, r *RootHash) { r[0] ^= 1 }, "the root hash is"},
		{"salt", func(_, h []byte, _ *RootHash) { h[88] ^= 1 }, "data block 0 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := pattern(300)
			hash, root := format(t, data, []byte{1, 2, 3})
			tt.spoil(data, hash, &root)
			_, err := Verify(t.Context(), bytes.NewReader(data), bytes.NewReader(hash), root)
			if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestVerifyTruncated(t *testing.T) {
	data := pattern(300)
	hash, root := format(t, data, nil)
	if _, err := Verify(t.Context(), bytes.NewReader(data[:299*BlockSize]), bytes.NewReader(hash), root); err == nil || !strings.Contains(err.Error(), "data block 299") {
		t.Errorf("short data: %v", err)
	}
	if _, err := Verify(t.Context(), bytes.NewReader(data), bytes.NewReader(hash[:2*BlockSize]), root); err == nil || !strings.Contains(err.Error(), "hash block 2") {
		t.Errorf("short hash: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, bytes.NewReader(data), bytes.NewReader(hash), root); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSuperblockErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(h []byte)
		want  string
	}{
		{"signature", func(h []byte) { h[0] = 'V' }, "no verity superblock"},
		{"version", func(h []byte) { h[8] = 2 }, "superblock version is 2"},
		{"format", func(h []byte) { h[12] = 0 }, "hash format is 0"},
		{"algorithm", func(h []byte) { copy(h[32:], "sha512") }, "hash algorithm is sha512"},
		{"block", func(h []byte) { h[65] = 4 }, "data block size is 1024"},
		{"salt", func(h []byte) { h[81] = 2 }, "salt of 513"},
		{"blocks", func(h []byte) { clear(h[72:80]) }, "0 data blocks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hash, _ := format(t, pattern(2), []byte{9})
			tt.spoil(hash)
			_, err := ReadSuperblock(bytes.NewReader(hash))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := ReadSuperblock(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("100 bytes accepted")
	}
}

func TestAgainstVeritysetup(t *testing.T) {
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("veritysetup is not installed")
	}
	dir := t.TempDir()
	data := pattern(129*128 + 5)
	dataFile, hashFile := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	if err := os.WriteFile(dataFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	salt := "c5347a9915ca4cee5e3d0de7d7d61087b3193c61b3a98eb3893c3a31d75cbb17"
	out, err := exec.Command(tool, "format", "--salt="+salt, dataFile, hashFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := regexp.MustCompile(`Root hash:\s+(\S+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no root hash in\n%s", out)
	}
	root, err := ParseRootHash(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	hash, err := os.ReadFile(hashFile)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Verify(t.Context(), bytes.NewReader(data), bytes.NewReader(hash), root)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(s.Salt) != salt || s.HashSize() != int64(len(hash)) {
		t.Errorf("salt %x, size %d of %d", s.Salt, s.HashSize(), len(hash))
	}
}

func FuzzReadSuperblock(f *testing.F) {
	b := make([]byte, superblockSize)
	copy(b, "verity")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadSuperblock(bytes.NewReader(b))
		if err == nil && s.HashSize() < BlockSize {
			t.Errorf("%+v: size %d", s, s.HashSize())
		}
	})
}
