package resolver

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// A wildcard listener of this process, such as the relay's, can share a port of ours, and ours still gets its queries.
func TestWildcardSharesPort(t *testing.T) {
	netns.Require(t) // another program may have the port at another address
	s := startServer(t, nil)
	lc := net.ListenConfig{Control: shareFirst}
	for name, addr := range map[string]netip.AddrPort{
		"Do53": s.Addrs().Do53[0], "DoT": s.Addrs().DoT[0], "DoH": s.Addrs().DoH[0], "DoQ": s.Addrs().DoQ[0],
	} {
		wild := netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()).String()
		if name != "DoQ" {
			ln, err := lc.Listen(context.Background(), "tcp4", wild)
			if err != nil {
				t.Fatalf("%s over TCP: %v", name, err)
			}
			defer ln.Close()
		}
		if name != "DoT" {
			pc, err := lc.ListenPacket(context.Background(), "udp4", wild)
			if err != nil {
				t.Fatalf("%s over UDP: %v", name, err)
			}
			defer pc.Close()
		}
	}
	overAll(t, func(t *testing.T, tr transport) {
		if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Error(err)
		}
	})
}
