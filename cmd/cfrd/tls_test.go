package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
)

func TestLoadCertificateErrors(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		cert certificateTemplate
		want string
	}{
		"expired": {
			certificateTemplate{names: []string{"dns.isp.example"}, notAfter: now.Add(-time.Minute)},
			"expired on",
		},
		"not-yet-valid": {
			certificateTemplate{names: []string{"dns.isp.example"}, notBefore: now.Add(time.Minute)},
			"is not valid before",
		},
		"other-name": {
			certificateTemplate{names: []string{"other.example"}, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}},
			"is not for dns.isp.example, the resolver's name, but for other.example, 192.0.2.53",
		},
		"no-name": {
			certificateTemplate{},
			"but for no subject alternative name",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.cert.write(t, dir)
			_, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v; want one with %q", err, test.want)
			}
		})
	}
}

func TestLoadCertificateOfOtherKey(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	certificateTemplate{names: []string{"dns.isp.example"}}.write(t, a)
	certificateTemplate{names: []string{"dns.isp.example"}}.write(t, b)
	_, err := loadCertificate(filepath.Join(a, "cert.pem"), filepath.Join(b, "key.pem"), "dns.isp.example", time.Now())
	if err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("got error %v; want a mismatch", err)
	}
}

func TestUncovered(t *testing.T) {
	covered, missing := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")
	private := netip.MustParseAddr("10.0.0.53")
	leaf := certificateTemplate{addrs: []netip.Addr{covered}}.write(t, t.TempDir())
	got := uncovered(leaf, []netip.Addr{covered, missing, private})
	if len(got) != 1 || got[0] != missing {
		t.Errorf("got %v; want %v: private addresses are discovered without it", got, missing)
	}
}

func testCertificates(t *testing.T) (*certificates, *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	leaf := certificateTemplate{names: []string{"dns.isp.example"}}.write(t, dir)
	cert, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return newCertificates(cert), pool
}

// handshake connects a client to a listener with config server, and returns what the client saw.
func handshake(t *testing.T, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(s, server)
		_, err := conn.Write([]byte{0})
		done <- err
	}()
	conn := tls.Client(c, client)
	// The read takes the session ticket in as well, which comes before the octet.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState()
}

// TestResumptionAcrossListeners resumes a session of one clone of the configuration at another, as long as the key of
// its ticket has not been forgotten.
func TestResumptionAcrossListeners(t *testing.T) {
	certs, pool := testCertificates(t)
	dot, doq := certs.config().Clone(), certs.config().Clone()
	client := &tls.Config{RootCAs: pool, ServerName: "dns.isp.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	if handshake(t, dot, client).DidResume {
		t.Fatal("first handshake: got a resumed session; want a new one")
	}
	for range ticketKeys - 1 {
		certs.rotate()
	}
	first := client.Clone() // keeps the session, whatever tickets come next
	first.ClientSessionCache = frozenCache{client.ClientSessionCache}
	if !handshake(t, doq, first).DidResume {
		t.Error("at another listener: got a new session; want it resumed")
	}
	certs.rotate()
	if handshake(t, doq, first).DidResume {
		t.Error("after the key was forgotten: got a resumed session; want a new one")
	}
}

// frozenCache is a session cache that takes nothing in.
type frozenCache struct{ tls.ClientSessionCache }

func (frozenCache) Put(string, *tls.ClientSessionState) {}

