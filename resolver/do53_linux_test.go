package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// fill makes b look as if n copies of msg had been received.
func (b *batch) fill(n int, msg []byte) {
	for i := range n {
		sa := &b.names[i]
		*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: 0x3500}
		sa.Addr = netip.MustParseAddr("2001:db8::1").As16()
		b.in[i].Len = uint32(copy(b.bufs[i][:], msg))
	}
}

func TestBatchAllocates(t *testing.T) {
	b := newBatch(netip.MustParseAddrPort("[2001:db8::53]:53"))
	fake := newFake()
	msg := wireQuery(t, "now.example", 1)
	later := func(int) { t.Error("a cached query waits") }
	got := testing.AllocsPerRun(100, func() {
		b.fill(batchSize, msg)
		if n := b.answer(fake, batchSize, later); n != batchSize {
			t.Errorf("got %d replies; want %d", n, batchSize)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations for %d cached answers; want 0", got, batchSize)
	}
}

// The replies of a batch go to those who asked, also when the buffer had to grow between them.
func TestBatchGrows(t *testing.T) {
	b := newBatch(netip.MustParseAddrPort("[2001:db8::53]:53"))
	b.fill(3, nil)
	for i, name := range []string{"large.example", "drop.example", "now.example"} {
		b.in[i].Len = uint32(copy(b.bufs[i][:], wireQuery(t, name, uint16(i))))
	}
	if n := b.answer(newFake(), 3, nil); n != 2 {
		t.Fatalf("got %d replies; want 2", n)
	}
	for i, want := range []struct {
		from, length int
	}{{0, largeReply}, {2, len(wireQuery(t, "now.example", 2)) + 1}} {
		h := b.out[i].Hdr
		if h.Name != b.in[want.from].Hdr.Name {
			t.Errorf("reply %d does not go to the client of datagram %d", i, want.from)
		}
		if got := int(h.Iov.Len); got != want.length {
			t.Errorf("reply %d: got %d octets; want %d", i, got, want.length)
		}
		var id [2]byte
		copy(id[:], bytes.Clone(unsafeBytes(h.Iov)))
		if got := binary.BigEndian.Uint16(id[:]); int(got) != want.from {
			t.Errorf("reply %d: got ID %d; want %d", i, got, want.from)
		}
	}
}

func TestUDPAllocates(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Listen = Listen{Do53: c.Listen.Do53} })
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := wireQuery(t, "now.example", 1)
	buf := make([]byte, 512)
	const queries = 5000
	ask := func() {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range queries {
		ask()
	}
	runtime.ReadMemStats(&after)
	// The runtime itself allocates now and then.
	if got := after.Mallocs - before.Mallocs; got > queries/20 {
		t.Errorf("got %d allocations for %d cached answers; want about none", got, queries)
	}
}

// The reply comes from the address that was asked: a connected socket takes no other.
func TestWildcardSource(t *testing.T) {
	for _, test := range []struct {
		listen string
		asked  []string
	}{
		{"0.0.0.0:0", []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"}},
		{"[::]:0", []string{"127.0.0.1", "127.0.0.2", "::1"}},
	} {
		t.Run(test.listen, func(t *testing.T) {
			s := startServer(t, func(c *Config) {
				wild := []netip.AddrPort{netip.MustParseAddrPort(test.listen)}
				c.Listen = Listen{Do53: wild, DoT: wild, DoQ: wild, DoH: []netip.AddrPort{wild[0], wild[0]}}
			})
			for _, asked := range test.asked {
				checkSource(t, s, netip.MustParseAddr(asked))
			}
		})
	}
}

func checkSource(t *testing.T, s *testServer, asked netip.Addr) {
	t.Helper()
	at := func(a []netip.AddrPort) (moved []netip.AddrPort) {
		for _, ap := range a {
			moved = append(moved, netip.AddrPortFrom(asked, ap.Port()))
		}
		return moved
	}
	view := *s
	srv := *s.Server
	view.Server = &srv
	a := s.Addrs()
	srv.addrs = Listen{Do53: at(a.Do53), DoT: at(a.DoT), DoQ: at(a.DoQ), DoH: at(a.DoH)}
	for _, tr := range transports {
		ask := tr.dial(t, &view)
		for _, name := range []string{"now.example", "late.example"} {
			if _, err := ask(t.Context(), wireQuery(t, name, 1)); err != nil {
				t.Fatalf("%s at %s, %s: %v", tr.name, asked, name, err)
			}
			if got := s.fake.last.Load().local.Addr(); got != asked {
				t.Errorf("%s at %s, %s: got local address %v", tr.name, asked, name, got)
			}
		}
	}
}

func TestSocketsPerAddress(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Listen = Listen{Do53: c.Listen.Do53} })
	d := s.services[1].service.(*datagrams)
	if got, want := len(d.socks), runtime.GOMAXPROCS(0); got != want {
		t.Errorf("got %d sockets; want %d", got, want)
	}
}

