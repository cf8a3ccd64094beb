package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr/survey"
)

// maxEndpoints and maxDo53 bound the connections that hostile servers can cause.
const (
	maxEndpoints = 32
	maxDo53      = 4
)

// endpoint is a service at one of its addresses.
type endpoint struct {
	service
	addr netip.Addr // without zone
}

// endpoints returns what is handed out and can be tried, each endpoint once. What clients must refuse is tried as well,
// because that shows whether the option is all that is wrong.
func endpoints(messages []survey.Message) (list []endpoint) {
	for _, h := range messages {
		for _, in := range h.Instances {
			if !in.Readable() {
				continue
			}
			r := svcb.Record{Params: in.Params}
			for _, id := range r.ALPN() {
				s := serviceOf(in.ADN, id, r)
				for _, addr := range in.Usable() {
					if e := (endpoint{s, addr}); !slices.Contains(list, e) {
						list = append(list, e)
					}
				}
			}
		}
	}
	return list
}

// try does what a client does with what is handed out.
func (c dnrChecker) try(ctx context.Context, s survey.Result) {
	list := endpoints(s.Messages)
	for i, e := range list {
		if i == maxEndpoints {
			c.skip("transports", c.link.Interface, "only the first %d of %d were tried", maxEndpoints, len(list))
			break
		}
		c.endpoint(ctx, e)
	}
	c.discovery(ctx, s, list)
}

// endpoint connects to e and asks. See RFC 9463, Section 3.3.
func (c dnrChecker) endpoint(ctx context.Context, e endpoint) {
	t, ok := transportOf(e.alpn)
	at := netip.AddrPortFrom(c.zoned(e.addr), e.port)
	switch {
	case !ok:
		c.skip(e.alpn, at.String(), "not a transport of DNS that is known here")
		return
	case !c.canReach(e.addr):
		c.skip(stepName(t, e.alpn), at.String(), "this host has no address of that kind on the link, so it was not tried")
		return
	case svcb.IsHTTP(e.alpn) && e.dohPath == "":
		c.skip(stepName(t, e.alpn), at.String(), "cannot be tried without dohpath")
		return
	}
	name := strings.TrimSuffix(e.adn, ".")
	client := Client{Addr: at, SNI: name, Host: name, Path: e.dohPath, ALPN: e.alpn, Control: c.bindFor(e.addr)}
	step := stepName(t, e.alpn)
	if chain := c.exchange(ctx, step, t, client, comparison{question: Question(e.adn, typeOf(e.addr))}); chain != nil {
		c.authenticate(step+"-certificate", at, name, chain)
	}
}

// typeOf returns the type of the record that holds addr.
func typeOf(addr netip.Addr) uint16 {
	if addr.Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}

// authenticate wants a certificate that clients trust and that carries the name. See RFC 9463, Section 3.3.
func (c dnrChecker) authenticate(step string, at netip.AddrPort, name string, chain []*x509.Certificate) {
	if err := VerifyNames(c.Roots, name)(tls.ConnectionState{PeerCertificates: chain}); err != nil {
		c.fail(step, at.String(), "clients refuse it: %s", reason(err))
		return
	}
	c.ok(step, at.String(), "is trusted and carries %s", name)
}

// zoned returns addr with the zone that it needs.
func (c dnrChecker) zoned(addr netip.Addr) netip.Addr {
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		return addr.WithZone(c.link.Interface)
	}
	return addr
}

// canReach reports whether this host has an address from which a client could reach addr.
func (c dnrChecker) canReach(addr netip.Addr) bool {
	return slices.ContainsFunc(c.link.Addresses, func(own netip.Addr) bool {
		return own.Is4() == addr.Is4() && (!own.IsLinkLocalUnicast() || addr.IsLinkLocalUnicast())
	})
}

// bindFor keeps connections on the link, except those to this host itself.
func (c dnrChecker) bindFor(addr netip.Addr) ControlFunc {
	if slices.Contains(c.link.Addresses, addr) {
		return nil
	}
	return bindToDevice(c.link.Interface)
}

