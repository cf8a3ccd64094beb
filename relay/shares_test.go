package relay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

var testWidths = widths{v4: []int{32, 24}, v6: []int{64, 56, 48}}

// holdings are places of shares by name.
type holdings struct {
	*shares
	t     *testing.T
	live  map[string]*place
	ended []string
}

func newHoldings(t *testing.T, limit, perClient int) *holdings {
	return &holdings{shares: newShares(limit, perClient, testWidths), t: t, live: map[string]*place{}}
}

// begin takes a place and reports whether there was one.
func (h *holdings) begin(name, client string, st stage) bool {
	p, ok := h.take(netip.MustParseAddr(client))
	if !ok {
		return false
	}
	if free := h.free(netip.MustParseAddr("203.0.113.250")); !free && !h.full() {
		h.t.Errorf("after %s: got no place free; want one, for not all are taken", name)
	}
	h.live[name] = p
	h.attach(p, func() { h.ended = append(h.ended, name) })
	for s := unanswered + 1; s <= st; s++ {
		h.move(p, s)
	}
	return true
}

// settle ends what has to give way, and returns which that is.
func (h *holdings) settle() (names []string) {
	names, h.ended = h.ended, nil
	for _, n := range names {
		h.release(h.live[n])
		delete(h.live, n)
	}
	return names
}

func (h *holdings) want(what string, names ...string) {
	h.t.Helper()
	if got := h.settle(); fmt.Sprint(got) != fmt.Sprint(names) {
		h.t.Errorf("%s: got %v give way; want %v", what, got, names)
	}
}

// TestSharesHeaviestGivesWay has one client flood while another waits for the response to its only flow, which began
// before.
func TestSharesHeaviestGivesWay(t *testing.T) {
	for name, tt := range map[string]struct{ flood, bystander, late string }{
		"one-address":  {"192.0.2.1", "198.51.100.1", "198.51.100.2"},
		"one-slash-64": {"2001:db8:1:1::%x", "2001:db8:2::1", "2001:db8:3::1"},
		"one-slash-56": {"2001:db8:1:%x::1", "2001:db8:2::1", "2001:db8:3::1"},
		"one-slash-24": {"192.0.2.%d", "198.51.100.1", "203.0.113.1"},
		"other-family": {"2001:db8:1:%x::1", "198.51.100.1", "203.0.113.1"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHoldings(t, 100, 100)
			h.begin("bystander", tt.bystander, unanswered)
			flood := func(i int) string {
				if tt.flood == "192.0.2.1" {
					return tt.flood
				}
				return fmt.Sprintf(tt.flood, i+1)
			}
			for i := range 99 {
				h.begin(fmt.Sprint(i), flood(i), unanswered)
			}
			h.want("not full")
			for i := range 50 {
				if !h.begin(fmt.Sprint("more ", i), flood(100+i), unanswered) {
					t.Error("the flood got none of its own places")
				}
				if got := h.settle(); len(got) != 1 || got[0] == "bystander" {
					t.Fatalf("got %v give way; want one of the flood", got)
				}
			}
			h.begin("late", tt.late, unanswered)
			if got := h.settle(); len(got) != 1 || got[0] == "bystander" {
				t.Errorf("got %v give way for another client; want one of the flood", got)
			}
			if h.live["bystander"] == nil || h.live["late"] == nil {
				t.Error("a client with one flow has lost it")
			}
		})
	}
}

// TestSharesStages has the flows of one client give way in the order of what is known about them, the oldest first, and
// confirmed ones never for others of the same client.
func TestSharesStages(t *testing.T) {
	h := newHoldings(t, 4, 4)
	for name, st := range map[string]stage{"confirmed": confirmed, "answered": answered} {
		h.begin(name, "192.0.2.1", st)
	}
	h.begin("first", "192.0.2.1", unanswered)
	h.begin("second", "192.0.2.1", unanswered)
	for _, want := range []string{"first", "second", "answered"} {
		h.begin("for "+want, "192.0.2.1", confirmed)
		h.want("a new one", want)
	}
	if h.begin("none", "192.0.2.1", unanswered) {
		t.Error("a flow without an end gave way to another of its client")
	}
	h.want("full of confirmed ones")
}

// TestSharesConfirmed has a client fill everything with confirmed flows: others get what they hold less than it.
func TestSharesConfirmed(t *testing.T) {
	h := newHoldings(t, 64, 64)
	for i := range 64 {
		h.begin(fmt.Sprint(i), fmt.Sprintf("2001:db8:1:%x::1", i), confirmed)
	}
	got := 0
	for range 64 {
		if h.begin(fmt.Sprint("b", got), "198.51.100.1", confirmed) {
			got++
			h.settle()
		}
	}
	// The /56 counts for a 16th of what it holds: for 3 until it has lost two.
	if got != 2 {
		t.Errorf("got %d flows besides those of a whole /56; want 2", got)
	}
	h = newHoldings(t, 64, 64)
	for i := range 64 {
		h.begin(fmt.Sprint(i), "198.51.100.2", confirmed)
	}
	got = 0
	for range 64 {
		if h.begin(fmt.Sprint("b", got), "198.51.100.1", confirmed) {
			got++
			h.settle()
		}
	}
	if got != 32-1 && got != 32 {
		t.Errorf("got %d flows besides those of one address; want half of 64", got)
	}
}

