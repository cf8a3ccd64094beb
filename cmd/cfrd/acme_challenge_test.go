package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/asn1"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

func testChallenge(kind, value string) acme.Challenge {
	identifier := acme.Identifier{Type: "dns", Value: value}
	if _, err := netip.ParseAddr(value); err == nil {
		identifier.Type = "ip"
	}
	return acme.Challenge{Type: kind, Token: "token", KeyAuthorization: "token.thumbprint", Identifier: identifier}
}

func allSolvers(cs *challenges) map[string]acmez.Solver {
	return cs.solvers([]config.Challenge{acme.ChallengeTypeTLSALPN01, acme.ChallengeTypeHTTP01, acme.ChallengeTypeDNS01})
}

// TestTLSALPN asks a running node as an authority does, at the listener that clients use too.
func TestTLSALPN(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	cs := newChallenges()
	n.certs.challenge = cs.tlsConfig
	dial := func(port, sni string, protos ...string) (tls.ConnectionState, error) {
		c, err := tls.Dial("tcp", l.addr.String()+":"+port, &tls.Config{InsecureSkipVerify: true, ServerName: sni, NextProtos: protos})
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer c.Close()
		if protos[0] == acmez.ACMETLS1Protocol {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("port %s: got %v after the handshake; want the connection closed", port, err)
			}
		}
		return c.ConnectionState(), nil
	}
	tests := map[string]struct{ identifier, sni string }{
		"name": {"dns.isp.example", "dns.isp.example"},
		"ipv4": {"192.0.2.53", "53.2.0.192.in-addr.arpa"},
		"ipv6": {"2001:db8::53", "3.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, solver := testChallenge(acme.ChallengeTypeTLSALPN01, test.identifier), allSolvers(cs)[acme.ChallengeTypeTLSALPN01]
			if _, err := dial("8443", test.sni, acmez.ACMETLS1Protocol); err == nil {
				t.Error("before the challenge: got a handshake; want none")
			}
			if err := solver.Present(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			state, err := dial("8443", test.sni, acmez.ACMETLS1Protocol)
			if err != nil || state.NegotiatedProtocol != acmez.ACMETLS1Protocol {
				t.Fatalf("got protocol %q, error %v; want %s", state.NegotiatedProtocol, err, acmez.ACMETLS1Protocol)
			}
			wantProof(t, state, c)
			if _, err := dial("8443", "other.example", acmez.ACMETLS1Protocol); err == nil {
				t.Error("for another name: got a handshake; want none")
			}
			// Clients are served meanwhile, whatever they ask for.
			for _, protos := range [][]string{{"h2"}, {"h2", acmez.ACMETLS1Protocol}, {"http/1.1"}} {
				state, err := dial("8443", test.sni, protos...)
				if err != nil || state.NegotiatedProtocol != protos[0] || !state.PeerCertificates[0].Equal(n.certs.leaf()) {
					t.Errorf("client with %v: got protocol %q, error %v; want the resolver's certificate", protos, state.NegotiatedProtocol, err)
				}
			}
			if err := solver.CleanUp(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := dial("8443", test.sni, acmez.ACMETLS1Protocol); err == nil {
				t.Error("after the challenge: got a handshake; want none")
			}
		})
	}
}

// wantProof checks what RFC 8737, Section 3, has an authority check.
func wantProof(t *testing.T, state tls.ConnectionState, c acme.Challenge) {
	t.Helper()
	want := sha256.Sum256([]byte(c.KeyAuthorization))
	for _, ext := range state.PeerCertificates[0].Extensions {
		if ext.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
			var got []byte
			if _, err := asn1.Unmarshal(ext.Value, &got); err != nil || !slices.Equal(got, want[:]) || !ext.Critical {
				t.Errorf("got acmeIdentifier %x, critical %t, error %v; want %x", got, ext.Critical, err, want)
			}
			return
		}
	}
	t.Error("got a certificate without acmeIdentifier")
}

