package relay

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestFlowRate compares one client with a Limiter of package rate.
func TestFlowRate(t *testing.T) {
	r := newFlowRate(50, 7, testWidths)
	want := rate.NewLimiter(50, 7)
	start := time.Unix(1e9, 0)
	client := netip.MustParseAddr("192.0.2.1")
	allowed := 0
	for i := range 2000 {
		// 11 ms are no multiple of the 20 ms of a token, and now and then a pause fills the bucket.
		now := time.Duration(i)*11*time.Millisecond + time.Duration(i/300)*time.Second
		got := r.allow(client, now)
		if want := want.AllowN(start.Add(now), 1); got != want {
			t.Fatalf("flow %d at %v: got %v; want %v", i, now, got, want)
		}
		if got {
			allowed++
		}
	}
	if allowed < 1000 || allowed > 1300 {
		t.Errorf("got %d of 2000 flows; want about half, for twice as many were tried as are allowed", allowed)
	}
}

// TestFlowRateNested has a customer spread over its network, which may begin 16 times as many flows as an address of it,
// and another one that is not in its way.
func TestFlowRateNested(t *testing.T) {
	for name, tt := range map[string]struct {
		flood     func(i int) netip.Addr
		bystander string
	}{
		"ipv4": {func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }, "198.51.100.1"},
		"ipv6": {func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 1, byte(i), 15: byte(i >> 3)})
		}, "2001:db8:2::1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFlowRate(10, 10, testWidths)
			got := 0
			for i := range 10000 {
				if r.allow(tt.flood(i), 0) {
					got++
				}
			}
			if got != 10*16 {
				t.Errorf("got %d flows of a network; want 160", got)
			}
			for i := range 11 {
				if got, want := r.allow(netip.MustParseAddr(tt.bystander), 0), i < 10; got != want {
					t.Errorf("flow %d of another network: got %v; want %v", i, got, want)
				}
			}
			// What the network refused has taken nothing from its addresses.
			if !r.allow(tt.flood(200), 100*time.Millisecond) {
				t.Error("got nothing after a tenth of a second; want what a new token allows")
			}
		})
	}
}

// TestFlowRateBounded has more clients than there are buckets. One that is at its bound is not forgotten for those that
// begin a flow each.
func TestFlowRateBounded(t *testing.T) {
	r := newFlowRate(1, 100, widths{v4: []int{32}})
	busy := netip.MustParseAddr("192.0.2.1")
	for range 100 {
		r.allow(busy, 0)
	}
	for i := range 4 * rateBuckets {
		r.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 0)
	}
	if r.allow(busy, 0) {
		t.Error("a client at its bound was forgotten")
	}
}

func TestFlowRateAllocs(t *testing.T) {
	r := newFlowRate(1000, 1000, testWidths)
	clients := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	if n := testing.AllocsPerRun(100, func() {
		for _, c := range clients {
			r.allow(c, 0)
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkFlowRate(b *testing.B) {
	r := newFlowRate(500, 2000, testWidths)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.allow(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, byte(i >> 8), byte(i)}), time.Duration(i))
	}
}
