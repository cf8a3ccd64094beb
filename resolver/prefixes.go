package resolver

import (
	"fmt"
	"net/netip"
	"slices"
)

// prefixSet is a set of addresses: ranges that do not touch, ascending, IPv4 before IPv6. The zero prefixSet is
// empty.
type prefixSet []addrRange

type addrRange struct{ first, last netip.Addr }

// newPrefixSet returns the addresses of all prefixes. Those that map IPv4 into IPv6 are taken as IPv4.
func newPrefixSet(prefixes []netip.Prefix) (prefixSet, error) {
	ranges := make(prefixSet, 0, len(prefixes))
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if !p.IsValid() {
			return nil, fmt.Errorf("invalid prefix %s", p)
		}
		ranges = append(ranges, addrRange{p.Masked().Addr(), lastAddr(p)})
	}
	slices.SortFunc(ranges, func(a, b addrRange) int { return a.first.Compare(b.first) })
	return ranges.merged(), nil
}

// merged joins the ranges of a sorted set that overlap or touch.
func (s prefixSet) merged() prefixSet {
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && out[n-1].reaches(r.first) {
			if out[n-1].last.Less(r.last) {
				out[n-1].last = r.last
			}
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

// reaches reports whether addr, not before r, is within r or right behind it.
func (r addrRange) reaches(addr netip.Addr) bool {
	return addr.Is4() == r.last.Is4() && (!r.last.Less(addr) || r.last.Next() == addr)
}

// lastAddr returns the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return last.Unmap()
	}
	return last
}

// contains reports whether addr, whose zone does not matter, is in s.
func (s prefixSet) contains(addr netip.Addr) bool {
	addr = addr.WithZone("")
	low, high := 0, len(s)
	for low < high {
		mid := (low + high) / 2
		switch r := &s[mid]; {
		case addr.Less(r.first):
			high = mid
		case r.last.Less(addr):
			low = mid + 1
		default:
			return true
		}
	}
	return false
}
