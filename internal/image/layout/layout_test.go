package layout

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/image/gpt"
)

// lines shows disks as "label@start+size content type".
func lines(disks []Disk) []string {
	var out []string
	for i, d := range disks {
		out = append(out, fmt.Sprintf("disk %d: %d", i, d.SizeMiB))
		for _, a := range d.Areas {
			out = append(out, strings.TrimRight(fmt.Sprintf("%s@%d+%d %s", a.Label, a.StartMiB, a.SizeMiB, a.Content), " "))
		}
	}
	return out
}

// Sizes and offsets are those that Bottlerocket's partyplanner computes.
func TestBottlerocket(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		layout   Layout
		want     string
		findings []string
	}{
		{"split", Layout{DataDisk: Split},
			`disk 0: 2048|BIOS-BOOT@1+4|EFI-SYSTEM@5+5 esp|BOTTLEROCKET-BOOT-A@10+40|BOTTLEROCKET-ROOT-A@50+920 root|BOTTLEROCKET-HASH-A@970+10 hash|BOTTLEROCKET-RESERVED-A@980+25|` +
				`EFI-BACKUP@1005+5|BOTTLEROCKET-BOOT-B@1010+40|BOTTLEROCKET-ROOT-B@1050+920|BOTTLEROCKET-HASH-B@1970+10|BOTTLEROCKET-RESERVED-B@1980+25|BOTTLEROCKET-PRIVATE@2005+41 ext4|@2046+1|disk 1: 1024|@1+1022 data`, nil},
		{"unified", Layout{OSSizeGiB: 4},
			`disk 0: 5120|BIOS-BOOT@1+4|EFI-SYSTEM@5+5 esp|BOTTLEROCKET-BOOT-A@10+80|BOTTLEROCKET-ROOT-A@90+1840 root|BOTTLEROCKET-HASH-A@1930+20 hash|BOTTLEROCKET-RESERVED-A@1950+55|` +
				`EFI-BACKUP@2005+5|BOTTLEROCKET-BOOT-B@2010+80|BOTTLEROCKET-ROOT-B@2090+1840|BOTTLEROCKET-HASH-B@3930+20|BOTTLEROCKET-RESERVED-B@3950+55|BOTTLEROCKET-PRIVATE@4005+89 ext4|@4094+1024 data`, nil},
		{"one bank", Layout{Slots: 1, DataDisk: Split},
			`disk 0: 2048|BIOS-BOOT@1+4|EFI-SYSTEM@5+10 esp|BOTTLEROCKET-BOOT-A@15+80|BOTTLEROCKET-ROOT-A@95+1840 root|BOTTLEROCKET-HASH-A@1935+20 hash|BOTTLEROCKET-RESERVED-A@1955+50|` +
				`BOTTLEROCKET-PRIVATE@2005+41 ext4|@2046+1|disk 1: 1024|@1+1022 data`, nil},
		{"room for two kernels", Layout{ESPSizeMiB: 29},
			`disk 0: 3072|BIOS-BOOT@1+4|EFI-SYSTEM@5+29 esp|BOTTLEROCKET-BOOT-A@34+40|BOTTLEROCKET-ROOT-A@74+920 root|BOTTLEROCKET-HASH-A@994+10 hash|BOTTLEROCKET-RESERVED-A@1004+1|` +
				`EFI-BACKUP@1005+29|BOTTLEROCKET-BOOT-B@1034+40|BOTTLEROCKET-ROOT-B@1074+920|BOTTLEROCKET-HASH-B@1994+10|BOTTLEROCKET-RESERVED-B@2004+1|BOTTLEROCKET-PRIVATE@2005+41 ext4|@2046+1024 data`, nil},
		{"with room for a unified kernel image", Layout{Slots: 1, ESPSizeMiB: 59, DataSizeGiB: 3},
			`disk 0: 5120|BIOS-BOOT@1+4|EFI-SYSTEM@5+59 esp|BOTTLEROCKET-BOOT-A@64+80|BOTTLEROCKET-ROOT-A@144+1840 root|BOTTLEROCKET-HASH-A@1984+20 hash|BOTTLEROCKET-RESERVED-A@2004+1|` +
				`BOTTLEROCKET-PRIVATE@2005+41 ext4|@2046+3072 data`, nil},
		{"too large an ESP", Layout{ESPSizeMiB: 30}, "", []string{"the EFI system partition has 30 MiB, it and the reserved partition have 30 together (make it at most 29, or raise image-layout.os-size-gib)"}},
	} {
		tt.layout.Plan = Bottlerocket
		disks, findings := tt.layout.Disks("x86_64", "1.0.0")
		if d := cmp.Diff(tt.want, strings.Join(lines(disks), "|")); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		check(t, tt.name, findings, tt.findings)
	}
	disks, _ := Layout{Plan: Bottlerocket, DataDisk: Split}.Disks("x86_64", "1.0.0")
	want := strings.Fields(`21686148-6449-6e6f-744e-656564454649 c12a7328-f81f-11d2-ba4b-00a0c93ec93b
		6b636168-7420-6568-2070-6c616e657421 5526016a-1a97-4ea4-b39a-b7c8c6ca4502 598f10af-c955-4456-6a99-7720068a6cea 0c5d99a5-d331-4147-baef-08e2b855bdc9 b39ce39c-0a00-b4ab-2d11-f18f8237a21c
		6b636168-7420-6568-2070-6c616e657421 5526016a-1a97-4ea4-b39a-b7c8c6ca4502 598f10af-c955-4456-6a99-7720068a6cea 0c5d99a5-d331-4147-baef-08e2b855bdc9
		440408bb-eb0b-4328-a6e5-a29038fad706 626f7474-6c65-6474-6861-726d61726b73`)
	var got []string
	for _, a := range disks[0].Areas {
		got = append(got, a.Type.String())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if a := disks[0].Areas; a[2].Attributes != 0x0101000000000000 || a[7].Attributes != 0 || a[12].UUID != dataFallback || disks[1].Areas[0].UUID != dataPreferred {
		t.Errorf("%+v", disks)
	}
}

