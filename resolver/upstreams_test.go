package resolver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
)

// The tests of this file have the real server ask upstreams that misbehave, all over real sockets.

// reply is what a broken upstream makes of a query: nil is silence.
type reply func(q *dns.Msg, tcp bool) *dns.Msg

// brokenUpstream is an upstream on loopback.
type brokenUpstream struct {
	Upstream
	asked atomic.Int64
}

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// serveUDP has an upstream answer at addr over UDP and TCP until the test ends. Without serveTCP, the port is closed to
// TCP.
func serveUDP(t *testing.T, addr netip.Addr, serveTCP bool, answer reply) *brokenUpstream {
	t.Helper()
	u := &brokenUpstream{}
	ln, pc := bothOn(t, addr)
	u.Addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	h := u.handler(answer)
	startDNS(t, &dns.Server{PacketConn: pc, Handler: h})
	if !serveTCP {
		ln.Close()
		return u
	}
	startDNS(t, &dns.Server{Listener: ln, Handler: h})
	return u
}

// serveTLS has an upstream answer over TLS.
func serveTLS(t *testing.T, addr netip.Addr, cert tls.Certificate, roots *x509.CertPool, answer reply) *brokenUpstream {
	t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	u := &brokenUpstream{Upstream: Upstream{Protocol: UpstreamTLS, RootCAs: roots}}
	u.Addr = ln.Addr().(*net.TCPAddr).AddrPort()
	c := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}}
	startDNS(t, &dns.Server{Listener: tls.NewListener(ln, c), Handler: u.handler(answer)})
	return u
}

// handler returns answer as a handler that counts.
func (u *brokenUpstream) handler(answer reply) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name != "." {
			u.asked.Add(1)
		}
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		if r := answer(q, tcp); r != nil {
			_ = w.WriteMsg(r)
		}
	})
}

// startDNS runs s until the test ends.
func startDNS(t *testing.T, s *dns.Server) {
	t.Helper()
	var wg sync.WaitGroup
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	wg.Go(func() { _ = s.ActivateAndServe() })
	<-started
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // connections of the client stay open as long as it likes
		_ = s.ShutdownContext(ctx)
		wg.Wait()
	})
}

// bothOn listens on one port of addr over TCP and UDP.
func bothOn(t *testing.T, addr netip.Addr) (net.Listener, net.PacketConn) {
	t.Helper()
	var err error
	for range 20 { // others use ports as well
		ln, e := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if e != nil {
			t.Fatal(e)
		}
		pc, e := net.ListenPacket("udp", ln.Addr().String())
		if e == nil {
			return ln, pc
		}
		ln.Close()
		err = e
	}
	t.Fatal(err)
	return nil, nil
}

// says returns what answers every question with rcode, and with an address if that is NOERROR. ede is an Extended DNS
// Error, or -1.
func says(rcode, ede int) reply {
	return func(q *dns.Msg, _ bool) *dns.Msg {
		r := new(dns.Msg).SetRcode(q, rcode)
		if rcode == dns.RcodeSuccess {
			r.Answer = []dns.RR{dnstest.RR(q.Question[0].Name + " 300 IN A 198.51.100.1")}
		}
		if q.IsEdns0() != nil {
			opt := r.SetEdns0(1232, false).IsEdns0()
			if ede >= 0 {
				opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: uint16(ede)})
			}
		}
		return r
	}
}

// mute answers nothing.
func mute(*dns.Msg, bool) *dns.Msg { return nil }

