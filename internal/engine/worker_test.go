package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
)

// Compiler caches are the last to go.
func TestGCPolicy(t *testing.T) {
	notMounts := []string{"type!=exec.cachemount"}
	sources := []string{"type==source.local", "type==source.git.checkout"}
	const gb = 1_000_000_000
	for _, tt := range []struct {
		name                 string
		disk                 int64
		reserved, most, free int64
	}{
		{"large", 1000 * gb, 20 * gb, 100 * gb, 10 * gb},
		{"small", 40 * gb, 10 * gb, 30 * gb, 4 * gb},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := []client.PruneInfo{
				{Filter: sources, MaxUsedSpace: tt.reserved, MinFreeSpace: tt.free},
				{Filter: notMounts, MaxUsedSpace: tt.most, MinFreeSpace: tt.free},
				{Filter: notMounts, MaxUsedSpace: tt.most, MinFreeSpace: tt.free, All: true},
				{MaxUsedSpace: tt.most, MinFreeSpace: tt.free, ReservedSpace: tt.reserved, All: true},
			}
			if diff := cmp.Diff(want, gcPolicy(tt.disk)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
