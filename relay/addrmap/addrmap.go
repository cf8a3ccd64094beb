// Package addrmap maps destination addresses to relay addresses and back, either statelessly, by sealing an IPv4
// address into the interface identifier of an IPv6 address, or by leases from a table on disk.
//
// It is a map of addresses to addresses, never of names: the same destination has the same relay address whatever
// it is called, so that connection coalescing in browsers is unchanged. It imports nothing of ours.
//
// What it guarantees:
//
//   - At any time a relay address stands for one destination at most, and a destination has one relay address of a
//     family at most. (A sealed destination gets another one each epoch, and both open for a while.)
//   - A leased address stands for its destination for the TTL that was handed out and the grace, also if the process
//     is killed or the power fails in between, and longer while a flow goes on. After that it goes on until another
//     destination needs the address; the lease that expired first goes first.
//   - A sealed address opens for one epoch at least, at every process with the same key, prefix and epoch whose clock
//     is within one epoch of the resolver's; a clock that is ahead of the resolver's takes that much off.
//   - An address that was not handed out opens to nothing. For the table that is exact. A sealed address can be
//     guessed with a chance of 3 in 2^32 per attempt, and then leads to a destination that cannot be chosen. Sealed
//     addresses show nothing about their destinations, nor does one show anything about another.
//
// Any goroutine calls Relay, for an answer, and Acquire, for a flow. Run, in one of its own, takes in the leases that
// others write to the same store, see leaseStore; the lease file is one that nobody else writes.
//
// What it does not: it does not limit who makes it lease. Whoever can have many destinations steered can use up a
// pool, and then others get ErrExhausted until leases expire. It does not judge destinations, beyond refusing what
// would loop. Leases follow the configured key and prefixes: addresses under a key that was replaced are dead. The
// lease file holds destinations and times, never clients.
package addrmap

import (
	"errors"
	"fmt"
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
	Prefix netip.Prefix // an IPv6 /64
	Key    []byte       // 32 octets, shared by all resolvers and relays of the prefix
	// Epoch is how long one sealing key lives, in whole seconds, 1 min or more; 0 means 24 h. The one before stays
	// valid. It bounds the TTLs that can be handed out.
	Epoch time.Duration
	// Clock returns the time; nil means time.Now.
	Clock func() time.Time
}

// TableConfig describes the leased way.
type TableConfig struct {
	Prefixes []netip.Prefix // pools, IPv4 and IPv6; a destination gets an address of its own family
	Path     string         // of the bbolt file; empty keeps leases in memory only
	Grace    time.Duration  // how long a lease outlives the TTL that was handed out; 0 means 10 min
	// MaxLeases bounds the leases of each family, for memory's sake: one takes about 300 octets, and 170 on disk. 0
	// means 1<<20.
	MaxLeases int
	// Clock returns the time; nil means time.Now.
	Clock func() time.Time
}

// DefaultEpoch is how long one derived key of sealed addresses lives by default.
const DefaultEpoch = 24 * time.Hour

const (
	defaultGrace  = 10 * time.Minute
	defaultLeases = 1 << 20
)

// Map is the address map. It is safe for concurrent use.
type Map struct {
	// Set once by Open.
	sealed   *sealer    // or nil
	table4   *table     // or nil
	table6   *table     // or nil
	store    leaseStore // or nil
	prefixes []netip.Prefix
}

// Open validates cfg and opens the lease file, which no other process may have open. Leases in the file of prefixes
// that are not configured any more are not used.
func Open(cfg Config) (*Map, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("addrmap: %w", err)
	}
	if cfg.Sealed != nil && cfg.Sealed.Key == nil {
		return nil, fmt.Errorf("addrmap: sealed.key: missing; want %d octets", KeySize)
	}
	m := &Map{prefixes: cfg.prefixes()}
	if cfg.Sealed != nil {
		m.sealed = newSealer(cfg.Sealed)
	}
	if cfg.Table == nil {
		return m, nil
	}
	if err := m.openTables(cfg.Table); err != nil {
		return nil, err
	}
	return m, nil
}

