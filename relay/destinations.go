package relay

import (
	"fmt"
	"net/netip"
	"slices"
)

// Destinations are the addresses that a relay connects to. They are safe for concurrent use, and never changed, but for
// the addresses that the host has.
type Destinations struct {
	egress  *prefixSet
	own     ownAddresses // or nil, if the relay is on another host
	allowed *prefixSet   // although special-purpose, or the host's own
}

// ownAddresses are the addresses of the relay's host at the moment.
type ownAddresses interface{ Contains(addr netip.Addr) bool }

// NewDestinations returns the destinations of a relay with these settings, as far as they do not depend on the host
// that it runs on. A resolver on another host hands out relay addresses for no others, since the relay would refuse
// the flows.
func NewDestinations(set Settings) (*Destinations, error) {
	d := new(Destinations)
	var err error
	if d.egress, err = newPrefixSet(set.Egress); err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	if d.allowed, err = newPrefixSet(set.AllowSpecial); err != nil {
		return nil, fmt.Errorf("allowed special-purpose destinations: %w", err)
	}
	return d, nil
}

// Permits reports whether flows to dst are relayed. The relay's own host is not a destination: its services, which
// know clients by their addresses, would take a client for the relay, and at an egress address a flow would come
// back. See RFC 9298, Section 7.
func (d *Destinations) Permits(dst netip.Addr) bool {
	if d.egress.contains(dst) {
		return false
	}
	if SpecialPurpose(dst) || d.isOwn(dst) {
		return d.allowed.contains(dst) && d.permitsEmbedded(dst)
	}
	return true
}

// isOwn reports whether addr is one of the relay's host.
func (d *Destinations) isOwn(addr netip.Addr) bool { return d.own != nil && d.own.Contains(addr) }

// permitsEmbedded reports whether the IPv4 address that is written in dst, if there is one, may be reached: that somebody
// allows a prefix for translation or tunnels does not mean every address behind it.
func (d *Destinations) permitsEmbedded(dst netip.Addr) bool {
	inner, ok := embedded(dst)
	return !ok || !d.egress.contains(inner) && (!SpecialPurpose(inner) && !d.isOwn(inner) || d.allowed.contains(inner))
}

// embedded returns the IPv4 address that a translator or tunnel would take out of addr. Of the well-known blocks only
// those with local-use prefixes (RFC 8215) may have it elsewhere than at the end.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() || addr.IsLoopback() || addr.IsUnspecified() {
		return addr, false
	}
	b := addr.As16()
	switch {
	case addr.Is4In6():
		return addr.Unmap(), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(addr): // with all bits inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	if slices.ContainsFunc(translated[:], func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return addr, false
}

// Prefixes of addresses in which an IPv4 address is written.
var (
	sixToFour  = netip.MustParsePrefix("2002::/16") // RFC 3056, Section 2
	teredo     = netip.MustParsePrefix("2001::/32") // RFC 4380, Section 4
	translated = [...]netip.Prefix{                 // at the end
		netip.MustParsePrefix("::/96"),           // IPv4-compatible: RFC 4291, Section 2.5.5.1
		netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated: RFC 2765, Section 2.1
		netip.MustParsePrefix("64:ff9b::/96"),    // well-known: RFC 6052, Section 2.1
		netip.MustParsePrefix("64:ff9b:1::/48"),  // local use: RFC 8215
	}
)

// SpecialPurpose reports whether addr is in one of IANA's special-purpose registries, or is not a global unicast
// address at all. Such an address is neither relayed to nor steered, unless the operator lists it. This is the only
// list of them. See RFC 6890 and RFC 8190.
func SpecialPurpose(addr netip.Addr) bool { return addr.Is4In6() || special.contains(addr) }

// special is special4 and special6 together.
var special = func() *prefixSet {
	set, err := newPrefixSet(slices.Concat(special4[:], special6[:]))
	if err != nil {
		panic("relay: special-purpose addresses: " + err.Error())
	}
	return set
}()

// special4 is the IANA IPv4 Special-Purpose Address Registry, whole, and multicast. Blocks that the registry calls
// globally reachable are here as well: they are anycast infrastructure, and no service that a client would name.
var special4 = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network: RFC 791, Section 3.2
	netip.MustParsePrefix("10.0.0.0/8"),      // private use: RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),   // shared address space: RFC 6598
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback: RFC 1122, Section 3.2.1.3
	netip.MustParsePrefix("169.254.0.0/16"),  // link local: RFC 3927
	netip.MustParsePrefix("172.16.0.0/12"),   // private use: RFC 1918
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocol assignments: RFC 6890, Section 2.1
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation: RFC 5737
	netip.MustParsePrefix("192.31.196.0/24"), // AS112: RFC 7535
	netip.MustParsePrefix("192.52.193.0/24"), // AMT: RFC 7450
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relay anycast, deprecated: RFC 7526
	netip.MustParsePrefix("192.168.0.0/16"),  // private use: RFC 1918
	netip.MustParsePrefix("192.175.48.0/24"), // direct delegation AS112: RFC 7534
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarking: RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation: RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation: RFC 5737
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast: RFC 5771
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved: RFC 1112, Section 4; limited broadcast: RFC 8190
}

// special6 is the IANA IPv6 Special-Purpose Address Registry, whole, and what is not unicast or no longer in use.
// Addresses that embed an IPv4 address are all here, since they would lead around special4, but for IPv4-mapped ones
// (RFC 4291, Section 2.5.5.2): a set takes these for IPv4, so that SpecialPurpose looks for them itself.
var special6 = [...]netip.Prefix{
	netip.MustParsePrefix("::/96"),             // unspecified, loopback and IPv4-compatible: RFC 4291, Section 2.5
	netip.MustParsePrefix("::ffff:0:0:0/96"),   // IPv4-translated, obsolete: RFC 2765, Section 2.1
	netip.MustParsePrefix("64:ff9b::/96"),      // IPv4-IPv6 translation: RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"),    // local-use translation: RFC 8215
	netip.MustParsePrefix("100::/64"),          // discard only: RFC 6666
	netip.MustParsePrefix("100:0:0:1::/64"),    // dummy prefix: RFC 9780
	netip.MustParsePrefix("2001::/23"),         // IETF protocol assignments, with Teredo and ORCHID: RFC 2928
	netip.MustParsePrefix("2001:db8::/32"),     // documentation: RFC 3849
	netip.MustParsePrefix("2002::/16"),         // 6to4: RFC 3056
	netip.MustParsePrefix("2620:4f:8000::/48"), // direct delegation AS112: RFC 7534
	netip.MustParsePrefix("3fff::/20"),         // documentation: RFC 9637
	netip.MustParsePrefix("5f00::/16"),         // segment routing SIDs: RFC 9602
	netip.MustParsePrefix("fc00::/7"),          // unique local: RFC 4193
	netip.MustParsePrefix("fe80::/10"),         // link local: RFC 4291
	netip.MustParsePrefix("fec0::/10"),         // site local, deprecated: RFC 3879
	netip.MustParsePrefix("ff00::/8"),          // multicast: RFC 4291, Section 2.7
}