// discovery compares what is handed out with what the resolvers say of themselves. Where they contradict each other,
// clients follow the network. See RFC 9463, Section 3.2; RFC 9462, Section 6.5.
func (c dnrChecker) discovery(ctx context.Context, s survey.Result, list []endpoint) {
	servers, announced := do53Servers(s.Messages, list)
	for _, addr := range servers {
		ck := c.at(addr)
		if !c.canReach(addr) {
			c.skip("ddr", ck.Addr.String(), "this host has no address of that kind on the link, so it was not asked")
			continue
		}
		m, err := ck.ask(ctx, discoveryName, dns.TypeSVCB)
		switch {
		case err != nil && announced:
			c.fail("ddr", ck.Addr.String(), "is handed out as a resolver, but does not answer: %s", reason(err))
		case err != nil:
			c.skip("ddr", ck.Addr.String(), "answers no unencrypted questions")
		default:
			c.compare(ck.Addr.String(), m, list)
		}
		if err == nil {
			ck.adnOnly(ctx, s.Messages)
		}
	}
}

// do53Servers returns the resolvers that are handed out for use without encryption, and true. If there are none it
// returns the addresses of the designated resolvers, which may answer without encryption as well.
func do53Servers(messages []survey.Message, list []endpoint) (servers []netip.Addr, announced bool) {
	add := func(addr netip.Addr) {
		one := addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLoopback()
		if one && !slices.Contains(servers, addr) && len(servers) < maxDo53 {
			servers = append(servers, addr)
		}
	}
	for _, h := range messages {
		for _, addr := range h.Resolvers {
			add(addr)
		}
	}
	if announced = len(servers) > 0; !announced {
		for _, e := range list {
			add(e.addr)
		}
	}
	return servers, announced
}

// at returns a checker of the resolver at port 53 of addr, whose steps are those of c.
func (c dnrChecker) at(addr netip.Addr) checker {
	ck := c.checker
	ck.Addr, ck.control = netip.AddrPortFrom(c.zoned(addr), 53), c.bindFor(addr)
	return ck
}

// compare judges the discovery answer m by what is handed out.
func (c dnrChecker) compare(target string, m message, list []endpoint) {
	said := designatedServices(m)
	if len(said) == 0 {
		c.ok("ddr", target, "designates nothing by itself, so that only DNR leads clients to encryption")
		return
	}
	known, conflicts := 0, 0
	for _, s := range said {
		other, same := s.among(list)
		switch {
		case same:
			known++
		case other != service{}:
			conflicts++
			c.fail("ddr", target, "designates %s, but the network hands out %s, which clients follow", s, other)
		}
	}
	switch {
	case conflicts > 0:
	case known == 0:
		c.skip("ddr", target, "designates %s, which the network does not hand out; clients follow the network", said[0])
	default:
		c.ok("ddr", target, "says the same by discovery")
	}
}

// among reports whether s is among what is handed out. If not, other is the same protocol of the same resolver at another
// port or path, if there is one.
func (s service) among(list []endpoint) (other service, same bool) {
	for _, e := range list {
		switch {
		case e.service == s:
			return s, true
		case e.adn == s.adn && e.alpn == s.alpn:
			other = e.service
		}
	}
	return other, false
}

// designatedServices returns what a client could use of a discovery answer.
func designatedServices(m message) (list []service) {
	for _, rr := range ofType(m.answer, dns.TypeSVCB) {
		r, err := svcb.Parse(rr.data)
		if err != nil || r.CheckDNS() != nil {
			continue
		}
		for _, id := range r.ALPN() {
			list = append(list, serviceOf(r.Target, id, r))
		}
	}
	return list
}

// adnOnly asks for the records of instances that have only a name. See RFC 9463, Section 3.1.6.
func (c checker) adnOnly(ctx context.Context, messages []survey.Message) {
	asked := make(map[string]bool)
	for _, h := range messages {
		for _, in := range h.Instances {
			if !in.Readable() || !in.ADNOnly() || asked[in.ADN] || len(asked) >= maxProbes {
				continue
			}
			asked[in.ADN] = true
			target := "_dns." + in.ADN
			if m, err := c.ask(ctx, target, dns.TypeSVCB); err != nil || len(designatedServices(m)) == 0 {
				c.fail("adn-only", target, "has no records that clients could use, and the option has only the name")
				continue
			}
			c.ok("adn-only", target, "has what the option leaves out")
		}
	}
}