// A datagram too long to be a query is answered by its header.
func TestOversizeDatagram(t *testing.T) {
	s := startServer(t, nil)
	ask := dialUDP(t, s)
	msg := append(wireQuery(t, "now.example", 5), make([]byte, 2*datagramSize)...)
	got, err := ask(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	if want := wantReply(msg[:wire.HeaderLen], UDP); !bytes.Equal(got, want) {
		t.Errorf("got %x; want %x", got, want)
	}
}

// A flood of what has to wait takes no more than its slots, and what need not wait is still answered. (A17)
func TestUDPFlood(t *testing.T) {
	const slots = 50
	s := startServer(t, func(c *Config) { c.Limits.InFlight = slots })
	c, err := net.Dial("udp", s.Addrs().Do53[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	goroutines := runtime.NumGoroutine()
	msg := wireQuery(t, "slow.example", 1)
	for range 20000 {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	ask := dialUDP(t, s)
	eventually(t, "an answer gets through", func() bool { // a datagram may find the queue full
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := ask(ctx, wireQuery(t, "now.example", 2))
		return err == nil
	})
	if got := s.fake.maxAnswering.Load(); got > slots {
		t.Errorf("got %d queries under way; want at most %d", got, slots)
	}
	if got := runtime.NumGoroutine() - goroutines; got > slots+20 {
		t.Errorf("got %d more goroutines; want at most %d", got, slots+20)
	}
	if s.Stats().Shed == 0 {
		t.Error("got nothing shed; want most")
	}
	close(s.fake.release)
	eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
}

// One client whose queries nobody answers takes only its own share: another's query is still taken. (A17)
func TestUDPFloodOfOneClient(t *testing.T) {
	const share = 10
	s := startServer(t, func(c *Config) { c.Limits.InFlight, c.Limits.InFlightPerClient = 5*share, share })
	server := net.UDPAddrFromAddrPort(s.Addrs().Do53[0])
	slow := wireQuery(t, "slow.example", 1)
	send := func(client byte, queries int) {
		t.Helper()
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, client)}, server)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range queries {
			if _, err := c.Write(slow); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(2, 10*share)
	eventually(t, "the rest is shed", func() bool { return s.Stats().Shed == 9*share })
	if got := s.Stats().InFlight; got != share {
		t.Errorf("got %d queries in flight; want the client's share of %d", got, share)
	}
	send(3, 1)
	eventually(t, "the other client's query is taken", func() bool { return s.Stats().InFlight == share+1 })
	close(s.fake.release)
	eventually(t, "nothing is in flight", func() bool { return s.Stats().InFlight == 0 })
}

func TestAsked(t *testing.T) {
	v4 := control{}
	h := v4.header(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	copy(v4.bytes()[unix.CmsgLen(0):], []byte{9, 0, 0, 0, 192, 0, 2, 53, 192, 0, 2, 54})
	if got, ok := asked(v4.bytes(), unix.CmsgSpace(unix.SizeofInet4Pktinfo)); !ok || got != netip.MustParseAddr("192.0.2.53") {
		t.Errorf("got %v, %t; want 192.0.2.53", got, ok)
	}
	if v4.bytes()[unix.CmsgLen(0)] != 0 {
		t.Error("the interface is still there")
	}
	for _, length := range []int{0, 8, unix.CmsgLen(unix.SizeofInet4Pktinfo) - 1} {
		if got, ok := asked(v4.bytes(), length); ok {
			t.Errorf("cut to %d octets: got %v; want nothing", length, got)
		}
	}
	h.Type = unix.IP_TTL
	if got, ok := asked(v4.bytes(), controlSize); ok {
		t.Errorf("other message: got %v; want nothing", got)
	}
}

// A reader that the scheduler stops at any moment still ends.
func TestStopBeforeRun(t *testing.T) {
	s, err := newServer(Config{Listen: Listen{Do53: []netip.AddrPort{loopback}}}, newFake())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("got %v; want nil", err)
	}
}
