package resolver

import (
	"cmp"
	"fmt"
	"net/netip"
)

// PrefixLimit bounds what all clients of one prefix may have together, so that a customer with many prefixes of his own
// counts as one. A zero field but for the lengths means its default.
type PrefixLimit struct {
	IPv4        int // length of the prefix, from 1 to 31; 0 if IPv4 clients are not bounded here
	IPv6        int // length of the prefix, from 1 to 63; 0 if IPv6 clients are not bounded here
	Connections int // default 16 times Limits.ConnectionsPerClient
	InFlight    int // default half of Limits.InFlight
	Rate        int // what they may cost in a second, as Limits.Rate; default 16 times that
}

// Defaults of PrefixLimit, as multiples of what a client may have.
const (
	perSite     = 2  // of an IPv6 /56, which is what one household has
	perNetworks = 16 // of an IPv6 /48 or an IPv4 /24, but for queries in flight
)

// clientBitsIPv4 and clientBitsIPv6 are the prefixes that count as one client: an IPv4 address, or the /64 that one
// customer has at least in IPv6.
const (
	clientBitsIPv4 = 32
	clientBitsIPv6 = 64
)

// defaultPrefixes returns the nested prefixes that are bounded unless the configuration has others. See RFC 6177 for
// what customers are given.
func (l Limits) defaultPrefixes() []PrefixLimit {
	return []PrefixLimit{
		{IPv6: 56, Connections: perSite * l.ConnectionsPerClient, InFlight: perSite * l.InFlightPerClient, Rate: perSite * l.Rate},
		{IPv4: 24, IPv6: 48},
	}
}

// completePrefixes returns all levels of prefixes, the narrowest first, of which the first is that of a client.
func (l Limits) completePrefixes() []PrefixLimit {
	levels := []PrefixLimit{{
		IPv4: clientBitsIPv4, IPv6: clientBitsIPv6,
		Connections: l.ConnectionsPerClient, InFlight: l.InFlightPerClient, Rate: l.Rate,
	}}
	more := l.Prefixes
	if len(more) == 0 {
		more = l.defaultPrefixes()
	}
	for _, p := range more {
		p.Connections = cmp.Or(p.Connections, perNetworks*l.ConnectionsPerClient)
		p.InFlight = cmp.Or(p.InFlight, max(1, l.InFlight/2))
		p.Rate = cmp.Or(p.Rate, perNetworks*l.Rate)
		levels = append(levels, p)
	}
	return levels
}

// maxPrefixes bounds how many levels of prefixes there may be besides that of a client: each costs a look-up.
const maxPrefixes = 4

// ValidatePrefixes returns what is wrong with Limits.Prefixes, or nil. The error begins with the field in the form that
// configuration keys have, "prefixes[1].ipv6: ".
func ValidatePrefixes(prefixes []PrefixLimit) error {
	if len(prefixes) > maxPrefixes {
		return fmt.Errorf("prefixes[%d]: at most %d prefixes can be nested", maxPrefixes, maxPrefixes)
	}
	last := PrefixLimit{IPv4: clientBitsIPv4, IPv6: clientBitsIPv6}
	for i, p := range prefixes {
		switch {
		case p.IPv4 == 0 && p.IPv6 == 0:
			return fmt.Errorf("prefixes[%d]: needs the length of a prefix, ipv4 or ipv6", i)
		case p.IPv4 < 0 || p.IPv4 >= last.IPv4:
			return fmt.Errorf("prefixes[%d].ipv4: /%d must be shorter than /%d, in which it is nested", i, p.IPv4, last.IPv4)
		case p.IPv6 < 0 || p.IPv6 >= last.IPv6:
			return fmt.Errorf("prefixes[%d].ipv6: /%d must be shorter than /%d, in which it is nested", i, p.IPv6, last.IPv6)
		case p.Connections < 0 || p.InFlight < 0 || p.Rate < 0:
			return fmt.Errorf("prefixes[%d]: a limit is negative", i)
		}
		last.IPv4, last.IPv6 = cmp.Or(p.IPv4, last.IPv4), cmp.Or(p.IPv6, last.IPv6)
	}
	return nil
}

// bits returns the length of the prefixes of a family that p bounds, or 0 if it bounds none.
func (p *PrefixLimit) bits(v4 bool) int {
	if v4 {
		return p.IPv4
	}
	return p.IPv6
}

// prefix returns the prefix of addr that p bounds, or false if it bounds none. addr is unmapped.
func (p *PrefixLimit) prefix(addr netip.Addr) (netip.Prefix, bool) {
	bits := p.bits(addr.Is4())
	if bits == 0 {
		return netip.Prefix{}, false
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	return prefix, err == nil
}

// sharing says how many customers an address stands for: behind carrier-grade NAT that is many (RFC 6888).
type sharing struct {
	prefixes  *prefixSet // or nil, which is empty
	customers int
}

func newSharing(l *Limits) sharing {
	if len(l.Shared) == 0 {
		return sharing{}
	}
	s, err := newPrefixSet(l.Shared)
	if err != nil {
		s = nil // validate has refused it
	}
	return sharing{s, l.SharedBy}
}

// times returns by how much the limits of addr are multiplied.
func (s *sharing) times(addr netip.Addr) int {
	if s.prefixes.contains(addr) {
		return s.customers
	}
	return 1
}
