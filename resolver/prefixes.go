package resolver

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// prefixSet is a set of addresses. An IPv4 address that is mapped into IPv6 counts as that IPv4 address, and zones are
// ignored. It is not changed once it is made, and so safe for concurrent use. A nil prefixSet is empty.
type prefixSet struct{ table bart.Lite }

// newPrefixSet returns the addresses of all prefixes, in any order; they may overlap and have host bits set.
func newPrefixSet(prefixes []netip.Prefix) (*prefixSet, error) {
	s := new(prefixSet)
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, fmt.Errorf("invalid prefix %s", p)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		s.table.Insert(p.Masked())
	}
	return s, nil
}

// contains reports whether addr is in s. It does not allocate.
func (s *prefixSet) contains(addr netip.Addr) bool { return s != nil && s.table.Contains(addr.Unmap()) }
