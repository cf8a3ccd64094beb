package dnstest

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Rules is a Policy in a line of words, of which the first that matches wins: a name matches that name and what is
// below it, a prefix addresses, "ech" names with ech; a "!" before makes it an exception.
type Rules string

// Steer implements steer.Policy.
func (s Rules) Steer(names []string, addr netip.Addr, hasECH func() bool) (steer, matched bool) {
	for word := range strings.FieldsSeq(string(s)) {
		word, pass := strings.CutPrefix(word, "!")
		prefix, err := netip.ParsePrefix(word)
		switch {
		case err == nil && prefix.Contains(addr), word == "ech" && hasECH(), err != nil && matchName(names, word):
			return !pass, true
		}
	}
	return false, false
}

// Scope implements steer.Policy.
func (s Rules) Scope(names []string, ech bool) (byName, byAddr bool) {
	for word := range strings.FieldsSeq(string(s)) {
		word, pass := strings.CutPrefix(word, "!")
		_, err := netip.ParsePrefix(word)
		switch {
		case err == nil:
			byAddr = byAddr || !pass
		case word == "ech" && ech, matchName(names, word):
			return byName || !pass, byAddr
		}
	}
	return byName, byAddr
}

func matchName(names []string, suffix string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return strings.HasSuffix("."+name, "."+suffix+".")
	})
}

// Relay maps 192.0.2.n to 198.51.100.n and 2001:db8:5ea1::n, and 2001:db8:1::n to 2001:db8:ab1e::n.
type Relay struct {
	No4    bool            // no IPv4 pool
	NoSeal bool            // no way from IPv4 to IPv6
	No6    bool            // no IPv6 pool
	Err    error           // what RelayAddr returns, or nil
	Down   bool            // not healthy, though it has addresses
	Asked  []time.Duration // the TTLs that RelayAddr was called with
}

// RelayAddr implements steer.Relay.
func (f *Relay) RelayAddr(dst netip.Addr, v6 bool, ttl time.Duration) (netip.Addr, bool, error) {
	f.Asked = append(f.Asked, ttl)
	last := dst.AsSlice()[len(dst.AsSlice())-1]
	relay := netip.AddrFrom4([4]byte{198, 51, 100, last})
	ok := !f.No4
	switch {
	case v6 && dst.Is4():
		relay, ok = netip.MustParseAddr("2001:db8:5ea1::"), !f.NoSeal
	case v6:
		relay, ok = netip.MustParseAddr("2001:db8:ab1e::"), !f.No6
	case dst.Is6():
		ok = false
	}
	if b := relay.As16(); v6 {
		b[15] = last
		relay = netip.AddrFrom16(b)
	}
	return relay, ok && f.Err == nil, f.Err
}

// Contains implements steer.Relay.
func (f *Relay) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc([]string{"198.51.100.0/24", "2001:db8:5ea1::/64", "2001:db8:ab1e::/64"}, func(p string) bool {
		return netip.MustParsePrefix(p).Contains(addr)
	})
}

// Healthy implements steer.Relay.
func (f *Relay) Healthy() bool { return !f.Down }