// serverFor runs the real server with these upstreams until the test ends.
func serverFor(t *testing.T, change func(*Config), upstreams ...*brokenUpstream) *Server {
	t.Helper()
	cfg := Config{Listen: Listen{Do53: []netip.AddrPort{loopback}}}
	cfg.Settings.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, u := range upstreams {
		cfg.Settings.Upstreams = append(cfg.Settings.Upstreams, u.Upstream)
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// askServer asks s over TCP, with DO if do is set.
func askServer(t *testing.T, s *Server, name string, qtype uint16, do bool) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: "tcp", Timeout: 10 * time.Second}
	m := dnstest.Query(name, qtype)
	m.SetEdns0(1232, do)
	m.AuthenticatedData = true
	r, _, err := c.ExchangeContext(t.Context(), m, s.Addrs().Do53[0].String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// TestTroubleOfOneUpstream has the first upstream say that it cannot serve us, over every transport and family: the second
// has the answer. If all say so, that is the answer. What the first says about the name stays.
func TestTroubleOfOneUpstream(t *testing.T) {
	cert, roots := testCertificate(t)
	servers := map[string]func(reply) *brokenUpstream{
		"udp4": func(r reply) *brokenUpstream { return serveUDP(t, loopback4, true, r) },
		"udp6": func(r reply) *brokenUpstream { return serveUDP(t, loopback6, true, r) },
		"dot4": func(r reply) *brokenUpstream { return serveTLS(t, loopback4, cert, roots, r) },
		"dot6": func(r reply) *brokenUpstream { return serveTLS(t, loopback6, cert, roots, r) },
	}
	for transport, serve := range servers {
		for name, row := range map[string]struct {
			first reply
			want  int // with a second upstream that answers
			alone int // without
		}{
			"servfail":              {says(dns.RcodeServerFailure, -1), dns.RcodeSuccess, dns.RcodeServerFailure},
			"servfail-no-reachable": {says(dns.RcodeServerFailure, 22), dns.RcodeSuccess, dns.RcodeServerFailure},
			"servfail-not-ready":    {says(dns.RcodeServerFailure, 14), dns.RcodeSuccess, dns.RcodeServerFailure},
			"bogus":                 {says(dns.RcodeServerFailure, 6), dns.RcodeServerFailure, dns.RcodeServerFailure},
			"nsec-missing":          {says(dns.RcodeServerFailure, 12), dns.RcodeServerFailure, dns.RcodeServerFailure},
			"blocked":               {says(dns.RcodeRefused, 15), dns.RcodeRefused, dns.RcodeRefused},
			"refused":               {says(dns.RcodeRefused, -1), dns.RcodeSuccess, dns.RcodeRefused},
			"notimp":                {says(dns.RcodeNotImplemented, -1), dns.RcodeSuccess, dns.RcodeNotImplemented},
			"formerr":               {says(dns.RcodeFormatError, -1), dns.RcodeSuccess, dns.RcodeFormatError},
			"notauth":               {says(dns.RcodeNotAuth, -1), dns.RcodeSuccess, dns.RcodeNotAuth},
			"nxdomain":              {says(dns.RcodeNameError, -1), dns.RcodeNameError, dns.RcodeNameError},
		} {
			t.Run(transport+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := serverFor(t, nil, serve(row.first), serveUDP(t, loopback4, true, says(dns.RcodeSuccess, -1)))
				if r := askServer(t, s, "www.example.", dns.TypeA, false); r.Rcode != row.want {
					t.Errorf("got\n%v\nwant RCODE %s", r, dns.RcodeToString[row.want])
				}
				s = serverFor(t, nil, serve(row.first), serve(row.first))
				if r := askServer(t, s, "www.example.", dns.TypeA, false); r.Rcode != row.alone {
					t.Errorf("from all:\n%v\nwant RCODE %s", r, dns.RcodeToString[row.alone])
				}
			})
		}
	}
}

// TestAnswerInHand has one upstream say that it cannot serve us, or cut its answer off with TCP closed, and the other say
// nothing: what there is goes out long before the query has had its time.
func TestAnswerInHand(t *testing.T) {
	cut := func(q *dns.Msg, _ bool) *dns.Msg {
		r := new(dns.Msg).SetReply(q)
		r.Truncated = true
		return r
	}
	for name, row := range map[string]struct {
		first reply
		want  int
		ede   int
	}{
		"refused":   {says(dns.RcodeRefused, -1), dns.RcodeRefused, -1},
		"servfail":  {says(dns.RcodeServerFailure, -1), dns.RcodeServerFailure, -1},
		"truncated": {cut, dns.RcodeServerFailure, int(dns.ExtendedErrorCodeNetworkError)},
	} {
		for order, swap := range map[string]bool{"first": false, "second": true} {
			t.Run(name+"/"+order, func(t *testing.T) {
				t.Parallel()
				list := []*brokenUpstream{serveUDP(t, loopback4, false, row.first), serveUDP(t, loopback4, true, mute)}
				if swap {
					list[0], list[1] = list[1], list[0]
				}
				s := serverFor(t, func(c *Config) { c.Limits.QueryTimeout = time.Hour }, list...)
				r := askServer(t, s, "www.example.", dns.TypeA, false)
				if r.Rcode != row.want || edeIn(r) != row.ede {
					t.Errorf("got\n%v\nwant RCODE %s, error %d", r, dns.RcodeToString[row.want], row.ede)
				}
			})
		}
	}
}

// TestUpstreamsAreProbedAtTheStart has upstreams that answer, cannot serve us, or say nothing, and no client: which of
// them is healthy is known soon, also of those that an update brings, and none is before it was reached.
func TestUpstreamsAreProbedAtTheStart(t *testing.T) {
	for name, row := range map[string]struct {
		answer reply
		want   bool
	}{
		"answers":  {says(dns.RcodeSuccess, -1), true},
		"servfail": {says(dns.RcodeServerFailure, -1), false},
		"refused":  {says(dns.RcodeRefused, -1), false},
		"silent":   {mute, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := serveUDP(t, loopback4, true, says(dns.RcodeSuccess, -1)), serveUDP(t, loopback6, true, row.answer)
			s := serverFor(t, nil, first)
			eventually(t, "the first is reached", func() bool { return s.Stats().Upstreams[0].Healthy })
			set := Settings{Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Upstreams: []Upstream{second.Upstream}}
			if err := s.Update(set); err != nil {
				t.Fatal(err)
			}
			if row.want {
				eventually(t, "the second is reached", func() bool { return s.Stats().Upstreams[0].Healthy })
			} else if st := s.Stats().Upstreams[0]; st.Healthy {
				t.Errorf("got %+v; want it not healthy", st)
			}
		})
	}
}

