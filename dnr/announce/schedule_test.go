package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// TestSchedule plays what happens at which second and wants to know what is sent then.
func TestSchedule(t *testing.T) {
	host := func(n byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: n}) }
	none := netip.IPv6Unspecified()
	type event struct {
		at   time.Duration // from the start
		from []netip.Addr  // who asks then
		send []netip.Addr  // what is due then
	}
	all := []netip.Addr{link.AllNodes}
	for name, events := range map[string][]event{
		"nobody-asks": {
			{at: 0, send: all},
			{at: 15999 * time.Millisecond},
			{at: 16 * time.Second, send: all},
			{at: 32 * time.Second, send: all},
			{at: 48 * time.Second, send: all},
			{at: 64 * time.Second},
			{at: 448 * time.Second, send: all},
		},
		"one-asks": {
			{at: 0, send: all},
			{at: time.Second, from: []netip.Addr{host(1), host(1)}},
			{at: 1249 * time.Millisecond},
			{at: 1250 * time.Millisecond, send: []netip.Addr{host(1)}},
			{at: 2 * time.Second},
			{at: 16 * time.Second, send: all},
		},
		"two-ask": {
			{at: 0, send: all},
			{at: time.Second, from: []netip.Addr{host(1)}},
			{at: 1200 * time.Millisecond, from: []netip.Addr{host(2)}},
			{at: 1250 * time.Millisecond, send: []netip.Addr{host(1), host(2)}},
		},
		"many-ask": {
			{at: 0, send: all},
			{at: 10 * time.Second, from: []netip.Addr{host(1), host(2), host(3), host(4), host(5), host(6)}},
			{at: 10250 * time.Millisecond, send: all},
			{at: 10500 * time.Millisecond},
			{at: 26 * time.Second},
			{at: 26250 * time.Millisecond, send: all},
		},
		"without-an-address": {
			{at: 0, send: all},
			{at: time.Second, from: []netip.Addr{none, none}},
			{at: 3249 * time.Millisecond},
			{at: 3250 * time.Millisecond, send: all},
			{at: 3300 * time.Millisecond, from: []netip.Addr{none}},
			{at: 6499 * time.Millisecond},
			{at: 6500 * time.Millisecond, send: all},
		},
		"answered-by-the-next": {
			{at: 0, send: all},
			{at: 15900 * time.Millisecond, from: []netip.Addr{none, host(1)}},
			{at: 16 * time.Second, send: all},
			{at: 17 * time.Second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := schedule{shortest: 200 * time.Second, longest: 600 * time.Second}
			s.random = func(d time.Duration) time.Duration { return d / 2 }
			start := time.Unix(1e9, 0)
			s.restart(start)
			for _, e := range events {
				now := start.Add(e.at)
				for _, from := range e.from {
					s.solicit(now, from)
				}
				if due := !s.next().After(now); due != (e.send != nil) {
					t.Errorf("at %s: got due %t; want %t", e.at, due, e.send != nil)
				}
				if got := s.take(now); fmt.Sprint(got) != fmt.Sprint(e.send) {
					t.Errorf("at %s: got %v; want %v", e.at, got, e.send)
				}
			}
		})
	}
}

// TestScheduleRestart wants no link that comes and goes to be sent more than is allowed.
func TestScheduleRestart(t *testing.T) {
	s := schedule{shortest: 3 * time.Second, longest: 4 * time.Second, random: jitter}
	now := time.Unix(1e9, 0)
	var last time.Time
	for range 1000 {
		s.restart(now)
		s.solicit(now, netip.IPv6Unspecified())
		now = now.Add(100 * time.Millisecond)
		if len(s.take(now)) == 0 {
			continue
		}
		if d := now.Sub(last); d < minDelayBetween {
			t.Fatalf("got two within %s; want %s or more", d, minDelayBetween)
		}
		last = now
	}
}

func TestMinInterval(t *testing.T) {
	for longest, want := range map[time.Duration]time.Duration{
		4 * time.Second: 3 * time.Second, 8 * time.Second: 6 * time.Second, 9 * time.Second: 3 * time.Second,
		600 * time.Second: 200 * time.Second,
	} {
		if got := minInterval(longest); got != want {
			t.Errorf("%s: got %s; want %s", longest, got, want)
		}
	}
}
