package relay

import (
	"fmt"
	"net/netip"
	"slices"
)

// prefixSet is a set of addresses. Its prefixes are masked, disjoint and in the order of their addresses, so that
// looking one up is a binary search.
type prefixSet []netip.Prefix

// newPrefixSet returns the union of prefixes.
func newPrefixSet(prefixes []netip.Prefix) (prefixSet, error) {
	var all prefixSet
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%v is not a prefix", p)
		}
		all = append(all, p.Masked())
	}
	// Of two prefixes with the same address the wider comes first.
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var set prefixSet
	for _, p := range all {
		if n := len(set); n == 0 || !set[n-1].Overlaps(p) {
			set = append(set, p)
		}
	}
	return set, nil
}

func (s prefixSet) contains(addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s, addr, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	if found {
		return true
	}
	return i > 0 && s[i-1].Contains(addr)
}