// TestUpstreamWithoutEDNS has an upstream that knows no EDNS: what it says to a query without is the answer, it is
// remembered, and a query that asks for signatures is answered as well. One that has answered with EDNS is not asked
// without, whatever errors come.
func TestUpstreamWithoutEDNS(t *testing.T) {
	cert, roots := testCertificate(t)
	servers := map[string]func(reply) *brokenUpstream{
		"udp": func(r reply) *brokenUpstream { return serveUDP(t, loopback4, true, r) },
		"dot": func(r reply) *brokenUpstream { return serveTLS(t, loopback6, cert, roots, r) },
	}
	good := says(dns.RcodeSuccess, -1)
	for transport, serve := range servers {
		for name, rcode := range map[string]int{"formerr": dns.RcodeFormatError, "notimp": dns.RcodeNotImplemented} {
			t.Run(transport+"/"+name, func(t *testing.T) {
				t.Parallel()
				var extended atomic.Int64
				u := serve(func(q *dns.Msg, tcp bool) *dns.Msg {
					if q.IsEdns0() == nil {
						return good(q, tcp)
					}
					extended.Add(1)
					return new(dns.Msg).SetRcode(q, rcode)
				})
				s := serverFor(t, nil, u)
				eventually(t, "it is reached", func() bool { return s.Stats().Upstreams[0].Healthy })
				for i, name := range []string{"a.example.", "b.example.", "c.example."} {
					if r := askServer(t, s, name, dns.TypeA, i == 2); len(r.Answer) != 1 {
						t.Errorf("got\n%v\nwant an answer", r)
					}
				}
				if got := extended.Load(); got != 1 {
					t.Errorf("got %d queries with EDNS; want one", got)
				}
			})
			t.Run(transport+"/not-after-edns/"+name, func(t *testing.T) {
				t.Parallel()
				var plain atomic.Int64
				s := serverFor(t, nil, serve(func(q *dns.Msg, tcp bool) *dns.Msg {
					if q.IsEdns0() == nil {
						plain.Add(1)
					}
					if q.Question[0].Name == "bad.example." {
						return new(dns.Msg).SetRcode(q, rcode)
					}
					return good(q, tcp)
				}))
				askServer(t, s, "good.example.", dns.TypeA, false)
				if r := askServer(t, s, "bad.example.", dns.TypeA, false); r.Rcode != rcode {
					t.Errorf("got\n%v\nwant %s", r, dns.RcodeToString[rcode])
				}
				if got := plain.Load(); got != 0 {
					t.Errorf("got %d queries without EDNS; want none", got)
				}
			})
		}
	}
}
