package check

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/e2e/netns"
)

// TestMain runs the tests in a network namespace of their own, in which a port that no test listens on is closed.
func TestMain(m *testing.M) { netns.Main(m) }

// fakeName is the authentication domain name of fake resolvers.
const fakeName = "dns.fake.example"

// testCA issues certificates for one test.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key, pool: x509.NewCertPool()}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.pool.AddCert(ca.cert)
	return ca
}

// issue returns a certificate that ends at notAfter and carries names, which can be addresses.
func (ca *testCA) issue(t testing.TB, notAfter time.Time, names ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.cert.NotBefore, NotAfter: notAfter}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fakeResolver serves every transport on loopback. What it answers and serves is decided per field, so that a test
// can break one thing.
type fakeResolver struct {
	ca   *testCA
	do53 netip.AddrPort
	// addr is where the encrypted transports listen.
	addr netip.Addr
	// cert returns the certificate for a server name, which is empty without SNI.
	cert func(sni string) *tls.Certificate
	// dotALPN and dohALPN are the protocols that the servers choose from.
	dotALPN, dohALPN string
	// override answers before everything else, if it returns a message.
	override func(q dns.Question) *dns.Msg
	// overrideEncrypted does so on the encrypted transports only.
	overrideEncrypted func(q dns.Question) *dns.Msg
	relay             *ddr.RelayService
	// pvd is served, if it is not nil.
	pvd     http.HandlerFunc
	onePort bool // for HTTP/2 and HTTP/3
	// services are advertised; start fills them in.
	services []ddr.Service
	zone     *ddr.Zone
	ready    chan struct{} // closed when all of the above is set

	mu    sync.Mutex
	asked []dns.Question
}

// newFake returns a resolver in which nothing is wrong. It listens once start was called.
func newFake(t testing.TB) *fakeResolver {
	ca := newTestCA(t)
	good := ca.issue(t, time.Now().Add(time.Hour), fakeName, "127.0.0.1")
	return &fakeResolver{
		ca: ca, addr: netip.MustParseAddr("127.0.0.1"), dotALPN: "dot", dohALPN: "h2",
		cert: func(string) *tls.Certificate { return good }, ready: make(chan struct{}),
	}
}

// options are those of a check that should find nothing.
func (f *fakeResolver) options() Options {
	return Options{
		Addr: f.do53, Roots: f.ca.pool, MaxTTL: time.Minute, RelayPort: 443, Timeout: 5 * time.Second,
	}
}

func (f *fakeResolver) start(t *testing.T) {
	t.Helper()
	f.startDo53(t)
	f.startDoT(t)
	f.startDoH(t)
	f.startDoQ(t)
	covered := f.ca.issue(t, time.Now().Add(time.Hour), fakeName, "127.0.0.1")
	leaf, err := x509.ParseCertificate(covered.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	f.zone, err = ddr.New(ddr.Config{
		Name: fakeName, OwnName: true, Addresses: []netip.Addr{f.addr}, Services: f.services, Relay: f.relay,
		Certificate: func() *x509.Certificate { return leaf }, Info: &ddr.Info{ExtErr: []uint16{22}},
	})
	if err != nil {
		t.Fatal(err)
	}
	close(f.ready)
}

// startDo53 uses the server of the DNS library, of which a test needs no more than that it answers.
func (f *fakeResolver) startDo53(t *testing.T) {
	t.Helper()
	ln, pc := listenBoth(t, netip.MustParseAddr("127.0.0.1"))
	f.do53 = netip.MustParseAddrPort(pc.LocalAddr().String())
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(f.answer(q, false)) })
	serveDNS(t, &dns.Server{PacketConn: pc, Handler: handler})
	serveDNS(t, &dns.Server{Listener: ln, Handler: handler})
}

// listenBoth returns listeners for TCP and UDP on one free port.
func listenBoth(t *testing.T, addr netip.Addr) (net.Listener, net.PacketConn) {
	t.Helper()
	var last error
	for range 20 {
		ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return ln, pc
		}
		ln.Close()
		last = err
	}
	t.Fatal(last)
	return nil, nil
}

func serveDNS(t *testing.T, s *dns.Server) {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	var wg sync.WaitGroup
	wg.Go(func() { s.ActivateAndServe() })
	<-started
	t.Cleanup(func() { s.Shutdown(); wg.Wait() })
}

func (f *fakeResolver) tls(alpn string) *tls.Config {
	return &tls.Config{NextProtos: []string{alpn}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return f.cert(h.ServerName), nil
	}}
}

func (f *fakeResolver) startDoT(t *testing.T) {
	t.Helper()
	ln, err := tls.Listen("tcp", net.JoinHostPort(f.addr.String(), "0"), f.tls(f.dotALPN))
	if err != nil {
		t.Fatal(err)
	}
	f.advertise(ddr.DoT, ln.Addr())
	serveDNS(t, &dns.Server{Listener: ln, Net: "tcp-tls", Handler: dns.HandlerFunc(
		func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(f.answer(q, true)) })})
}

