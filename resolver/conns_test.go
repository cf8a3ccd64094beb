package resolver

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/rs/zerolog"
)

// testSlot returns the account of a connection that no listener has accepted.
func testSlot(f *frontend, t Transport) *connection {
	return f.conns.take(t, netip.MustParseAddr("192.0.2.1"), false)
}

// idle opens n connections over t from the addresses of from, one after the other, and asks nothing on them.
func idle(tb testing.TB, s *testServer, tr Transport, from []netip.Addr, n int) {
	tb.Helper()
	for i := range n {
		local := from[i%len(from)]
		server := addrOf(s, tr, local.Is6())
		switch tr {
		case TCP, DoT, DoH:
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: local.AsSlice()}}
			c, err := d.DialContext(tb.Context(), "tcp", server.String())
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { c.Close() })
		default:
			idleQUIC(tb, s, tr, local, server)
		}
	}
}

func idleQUIC(tb testing.TB, s *testServer, tr Transport, local netip.Addr, server netip.AddrPort) {
	tb.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.AsSlice()})
	if err != nil {
		tb.Fatal(err)
	}
	proto := map[Transport]string{DoQ: "doq", DoH3: "h3"}[tr]
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Second)
	defer cancel()
	c, err := quic.Dial(ctx, pc, net.UDPAddrFromAddrPort(server), s.clientTLS(proto), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.CloseWithError(0, ""); pc.Close() })
}

// addrOf returns where s listens for t.
func addrOf(s *testServer, t Transport, v6 bool) netip.AddrPort {
	addrs := map[Transport][]netip.AddrPort{
		TCP: s.Addrs().Do53, DoT: s.Addrs().DoT, DoH: s.Addrs().DoH, DoH3: s.Addrs().DoH, DoQ: s.Addrs().DoQ,
	}[t]
	for _, a := range addrs {
		if a.Addr().Is6() == v6 {
			return a
		}
	}
	panic("no listener of that family")
}

// overConnections runs body for each transport with connections.
func overConnections(t *testing.T, body func(t *testing.T, tr transport)) {
	overAll(t, func(t *testing.T, tr transport) {
		if tr.is != UDP {
			body(t, tr)
		}
	})
}

// With every connection taken by idle ones, whoever comes is served, over every transport. A connection with a query
// under way is not taken for that.
func TestIdlestGivesWay(t *testing.T) {
	for name, l := range map[string]Limits{
		"in-all":     {Connections: 20},
		"per-client": {ConnectionsPerClient: 20},
		"sockets":    {Sockets: 20},
	} {
		t.Run(name, func(t *testing.T) {
			overConnections(t, func(t *testing.T, tr transport) {
				l.IdleTimeout = time.Hour
				s := startServer(t, func(c *Config) { c.Limits = l })
				slow := make(chan error, 1)
				ask := dialTCP(t, s)
				go func() { _, err := ask(t.Context(), wireQuery(t, "slow.example", 1)); slow <- err }()
				eventually(t, "a query is under way", func() bool { return s.Stats().InFlight == 1 })
				idle(t, s, TCP, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, 30)
				for range 3 {
					if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
						t.Error(err)
					}
				}
				eventually(t, "the rest is within the limit", func() bool { return s.Stats().Connections[TCP] <= 20 })
				close(s.fake.release)
				if err := <-slow; err != nil {
					t.Errorf("the query under way: %v", err)
				}
			})
		})
	}
}

// However many connections one transport has, and however busy they are, some are left for each of the others.
func TestTransportShare(t *testing.T) {
	overConnections(t, func(t *testing.T, tr transport) {
		s := startServer(t, func(c *Config) {
			c.Limits = Limits{Connections: 4 * transportShare, IdleTimeout: time.Hour, QueryTimeout: time.Hour}
		})
		full := transport{is: TCP, dial: dialTCP}
		if tr.is == TCP {
			full = transport{is: DoT, dial: dialDoT}
		}
		const left = 4 * 4 // of each of the four others
		for n := range 4*transportShare - left {
			ask := full.dial(t, s)
			go ask(t.Context(), wireQuery(t, "slow.example", 1))
			eventually(t, "its query is under way", func() bool { return s.Stats().InFlight == n+1 })
		}
		tryRefused(t, s, full)
		if _, err := tr.dial(t, s)(t.Context(), wireQuery(t, "now.example", 1)); err != nil {
			t.Error(err)
		}
		close(s.fake.release)
	})
}

// A query that is under way when its connection has reached its greatest age is answered, and then the connection ends
// in good order.
func TestConnectionAge(t *testing.T) {
	overConnections(t, func(t *testing.T, tr transport) {
		s := startServer(t, func(c *Config) {
			c.Limits = Limits{ConnectionAge: 50 * time.Millisecond, IdleTimeout: time.Hour, QueryTimeout: time.Hour}
		})
		ask := tr.dial(t, s)
		slow := make(chan error, 1)
		go func() { _, err := ask(t.Context(), wireQuery(t, "slow.example", 1)); slow <- err }()
		eventually(t, "a query is under way", func() bool { return s.Stats().InFlight == 1 })
		eventually(t, "the connection is old", func() bool { return retiredConnections(s) == 1 })
		close(s.fake.release)
		if err := <-slow; err != nil {
			t.Errorf("the query under way: %v", err)
		}
		// A client of HTTP/1.1, and of HTTP/2 as the library serves it, learns that with the next response.
		if tr.is == DoH {
			_, _ = ask(t.Context(), wireQuery(t, "now.example", 2))
		}
		eventually(t, "the connection has ended", func() bool { return s.Stats().Connections[tr.is] == 0 || tr.is == DoH && retiredConnections(s) == 0 })
	})
}

