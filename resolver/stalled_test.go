package resolver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveConns has an upstream serve connections by what serve does, which gets the number of the connection, at addr, until
// the test ends. With a certificate it is one over TLS; without, one that truncates everything over UDP.
func serveConns(t *testing.T, addr netip.Addr, cert *tls.Certificate, serve func(c net.Conn, n int)) *brokenUpstream {
	t.Helper()
	ln, pc := bothOn(t, addr)
	u := &brokenUpstream{}
	u.Addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	if cert == nil {
		startDNS(t, &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r := new(dns.Msg).SetReply(q)
			r.Truncated = true
			_ = w.WriteMsg(r)
		})})
	} else {
		pc.Close()
		u.Protocol = UpstreamTLS
	}
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
				inner := c
				if cert != nil {
					c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"dot"}})
				}
				serve(resettable{c, inner.(*net.TCPConn)}, n)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		stop()
		wg.Wait()
	})
	return u
}

// resettable is a connection that can be reset.
type resettable struct {
	net.Conn
	tcp *net.TCPConn
}

func (r resettable) reset() {
	_ = r.tcp.SetLinger(0)
	r.tcp.Close()
}

// answerConn answers the next question over c.
func answerConn(c net.Conn) bool {
	msg, err := readFrame(c)
	if err != nil {
		return false
	}
	var q dns.Msg
	if q.Unpack(msg) != nil {
		return false
	}
	r, err := says(dns.RcodeSuccess, -1)(&q, true).Pack()
	if err != nil {
		return false
	}
	_, err = c.Write(frame(r))
	return err == nil
}

// TestConnectionsThatStopWorking has connections of an upstream, which have worked, fall silent, be closed or be reset
// while they are idle or when they are asked: no question fails, and the upstream is not at fault.
func TestConnectionsThatStopWorking(t *testing.T) {
	cert, roots := testCertificate(t)
	for name, end := range map[string]func(c net.Conn){
		"silent": func(c net.Conn) {
			for { // takes everything
				if _, err := c.Read(make([]byte, 4096)); err != nil {
					return
				}
			}
		},
		"closed-when-idle": func(net.Conn) {},
		"closed-when-asked": func(c net.Conn) {
			_, _ = readFrame(c)
		},
		"reset-when-idle": func(c net.Conn) { c.(resettable).reset() },
		"reset-when-asked": func(c net.Conn) {
			_, _ = readFrame(c)
			c.(resettable).reset()
		},
		"cut-when-asked": func(c net.Conn) {
			_, _ = readFrame(c)
			_, _ = c.Write([]byte{1, 0, 1})
		},
	} {
		for transport, serve := range map[string]func(func(c net.Conn, n int)) *brokenUpstream{
			"tcp4": func(f func(net.Conn, int)) *brokenUpstream { return serveConns(t, loopback4, nil, f) },
			"tcp6": func(f func(net.Conn, int)) *brokenUpstream { return serveConns(t, loopback6, nil, f) },
			"dot4": func(f func(net.Conn, int)) *brokenUpstream { return serveConns(t, loopback4, &cert, f) },
			"dot6": func(f func(net.Conn, int)) *brokenUpstream { return serveConns(t, loopback6, &cert, f) },
		} {
			t.Run(name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				u := serve(func(c net.Conn, n int) {
					for answerConn(c) && n > 4 { // the first four answer once
					}
					end(c)
				})
				u.RootCAs = roots
				s := serverFor(t, nil, u)
				for i := range 4 {
					r := askServer(t, s, fmt.Sprintf("n%d.example.", i), dns.TypeA, false)
					if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
						t.Errorf("question %d: got\n%v\nwant an answer", i, r)
					}
				}
				if st := s.Stats().Upstreams[0]; !st.Healthy {
					t.Errorf("got %+v; want it healthy", st)
				}
			})
		}
	}
}

// TestManyQuestionsOverASilentConnection has a pooled connection fall silent while many questions come at once: each is
// answered over another one.
func TestManyQuestionsOverASilentConnection(t *testing.T) {
	cert, roots := testCertificate(t)
	u := serveConns(t, loopback4, &cert, func(c net.Conn, n int) {
		for i := 0; n > 1 || i < 2; i++ { // the probe, or a question
			if !answerConn(c) {
				return
			}
		}
		for {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	u.RootCAs = roots
	s := serverFor(t, func(c *Config) { c.Limits.QueryTimeout = 10 * time.Second }, u)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if r := askServer(t, s, fmt.Sprintf("n%d.example.", i), dns.TypeA, false); len(r.Answer) != 1 {
				t.Errorf("question %d: got\n%v\nwant an answer", i, r)
			}
		})
	}
	wg.Wait()
}
