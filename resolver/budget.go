package resolver

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// What clients cost, in units of an answer from the cache, about as much as they take of a processor and of what is
// scarcer than processors.
const (
	costHit       = 1
	costMiss      = 100 // besides that of a hit: sockets, and the patience of upstreams
	costHandshake = 250 // MinRate in budgetBurst
)

const (
	// budgetBurst is how much of its rate a client has ahead: a household that comes home asks for much at once.
	budgetBurst = time.Second
	// budgetSets and budgetWays are the size of the table of budgets: 2 MiB. A prefix has a place in it while it has spent
	// something that has not come back yet, which is seconds.
	budgetSets = 1 << 14
	budgetWays = 8
	// budgetSample is how many answers from the cache are charged at once, and how often that is done: most cost no more
	// than a look at the budget of the client.
	budgetSample = 16
	// budgetExact is how many units before its end a budget is charged for each answer.
	budgetExact = 4 * budgetSample
	// budgetPenalty is how long a client gets nothing when the budget of a wider prefix is spent, to which most answers
	// from the cache are not charged.
	budgetPenalty = time.Second
)

// budgets bounds what clients may cost in a second, for each of the nested prefixes that they are in.
//
// A budget is one moment, at which all that was spent has come back (the generic cell rate algorithm, ITU-T I.371):
// spending moves it on, and it must not be further away than budgetBurst. The table has a fixed size and is not locked.
// Where two processors change the same place at once, one may lose what it has charged.
//
// Whoever has many addresses cannot flush the table for others: a place is given to another prefix only once all that was
// spent there has come back, which loses nothing. A prefix for which there is no place is bounded by the wider ones that
// it is in, which are few.
type budgets struct {
	// set once
	seed   [2]uint64
	levels []PrefixLimit
	unit   []int64 // of each level, how far one unit moves the budget, in nanoseconds; 0 if the level is not bounded
	shared sharing

	sets [][budgetWays]budget
}

// budget is the budget of one prefix.
type budget struct {
	key   atomic.Uint64
	until atomic.Int64 // when all that was spent has come back, on the clock of the caller
}

// proof says whether a query can be of somebody else than its source address says. Both have budgets of their own, so
// that nobody can spend what a victim needs to ask over TCP.
type proof uint8

const (
	unproven proof = iota // UDP, and QUIC before the first round trip
	proven
)

// proofOf returns what is known of clients of t.
func proofOf(t Transport) proof {
	if t == UDP {
		return unproven
	}
	return proven
}

// newBudgets returns budgets by l, which is complete, or nil, which has room for everything.
func newBudgets(l *Limits) *budgets {
	if l.Rate < 0 {
		return nil
	}
	b := &budgets{
		seed: [2]uint64{rand.Uint64(), rand.Uint64()}, levels: l.completePrefixes(), shared: newSharing(l),
		sets: make([][budgetWays]budget, budgetSets),
	}
	for i := range b.levels {
		b.unit = append(b.unit, max(1, int64(time.Second)/int64(b.levels[i].Rate)))
	}
	return b
}

// spend takes cost from the budgets of client at the time now, or reports false if one of them does not have it. Who is
// refused takes nothing from those that it shares with others.
func (b *budgets) spend(client netip.Addr, p proof, cost, now int64) bool {
	if b == nil {
		return true
	}
	high, v4 := highBits(client)
	key := b.prefixKey(high, 0, v4, p)
	own, _ := b.find(key, now)
	hit := cost == costHit
	if hit && own.left(now) > budgetExact*b.unit[0] {
		if rand.Uint32()%budgetSample != 0 {
			return true
		}
		cost = budgetSample
	}
	times := int64(b.shared.times(client))
	for i := range b.levels {
		if b.levels[i].bits(v4) == 0 {
			continue
		}
		if place, _ := b.find(b.prefixKey(high, i, v4, p), now); place.left(now) < cost*b.unit[i]/times {
			if hit && i > 0 {
				b.charge(key, own.left(now), now)
				b.penalize(key, now)
			}
			return false
		}
	}
	for i := range b.levels {
		if b.levels[i].bits(v4) != 0 {
			b.charge(b.prefixKey(high, i, v4, p), cost*b.unit[i]/times, now)
		}
	}
	return true
}

