package addrmap

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"math"
	"math/bits"
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
	// minLead and leadSpan say how long before the expiry on disk a lease is written again, so that nobody has to wait
	// for that. Each lease has another lead: expiries are whole hours, and those of all busy destinations are written
	// again over half an hour, each once an hour.
	minLead, leadSpan = 300, 1800
	// ahead is how much further than needed an expiry on disk can be. After a crash addresses stay leased for up to
	// this much longer; while the process lives they are free again when they should.
	ahead = minLead + leadSpan + slack + hour
	// rest is how long an address of which the lease has ended is still known to be that of its destination, and given
	// to another only if there is no other. See forget.
	rest = 900
	// maxTTL bounds leases, and with it what an expiry read from disk can be. RFC 8767, Section 4, suggests the same
	// bound for what a cache believes.
	maxTTL = 7 * 24 * time.Hour
	// expireStep bounds how many leases are moved at a time, so that a million that expire together stop nobody.
	expireStep = 256
	// tries is how often a commit may take longer than the lease has slack before the disk is declared too slow.
	tries = 3
)

// table is the stateful way for one address family. A lease is in one of three places: among the live ones, among
// the idle ones, which expired and give up their address to whoever needs one, the least used first, or, if it
// expired under a flow, in neither, parked until the last flow ends.
type table struct {
	// Set once by Open.
	v6       bool
	prefixes []netip.Prefix
	leases   uint64 // how many the configuration permits
	capacity uint64 // how many there can be
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

// lease is one destination's relay address. Neither ever changes, nor do lead and replaces.
type lease struct {
	dst, relay netip.Addr
	lead       int64  // how long before its expiry on disk it is written again
	release    func() // ends a flow; made here once, so that Acquire allocates nothing

	replaces record // what the store has had for the relay address, as far as is known; the zero record if nothing

	flows  atomic.Int32
	parked atomic.Bool  // the last flow to end has to call unpark
	uses   atomic.Int64 // answers
	disk   atomic.Int64 // expiry in the store, or 0; only what the store says raises it

	// Guarded by table.mu.
	until   int64  // expiry
	queue   *queue // the queue it is in, or nil while parked
	order   int64  // in the queue: the lowest comes first
	index   int    // in the queue
	written int64  // expiry that the store was last asked to write
	commit  *batch // which commits written, or nil
}

// newTable returns a table over prefixes of one family, without leases. Its store is set later.
func newTable(cfg *TableConfig, prefixes []netip.Prefix) *table {
	t := &table{
		v6:       prefixes[0].Addr().Is6(),
		prefixes: prefixes,
		leases:   uint64(cmp.Or(cfg.MaxLeases, defaultLeases)),
		grace:    cmp.Or(cfg.Grace, defaultGrace),
		now:      monotonic(clockOr(cfg.Clock)),
		byDst:    make(map[netip.Addr]*lease),
		byRelay:  make(map[netip.Addr]*lease),
	}
	t.pool = newPool(prefixes, t.leases, t.taken)
	t.capacity = min(t.leases, t.pool.size)
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

// restore enters leases from the file, in the order in which they were written, when it is opened. Of two for one
// destination the later one counts: the other had lost its address to a lease that did not reach the disk. An expiry
// that no lease can have, because the clock was wrong when it was written, is cut to the longest that it can.
func (t *table) restore(records []record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		if old := t.byDst[r.dst]; old != nil {
			t.removeLocked(old)
		}
		l := t.insertLocked(r.dst, r.relay, t.possible(r.expiry))
		l.written = r.expiry
		l.disk.Store(r.expiry)
	}
	t.pool = newPool(t.prefixes, t.leases, t.taken)
}

// possible returns an expiry from the store, or the latest that a lease can have.
func (t *table) possible(expiry int64) int64 { return min(expiry, t.needs(maxTTL)+ahead) }

// relay returns the relay address of dst after it has put a lease for ttl on disk. For ctx and fresh, see Map.Lease.
func (t *table) relay(ctx context.Context, dst netip.Addr, ttl time.Duration, fresh Fresh) (addr netip.Addr, err error) {
	if addr, ok := t.leased(dst, t.needs(ttl)); ok && ttl <= maxTTL {
		return addr, nil
	}
	for range tries {
		l, err := t.reserve(dst, ttl, fresh)
		if err != nil {
			return netip.Addr{}, err
		}
		if t.store == nil {
			return l.relay, nil
		}
		if err := settle(ctx, []item{{t, l, ttl}}); err == nil {
			return l.relay, nil
		} else if !errors.Is(err, errTaken) {
			return netip.Addr{}, err
		}
	}
	return netip.Addr{}, errTaken
}

// leased returns the relay address of dst if its lease lasts until need and nothing has to be written for it soon.
func (t *table) leased(dst netip.Addr, need int64) (netip.Addr, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.byDst[dst]
	if l == nil || l.until < need || t.store != nil && l.disk.Load() < need+l.lead {
		return netip.Addr{}, false
	}
	l.uses.Add(1)
	return l.relay, true
}

// acquire returns the destination of a relay address and counts a flow.
func (t *table) acquire(relay netip.Addr) (dst netip.Addr, release func(), ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.byRelay[relay]
	if l == nil || t.store != nil && l.disk.Load() == 0 { // the store may yet say that it is somebody else's
		return netip.Addr{}, nil, false
	}
	for {
		// Whoever got the address may not use it any more once it has expired, so that this would be somebody who looks
		// for what others visit. It goes on for the flows that it has, and for what belongs to them.
		flows := l.flows.Load()
		if flows == 0 && l.until <= t.now() {
			return netip.Addr{}, nil, false
		}
		if l.flows.CompareAndSwap(flows, flows+1) {
			return l.dst, l.release, true
		}
	}
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
		t.live.push(l, l.until)
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
			t.idle.push(l, t.idleOrder(l.until, l.uses.Load()))
		}
	}
	return true
}

