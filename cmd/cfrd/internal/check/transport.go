package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/resolver"
)

// maxProbes bounds the connections that a hostile answer can cause.
const maxProbes = 16

// transports tries everything that was advertised, in the order in which a client would.
func (c checker) transports(ctx context.Context, records []Designation) {
	if len(records) == 0 {
		return
	}
	want, err := c.reference(ctx, records[0].Target)
	if err != nil {
		c.fail("reference", records[0].Target, "the resolver does not resolve its own name: %v", err)
	}
	n := 0
	for _, d := range records {
		for _, id := range d.ALPN {
			if n++; n > maxProbes {
				c.skip("transports", "", "only the first %d were tried", maxProbes)
				return
			}
			c.transport(ctx, d, id, want)
		}
	}
}

// comparison is a question with the answer it had over Do53, which is empty if it had none.
type comparison struct {
	question *dns.Msg
	answer   string
}

// reference asks what every transport must answer as well: the addresses of the resolver.
func (c checker) reference(ctx context.Context, name string) (comparison, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	qtype := dns.TypeA
	if c.Addr.Addr().Is6() {
		qtype = dns.TypeAAAA
	}
	m := Question(name, qtype)
	reply, err := Client{Addr: c.Addr}.Exchange(ctx, resolver.UDP, m)
	if err == nil && reply.Truncated {
		reply, err = Client{Addr: c.Addr}.Exchange(ctx, resolver.TCP, m)
	}
	if err != nil {
		return comparison{question: m}, err
	}
	return comparison{m, essence(reply)}, nil
}

// essence returns the part of a response that must not depend on the transport.
func essence(m *dns.Msg) string {
	rrs := make([]string, 0, len(m.Answer))
	for _, rr := range m.Answer {
		rr = dns.Copy(rr)
		rr.Header().Ttl = 0
		rr.Header().Name = dns.CanonicalName(rr.Header().Name)
		rrs = append(rrs, rr.String())
	}
	slices.Sort(rrs)
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(rrs, "; ")
}

// transport tries one protocol of one record: without SNI and with the asked address as the host of DoH, as clients
// that know only the address must, then with the name. See RFC 9462, Section 6.3.
func (c checker) transport(ctx context.Context, d Designation, alpn string, want comparison) {
	t, ok := transportOf(alpn)
	if !ok {
		c.skip(alpn, d.Target, "not a transport of DNS that is known here")
		return
	}
	client := c.unnamed(ctx, d, alpn)
	name := stepName(t, alpn)
	first := c.exchange(ctx, name, t, client, want)
	if first == nil {
		return
	}
	c.certificate(name+"-certificate", client.Addr, first)
	if svcb.IsHTTP(alpn) {
		post := client
		post.POST = true
		c.exchange(ctx, name+"-post", t, post, want)
	}
	client.SNI, client.Host = strings.TrimSuffix(d.Target, "."), strings.TrimSuffix(d.Target, ".")
	// The certificate for the name must do as well: one for the name and another for the address is a common mistake.
	second := c.exchange(ctx, name+"-sni", t, client, want)
	if second != nil && !second[0].Equal(first[0]) {
		c.certificate(name+"-sni-certificate", client.Addr, second)
	}
}

// unnamed returns a client that knows the resolver by its address only.
func (c checker) unnamed(ctx context.Context, d Designation, alpn string) Client {
	return Client{
		Addr: c.endpoint(ctx, d, alpn), Host: c.Addr.Addr().WithZone("").String(), Path: d.DoHPath, ALPN: alpn,
	}
}

// transportOf returns the transport that an ALPN protocol id stands for.
func transportOf(alpn string) (resolver.Transport, bool) {
	t, ok := map[string]resolver.Transport{
		"dot": resolver.DoT, "doq": resolver.DoQ, "h2": resolver.DoH, "http/1.1": resolver.DoH, "h3": resolver.DoH3,
	}[alpn]
	return t, ok
}

