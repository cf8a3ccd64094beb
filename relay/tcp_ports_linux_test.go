package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
)

// TestTCPLeavesPorts has flows at every port from which the kernel draws, and some that have ended a moment ago: a
// program of the host still gets a port for a connection, at an address of its own and to the same destination.
func TestTCPLeavesPorts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, 0, `
		link set lo up
		-6 addr add 2001:db8::1/128 dev lo nodad
		-6 route add local 2001:db8:e::/64 dev lo`)
	const first, last = 40000, 40019
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40019"), 0); err != nil {
		t.Fatal(err)
	}
	for _, fam := range []struct{ name, egress, destination string }{
		{"ipv4", "127.90.0.1", "127.0.0.1:4443"},
		{"ipv6", "2001:db8:e::7", "[2001:db8::1]:4443"},
	} {
		t.Run(fam.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", fam.destination)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			dst := addrPort(ln.Addr())
			s := newSources()
			for port := uint16(first); port <= last; port++ {
				src := netip.AddrPortFrom(netip.MustParseAddr(fam.egress), port)
				c, err := s.dial(t.Context(), net.Dialer{Control: control(dialerOptions)}, src, dst)
				if err != nil {
					t.Fatal(err)
				}
				defer reset(c)
				if got := addrPort(c.LocalAddr()); got != src {
					t.Errorf("got source %v; want %v", got, src)
				}
				if _, err := s.dial(t.Context(), net.Dialer{Control: control(dialerOptions)}, src, dst); !inUse(err) {
					t.Errorf("the same source and destination once more: got error %v; want one that says in use", err)
				}
				if port%2 == 0 { // leaves a socket in TIME_WAIT on this side
					c.CloseWrite()
					server, err := ln.Accept()
					if err != nil {
						t.Fatal(err)
					}
					server.Close()
				}
			}
			var d net.Dialer
			c, err := d.DialContext(context.Background(), "tcp", dst.String())
			if err != nil {
				t.Fatalf("got error %v for a connection of another program", err)
			}
			c.Close()
		})
	}
}
