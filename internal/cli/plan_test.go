package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/build"
	"slipway/internal/plan"
)

// A disk that is put together anew is told beside what is cached.
func TestWriteNewDisk(t *testing.T) {
	changes := []plan.Change{
		{Kind: plan.KindSetting, Name: "image-layout.slots", Old: "2", New: "1"},
		{Kind: plan.KindSetting, Name: "kernel-parameters", Old: "a b", New: "a c", Diff: "-b\n+c\n"},
	}
	var got strings.Builder
	err := writePlan(&got, []build.PlanRow{
		{Name: "packages/a", Status: build.PlanCached, From: build.FromLocal},
		{Name: "variants/dev", Status: build.PlanCached, From: build.FromLocal, Disk: changes},
		{Name: "variants/new", Status: build.PlanCached, From: build.FromTeam, Disk: []plan.Change{{Kind: plan.KindRecipe, Old: "1", New: "2"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeWhy(&got, &build.Reason{Target: "variants/dev", Status: build.PlanCached, From: build.FromLocal, Key: strings.Repeat("0", 64), Disk: changes})
	want := `disk  variants/dev  put together anew for image-layout.slots, kernel-parameters
disk  variants/new  put together anew for recipe
3 targets: 2 in the local store, 1 in the team cache
variants/dev is up to date: its result is in the local store (key 000000000000)
but its disk is put together anew:
  changed  setting image-layout.slots: 2 → 1
  changed  setting kernel-parameters
      -b
      +c
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}