func retiredConnections(s *testServer) (n int) {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	for _, g := range s.conns.byTransport {
		for _, c := range g.members {
			if c.retired {
				n++
			}
		}
	}
	return n
}

// An old connection over TCP and DoT ends with a FIN, over DoQ with DOQ_NO_ERROR.
func TestConnectionAgeEnds(t *testing.T) {
	s := startServer(t, func(c *Config) {
		c.Limits = Limits{ConnectionAge: 50 * time.Millisecond, IdleTimeout: time.Hour}
	})
	for name, c := range map[string]net.Conn{"tcp": tcpConn(t, s.Addrs().Do53[0]), "dot": dotConn(t, s)} {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: got %v; want the end", name, err)
		}
	}
	if got := closeCode(t, quicConn(t, s, s.Addrs().DoQ[0], "doq")); got != doqNoError {
		t.Errorf("doq: got error code %d; want %d", got, doqNoError)
	}
	if got := closeCode(t, quicConn(t, s, s.Addrs().DoH[0], "h3")); got != 0x100 {
		t.Errorf("h3: got error code %#x; want H3_NO_ERROR", got)
	}
}

// The fuller the table is, the shorter connections may be idle.
func TestIdleTimeShrinks(t *testing.T) {
	l := Limits{Connections: 80, ConnectionsPerClient: 80}.withDefaults()
	f := newFrontend(newFake(), l, zerolog.Nop())
	want := map[int]time.Duration{0: 8 * time.Second, 40: 8 * time.Second, 60: 4500 * time.Millisecond, 80: time.Second}
	for n := 0; n <= 80; n++ {
		if w, ok := want[n]; ok && f.conns.idleTime(8*time.Second) != w {
			t.Errorf("%d of 80: got %v; want %v", n, f.conns.idleTime(8*time.Second), w)
		}
		testSlot(f, TCP)
	}
}

func TestStreamIdleShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, ended := pipeStream(t, newFake(), Limits{Connections: 1, IdleTimeout: 8 * time.Second})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !isDone(ended) {
			t.Error("an idle connection has not ended after an eighth of the time, though all are taken")
		}
	})
}

// Every connection is counted once in each group, and the groups are empty when all have left.
func TestConnTableAccounts(t *testing.T) {
	l := newConnTable(&[]Limits{Limits{Connections: 3, ConnectionsPerClient: 2}.withDefaults()}[0])
	addrs := []string{"2001:db8::1", "2001:db8::ffff:0:0:2", "192.0.2.1"}
	var conns []*connection
	for _, a := range addrs {
		c := l.take(TCP, netip.MustParseAddr(a), false)
		if c == nil {
			t.Fatalf("%s: got no room", a)
		}
		c.busy.Add(1)
		conns = append(conns, c)
	}
	for _, a := range []string{"2001:db8::3", "192.0.2.2"} {
		if l.take(TCP, netip.MustParseAddr(a), false) != nil {
			t.Errorf("%s: got a connection over the limit", a)
		}
	}
	conns[0].busy.Add(-1)
	conns = append(conns, l.take(TCP, netip.MustParseAddr("198.51.100.1"), false))
	for _, c := range conns {
		c.leave()
		c.leave()
	}
	if l.total.Load() != 0 || l.sockets != 0 || l.leaving != 0 || len(l.byPrefix) != 0 || len(l.byTransport[TCP].members) != 0 {
		t.Errorf("got %d connections, %d sockets, %d leaving, prefixes %v; want none", l.total.Load(), l.sockets, l.leaving, l.byPrefix)
	}
}

// However many outsiders connect, clients find room, and lose no connection to them.
func TestConnTableOutsiders(t *testing.T) {
	limits := Limits{Connections: 4 * outsidersShare, ConnectionsPerClient: 4}.withDefaults()
	l := newConnTable(&limits)
	client := l.take(TCP, netip.MustParseAddr("192.0.2.1"), false)
	outsider, admitted := netip.MustParseAddr("203.0.113.1"), []*connection{}
	for range l.max {
		if c := l.take(TCP, outsider, true); c != nil {
			admitted = append(admitted, c)
		}
		outsider = outsider.Next()
	}
	if len(admitted) != 4 || !l.nearLimit(outsider, true) || l.nearLimit(netip.MustParseAddr("192.0.2.1"), false) {
		t.Errorf("got %d outsiders; want 4, and the limit near for them alone", len(admitted))
	}
	if client.removed {
		t.Error("a client has lost its connection to outsiders")
	}
	admitted[0].leave()
	if l.take(TCP, outsider, true) == nil {
		t.Error("got no room for an outsider after one has left")
	}
}

// A connection that gives way before its owner has said how it can be ended ends as soon as that is said.
func TestGivesWayAtOnce(t *testing.T) {
	for _, leaving := range []int{0, 1000} {
		synctest.Test(t, func(t *testing.T) {
			l := Limits{Connections: 20}.withDefaults()
			f := newFrontend(newFake(), l, zerolog.Nop())
			f.conns.leaving = leaving
			first := testSlot(f, TCP)
			for range 20 {
				time.Sleep(time.Second)
				testSlot(f, TCP)
			}
			time.Sleep(time.Minute)
			ended := false
			first.endBy(time.Hour, connEnds{retire: func() {}, kill: func() { ended = true }})
			synctest.Wait()
			if !ended {
				t.Error("it has not ended")
			}
		})
	}
}