// stepName returns the name of the steps of a transport, with a name of its own for HTTP/1.1.
func stepName(t resolver.Transport, alpn string) string {
	if alpn == "http/1.1" {
		return "doh1"
	}
	return t.String()
}

// endpoint chooses the address to connect to: the one that was asked if the target has it, one of its family
// otherwise. Without any, clients fall back to the address that was asked.
func (c checker) endpoint(ctx context.Context, d Designation, alpn string) netip.AddrPort {
	addrs, asked := d.Addresses, c.Addr.Addr()
	if len(addrs) == 0 {
		addrs = c.lookup(ctx, d.Target)
	}
	best := asked
	if bare := asked.WithZone(""); len(addrs) > 0 && !slices.Contains(addrs, bare) {
		best = addrs[0]
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == asked.Is4() }); i >= 0 {
			best = addrs[i]
		}
	}
	return netip.AddrPortFrom(best, portOf(alpn, d.Port))
}

// portOf returns port, or the one of the protocol if it is 0. See RFC 9461, Section 4.2; RFC 9463, Section 3.1.5.
func portOf(alpn string, port uint16) uint16 {
	switch {
	case port != 0:
		return port
	case svcb.IsHTTP(alpn):
		return 443
	}
	return 853
}

// lookup returns the addresses of a name, IPv4 first.
func (c checker) lookup(ctx context.Context, name string) []netip.Addr {
	var addrs []netip.Addr
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m, err := c.ask(ctx, name, qtype)
		if err != nil {
			continue
		}
		for _, rr := range m.answer {
			if a, ok := rr.addr(); ok {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// exchange asks once, and returns the certificates that the server sent, or nil if there was no handshake.
func (c checker) exchange(
	ctx context.Context, name string, t resolver.Transport, client Client, want comparison,
) []*x509.Certificate {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var last atomic.Pointer[tls.ConnectionState]
	client.Verify = func(cs tls.ConnectionState) error { last.Store(&cs); return nil } // judged by the caller
	target := client.Addr.String()
	reply, err := client.Exchange(ctx, t, want.question)
	seen := cmp.Or(last.Load(), &tls.ConnectionState{})
	switch {
	case err != nil:
		c.fail(name, target, "advertised, but it does not work %s: %s", client.manner(), reason(err))
	case reply.Rcode == dns.RcodeRefused && want.answer == "":
		c.fail(name, target, "the resolver refuses to serve this host: it is not one of its clients")
	case want.answer != "" && essence(reply) != want.answer:
		c.fail(name, target, "answers %q, but Do53 answers %q", essence(reply), want.answer)
	default:
		c.ok(name, target, "answers %s over %s with ALPN %q", client.manner(),
			tls.VersionName(seen.Version), seen.NegotiatedProtocol)
	}
	return seen.PeerCertificates
}

// manner says how the client names the server, as words of a sentence.
func (c Client) manner() string {
	if c.SNI == "" {
		return "without SNI"
	}
	return "with SNI " + c.SNI
}

// certificate applies the rules of Verified Discovery, then those of Opportunistic Discovery. See RFC 9462,
// Sections 4.2 and 4.3. Clients that know the name check that too: see Section 5.
func (c checker) certificate(name string, endpoint netip.AddrPort, chain []*x509.Certificate) {
	asked, target := c.Addr.Addr().WithZone(""), endpoint.String()
	names := []string{asked.String()}
	if c.Name != "" {
		names = append(names, strings.TrimSuffix(c.Name, "."))
	}
	err := VerifyNames(c.Roots, names...)(tls.ConnectionState{PeerCertificates: chain})
	switch {
	case err == nil:
		c.ok(name, target, "is trusted and carries %s: Verified Discovery", strings.Join(names, " and "))
	case c.Name == "" && ddr.IsPrivate(asked) && endpoint.Addr() == c.Addr.Addr():
		c.ok(name, target, "Opportunistic Discovery only, at the same private address: %s", reason(err))
	default:
		c.fail(name, target, "clients refuse it: %s", reason(err))
	}
}

// reason makes one line of an error.
func reason(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
