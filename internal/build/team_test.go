package build

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPushLimit(t *testing.T) {
	for _, tc := range []struct {
		name      string
		interrupt time.Duration // after it began; 0: before, negative: never
		want      time.Duration
	}{
		{"to its end", -1, pushWait},
		{"interrupted before", 0, pushGrace},
		{"interrupted meanwhile", time.Minute, time.Minute + pushGrace},
		{"interrupted late", pushWait - time.Second, pushWait},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				command, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				switch {
				case tc.interrupt == 0:
					interrupt()
				case tc.interrupt > 0:
					time.AfterFunc(tc.interrupt, interrupt)
				}
				began := time.Now()
				ctx, cancel := pushLimit(command)
				defer cancel()
				<-ctx.Done()
				if got := time.Since(began); got != tc.want {
					t.Errorf("ended after %v, want %v", got, tc.want)
				}
			})
		})
	}
}
