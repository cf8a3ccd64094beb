package addrmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

var (
	// errSlow is returned when what was written had expired by the time it was on disk.
	errSlow = errors.New("addrmap: the lease file takes too long to write")
	// errTaken is returned for a relay address that stands for another destination by now, or in the store.
	errTaken = errors.New("addrmap: the relay address has been leased to another destination")
)

// Answer gives out the relay addresses of one DNS response. Their leases reach the disk in one commit, in Commit, so
// that a response with many addresses waits for the disk once. It is for one goroutine.
type Answer struct {
	m     *Map
	items []item
	some  [4]item // what items begins with: most responses have few addresses
}

// item is a lease that a response needs for a TTL.
type item struct {
	t   *table
	l   *lease
	ttl time.Duration
}

// NewAnswer returns an Answer without addresses yet.
func (m *Map) NewAnswer() *Answer {
	a := &Answer{m: m}
	a.items = a.some[:0]
	return a
}

// Relay returns the relay address, in IPv6 if v6 and else in IPv4, that stands for dst for at least ttl and the grace
// once Commit has returned nil, and not before. It does not wait. A new lease is only made if fresh, which may be nil,
// agrees to it. Errors are ErrNoWay, ErrExhausted, ErrRefused, of a lease file that is not open, or a TTL that is longer
// than a sealing epoch or a week.
func (a *Answer) Relay(dst netip.Addr, v6 bool, ttl time.Duration, fresh Fresh) (netip.Addr, error) {
	dst = dst.Unmap()
	sealed, t := a.m.way(dst, v6)
	switch {
	case sealed != nil:
		return sealed.relay(dst, ttl)
	case t == nil:
		return netip.Addr{}, ErrNoWay
	}
	l, err := t.reserve(dst, ttl, fresh)
	if err != nil {
		return netip.Addr{}, err
	}
	a.items = append(a.items, item{t, l, ttl})
	return l.relay, nil
}

// Commit returns once every lease of the answer is on disk, for as long as it has to last from now on. After an error,
// which is of the disk or of ctx, none of the addresses may be used. If ctx ends the wait for the disk, leases that were
// being made stay.
func (a *Answer) Commit(ctx context.Context) error { return settle(ctx, a.items) }

// settle returns once all items last, now and on disk.
func settle(ctx context.Context, items []item) error {
	for range tries {
		commits, err := commitAll(items)
		if err != nil || len(commits) == 0 {
			return err
		}
		for _, b := range commits {
			err = errors.Join(err, b.settle(ctx, items))
		}
		if err != nil {
			return err
		}
		// Look again: only now is it certain what the time is when the answer leaves.
	}
	return errSlow
}

// settle waits for a commit, and gives up the leases of items that it was to make and did not.
func (b *batch) settle(ctx context.Context, items []item) error {
	err := b.wait(ctx)
	for _, it := range items {
		taken := slices.Contains(b.taken, it.l)
		if taken || err != nil && b.ended() {
			it.t.giveUp(it.l, b, taken)
		}
		if taken {
			err = errors.Join(err, errTaken)
		}
	}
	return err
}

// commitAll has all items written that do not last on disk, in one commit, and returns the commits to wait for. What
// lasts long enough is written ahead of time: nobody waits for that, nor has to know if it went wrong, which shows in
// time.
func commitAll(items []item) (commits []*batch, err error) {
	defer lockTables(items)()
	var writes []write
	wait := false // for what is written now
	for _, it := range items {
		need := it.t.needs(it.ttl)
		due, must, err := it.t.dueLocked(it.l, need)
		switch {
		case err != nil:
			setCommit(writes, nil)
			return nil, err
		case !due:
		case it.l.commit == joining:
			wait = wait || must
		case it.l.commit != nil && it.l.written >= need+it.l.lead && !it.l.commit.ended():
			if must && !slices.Contains(commits, it.l.commit) {
				commits = append(commits, it.l.commit)
			}
		default:
			it.l.written = wholeHours(need + slack + it.l.lead)
			it.l.commit = joining
			writes = append(writes, write{it.l, it.l.written})
			wait = wait || must
		}
	}
	if len(writes) == 0 {
		return commits, nil
	}
	b, err := items[0].t.store.add(writes)
	setCommit(writes, b)
	switch {
	case !wait:
		return commits, nil
	case err != nil:
		return nil, err
	}
	return append(commits, b), nil
}

