package zones

import "net/netip"

// specialPurpose are the blocks that are not somebody's public server: what the IANA special-purpose registries
// mark as not globally reachable (RFC 6890, state of 2026), and multicast. IPv4-mapped addresses are missing: a set
// takes these for IPv4.
var specialPurpose, _ = newPrefixSet([]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network: RFC 791, Section 3.2
	netip.MustParsePrefix("10.0.0.0/8"),      // private use: RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),   // shared address space: RFC 6598
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback: RFC 1122, Section 3.2.1.3
	netip.MustParsePrefix("169.254.0.0/16"),  // link local: RFC 3927
	netip.MustParsePrefix("172.16.0.0/12"),   // private use: RFC 1918
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocol assignments: RFC 6890, Section 2.1
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation: RFC 5737
	netip.MustParsePrefix("192.88.99.0/24"),  // deprecated 6to4 relay anycast: RFC 7526
	netip.MustParsePrefix("192.168.0.0/16"),  // private use: RFC 1918
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarking: RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation: RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation: RFC 5737
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast: RFC 5771
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved: RFC 1112, Section 4; limited broadcast: RFC 8190
	netip.MustParsePrefix("::/127"),          // unspecified, loopback: RFC 4291
	netip.MustParsePrefix("64:ff9b::/96"),    // IPv4 behind the network's own NAT64: RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local-use translation: RFC 8215
	netip.MustParsePrefix("100::/64"),        // discard only: RFC 6666
	netip.MustParsePrefix("100:0:0:1::/64"),  // dummy prefix: RFC 9780
	netip.MustParsePrefix("2001::/23"),       // IETF protocol assignments, Teredo, ORCHIDv2: RFC 2928
	netip.MustParsePrefix("2001:db8::/32"),   // documentation: RFC 3849
	netip.MustParsePrefix("2002::/16"),       // 6to4: RFC 3056
	netip.MustParsePrefix("3fff::/20"),       // documentation: RFC 9637
	netip.MustParsePrefix("5f00::/16"),       // segment routing SIDs: RFC 9602
	netip.MustParsePrefix("fc00::/7"),        // unique local: RFC 4193
	netip.MustParsePrefix("fe80::/10"),       // link local: RFC 4291
	netip.MustParsePrefix("fec0::/10"),       // deprecated site local: RFC 3879
	netip.MustParsePrefix("ff00::/8"),        // multicast: RFC 4291
})

// SpecialPurpose reports whether addr is in a block of the IANA special-purpose registries that is not globally
// reachable, or multicast. See RFC 6890.
func SpecialPurpose(addr netip.Addr) bool { return addr.Is4In6() || specialPurpose.contains(addr) }
