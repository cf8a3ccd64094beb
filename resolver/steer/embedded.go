package steer

import (
	"fmt"
	"net/netip"
	"slices"
)

// An IPv6 address may lead clients to an IPv4 address that is written in it. Then that one decides what becomes of it, so
// that AAAA records which a DNS64 has made do not lead past the relay. See RFC 6052 and RFC 6147.
//
// What a translator would make of the address is replaced like the IPv4 address itself. Behind a tunnel (6to4, Teredo,
// IPv4-compatible) is another host than at the IPv4 address, so that its address is left out instead.

// nat64Lengths are the lengths that a prefix for translation may have. See RFC 6052, Section 2.2.
var nat64Lengths = []int{32, 40, 48, 56, 64, 96}

var (
	wellKnown  = netip.MustParsePrefix("64:ff9b::/96")                                                 // See RFC 6052, Section 2.1.
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")                                              // See RFC 2765, Section 2.1.
	sixToFour  = netip.MustParsePrefix("2002::/16")                                                    // See RFC 3056, Section 2.
	teredo     = netip.MustParsePrefix("2001::/32")                                                    // See RFC 4380, Section 4.
	compatible = netip.MustParsePrefix("::/96")                                                        // See RFC 4291, Section 2.5.5.1.
	wellKnown4 = [2]netip.Addr{netip.MustParseAddr("192.0.0.170"), netip.MustParseAddr("192.0.0.171")} // See RFC 7050, Section 3.
)

// CheckNAT64 reports what is wrong with p as a prefix for translation, or nil. See RFC 6052, Section 2.2.
func CheckNAT64(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
		return fmt.Errorf("%v is not an IPv6 prefix; want one such as 2001:db8:64::/96", p)
	case !slices.Contains(nat64Lengths, p.Bits()):
		return fmt.Errorf("%v: a prefix for NAT64 has 32, 40, 48, 56, 64 or 96 bits", p)
	case p != p.Masked():
		return fmt.Errorf("%v has host bits set; write %v", p, p.Masked())
	case p.Bits() == 96 && p.Addr().As16()[8] != 0:
		return fmt.Errorf("%v: bits 64 to 71 of a prefix for NAT64 are zero", p)
	}
	return nil
}

// embedding is how a destination is written in an address.
type embedding uint8

const (
	itself     embedding = iota // it is the address
	translates                  // a translator takes it out
	tunnels                     // a tunnel ends there
)

// destination returns where addr leads to, and how it is written in addr.
func (s *Steerer) destination(addr netip.Addr) (netip.Addr, embedding) {
	if !addr.Is6() || addr.IsLoopback() || addr.IsUnspecified() {
		return addr, itself
	}
	if addr.Is4In6() {
		return addr.Unmap(), translates
	}
	for _, list := range [][]netip.Prefix{s.config.NAT64, s.discovered()} {
		for _, p := range list {
			if p.Contains(addr) {
				return extract(addr, p.Bits()), translates
			}
		}
	}
	b := addr.As16()
	switch {
	case wellKnown.Contains(addr), translated.Contains(addr):
		return extract(addr, 96), translates
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), tunnels
	case teredo.Contains(addr): // the client's address, with all bits inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), tunnels
	case compatible.Contains(addr):
		return extract(addr, 96), tunnels
	}
	return addr, itself
}

// extract returns the IPv4 address behind a prefix of so many bits. Octet 8 is not part of it. See RFC 6052, Section 2.2.
func extract(addr netip.Addr, bits int) netip.Addr {
	b := addr.As16()
	octets := slices.Concat(b[:8], b[9:])
	at := bits / 8
	if bits == 96 {
		at--
	}
	return netip.AddrFrom4([4]byte(octets[at:]))
}

// NAT64Prefixes returns the prefixes for translation that addresses of ipv4only.arpa have. See RFC 7050, Section 3.
func NAT64Prefixes(addrs []netip.Addr) (prefixes []netip.Prefix) {
	for _, addr := range addrs {
		for _, bits := range slices.Backward(nat64Lengths) {
			if !addr.Is6() || addr.Is4In6() || !slices.Contains(wellKnown4[:], extract(addr, bits)) {
				continue
			}
			if p, err := addr.Prefix(bits); err == nil && CheckNAT64(p) == nil && !slices.Contains(prefixes, p) {
				prefixes = append(prefixes, p)
			}
			break
		}
	}
	return prefixes
}

// Discovered replaces the prefixes for translation that were found besides Config.NAT64, and reports whether they are
// others than before. It may be called from any goroutine.
func (s *Steerer) Discovered(prefixes []netip.Prefix) bool {
	before := s.discovered()
	s.found.Store(&prefixes)
	return !slices.Equal(before, prefixes)
}

func (s *Steerer) discovered() []netip.Prefix {
	if p := s.found.Load(); p != nil {
		return *p
	}
	return nil
}