func (f *fakeResolver) advertise(p ddr.Protocol, addr net.Addr) {
	f.services = append(f.services, ddr.Service{Protocol: p, Addr: netip.MustParseAddrPort(addr.String())})
}

// startDoH serves HTTP/2 and HTTP/3, on one port if onePort is set.
func (f *fakeResolver) startDoH(t *testing.T) {
	t.Helper()
	ln, pc := listenBoth(t, f.addr)
	if !f.onePort {
		pc.Close()
		var err error
		if pc, err = net.ListenPacket("udp", netip.AddrPortFrom(f.addr, 0).String()); err != nil {
			t.Fatal(err)
		}
	}
	h2 := &http.Server{Handler: f, TLSConfig: f.tls(f.dohALPN), ErrorLog: log.New(io.Discard, "", 0)}
	h2.Protocols = new(http.Protocols)
	h2.Protocols.SetHTTP1(f.dohALPN == "http/1.1")
	h2.Protocols.SetHTTP2(f.dohALPN == "h2")
	var wg sync.WaitGroup
	wg.Go(func() { h2.ServeTLS(ln, "", "") })
	t.Cleanup(func() { h2.Close(); wg.Wait() })
	f.advertise(ddr.DoH, ln.Addr())

	h3 := &http3.Server{Handler: f, TLSConfig: f.tls("h3")}
	wg.Go(func() { h3.Serve(pc) })
	t.Cleanup(func() { h3.Close(); pc.Close() })
	f.advertise(ddr.DoH3, pc.LocalAddr())
}

// ServeHTTP is DoH, and the provisioning domain.
func (f *fakeResolver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.pvd != nil && r.URL.Path == ddr.PvDPath {
		f.pvd(w, r)
		return
	}
	wire, err := base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	if r.Method == http.MethodPost {
		wire, err = io.ReadAll(r.Body)
	}
	q := new(dns.Msg)
	if err = errors.Join(err, q.Unpack(wire)); err != nil || r.URL.Path != "/dns-query" || q.Id != 0 {
		http.Error(w, "not a DoH request", http.StatusBadRequest)
		return
	}
	reply, _ := f.answer(q, true).Pack()
	w.Header().Set("Content-Type", mediaType)
	w.Write(reply)
}

func (f *fakeResolver) startDoQ(t *testing.T) {
	t.Helper()
	ln, err := quic.ListenAddr(net.JoinHostPort(f.addr.String(), "0"), f.tls("doq"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.advertise(ddr.DoQ, ln.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { f.serveDoQ(ctx, conn) })
		}
	})
	t.Cleanup(func() { cancel(); ln.Close(); wg.Wait() })
}

func (f *fakeResolver) serveDoQ(ctx context.Context, conn *quic.Conn) {
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		wire, err := io.ReadAll(stream) // ends with the FIN
		q := new(dns.Msg)
		framed := err == nil && len(wire) >= 2 && int(binary.BigEndian.Uint16(wire)) == len(wire)-2
		if !framed || q.Unpack(wire[2:]) != nil || q.Id != 0 {
			conn.CloseWithError(2, "protocol error")
			return
		}
		reply, _ := f.answer(q, true).Pack()
		stream.Write(frame(reply))
		stream.Close()
	}
}

// answer replies to q.
func (f *fakeResolver) answer(q *dns.Msg, encrypted bool) *dns.Msg {
	<-f.ready
	f.mu.Lock()
	f.asked = append(f.asked, q.Question...)
	f.mu.Unlock()
	reply := f.body(q.Question[0], encrypted)
	reply.Id, reply.Response, reply.Question = q.Id, true, q.Question
	return reply
}

func (f *fakeResolver) body(q dns.Question, encrypted bool) *dns.Msg {
	if f.overrideEncrypted != nil && encrypted {
		if m := f.overrideEncrypted(q); m != nil {
			return m
		}
	}
	if f.override != nil {
		if m := f.override(q); m != nil {
			return m
		}
	}
	if m, ok := f.zone.Answer(q, f.addr, f.do53.Addr()); ok {
		return m
	}
	return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}}
}

// answers makes an override of the records of a zone file. A name of the zone without the type asked for is NODATA.
func answers(t testing.TB, lines ...string) func(q dns.Question) *dns.Msg {
	t.Helper()
	var zone []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		zone = append(zone, rr)
	}
	return func(q dns.Question) *dns.Msg {
		var m *dns.Msg
		for _, rr := range zone {
			if rr.Header().Name != q.Name {
				continue
			}
			if m == nil {
				m = new(dns.Msg)
			}
			if rr.Header().Rrtype == q.Qtype {
				m.Answer = append(m.Answer, dns.Copy(rr))
			}
		}
		return m
	}
}

// rcode makes an override that answers one name with an error.
func rcode(name string, code int) func(q dns.Question) *dns.Msg {
	return func(q dns.Question) *dns.Msg {
		if q.Name != name {
			return nil
		}
		return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: code}}
	}
}

// loopbackPrefixes are the clients of fake resolvers.
func loopbackPrefixes() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}
