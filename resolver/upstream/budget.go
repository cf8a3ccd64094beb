package upstream

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// budget bounds the queries to upstreams that are under way, and divides them: a zone whose servers are silent, or a
// client that asks for many such zones, must not keep others from being answered.
//
// Each zone and each client may have half as many as are still free. Alone, one comes to a third of all; with ten at it,
// each comes to a twelfth, and a sixth stays free for everybody else. (That is how switches share their buffers: Choudhury
// and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking,
// 1998.) Who wants more than that has the question of the same zone or client give way that has waited longest, if it has
// had its usual time, and is refused otherwise.
type budget struct {
	// set once
	max  int
	seed maphash.Seed

	mu             sync.Mutex // guards the following, and what waiter and share say it does
	used           int
	waiting        queue
	zones, clients map[uint64]*share // by hash; none is empty, so that there are never more than queries and questions
}

// share is what one zone or one client has of the budget. The lock of budget guards it.
type share struct {
	key     uint64
	used    int
	waiting queue
}

// waiter is a question in the budget.
type waiter struct {
	// set before it enters
	due    time.Time     // until then it cannot be made to give way
	ousted chan<- result // gets errOusted, once, when it gives way; has room for it

	// guarded by budget.mu
	zone, client *share // client is nil if the question is nobody's
	links        [3]link
	present      bool // in the queues
}

// The queues in which a waiter is, as indices of waiter.links.
const (
	inAll = iota
	inZone
	inClient
)

// link connects a waiter to its neighbours in a queue.
type link struct{ prev, next *waiter }

// queue is the waiters in the order in which they came.
type queue struct {
	first, last *waiter
	index       int // of waiter.links
}

func newBudget(limit int) *budget {
	return &budget{
		max: limit, seed: maphash.MakeSeed(), waiting: queue{index: inAll},
		zones: make(map[uint64]*share), clients: make(map[uint64]*share),
	}
}

// enter makes w wait: a question for name, which is in wire form and lower case, of client, which may be the zero Addr.
func (b *budget) enter(w *waiter, name []byte, client netip.Addr) {
	zone := maphash.Bytes(b.seed, zoneOf(name))
	b.mu.Lock()
	defer b.mu.Unlock()
	w.present = true
	b.waiting.push(w)
	w.zone = shareOf(b.zones, zone, inZone)
	w.zone.waiting.push(w)
	if client.IsValid() {
		w.client = shareOf(b.clients, maphash.Comparable(b.seed, client), inClient)
		w.client.waiting.push(w)
	}
}

// shareOf returns the share of key in m, which it makes if there is none.
func shareOf(m map[uint64]*share, key uint64, index int) *share {
	s := m[key]
	if s == nil {
		s = &share{key: key, waiting: queue{index: index}}
		m[key] = s
	}
	return s
}

// leave ends the wait of w. Its queries may be under way a little longer.
func (b *budget) leave(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unlinkLocked(w)
	b.forgetLocked(w)
}

// take reports whether w may have one more query under way. If so, give must be called when it has ended.
func (b *budget) take(w *waiter) bool {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	free := b.max - b.used
	if !w.present || free <= 0 && !b.oustLocked(&b.waiting, w, now) {
		return false
	}
	for _, s := range [...]*share{w.zone, w.client} {
		if s != nil && s.used >= max(free/2, 1) && !b.oustLocked(&s.waiting, w, now) {
			return false
		}
	}
	if free <= 0 { // what was ousted is not gone yet
		return false
	}
	b.useLocked(w, 1)
	return true
}

// give takes note of the end of a query of w.
func (b *budget) give(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.useLocked(w, -1)
	b.forgetLocked(w)
}

// useLocked counts n queries of w.
func (b *budget) useLocked(w *waiter, n int) {
	b.used += n
	w.zone.used += n
	if w.client != nil {
		w.client.used += n
	}
}

// oustLocked has the first of q give way, if that is not w and has had its time.
func (b *budget) oustLocked(q *queue, w *waiter, now time.Time) bool {
	first := q.first
	if first == nil || first == w || now.Before(first.due) {
		return false
	}
	b.unlinkLocked(first)
	first.ousted <- result{err: errOusted}
	return true
}

// unlinkLocked takes w out of its queues.
func (b *budget) unlinkLocked(w *waiter) {
	if !w.present {
		return
	}
	w.present = false
	b.waiting.unlink(w)
	w.zone.waiting.unlink(w)
	if w.client != nil {
		w.client.waiting.unlink(w)
	}
}

// forgetLocked forgets the shares of w if they are empty.
func (b *budget) forgetLocked(w *waiter) {
	if w.zone.empty() {
		delete(b.zones, w.zone.key)
	}
	if w.client != nil && w.client.empty() {
		delete(b.clients, w.client.key)
	}
}

// empty reports whether nobody has anything of s.
func (s *share) empty() bool { return s.used == 0 && s.waiting.first == nil }

// push makes w the last of q.
func (q *queue) push(w *waiter) {
	w.links[q.index] = link{prev: q.last}
	if q.last != nil {
		q.last.links[q.index].next = w
	} else {
		q.first = w
	}
	q.last = w
}

// unlink takes w out of q.
func (q *queue) unlink(w *waiter) {
	l := &w.links[q.index]
	if l.prev != nil {
		l.prev.links[q.index].next = l.next
	} else {
		q.first = l.next
	}
	if l.next != nil {
		l.next.links[q.index].prev = l.prev
	} else {
		q.last = l.prev
	}
	*l = link{}
}