// TestTLSALPNNotOverQUIC keeps the authority's protocol to TCP.
func TestTLSALPNNotOverQUIC(t *testing.T) {
	cs := newChallenges()
	c := testChallenge(acme.ChallengeTypeTLSALPN01, "dns.isp.example")
	if err := allSolvers(cs)[acme.ChallengeTypeTLSALPN01].Present(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	hello := &tls.ClientHelloInfo{ServerName: "dns.isp.example", SupportedProtos: []string{acmez.ACMETLS1Protocol}}
	if got := cs.tlsConfig(hello); got != nil {
		t.Error("without a connection: got a configuration; want none")
	}
	hello.Conn = pc.(*net.UDPConn)
	if got := cs.tlsConfig(hello); got != nil {
		t.Error("over UDP: got a configuration; want none")
	}
}

func TestHTTP01(t *testing.T) {
	cs := newChallenges()
	c, solver := testChallenge(acme.ChallengeTypeHTTP01, "192.0.2.53"), allSolvers(cs)[acme.ChallengeTypeHTTP01]
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		cs.ServeHTTP(w, httptest.NewRequest(method, "http://192.0.2.53"+path, nil))
		return w.Code, w.Body.String()
	}
	path := "/.well-known/acme-challenge/token"
	if code, _ := get(http.MethodGet, path); code != http.StatusNotFound {
		t.Errorf("before: got %d; want 404", code)
	}
	if err := solver.Present(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if code, body := get(http.MethodGet, path); code != http.StatusOK || body != "token.thumbprint" {
		t.Errorf("got %d %q; want the key authorization", code, body)
	}
	for _, other := range []string{"/", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/token2", path + "/", "/dns-query"} {
		if code, _ := get(http.MethodGet, other); code != http.StatusNotFound {
			t.Errorf("%s: got %d; want 404", other, code)
		}
	}
	if code, _ := get(http.MethodPost, path); code != http.StatusNotFound {
		t.Errorf("POST: got %d; want 404", code)
	}
	if err := solver.CleanUp(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if code, _ := get(http.MethodGet, path); code != http.StatusNotFound {
		t.Errorf("after: got %d; want 404", code)
	}
}

// TestDNS01 asks for the zone of the challenge, with a proof in it and without.
func TestDNS01(t *testing.T) {
	cs := newChallenges()
	c, solver := testChallenge(acme.ChallengeTypeDNS01, "dns.isp.example"), allSolvers(cs)[acme.ChallengeTypeDNS01]
	public := cs.publicZone("DNS.isp.example")
	if public.Name != "_acme-challenge.dns.isp.example." {
		t.Fatalf("got public name %s", public.Name)
	}
	ask := func(name string, qtype uint16) *dns.Msg {
		t.Helper()
		q := dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
		m, ok := public.Local.Answer(q, netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.53"))
		if !ok || !m.Authoritative {
			t.Fatalf("%s: got claimed %t; want an authoritative answer", name, ok)
		}
		return m
	}
	proofs := func() (list []string) {
		for _, rr := range ask("_ACME-challenge.dns.isp.example.", dns.TypeTXT).Answer {
			list = append(list, rr.(*dns.TXT).Txt...)
		}
		return list
	}
	second := c
	second.KeyAuthorization = "token2.thumbprint"
	for _, present := range []acme.Challenge{c, second} {
		if err := solver.Present(t.Context(), present); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := proofs(), []string{c.DNS01KeyAuthorization(), second.DNS01KeyAuthorization()}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	if err := solver.CleanUp(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := proofs(), []string{second.DNS01KeyAuthorization()}; !slices.Equal(got, want) {
		t.Errorf("after the first was cleaned up: got %q; want %q", got, want)
	}
	if err := solver.CleanUp(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if m := ask("_acme-challenge.dns.isp.example.", dns.TypeTXT); len(m.Answer) != 0 || len(m.Ns) != 1 || len(cs.txt) != 0 {
		t.Errorf("after all: got\n%v\nwant NODATA with SOA", m)
	}
	for qtype, want := range map[uint16]int{dns.TypeSOA: 1, dns.TypeNS: 1, dns.TypeA: 0, dns.TypeANY: 0} {
		if m := ask("_acme-challenge.dns.isp.example.", qtype); len(m.Answer) != want || len(m.Answer)+len(m.Ns) != 1 {
			t.Errorf("%s: got\n%v\nwant %d records", dns.TypeToString[qtype], m, want)
		}
	}
	q := dns.Question{Name: "dns.isp.example.", Qtype: dns.TypeTXT, Qclass: dns.ClassINET}
	if _, ok := public.Local.Answer(q, netip.Addr{}, netip.Addr{}); ok {
		t.Error("another name: got it claimed; want it left to others")
	}
}

// withACME makes the lab get its certificate from an authority that is not there.
func (l *lab) withACME(more string) {
	l.config["tls"] = `{acme: {directory: "https://` + l.addr.String() + `:9/dir", storage: acme, agree: true` + more + `}}`
	l.config["listen"] = strings.ReplaceAll(l.config["listen"], ":8443", ":443")
	l.config["listen"] = strings.ReplaceAll(l.config["listen"], ":8053", ":53")
}

// TestNodeWithoutACertificate starts with an empty store and an authority that is down.
func TestNodeWithoutACertificate(t *testing.T) {
	if c, err := net.Listen("tcp", loopback().String()+":443"); err != nil {
		skip(t, "port 443 cannot be bound here: %v", err)
	} else {
		c.Close()
	}
	l := newLab(t)
	l.serveUpstream(t)
	l.withACME(", challenges: [tls-alpn-01, dns-01, http-01]")
	n, log := l.start(t)
	m, _, err := new(dns.Client).ExchangeContext(t.Context(), queryFor("www.isp.example.", dns.TypeA), l.addr.String()+":53")
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("Do53: got error %v, %v; want an answer", err, m)
	}
	if _, err := tls.Dial("tcp", l.addr.String()+":8853", &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("DoT: got a handshake; want none")
	}
	eventually(t, "the failed order", func() bool { return log.contains("no new certificate; what is served stays") })
	eventually(t, "readiness", func() bool { return len(n.notReady()) == 0 })
	status, body := l.get(t, "/readyz")
	if status != http.StatusOK || !strings.Contains(body, "warning: there is no certificate yet") || !strings.Contains(body, "renewal failed") {
		t.Errorf("/readyz: got %d %q; want 200 with two warnings", status, body)
	}
	if s := n.certs.stats(); s.refused == 0 || !s.next.After(time.Now()) || !s.expiry.IsZero() {
		t.Errorf("got %+v; want a failure, and a time for the next attempt", s)
	}
	l.wantPublic(t, dialFrom("udp", loopback()))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.addr.String()+"/.well-known/acme-challenge/none", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("port 80: got %v, error %v; want 404", resp, err)
	}
	if err == nil {
		resp.Body.Close()
	}
}

// wantPublic asks for the challenge's zone.
func (l *lab) wantPublic(t *testing.T, d *net.Dialer) {
	t.Helper()
	c := &dns.Client{Dialer: d}
	m, _, err := c.ExchangeContext(t.Context(), queryFor("_acme-challenge.dns.isp.example.", dns.TypeSOA), l.addr.String()+":53")
	if err != nil || len(m.Answer) != 1 || !m.Authoritative {
		t.Errorf("zone of the challenge: got error %v, %v; want its SOA", err, m)
	}
}

// TestNodeWithStoredCertificate starts with what an earlier run has kept, and reloads.
func TestNodeWithStoredCertificate(t *testing.T) {
	l := newLab(t)
	l.withACME("")
	l.write(t)
	cfg, err := config.Read(l.path(), config.ModeAll)
	if err != nil {
		t.Fatal(err)
	}
	bundle := mustRead(t, filepath.Join(l.dir, "cert.pem")) + mustRead(t, filepath.Join(l.dir, "key.pem"))
	if err := newACMEStore(cfg.TLS.ACME).save(context.Background(), "dns.isp.example", []byte(bundle)); err != nil {
		t.Fatal(err)
	}
	v, err := loadValues(cfg, config.ModeAll, time.Now())
	if err != nil || v.certificate == nil {
		t.Fatalf("got error %v, certificate %v; want the one in the store", err, v)
	}
	v, err = loadValues(cfg, config.ModeAll, time.Now().Add(2*time.Hour))
	if err != nil || v.certificate != nil || !slices.ContainsFunc(v.Warnings, func(s string) bool { return strings.Contains(s, "expired on") }) {
		t.Errorf("when it has expired: got error %v, certificate %v, warnings %q; want a warning only", err, v.certificate, v.Warnings)
	}
}