// idleOrder returns where an idle lease comes that expired at until and was in so many answers.
func (t *table) idleOrder(until, uses int64) int64 {
	return until + t.seconds(0)*int64(bits.Len64(uint64(uses)))
}

// allocateLocked returns an address that no lease has: one never used as long as there is one, so that a destination
// keeps its address as long as possible, then that of the idle lease which comes first. before is what the store has for
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
	l := &lease{dst: dst, relay: relay, until: until, lead: lead(relay)}
	l.release = func() { t.end(l) }
	t.byDst[dst], t.byRelay[relay] = l, l
	t.live.push(l, l.until)
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
		t.live.push(l, l.until)
	}
}

func (t *table) taken(addr netip.Addr) bool { return t.byRelay[addr] != nil }

// usedLocked returns how many addresses are leased, as far as expireLocked has come.
func (t *table) usedLocked() uint64 { return uint64(len(t.byRelay) - len(t.idle)) }

// usage returns how many addresses are leased and how many can be at a time.
func (t *table) usage() (used, size uint64) {
	step := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		more := t.expireLocked()
		used = t.usedLocked()
		return more
	}
	for step() {
	}
	return used, t.capacity
}

// forget removes the leases that ended a while ago, so that nobody finds out any more which destinations there were.
// What is moved about by others meanwhile may be left to the next call.
func (t *table) forget() {
	t.usage() // moves on what has expired
	for i := math.MaxInt; i >= 0; {
		i = t.forgetStep(i)
	}
}

// forgetStep looks at some idle leases from index i downwards, and returns where to go on.
func (t *table) forgetStep(i int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	i = min(i, len(t.idle)-1)
	for n := 0; n < expireStep && i >= 0; n++ {
		l := t.idle[i]
		if l.until > t.now()-rest {
			i--
			continue
		}
		t.idle.remove(l)
		if !t.heldLocked(l) {
			t.removeLocked(l)
			t.pool.put(l.relay, t.taken)
		}
		i = min(i, len(t.idle)-1) // again: one that comes before has taken its place
	}
	return i
}

// has reports whether r is the record of a lease that was not forgotten.
func (t *table) has(r record) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.byRelay[r.relay]
	return l != nil && l.dst == r.dst
}

// lead returns the lead of the lease of a relay address.
func lead(relay netip.Addr) int64 {
	h := fnv.New32a()
	h.Write(relay.AsSlice())
	return minLead + int64(h.Sum32()%leadSpan)
}
