package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/survey"
)

// judge judges the messages alone, without connecting to anything.
func (c dnrChecker) judge(s survey.Result) {
	for _, why := range s.Unasked {
		c.skip("ask", c.link.Interface, "%s", why)
	}
	if s.Dropped > 0 {
		c.fail("flood", c.link.Interface, "%d more messages were not looked at: something floods the link", s.Dropped)
	}
	designated := false
	for _, h := range s.Messages {
		c.message(h)
		designated = designated || len(h.Instances) > 0
	}
	switch {
	case len(s.Messages) == 0:
		c.fail("dnr", c.link.Interface, "no router and no DHCP server answered")
	case !designated:
		c.fail("dnr", c.link.Interface, "no server hands out a designated resolver, so clients stay unencrypted")
	}
	c.agreement(s.Messages)
	for _, h := range s.Messages {
		c.reactions(h)
	}
}

// message judges one message.
func (c dnrChecker) message(h survey.Message) {
	from := source(h)
	for _, f := range h.Findings {
		c.finding(from, f)
	}
	switch n := len(h.Instances) + h.Omitted; {
	case n == 0:
		c.skip(h.By.String(), from, "this %s hands out no designated resolver", h.Kind)
	case h.Omitted > 0:
		c.fail(h.By.String(), from, "this %s has %d instances, of which the first %d were looked at", h.Kind, n,
			len(h.Instances))
	case h.Err() != nil:
		c.skip(h.By.String(), from, "clients ignore this %s, and with it %d instances", h.Kind, n)
	default:
		c.ok(h.By.String(), from, "this %s has %d instances%s", h.Kind, n, alsoUnencrypted(h.Resolvers))
	}
	for i, in := range h.Instances {
		c.instance(h, i, in)
	}
}

// alsoUnencrypted returns which resolvers are handed out for use without encryption, as the end of a sentence, or "".
func alsoUnencrypted(servers []netip.Addr) string {
	if len(servers) == 0 {
		return ""
	}
	return ", beside unencrypted DNS at " + joined(servers)
}

// joined returns addrs as words of a sentence.
func joined(addrs []netip.Addr) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, " ")
}

// finding adds a finding as a step. It fails also where only some clients refuse the option.
func (c dnrChecker) finding(target string, f dnr.Finding) {
	if f.Severity == dnr.Note {
		c.skip(f.Code, target, "%s", f.Text)
		return
	}
	c.fail(f.Code, target, "%s", f.Text)
}

// instance judges the instance in, which is the one with index i of h. A finding that several instances have is reported
// once, with the first of them.
func (c dnrChecker) instance(h survey.Message, i int, in dnr.Inspection) {
	target := fmt.Sprintf("%s #%d", source(h), i+1)
	fine := true
	for _, f := range in.Findings {
		fine = fine && f.Severity == dnr.Note
		// A withdrawn instance is reported by its lifetime.
		if f.Code == dnr.CodeWithdrawn || slices.ContainsFunc(h.Instances[:i], has(f)) {
			continue
		}
		f.Text += alsoIn(h.Instances, i, f)
		c.finding(target, f)
	}
	if fine {
		c.ok("instance", target, "%d %s %s", in.Priority, in.ADN, describe(in))
	}
	if h.By == dnr.RA && in.ADN != "" {
		c.lifetime(target, h, in.Lifetime)
	}
}

// has returns a function that reports whether an instance has a finding that says the same as f.
func has(f dnr.Finding) func(dnr.Inspection) bool {
	return func(in dnr.Inspection) bool {
		return slices.ContainsFunc(in.Findings, func(g dnr.Finding) bool { return g.Code == f.Code && g.Text == f.Text })
	}
}

// alsoIn names the instances behind the one with index i that have the same finding.
func alsoIn(list []dnr.Inspection, i int, f dnr.Finding) string {
	var numbers []string
	for j := i + 1; j < len(list); j++ {
		if has(f)(list[j]) {
			numbers = append(numbers, fmt.Sprintf("#%d", j+1))
		}
	}
	if len(numbers) == 0 {
		return ""
	}
	return "; so it is with " + strings.Join(numbers, " ")
}

// describe returns what an instance says about its resolver, for a step.
func describe(in dnr.Inspection) string {
	r := svcb.Record{Params: in.Params}
	d := Designation{ALPN: r.ALPN(), Port: r.Port(), DoHPath: r.DoHPath(), Addresses: in.Addresses}
	return d.params()
}

// shortestLifetime is three times the shortest interval that a router may have between its advertisements. See RFC
// 9463, Section 6.1; RFC 4861, Section 6.2.1.
const shortestLifetime = 3 * 4 * time.Second

// lifetime judges the lifetime of the option of a Router Advertisement.
func (c dnrChecker) lifetime(target string, h survey.Message, lifetime time.Duration) {
	const name = "lifetime"
	switch {
	case lifetime == 0:
		c.fail(name, target, "is 0: clients must no longer use the resolver")
	case lifetime == dnr.Infinity:
		c.ok(name, target, "never ends")
	case lifetime < 3*h.Interval:
		c.fail(name, target, "is %s, though the router advertises only every %s: want three times that", lifetime, h.Interval)
	case lifetime < shortestLifetime:
		c.fail(name, target, "is %s: no router advertises often enough to renew that", lifetime)
	default:
		c.ok(name, target, "is %s", lifetime)
	}
}

// service is one transport of one resolver, in what all servers of a link must agree on.
type service struct {
	adn, alpn string
	port      uint16
	dohPath   string
}

