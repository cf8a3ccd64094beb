package ddr

import (
	"errors"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// https returns the HTTPS records of the name: where https://NAME/ is, which is DoH, and whether it has a provisioning
// domain. There is one for each of resolvers that speaks HTTP, for clients that look for them beside what discovery
// says. See RFC 9461, Section 5.
//
// They have no address hints: the addresses go along in the Additional section, clients ask for them at the same
// time (RFC 9460, Section 5), and in a zone file hints would be a second copy that goes out of date.
func (z *Zone) https(owner string, resolvers []svcb.Resolver, ttl uint32) []dns.RR {
	var rrs []dns.RR
	for _, r := range resolvers {
		if !slices.ContainsFunc(r.ALPN, svcb.IsHTTP) {
			continue
		}
		rr := &dns.HTTPS{SVCB: dns.SVCB{
			Hdr: header(owner, dns.TypeHTTPS, ttl), Priority: uint16(len(rrs) + 1), Target: ".",
			Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: r.ALPN}},
		}}
		switch {
		case r.Port != 0:
			rr.Value = append(rr.Value, &dns.SVCBPort{Port: r.Port})
		case z.cfg.PvD:
			// Clients look for it on port 443 only. See draft-ietf-intarea-proxy-config.
			rr.Value = append(rr.Value, &dns.SVCBLocal{KeyCode: dns.SVCBKey(svcb.KeyPvD)})
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// Records returns what the zone that holds the name needs, so that clients anywhere can discover the resolver by its
// name: its addresses, the set at _dns, the HTTPS record and RESINFO. It is what Answer says to clients that ask the
// first of Config.Addresses, except that it does not depend on the certificate of this moment, because a zone file
// outlives that. See RFC 9462, Section 5; RFC 9461, Section 5; RFC 9606, Section 3.
func (z *Zone) Records() ([]dns.RR, error) {
	if len(z.cfg.Addresses) == 0 {
		return nil, errors.New("ddr: the addresses of " + z.cfg.Name + " are not known")
	}
	first := z.cfg.Addresses[0]
	here, there := z.reachable(first)
	resolvers, err := z.combine(append(here, there...), first)
	if err != nil {
		return nil, err
	}
	rrs := addressRecords(z.name, z.cfg.Addresses, z.ttl)
	for _, r := range resolvers {
		rrs = append(rrs, record(r, discovery+z.name, z.ttl))
	}
	if z.relay != nil {
		rr := dns.Copy(z.relay).(*dns.SVCB)
		rr.Hdr = header(discovery+z.name, dns.TypeSVCB, z.ttl)
		rrs = append(append(rrs, rr), addressRecords(rr.Target, z.relayAt, z.ttl)...)
	}
	rrs = append(rrs, z.https(z.name, resolvers, z.ttl)...)
	if z.info != nil {
		rrs = append(rrs, &dns.RESINFO{Hdr: header(z.name, dns.TypeRESINFO, z.ttl), Txt: slices.Clone(z.info)})
	}
	return rrs, nil
}
