package update

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func TestWaveTime(t *testing.T) {
	t.Parallel()
	w := Waves{0: start, 1024: at(1024 * time.Second), 1536: at(3072 * time.Second), 2048: at(3072 * time.Second)}
	for seed, want := range map[int]time.Duration{
		0: 0, 1: time.Second, 512: 512 * time.Second, 1023: 1023 * time.Second, 1024: 1024 * time.Second,
		// by the distance from the bound, not by the seed itself
		1025: 1028 * time.Second, 1280: 2048 * time.Second, 1535: 3068 * time.Second,
		1536: 3072 * time.Second, 2047: 3072 * time.Second, -5: 0, 9999: 3072 * time.Second,
	} {
		if got := w.WaveTime(seed); !got.Equal(at(want)) {
			t.Errorf("seed %d is ready at %s, want %s", seed, got, at(want))
		}
	}
	if got := (Waves{}).WaveTime(7); !got.IsZero() {
		t.Errorf("without waves: %s", got)
	}
	if got := (Waves{0: start}).WaveTime(2047); !got.Equal(start) {
		t.Errorf("one bound: %s", got)
	}
}

// randomWaves are valid waves; some span years, some have steps of no time.
func randomWaves(r *rand.Rand) Waves {
	w := Waves{}
	now := start
	bounds := r.Perm(Seeds)[:r.IntN(8)]
	bounds = append(bounds, 0)
	if r.IntN(2) == 0 {
		bounds = append(bounds, Seeds)
	}
	for _, b := range bounds {
		w[b] = start
	}
	for _, b := range w.Bounds() {
		w[b] = now
		now = now.Add(time.Duration(r.Int64N(3*365*24*3600)>>r.IntN(32)) * time.Second)
	}
	return w
}

func TestWaveTimeProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		w := randomWaves(r)
		if err := w.Check(); err != nil {
			t.Fatal(err)
		}
		bounds := w.Bounds()
		first, last := w[bounds[0]], w[bounds[len(bounds)-1]]
		for seed := range Seeds {
			got := w.WaveTime(seed)
			if exact, ok := w[seed]; ok && !got.Equal(exact) {
				t.Fatalf("%v: seed %d is ready at %s, and the bound there says %s", w, seed, got, exact)
			}
			if seed > 0 && got.Before(w.WaveTime(seed-1)) {
				t.Fatalf("%v: seed %d is ready before seed %d", w, seed, seed-1)
			}
			if got.Before(first) || got.After(last) {
				t.Fatalf("%v: seed %d is ready at %s, outside of the waves", w, seed, got)
			}
		}
		// hosts of one wave come at even distances, to the second
		for i := 1; i < len(bounds); i++ {
			low, high := bounds[i-1], bounds[i]
			span := w[high].Sub(w[low]).Seconds()
			for seed := low; seed < min(high, Seeds); seed++ {
				want := span * float64(seed-low) / float64(high-low)
				if got := w.WaveTime(seed).Sub(w[low]).Seconds(); got > want+1e-3 || got < want-1.001 {
					t.Fatalf("%v: seed %d comes %v s into its wave, want %v", w, seed, got, want)
				}
			}
		}
	}
}

func TestShiftProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		w := randomWaves(r)
		span := w.WaveTime(Seeds-1).Unix() - start.Unix()
		pause := at(time.Duration(r.Int64N(span+200)-100) * time.Second)
		by := time.Duration(r.Int64N(1_000_000)) * time.Second
		s := w.Shift(pause, pause.Add(by))
		if err := s.Check(); err != nil {
			t.Fatalf("%v paused at %s for %s: %v", w, pause, by, err)
		}
		for seed := range Seeds {
			before, after := w.WaveTime(seed), s.WaveTime(seed)
			if !before.After(pause) {
				if after.After(pause.Add(by)) {
					t.Fatalf("%v paused at %s for %s: seed %d was ready and is no longer", w, pause, by, seed)
				}
				continue
			}
			if d := after.Sub(before) - by; d < -2*time.Second || d > 2*time.Second {
				t.Fatalf("%v paused at %s for %s: seed %d is put off by %s", w, pause, by, seed, after.Sub(before))
			}
		}
	}
}

func TestWavesCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		w    Waves
		want string
	}{
		"none":           {Waves{}, ""},
		"no start":       {Waves{5: start}, "the first bound of the waves is 5: want 0"},
		"negative":       {Waves{-1: start, 0: start}, "the first bound of the waves is -1"},
		"too far":        {Waves{0: start, 2049: start}, "bound 2049 of the waves: want at most 2048"},
		"back in time":   {Waves{0: at(time.Hour), 9: start}, "bound 9 of the waves (2026-01-01T00:00:00Z) comes before bound 0 (2026-01-01T01:00:00Z)"},
		"part of second": {Waves{0: at(1)}, "not a whole second"},
	} {
		err := c.w.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