// TestResumptionFromDoTToDoH resumes at the DoH listener of a running node what began at its DoT listener, also after
// the key that encrypts tickets has been replaced.
func TestResumptionFromDoTToDoH(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	connect := func(port, proto string, cache tls.ClientSessionCache) tls.ConnectionState {
		t.Helper()
		conf := &tls.Config{RootCAs: l.roots, ServerName: "dns.isp.example", NextProtos: []string{proto}, ClientSessionCache: cache}
		c, err := tls.Dial("tcp", l.addr.String()+":"+port, conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if proto == "dot" {
			// With the answer comes the ticket.
			if _, _, err := new(dns.Client).ExchangeWithConn(queryFor("www.isp.example.", dns.TypeA), &dns.Conn{Conn: c}); err != nil {
				t.Fatal(err)
			}
		}
		return c.ConnectionState()
	}
	cache := tls.NewLRUClientSessionCache(1)
	if connect("8853", "dot", cache).DidResume {
		t.Fatal("at DoT: got a resumed session; want a new one")
	}
	frozen := frozenCache{cache}
	if state := connect("8443", "h2", frozen); !state.DidResume || state.NegotiatedProtocol != "h2" {
		t.Errorf("at DoH: got resumed %t with protocol %q; want true with h2", state.DidResume, state.NegotiatedProtocol)
	}
	n.certs.rotate()
	if !connect("8443", "h2", frozen).DidResume {
		t.Error("at DoH after a rotation: got a new session; want it resumed")
	}
	for range ticketKeys - 1 {
		n.certs.rotate()
	}
	if connect("8443", "h2", frozen).DidResume {
		t.Error("at DoH after the key was forgotten: got a resumed session; want a new one")
	}
}

func queryFor(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// TestTicketsRotate has the clock run until the first key is forgotten.
func TestTicketsRotate(t *testing.T) {
	certs, _ := testCertificates(t)
	synctest.Test(t, func(t *testing.T) {
		go certs.rotateTickets(t.Context())
		// In the bubble it is another year than that of the certificate.
		client := &tls.Config{InsecureSkipVerify: true, ServerName: "dns.isp.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		handshake(t, certs.config(), client)
		client.ClientSessionCache = frozenCache{client.ClientSessionCache}
		for n := range ticketKeys {
			synctest.Wait()
			if !handshake(t, certs.config(), client).DidResume {
				t.Errorf("after %d rotations: got a new session; want it resumed", n)
			}
			time.Sleep(ticketKeyLife)
		}
		synctest.Wait()
		if handshake(t, certs.config(), client).DidResume {
			t.Errorf("after %d rotations: got a resumed session; want a new one", ticketKeys)
		}
	})
}

// discoveryOf returns what a node with encrypted listeners at addrs advertises with certs.
func discoveryOf(t *testing.T, certs *certificates, addrs ...string) *ddr.Zone {
	t.Helper()
	cfg := &config.Config{Name: "dns.isp.example"}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		cfg.Listen.Do53 = append(cfg.Listen.Do53, netip.AddrPortFrom(addr, 53))
		cfg.Listen.DoT = append(cfg.Listen.DoT, netip.AddrPortFrom(addr, 853))
	}
	v := &values{Config: cfg}
	zone, err := ddr.New(v.discovery(v.listen(), certs, false))
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// TestDiscoveryFollowsTheCertificate replaces the certificate by one that lost an address, and by none.
func TestDiscoveryFollowsTheCertificate(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")
	load := func(addrs ...netip.Addr) *tls.Certificate {
		dir := t.TempDir()
		certificateTemplate{names: []string{"dns.isp.example"}, addrs: addrs}.write(t, dir)
		cert, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	certs := newCertificates(nil)
	zone := discoveryOf(t, certs, v4.String(), v6.String())
	wantAt := func(step string, want ...netip.Addr) {
		t.Helper()
		for _, local := range []netip.Addr{v4, v6} {
			m, ok := zone.Answer(queryFor("_dns.resolver.arpa.", dns.TypeSVCB).Question[0], netip.MustParseAddr("192.0.2.1"), local)
			if got := ok && len(m.Answer) > 0; got != slices.Contains(want, local) {
				t.Errorf("%s: advertised at %s: got %t; want %t", step, local, got, !got)
			}
		}
	}
	wantAt("no certificate")
	certs.replace(load(v4, v6))
	wantAt("both addresses", v4, v6)
	certs.replace(load(v4))
	wantAt("lost IPv6", v4)
	certs.replace(load(v4, v6))
	wantAt("both again", v4, v6)
	certs.current.Store(nil)
	wantAt("gone")
}

// TestDiscoveryIsNotCached asks a running node, whose answers must not outlive the certificate that they rest on.
func TestDiscoveryIsNotCached(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	ask := func() []dns.RR {
		t.Helper()
		m, _, err := new(dns.Client).ExchangeContext(t.Context(), queryFor("_dns.resolver.arpa.", dns.TypeSVCB), l.addr.String()+":8053")
		if err != nil {
			t.Fatal(err)
		}
		return m.Answer
	}
	if rrs := ask(); len(rrs) == 0 || rrs[0].Header().Ttl != 300 {
		t.Fatalf("got %v; want records with TTL 300", rrs)
	}
	short := *n.certs.current.Load()
	leaf := *short.Leaf
	leaf.NotAfter = time.Now().Add(20 * time.Second)
	short.Leaf = &leaf
	n.certs.current.Store(&short)
	if rrs := ask(); len(rrs) == 0 || rrs[0].Header().Ttl > 20 {
		t.Errorf("with a certificate that expires in 20 s: got %v; want records with a TTL no longer than that", rrs)
	}
	n.certs.current.Store(nil)
	if rrs := ask(); len(rrs) != 0 {
		t.Errorf("without a certificate: got %v; want no records", rrs)
	}
}

// TestHandshakeWithoutCertificate wants a clear end, not a stall.
func TestHandshakeWithoutCertificate(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	n.certs.current.Store(nil)
	for _, port := range []string{"8853", "8443"} {
		_, err := tls.Dial("tcp", l.addr.String()+":"+port, &tls.Config{RootCAs: l.roots, ServerName: "dns.isp.example"})
		if err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
			t.Errorf("port %s: got error %v; want an alert", port, err)
		}
	}
}

func TestCertificateWithoutSNI(t *testing.T) {
	certs, pool := testCertificates(t)
	state := handshake(t, certs.config(), &tls.Config{
		InsecureSkipVerify: true, // crypto/tls cannot verify without a name; the test does it below
		RootCAs:            pool,
	})
	if err := state.PeerCertificates[0].VerifyHostname("dns.isp.example"); err != nil {
		t.Errorf("got another certificate: %v", err)
	}
}
