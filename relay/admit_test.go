package relay

import (
	"net/netip"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

func newTestRelay(t testing.TB, cfg Config) *Relay {
	t.Helper()
	if cfg.Ports == nil {
		cfg.Ports = []uint16{netns.Port(t)}
	}
	if cfg.Settings.Egress == nil {
		cfg.Settings = testSettings()
	}
	r, err := newRelay(cfg, newFakeMap())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestAdmit(t *testing.T) {
	set := testSettings()
	set.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	set.AllowSpecial = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r := newTestRelay(t, Config{Settings: set})
	m := r.addrs.(*fakeMap)
	m.dst[netip.MustParseAddr("127.80.1.1")] = netip.MustParseAddr("10.0.0.1")
	m.dst[netip.MustParseAddr("127.80.1.2")] = netip.MustParseAddr("127.80.0.1")
	m.dst[netip.MustParseAddr("127.80.1.3")] = netip.MustParseAddr("127.90.0.1")
	m.dst[netip.MustParseAddr("127.80.1.4")] = netip.MustParseAddr("8.8.8.8")
	m.dst[netip.MustParseAddr("127.80.1.5")] = netip.MustParseAddr("9.9.9.9")
	withOwn, destinations := *r.settings.Load(), *r.settings.Load().destinations
	own, err := newPrefixSet([]netip.Prefix{netip.MustParsePrefix("9.9.9.9/32")})
	if err != nil {
		t.Fatal(err)
	}
	destinations.own = own
	withOwn.destinations = &destinations
	r.settings.Store(&withOwn)

	tests := []struct {
		name, client, local string
		want                error
		dst                 string
	}{
		{"allowed-special", "192.0.2.1", "127.80.0.1:443", nil, "127.0.0.1:443"},
		{"public", "192.0.2.1", "127.80.1.4:80", nil, "8.8.8.8:80"},
		{"mapped-addresses", "::ffff:192.0.2.1", "[::ffff:127.80.0.1]:443", nil, "127.0.0.1:443"},
		{"v6-client-with-zone", "2001:db8::1%lo", "127.80.0.1:443", nil, "127.0.0.1:443"},
		{"not-a-client", "198.51.100.1", "127.80.0.1:443", errNotClient, ""},
		{"not-mapped", "192.0.2.1", "127.80.9.9:443", errNoMapping, ""},
		{"not-a-relay-address", "192.0.2.1", "127.0.0.1:443", errNoMapping, ""},
		{"private", "192.0.2.1", "127.80.1.1:443", errDestination, ""},
		{"our-relay-prefix", "192.0.2.1", "127.80.1.2:443", errDestination, ""},
		{"our-egress-prefix", "192.0.2.1", "127.80.1.3:443", errDestination, ""},
		{"this-host", "192.0.2.1", "127.80.1.5:443", errDestination, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := r.admit(TCP, netip.MustParseAddr(tt.client), netip.MustParseAddrPort(tt.local))
			if err != tt.want {
				t.Fatalf("got error %v; want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if got := g.dst.String(); got != tt.dst {
				t.Errorf("got destination %v; want %v", got, tt.dst)
			}
			g.Release()
		})
	}
	if held := m.held.Load(); held != 0 {
		t.Errorf("got %d mappings held; want 0", held)
	}
	if s := r.Stats(); s.Flows[TCP] != 4 || s.Refused[TCP] != 7 || s.Active[TCP] != 0 {
		t.Errorf("got %+v; want 4 flows, 7 refused, none active", s)
	}
}

func TestOwnAddresses(t *testing.T) {
	own, err := ownAddresses()
	if err != nil || !own.contains(netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("got %v, %v; want 127.0.0.1 among them", own, err)
	}
}

// TestAdmitAllocs allows the map its release function, and nothing to admission.
func TestAdmitAllocs(t *testing.T) {
	r := newTestRelay(t, Config{})
	client, local := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddrPort("127.80.0.1:443")
	of := testing.AllocsPerRun(100, func() {
		_, release, _ := r.addrs.Acquire(local.Addr())
		release()
	})
	n := testing.AllocsPerRun(100, func() {
		g, err := r.admit(TCP, client, local)
		if err != nil {
			t.Fatal(err)
		}
		g.Release()
	})
	if n > of {
		t.Errorf("got %v allocations; want no more than the %v of the map", n, of)
	}
}

// TestOpen has flows of an entrance that knows the destination by itself, next to one by a relay address: they have the
// same clients, destinations and limits.
func TestOpen(t *testing.T) {
	r := newTestRelay(t, Config{Limits: Limits{TCPFlowsPerClient: 2}})
	client, dst := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddrPort("127.0.0.1:443")
	byAddress, err := r.admit(TCP, client, netip.MustParseAddrPort("127.80.0.1:443"))
	if err != nil || byAddress.dst != dst {
		t.Fatalf("got %v, error %v; want a flow to %v", byAddress.dst, err, dst)
	}
	opened, err := r.Open(TCP, netip.MustParseAddr("::ffff:127.0.0.9"), dst)
	if err != nil || opened.dst != dst {
		t.Fatalf("got %v, error %v; want a flow to %v", opened.dst, err, dst)
	}
	for _, tt := range []struct {
		name, client, dst string
		want              error
	}{
		{"over-limit", "127.0.0.9", "127.0.0.1:443", errOverLimit},
		{"not-a-client", "192.0.2.1", "127.0.0.1:443", errNotClient},
		{"special-purpose", "127.0.0.8", "10.0.0.1:443", errDestination},
		{"relay-address", "127.0.0.8", "127.80.0.1:443", errDestination},
	} {
		if _, err := r.Open(TCP, netip.MustParseAddr(tt.client), netip.MustParseAddrPort(tt.dst)); err != tt.want {
			t.Errorf("%s: got error %v; want %v", tt.name, err, tt.want)
		}
	}
	byAddress.Release()
	opened.Release()
	if s := r.Stats(); s.Flows[TCP] != 2 || s.OverLimit[TCP] != 1 || s.Refused[TCP] != 3 || s.Active[TCP] != 0 {
		t.Errorf("got %+v; want 2 flows, 1 over the limit, 3 refused, none active", s)
	}
	r.draining.Store(true)
	if _, err := r.Open(UDP, client, dst); err != errDraining {
		t.Errorf("draining: got error %v; want %v", err, errDraining)
	}
}
