package verity

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	for _, blocks := range []int{1, 2, 127, 128, 129, 1000, 128*128 + 1} {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			data := pattern(blocks)
			want, wantRoot := format(t, data, []byte("some salt"))
			hash, root, err := Format(t.Context(), bytes.NewReader(data), Superblock{DataBlocks: uint64(blocks), Salt: []byte("some salt")})
			if err != nil {
				t.Fatal(err)
			}
			if root != wantRoot || !bytes.Equal(hash, want) {
				t.Errorf("root hash %s, want %s", root, wantRoot)
			}
		})
	}
	for name, s := range map[string]Superblock{
		"no blocks": {}, "long salt": {DataBlocks: 1, Salt: make([]byte, 257)}, "short data": {DataBlocks: 3},
	} {
		if _, _, err := Format(t.Context(), bytes.NewReader(pattern(2)), s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestFormatIsVeritysetups compares with the tool whose format it is.
func TestFormatIsVeritysetups(t *testing.T) {
	data, dir := pattern(1000), t.TempDir()
	salt := DeriveSalt([]byte("digest"))
	dataFile, hashFile := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	if err := os.WriteFile(dataFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("veritysetup", "format", "--uuid=11111111-2222-8333-8444-555555555555", "--salt="+hex.EncodeToString(salt), dataFile, hashFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(hashFile)
	if err != nil {
		t.Fatal(err)
	}
	uuid := [16]byte{0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x83, 0x33, 0x84, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}
	hash, root, err := Format(t.Context(), bytes.NewReader(data), Superblock{UUID: uuid, DataBlocks: 1000, Salt: salt})
	if err != nil || !bytes.Equal(hash, want) || !strings.Contains(string(out), root.String()) {
		t.Errorf("%s %v, the tool says\n%s", root, err, out)
	}
}
