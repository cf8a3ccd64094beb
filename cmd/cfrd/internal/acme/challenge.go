package acme

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver"
)

// challenges are the proofs that an authority may ask for now. They are put there by the goroutine that orders, and read
// by those that serve.
type challenges struct {
	mu   sync.Mutex
	alpn map[string]*tls.Certificate // by SNI
	http map[string]string           // key authorization by path
	txt  map[string][]string         // by name, fully qualified
}

// newChallenges returns an empty set of proofs.
func newChallenges() *challenges {
	return &challenges{
		alpn: make(map[string]*tls.Certificate),
		http: make(map[string]string),
		txt:  make(map[string][]string),
	}
}

// solver puts proofs in place and takes them away.
type solver struct {
	present, cleanUp func(acme.Challenge) error
}

// Present implements acmez.Solver.
func (s solver) Present(_ context.Context, c acme.Challenge) error { return s.present(c) }

// CleanUp implements acmez.Solver.
func (s solver) CleanUp(_ context.Context, c acme.Challenge) error { return s.cleanUp(c) }

// solvers returns the solvers of the challenges of types.
func (cs *challenges) solvers(types []string) map[string]acmez.Solver {
	all := map[string]solver{
		acme.ChallengeTypeTLSALPN01: {cs.presentALPN, cs.locked(func(c acme.Challenge) { delete(cs.alpn, challengeSNI(c)) })},
		acme.ChallengeTypeHTTP01: {
			cs.locked(func(c acme.Challenge) { cs.http[c.HTTP01ResourcePath()] = c.KeyAuthorization }),
			cs.locked(func(c acme.Challenge) { delete(cs.http, c.HTTP01ResourcePath()) }),
		},
		acme.ChallengeTypeDNS01: {cs.locked(cs.presentTXT), cs.locked(cs.cleanUpTXT)},
	}
	list := make(map[string]acmez.Solver)
	for _, t := range types {
		list[t] = all[t]
	}
	return list
}

// locked returns f as a function that holds mu.
func (cs *challenges) locked(f func(acme.Challenge)) func(acme.Challenge) error {
	return func(c acme.Challenge) error {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		f(c)
		return nil
	}
}

// presentALPN puts the certificate of TLS-ALPN-01 in place. See RFC 8737, Section 3.
func (cs *challenges) presentALPN(c acme.Challenge) error {
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return fmt.Errorf("make the certificate of a challenge: %w", err)
	}
	return cs.locked(func(c acme.Challenge) { cs.alpn[challengeSNI(c)] = cert })(c)
}

// challengeSNI returns the SNI by which an authority asks for the proof: of an address its reverse name. See RFC 8738,
// Section 6.
func challengeSNI(c acme.Challenge) string {
	if reverse, err := dns.ReverseAddr(c.Identifier.Value); err == nil {
		return strings.TrimSuffix(reverse, ".")
	}
	return strings.ToLower(c.Identifier.Value)
}

// presentTXT puts the record of DNS-01 in place. The caller holds mu. See RFC 8555, Section 8.4.
func (cs *challenges) presentTXT(c acme.Challenge) {
	name := dns.CanonicalName(c.DNS01TXTRecordName())
	cs.txt[name] = append(cs.txt[name], c.DNS01KeyAuthorization())
}

// cleanUpTXT takes the record of DNS-01 away. The caller holds mu.
func (cs *challenges) cleanUpTXT(c acme.Challenge) {
	name, value := dns.CanonicalName(c.DNS01TXTRecordName()), c.DNS01KeyAuthorization()
	cs.txt[name] = slices.DeleteFunc(cs.txt[name], func(v string) bool { return v == value })
	if len(cs.txt[name]) == 0 {
		delete(cs.txt, name)
	}
}

// tlsConfig returns the configuration for the handshake of an authority, or nil if hello is of a client. See RFC 8737,
// Section 3. The protocol is offered alone, and only while there is something to prove; net/http closes a connection
// that has agreed on it, and over QUIC it is not answered.
func (cs *challenges) tlsConfig(hello *tls.ClientHelloInfo) *tls.Config {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acmez.ACMETLS1Protocol ||
		hello.Conn == nil || hello.Conn.LocalAddr().Network() != "tcp" {
		return nil
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cert := cs.alpn[strings.ToLower(hello.ServerName)]
	if cert == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{*cert},
		NextProtos:   []string{acmez.ACMETLS1Protocol},
	}
}

// ServeHTTP implements http.Handler for HTTP-01. Every other request finds nothing.
func (cs *challenges) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cs.mu.Lock()
	proof, ok := cs.http[r.URL.Path]
	cs.mu.Unlock()
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	fmt.Fprint(w, proof)
}

// challengeTTL, in seconds, keeps the resolver of the authority from answering with the proof of an earlier order.
const challengeTTL = 1

// challengeZone is the zone _acme-challenge below the resolver's name, which the operator delegates to this resolver. It
// exists all the time, so that the delegation can be tested.
type challengeZone struct {
	*challenges
	name, server string // fully qualified and in lower case
}

// publicZone returns the zone of name, which everybody may ask: an authority has no fixed addresses.
func (cs *challenges) publicZone(name string) *resolver.Public {
	server := dns.CanonicalName(name)
	z := challengeZone{cs, "_acme-challenge." + server, server}
	return &resolver.Public{Name: z.name, Local: z}
}

// Answer implements resolver.Local.
func (z challengeZone) Answer(q dns.Question, _, _ netip.Addr) (*dns.Msg, bool) {
	if dns.CanonicalName(q.Name) != z.name {
		return nil, false
	}
	header := func(rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: z.name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: challengeTTL}
	}
	soa := &dns.SOA{
		Hdr: header(dns.TypeSOA), Ns: z.server, Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: challengeTTL,
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
	switch q.Qtype {
	case dns.TypeTXT:
		z.mu.Lock()
		defer z.mu.Unlock()
		for _, proof := range z.txt[z.name] {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: header(dns.TypeTXT), Txt: []string{proof}})
		}
	case dns.TypeSOA:
		m.Answer = []dns.RR{soa}
	case dns.TypeNS:
		m.Answer = []dns.RR{&dns.NS{Hdr: header(dns.TypeNS), Ns: z.server}}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa}
	}
	return m, true
}
