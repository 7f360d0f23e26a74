package leftover

import (
	"os/exec"
	"strings"
	"testing"
)

// A process that ends in time is none; one that stays is named.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"LEFTOVER_STATE=" + dir + "/state"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := now(dir, []byte("LEFTOVER_STATE="+dir))
	if err == nil || !strings.Contains(err.Error(), "left running: ") || !strings.Contains(err.Error(), "sleep") {
		t.Errorf("of a process that runs: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	if err := Check(dir, "LEFTOVER_STATE"); err != nil {
		t.Error(err)
	}
}
