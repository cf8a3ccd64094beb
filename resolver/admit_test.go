package resolver

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func TestLimitsValidate(t *testing.T) {
	if err := (Limits{}).validate(); err != nil {
		t.Errorf("zero: got %v; want nil", err)
	}
	if err := (Limits{InFlightPerConn: -1}).validate(); err == nil {
		t.Error("negative: got nil; want an error")
	}
	for name, prefixes := range map[string][]PrefixLimit{
		"no-length":  {{Connections: 3}},
		"wider":      {{IPv6: 48}, {IPv6: 56}},
		"same":       {{IPv4: 32}},
		"negative":   {{IPv4: 24, InFlight: -1}},
		"too-many":   {{IPv6: 60}, {IPv6: 56}, {IPv6: 52}, {IPv6: 48}, {IPv6: 44}},
		"ipv4-wider": {{IPv4: 16, IPv6: 56}, {IPv4: 24, IPv6: 48}},
	} {
		if err := (Limits{Prefixes: prefixes}).validate(); err == nil {
			t.Errorf("%s: got nil; want an error", name)
		}
	}
	if err := (Limits{Shared: []netip.Prefix{{}}}).validate(); err == nil {
		t.Error("invalid prefix: got nil; want an error")
	}
	if got := (Limits{Connections: 7}).withDefaults(); got.Connections != 7 || got.InFlight != 10000 {
		t.Errorf("got %+v; want 7 connections and 10000 in flight", got)
	}
}

func TestPrefixDefaults(t *testing.T) {
	got := Limits{ConnectionsPerClient: 10, InFlight: 500}.withDefaults().completePrefixes()
	want := []PrefixLimit{
		{IPv4: 32, IPv6: 64, Connections: 10, InFlight: 1000, Rate: DefaultRate},
		{IPv6: 56, Connections: 20, InFlight: 2000, Rate: 2 * DefaultRate},
		{IPv4: 24, IPv6: 48, Connections: 160, InFlight: 250, Rate: 16 * DefaultRate},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// All clients of a prefix share its slots, and an address that many share has more.
func TestSlotsNested(t *testing.T) {
	l := Limits{InFlight: 100, InFlightPerClient: 2, Shared: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}, SharedBy: 3}
	l.Prefixes = []PrefixLimit{{IPv4: 24, IPv6: 56, InFlight: 3}}
	f := newFrontend(newFake(), l.withDefaults(), zerolog.Nop())
	for _, row := range []struct {
		addr string
		want int
	}{
		{"192.0.2.1", 2},
		{"192.0.2.2", 1},
		{"192.0.2.3", 0},
		{"198.51.100.1", 2},
		{"192.0.2.9", 6},
		{"2001:db8::1", 2},
		{"2001:db8:0:ff::1", 1},
		{"2001:db8:0:fe::1", 0},
		{"2001:db8:0:100::1", 2},
	} {
		got := 0
		for got < 10 && f.takeSlot(netip.MustParseAddr(row.addr)) {
			got++
		}
		if got != row.want {
			t.Errorf("%s: got %d slots; want %d", row.addr, got, row.want)
		}
	}
	for _, addr := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"} {
		f.giveSlot(netip.MustParseAddr(addr))
	}
	if f.slots.used[netip.MustParsePrefix("192.0.2.1/32")] != 0 {
		t.Error("a client without a query is still counted")
	}
}