// TestSharesForged has forged datagrams from all addresses of a network; the flows of a client in it that are in use stay.
func TestSharesForged(t *testing.T) {
	h := newHoldings(t, 1000, 1000)
	for i := range 50 {
		h.begin(fmt.Sprint("in use ", i), "192.0.2.7", confirmed)
	}
	for i := range 5000 {
		h.begin(fmt.Sprint("forged ", i), fmt.Sprintf("192.0.%d.%d", i%8, i>>3&255), unanswered)
		for _, p := range h.settle() {
			if !strings.HasPrefix(p, "forged") {
				t.Fatalf("%s gave way to a forged datagram", p)
			}
		}
	}
}

// TestSharesPerClient bounds the narrowest prefix. The client's own flows give way if they are not confirmed.
func TestSharesPerClient(t *testing.T) {
	h := newHoldings(t, 100, 2)
	h.begin("a", "2001:db8::1", unanswered)
	h.begin("b", "2001:db8::2", confirmed)
	h.begin("c", "2001:db8::3", confirmed)
	h.want("third of a /64", "a")
	if h.begin("d", "2001:db8::4", unanswered) {
		t.Error("got a third flow beside two that are confirmed")
	}
	if !h.begin("e", "2001:db8:0:1::1", unanswered) {
		t.Error("another /64 got none")
	}
}

// TestSharesLeaving bounds how many flows may have lost their places and not ended yet: those still have descriptors.
func TestSharesLeaving(t *testing.T) {
	h := newHoldings(t, 32, 32)
	for i := range 32 {
		h.begin(fmt.Sprint(i), "192.0.2.1", unanswered)
	}
	for i := range 2 {
		if !h.begin(fmt.Sprint("own ", i), "192.0.2.2", unanswered) {
			t.Fatalf("got no place for flow %d of the same network", i)
		}
	}
	if h.begin("own 2", "192.0.2.2", unanswered) {
		t.Error("got a place of the same network while two have not ended; want none")
	}
	for i := range 2 {
		if !h.begin(fmt.Sprint("late ", i), "198.51.100.1", unanswered) {
			t.Fatalf("got no place for flow %d of another network", i)
		}
	}
	if h.begin("late 2", "198.51.100.1", unanswered) {
		t.Error("got a place while four of 32 flows have not ended; want none")
	}
	h.want("ended", "0", "1", "2", "3")
	if !h.begin("late 2", "198.51.100.1", unanswered) {
		t.Error("got no place after they have ended")
	}
	h.settle()
}

// TestSharesAddUp has random flows come and go, and compares what every prefix holds with a plain count.
func TestSharesAddUp(t *testing.T) {
	s := newShares(200, 40, testWidths)
	rnd := rand.New(rand.NewPCG(1, 2))
	type flow struct {
		p      *place
		client netip.Addr
	}
	var flows []*flow
	gone := map[*place]bool{}
	for range 20000 {
		switch {
		case rnd.IntN(3) == 0 && len(flows) > 0:
			i := rnd.IntN(len(flows))
			s.release(flows[i].p)
			flows = append(flows[:i], flows[i+1:]...)
		case rnd.IntN(3) == 0 && len(flows) > 0:
			p := flows[rnd.IntN(len(flows))].p
			s.move(p, min(p.stage+1, confirmed))
		default:
			client := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(rnd.IntN(3)), byte(rnd.IntN(2)), byte(rnd.IntN(4))})
			if p, ok := s.take(client); ok {
				s.attach(p, func() { gone[p] = true })
				flows = append(flows, &flow{p, client})
			}
		}
		kept := flows[:0]
		for _, f := range flows {
			if gone[f.p] {
				s.release(f.p)
				continue
			}
			kept = append(kept, f)
		}
		flows = kept
		clear(gone)
	}
	want := map[netip.Prefix]int{}
	for _, f := range flows {
		for i := range testWidths.v6 {
			prefix, _ := testWidths.at(f.client, i)
			want[prefix]++
		}
	}
	for prefix, n := range want {
		if h := s.holders[prefix]; h == nil || h.all() != n {
			t.Errorf("%v: got %+v; want %d held", prefix, h, n)
		}
	}
	if len(want) != len(s.holders) || int(s.active.Load()) != len(flows) || s.leaving != 0 {
		t.Errorf("got %d holders, %d active, %d leaving; want %d, %d, 0",
			len(s.holders), s.active.Load(), s.leaving, len(want), len(flows))
	}
	for _, f := range flows {
		s.release(f.p)
	}
	if len(s.holders) != 0 || s.active.Load() != 0 || s.root.all() != 0 || s.root.peak != [kindCount]uint64{} {
		t.Errorf("got %d holders, %d active, root %+v after all have ended; want none", len(s.holders), s.active.Load(), s.root)
	}
}

func TestSharesAllocs(t *testing.T) {
	s := newShares(10, 10, testWidths)
	clients := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	end := func() {}
	if n := testing.AllocsPerRun(100, func() {
		for _, c := range clients {
			p, _ := s.take(c)
			s.attach(p, end)
			s.move(p, confirmed)
			s.release(p)
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

// BenchmarkShares has a client take a place of a flood.
func BenchmarkShares(b *testing.B) {
	s := newShares(200000, 1000, testWidths)
	flood := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 1, byte(i)})
	}
	var victim *place
	begin := func(i int) {
		p, ok := s.take(flood(i))
		if !ok {
			b.Fatal("no place")
		}
		s.attach(p, func() { victim = p })
	}
	for i := range 200000 {
		begin(i)
		if victim != nil {
			s.release(victim)
			victim = nil
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		begin(i)
		s.release(victim)
	}
}
