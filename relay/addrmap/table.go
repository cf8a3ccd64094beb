package addrmap

import (
	"container/heap"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// All times of the table are whole seconds.
const (
	// slack is how much longer a lease gets than it has to, so that a busy destination is not entered anew each
	// second. A small pool waits this much longer for its addresses, which is little compared with any grace.
	slack = 15
	// ahead is how much further than needed an expiry is put on disk, so that a busy destination costs one write in
	// about half of it. After a crash addresses stay leased for up to this much longer; while the process lives they
	// are free again when they should.
	ahead = 3600
	// maxTTL bounds leases, and with it what an expiry read from disk can be. RFC 8767, Section 4, suggests the same
	// bound for what a cache believes.
	maxTTL = 7 * 24 * time.Hour
	// expireStep bounds how many leases are moved at a time, so that a million that expire together stop nobody.
	expireStep = 256
	// tries is how often a commit may take longer than the lease has slack before the disk is declared too slow.
	tries = 3
)

// errSlow is returned when what was written had expired by the time it was on disk.
var errSlow = errors.New("addrmap: the lease file takes too long to write")

// table is the stateful way for one address family. A lease is in one of three places: among the live ones, among
// the idle ones, which expired and give up their address to whoever needs one, the longest expired first, or, if it
// expired under a flow, in neither, parked until the last flow ends.
type table struct {
	// Set once by newTable.
	capacity uint64
	grace    time.Duration
	now      func() int64
	store    leaseStore // or nil, if leases are in memory only

	mu      sync.RWMutex
	pool    *pool
	byDst   map[netip.Addr]*lease
	byRelay map[netip.Addr]*lease
	live    queue
	idle    queue
}

// lease is one destination's relay address. Neither ever changes, nor does replaces.
type lease struct {
	dst, relay netip.Addr
	release    func() // ends a flow; made here once, so that Acquire allocates nothing

	replaces record // what the store has had for the relay address, as far as is known; the zero record if nothing

	flows  atomic.Int32
	parked atomic.Bool  // the last flow to end has to call unpark
	disk   atomic.Int64 // expiry in the store, or 0; only what the store says raises it

	// Guarded by table.mu.
	until   int64  // expiry
	queue   *queue // the queue it is in, or nil while parked
	index   int    // in the queue
	written int64  // expiry that the store was last asked to write
	commit  *batch // which commits written, or nil
}

// newTable returns a table over prefixes of one family. records are the leases from the file.
func newTable(cfg *TableConfig, prefixes []netip.Prefix, st leaseStore, records []record) *table {
	t := &table{
		grace:   cfg.Grace,
		now:     monotonic(clockOr(cfg.Clock)),
		store:   st,
		byDst:   make(map[netip.Addr]*lease, len(records)),
		byRelay: make(map[netip.Addr]*lease, len(records)),
	}
	if t.grace == 0 {
		t.grace = defaultGrace
	}
	for _, r := range records {
		t.restore(r)
	}
	leases := uint64(defaultLeases)
	if cfg.MaxLeases != 0 {
		leases = uint64(cfg.MaxLeases)
	}
	t.pool = newPool(prefixes, leases, t.taken)
	t.capacity = min(leases, t.pool.size)
	return t
}

// monotonic returns a clock of Unix seconds that starts right and then follows the monotonic clock, if there is one:
// stepping the wall clock must not end leases.
func monotonic(clock func() time.Time) func() int64 {
	start := clock()
	return func() int64 { return start.Unix() + int64(clock().Sub(start)/time.Second) }
}

// seconds is how long a lease must last for a TTL. It is rounded up, twice, since t.now is rounded down.
func (t *table) seconds(ttl time.Duration) int64 {
	return int64((max(ttl, 0)+t.grace+time.Second-1)/time.Second) + 1
}

// restore enters a lease from the file. Of two for one destination the later one counts: the other had lost its
// address to a lease that did not reach the disk. An expiry that no lease can have, because the clock was wrong when
// it was written, is cut to the longest that it can.
func (t *table) restore(r record) {
	if old := t.byDst[r.dst]; old != nil {
		if old.written >= r.expiry {
			return
		}
		t.removeLocked(old)
	}
	l := t.insertLocked(r.dst, r.relay, min(r.expiry, t.now()+t.seconds(maxTTL)+ahead))
	l.written = r.expiry
	l.disk.Store(r.expiry)
}

// relay returns the relay address of dst after it has put a lease for ttl on disk.
func (t *table) relay(dst netip.Addr, ttl time.Duration) (netip.Addr, error) {
	if ttl > maxTTL {
		return netip.Addr{}, fmt.Errorf("addrmap: TTL %v is longer than any lease; want %v or less", ttl, maxTTL)
	}
	for range tries {
		need := t.now() + t.seconds(ttl)
		if addr, ok := t.leased(dst, need); ok {
			return addr, nil
		}
		addr, commit, err := t.renew(dst, need)
		if err != nil || commit == nil {
			return addr, err
		}
		if err := commit.wait(); errors.Is(err, errTaken) {
			t.give(dst, addr)
			continue
		} else if err != nil {
			return netip.Addr{}, err
		}
		// Look again: only now is it certain what the time is when the answer leaves.
	}
	return netip.Addr{}, errSlow
}

// leased returns the relay address of dst if its lease lasts until need and nothing has to be written for it soon.
func (t *table) leased(dst netip.Addr, need int64) (netip.Addr, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.byDst[dst]
	if l == nil || l.until < need || t.store != nil && l.disk.Load() < need+ahead/2 {
		return netip.Addr{}, false
	}
	return l.relay, true
}

// renew makes the lease of dst last until need, or makes one. If commit is not nil, the lease is not on disk before
// that has ended.
func (t *table) renew(dst netip.Addr, need int64) (addr netip.Addr, commit *batch, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.byDst[dst]
	if l == nil {
		var before record
		if addr, before, err = t.allocateLocked(); err != nil {
			return netip.Addr{}, nil, err
		}
		l = t.insertLocked(dst, addr, need+slack)
		l.replaces = before
	} else if l.until < need {
		t.extendLocked(l, need+slack)
	}
	if t.store == nil {
		return l.relay, nil, nil
	}
	disk := l.disk.Load() // before the write begins: the time may be another when it ends
	if disk < need+ahead/2 {
		commit, err = t.writeLocked(l, need)
	}
	if disk >= need {
		// Written early enough that nobody has to wait, nor to know if it went wrong: that shows in time.
		return l.relay, nil, nil
	}
	return l.relay, commit, err
}

// writeLocked returns the commit that puts the lease on disk with an expiry beyond need: the one that is under way if
// it is good enough, else a new one.
func (t *table) writeLocked(l *lease, need int64) (*batch, error) {
	if l.commit != nil && l.written >= need+ahead/2 && !l.commit.ended() {
		return l.commit, nil
	}
	l.written = need + slack + ahead
	commit, err := t.store.add(write{l, l.written})
	l.commit = commit
	return commit, err
}

// acquire returns the destination of a relay address and counts a flow.
func (t *table) acquire(relay netip.Addr) (dst netip.Addr, release func(), ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.byRelay[relay]
	if l == nil || t.store != nil && l.disk.Load() == 0 { // the store may yet say that it is somebody else's
		return netip.Addr{}, nil, false
	}
	l.flows.Add(1)
	return l.dst, l.release, true
}

// end ends a flow. The lock is taken only if the lease expired under it.
func (t *table) end(l *lease) {
	n := l.flows.Add(-1)
	if n < 0 {
		panic("addrmap: release called twice")
	}
	if n == 0 && l.parked.Load() {
		t.unpark(l)
	}
}

// unpark puts a lease whose last flow has ended among the live ones, whence it goes on if it has expired.
func (t *table) unpark(l *lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.parked.Load() && l.flows.Load() == 0 && t.byRelay[l.relay] == l {
		l.parked.Store(false)
		t.live.push(l)
	}
}

// heldLocked parks a lease that is in no queue if it has flows, and reports that. The order matters: end looks at
// parked after it has counted down, so one of the two sees the other. No flow can begin, as that takes the lock.
func (t *table) heldLocked(l *lease) bool {
	l.parked.Store(true)
	if l.flows.Load() > 0 {
		return true
	}
	l.parked.Store(false)
	return false
}

// expireLocked moves on what has expired, the longest expired first, and reports whether there may be more.
func (t *table) expireLocked() bool {
	now := t.now()
	for range expireStep {
		l := t.live.first()
		if l == nil || l.until > now {
			return false
		}
		t.live.remove(l)
		if !t.heldLocked(l) {
			t.idle.push(l)
		}
	}
	return true
}

// allocateLocked returns an address that no lease has: one never used as long as there is one, so that a destination
// keeps its address as long as possible, then that of the lease which expired first. before is what the store has for
// that one.
func (t *table) allocateLocked() (addr netip.Addr, before record, err error) {
	if uint64(len(t.byRelay)) < t.capacity {
		if addr, ok := t.pool.draw(t.taken); ok {
			return addr, record{}, nil
		}
	}
	for more := true; more; {
		more = t.expireLocked()
		for l := t.idle.first(); l != nil; l = t.idle.first() {
			t.idle.remove(l)
			if t.heldLocked(l) {
				continue // A flow began after the lease had expired.
			}
			t.removeLocked(l)
			return l.relay, record{l.relay, l.dst, l.disk.Load()}, nil
		}
	}
	return netip.Addr{}, record{}, ErrExhausted
}

func (t *table) insertLocked(dst, relay netip.Addr, until int64) *lease {
	l := &lease{dst: dst, relay: relay, until: until}
	l.release = func() { t.end(l) }
	t.byDst[dst], t.byRelay[relay] = l, l
	t.live.push(l)
	return l
}

func (t *table) removeLocked(l *lease) {
	if l.queue != nil {
		l.queue.remove(l)
	}
	l.parked.Store(false)
	if t.byDst[l.dst] == l {
		delete(t.byDst, l.dst)
	}
	delete(t.byRelay, l.relay)
}

func (t *table) extendLocked(l *lease, until int64) {
	l.until = until
	if l.queue != nil {
		l.queue.remove(l)
		t.live.push(l)
	}
}

func (t *table) taken(addr netip.Addr) bool { return t.byRelay[addr] != nil }

// usage returns how many addresses are leased and how many can be at a time.
func (t *table) usage() (used, size uint64) {
	step := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		more := t.expireLocked()
		used = uint64(len(t.byRelay) - len(t.idle))
		return more
	}
	for step() {
	}
	return used, t.capacity
}

// queue orders leases by their expiry.
type queue []*lease

// first returns the lease that expires first, or nil.
func (q *queue) first() *lease {
	if len(*q) == 0 {
		return nil
	}
	return (*q)[0]
}

func (q *queue) push(l *lease) {
	l.queue = q
	heap.Push(q, l)
}

func (q *queue) remove(l *lease) {
	heap.Remove(q, l.index)
	l.queue = nil
}

// Len, Less, Swap, Push and Pop implement heap.Interface.

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].until < q[j].until }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	l := x.(*lease)
	l.index = len(*q)
	*q = append(*q, l)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return l
}

var _ heap.Interface = (*queue)(nil)
