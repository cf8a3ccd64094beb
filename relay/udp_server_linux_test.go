package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/e2e/netns"
)

// runUDP runs a relay of one port for the time of the test.
func runUDP(t testing.TB, cfg Config) *Relay {
	t.Helper()
	if cfg.Limits.DrainTimeout == 0 {
		cfg.Limits.DrainTimeout = time.Millisecond
	}
	r := newTestRelay(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := r.Stats().Active[UDP]; n != 0 {
			t.Errorf("got %d flows active after Run; want none", n)
		}
		if n := r.addrs.(*fakeMap).held.Load(); n != 0 {
			t.Errorf("got %d mappings held after Run; want none", n)
		}
	})
	return r
}

// relayAddr returns the relay's address for 127.0.0.n.
func relayAddr(r *Relay, n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 80, 0, n}), r.cfg.Ports[0])
}

// listenBeside opens the port of r at a specific address, beside the relay's wildcard socket.
func listenBeside(t testing.TB, r *Relay, n byte) *net.UDPConn {
	t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, n}), r.cfg.Ports[0])
	return soon(t, listenReusing(t, addr))
}

// listenReusing opens a port with SO_REUSEPORT.
func listenReusing(t testing.TB, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(cerr, err)
	}}
	pc, err := lc.ListenPacket(t.Context(), "udp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

func TestUDPPortInUse(t *testing.T) {
	port := netns.Port(t)
	listenReusing(t, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	r, err := newRelay(Config{Ports: []uint16{port}, Settings: testSettings()}, newFakeMap())
	if err == nil {
		r.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v; want %v, for each would get some of the datagrams", err, syscall.EADDRINUSE)
	}
}

// dialFrom connects a client at 127.0.0.n to addr.
func dialFrom(t testing.TB, n byte, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, n}), 0))
	c, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return soon(t, c)
}

func soon(t testing.TB, c *net.UDPConn) *net.UDPConn {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t testing.TB, c *net.UDPConn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram and its source.
func receive(t testing.TB, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n], from
}

func reply(t testing.TB, c *net.UDPConn, b []byte, to netip.AddrPort) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
		t.Fatal(err)
	}
}

