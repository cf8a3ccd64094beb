package ddr

import (
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// The names of discovery. See RFC 9462, Section 8.1; RFC 9461, Section 3.
const (
	arpa      = "resolver.arpa."
	discovery = "_dns."
)

// Answer returns the reply to q sent by client to the address local, or false if the name is not of discovery.
// Everything under resolver.arpa is: what does not exist is NODATA. See RFC 9462, Section 6.4. The reply has AA set.
//
// The answer depends on local, and on client only for the relay, never on anything in the query that somebody between
// client and resolver could change. See RFC 9462, Section 7.
func (z *Zone) Answer(q dns.Question, client, local netip.Addr) (*dns.Msg, bool) {
	if q.Qclass != dns.ClassINET {
		return nil, false
	}
	local = local.Unmap().WithZone("")
	switch name := dns.CanonicalName(q.Name); {
	case dns.IsSubDomain(arpa, name):
		return z.answerArpa(q, name, client, local), true
	case dns.IsSubDomain(discovery+z.name, name):
		return z.answerDiscovery(q, name, client, local), true
	case name == z.name && q.Qtype == dns.TypeHTTPS && (z.cfg.OwnName || z.cfg.OwnHTTPS):
		return z.answerHTTPS(q, local)
	case name == z.name && (z.cfg.OwnName || q.Qtype == dns.TypeRESINFO):
		return z.answerName(q, local), true
	}
	return nil, false
}

func (z *Zone) answerArpa(q dns.Question, name string, client, local netip.Addr) *dns.Msg {
	switch {
	case name == discovery+arpa && q.Qtype == dns.TypeSVCB:
		if resolvers, err := z.Resolvers(local); err == nil {
			return z.designation(q, resolvers, client, local)
		}
	case name != arpa:
	case q.Qtype == dns.TypeRESINFO:
		return z.answerInfo(q, arpa)
	case q.Qtype == dns.TypeSOA:
		return z.reply(q, z.soa(arpa))
	case q.Qtype == dns.TypeNS:
		// An empty zone names itself. See RFC 6303, Section 3.
		return z.reply(q, &dns.NS{Hdr: header(q.Name, dns.TypeNS, z.ttl), Ns: arpa})
	}
	return z.nodata(q, arpa)
}

func (z *Zone) answerDiscovery(q dns.Question, name string, client, local netip.Addr) *dns.Msg {
	apex := discovery + z.name
	if z.cfg.OwnName {
		apex = z.name
	}
	if name == discovery+z.name && q.Qtype == dns.TypeSVCB {
		if resolvers, err := z.resolversByName(local); err == nil {
			return z.designation(q, resolvers, client, local)
		}
	}
	if name == apex && q.Qtype == dns.TypeSOA {
		return z.reply(q, z.soa(apex))
	}
	return z.nodata(q, apex)
}

// answerHTTPS answers for the HTTPS record of the name. It returns false, so that other zones are asked, if there is no
// record and Config.OwnName is not set.
func (z *Zone) answerHTTPS(q dns.Question, local netip.Addr) (*dns.Msg, bool) {
	if resolvers, err := z.resolversByName(local); err == nil {
		if rrs := z.https(q.Name, resolvers, z.lifetime()); len(rrs) > 0 {
			m := z.reply(q, rrs...)
			m.Extra = addressRecords(z.name, z.addresses(local), z.lifetime())
			return m, true
		}
	}
	if z.cfg.OwnName {
		return z.nodata(q, z.name), true
	}
	return nil, false
}

func (z *Zone) answerName(q dns.Question, local netip.Addr) *dns.Msg {
	switch q.Qtype {
	case dns.TypeRESINFO:
		return z.answerInfo(q, z.name)
	case dns.TypeSOA:
		return z.reply(q, z.soa(z.name))
	case dns.TypeA, dns.TypeAAAA:
		rrs := addressRecords(q.Name, z.addresses(local), z.ttl)
		rrs = slices.DeleteFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype != q.Qtype })
		if len(rrs) > 0 {
			return z.reply(q, rrs...)
		}
	}
	return z.nodata(q, z.name)
}

// answerInfo is the one exception to NODATA at resolver.arpa itself. A client discards it without AA. See RFC 9606,
// Section 3.
func (z *Zone) answerInfo(q dns.Question, apex string) *dns.Msg {
	if z.info == nil {
		return z.nodata(q, apex)
	}
	return z.reply(q, &dns.RESINFO{Hdr: header(q.Name, dns.TypeRESINFO, z.ttl), Txt: slices.Clone(z.info)})
}

// designation is the answer to a discovery query, with the addresses of every TargetName exactly once.
func (z *Zone) designation(q dns.Question, resolvers []svcb.Resolver, client, local netip.Addr) *dns.Msg {
	ttl := z.lifetime()
	m := z.reply(q)
	for _, r := range resolvers {
		m.Answer = append(m.Answer, record(r, q.Name, ttl))
	}
	m.Extra = addressRecords(z.name, z.addresses(local), ttl)
	if z.relayFor(client) {
		rr := dns.Copy(z.relay).(*dns.SVCB)
		rr.Hdr = header(q.Name, dns.TypeSVCB, ttl)
		m.Answer = append(m.Answer, rr)
		m.Extra = append(m.Extra, addressRecords(rr.Target, z.relayAt, ttl)...)
	}
	return m
}

func addressRecords(owner string, addrs []netip.Addr, ttl uint32) []dns.RR {
	rrs := make([]dns.RR, 0, len(addrs))
	for _, a := range addrs {
		if a.Is4() {
			rrs = append(rrs, &dns.A{Hdr: header(owner, dns.TypeA, ttl), A: a.AsSlice()})
		} else {
			rrs = append(rrs, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

func (z *Zone) reply(q dns.Question, answer ...dns.RR) *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{q}, Answer: answer}
	m.Response, m.Authoritative = true, true
	return m
}

func (z *Zone) nodata(q dns.Question, apex string) *dns.Msg {
	m := z.reply(q)
	m.Ns = []dns.RR{z.soa(apex)}
	return m
}

// soa is that of an empty zone of RFC 6303, Section 3, with the TTL of our answers for what does not exist, because a
// certificate can start to cover an address at any time.
func (z *Zone) soa(apex string) *dns.SOA {
	return &dns.SOA{
		Hdr: header(apex, dns.TypeSOA, z.ttl), Ns: apex, Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: z.ttl,
	}
}
