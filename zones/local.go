package zones

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// emptyTTL is the TTL of everything in a built-in zone, in seconds. See RFC 6303, Section 3.
const emptyTTL = 10800

// specialUse are the names of the IANA registry "Special-Use Domain Names" that have no meaning in the public DNS. Not
// here are those that locallyServed has, "localhost", which has addresses, the names of "example", which caches treat as
// any other (RFC 6761, Section 6.5), ipv4only.arpa and the reverse names of its addresses, which only a DNS64 answers
// itself (RFC 8880, Section 7), and resolver.arpa, which is discovery's. See
// https://www.iana.org/assignments/special-use-domain-names.
var specialUse = [...]string{
	"6tisch.arpa.",   // RFC 9031: in CoAP only
	"alt.",           // RFC 9476
	"eap-noob.arpa.", // RFC 9140: in network access identifiers only
	"eap.arpa.",      // the same for every EAP method
	"invalid.",       // RFC 6761, Section 6.4
	"local.",         // RFC 6762, Section 22.1
	"onion.",         // RFC 7686, Section 2
	"test.",          // RFC 6761, Section 6.2
}

// locallyServed are the zones of the IANA registry that RFC 6303 began, without the numbered runs that
// builtinZones adds. See https://www.iana.org/assignments/locally-served-dns-zones.
var locallyServed = [...]string{
	"home.arpa.", // RFC 8375, Section 4
	// RFC 9665: with default.service.arpa, whose names only the registration server of a network knows
	"service.arpa.",
	// RFC 6303, Section 4.1
	"10.in-addr.arpa.", "168.192.in-addr.arpa.",
	// RFC 6303, Section 4.2
	"0.in-addr.arpa.", "127.in-addr.arpa.", "254.169.in-addr.arpa.", "2.0.192.in-addr.arpa.",
	"100.51.198.in-addr.arpa.", "113.0.203.in-addr.arpa.", "255.255.255.255.in-addr.arpa.",
	// RFC 6303, Sections 4.4, 4.5 and 4.6
	"d.f.ip6.arpa.", "8.e.f.ip6.arpa.", "9.e.f.ip6.arpa.", "a.e.f.ip6.arpa.", "b.e.f.ip6.arpa.",
	"8.b.d.0.1.0.0.2.ip6.arpa.",
}

// builtinZones returns all special-use and locally served zones by apex.
func builtinZones() map[string]*zone {
	zones := map[string]*zone{"localhost.": localhost()}
	for _, apex := range specialUse {
		zones[apex] = emptyZone(apex)
	}
	public := slices.Clone(locallyServed[:])
	for i := 16; i < 32; i++ { // RFC 6303, Section 4.1
		public = append(public, strconv.Itoa(i)+".172.in-addr.arpa.")
	}
	for i := 64; i < 128; i++ { // RFC 7793
		public = append(public, strconv.Itoa(i)+".100.in-addr.arpa.")
	}
	for _, addr := range []netip.Addr{netip.IPv6Unspecified(), netip.IPv6Loopback()} { // RFC 6303, Section 4.3
		name, _ := dns.ReverseAddr(addr.String())
		public = append(public, name)
	}
	for _, apex := range public {
		zones[apex] = emptyZone(apex)
		// A validator must be able to learn from the parent that the delegation is insecure. See RFC 8375, Section 4.
		zones[apex].public = true
	}
	return zones
}

// emptyZone returns a zone of nothing but its apex, in the form of RFC 6303, Section 3.
func emptyZone(apex string) *zone {
	hdr := dns.RR_Header{Name: apex, Class: dns.ClassINET, Ttl: emptyTTL}
	soa := &dns.SOA{
		Hdr: hdr, Ns: apex, Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: emptyTTL,
	}
	ns := &dns.NS{Hdr: hdr, Ns: apex}
	soa.Hdr.Rrtype, ns.Hdr.Rrtype = dns.TypeSOA, dns.TypeNS
	return &zone{apex: apex, builtin: true, soa: soa, nodes: map[string]*node{
		apex: {sets: []rrset{{dns.TypeNS, []dns.RR{ns}}, {dns.TypeSOA, []dns.RR{soa}}}},
	}}
}

// localhost returns the zone in which every name has the loopback addresses. See RFC 6761, Section 6.3.
func localhost() *zone {
	z := emptyZone("localhost.")
	z.nodes["*.localhost."] = new(node)
	hdr := dns.RR_Header{Name: z.apex, Class: dns.ClassINET, Ttl: emptyTTL}
	for _, n := range z.nodes {
		a := &dns.A{Hdr: hdr, A: netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice()}
		aaaa := &dns.AAAA{Hdr: hdr, AAAA: netip.IPv6Loopback().AsSlice()}
		a.Hdr.Rrtype, aaaa.Hdr.Rrtype = dns.TypeA, dns.TypeAAAA
		n.add(a)
		n.add(aaaa)
	}
	return z
}

// relayApex reports whether name is the reverse name of relay addresses only, and returns the name nearest to the
// root of which that is true too. Prefixes need not end where a label does: 192.0.2.0/25 has 128 apexes.
func (z *Zones) relayApex(name string) (apex string, ok bool) {
	labels, perLabel, base, ok := reverseLabels(name)
	if !ok {
		return "", false
	}
	for _, p := range z.relay {
		n := (p.Bits() + perLabel - 1) / perLabel
		if p.Addr().Is4() != (perLabel == 8) || len(labels) < n {
			continue
		}
		kept := labels[len(labels)-n:]
		if addr, ok := reverseAddr(kept, perLabel); ok && p.Contains(addr) {
			return strings.Join(append(slices.Clone(kept), base), "."), true
		}
	}
	return "", false
}

// reverseLabels splits name, in lower case, before in-addr.arpa or ip6.arpa.
func reverseLabels(name string) (labels []string, bitsPerLabel int, base string, ok bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		return strings.Split(rest, "."), 8, "in-addr.arpa.", true
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		return strings.Split(rest, "."), 4, "ip6.arpa.", true
	}
	return nil, 0, "", false
}

// reverseAddr returns the lowest address whose reverse name ends with labels. It refuses labels that no reverse name
// of an address has, such as "010".
func reverseAddr(labels []string, bitsPerLabel int) (netip.Addr, bool) {
	b := make([]byte, 16)
	base := 16
	if bitsPerLabel == 8 {
		b, base = b[:4], 10
	}
	for i, label := range slices.Backward(labels) {
		v, err := strconv.ParseUint(label, base, bitsPerLabel)
		if err != nil || len(label) > 1 && (label[0] == '0' || base == 16) {
			return netip.Addr{}, false
		}
		bit := (len(labels) - 1 - i) * bitsPerLabel
		if bit >= len(b)*8 {
			return netip.Addr{}, false
		}
		b[bit/8] |= byte(v) << (8 - bitsPerLabel - bit%8)
	}
	return netip.AddrFromSlice(b)
}
