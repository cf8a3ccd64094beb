package relay

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync"
)

// random hands out numbers from crypto/rand, which it reads ahead to save system calls. What has been handed out is
// not kept. The zero value is ready.
type random struct {
	mu  sync.Mutex
	buf [1024]byte
	n   int // bytes at the end of buf not yet handed out
}

// below returns a number that is uniform over [0, n), by rejection: the next power of two is at most twice n, so
// that it takes two rounds at most on average.
func (r *random) below(n uint128) uint128 {
	mask := n.sub(uint128{lo: 1}).mask()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		v := uint128{lo: r.nextLocked() & mask.lo}
		if mask.hi != 0 {
			v.hi = r.nextLocked() & mask.hi
		}
		if v.less(n) {
			return v
		}
	}
}

func (r *random) nextLocked() uint64 {
	if r.n < 8 {
		rand.Read(r.buf[:]) // never fails
		r.n = len(r.buf)
	}
	b := r.buf[len(r.buf)-r.n:][:8]
	r.n -= 8
	v := binary.NativeEndian.Uint64(b)
	clear(b)
	return v
}

// uint128 is a number as large as an IPv6 address.
type uint128 struct{ hi, lo uint64 }

// pow2 returns 2 to the power of n, which is below 128.
func pow2(n int) uint128 {
	if n >= 64 {
		return uint128{hi: 1 << (n - 64)}
	}
	return uint128{lo: 1 << n}
}

func (a uint128) add(b uint128) uint128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return uint128{hi, lo}
}

func (a uint128) sub(b uint128) uint128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return uint128{hi, lo}
}

func (a uint128) less(b uint128) bool {
	return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo
}

// mask returns the smallest number of ones that covers a.
func (a uint128) mask() uint128 {
	if a.hi != 0 {
		return uint128{hi: ones(a.hi), lo: ^uint64(0)}
	}
	return uint128{lo: ones(a.lo)}
}

func ones(v uint64) uint64 { return 1<<bits.Len64(v) - 1 }

// offset returns the address n after addr.
func offset(addr netip.Addr, n uint128) netip.Addr {
	if addr.Is4() {
		b := addr.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n.lo))
		return netip.AddrFrom4(b)
	}
	b := addr.As16()
	sum := uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}.add(n)
	binary.BigEndian.PutUint64(b[:8], sum.hi)
	binary.BigEndian.PutUint64(b[8:], sum.lo)
	return netip.AddrFrom16(b)
}
