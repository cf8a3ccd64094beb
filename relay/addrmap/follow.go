package addrmap

import (
	"context"
	"errors"
	"net/netip"
)

// errTaken is returned for a write of a relay address that stands for another destination in the store.
var errTaken = errors.New("addrmap: another writer has leased the relay address")

// leaseStore keeps the leases of a table. Tables of other processes may write the same store: what they write arrives
// through run. A store is safe for concurrent use.
type leaseStore interface {
	// add has w written and returns the commit that it is a part of. For one lease, later calls are written later.
	// When the commit has ended well the store has raised disk of the lease to the expiry. It ends with errTaken, and
	// nothing of w is written, if the store has another destination for the address than the lease has, unless that
	// record is the one that the lease replaces. An error means that the store is closed.
	add(w write) (*batch, error)
	// run calls arrived for each lease that was written, in the order of the writes to its address, until ctx is
	// done, and then returns nil. If others write the store, the leases of the table itself are among them. Any other
	// return is an error.
	run(ctx context.Context, arrived func(record)) error
	// close writes what is pending. After it, add returns an error.
	close() error
}

// Run has the table follow the leases that others write to its store, until ctx is done, and then returns nil. Leases
// can be made before it and without it; a file has no other writer, so that nothing arrives from there.
func (m *Map) Run(ctx context.Context) error {
	if m.store == nil {
		<-ctx.Done()
		return nil
	}
	return m.store.run(ctx, m.arrived)
}

// arrived enters a lease that was written by any table.
func (m *Map) arrived(r record) {
	t := m.table6
	if r.relay.Is4() {
		t = m.table4
	}
	if t != nil && m.relayable(r.dst) && inAny(m.prefixes, r.relay) {
		t.arrived(r)
	}
}

// arrived enters r, which is in the store. All tables that have seen the same records answer alike, in whatever order
// they came:
//
//   - Of two destinations of one address the one that expires later has it, for an address goes to another only after
//     a lease has expired, so that the later record is the newer one. Flows under way keep the destination they have.
//   - Of two addresses of one destination both stand for it, since both may have been handed out. The lower one is
//     handed out from then on.
func (t *table) arrived(r record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	until := min(r.expiry, t.now()+t.seconds(maxTTL)+ahead)
	l := t.byRelay[r.relay]
	if l != nil && l.dst != r.dst {
		if in := l.disk.Load(); in > r.expiry || in == r.expiry && l.dst.Less(r.dst) {
			return
		}
		t.removeLocked(l)
		l = nil
	}
	preferred := t.byDst[r.dst]
	if l == nil {
		l = t.insertLocked(r.dst, r.relay, until)
	} else if l.until < until {
		t.extendLocked(l, until)
	}
	t.byDst[r.dst] = l
	if preferred != nil && preferred.disk.Load() > 0 && preferred.relay.Less(l.relay) {
		t.byDst[r.dst] = preferred
	}
	l.written = max(l.written, r.expiry)
	l.raise(r.expiry)
}

// raise notes that the store has the lease with this expiry.
func (l *lease) raise(expiry int64) {
	for {
		old := l.disk.Load()
		if old >= expiry || l.disk.CompareAndSwap(old, expiry) {
			return
		}
	}
}

// give gives up the lease of dst at an address that the store says is somebody else's.
func (t *table) give(dst, relay netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.byRelay[relay]; l != nil && l.dst == dst {
		t.removeLocked(l)
	}
}