// exchange sends b through the relay, checks that it arrives, and returns where from.
func exchange(t testing.TB, c, dst *net.UDPConn, b []byte) netip.AddrPort {
	t.Helper()
	send(t, c, b)
	got, from := receive(t, dst)
	if !bytes.Equal(got, b) {
		t.Fatalf("destination got %d bytes; want the %d that were sent", len(got), len(b))
	}
	return from
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// confirm makes the flow of c a confirmed one.
func confirm(t testing.TB, c, dst *net.UDPConn) netip.AddrPort {
	t.Helper()
	from := exchange(t, c, dst, randomBytes(1200))
	reply(t, dst, []byte("reply"), from)
	receive(t, c)
	exchange(t, c, dst, []byte("confirm"))
	return from
}

func TestUDPBothWays(t *testing.T) {
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	c := dialFrom(t, 5, relayAddr(r, 1)) // connected: takes replies from the relay address only
	for _, size := range []int{0, 1, 28, 1200, 1472, 9000, 65507} {
		b := randomBytes(size)
		from := exchange(t, c, dst, b)
		if !egressPrefix.Contains(from.Addr()) {
			t.Errorf("destination saw %v; want an address of %v", from, egressPrefix)
		}
		reply(t, dst, b, from)
		if got, _ := receive(t, c); !bytes.Equal(got, b) {
			t.Errorf("client got %d bytes; want %d", len(got), size)
		}
	}
	waitFor(t, "one flow and as many bytes back as out", func() bool { // counted after they are sent
		s := r.Stats()
		return s.Flows[UDP] == 1 && s.BytesOut[UDP] == s.BytesBack[UDP]
	})
}

func TestUDPSources(t *testing.T) {
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	seen := make(map[netip.AddrPort]bool)
	for range 50 {
		c := dialFrom(t, 5, relayAddr(r, 1))
		first := exchange(t, c, dst, []byte("first"))
		if second := exchange(t, c, dst, []byte("second")); second != first {
			t.Errorf("one flow had the sources %v and %v", first, second)
		}
		if seen[first] {
			t.Errorf("source %v seen twice", first)
		}
		seen[first] = true
	}
}

func TestUDPFlowsAreApart(t *testing.T) {
	r := runUDP(t, Config{})
	one, two := listenBeside(t, r, 1), listenBeside(t, r, 2)
	// One client socket and two destinations, two client sockets and one destination.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 5)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	soon(t, c)
	for n, dst := range map[byte]*net.UDPConn{1: one, 2: two} {
		reply(t, c, []byte{n}, relayAddr(r, n))
		_, from := receive(t, dst)
		reply(t, dst, []byte{n}, from)
		if got, from := receive(t, c); from != relayAddr(r, n) || got[0] != n {
			t.Errorf("got %v from %v; want %d from %v", got, from, n, relayAddr(r, n))
		}
	}
	other := dialFrom(t, 6, relayAddr(r, 1))
	from := exchange(t, other, one, []byte("other"))
	reply(t, one, []byte("to the other"), from)
	if got, _ := receive(t, other); string(got) != "to the other" {
		t.Errorf("got %q; want what was sent to this client", got)
	}
}

func TestUDPDropsForeign(t *testing.T) {
	r := runUDP(t, Config{})
	dst, foreign := listenBeside(t, r, 1), listenBeside(t, r, 2)
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := exchange(t, c, dst, []byte("hello"))
	reply(t, foreign, []byte("foreign"), from)
	reply(t, dst, []byte("own"), from)
	if got, _ := receive(t, c); string(got) != "own" {
		t.Errorf("got %q; want only what the destination sent", got)
	}
}

func TestUDPAmplification(t *testing.T) {
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := exchange(t, c, dst, randomBytes(100))
	for range 60 {
		reply(t, dst, randomBytes(100), from)
	}
	for i := range 3 {
		if got, _ := receive(t, c); len(got) != 100 {
			t.Fatalf("reply %d: got %d bytes; want 100", i, len(got))
		}
	}
	waitFor(t, "57 datagrams dropped", func() bool { return r.Stats().Unconfirmed == 57 })
	waitFor(t, "300 bytes back", func() bool { return r.Stats().BytesBack[UDP] == 300 })
}

func TestUDPConfirmedIsFree(t *testing.T) {
	r := runUDP(t, Config{})
	dst := listenBeside(t, r, 1)
	c := dialFrom(t, 5, relayAddr(r, 1))
	from := confirm(t, c, dst)
	for range 100 {
		reply(t, dst, randomBytes(1200), from)
		receive(t, c)
	}
	if got := r.Stats().Unconfirmed; got != 0 {
		t.Errorf("got %d datagrams dropped; want none", got)
	}
}

func TestUDPRefusals(t *testing.T) {
	set := testSettings()
	set.AllowSpecial = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	set.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.5/32")}
	r := runUDP(t, Config{Settings: set})
	tests := []struct {
		name   string
		client byte
		to     netip.AddrPort
		want   error
	}{
		{"not-a-client", 6, relayAddr(r, 1), syscall.EHOSTUNREACH},
		{"no-mapping", 5, relayAddr(r, 99), syscall.ECONNREFUSED},
		{"destination", 5, relayAddr(r, 2), syscall.EHOSTUNREACH},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if os.Geteuid() != 0 && os.Getenv("E2E_REQUIRED") != "1" {
				t.Skip("SKIPPED: needs CAP_NET_RAW")
			}
			c := dialFrom(t, tt.client, tt.to)
			send(t, c, []byte("hello"))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
				t.Errorf("got %v; want %v", err, tt.want)
			}
		})
	}
	if got := r.Stats().Refused[UDP]; os.Geteuid() == 0 && got != 3 {
		t.Errorf("got %d refused; want 3", got)
	}
}

// TestUDPPorts has the same client at two ports: each has a flow of its own, and what comes back leaves from the port
// that was asked.
func TestUDPPorts(t *testing.T) {
	other := netns.Port(t)
	r := runUDP(t, Config{Ports: []uint16{netns.Port(t), other}})
	for _, port := range r.cfg.Ports {
		at := netip.AddrPortFrom(relayAddr(r, 1).Addr(), port)
		dst := soon(t, listenReusing(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)))
		confirm(t, dialFrom(t, 5, at), dst)
	}
	if got := r.Stats().Active[UDP]; got != 2 {
		t.Errorf("got %d flows; want one at each port", got)
	}
}

// TestOpenUDP has an entrance of another kind open a flow: it leaves from the egress, counts like any other, and gives
// everything back in the end.
func TestOpenUDP(t *testing.T) {
	r := runUDP(t, Config{Ports: []uint16{netns.Port(t)}})
	dst := listenReusing(t, netip.MustParseAddrPort("127.0.0.1:0"))
	to := dst.LocalAddr().(*net.UDPAddr).AddrPort()
	g, err := r.Open(UDP, netip.MustParseAddr("127.0.0.5"), to)
	if err != nil {
		t.Fatal(err)
	}
	c, err := g.DialUDP()
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, []byte("hello"))
	b := make([]byte, 16)
	n, from, err := soon(t, dst).ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != "hello" || !testSettings().Egress[0].Contains(from.Addr()) {
		t.Errorf("got %q from %s, %v; want hello from the egress", b[:n], from, err)
	}
	if n := len(r.udp.tuples.taken); n != 1 {
		t.Errorf("got %d sources taken; want one", n)
	}
	c.Close()
	g.Release()
	if n := len(r.udp.tuples.taken); n != 0 {
		t.Errorf("got %d sources taken after the end; want none", n)
	}
}
