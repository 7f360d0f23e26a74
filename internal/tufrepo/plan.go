package tufrepo

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"slipway/internal/update"
	"slipway/internal/workspace"
)

//go:embed plans/*.toml
var plans embed.FS

// Plan is how fast a release reaches a fleet, counted from its start.
type Plan struct {
	Schema int        `toml:"schema" required:"true" enum:"1" doc:"Version of the format; this is version 1."`
	Steps  []PlanStep `toml:"step" required:"true" doc:"Points of the roll-out, in order. Between two, hosts become ready evenly."`
}

// PlanStep is one [[step]] of a plan.
type PlanStep struct {
	After   string `toml:"after" required:"true" doc:"Time since the start: a number with s, m, h or d, such as 36h."`
	Percent int    `toml:"percent" min:"0" max:"100" default:"0" doc:"How many of the hosts are ready by then, in percent."`

	after time.Duration
}

// Plans are the names of the plans that need no file.
func Plans() []string {
	entries, err := fs.ReadDir(plans, "plans")
	if err != nil {
		panic(err) // they are part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// LoadPlan reads a plan by its name, or from a file, whose name then has a dot
// or slash.
func LoadPlan(nameOrFile string) (*Plan, error) {
	if strings.ContainsAny(nameOrFile, "./") {
		data, err := os.ReadFile(nameOrFile)
		if err != nil {
			return nil, fmt.Errorf("wave plan: %w", err)
		}
		return parsePlan(nameOrFile, data)
	}
	data, err := plans.ReadFile("plans/" + nameOrFile + ".toml")
	if err != nil {
		hint := workspace.DidYouMean(workspace.Near(nameOrFile, Plans()))
		if hint == "" {
			hint = "known: " + strings.Join(Plans(), ", ")
		}
		return nil, fmt.Errorf("no wave plan %q: %s; a file's name has a dot or slash", nameOrFile, hint)
	}
	return parsePlan(nameOrFile+".toml", data)
}

func parsePlan(file string, data []byte) (*Plan, error) {
	p := &Plan{}
	at, findings := workspace.Decode(file, data, p)
	wrong := func(key, msg, hint string) {
		pos := at(key)
		if pos.Line == 0 { // the key is not written
			table, _, _ := strings.Cut(key, ".")
			pos = at(table)
		}
		findings = append(findings, workspace.NewError(pos, key, fmt.Sprintf("%q %s", key, msg), hint))
	}
	for i := range p.Steps {
		step := &p.Steps[i]
		key := fmt.Sprintf("step[%d]", i)
		after, err := ParseDuration(step.After)
		switch {
		case step.After == "": // a finding already
		case err != nil || after < 0:
			wrong(key+".after", fmt.Sprintf("is %q", step.After), "a number with s, m, h or d, such as 36h or 7d")
		case i > 0 && after < p.Steps[i-1].after:
			wrong(key+".after", "is before the step above it", "put the steps in order")
		}
		step.after = after
		if i > 0 && step.Percent <= p.Steps[i-1].Percent {
			wrong(key+".percent", "is not more than in the step above it", "the percentages add up: 100 is all hosts")
		}
	}
	if n := len(p.Steps); n > 0 && p.Steps[n-1].Percent != 100 {
		wrong(fmt.Sprintf("step[%d].percent", n-1), fmt.Sprintf("is %d, and it is the last", p.Steps[n-1].Percent), "the last step is that of all hosts, 100")
	}
	if err := findings.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

// Waves lays the plan out from a start, which is cut to a whole second.
func (p *Plan) Waves(start time.Time) update.Waves {
	start = start.UTC().Truncate(time.Second)
	waves := update.Waves{0: start.Add(p.Steps[0].after)}
	if p.Steps[0].Percent > 0 {
		waves[0] = start
	}
	for _, step := range p.Steps {
		waves[(step.Percent*update.Seeds+99)/100] = start.Add(step.after)
	}
	return waves
}

// ParseDuration reads durations such as 90m, 36h and 14d, in whole seconds.
func ParseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("duration %q: want a number of days up to 65535, such as 14d", text)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d%time.Second != 0 {
		return 0, fmt.Errorf("duration %q: want whole seconds, such as 90m, 36h or 14d", text)
	}
	return d, nil
}

// Pause stops the roll-out of a release: no host is ready until Resume. It is
// a mistake to pause twice.
func Pause(u *update.Update, now time.Time) error {
	if u.PausedAt != nil {
		return fmt.Errorf("release %s is paused since %s", u, u.PausedAt.Format(time.RFC3339))
	}
	now = now.UTC().Truncate(time.Second)
	u.PausedAt = &now
	return nil
}

// Resume goes on with a paused roll-out: hosts that were ready are ready again,
// and the others wait as much longer as the pause took.
func Resume(u *update.Update, now time.Time) error {
	if u.PausedAt == nil {
		return fmt.Errorf("release %s is not paused", u)
	}
	u.Waves = u.Waves.Shift(*u.PausedAt, now)
	u.PausedAt = nil
	return nil
}

// ReadyPercent is how many seeds in a hundred are ready for a release.
func ReadyPercent(u *update.Update, now time.Time) float64 {
	ready := sort.Search(update.Seeds, func(seed int) bool { return !u.Ready(seed, now) })
	return 100 * float64(ready) / update.Seeds
}
