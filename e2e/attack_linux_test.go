package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// number returns a metric as a number.
func (d *daemon) number(name string) float64 {
	d.t.Helper()
	v, err := strconv.ParseFloat(d.metric(name), 64)
	if err != nil {
		d.t.Fatalf("metric %s: %v", name, err)
	}
	return v
}

// waitMetric waits until a metric is at most limit.
func (d *daemon) waitMetric(name string, limit float64) {
	d.t.Helper()
	poll(d.t, 15*time.Second, name, func() error {
		if n := d.number(name); n > limit {
			return fmt.Errorf("got %v; want at most %v", n, limit)
		}
		return nil
	})
}

func connections(transport string) string {
	return fmt.Sprintf("cfrd_connections{transport=%q}", transport)
}

// startAttacked starts a cfrd whose upstream is a black hole but for names that begin with "warm".
func (l *lab) startAttacked(limits string) (*daemon, *authority) {
	l.t.Helper()
	ca := l.newAuthority()
	l.blackHole()
	return l.startCfrd(l.config(ca, settings{more: "limits: {" + limits + "}"})), ca
}

// wantServed asks, over every transport, for what is in the cache, or comes into it, and for what a zone file has.
func (l *lab) wantServed(ca *authority, when string) {
	l.t.Helper()
	for _, c := range l.rawClients(ca) {
		for _, name := range []string{"warm.example", adn} {
			if got := c.ask(l.t.Context(), question(name)); len(got) < 12 || got[7] != 1 {
				l.t.Errorf("%s %s: %s: got %x; want an answer", c.name, when, name, got)
			}
		}
	}
}

// TestConnectionLimit opens one connection more than a client may have; it is served, and the one that has been idle for
// longest has ended.
func TestConnectionLimit(t *testing.T) {
	l := newLab(t)
	const limit = 3
	d, ca := l.startAttacked(fmt.Sprintf("connections_per_client: %d", limit))
	for _, h := range l.holders(ca) {
		t.Run(h.name, func(t *testing.T) {
			try := func() (*held, error) {
				c, err := h.open()
				if err != nil {
					return nil, err
				}
				if err := c.ask(question("warm.example")); err != nil {
					c.end()
					return nil, err
				}
				return c, nil
			}
			var open []*held
			for i := range limit {
				c, err := try()
				if err != nil {
					t.Fatalf("connection %d: %v", i+1, err)
				}
				defer c.end()
				open = append(open, c)
			}
			c, err := try()
			if err != nil {
				t.Fatalf("connection %d: %v; want it served", limit+1, err)
			}
			defer c.end()
			d.waitMetric(connections(h.name), limit)
			if err := open[0].ask(question("warm.example")); err == nil {
				t.Error("the connection that was idle for longest works; want it to have ended")
			}
			open[0].end()
			for _, c := range append(open[1:], c) {
				if err := c.ask(question("warm.example")); err != nil {
					t.Errorf("a connection within the limit: %v", err)
				}
				c.end()
			}
			d.waitMetric(connections(h.name), 0)
		})
	}
}

// TestIdleConnections: connections that are used for nothing, no more, or for queries that never end are closed, also
// if the client keeps them alive.
func TestIdleConnections(t *testing.T) {
	l := newLab(t)
	d, ca := l.startAttacked("idle_timeout: 500ms, read_timeout: 500ms")
	for name, begin := range map[string]func(*held) error{
		"unused":  func(*held) error { return nil },
		"used":    func(c *held) error { return c.ask(question("warm.example")) },
		"stalled": func(c *held) error { return c.stall() },
	} {
		for _, h := range l.holders(ca) {
			t.Run(name+"/"+h.name, func(t *testing.T) {
				c, err := h.open()
				if err != nil {
					t.Fatal(err)
				}
				defer c.end()
				if err := begin(c); err != nil {
					t.Fatal(err)
				}
				d.waitMetric(connections(h.name), 0)
			})
		}
	}
}

// TestBlackHole floods every transport with questions that nobody answers. What is held for them stays within the
// limit, everybody still gets what is known, and in the end nothing is left.
func TestBlackHole(t *testing.T) {
	l := newLab(t)
	const inFlight = 1000
	d, ca := l.startAttacked(fmt.Sprintf("in_flight: %d, query_timeout: 4s, idle_timeout: 1s, rate: 0", inFlight))
	l.wantServed(ca, "before")
	goroutines := d.number("go_goroutines")
	check := func(what string) {
		t.Helper()
		poll(t, 5*time.Second, "the flood arrives", func() error {
			if n := d.number("cfrd_in_flight"); n < inFlight/2 || n > inFlight {
				return fmt.Errorf("got %v queries in flight; want no more than %d, but many", n, inFlight)
			}
			return nil
		})
		if n := d.number("go_goroutines"); n > goroutines+10*inFlight {
			t.Errorf("%s: got %v goroutines, %v before; want few for each of %d queries", what, n, goroutines, inFlight)
		}
		if n := d.number("go_memstats_heap_inuse_bytes"); n > 128<<20 {
			t.Errorf("%s: got a heap of %v octets; want less", what, n)
		}
		l.wantServed(ca, "flooded over "+what)
	}
	l.floodUDP(20000)
	check("udp")
	l.floodStreams(ca, 20, 300)
	check("tcp and dot")
	l.floodQUIC(ca, 6, 200)
	check("doq and doh3")
	d.waitMetric("cfrd_in_flight", 0)
	for _, h := range l.holders(ca) {
		d.waitMetric(connections(h.name), 0)
	}
	d.waitMetric("go_goroutines", goroutines+50)
	l.wantServed(ca, "after")
}

