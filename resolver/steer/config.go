// Package steer decides which addresses in a response become those of the relay: octets and a lookup go in, octets come
// out. Steerer.Apply rewrites A and AAAA records and the address hints of HTTPS and SVCB records together, so that no
// steered address is left in any of them, and remembers the names that service records of steered names point to,
// because clients ask for those next.
//
// It asks no upstream itself, keeps no responses, and knows no transports: who may use the relay is decided before. Which
// addresses are steered says a Policy, and which address stands for one says a Relay; both are the caller's. It is called
// by the forwarder of the package resolver, from the goroutine of a flight or of a query that waits, never from a
// listener's: the lookup may wait for upstreams. It ends when the context of its query does.
//
// # What strangers decide
//
// Whoever owns a domain, or asks, is taken for an adversary. These are the rules that keep what he does from others:
//
//   - The policy is asked once about the names that lead to an address (judge.go), and what one response may bring is
//     bounded (bounds.go): records, names, labels, addresses, hints, new leases. The rest is left out.
//   - What a record says about the name that it points to holds for all if the operator has listed the record's own name,
//     or one that leads to it. Else, by ech or by the name ".", it holds for the clients that were given the record, for
//     as long as they were (leads.go). A rule that speaks of the name itself comes before both. Nothing that is remembered
//     is forgotten for something new: a record whose target cannot be remembered is left out.
//   - New leases are limited for each client and zone to a share of the pool, and what clients can do without gets none
//     when addresses are short (pace.go). Who is refused is refused alone.
//   - The IPv4 address in an IPv6 address decides what becomes of that (embedded.go).
//   - A record with a port that the relay does not serve is left alone, or loses its port and hints if the addresses of
//     its target are steered (port.go).
//
// # Decisions without ech
//
// If the HTTPS records of a name cannot be had, it counts as having no ech, and AAAA records that would be made of A
// records are not made if those cannot be had. Such a response holds for unsureTTL. How long a lookup may take is the
// caller's to say.
package steer

import (
	"context"
	"net/netip"
	"time"
)

// Config says which destinations are reached through the relay, and how responses are changed to that end.
type Config struct {
	Policy Policy
	Relay  Relay
	// MaxTTL caps the TTL of a rewritten record. 0 means DefaultTTL.
	MaxTTL time.Duration
	// Ports are those that the relay serves. Empty means every port.
	Ports []uint16
	// NAT64 are prefixes for translation besides the well-known one, see CheckNAT64: the IPv4 address in an address with
	// such a prefix decides what becomes of it.
	NAT64 []netip.Prefix
	// Hints says what becomes of ipv4hint and ipv6hint of steered addresses: HintsRewrite or HintsStrip.
	Hints HintMode
	// OnFailure says what the response is if the relay cannot take a destination: FailPass or FailServfail.
	OnFailure FailMode
}

// DefaultTTL keeps the time short in which a client still uses a relay address that was withdrawn.
const DefaultTTL = time.Minute

type (
	// HintMode is what becomes of the address hints of steered addresses.
	HintMode uint8
	// FailMode is what is answered when the relay cannot take a destination.
	FailMode uint8
)

// Values of HintMode.
const (
	HintsRewrite HintMode = iota // they become relay addresses
	HintsStrip                   // they are removed
)

// Values of FailMode.
const (
	FailPass     FailMode = iota // the response is passed on with its addresses as they are
	FailServfail                 // SERVFAIL with an Extended DNS Error. See RFC 8914.
)

// Policy decides which addresses are steered. It must be safe for concurrent use. What the numbers of its rules mean is
// its own affair.
type Policy interface {
	// Rules returns the rules that can decide about addresses that names lead to, in the order in which they are to be
	// asked. names begins with QNAME and goes on along the CNAME chain or to the TargetName; each is in lower case with
	// a final dot. It is called once for all addresses at the end of names.
	Rules(names []string) []int
	// Steer reports whether addr is to be steered, and whether one of rules said so, either way. hasECH asks whether an
	// HTTPS record of QNAME carries ech; it may wait for an upstream, and is called only if the decision needs it.
	Steer(rules []int, addr netip.Addr, hasECH func() bool) (steer, matched bool)
	// Scope reports what a decision by rules can depend on if the HTTPS record of the names carries ech or not: listed,
	// on names that the operator has listed one by one or with what is below them; byName, on the names or on ech;
	// byAddr, on the address alone. If none holds, Steer says no for every address.
	Scope(rules []int, ech bool) (listed, byName, byAddr bool)
}

// Answer gives out the relay addresses of one response, from one goroutine.
type Answer = interface {
	// RelayAddr returns the address of the relay, in IPv6 if v6 and else in IPv4, that stands for dst for at least
	// ttl. ok is false, without an error, if this family cannot express dst at all. An error means that the relay
	// cannot take dst now: no address is left, say, or ctx is done. If dst has no address yet and one has to be taken
	// out of a pool, fresh is asked whether that may be, and told how many addresses of the pool are in use and how many
	// there are; if not, that is an error. fresh does not wait for anything.
	RelayAddr(ctx context.Context, dst netip.Addr, v6 bool, ttl time.Duration, fresh func(used, size uint64) bool) (addr netip.Addr, ok bool, err error)
	// Commit returns once every address holds that was given out, or an error if one does not, because it could not be
	// written down, say. It is called once, before the response is sent, and may wait until ctx is done.
	Commit(ctx context.Context) error
}

// Relay gives out relay addresses. It must be safe for concurrent use.
type Relay interface {
	// Answer returns what gives out the addresses of one response.
	Answer() Answer
	// Contains reports whether addr is no destination of the relay, such as a relay address itself: it is never
	// steered.
	Contains(addr netip.Addr) bool
	// Dead reports whether the relay could not reach dst, or any address of its family, of late. Such an address is left
	// out of the answers for names that have others.
	Dead(dst netip.Addr) bool
	// Healthy reports whether the relay takes flows. No Answer is asked while it does not.
	Healthy() bool
}