// spendOutsider takes the cost of a handshake from the budget that all who may not ask have together.
func (b *budgets) spendOutsider(p proof, now int64) bool {
	return b == nil || b.charge(b.key(0, len(b.levels), false, p), costHandshake*b.unit[0], now)
}

// highBits returns the part of addr that prefixes are of, at the upper end.
func highBits(addr netip.Addr) (high uint64, v4 bool) {
	if addr.Is4() {
		a := addr.As4()
		return uint64(a[0])<<56 | uint64(a[1])<<48 | uint64(a[2])<<40 | uint64(a[3])<<32, true
	}
	a := addr.As16()
	for _, b := range a[:8] {
		high = high<<8 | uint64(b)
	}
	return high, false
}

// prefixKey returns what stands for the prefix of a level in the table.
func (b *budgets) prefixKey(high uint64, level int, v4 bool, p proof) uint64 {
	return b.key(high>>(64-b.levels[level].bits(v4)), level, v4, p)
}

// key returns what stands for a prefix in the table. Nobody outside can know which prefixes are in the same set.
func (b *budgets) key(prefix uint64, level int, v4 bool, p proof) uint64 {
	kind := uint64(level)<<2 | uint64(p)<<1
	if v4 {
		kind |= 1
	}
	hi, lo := bits.Mul64(prefix^b.seed[0], kind*0x9e3779b97f4a7c15^b.seed[1])
	hi, lo = bits.Mul64(hi^lo^b.seed[1], 0xa0761d6478bd642f^prefix)
	return hi ^ lo | 1
}

// find returns the place of key, or nil and one that it can have, or twice nil if there is none.
func (b *budgets) find(key uint64, now int64) (found, free *budget) {
	set := &b.sets[key>>32%budgetSets]
	for i := range set {
		place := &set[i]
		if place.key.Load() == key {
			return place, nil
		}
		if free == nil && place.until.Load() <= now {
			free = place
		}
	}
	return nil, free
}

// charge moves the budget of key on by d, or reports false if that is further than it may be.
func (b *budgets) charge(key uint64, d, now int64) bool {
	place, free := b.find(key, now)
	if place == nil {
		if free == nil {
			return true
		}
		free.until.Store(now)
		free.key.Store(key)
		place = free
	}
	for {
		until := place.until.Load()
		next := max(until, now) + d
		if next-now > int64(budgetBurst) {
			return false
		}
		if place.until.CompareAndSwap(until, next) {
			return true
		}
	}
}

// penalize has the client of key get nothing for a while.
func (b *budgets) penalize(key uint64, now int64) {
	if place, _ := b.find(key, now); place != nil {
		place.until.Store(now + int64(budgetBurst+budgetPenalty))
	}
}

// left returns how far the budget, or nil, which is that of who has spent nothing, may be moved on.
func (p *budget) left(now int64) int64 {
	if p == nil {
		return int64(budgetBurst)
	}
	return int64(budgetBurst) - max(0, p.until.Load()-now)
}

// overBudget answers a query of a client that has spent its budget. Who cannot be somebody else gets REFUSED. Over UDP
// the answer is truncated, and no longer than the query, so that a client which is who it says asks again over TCP; every
// other one is not answered at all, so that a victim of forged queries gets less than was sent.
func (f *forwarder) overBudget(q *query, asked *wire.Query, dst []byte) ([]byte, outcome) {
	f.limited.Add(1)
	if proofOf(q.transport) == proven {
		return f.fail(asked, dst, dns.RcodeRefused, wire.EDENotReady), answered
	}
	if rand.Uint32()%2 == 0 {
		return dst, dropped
	}
	f.responses[dns.RcodeSuccess].Add(1)
	return asked.AppendTruncated(dst), answered
}

// affords implements handler.
func (f *forwarder) affords(client netip.Addr, p proof) bool {
	if !f.serves(client) {
		return f.budgets.spendOutsider(p, f.cache.now())
	}
	return f.budgets.spend(client, p, costHandshake, f.cache.now())
}
