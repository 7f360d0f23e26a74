package build

import (
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/image/layout"
	"slipway/internal/sdk"
	"slipway/internal/workspace"
)

// What makes the root file system must be in the SDK, in a version that can.
func TestCheckTools(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		layout        layout.Layout
		name, version string
		want          string
	}{
		{layout.Layout{}, "rpm", "1", ""},
		{layout.Layout{RootFilesystem: layout.Ext4}, "rpm", "1", `"image-layout.root-filesystem" is ext4, which takes e2fsprogs 1.47; the SDK has no e2fsprogs`},
		{layout.Layout{RootFilesystem: layout.Ext4}, "e2fsprogs", "1.46.6-1", "the SDK has e2fsprogs 1.46.6-1"},
		{layout.Layout{RootFilesystem: layout.Ext4}, "e2fsprogs", "1.47.0-2+b2", ""},
		{layout.Layout{RootCompression: layout.Zstd}, "erofs-utils", "1.5-1", `"image-layout.root-compression" is zstd, which takes erofs-utils 1.8; the SDK has erofs-utils 1.5-1`},
		{layout.Layout{RootCompression: layout.Zstd}, "erofs-utils", "1.8.6-1", ""},
	} {
		b := &Builder{ws: &workspace.Workspace{Root: t.TempDir()}}
		v := &workspace.Variant{Name: "dev", ImageLayout: tt.layout.WithDefaults()}
		if err := b.checkTools(v); err != nil {
			t.Errorf("without a lock: %v", err)
		}
		lock := &sdk.Lock{Suite: "bookworm", Components: []string{"main"}, Arch: "amd64", Requested: []string{tt.name}, Packages: []sdk.LockedPackage{
			{Name: tt.name, Version: tt.version, Arch: "amd64", SHA256: strings.Repeat("0", 64), Size: 1, Path: "pool/x.deb"}}}
		if err := sdk.WriteLock(filepath.Join(b.ws.Root, sdk.LockFile), lock); err != nil {
			t.Fatal(err)
		}
		switch err := b.checkTools(v); {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}