func (l *lab) floodUDP(queries int) {
	l.t.Helper()
	c, err := l.customer.dial("udp", "", resolver4+":53")
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	for i := range queries {
		c.Write(question(fmt.Sprintf("u%d.cold.example", i)))
	}
}

// floodStreams pipelines queries on connections that stay open until the test ends.
func (l *lab) floodStreams(ca *authority, conns, queries int) {
	l.t.Helper()
	for i := range conns {
		for port, conf := range map[string]*tls.Config{"53": nil, "853": ca.tlsConfig(adn, "dot")} {
			c, err := l.customer.dial("tcp", "", resolver4+":"+port)
			if err != nil {
				l.t.Fatal(err)
			}
			l.t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if conf != nil {
				c = tls.Client(c, conf)
			}
			var b []byte
			for j := range queries {
				b = append(b, framed(question(fmt.Sprintf("s%s-%d-%d.cold.example", port, i, j)))...)
			}
			go c.Write(b) // blocks when the server reads no further
		}
	}
}

// floodQUIC asks on many streams of some connections, which it then leaves.
func (l *lab) floodQUIC(ca *authority, conns, queries int) {
	l.t.Helper()
	for i := range conns {
		for _, open := range []func(*authority) (*held, error){l.holdDoQ, l.holdHTTP3} {
			c, err := open(ca)
			if err != nil {
				l.t.Fatal(err)
			}
			var work sync.WaitGroup
			for j := range queries {
				work.Go(func() { c.ask(question(fmt.Sprintf("q%d-%d.cold.example", i, j))) })
			}
			l.t.Cleanup(work.Wait)
			l.t.Cleanup(c.end)
		}
	}
}

// TestAborts has clients give up queries and begin others, again and again. Their work ends with them.
func TestAborts(t *testing.T) {
	l := newLab(t)
	d, ca := l.startAttacked("query_timeout: 1h, idle_timeout: 1s")
	const rounds = 500
	abandon := func(rt http.RoundTripper) {
		var work sync.WaitGroup
		for worker := range 20 {
			work.Go(func() {
				for i := range rounds / 20 {
					l.ask(rt, question(fmt.Sprintf("a%d-%d.cold.example", worker, i)), 5*time.Millisecond)
				}
			})
		}
		work.Wait()
	}
	for name, attack := range map[string]func(t *testing.T){
		"tcp": func(t *testing.T) {
			for i := range rounds {
				c, err := l.customer.dial("tcp", "", resolver4+":53")
				if err != nil {
					t.Fatal(err)
				}
				c.Write(framed(question(fmt.Sprintf("a%d.cold.example", i))))
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		},
		"doh": func(*testing.T) {
			tr := &http.Transport{TLSClientConfig: ca.tlsConfig(adn), ForceAttemptHTTP2: true, DialContext: l.dialDoH}
			defer tr.CloseIdleConnections()
			abandon(tr)
		},
		"doh3": func(t *testing.T) {
			conn, end, err := l.dialQUIC(ca, 443, "h3")
			if err != nil {
				t.Fatal(err)
			}
			defer end()
			abandon((&http3.Transport{}).NewClientConn(conn))
		},
		"doq": func(t *testing.T) {
			conn, end, err := l.dialQUIC(ca, 853, "doq")
			if err != nil {
				t.Fatal(err)
			}
			defer end()
			for i := range rounds {
				abandonStream(t, conn, question(fmt.Sprintf("a%d.cold.example", i)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			attack(t)
			d.waitMetric("cfrd_in_flight", 0)
			d.waitMetric(connections(name), 0)
		})
	}
	l.wantServed(ca, "after")
}

// abandonStream asks and resets the stream before the answer. It waits for the server to give room for a stream.
func abandonStream(t *testing.T, conn *quic.Conn, msg []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(framed(msg))
	s.Close()
	s.CancelRead(3)
}

// TestPromises announces large messages on many connections and streams, and sends nothing of them.
func TestPromises(t *testing.T) {
	l := newLab(t)
	d, ca := l.startAttacked("rate: 0, connections_per_client: 2000, read_timeout: 3s, idle_timeout: 3s")
	before := d.number("go_memstats_heap_inuse_bytes")
	const conns, streams = 300, 10
	for range conns {
		for port, conf := range map[string]*tls.Config{"53": nil, "853": ca.tlsConfig(adn, "dot")} {
			c, err := l.holdStream(port, conf)
			if err != nil {
				t.Fatal(err)
			}
			defer c.end()
			if err := c.stall(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range conns / streams {
		conn, end, err := l.dialQUIC(ca, 853, "doq")
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		for range streams {
			if err := stallStream(conn, promise); err != nil {
				t.Fatal(err)
			}
		}
	}
	if grown := d.number("go_memstats_heap_inuse_bytes") - before; grown > 3*conns*(48<<10) {
		t.Errorf("got %v octets more for %d promises; want nowhere near 64 KiB for each", grown, 3*conns)
	}
	l.wantServed(ca, "while the promises stand")
	for _, transport := range []string{"tcp", "dot", "doq"} {
		d.waitMetric(connections(transport), 0)
	}
}
