package main

import (
	"os"
	"strings"
	"testing"
)

// TestBootFailed reboots systems on trial only, and only where there is another.
func TestBootFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, one)
	failed := func(want bool, log string) {
		t.Helper()
		w.log.Reset()
		reboot, err := w.bootFailed()
		if err != nil || reboot != want || !strings.Contains(w.log.String(), log) {
			t.Errorf("reboot %v (%v), want %v: %s", reboot, err, want, &w.log)
		}
	}
	failed(false, "1.0.0 has been good before")
	w.repo.add(t, two, "1.0.0")
	w.repo.publish(t)
	ok(t, w.prepare(t.Context(), false))
	ok(t, w.activate())
	ok(t, os.Rename(w.images()+"/dinghy_1.1.0+3.efi", w.images()+"/dinghy_1.1.0+0-3.efi"))
	w.boots(two, "1.0.0")
	failed(true, "1.1.0 has 0 tries left")
	ok(t, os.Remove(w.images()+"/dinghy_1.0.0.efi"))
	failed(false, "nothing to fall back to")
	ok(t, w.markGood())
	failed(false, "1.1.0 has been good before")
}
