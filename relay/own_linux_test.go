package relay

import (
	"net/netip"
	"testing"
	"time"
)

// TestOwnAddresses: what becomes an address of the relay's host while the relay runs, as with VRRP or DHCP, or a local
// route of another program, is no destination any more, neither to admission nor to steering, and is one again when it
// has gone.
func TestOwnAddresses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBed(t)
	for _, tt := range []struct{ add, del, addr string }{
		{"addr add 9.9.9.9/32 dev veth0", "addr del 9.9.9.9/32 dev veth0", "9.9.9.9"},
		{"addr add 2620:fe::9/128 dev veth0 nodad", "addr del 2620:fe::9/128 dev veth0", "2620:fe::9"},
		{"route add local 9.9.9.0/24 dev lo", "route del local 9.9.9.0/24 dev lo", "9.9.9.1"},
		{"-6 route add local 2620:fe::/48 dev lo", "-6 route del local 2620:fe::/48 dev lo", "2620:fe::1"},
	} {
		b.wantPermits(t, tt.addr, true)
		ip(t, 0, tt.add)
		b.wantPermits(t, tt.addr, false)
		if _, err := b.relay.Open(UDP, netip.MustParseAddr("198.51.100.1"),
			netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 443)); err != errDestination {
			t.Errorf("%s: got error %v; want %v", tt.addr, err, errDestination)
		}
		ip(t, 0, tt.del)
		b.wantPermits(t, tt.addr, true)
	}
}

// wantPermits waits until the relay takes an address for a destination, or no longer.
func (b *bed) wantPermits(t *testing.T, addr string, want bool) {
	t.Helper()
	end := time.After(deadline)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for b.relay.Permits(netip.MustParseAddr(addr)) != want {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: got permitted %v; want %v", addr, !want, want)
		}
	}
}
