package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// sharesFamilies are networks of the bed's customers: what floods is spread over all that one customer has, and the
// bystander has one address of another.
var sharesFamilies = []struct {
	name, relay, destination string
	flood                    func(i int) string
	bystander                string
}{
	{"ipv4", relay4to4, "198.51.100.2", func(i int) string { return "10.1.1." + strconv.Itoa(i+1) }, "10.2.2.1"},
	{"ipv6", relay6to6, "2001:db8:1::2", func(i int) string { return "2001:db8:a:" + strconv.Itoa(i+1) + "::1" }, "2001:db8:b::1"},
}

// sharesLimit is large enough for a network of addresses, which counts for a 16th, to hold more than one address.
const sharesLimit = 40

// newSharesBed returns a bed with the addresses of both customers.
func newSharesBed(t *testing.T, limits Limits) *bed {
	t.Helper()
	limits.DrainTimeout = 1
	b := newLimitedBed(t, limits)
	for _, fam := range sharesFamilies {
		for i := range 2 * sharesLimit {
			addHost(t, fam.flood(i))
		}
		addHost(t, fam.bystander)
	}
	set := b.relay.cfg.Settings
	set.Clients = prefixes("0.0.0.0/0", "::/0")
	if err := b.relay.Update(set); err != nil {
		t.Fatal(err)
	}
	return b
}

func addHost(t *testing.T, addr string) {
	t.Helper()
	ip(t, 0, "addr add "+addr+"/"+strconv.Itoa(netip.MustParseAddr(addr).BitLen())+" dev lo")
}

// dialUDPFrom is dialBed from an address.
func dialUDPFrom(t *testing.T, client, relay string) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(client)}, &net.UDPAddr{IP: net.ParseIP(relay), Port: bedPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return soon(t, c)
}

// TestUDPNamespaceShares has a customer flood from a whole network with flows that wait for a response, while another
// waits for that of the oldest flow of all.
func TestUDPNamespaceShares(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{UDPFlows: sharesLimit})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			dst := b.listenDestination(t, fam.destination)
			c := dialUDPFrom(t, fam.bystander, fam.relay)
			from := exchange(t, c, dst, []byte("request"))
			for i := range 2 * sharesLimit {
				exchange(t, dialUDPFrom(t, fam.flood(i), fam.relay), dst, []byte("flood"))
			}
			reply(t, dst, []byte("response"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			if got, _ := receive(t, c); string(got) != "response" {
				t.Errorf("got %q; want the response", got)
			}
			if got := b.relay.Stats().Active[UDP]; got > sharesLimit {
				t.Errorf("got %d flows; want %d at most", got, sharesLimit)
			}
		})
	}
}

// TestTCPNamespaceShares has a customer take all flows there are, from a whole network: another one gets some.
func TestTCPNamespaceShares(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{TCPFlows: sharesLimit})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			ln := b.listenTCP(t, fam.destination)
			flood := make([]*net.TCPConn, sharesLimit)
			for i := range flood {
				flood[i] = mustDialTCP(t, fam.flood(i), fam.relay)
				acceptFrom(t, ln)
			}
			waitFor(t, "all flows", func() bool { return b.relay.Stats().Active[TCP] == sharesLimit })
			before := b.relay.Stats().GaveWay[TCP]
			c := mustDialTCP(t, fam.bystander, fam.relay)
			server := acceptFrom(t, ln)
			write(t, c, "request")
			wantBytes(t, server, "request")
			write(t, server, "response")
			wantBytes(t, c, "response")
			if got := b.relay.Stats().GaveWay[TCP] - before; got != 1 {
				t.Errorf("got %d flows that gave way; want 1", got)
			}
			if n := countReset(flood, 1); n != 1 {
				t.Errorf("got %d flows of the flood reset; want 1", n)
			}
			more, err := dialTCPFrom(fam.flood(0), fam.relay)
			if err == nil {
				defer more.Close()
				_, err = more.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("one more of the flood: got error %v; want a reset", err)
			}
			for _, f := range append(flood, c) {
				reset(f)
			}
			waitFor(t, "no flows", func() bool { return b.relay.Stats().Active[TCP] == 0 })
		})
	}
}

