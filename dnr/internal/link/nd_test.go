package link

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSourceLinkLayerOfOtherLinks(t *testing.T) {
	if o := SourceLinkLayer(make(net.HardwareAddr, 20)); o != nil {
		t.Errorf("got %x for InfiniBand; want none", o)
	}
}

func TestRDNSSOfMany(t *testing.T) {
	var servers []netip.Addr
	for i := range 200 {
		servers = append(servers, netip.AddrFrom16([16]byte{0: 0x20, 15: byte(i)}))
	}
	var got []netip.Addr
	for _, o := range RDNSS(servers, time.Hour) {
		got = append(got, ParseRDNSS(o)...)
	}
	if diff := cmp.Diff(servers, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzRouterSolicitation reads Router Solicitations.
func FuzzRouterSolicitation(f *testing.F) {
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}, false) // with a link-layer address
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1}, true)  // but no address
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0, 14, 2}, false)
	f.Fuzz(func(t *testing.T, b []byte, unspecified bool) {
		p := Packet{Peer: netip.AddrPortFrom(netip.MustParseAddr("fe80::2"), 0), Hops: NDHopLimit, Data: b}
		if unspecified {
			p.Peer = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		}
		if err := CheckSolicitation(p); err == nil && (len(b)%8 != 0 || b[0] != TypeRouterSolicitation) {
			t.Errorf("got %x taken; want an error", b)
		}
		p.Hops = 64
		if err := CheckSolicitation(p); err == nil {
			t.Error("got one from beyond the link taken; want an error")
		}
	})
}
