package main

import (
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
	"github.com/cfrd-project/cfrd/ddr"
)

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
	n.certs.Rotate()
	if !connect("8443", "h2", frozen).DidResume {
		t.Error("at DoH after a rotation: got a new session; want it resumed")
	}
	for range certs.TicketKeys - 1 {
		n.certs.Rotate()
	}
	if connect("8443", "h2", frozen).DidResume {
		t.Error("at DoH after the key was forgotten: got a resumed session; want a new one")
	}
}

func queryFor(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// discoveryOf returns what a node with encrypted listeners at addrs advertises with certs.
func discoveryOf(t *testing.T, holder *certs.Holder, addrs ...string) *ddr.Zone {
	t.Helper()
	cfg := &config.Config{Name: "dns.isp.example"}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		cfg.Listen.Do53 = append(cfg.Listen.Do53, netip.AddrPortFrom(addr, 53))
		cfg.Listen.DoT = append(cfg.Listen.DoT, netip.AddrPortFrom(addr, 853))
	}
	v := &values{Config: cfg}
	zone, err := ddr.New(v.discovery(v.listen(), holder, false))
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
		certstest.Template{Names: []string{"dns.isp.example"}, Addrs: addrs}.Write(t, dir)
		cert, err := certs.Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	holder := certs.NewHolder(nil)
	zone := discoveryOf(t, holder, v4.String(), v6.String())
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
	holder.Replace(load(v4, v6))
	wantAt("both addresses", v4, v6)
	holder.Replace(load(v4))
	wantAt("lost IPv6", v4)
	holder.Replace(load(v4, v6))
	wantAt("both again", v4, v6)
	holder.Replace(nil)
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
	short := *n.certs.Current()
	leaf := *short.Leaf
	leaf.NotAfter = time.Now().Add(20 * time.Second)
	short.Leaf = &leaf
	n.certs.Replace(&short)
	if rrs := ask(); len(rrs) == 0 || rrs[0].Header().Ttl > 20 {
		t.Errorf("with a certificate that expires in 20 s: got %v; want records with a TTL no longer than that", rrs)
	}
	n.certs.Replace(nil)
	if rrs := ask(); len(rrs) != 0 {
		t.Errorf("without a certificate: got %v; want no records", rrs)
	}
}

// TestHandshakeWithoutCertificate wants a clear end, not a stall.
func TestHandshakeWithoutCertificate(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	n.certs.Replace(nil)
	for _, port := range []string{"8853", "8443"} {
		_, err := tls.Dial("tcp", l.addr.String()+":"+port, &tls.Config{RootCAs: l.roots, ServerName: "dns.isp.example"})
		if err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
			t.Errorf("port %s: got error %v; want an alert", port, err)
		}
	}
}
