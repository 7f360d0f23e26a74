package build

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"slipway/internal/graph"
	"slipway/internal/progress"
)

// Annotations on results, both in seconds.
const (
	AnnotationWall = "dev.slipway.wall-seconds" // how long its sandbox took
	AnnotationCPU  = "dev.slipway.cpu-seconds"  // user and system time of its sandbox
)

// Report is what a build did, as written to build/reports/<time>.json.
type Report struct {
	Started time.Time `json:"started"`
	Wall    float64   `json:"wall"`    // seconds
	Targets []*Row    `json:"targets"` // dependencies first
}

// Row is one target of a Report.
type Row struct {
	Name   string          `json:"name"`
	Status progress.Status `json:"status"`
	Wall   float64         `json:"wall"` // seconds of this build
	CPU    float64         `json:"cpu"`  // seconds of user and system time when it was built
}

// writeReport writes the report of a build that did more than look.
func (b *Builder) writeReport(started time.Time, targets []*graph.Target) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := Report{Started: started.UTC(), Wall: time.Since(started).Seconds()}
	worked := false
	for _, t := range targets {
		if row := b.rows[t.Name]; row != nil {
			r.Targets = append(r.Targets, row)
			worked = worked || row.Status != progress.Cached
		}
	}
	if !worked {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Join(b.ws.Root, "build", "reports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, r.Started.Format("20060102T150405.000Z")+".json"), append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