func check(t *testing.T, name string, got []Finding, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d findings, want %d: %v", name, len(got), len(want), got)
	}
	for i := range min(len(got), len(want)) {
		if !strings.Contains(got[i].Error(), want[i]) {
			t.Errorf("%s: got  %v\nwant %s", name, got[i], want[i])
		}
	}
}

func TestPlans(t *testing.T) {
	t.Parallel()
	esp := Partition{Label: "esp", Type: "esp", SizeMiB: 64, Content: "esp"}
	root := Partition{Label: "sys-{version}", Type: "root", SizeMiB: 256, Content: "root", Filesystem: "erofs"}
	hash := Partition{Label: "tree", Type: "hash", SizeMiB: 3, Content: "hash"}
	for _, tt := range []struct {
		name     string
		layout   Layout
		want     string
		findings []string
	}{
		{"default", Layout{}, "disk 0: 1474|esp@1+128 esp|root_1.0.0@129+512 root|hash_1.0.0@641+16 hash|_empty@657+512|_empty@1169+16|private@1185+32 ext4|data@1217+256 data", nil},
		{"split", Layout{DataDisk: Split, Slots: 1, DiskSizeGiB: 1}, "disk 0: 1024|esp@1+128 esp|root_1.0.0@129+512 root|hash_1.0.0@641+16 hash|private@657+32 ext4|disk 1: 258|data@1+256 data", nil},
		{"slots", Layout{Slots: 3}, "", []string{"image-layout.slots is 3, want 1 or 2"}},
		{"custom", Layout{Plan: Custom, DiskSizeGiB: 1, Partitions: []Partition{esp, root, hash,
			{Label: "_empty", Type: "root", SizeMiB: 256}, {Label: "_empty", Type: "hash", SizeMiB: 3},
			{Label: "opt", Type: "linux-generic", StartKiB: 600 * 1024, SizeMiB: 40, Filesystem: "fat"}, {Label: "var", Type: "var", Grow: true, Content: "data"}}},
			"disk 0: 1024|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash|_empty@324+256|_empty@580+3|opt@600+40 fat|var@640+383 data", nil},
		{"custom split", Layout{Plan: Custom, DataDisk: Split, Partitions: []Partition{{Label: "d", Type: "var", SizeMiB: 7, Content: "data"}, hash, root, esp}},
			"disk 0: 325|tree@1+3 hash|sys-1.0.0@4+256 root|esp@260+64 esp|disk 1: 9|d@1+7 data", nil},
		{"grow without disk", Layout{Plan: Custom, Partitions: []Partition{esp, root, hash, {Label: "var", Type: "var", SizeMiB: 5, Grow: true}}},
			"disk 0: 330|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash|var@324+5", []string{"the size of its disk is not given"}},
		{"no room to grow", Layout{Plan: Custom, DiskSizeGiB: 1, Partitions: []Partition{esp, root, hash, {Label: "a", Type: "var", SizeMiB: 699}, {Label: "b", Type: "var", Grow: true}}},
			"disk 0: 1024|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash|a@324+699|b@1023+0", []string{"nothing is left of the 1024 MiB"}},
		{"ext4 root", Layout{Plan: Custom, RootFilesystem: Ext4, Partitions: []Partition{esp, {Label: "r", Type: "root", SizeMiB: 256, Content: "root", Filesystem: "ext4"}, hash,
			{Label: "a", Type: "var", SizeMiB: 8, Filesystem: "ext4"}, {Label: "b", Type: "var", SizeMiB: 9, Filesystem: "ext4"}}},
			"disk 0: 342|esp@1+64 esp|r@65+256 root|tree@321+3 hash|a@324+8 ext4|b@332+9 ext4", nil},
		{"other root", Layout{Plan: Custom, RootFilesystem: Ext4, RootCompression: Zstd, Partitions: []Partition{esp, root, hash}}, "disk 0: 325|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash",
			[]string{`"image-layout.root-compression" does not go with the root file system ext4: it is for erofs`, `partition "sys-{version}" cannot have the file system erofs (esp is fat, root has root-filesystem, which is ext4, hash and data have none)`}},
		{"xfs", Layout{Slots: 1, DataFilesystem: XFS}, "disk 0: 990|esp@1+128 esp|root_1.0.0@129+512 root|hash_1.0.0@641+16 hash|private@657+32 ext4|data@689+300 data", nil},
		{"small xfs", Layout{Slots: 1, DataFilesystem: XFS, DataSizeMiB: 299, DataDisk: Split}, "disk 0: 690|esp@1+128 esp|root_1.0.0@129+512 root|hash_1.0.0@641+16 hash|private@657+32 ext4|disk 1: 301|data@1+299 data",
			[]string{`partition "data" has 299 MiB, an XFS file system has at least 300 (raise image-layout.data-size-mib to at least 300)`}},
		{"small private", Layout{Slots: 1, PrivateSizeMiB: 7, DataDisk: Split}, "disk 0: 665|esp@1+128 esp|root_1.0.0@129+512 root|hash_1.0.0@641+16 hash|private@657+7 ext4|disk 1: 258|data@1+256 data",
			[]string{`partition "private" has 7 MiB, an ext4 file system has at least 8 (raise image-layout.private-size-mib to at least 8)`}},
		{"one hash for two roots", Layout{Plan: Custom, Partitions: []Partition{esp, root, hash, {Label: "_empty", Type: "root", SizeMiB: 256}}},
			"disk 0: 581|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash|_empty@324+256",
			[]string{"there are 2 partitions of the type root and 1 of the type hash: an update in place takes two of each (give two of each, or one without updates in place)"}},
		{"three slots", Layout{Plan: Custom, Partitions: []Partition{esp, root, hash, {Label: "_empty", Type: "root", SizeMiB: 1}, {Label: "_empty", Type: "hash", SizeMiB: 1}, {Label: "_empty", Type: "root", SizeMiB: 1}, {Label: "_empty", Type: "hash", SizeMiB: 1}}},
			"disk 0: 329|esp@1+64 esp|sys-1.0.0@65+256 root|tree@321+3 hash|_empty@324+1|_empty@325+1|_empty@326+1|_empty@327+1",
			[]string{"there are 3 partitions of the type root and 3 of the type hash"}},
		{"small FAT", Layout{Plan: Custom, Partitions: []Partition{{Label: "esp", Type: "esp", SizeMiB: 5, Content: "esp", Filesystem: "fat"}, root, hash, {Label: "f", Type: "var", SizeMiB: 1, Filesystem: "fat"}}},
			"disk 0: 267|esp@1+5 esp|sys-1.0.0@6+256 root|tree@262+3 hash|f@265+1 fat", nil},
	} {
		disks, findings := tt.layout.Disks("x86_64", "1.0.0")
		if d := cmp.Diff(tt.want, strings.Join(lines(disks), "|")); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		check(t, tt.name, findings, tt.findings)
	}
}

func TestUpdates(t *testing.T) {
	t.Parallel()
	custom := Layout{Plan: Custom, Partitions: []Partition{{Type: "root"}, {Type: "hash"}}}
	uneven := Layout{Plan: Custom, Partitions: append([]Partition{{Type: gpt.TypeRootARM64.String()}}, custom.Partitions...)}
	two := Layout{Plan: Custom, Partitions: append([]Partition{{Type: gpt.TypeRootVerityARM64.String()}}, uneven.Partitions...)}
	for want, l := range map[bool][]Layout{true: {{}, {Plan: Bottlerocket, Slots: 2}, two}, false: {{Plan: Slipway, Slots: 1}, custom, uneven}} {
		for _, l := range l {
			if l.Updates() != want {
				t.Errorf("%+v: %v", l, !want)
			}
		}
	}
}
