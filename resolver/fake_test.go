package resolver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/dnstest"
	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// fakeBackend answers by the first label of QNAME:
//
//	slow    waits until release is closed or the context is done
//	late    waits, but not for long: answer replies at once
//	drop    has no reply
//	silent  waits, and then has no reply
//	large   has a reply of largeReply octets
//
// and everything else at once. A reply is the query with QR set and one octet, the number of its transport, behind it.
type fakeBackend struct {
	backend // nil: nothing else is called
	release chan struct{}

	answering, maxAnswering atomic.Int64 // calls of answer
	last                    atomic.Pointer[query]
	ttl                     atomic.Uint32
}

// These are used everywhere in this package.
var (
	frame           = dnstest.Frame
	readFrame       = dnstest.ReadFrame
	testCertificate = dnstest.Certificate
)

const largeReply = 60000

func newFake() *fakeBackend { return &fakeBackend{release: make(chan struct{})} }

func (f *fakeBackend) close()                 {}
func (f *fakeBackend) stats(*Stats)           {}
func (f *fakeBackend) serves(netip.Addr) bool { return true }

func firstLabel(msg []byte) string {
	if len(msg) <= wire.HeaderLen || len(msg) < wire.HeaderLen+1+int(msg[wire.HeaderLen]) {
		return ""
	}
	return string(msg[wire.HeaderLen+1:][:msg[wire.HeaderLen]])
}

func (f *fakeBackend) answerNow(q *query, dst []byte) ([]byte, outcome) {
	if len(q.msg) < wire.HeaderLen || q.msg[2]&0x80 != 0 {
		return dst, dropped
	}
	switch q.ttl = f.ttl.Load(); firstLabel(q.msg) {
	case "slow", "late", "silent":
		return dst, pending
	case "drop":
		return dst, dropped
	case "large":
		dst = f.reply(q, dst)
		return append(dst, make([]byte, largeReply-len(q.msg)-1)...), answered
	}
	return f.reply(q, dst), answered
}

func (f *fakeBackend) reply(q *query, dst []byte) []byte {
	if f.last.Load() == nil || f.last.Load().local != q.local {
		last := *q
		last.msg = nil
		f.last.Store(&last)
	}
	start := len(dst)
	dst = append(append(dst, q.msg...), byte(q.transport))
	dst[start+2] |= 0x80
	return dst
}

func (f *fakeBackend) answer(ctx context.Context, q *query, dst []byte) []byte {
	n := f.answering.Add(1)
	defer f.answering.Add(-1)
	for old := f.maxAnswering.Load(); n > old && !f.maxAnswering.CompareAndSwap(old, n); old = f.maxAnswering.Load() {
	}
	switch firstLabel(q.msg) {
	case "silent":
		return dst
	case "slow":
		select {
		case <-f.release:
		case <-ctx.Done():
			start := len(dst)
			dst = f.reply(q, dst)
			dst[start+3] |= dns.RcodeServerFailure
			return dst
		}
	}
	return f.reply(q, dst)
}

// wireQuery returns a query for name with the ID id.
func wireQuery(tb testing.TB, name string, id uint16) []byte {
	tb.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	m.Id = id
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// wantReply is what fakeBackend replies to msg.
func wantReply(msg []byte, t Transport) []byte {
	r := append(slices.Clone(msg), byte(t))
	r[2] |= 0x80
	return r
}

// testServer is a running Server.
type testServer struct {
	*Server
	fake  *fakeBackend
	roots *x509.CertPool
	stop  context.CancelFunc
	done  chan error // gets what Run returns, once
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func everywhere() Listen {
	a := []netip.AddrPort{loopback}
	return Listen{Do53: a, DoT: a, DoH: []netip.AddrPort{loopback, loopback}, DoQ: a}
}

// libraryDoH is the index in Listen.DoH of a listener on which HTTP/2 is that of net/http, as with HTTP2Library, so that
// one server has both.
const libraryDoH = 1

func (s *testServer) useLibrary() {
	if len(s.addrs.DoH) <= libraryDoH {
		return
	}
	for _, b := range s.services {
		if d, ok := b.service.(*dohTCP); ok && b.addr == s.addrs.DoH[libraryDoH] {
			d.implementation = HTTP2Library
		}
	}
}

// startServer runs a server on all transports, with what change makes of its configuration, until the test ends.
func startServer(tb testing.TB, change func(*Config)) *testServer {
	tb.Helper()
	cert, roots := testCertificate(tb)
	cfg := Config{Listen: everywhere(), TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
	if change != nil {
		change(&cfg)
	}
	fake := newFake()
	s, err := newServer(cfg, fake)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ts := &testServer{Server: s, fake: fake, roots: roots, stop: stop, done: make(chan error, 1)}
	ts.useLibrary()
	go func() { ts.done <- s.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		if err := ts.wait(); err != nil {
			tb.Errorf("Run: got %v; want nil", err)
		}
	})
	return ts
}

// wait waits for Run to return. It can be called more than once.
func (s *testServer) wait() error {
	select {
	case err := <-s.done:
		s.done <- err
		return err
	case <-time.After(20 * time.Second):
		return errors.New("Run does not return")
	}
}

// eventually waits until cond holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("never happened: %s", what)
		}
	}
}
