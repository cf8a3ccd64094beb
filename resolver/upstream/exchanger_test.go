package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// testQuery returns the query for the address of www.example as upstreams get it, and answerTo the answer.
func testQuery(t testing.TB) []byte {
	return wire.AppendQuery(nil, testKey(t))
}

func answerTo(t testing.TB, query []byte) []byte {
	t.Helper()
	m := new(dns.Msg).SetReply(dnstest.Unpack(t, query))
	m.Answer = []dns.RR{dnstest.RR("www.example. 300 IN A 198.51.100.1")}
	return dnstest.Pack(t, m)
}

// listenBoth listens on one port of anyPort over TCP and UDP, which takes a few tries if others use ports as well.
func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	var err error
	for range 20 {
		ln := listenTCP(t, anyPort.String())
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", ln.Addr().String()); err == nil {
			return ln, pc
		}
	}
	t.Fatal(err)
	return nil, nil
}

// udpServer serves UDP on anyPort until the test ends.
func udpServer(t *testing.T, pc net.PacketConn, serve func(query []byte, from net.Addr)) netip.AddrPort {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, wire.MaxMessage)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			serve(bytes.Clone(buf[:n]), from)
		}
	})
	t.Cleanup(func() {
		pc.Close()
		wg.Wait()
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func listenUDP(t *testing.T) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", anyPort.String())
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// streamServer serves connections to ln until the test ends; serve gets the number of the connection.
func streamServer(t *testing.T, ln net.Listener, serve func(c net.Conn, n int)) netip.AddrPort {
	t.Helper()
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer c.Close()
				serve(c, n)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		stop()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func listenTCP(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// echo answers everything that comes over c.
func echo(t testing.TB) func(c net.Conn, n int) {
	return func(c net.Conn, n int) {
		for {
			query, err := dnstest.ReadFrame(c)
			if err != nil {
				return
			}
			c.Write(dnstest.Frame(answerTo(t, query)))
		}
	}
}

// exchange sends the test query through x and checks that what comes back is an answer to it.
func exchange(t testing.TB, x Exchanger) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := x.Exchange(ctx, testQuery(t))
	if err != nil {
		return err
	}
	if m := dnstest.Unpack(t, reply); len(m.Answer) != 1 {
		t.Errorf("got\n%v\nwant an answer", m)
	}
	return nil
}

func TestUDPUpstreamPassesOverStrays(t *testing.T) {
	pc, other := listenUDP(t), listenUDP(t)
	defer other.Close()
	addr := udpServer(t, pc, func(query []byte, from net.Addr) {
		good := answerTo(t, query)
		for name, forge := range map[string]func(b []byte) []byte{
			"wrong-id":       func(b []byte) []byte { b[0]++; return b },
			"wrong-name":     func(b []byte) []byte { b[13] = 'v'; return b },
			"wrong-type":     func(b []byte) []byte { b[26] = byte(dns.TypeTXT); return b },
			"a-query":        func(b []byte) []byte { b[2] &^= wire.FlagQR; return b },
			"other-opcode":   func(b []byte) []byte { b[2] |= dns.OpcodeUpdate << 3; return b },
			"no-question":    func(b []byte) []byte { b[5] = 0; return b[:wire.HeaderLen] },
			"two-questions":  func(b []byte) []byte { b[5] = 2; return b },
			"cut":            func(b []byte) []byte { return b[:20] },
			"header-cut":     func(b []byte) []byte { return b[:3] },
			"empty":          func(b []byte) []byte { return nil },
			"garbage":        func(b []byte) []byte { return bytes.Repeat([]byte{0xc0}, 100) },
			"name-in-circle": func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b },
		} {
			if _, err := pc.WriteTo(forge(bytes.Clone(good)), from); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// From elsewhere, what would be right had it come from the upstream.
		spoof := dnstest.Unpack(t, good)
		spoof.Answer = append(spoof.Answer, dnstest.RR("www.example. 300 IN A 203.0.113.66"))
		other.WriteTo(dnstest.Pack(t, spoof), from)
		pc.WriteTo(good, from)
	})
	if err := exchange(t, newUDP(addr, testGroup(t))); err != nil {
		t.Error(err)
	}
}

func TestUDPUpstreamGivesUpOnAFlood(t *testing.T) {
	pc := listenUDP(t)
	addr := udpServer(t, pc, func(query []byte, from net.Addr) {
		query[0]++
		for range 2 * maxStrays {
			pc.WriteTo(answerTo(t, query), from)
		}
	})
	if err := exchange(t, newUDP(addr, testGroup(t))); !errors.Is(err, errSpoofed) {
		t.Errorf("got %v; want %v", err, errSpoofed)
	}
}

func TestUDPUpstreamDrawsPortsAndIDs(t *testing.T) {
	const queries = 50
	ids, ports := make(map[uint16]bool), make(map[string]bool)
	pc := listenUDP(t)
	addr := udpServer(t, pc, func(query []byte, from net.Addr) {
		ids[binary.BigEndian.Uint16(query)] = true
		ports[from.String()] = true
		pc.WriteTo(answerTo(t, query), from)
	})
	u := newUDP(addr, testGroup(t))
	for range queries {
		if err := exchange(t, u); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) < queries-2 || len(ports) < queries-5 {
		t.Errorf("got %d IDs, %d ports for %d queries", len(ids), len(ports), queries)
	}
}

func TestUDPUpstreamFallsBackToTCP(t *testing.T) {
	for name, reply := range map[string]func(query []byte) []byte{
		"truncated": func(query []byte) []byte {
			m := new(dns.Msg).SetReply(dnstest.Unpack(t, query))
			m.Truncated = true
			return dnstest.Pack(t, m)
		},
		"longer-than-asked-for": func(query []byte) []byte {
			return append(answerTo(t, query), make([]byte, wire.MaxUDP)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln, pc := listenBoth(t)
			streamServer(t, ln, echo(t))
			addr := udpServer(t, pc, func(query []byte, from net.Addr) { pc.WriteTo(reply(query), from) })
			if err := exchange(t, newUDP(addr, testGroup(t))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUDPUpstreamTakesAnErrorWithoutQuestion(t *testing.T) {
	pc := listenUDP(t)
	addr := udpServer(t, pc, func(query []byte, from net.Addr) {
		pc.WriteTo([]byte{query[0], query[1], wire.FlagQR, dns.RcodeRefused, 0, 0, 0, 0, 0, 0, 0, 0}, from)
	})
	reply, err := newUDP(addr, testGroup(t)).Exchange(t.Context(), testQuery(t))
	if len(reply) != wire.HeaderLen || err != nil {
		t.Errorf("got %x, %v; want the header", reply, err)
	}
}

func TestUDPUpstreamBoundsItsSockets(t *testing.T) {
	u := newUDP(anyPort, testGroup(t))
	for range maxSockets {
		u.sockets <- struct{}{}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	if _, err := u.Exchange(ctx, testQuery(t)); !errors.Is(err, errTest) {
		t.Errorf("got %v; want %v without a socket", err, errTest)
	}
}

func TestUDPUpstreamNotThere(t *testing.T) {
	pc := listenUDP(t)
	addr := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	pc.Close()
	if err := exchange(t, newUDP(addr, testGroup(t))); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v; want it refused", err)
	}
}

func TestUDPUpstreamEndsWithTheContext(t *testing.T) {
	asked := make(chan struct{})
	addr := udpServer(t, listenUDP(t), func([]byte, net.Addr) { close(asked) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := newUDP(addr, testGroup(t)).Exchange(ctx, testQuery(t)); err == nil {
		t.Error("got no error")
	}
}

func TestTLSUpstream(t *testing.T) {
	cert, roots := dnstest.Certificate(t)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}}
	var mu sync.Mutex
	var resumed []bool
	addr := streamServer(t, tls.NewListener(listenTCP(t, anyPort.String()), config), func(c net.Conn, n int) {
		query, err := dnstest.ReadFrame(c)
		if err != nil {
			return // the client does not trust us
		}
		if len(query)%wire.QueryBlock != 0 {
			t.Errorf("got a query of %d octets; want a multiple of %d", len(query), wire.QueryBlock)
		}
		st := c.(*tls.Conn).ConnectionState()
		if st.NegotiatedProtocol != "dot" {
			t.Errorf("got protocol %q; want dot", st.NegotiatedProtocol)
		}
		mu.Lock()
		resumed = append(resumed, st.DidResume)
		mu.Unlock()
		c.Write(dnstest.Frame(answerTo(t, query)))
	})
	for name, row := range map[string]struct {
		name string
		ok   bool
	}{"by-name": {"dns.example", true}, "by-address": {"", true}, "other-name": {"other.example", false}} {
		c := Config{Protocol: TLS, Addr: addr, Name: row.name, RootCAs: roots}
		if err := exchange(t, newTLS(c, testGroup(t))); (err == nil) != row.ok {
			t.Errorf("%s: got %v; want success %t", name, err, row.ok)
		}
	}
	resumed = nil
	u := newTLS(Config{Protocol: TLS, Addr: addr, Name: "dns.example", RootCAs: roots}, testGroup(t))
	for range 2 {
		if err := exchange(t, u); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []bool{false, true}; !slices.Equal(resumed, want) {
		t.Errorf("got resumption %t; want %t", resumed, want)
	}
}

func newTCPUpstream(t *testing.T, addr netip.AddrPort) *streamExchanger {
	return newUDP(addr, testGroup(t)).tcp
}

func TestStreamUpstreamPipelines(t *testing.T) {
	const queries = 20
	addr := streamServer(t, listenTCP(t, anyPort.String()), func(c net.Conn, n int) {
		if n > 1 {
			t.Errorf("got connection %d; want one", n)
		}
		var replies [][]byte
		ids := make(map[uint16]bool)
		for range queries {
			query, err := dnstest.ReadFrame(c)
			if err != nil {
				t.Error(err)
				return
			}
			ids[binary.BigEndian.Uint16(query)] = true
			replies = append(replies, dnstest.Frame(answerTo(t, query)))
		}
		if len(ids) != queries {
			t.Errorf("got %d IDs for %d queries", len(ids), queries)
		}
		slices.Reverse(replies)
		c.Write(bytes.Join(replies, nil))
		c.Read(make([]byte, 1)) // until the other side closes
	})
	u := newTCPUpstream(t, addr)
	var wg sync.WaitGroup
	for range queries {
		wg.Go(func() {
			if err := exchange(t, u); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestStreamUpstreamReconnects(t *testing.T) {
	addr := streamServer(t, listenTCP(t, anyPort.String()), func(c net.Conn, n int) {
		if n > 1 {
			echo(t)(c, n)
			return
		}
		query, err := dnstest.ReadFrame(c)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write(dnstest.Frame(answerTo(t, query)))
		dnstest.ReadFrame(c) // and closes instead of answering
	})
	u := newTCPUpstream(t, addr)
	for i := range 3 {
		if err := exchange(t, u); err != nil {
			t.Errorf("query %d: %v", i, err)
		}
	}
}

func TestStreamUpstreamAgainstGarbage(t *testing.T) {
	for name, row := range map[string]struct {
		serve func(c net.Conn, query []byte)
		ok    bool
	}{
		"closed":          {func(c net.Conn, query []byte) {}, false},
		"short-message":   {func(c net.Conn, query []byte) { c.Write(dnstest.Frame(query[:5])) }, false},
		"empty-message":   {func(c net.Conn, query []byte) { c.Write([]byte{0, 0}) }, false},
		"length-then-end": {func(c net.Conn, query []byte) { c.Write([]byte{0xff, 0xff, 1}) }, false},
		"not-dns":         {func(c net.Conn, query []byte) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, false},
		"stale-first": {func(c net.Conn, query []byte) {
			stale := answerTo(t, query)
			stale[0]++
			c.Write(append(dnstest.Frame(stale), dnstest.Frame(answerTo(t, query))...))
		}, true},
		"other-question-first": {func(c net.Conn, query []byte) {
			other := answerTo(t, query)
			other[13] = 'v'
			c.Write(append(dnstest.Frame(other), dnstest.Frame(answerTo(t, query))...))
		}, true},
		"stale-for-ever": {func(c net.Conn, query []byte) {
			stale := answerTo(t, query)
			stale[0]++
			for range maxStale + 1 {
				c.Write(dnstest.Frame(stale))
			}
			c.Read(make([]byte, 1))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			addr := streamServer(t, listenTCP(t, anyPort.String()), func(c net.Conn, n int) {
				if query, err := dnstest.ReadFrame(c); err == nil {
					row.serve(c, query)
				}
			})
			if err := exchange(t, newTCPUpstream(t, addr)); (err == nil) != row.ok {
				t.Errorf("got %v; want success %t", err, row.ok)
			}
		})
	}
}

// pipes is a network in memory: it hands the far ends of the connections that dial makes to serve.
func pipes(t *testing.T, g *Group, serve func(c net.Conn, n int)) *streamExchanger {
	var n atomic.Int64 // several may be dialled at once
	return newStream(g, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go serve(far, int(n.Add(1)))
		t.Cleanup(func() { far.Close() })
		return near, nil
	})
}

func (u *streamExchanger) open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.conns)
}

func TestStreamUpstreamIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := pipes(t, testGroup(t), echo(t))
		for range 3 {
			if err := exchange(t, u); err != nil {
				t.Fatal(err)
			}
			time.Sleep(idleConn / 2)
		}
		synctest.Wait()
		if got := u.open(); got != 1 {
			t.Errorf("got %d connections; want the one that is in use", got)
		}
		time.Sleep(idleConn)
		synctest.Wait()
		if got := u.open(); got != 0 {
			t.Errorf("got %d connections; want the idle one closed", got)
		}
	})
}

func TestStreamUpstreamLeavesDeadConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := pipes(t, testGroup(t), func(c net.Conn, n int) {
			if n > 1 {
				echo(t)(c, n)
			}
			io.Copy(io.Discard, c) // takes all, says nothing
		})
		first := make(chan error, 1)
		go func() { first <- exchange(t, u) }()
		time.Sleep(stallConn + time.Millisecond)
		if err := exchange(t, u); err != nil {
			t.Errorf("with a stalled connection: %v", err)
		}
		if got := u.open(); got != 2 {
			t.Errorf("got %d connections; want 2", got)
		}
		if err := <-first; err == nil {
			t.Error("got no error from a dead connection")
		}
		synctest.Wait()
		if got := u.open(); got != 1 {
			t.Errorf("got %d connections; want the dead one closed", got)
		}
	})
}

func TestStreamUpstreamRetires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		u := pipes(t, testGroup(t), func(c net.Conn, n int) {
			query, err := dnstest.ReadFrame(c)
			if err != nil {
				return
			}
			<-release
			c.Write(dnstest.Frame(answerTo(t, query)))
		})
		done := make(chan error, 1)
		go func() { done <- exchange(t, u) }()
		synctest.Wait()
		u.Retire()
		if got := u.open(); got != 1 {
			t.Fatalf("got %d connections; want the one that is waited for", got)
		}
		close(release)
		if err := <-done; err != nil {
			t.Errorf("got %v; want an answer also from a retired upstream", err)
		}
		if got := u.open(); got != 0 {
			t.Errorf("got %d connections; want none", got)
		}
	})
}

func TestStreamUpstreamForgetsWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := pipes(t, testGroup(t), func(c net.Conn, n int) { io.Copy(io.Discard, c) })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 * busyConn * maxConns {
			wg.Go(func() { u.Exchange(ctx, testQuery(t)) })
		}
		synctest.Wait()
		if got := u.open(); got != maxConns {
			t.Errorf("got %d connections; want %d", got, maxConns)
		}
		cancel()
		wg.Wait()
		synctest.Wait() // the connections may still be at it
		for _, c := range u.conns {
			if len(c.pending) != 0 {
				t.Errorf("got %d queries pending; want none", len(c.pending))
			}
		}
	})
}

// anyPort is an address at which a port is free.
var anyPort = netip.MustParseAddrPort("127.0.0.1:0")