// String returns s as part of a sentence.
func (s service) String() string {
	text := fmt.Sprintf("%s at port %d of %s", s.alpn, s.port, s.adn)
	if s.dohPath != "" {
		text += " with dohpath " + s.dohPath
	}
	return text
}

// servicesOf returns the transports that a client would take from an instance, with their addresses.
func servicesOf(in dnr.Inspection) map[service][]netip.Addr {
	list := make(map[service][]netip.Addr)
	r := svcb.Record{Params: in.Params}
	for _, id := range r.ALPN() {
		list[serviceOf(in.ADN, id, r)] = in.Usable()
	}
	return list
}

// serviceOf returns the service that a record of the resolver adn describes for one protocol.
func serviceOf(adn, alpn string, r svcb.Record) service {
	s := service{adn: dns.CanonicalName(adn), alpn: alpn, port: portOf(alpn, r.Port())}
	if svcb.IsHTTP(alpn) {
		s.dohPath = r.DoHPath()
	}
	return s
}

// offer is what clients would take of one message.
type offer struct {
	messages    survey.Message
	services map[service][]netip.Addr
}

// offers returns what each of the messages designates, without those that designate nothing.
func offers(messages []survey.Message) (list []offer) {
	for _, h := range messages {
		o := offer{h, make(map[service][]netip.Addr)}
		for _, in := range h.Instances {
			if h.Err() != nil || in.Err() != nil || h.By == dnr.RA && in.Lifetime == 0 {
				continue
			}
			for s, addrs := range servicesOf(in) {
				o.services[s] = append(o.services[s], addrs...)
			}
		}
		if len(o.services) > 0 {
			list = append(list, o)
		}
	}
	return list
}

// agreement compares what several servers say, because clients take the options of all of them together. See RFC 9463,
// Section 3.2; RFC 8106, Section 5.3.1.
func (c dnrChecker) agreement(messages []survey.Message) {
	list := offers(messages)
	if len(list) < 2 {
		return
	}
	wrong := false
	for i, o := range list[1:] {
		for _, other := range list[:i+1] {
			if d := o.differs(other); d != "" {
				c.fail("agreement", source(o.messages), "contradicts %s: %s", source(other.messages), d)
				wrong = true
				break
			}
		}
	}
	if !wrong {
		c.ok("agreement", c.link.Interface, "%d messages say the same of the same resolvers", len(list))
	}
}

// differs returns how o contradicts other, or "". A transport that only one of them has is no contradiction, because not
// every server can carry all.
func (o offer) differs(other offer) string {
	names, others := o.names(), other.names()
	if !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(others, n) }) {
		return fmt.Sprintf("it designates %s, not %s", strings.Join(names, ", "), strings.Join(others, ", "))
	}
	for _, s := range o.sorted() {
		for _, t := range other.sorted() {
			addrs, otherAddrs := o.services[s], other.services[t]
			switch {
			case s.adn != t.adn || s.alpn != t.alpn:
			case s.port != t.port || s.dohPath != t.dohPath:
				if _, ok := other.services[s]; !ok {
					return fmt.Sprintf("it says %s, not %s", s, t)
				}
			case o.sameFamily(other) && !sameAddrs(addrs, otherAddrs):
				return fmt.Sprintf("it has %s at %s, not %s", s, joined(addrs), joined(otherAddrs))
			}
		}
	}
	return ""
}

// sameFamily reports whether both messages carry addresses of the same family: DHCPv4 has IPv4 only, the others IPv6
// only.
func (o offer) sameFamily(other offer) bool {
	return (o.messages.By == dnr.DHCPv4) == (other.messages.By == dnr.DHCPv4)
}

// sameAddrs reports whether a and b hold the same addresses, in any order.
func sameAddrs(a, b []netip.Addr) bool {
	contains := func(list []netip.Addr) func(netip.Addr) bool {
		return func(x netip.Addr) bool { return !slices.Contains(list, x) }
	}
	return !slices.ContainsFunc(a, contains(b)) && !slices.ContainsFunc(b, contains(a))
}

// sorted returns the services in a fixed order.
func (o offer) sorted() []service {
	return slices.SortedFunc(maps.Keys(o.services), func(a, b service) int { return strings.Compare(a.String(), b.String()) })
}

// names returns the names that o designates, in a fixed order.
func (o offer) names() (names []string) {
	for s := range o.services {
		names = append(names, s.adn)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// reactions adds how known clients react to a message.
func (c dnrChecker) reactions(h survey.Message) {
	if len(h.Instances) == 0 {
		return
	}
	for _, r := range survey.Clients(h) {
		target := source(h)
		name := "client-" + strings.ToLower(strings.FieldsFunc(r.Client, func(c rune) bool { return c == ' ' || c == '-' })[0])
		text := r.Client + " "
		if r.Unverified {
			text += "(unverified) "
		}
		switch {
		case len(r.Uses) > 0:
			c.ok(name, target, "%suses %s", text, uses(r.Uses)+but(r.Reasons))
		case r.Unverified:
			c.skip(name, target, "%suses none: %s", text, strings.Join(r.Reasons, "; "))
		default:
			c.fail(name, target, "%suses none: %s", text, strings.Join(r.Reasons, "; "))
		}
	}
}

// uses returns what a client uses, as words of a sentence.
func uses(list []survey.Use) string {
	words := make([]string, len(list))
	for i, u := range list {
		words[i] = fmt.Sprintf("%s of #%d", strings.Join(u.ALPN, " "), u.Instance)
	}
	return strings.Join(words, ", ")
}

// but returns why a client does not use the rest, as the end of a sentence, or "".
func but(reasons []string) string {
	if len(reasons) == 0 {
		return ""
	}
	return "; not " + strings.Join(reasons, "; ")
}
