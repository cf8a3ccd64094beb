package zones

import (
	"net/netip"
	"slices"
)

// prefixSet answers in logarithmic time whether one of many prefixes contains an address. It is immutable.
type prefixSet struct {
	ranges []addrRange // sorted, disjoint; IPv4 before IPv6, as netip.Addr.Compare orders them
}

// addrRange is a range of addresses with both ends in it.
type addrRange struct{ first, last netip.Addr }

// newPrefixSet takes prefixes without host bits, in any order; they may overlap.
func newPrefixSet(prefixes []netip.Prefix) prefixSet {
	ranges := make([]addrRange, 0, len(prefixes))
	for _, p := range prefixes {
		ranges = append(ranges, addrRange{p.Addr(), lastAddr(p)})
	}
	slices.SortFunc(ranges, func(a, b addrRange) int { return a.first.Compare(b.first) })
	// Prefixes either nest or are disjoint, so that a range is redundant if it starts within the last one.
	disjoint := ranges[:0]
	for _, r := range ranges {
		if n := len(disjoint); n > 0 && r.first.Compare(disjoint[n-1].last) <= 0 {
			if disjoint[n-1].last.Less(r.last) {
				disjoint[n-1].last = r.last // same start, shorter prefix
			}
			continue
		}
		disjoint = append(disjoint, r)
	}
	return prefixSet{disjoint}
}

// contains reports whether addr is in the set. An IPv4-mapped IPv6 address is not taken for IPv4.
func (s prefixSet) contains(addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s.ranges, addr, func(r addrRange, a netip.Addr) int { return r.first.Compare(a) })
	return found || i > 0 && addr.Compare(s.ranges[i-1].last) <= 0
}

// lastAddr returns the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
