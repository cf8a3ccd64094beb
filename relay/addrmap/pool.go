package addrmap

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

const (
	// maxSpan is how many addresses of one prefix a pool uses: no table gets near it, its first addresses cannot be
	// guessed, and the sums stay within 64 bits.
	maxSpan = 1 << 56
	// maxPool bounds the sum over the prefixes.
	maxPool = 1 << 62
)

// pool draws relay addresses at random, so that nobody can tell from one what others are leased. It knows two ways:
// where the table may take up most of the pool it keeps a list of what is free, which works exactly to the last
// address; else it draws from the whole pool until it meets a free address, at most twice on average.
type pool struct {
	spans []span
	size  uint64
	rand  *rand.Rand
	// free lists the indices of free addresses. It is nil if the pool is drawn from as a whole.
	free []uint32
}

// span is the part of a prefix that is handed out.
type span struct {
	first netip.Addr
	size  uint64
}

// newPool returns a pool over prefixes of one family, of which at most capacity addresses will be taken at a time,
// and at the start those that taken reports.
func newPool(prefixes []netip.Prefix, capacity uint64, taken func(netip.Addr) bool) *pool {
	p := &pool{rand: rand.New(cryptoSource{})}
	for _, prefix := range prefixes {
		s := usable(prefix)
		s.size = min(s.size, maxPool-p.size)
		p.spans = append(p.spans, s)
		p.size += s.size
	}
	if p.size/2 >= capacity {
		return p
	}
	p.free = make([]uint32, 0, p.size)
	for i := range uint32(p.size) {
		if !taken(p.at(uint64(i))) {
			p.free = append(p.free, i)
		}
	}
	return p
}

// usable returns the addresses of prefix that hosts may have. IPv4 leaves out the network and broadcast addresses,
// except in a /31, see RFC 3021, Section 2.1; IPv6 the Subnet-Router anycast address, see RFC 4291, Section 2.6.1,
// except in a /127, see RFC 6164, Section 6.
func usable(prefix netip.Prefix) span {
	hostBits := prefix.Addr().BitLen() - prefix.Bits()
	s := span{first: prefix.Addr(), size: maxSpan}
	if 1<<min(hostBits, 63) < uint64(maxSpan) {
		s.size = 1 << hostBits
	}
	if hostBits < 2 {
		return s
	}
	s.first = s.first.Next()
	s.size--
	if prefix.Addr().Is4() {
		s.size--
	}
	return s
}

// draw takes a free address. The caller knows that there is one that is not taken. ok is false if there is a list and
// all that is left of it was taken by others.
func (p *pool) draw(taken func(netip.Addr) bool) (addr netip.Addr, ok bool) {
	for p.free == nil {
		if addr := p.at(p.rand.Uint64N(p.size)); !taken(addr) {
			return addr, true
		}
	}
	for len(p.free) > 0 {
		i, last := p.rand.IntN(len(p.free)), len(p.free)-1
		index := p.free[i]
		p.free[i] = p.free[last]
		p.free = p.free[:last]
		if addr := p.at(uint64(index)); !taken(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// at returns the address with an index below p.size.
func (p *pool) at(index uint64) netip.Addr {
	i := 0
	for ; index >= p.spans[i].size; i++ {
		index -= p.spans[i].size
	}
	first := p.spans[i].first
	if first.Is4() {
		a := first.As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(index))
		return netip.AddrFrom4(a)
	}
	a := first.As16()
	lo, carry := bits.Add64(binary.BigEndian.Uint64(a[8:]), index, 0)
	binary.BigEndian.PutUint64(a[8:], lo)
	binary.BigEndian.PutUint64(a[:], binary.BigEndian.Uint64(a[:])+carry)
	return netip.AddrFrom16(a)
}

// cryptoSource makes math/rand/v2 draw from the CSPRNG of the system.
type cryptoSource struct{}

func (cryptoSource) Uint64() uint64 {
	var b [8]byte
	crand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}
