package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// Errors as package net returns them for a dial.
var (
	silent    = &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	noWay     = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
	refused   = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	noSource  = &net.OpError{Op: "dial", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	cancelled = &net.OpError{Op: "dial", Err: context.Canceled}
)

// TestReachDestination fails a dial and looks what becomes of the next one, and of the address in answers.
func TestReachDestination(t *testing.T) {
	const full = 3 * time.Second
	tests := []struct {
		name             string
		err              error
		refuses, dead    bool // at the same port
		otherPortRefuses bool
	}{
		{"answers", nil, false, false, false},
		{"silent", silent, true, true, false},
		{"unreachable", noWay, true, true, true},
		{"refuses", refused, false, true, false},
		{"no-source", noSource, false, false, false},
		{"cancelled", cancelled, false, false, false},
	}
	for _, tt := range tests {
		for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
			t.Run(tt.name+"/"+addr, func(t *testing.T) {
				r, now := newReach(), time.Now()
				dst := netip.AddrPortFrom(netip.MustParseAddr(addr), 443)
				wantBegin := func(dst netip.AddrPort, refuses bool) {
					t.Helper()
					if timeout, err := r.begin(dst, full, now); (err == errDead) != refuses || !refuses && timeout != full {
						t.Errorf("got %v, error %v; want refused: %v", timeout, err, refuses)
					}
				}
				wantBegin(dst, false)
				r.end(dst, tt.err, true, now)
				now = now.Add(firstDead - 1)
				if got := r.dead(dst.Addr(), 443, now); got != tt.dead {
					t.Errorf("got dead %v; want %v", got, tt.dead)
				}
				wantBegin(dst, tt.refuses)
				wantBegin(netip.AddrPortFrom(dst.Addr(), 80), tt.otherPortRefuses)
				wantBegin(netip.AddrPortFrom(dst.Addr().Next(), 443), false)

				now = now.Add(1)
				wantBegin(dst, false)
				wantBegin(dst, tt.refuses) // while the first is tried
				r.end(dst, nil, true, now)
				wantBegin(dst, false)
				if r.dead(dst.Addr(), 443, now) {
					t.Error("got dead; want alive")
				}
			})
		}
	}
}

// TestReachBackoff fails again and again: a destination counts as dead for longer, within bounds.
func TestReachBackoff(t *testing.T) {
	r, now := newReach(), time.Now()
	dst := netip.MustParseAddrPort("192.0.2.1:443")
	for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
		r.end(dst, silent, true, now)
		if !r.dead(dst.Addr(), 443, now.Add(want-1)) || r.dead(dst.Addr(), 443, now.Add(want)) {
			t.Errorf("want it dead for %v", want)
		}
		now = now.Add(want)
	}
	now = now.Add(longestDead)
	r.end(dst, silent, true, now)
	if r.dead(dst.Addr(), 443, now.Add(firstDead)) {
		t.Errorf("got dead after %v; want that forgotten which was long ago", firstDead)
	}
}

// TestReachOtherPort has an address at which nobody listens at one port, and at another somebody: a client that keeps
// asking for the first takes nothing from those who use the second.
func TestReachOtherPort(t *testing.T) {
	r, now := newReach(), time.Now()
	addr := netip.MustParseAddr("192.0.2.1")
	r.end(netip.AddrPortFrom(addr, 80), nil, true, now)
	for range 10 {
		r.end(netip.AddrPortFrom(addr, 443), silent, true, now)
	}
	if r.dead(addr, 443, now) {
		t.Error("got dead; want alive")
	}
	if _, err := r.begin(netip.AddrPortFrom(addr, 80), time.Second, now); err != nil {
		t.Errorf("got error %v; want none", err)
	}
	r.end(netip.AddrPortFrom(addr, 443), nil, true, now)
	r.end(netip.AddrPortFrom(addr, 443), silent, true, now)
	if !r.dead(addr, 443, now) {
		t.Error("got alive; want dead, as it answers no more where it last did")
	}
}

// TestReachFamily has no destination of a family answer: the family counts as dead, is tried for a moment at each
// dial, and comes back with the first answer.
func TestReachFamily(t *testing.T) {
	const full = 3 * time.Second
	dst := func(i byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i}), 443)
	}
	r, now := newReach(), time.Now()
	fail := func(from, to byte) {
		for i := from; i < to; i++ {
			r.end(dst(i), silent, true, now)
		}
	}
	wantDead := func(when string, want bool) {
		t.Helper()
		wantTimeout := full
		if want {
			wantTimeout = trialTimeout
		}
		timeout, err := r.begin(dst(200), full, now)
		if got := r.dead(dst(200).Addr(), 443, now); got != want || timeout != wantTimeout || err != nil {
			t.Errorf("%s: got dead %v, %v, error %v; want %v, %v", when, got, timeout, err, want, wantTimeout)
		}
	}
	fail(0, deadFamily-1)
	for range 100 {
		fail(0, 1)
	}
	wantDead("one destination again and again", false)
	r.end(dst(100), refused, true, now)
	fail(0, deadFamily-1)
	wantDead("an answer in between", false)
	fail(deadFamily, deadFamily+1)
	wantDead("all fail", true)
	if r.dead(netip.MustParseAddr("192.0.2.1"), 443, now) {
		t.Error("got the other family dead; want it alive")
	}
	r.end(dst(201), silent, false, now)
	if _, err := r.begin(dst(201), full, now); err != nil {
		t.Errorf("got error %v after a dial that had little time; want none", err)
	}
	now = now.Add(longestDead)
	wantDead("after its time", false)
	fail(50, 51)
	wantDead("one more failure", true)
	r.end(dst(200), nil, false, now)
	wantDead("an answer", false)
}

// TestReachBounded has more destinations than there is room for. Those that answer do not displace the dead.
func TestReachBounded(t *testing.T) {
	r, now := newReach(), time.Now()
	dst := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 443)
	}
	count := func(n int) (dead int) {
		for i := range n {
			if r.dead(dst(i).Addr(), 443, now) {
				dead++
			}
		}
		return dead
	}
	const few = 64
	for i := range few {
		r.end(dst(i), refused, true, now)
	}
	for i := few; i < 1<<16; i++ {
		r.end(dst(i), nil, true, now)
	}
	if got := count(few); got < few-4 {
		t.Errorf("got %d dead; want about %d", got, few)
	}
	for i := few; i < 1<<16; i++ {
		r.end(dst(i), refused, true, now)
	}
	if got := count(1 << 16); got > reachSets*reachWays {
		t.Errorf("got %d dead; want at most %d", got, reachSets*reachWays)
	}
}
