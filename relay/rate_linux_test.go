package relay

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

const (
	testBurst  = 5
	testFlood  = 60
	scannedFar = "203.0.113.77" // and relay6Free stand for nothing
	relay6Free = "2001:db8:cf::77"
)

// mostInTime returns how many flows one client may have begun since a time with a rate of one a second.
func mostInTime(since time.Time) uint64 { return testBurst + 1 + uint64(time.Since(since)/time.Second) }

// TestUDPNamespaceRate has a client begin flows from new ports, and scan relay addresses that stand for nothing: what is
// too much is ignored, and another client has its flow.
func TestUDPNamespaceRate(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{NewFlowsPerSecond: 1, NewFlowsBurst: testBurst})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			dst := b.listenDestination(t, fam.destination)
			for _, tt := range []struct{ name, relay, client string }{
				{"new-ports", fam.relay, fam.flood(0)},
				{"scan", map[string]string{relay4to4: scannedFar, relay6to6: relay6Free}[fam.relay], fam.flood(40)},
			} {
				start, before := time.Now(), b.relay.Stats()
				var last *net.UDPConn
				for range testFlood {
					last = dialUDPFrom(t, tt.client, tt.relay)
					send(t, last, []byte("flood"))
				}
				waitFor(t, "the flood to be judged", func() bool { return judged(b.relay.Stats(), UDP)-judged(before, UDP) == testFlood })
				now := b.relay.Stats()
				begun := now.Flows[UDP] - before.Flows[UDP] + now.Refused[UDP] - before.Refused[UDP]
				if begun < testBurst || begun > mostInTime(start) {
					t.Errorf("%s: got %d flows begun or refused of %d; want about %d", tt.name, begun, testFlood, testBurst)
				}
				last.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				var timeout net.Error
				if _, err := last.Read(make([]byte, 9)); !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("%s: got error %v for what is too much; want nothing to come back", tt.name, err)
				}
			}
			c := dialUDPFrom(t, fam.bystander, fam.relay)
			drain(dst)
			from := exchange(t, c, dst, []byte("request"))
			reply(t, dst, []byte("response"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			if got, _ := receive(t, c); string(got) != "response" {
				t.Errorf("got %q; want the response", got)
			}
		})
	}
}

// TestTCPNamespaceRate is the same over TCP, where what is too much is reset.
func TestTCPNamespaceRate(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{NewFlowsPerSecond: 1, NewFlowsBurst: testBurst})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			ln := b.listenTCP(t, fam.destination)
			for _, tt := range []struct{ name, relay, client string }{
				{"new-ports", fam.relay, fam.flood(0)},
				{"scan", map[string]string{relay4to4: scannedFar, relay6to6: relay6Free}[fam.relay], fam.flood(40)},
			} {
				start, before := time.Now(), b.relay.Stats()
				var err error
				for range testFlood {
					var c *net.TCPConn
					if c, err = dialTCPFrom(tt.client, tt.relay); err == nil {
						defer c.Close()
						c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
						_, err = c.Read(make([]byte, 1))
					}
				}
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s: the last one: got error %v; want a reset", tt.name, err)
				}
				now := b.relay.Stats()
				begun := now.Flows[TCP] - before.Flows[TCP] + now.Refused[TCP] - before.Refused[TCP]
				if begun < testBurst || begun > mostInTime(start) {
					t.Errorf("%s: got %d flows begun or refused of %d; want about %d", tt.name, begun, testFlood, testBurst)
				}
			}
			c := mustDialTCP(t, fam.bystander, fam.relay)
			write(t, c, "request")
			for {
				server := acceptFrom(t, ln) // those of the flood come first
				if hasBytes(server) {
					wantBytes(t, server, "request")
					return
				}
			}
		})
	}
}

// judged returns how many flows have been decided on.
func judged(s Stats, p Proto) uint64 {
	return s.Flows[p] + s.Refused[p] + s.OverRate[p] + s.OverLimit[p]
}

// drain takes in what has arrived at c.
func drain(c *net.UDPConn) {
	for {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(make([]byte, 9)); err != nil {
			c.SetReadDeadline(time.Now().Add(deadline))
			return
		}
	}
}

// hasBytes reports whether something arrives at c within a moment.
func hasBytes(c *net.TCPConn) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(deadline))
	_ = raw.Read(func(fd uintptr) bool { yes = readable(int(fd)); return yes })
	return yes
}
