package relay

import (
	"testing"
	"time"
)

// TestICMPRate takes messages by the clock of the flow tables, which begins at 0.
func TestICMPRate(t *testing.T) {
	s := newICMPSender()
	defer s.close()
	sent := func(now time.Duration) (n int) {
		for range 10 * icmpBurst {
			if s.rate.AllowN(time.Time{}.Add(now), 1) {
				n++
			}
		}
		return n
	}
	for _, tt := range []struct {
		now  time.Duration
		want int
	}{{0, icmpBurst}, {0, 0}, {10 * time.Millisecond, icmpRate / 100}, {time.Hour, icmpBurst}} {
		if got := sent(tt.now); got != tt.want {
			t.Errorf("at %v: got %d messages; want %d", tt.now, got, tt.want)
		}
	}
}