// openTables opens the lease file, if there is one, and makes a table for each family that has prefixes.
func (m *Map) openTables(cfg *TableConfig) error {
	var prefixes4, prefixes6 []netip.Prefix
	for _, p := range cfg.Prefixes {
		if p.Addr().Is4() {
			prefixes4 = append(prefixes4, p)
		} else {
			prefixes6 = append(prefixes6, p)
		}
	}
	var records4, records6 []record
	if cfg.Path != "" {
		keep := func(r record) bool { return inAny(cfg.Prefixes, r.relay) && m.relayable(r.dst) }
		st, records, err := openStore(cfg.Path, keep, clockOr(cfg.Clock)())
		if err != nil {
			return err
		}
		m.store = st
		for _, r := range records {
			if r.relay.Is4() {
				records4 = append(records4, r)
			} else {
				records6 = append(records6, r)
			}
		}
	}
	if prefixes4 != nil {
		m.table4 = newTable(cfg, prefixes4, m.store, records4)
	}
	if prefixes6 != nil {
		m.table6 = newTable(cfg, prefixes6, m.store, records6)
	}
	return nil
}

// clockOr returns clock or what nil stands for.
func clockOr(clock func() time.Time) func() time.Time {
	if clock == nil {
		return time.Now
	}
	return clock
}

// Close writes out what is pending and closes the lease file. Relay fails from then on where it would have to write;
// flows under way may go on.
func (m *Map) Close() error {
	if m.store == nil {
		return nil
	}
	return m.store.close()
}

// Relay returns the relay address, in IPv6 if v6 and else in IPv4, that stands for dst for at least ttl and the
// grace. A new lease is on disk before it returns. Errors are ErrNoWay, ErrExhausted, from the disk, or a TTL that is
// longer than a sealing epoch or a week.
func (m *Map) Relay(dst netip.Addr, v6 bool, ttl time.Duration) (netip.Addr, error) {
	dst = dst.Unmap()
	if !m.relayable(dst) {
		return netip.Addr{}, ErrNoWay
	}
	switch {
	case v6 && dst.Is4() && m.sealed != nil:
		return m.sealed.relay(dst, ttl)
	case v6 && dst.Is6() && m.table6 != nil:
		return m.table6.relay(dst, ttl)
	case !v6 && dst.Is4() && m.table4 != nil:
		return m.table4.relay(dst, ttl)
	}
	return netip.Addr{}, ErrNoWay
}

// relayable reports whether dst can be a destination: a host, and not one of our own relay addresses, which would
// make the relay call itself.
func (m *Map) relayable(dst netip.Addr) bool {
	return dst.IsValid() && dst.Zone() == "" && !dst.IsUnspecified() && !dst.IsMulticast() && !m.Contains(dst)
}

// Acquire returns the destination that a relay address stands for and keeps the mapping until release is called,
// once per flow. ok is false if relay stands for nothing. It does not allocate. A lease that has expired but whose
// address nobody else has got yet still counts. A sealed address needs no keeping; its release does nothing.
func (m *Map) Acquire(relay netip.Addr) (dst netip.Addr, release func(), ok bool) {
	relay = relay.Unmap()
	if relay.Is4() {
		if m.table4 == nil {
			return netip.Addr{}, nil, false
		}
		return m.table4.acquire(relay)
	}
	if m.sealed != nil && m.sealed.prefix.Contains(relay) {
		dst, ok = m.sealed.destination(relay)
		if !ok || !m.relayable(dst) {
			return netip.Addr{}, nil, false
		}
		return dst, func() {}, true
	}
	if m.table6 == nil {
		return netip.Addr{}, nil, false
	}
	return m.table6.acquire(relay)
}

// Contains reports whether addr is within the relay prefixes, mapped or not.
func (m *Map) Contains(addr netip.Addr) bool { return inAny(m.prefixes, addr.Unmap()) }

// Prefixes returns the relay prefixes.
func (m *Map) Prefixes() []netip.Prefix { return append([]netip.Prefix(nil), m.prefixes...) }

// Usage returns how many relay addresses of the table's pools are leased, and how many can be at a time, per family.
// An expired lease counts as free, but for those that expired under a flow that still goes on.
func (m *Map) Usage() (used4, size4, used6, size6 uint64) {
	if m.table4 != nil {
		used4, size4 = m.table4.usage()
	}
	if m.table6 != nil {
		used6, size6 = m.table6.usage()
	}
	return used4, size4, used6, size6
}

func inAny(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
