package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr"
	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/resolver"
)

const discoveryName = "_dns.resolver.arpa."

// ask sends a question to the resolver over Do53, the way a stub resolver does: over UDP, and over TCP if the answer
// is truncated.
func (c checker) ask(ctx context.Context, name string, qtype uint16) (message, error) {
	m, err := c.askOver(ctx, resolver.UDP, name, qtype)
	if err == nil && m.truncated {
		return c.askOver(ctx, resolver.TCP, name, qtype)
	}
	return m, err
}

// askOver sends a question to the resolver over t, which is UDP or TCP.
func (c checker) askOver(ctx context.Context, t resolver.Transport, name string, qtype uint16) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return Client{Addr: c.Addr, Control: c.control}.ask(ctx, t, Question(name, qtype))
}

// do53 asks for designated resolvers over UDP and TCP, and returns a usable reply.
func (c checker) do53(ctx context.Context) (reply message, ok bool) {
	for _, t := range []resolver.Transport{resolver.UDP, resolver.TCP} {
		m, err := c.askOver(ctx, t, discoveryName, dns.TypeSVCB)
		name, target := "do53-"+t.String(), c.Addr.String()
		switch {
		case err != nil:
			c.fail(name, target, "Do53 does not answer: %v", err)
		case m.rcode == dns.RcodeRefused:
			c.fail(name, target, "the resolver refuses to serve this host: it is not one of its clients")
		case m.truncated && t == resolver.UDP:
			c.ok(name, target, "answers; the discovery answer is too large for UDP and needs TCP")
		default:
			c.ok(name, target, "answers")
			if !ok {
				reply, ok = m, true
			}
		}
	}
	return reply, ok
}

// designated judges the discovery answer and returns the records that a client can use.
func (c checker) designated(m message) []Designation {
	if m.rcode == dns.RcodeNameError {
		c.fail("ddr", discoveryName, "NXDOMAIN: this resolver does not know of discovery, so clients stay unencrypted")
		return nil
	}
	records := ofType(m.answer, dns.TypeSVCB)
	if m.rcode != dns.RcodeSuccess || len(records) == 0 {
		c.fail("ddr", discoveryName, "%s without SVCB records: nothing is designated, so clients stay unencrypted",
			dns.RcodeToString[m.rcode])
		return nil
	}
	c.ok("ddr", discoveryName, "%d SVCB records, TTL %d s", len(records), records[0].ttl)
	var usable []Designation
	for _, rr := range records {
		if d, ok := c.designation(rr, m.extra); ok {
			usable = append(usable, d)
		}
	}
	if len(usable) == 0 {
		c.fail("ddr", discoveryName, "none of the records designates a resolver that a client can use")
	}
	slices.SortStableFunc(usable, func(a, b Designation) int { return int(a.Priority) - int(b.Priority) })
	return usable
}

// designation judges one record, and returns it and whether a DNS client can use it.
func (c checker) designation(rr record, extra []record) (Designation, bool) {
	r, err := svcb.Parse(rr.data)
	if err != nil {
		c.fail("svcb", discoveryName, "malformed, so that clients reject the whole answer: %v", err)
		return Designation{}, false
	}
	d := Designation{
		Priority: r.Priority, Target: dns.CanonicalName(r.Target), ALPN: r.ALPN(), Port: r.Port(), DoHPath: r.DoHPath(),
		Addresses: additionalAddrs(r.Target, extra), Relay: isRelay(r),
	}
	c.Designations = append(c.Designations, d)
	target := fmt.Sprintf("%d %s", r.Priority, r.Target)
	err = r.CheckDNS()
	switch {
	case d.Relay:
		c.relayRecord(target, r)
		return d, false
	case err != nil:
		c.fail("svcb", target, "clients cannot use it: %v", err)
		return d, false
	case c.Name != "" && d.Target != c.Name:
		c.fail("svcb", target, "designates another name than %s", c.Name)
	default:
		c.ok("svcb", target, "%s", d.params())
	}
	c.addresses(d, target, extra)
	return d, true
}

// addresses judges the addresses that the Additional section holds for the target of d.
func (c checker) addresses(d Designation, target string, extra []record) {
	all := addressRecordsOf(d.Target, extra)
	switch {
	case len(all) == 0:
		c.skip("svcb-addresses", target, "not in the Additional section, so that clients have to ask for them")
	case len(all) != len(d.Addresses):
		c.fail("svcb-addresses", target, "an address is in the Additional section twice")
	}
}

// params returns what d says about its target, for a step.
func (d Designation) params() string {
	words := []string{"alpn=" + strings.Join(d.ALPN, ",")}
	if d.Port != 0 {
		words = append(words, fmt.Sprintf("port=%d", d.Port))
	}
	if d.DoHPath != "" {
		words = append(words, "dohpath="+d.DoHPath)
	}
	for _, a := range d.Addresses {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// addressRecordsOf returns the addresses that name has in section, with duplicates.
func addressRecordsOf(name string, section []record) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range section {
		if a, ok := rr.addr(); ok && rr.name == dns.CanonicalName(name) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// additionalAddrs returns the addresses that name has in section, sorted, each once.
func additionalAddrs(name string, section []record) []netip.Addr {
	addrs := addressRecordsOf(name, section)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// isRelay reports whether r is the record of a relay in the form of this program, whatever private key it uses.
func isRelay(r svcb.Record) bool {
	return slices.ContainsFunc(r.Mandatory(), func(key uint16) bool {
		return key >= svcb.KeyPrivateFirst && ddr.IsRelay(r, key)
	})
}

// relayRecord judges the record of a relay, which clients that do not know its key skip.
func (c checker) relayRecord(target string, r svcb.Record) {
	for _, p := range r.Params {
		if p.Key < svcb.KeyPrivateFirst {
			continue
		}
		f, err := ddr.ParseRelayValue(p.Value)
		if err != nil {
			c.skip("relay-record", target, "a record with a mandatory private key and no alpn, of no known form: %v", err)
			return
		}
		c.ok("relay-record", target, "announces a relay by %s (TCP: %t, UDP: %t); clients that do not know it skip it",
			svcb.KeyName(p.Key), f&ddr.RelayTCP != 0, f&ddr.RelayUDP != 0)
		return
	}
}

// hygiene asks a question to which a resolver that serves resolver.arpa locally answers NODATA. See RFC 9462, Section 6.4.
// Addresses are not asked for, because clients must not. See RFC 9462, Section 4.
func (c checker) hygiene(ctx context.Context) {
	const name, target = "resolver-arpa", "resolver.arpa. TXT"
	m, err := c.ask(ctx, "resolver.arpa.", dns.TypeTXT)
	switch {
	case err != nil:
		c.fail(name, target, "no answer: %v", err)
	case m.rcode != dns.RcodeSuccess:
		c.fail(name, target, "%s instead of NODATA: caches take it to mean that nothing below exists",
			dns.RcodeToString[m.rcode])
	case len(m.answer) > 0:
		c.fail(name, target, "has data: the name is not served locally")
	default:
		c.ok(name, target, "NODATA, as for a locally served zone")
	}
}
