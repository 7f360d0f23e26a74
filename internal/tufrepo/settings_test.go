package tufrepo

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/sign"
	"slipway/internal/update"
	"slipway/internal/workspace"
)

func now() time.Time { return time.Now() }

const goodSettings = `schema = 1

[repos.main.root]
keys = ["one.pem", "two.pub"]
threshold = 2

[repos.main.targets]
keys = ["one.pem"]
expires-days = 30

[repos.main.snapshot]
keys = ["one.pem"]

[repos.main.timestamp]
keys = ["one.pem"]
`

// settingsDir has keys of several kinds.
func settingsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	one := ed25519.NewKeyFromSeed(make([]byte, 32))
	two, err := sign.MarshalPublic(key(2).Public)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	onePublic, err := sign.MarshalPublic(one.Public())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "one.pem"), pemKey(t, one))
	write(t, filepath.Join(dir, "one.pub"), onePublic)
	write(t, filepath.Join(dir, "two.pub"), two)
	write(t, filepath.Join(dir, "p384.pem"), pemKey(t, p384))
	return dir
}

func TestSettings(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(settingsDir(t), "repos.toml"), []byte(goodSettings))
	for _, name := range []string{"", "main"} {
		p, err := ReadSettings(path, name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Root.Threshold != 2 || len(p.Root.Keys) != 2 || p.Root.Keys[0].Signer == nil || p.Root.Keys[1].Signer != nil {
			t.Errorf("root: %+v", p.Root)
		}
		days := []int{p.Root.ExpiresDays, p.Targets.ExpiresDays, p.Snapshot.ExpiresDays, p.Timestamp.ExpiresDays}
		if diff := cmp.Diff([]int{365, 30, 14, 7}, days); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSettingsErrors(t *testing.T) {
	t.Parallel()
	dir := settingsDir(t)
	for name, c := range map[string]struct{ old, new, repo, want string }{
		"unknown key":    {"threshold = 2", "treshold = 2", "", `repos.toml:5:1: unknown key "repos.main.root.treshold" (did you mean "threshold"?)`},
		"type":           {"threshold = 2", `threshold = "2"`, "", `repos.toml:5:13: "repos.main.root.threshold" must be an integer, not a string`},
		"threshold":      {"threshold = 2", "threshold = 3", "", `repos.toml:5:13: "repos.main.root.threshold" is 3, and there are 2 keys (name more keys, or lower it)`},
		"no such file":   {"two.pub", "three.pub", "", `repos.toml:4:20: "repos.main.root.keys[1]" cannot be used: key: open `},
		"same key twice": {"two.pub", "one.pub", "", `repos.toml:4:20: "repos.main.root.keys[1]" is the same key as `},
		"curve":          {"two.pub", "p384.pem", "", "p384.pem: an ECDSA key on the curve P-384: want P-256"},
		"role missing":   {"[repos.main.snapshot]", "[repos.other.snapshot]", "main", `"repos.main.snapshot.keys" is missing`},
		"no such repo":   {"", "", "mian", `no repository "mian" (did you mean "main"?)`},
		"which":          {"schema = 1", "schema = 1\n" + strings.ReplaceAll(strings.TrimPrefix(goodSettings, "schema = 1"), "main", "next"), "", "there are 2 repositories (name one with --repo: main, next)"},
		"not TOML":       {"schema = 1", "schema 1", "", "repos.toml:1:"},
		"expiry":         {"expires-days = 30", "expires-days = -1", "", `"repos.main.targets.expires-days" is -1, which is less than 0`},
		"nothing":        {goodSettings, "schema = 1\n", "", "there are 0 repositories"},
	} {
		text := strings.Replace(goodSettings, c.old, c.new, 1)
		_, err := parseSettings(filepath.Join(dir, "repos.toml"), []byte(text), c.repo)
		var findings workspace.Errors
		if !errors.As(err, &findings) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := ReadSettings(filepath.Join(dir, "none.toml"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestPlans(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]string{"accelerated", "default", "immediate", "slow"}, Plans()); diff != "" {
		t.Error(diff)
	}
	for _, name := range Plans() {
		p, err := LoadPlan(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Waves(start).Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := LoadPlan("default")
	if err != nil {
		t.Fatal(err)
	}
	want := update.Waves{
		0: start, 21: start.Add(4 * time.Hour), 103: start.Add(24 * time.Hour), 615: start.AddDate(0, 0, 3),
		1229: start.AddDate(0, 0, 5), 2048: start.AddDate(0, 0, 7),
	}
	if diff := cmp.Diff(want, p.Waves(start.Add(time.Millisecond))); diff != "" {
		t.Error(diff)
	}
	file := write(t, filepath.Join(t.TempDir(), "mine.toml"), []byte("schema = 1\n[[step]]\nafter = \"1h\"\n[[step]]\nafter = \"90m\"\npercent = 100\n"))
	if p, err = LoadPlan(file); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(update.Waves{0: start.Add(time.Hour), 2048: start.Add(90 * time.Minute)}, p.Waves(start)); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"schema = 1":                                           `"step" is missing`,
		"schema = 1\n[[step]]\nafter = \"1h\"\n":               `x.toml:2:3: "step[0].percent" is 0, and it is the last`,
		"schema = 1\n[[step]]\nafter = \"1w\"\npercent = 100":  `x.toml:3:9: "step[0].after" is "1w" (a number with s, m, h or d, such as 36h or 7d)`,
		"schema = 1\n[[step]]\nafter = \"-1h\"\npercent = 100": `x.toml:3:9: "step[0].after" is "-1h"`,
		"schema = 1\n[[step]]\nafter = \"2h\"\npercent = 50\n[[step]]\nafter = \"1h\"\npercent = 100": `x.toml:6:9: "step[1].after" is before the step above it`,
		"schema = 1\n[[step]]\nafter = \"2h\"\npercent = 50\n[[step]]\nafter = \"3h\"\npercent = 50":  `x.toml:7:11: "step[1].percent" is not more than in the step above it`,
		"schema = 1\n[[step]]\nafter = \"2h\"\npercent = 101":                                         `"step[0].percent" is 101, which is more than 100`,
	} {
		if _, err := parsePlan("x.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := LoadPlan("defualt"); err == nil || !strings.Contains(err.Error(), `did you mean "default"?`) {
		t.Error(err)
	}
	if _, err := LoadPlan("./defualt"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"0s": 0, "90m": 90 * time.Minute, "36h": 36 * time.Hour, "14d": 14 * 24 * time.Hour} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "70000d", "1w", "5", "10ms"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

func FuzzPlan(f *testing.F) {
	for _, name := range Plans() {
		data, err := plans.ReadFile("plans/" + name + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePlan("x.toml", data)
		if err != nil {
			return
		}
		if err := p.Waves(start).Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(goodSettings), "main")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		if p, err := parseSettings("/nonexistent/repos.toml", data, name); err == nil {
			t.Fatalf("keys out of nowhere: %+v", p)
		}
	})
}
