package acme

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
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs/certstest"
	"github.com/cfrd-project/cfrd/resolver"
)

func testChallenge(kind, value string) acme.Challenge {
	identifier := acme.Identifier{Type: "dns", Value: value}
	if _, err := netip.ParseAddr(value); err == nil {
		identifier.Type = "ip"
	}
	return acme.Challenge{Type: kind, Token: "token", KeyAuthorization: "token.thumbprint", Identifier: identifier}
}

func allSolvers(cs *challenges) map[string]acmez.Solver {
	return cs.solvers([]string{acme.ChallengeTypeTLSALPN01, acme.ChallengeTypeHTTP01, acme.ChallengeTypeDNS01})
}

// startDoH runs a resolver with a listener of DoH that serves the certificate of holder, until the test ends.
func startDoH(t *testing.T, holder *certs.Holder) (addr string) {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	srv, err := resolver.New(resolver.Config{
		Listen: resolver.Listen{DoH: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}},
		TLS:    holder.TLSConfig(),
		Settings: resolver.Settings{
			Clients:   []netip.Prefix{netip.PrefixFrom(loopback, 8)},
			Upstreams: []resolver.Upstream{{Addr: netip.AddrPortFrom(loopback, 9)}}, // which is never asked
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return srv.Addrs().DoH[0].String()
}

// testHolder returns a holder of a certificate for the resolver of these tests.
func testHolder(t *testing.T) *certs.Holder {
	t.Helper()
	dir := t.TempDir()
	certstest.Template{Names: []string{"dns.isp.example"}}.Write(t, dir)
	cert, err := certs.Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "dns.isp.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return certs.NewHolder(cert)
}

// TestTLSALPN asks a running resolver as an authority does, at the listener that clients use too.
func TestTLSALPN(t *testing.T) {
	holder, cs := testHolder(t), newChallenges()
	holder.AnswerChallenges(cs.tlsConfig)
	addr := startDoH(t, holder)
	dial := func(sni string, protos ...string) (tls.ConnectionState, error) {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: sni, NextProtos: protos})
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer c.Close()
		if protos[0] == acmez.ACMETLS1Protocol {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("got %v after the handshake; want the connection closed", err)
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
			if _, err := dial(test.sni, acmez.ACMETLS1Protocol); err == nil {
				t.Error("before the challenge: got a handshake; want none")
			}
			if err := solver.Present(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			state, err := dial(test.sni, acmez.ACMETLS1Protocol)
			if err != nil || state.NegotiatedProtocol != acmez.ACMETLS1Protocol {
				t.Fatalf("got protocol %q, error %v; want %s", state.NegotiatedProtocol, err, acmez.ACMETLS1Protocol)
			}
			wantProof(t, state, c)
			if _, err := dial("other.example", acmez.ACMETLS1Protocol); err == nil {
				t.Error("for another name: got a handshake; want none")
			}
			// Clients are served meanwhile, whatever they ask for.
			for _, protos := range [][]string{{"h2"}, {"h2", acmez.ACMETLS1Protocol}, {"http/1.1"}} {
				state, err := dial(test.sni, protos...)
				if err != nil || state.NegotiatedProtocol != protos[0] || !state.PeerCertificates[0].Equal(holder.Leaf()) {
					t.Errorf("client with %v: got protocol %q, error %v; want the resolver's certificate", protos, state.NegotiatedProtocol, err)
				}
			}
			if err := solver.CleanUp(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := dial(test.sni, acmez.ACMETLS1Protocol); err == nil {
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
