package addrmap

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// sealLabel separates the keys of this construction from any other use of the operator's key. Its number changes
// when sealed addresses change: all resolvers and relays of a prefix must agree on it.
const sealLabel = "cfrd sealed address 1"

// sealer is the stateless way. The interface identifier of a sealed address is the FF1 ciphertext, radix 2, length
// 64, of the destination's IPv4 address followed by 32 zero bits. The zeros are the redundancy: an identifier that
// was not sealed under the key opens by chance only, 1 in 2^32 for each of the three epochs that are tried.
//
// All 64 bits are used. That the "u" and "g" bits come out at random is fine: they have no meaning. See RFC 7136,
// Section 5. Reserved identifiers, see RFC 5453, are not avoided: they matter on links, and the prefix is a local
// route; a destination hits one by a chance of about 2^-40.
type sealer struct {
	// Set once by newSealer.
	prefix netip.Prefix
	key    []byte
	epoch  time.Duration
	clock  func() time.Time

	keys atomic.Pointer[epochKeys]
}

// epochKeys are the ciphers around the epoch with a number, in the order in which an address is tried.
type epochKeys struct {
	number  int64
	current *ff1
	before  *ff1 // what was handed out shortly before the epoch changed
	after   *ff1 // what a resolver handed out whose clock is ahead of ours
}

// newSealer returns the sealer of a validated configuration.
func newSealer(cfg *SealedConfig) *sealer {
	s := &sealer{prefix: cfg.Prefix, key: append([]byte(nil), cfg.Key...), epoch: cfg.Epoch, clock: clockOr(cfg.Clock)}
	if s.epoch == 0 {
		s.epoch = DefaultEpoch
	}
	return s
}

// relay returns the sealed address of dst. It opens for one epoch at least, so that is the limit of ttl.
func (s *sealer) relay(dst netip.Addr, ttl time.Duration) (netip.Addr, error) {
	if ttl > s.epoch {
		return netip.Addr{}, fmt.Errorf("addrmap: TTL %v is longer than the sealing epoch of %v", ttl, s.epoch)
	}
	return seal(s.now().current, s.prefix, dst), nil
}

// destination returns what a resolver sealed in relay, in this epoch, the one before or the one after.
func (s *sealer) destination(relay netip.Addr) (netip.Addr, bool) {
	k := s.now()
	for _, f := range [...]*ff1{k.current, k.before, k.after} {
		if dst, ok := open(f, relay); ok {
			return dst, true
		}
	}
	return netip.Addr{}, false
}

// now returns the ciphers of the moment. Callers that meet at the start of an epoch derive the same ones, and any of
// them may win.
func (s *sealer) now() *epochKeys {
	number := s.clock().Unix() / int64(s.epoch/time.Second)
	old := s.keys.Load()
	if old != nil && old.number == number {
		return old
	}
	k := &epochKeys{
		number:  number,
		current: s.cipher(number, old),
		before:  s.cipher(number-1, old),
		after:   s.cipher(number+1, old),
	}
	s.keys.Store(k)
	return k
}

// cipher returns the cipher of an epoch, out of old, which may be nil, if it is there.
func (s *sealer) cipher(number int64, old *epochKeys) *ff1 {
	switch {
	case old == nil:
	case number == old.number:
		return old.current
	case number == old.number-1:
		return old.before
	case number == old.number+1:
		return old.after
	}
	return sealCipher(s.key, s.prefix, number)
}

// sealCipher derives the key of an epoch and prefix from the operator's. Both are bound in here, so FF1 itself needs
// no tweak: no key sees two of them.
func sealCipher(key []byte, prefix netip.Prefix, number int64) *ff1 {
	base := prefix.Addr().As16()
	info := append([]byte(sealLabel), base[:8]...)
	info = binary.BigEndian.AppendUint64(info, uint64(number))
	epochKey, err := hkdf.Key(sha256.New, key, nil, string(info), 32)
	if err != nil {
		panic("addrmap: derive sealing key: " + err.Error())
	}
	f, err := newFF1(epochKey, 2, 64, nil)
	if err != nil {
		panic("addrmap: " + err.Error())
	}
	return f
}

// seal returns the address in prefix that stands for dst, an IPv4 address.
func seal(f *ff1, prefix netip.Prefix, dst netip.Addr) netip.Addr {
	v4, out := dst.As4(), prefix.Addr().As16()
	a, b := f.encrypt(uint64(binary.BigEndian.Uint32(v4[:])), 0)
	binary.BigEndian.PutUint64(out[8:], a<<32|b)
	return netip.AddrFrom16(out)
}

// open returns what seal put into relay, whose prefix the caller has checked.
func open(f *ff1, relay netip.Addr) (netip.Addr, bool) {
	in := relay.As16()
	a, b := f.decrypt(uint64(binary.BigEndian.Uint32(in[8:])), uint64(binary.BigEndian.Uint32(in[12:])))
	if b != 0 {
		return netip.Addr{}, false
	}
	var v4 [4]byte
	binary.BigEndian.PutUint32(v4[:], uint32(a))
	return netip.AddrFrom4(v4), true
}
