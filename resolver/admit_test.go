package resolver

import (
	"net/netip"
	"testing"
)

func TestConnLimitCounts(t *testing.T) {
	l := connLimit{max: 3, perClient: 2, clients: make(map[netip.Addr]int)}
	a, sameA := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:0:0:2")
	b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, step := range []struct {
		addr netip.Addr
		want bool
	}{{a, true}, {sameA, true}, {a, false}, {b, true}, {c, false}} {
		if got := l.take(step.addr, false); got != step.want {
			t.Errorf("step %d: take(%v): got %t; want %t", i, step.addr, got, step.want)
		}
	}
	l.give(sameA, false)
	if !l.take(c, false) {
		t.Error("got no room after one has left")
	}
	for _, addr := range []netip.Addr{a, b, c} {
		l.give(addr, false)
	}
	if l.total != 0 || len(l.clients) != 0 {
		t.Errorf("got %d connections, clients %v; want none", l.total, l.clients)
	}
}

// However many outsiders connect, clients find room.
func TestConnLimitOutsiders(t *testing.T) {
	l := connLimit{max: 4 * outsidersShare, perClient: 4, clients: make(map[netip.Addr]int)}
	outsider, admitted := netip.MustParseAddr("203.0.113.1"), 0
	for addr := outsider; admitted < l.max && l.take(addr, true); addr = addr.Next() {
		admitted++
	}
	if admitted != 4 || !l.nearLimit(outsider.Prev(), true) || l.nearLimit(netip.MustParseAddr("192.0.2.1"), false) {
		t.Errorf("got %d outsiders; want 4, and the limit near for them alone", admitted)
	}
	if !l.take(netip.MustParseAddr("192.0.2.1"), false) {
		t.Error("got no room for a client")
	}
	l.give(outsider, true)
	if !l.take(outsider, true) {
		t.Error("got no room for an outsider after one has left")
	}
}

func TestLimitsValidate(t *testing.T) {
	if err := (Limits{}).validate(); err != nil {
		t.Errorf("zero: got %v; want nil", err)
	}
	if err := (Limits{InFlightPerConn: -1}).validate(); err == nil {
		t.Error("negative: got nil; want an error")
	}
	if got := (Limits{Connections: 7}).withDefaults(); got.Connections != 7 || got.InFlight != 10000 {
		t.Errorf("got %+v; want 7 connections and 10000 in flight", got)
	}
}
