// Package addrmap maps destination addresses to relay addresses and back, either statelessly, by sealing an IPv4
// address into the interface identifier of an IPv6 address, or by leases from a table on disk.
//
// It is a map of addresses to addresses, never of names: the same destination has the same relay address whatever
// it is called, so that connection coalescing in browsers is unchanged. It imports nothing of ours.
package addrmap

import (
	"errors"
	"net/netip"
	"time"
)

// Errors of Map.Relay.
var (
	// ErrNoWay means that no configured way maps this destination to this family at all.
	ErrNoWay = errors.New("addrmap: no mapping for this address family")
	// ErrExhausted means that every relay address of the pool is leased.
	ErrExhausted = errors.New("addrmap: no relay address left")
)

// Config is what Open needs.
type Config struct {
	// Sealed is the stateless way: IPv4 destination to IPv6 relay address. Nil switches it off.
	Sealed *SealedConfig
	// Table is the stateful way. Nil switches it off.
	Table *TableConfig
}

// SealedConfig describes the stateless way.
type SealedConfig struct {
	Prefix netip.Prefix  // an IPv6 /64
	Key    []byte        // 32 octets, shared by all resolvers and relays of the prefix
	Epoch  time.Duration // how long one sealing key lives; 0 means 24 h. The one before stays valid.
}

// TableConfig describes the leased way.
type TableConfig struct {
	Prefixes []netip.Prefix // pools, IPv4 and IPv6; a destination gets an address of its own family
	Path     string         // of the bbolt file; empty keeps leases in memory only
	Grace    time.Duration  // how long a lease outlives the TTL that was handed out; 0 means 10 min
	// Clock returns the time; nil means time.Now.
	Clock func() time.Time
}

// Map is the address map. It is safe for concurrent use.
type Map struct{}

// Open validates cfg and opens the lease file.
func Open(cfg Config) (*Map, error) { return &Map{}, nil }

// Close writes out what is pending and closes the lease file.
func (m *Map) Close() error { return nil }

// Relay returns the relay address, in IPv6 if v6 and else in IPv4, that stands for dst for at least ttl and the
// grace. A new lease is on disk before it returns. Errors are ErrNoWay, ErrExhausted, or from the disk.
func (m *Map) Relay(dst netip.Addr, v6 bool, ttl time.Duration) (netip.Addr, error) {
	return netip.Addr{}, ErrNoWay
}

// Acquire returns the destination that a relay address stands for and keeps the mapping until release is called,
// once per flow. ok is false if relay stands for nothing.
func (m *Map) Acquire(relay netip.Addr) (dst netip.Addr, release func(), ok bool) {
	return netip.Addr{}, nil, false
}

// Contains reports whether addr is within the relay prefixes, mapped or not.
func (m *Map) Contains(addr netip.Addr) bool { return false }

// Prefixes returns the relay prefixes.
func (m *Map) Prefixes() []netip.Prefix { return nil }

// Usage returns how many relay addresses of the table's pools are leased, and how many there are (capped at
// 1<<62), per family.
func (m *Map) Usage() (used4, size4, used6, size6 uint64) { return }
