package addrmap

import (
	"context"
	"sync"
	"time"
)

// forgetEvery is how often what has ended is looked for. With rest it makes up how long that is found, half an hour.
const forgetEvery = 15 * time.Minute

// leaseStore keeps the leases of a table. Tables of other processes may write the same store: what they write arrives
// through run. A store is safe for concurrent use.
type leaseStore interface {
	// ready returns an error if the store is not open.
	ready() error
	// add has leases written and returns the commit that they are a part of. For one lease, later calls are written
	// later. When the commit has ended well the store has raised disk of the leases to the expiry. A lease is not
	// written, and among taken of the commit, if the store has another destination for its address, unless that record
	// is the one that the lease replaces. An error means that the store is closed.
	add(writes []write) (*batch, error)
	// erase has the store forget the records that keep does not report. It does not stop leases from being added.
	erase(keep func(record) bool)
	// status returns why leases cannot be written, or what has ended cannot be erased, or nil.
	status() (fault, kept error)
	// run calls arrived for each lease that was written, in the order of the writes to its address, until ctx is
	// done, and then returns nil. If others write the store, the leases of the table itself are among them. Any other
	// return is an error.
	run(ctx context.Context, arrived func(record)) error
	// close writes what is pending. After it, add returns an error.
	close() error
}

// Run erases from memory and from the store what has ended, and has the table follow the leases that others write to
// its store, until ctx is done, and then returns nil. Leases can be made before it and without it; a file has no other
// writer, so that nothing arrives from there.
func (m *Map) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { m.forgetUntil(ctx) })
	if m.store == nil {
		<-ctx.Done()
		return nil
	}
	return m.store.run(ctx, m.arrived)
}

// forgetUntil erases what has ended, from time to time.
func (m *Map) forgetUntil(ctx context.Context) {
	t := time.NewTicker(forgetEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			m.forget()
		}
	}
}

// forget erases what has ended.
func (m *Map) forget() {
	for _, t := range []*table{m.table4, m.table6} {
		if t != nil {
			t.forget()
		}
	}
	if m.store != nil {
		m.store.erase(m.keeps)
	}
}

// keeps reports whether a record of the store has not ended. Those of prefixes that are not configured any more are kept
// until they expire, so that undoing a change of the prefixes brings them back.
func (m *Map) keeps(r record) bool {
	if t := m.tableOf(r); t != nil {
		return t.has(r)
	}
	return m.unexpired(r)
}

// tableOf returns the table that r belongs to, or nil.
func (m *Map) tableOf(r record) *table {
	if !m.relayable(r.dst) || !inAny(m.prefixes, r.relay) {
		return nil
	}
	if r.relay.Is4() {
		return m.table4
	}
	return m.table6
}

// arrived enters a lease that was written by any table.
func (m *Map) arrived(r record) {
	if t := m.tableOf(r); t != nil {
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
	until := t.possible(r.expiry)
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