// TestTCPNamespaceDials has a customer connect to a destination that does not answer, from a whole network and more often
// than there are dials: another one gets its dial, whose connection comes about as the destination answers again.
func TestTCPNamespaceDials(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{TCPDials: sharesLimit, TCPDialsPerClient: 2, DialTimeout: deadline})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			ln := b.listenTCP(t, fam.destination)
			b.silence(t, true)
			var flood []*net.TCPConn
			begin := b.relay.Stats()
			for i := range 2 * sharesLimit {
				if f, err := dialTCPFrom(fam.flood(i/2), fam.relay); err == nil { // else it was reset at once
					flood = append(flood, f)
				}
				waitFor(t, "a dial, or one that gave way or was refused", func() bool {
					now := b.relay.Stats()
					return uint64(now.Dials)+now.DialsGaveWay-begin.DialsGaveWay+now.OverLimit[TCP]-begin.OverLimit[TCP] > uint64(i)
				})
			}
			before := b.relay.Stats()
			if before.Dials != sharesLimit || before.Active[TCP] != 0 {
				t.Errorf("got %d dials and %d flows; want %d and none", before.Dials, before.Active[TCP], sharesLimit)
			}
			c := mustDialTCP(t, fam.bystander, fam.relay)
			waitFor(t, "a dial to give way", func() bool { return b.relay.Stats().DialsGaveWay > before.DialsGaveWay })
			b.silence(t, false)
			write(t, c, "request")
			for {
				server := acceptFrom(t, ln) // dials of the flood arrive as well
				server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if n, _ := server.Read(make([]byte, 8)); n > 0 {
					break
				}
			}
			for _, f := range append(flood, c) {
				reset(f)
			}
			waitFor(t, "no flows", func() bool { return b.relay.Stats().Active[TCP]+b.relay.Stats().Dials == 0 })
		})
	}
}

// TestTCPNamespaceDialsOfOne has one client connect where nobody answers: the oldest connection is reset for the next.
func TestTCPNamespaceDialsOfOne(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newSharesBed(t, Limits{TCPDialsPerClient: 2, DialTimeout: deadline})
	for _, fam := range sharesFamilies {
		t.Run(fam.name, func(t *testing.T) {
			b.silence(t, true)
			first := mustDialTCP(t, fam.bystander, fam.relay)
			waitFor(t, "a dial", func() bool { return b.relay.Stats().Dials == 1 })
			second := mustDialTCP(t, fam.bystander, fam.relay)
			waitFor(t, "a second dial", func() bool { return b.relay.Stats().Dials == 2 })
			third := mustDialTCP(t, fam.bystander, fam.relay)
			if _, err := first.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the oldest: got error %v; want a reset", err)
			}
			if n := countReset([]*net.TCPConn{second, third}, 0); n != 0 {
				t.Errorf("got %d of the others reset; want none", n)
			}
			b.silence(t, false)
			reset(second)
			reset(third)
			waitFor(t, "no dials", func() bool { return b.relay.Stats().Dials == 0 })
		})
	}
}

// silence makes the destination drop its replies, or send them again.
func (b *bed) silence(t *testing.T, on bool) {
	t.Helper()
	if on {
		ip(t, b.destination, `
			route replace blackhole 192.0.2.0/24
			-6 route replace blackhole 2001:db8:e::/64 metric 1`)
		return
	}
	ip(t, b.destination, `
		route replace 192.0.2.0/24 via 198.51.100.1
		-6 route del 2001:db8:e::/64 metric 1`)
}

func mustDialTCP(t *testing.T, client, relay string) *net.TCPConn {
	t.Helper()
	c, err := dialTCPFrom(client, relay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func acceptFrom(t *testing.T, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c
}

// countReset waits until so many of conns have been reset, and returns how many have.
func countReset(conns []*net.TCPConn, want int) (n int) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for ctx.Err() == nil {
		n = 0
		for _, c := range conns {
			if raw, err := c.SyscallConn(); err == nil {
				raw.Control(func(fd uintptr) {
					if readable(int(fd)) {
						n++
					}
				})
			}
		}
		if n >= want {
			return n
		}
		pause(ctx, time.Millisecond)
	}
	return n
}
