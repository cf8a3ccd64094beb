package relay

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// Source ports are drawn from the largest range there is. See RFC 6056, Section 3.2.
const (
	firstPort = 1024
	portCount = 1<<16 - firstPort
)

// errNoEgress means that no egress prefix has the address family of the destination.
var errNoEgress = errors.New("relay: no egress address of this family")

// egress is where source addresses and ports come from. It is safe for concurrent use and never changed.
//
// Each flow's tuple is drawn independently of all else, RFC 6056's Algorithm 2: a tuple that is taken is drawn again,
// never stepped on from, so that the outcome is uniform over the tuples that are free. This departs on purpose from
// the stable mappings that RFC 4787, REQ-1 and REQ-2, ask of NATs, because these are what lets a destination join
// the flows of one client.
type egress struct {
	v4, v6 pool
	random *random
}

// newEgress returns the egress over prefixes.
func newEgress(prefixes []netip.Prefix, random *random) (*egress, error) {
	set, err := newPrefixSet(prefixes)
	if err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	if len(prefixes) == 0 {
		return nil, errors.New("egress: no prefixes")
	}
	e := &egress{random: random}
	for _, p := range set.disjoint() {
		if err := e.family(p.Addr().Is6()).add(p); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *egress) family(v6 bool) *pool {
	if v6 {
		return &e.v6
	}
	return &e.v4
}

// draw returns a source, uniform over addresses and ports.
func (e *egress) draw(v6 bool) (netip.AddrPort, error) {
	pool := e.family(v6)
	if pool.prefixes == nil {
		return netip.AddrPort{}, errNoEgress
	}
	addr := pool.at(e.random.below(pool.size))
	port := e.random.below(uint128{lo: portCount}).lo
	return netip.AddrPortFrom(addr, uint16(firstPort+port)), nil
}

// tries returns how often a source is drawn before a flow is given up, because each was in use. With 9 in 10 tuples
// to one destination taken, 64 draws miss once in 850 flows.
func (e *egress) tries() int { return 64 }

// suffices returns an error unless more tuples than flows exist in each family that has any.
func (e *egress) suffices(flows int) error {
	for _, pool := range []*pool{&e.v4, &e.v6} {
		if pool.prefixes != nil && pool.tuples() <= float64(flows) {
			return fmt.Errorf("egress: %v has only %.0f addresses and ports for %d flows: enlarge it or lower the limits",
				pool.prefixes, pool.tuples(), flows)
		}
	}
	return nil
}

// pool is the egress of one address family.
type pool struct {
	prefixes []netip.Prefix // disjoint; nil if there are none
	size     uint128        // addresses in all
}

// add adds the addresses of a prefix that overlaps none of the pool.
func (p *pool) add(prefix netip.Prefix) error {
	host := prefix.Addr().BitLen() - prefix.Bits()
	if host > 96 {
		return fmt.Errorf("egress: %v is too large; /32 is the shortest", prefix)
	}
	if prefix.Addr().IsMulticast() || prefix.Addr().IsUnspecified() {
		return fmt.Errorf("egress: %v has addresses that are no source", prefix)
	}
	p.prefixes = append(p.prefixes, prefix)
	p.size = p.size.add(pow2(host))
	return nil
}

// at returns the i-th address.
func (p *pool) at(i uint128) netip.Addr {
	for _, prefix := range p.prefixes {
		n := pow2(prefix.Addr().BitLen() - prefix.Bits())
		if i.less(n) {
			return offset(prefix.Addr(), i)
		}
		i = i.sub(n)
	}
	panic("relay: address index out of range")
}

// tuples returns how many addresses and ports there are together.
func (p *pool) tuples() float64 {
	return (float64(p.size.hi)*(1<<64) + float64(p.size.lo)) * portCount
}

// entropy returns the bits of min-entropy that a source has when flows tuples are taken, or 0 without a pool.
func (p *pool) entropy(flows int) float64 {
	if p.prefixes == nil {
		return 0
	}
	return math.Log2(p.tuples() - float64(flows))
}
