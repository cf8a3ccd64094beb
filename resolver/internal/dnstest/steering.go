package dnstest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Rules is a Policy in a line of words, of which the first that matches wins: a name matches that name and what is
// below it, a prefix addresses, "ech" names with ech; a "!" before makes it an exception.
type Rules string

// Rules implements steer.Policy: it returns the indices of the words that are no suffixes, or suffixes of one of names.
func (s Rules) Rules(names []string) (rules []int) {
	for i, word := range strings.Fields(string(s)) {
		word = strings.TrimPrefix(word, "!")
		if _, err := netip.ParsePrefix(word); err == nil || word == "ech" || matchName(names, word) {
			rules = append(rules, i)
		}
	}
	return rules
}

// Steer implements steer.Policy.
func (s Rules) Steer(rules []int, addr netip.Addr, hasECH func() bool) (steer, matched bool) {
	words := strings.Fields(string(s))
	for _, i := range rules {
		word, pass := strings.CutPrefix(words[i], "!")
		prefix, err := netip.ParsePrefix(word)
		switch {
		case err == nil && prefix.Contains(addr), word == "ech" && hasECH(), err != nil && word != "ech":
			return !pass, true
		}
	}
	return false, false
}

// Scope implements steer.Policy.
func (s Rules) Scope(rules []int, ech bool) (listed, byName, byAddr bool) {
	words := strings.Fields(string(s))
	for _, i := range rules {
		word, pass := strings.CutPrefix(words[i], "!")
		_, err := netip.ParsePrefix(word)
		switch {
		case err == nil:
			byAddr = byAddr || !pass
		case word == "ech" && !ech:
		default:
			return listed || !pass && word != "ech" && word != ".", byName || !pass, byAddr
		}
	}
	return listed, byName, byAddr
}

// Counted is a policy that counts what it is asked, as a measure of cost.
type Counted struct {
	Policy Rules
	Labels int // of all names that it looked for rules of
	Calls  int // of Steer
}

// Rules implements steer.Policy.
func (c *Counted) Rules(names []string) []int {
	for _, name := range names {
		c.Labels += strings.Count(name, ".")
	}
	return c.Policy.Rules(names)
}

// Steer implements steer.Policy.
func (c *Counted) Steer(rules []int, addr netip.Addr, hasECH func() bool) (steer, matched bool) {
	c.Calls++
	return c.Policy.Steer(rules, addr, hasECH)
}

// Scope implements steer.Policy.
func (c *Counted) Scope(rules []int, ech bool) (listed, byName, byAddr bool) {
	return c.Policy.Scope(rules, ech)
}

func matchName(names []string, suffix string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return suffix == "." || strings.HasSuffix("."+name, "."+suffix+".")
	})
}

// Relay maps 192.0.2.n to 198.51.100.n and 2001:db8:5ea1::n, and 2001:db8:1::n to 2001:db8:ab1e::n.
type Relay struct {
	No4       bool            // no IPv4 pool
	NoSeal    bool            // no way from IPv4 to IPv6
	No6       bool            // no IPv6 pool
	Err       error           // what RelayAddr returns, or nil
	CommitErr error           // what Commit returns, or nil
	Commits   int             // calls of Commit
	Down      bool            // not healthy, though it has addresses
	Died      []netip.Addr    // destinations that are dead
	Asked     []time.Duration // the TTLs that RelayAddr was called with
	Size      uint64          // of the pool; 0 if no lease is ever new

	leased []netip.Addr
}

// ErrRefused is the error of a Relay that was told not to make a lease.
var ErrRefused = errors.New("no new lease")

// Leased returns how many leases there are.
func (f *Relay) Leased() int { return len(f.leased) }

// Answer is steer.Answer, which this package cannot import.
type Answer = interface {
	RelayAddr(ctx context.Context, dst netip.Addr, v6 bool, ttl time.Duration, fresh func(used, size uint64) bool) (netip.Addr, bool, error)
	Commit(ctx context.Context) error
}

// Answer implements steer.Relay.
func (f *Relay) Answer() Answer { return f }

// Commit implements steer.Answer.
func (f *Relay) Commit(context.Context) error {
	f.Commits++
	return f.CommitErr
}

// RelayAddr implements steer.Answer.
func (f *Relay) RelayAddr(ctx context.Context, dst netip.Addr, v6 bool, ttl time.Duration, fresh func(used, size uint64) bool) (netip.Addr, bool, error) {
	f.Asked = append(f.Asked, ttl)
	if f.Size != 0 && !slices.Contains(f.leased, dst) {
		if !fresh(uint64(len(f.leased)), f.Size) {
			return netip.Addr{}, false, ErrRefused
		}
		f.leased = append(f.leased, dst)
	}
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

// Dead implements steer.Relay.
func (f *Relay) Dead(dst netip.Addr) bool { return slices.Contains(f.Died, dst) }

// Healthy implements steer.Relay.
func (f *Relay) Healthy() bool { return !f.Down }