// joining is the commit of a lease while commitAll makes a list of what to write.
var joining = &batch{done: make(chan struct{})}

// setCommit notes that b writes, or nil if nothing does.
func setCommit(writes []write, b *batch) {
	for _, w := range writes {
		w.lease.commit = b
	}
}

// lockTables locks the tables of items and returns what unlocks them. There are two at most, and the one of IPv4 is
// always locked first.
func lockTables(items []item) (unlock func()) {
	var locked []*table
	for _, v6 := range []bool{false, true} {
		if i := slices.IndexFunc(items, func(it item) bool { return it.t.v6 == v6 }); i >= 0 {
			items[i].t.mu.Lock()
			locked = append(locked, items[i].t)
		}
	}
	return func() {
		for _, t := range locked {
			t.mu.Unlock()
		}
	}
}

// needs returns until when a lease must last for a TTL that is handed out now.
func (t *table) needs(ttl time.Duration) int64 { return t.now() + t.seconds(ttl) }

// reserve returns the lease of dst, made to last for ttl from now on, or makes one. It is not on disk before settle.
func (t *table) reserve(dst netip.Addr, ttl time.Duration, fresh Fresh) (*lease, error) {
	if ttl > maxTTL {
		return nil, fmt.Errorf("addrmap: TTL %v is longer than any lease; want %v or less", ttl, maxTTL)
	}
	need := t.needs(ttl)
	if l := t.lasting(dst, need); l != nil {
		return l, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.byDst[dst]; l != nil {
		if l.until < need {
			t.extendLocked(l, need+slack)
		}
		l.uses.Add(1)
		return l, nil
	}
	return t.makeLocked(dst, need, fresh)
}

// lasting returns the lease of dst if it lasts until need, on disk or not, or nil.
func (t *table) lasting(dst netip.Addr, need int64) *lease {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.byDst[dst]; l != nil && l.until >= need {
		l.uses.Add(1)
		return l
	}
	return nil
}

// makeLocked makes a lease for dst.
func (t *table) makeLocked(dst netip.Addr, need int64, fresh Fresh) (*lease, error) {
	if t.store != nil {
		if err := t.store.ready(); err != nil {
			return nil, err
		}
	}
	t.expireLocked() // a part at a time, so that usedLocked is not far off
	if fresh != nil && !fresh(t.usedLocked(), t.capacity) {
		return nil, ErrRefused
	}
	addr, before, err := t.allocateLocked()
	if err != nil {
		return nil, err
	}
	l := t.insertLocked(dst, addr, need+slack)
	l.replaces = before
	l.uses.Add(1)
	return l, nil
}

// dueLocked makes l last until need, and reports whether it has to be written: due soon, or, if must, before anybody gets
// its address.
func (t *table) dueLocked(l *lease, need int64) (due, must bool, err error) {
	if t.byRelay[l.relay] != l {
		return false, false, errTaken
	}
	if l.until < need {
		t.extendLocked(l, need+slack)
	}
	if t.store == nil {
		return false, false, nil
	}
	disk := l.disk.Load()
	return disk < need+l.lead, disk < need, nil
}

// giveUp removes a lease that b was to write first and did not, so that its address is free again unless it is taken.
func (t *table) giveUp(l *lease, b *batch, taken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byRelay[l.relay] != l || l.commit != b || !taken && l.disk.Load() > 0 {
		return
	}
	t.removeLocked(l)
	if !taken {
		t.pool.put(l.relay, t.taken)
	}
}
