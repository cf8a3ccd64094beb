package relay

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestTCPDeadDestination has the network lose what a destination sends to the egress of one family. The first flow ends
// soon; further ones are refused without a packet, and the address is called dead, while flows to the same host in
// the other family go on.
func TestTCPDeadDestination(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newLimitedBed(t, Limits{DialTimeout: 200 * time.Millisecond, DrainTimeout: 1})
	tests := []struct{ name, lose, restore, client, relay, destination, otherClient, otherRelay, other string }{
		{
			"4", "route replace blackhole 192.0.2.0/24", "route replace 192.0.2.0/24 via 198.51.100.1",
			"198.51.100.1", relay4to4, "198.51.100.2", "2001:db8:1::1", relay6to6, "2001:db8:1::2",
		},
		{
			"6", "-6 route replace blackhole 2001:db8:e::/64", "-6 route replace 2001:db8:e::/64 via 2001:db8:1::1",
			"2001:db8:1::1", relay6to6, "2001:db8:1::2", "198.51.100.1", relay4to4, "198.51.100.2",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := netip.AddrPortFrom(netip.MustParseAddr(tt.destination), bedPort)
			ln := b.listenTCP(t, tt.destination)
			defer ln.Close()
			b.flowTo(t, ln, tt.client, tt.relay)
			if b.relay.Dead(dst.Addr()) {
				t.Error("got a dead destination; want it alive")
			}
			ip(t, b.destination, tt.lose)
			for range 5 {
				b.wantRefused(t, tt.client, tt.relay)
			}
			if !b.relay.Dead(dst.Addr()) {
				t.Error("got a destination that is alive; want it dead")
			}
			g, err := b.relay.Open(TCP, netip.MustParseAddr(tt.client), dst)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Release()
			if _, err := g.DialTCP(t.Context()); err != errDead {
				t.Errorf("got error %v; want %v", err, errDead)
			}

			other := b.listenTCP(t, tt.other)
			defer other.Close()
			client, server := b.flowTo(t, other, tt.otherClient, tt.otherRelay)
			write(t, client, "question")
			wantBytes(t, server, "question")

			ip(t, b.destination, tt.restore)
			b.relay.reach.end(dst, nil, true, time.Now()) // as if its time as dead were over, and it had been tried
			b.flowTo(t, ln, tt.client, tt.relay)
		})
	}
}

// wantRefused expects a connection to be reset.
func (b *bed) wantRefused(t *testing.T, client, relay string) {
	t.Helper()
	c, err := dialTCPFrom(client, relay)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v; want a reset", err)
	}
}
