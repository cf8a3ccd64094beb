package resolver

import (
	"sync"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// shard is a part of the cache: a hash table and the two queues that decide what leaves it.
type shard struct {
	// set once by init
	limit   int64
	buckets []*entry // by hash, each a chain

	mu sync.Mutex // guards the following and every entry

	fresh, main queue    // new entries, and those that proved themselves
	ghosts      []uint32 // parts of the hashes of entries that left fresh unused, where such a hash belongs
	used        int64    // octets, with the tables
	entries     int
	hits        uint64

	_ [64]byte // no two shards share a cache line
}

// queue is a list of entries in the order in which they came.
type queue struct {
	first, last *entry
	size        int64
}

// init makes an empty shard. Its tables are made at once, so that nothing grows later.
func (s *shard) init(limit int64) {
	n := 1
	for int64(n)*bucketBytes < limit {
		n *= 2
	}
	s.limit = limit
	s.buckets, s.ghosts = make([]*entry, n), make([]uint32, n)
	s.used = int64(n) * 12
}

// bucket returns where the chain of hash begins. The low bits have already chosen the shard.
func (s *shard) bucket(hash uint64) **entry { return &s.buckets[hash>>8&uint64(len(s.buckets)-1)] }

// find returns the entry of k, or nil.
func (s *shard) find(hash uint64, k *wire.Key) *entry {
	for e := *s.bucket(hash); e != nil; e = e.chain {
		if e.hash == hash && e.is(k) {
			return e
		}
	}
	return nil
}

// insert adds e, in the place of what was known about k.
func (s *shard) insert(e *entry, k *wire.Key) {
	if e.size() > s.limit/4 {
		return
	}
	if old := s.find(e.hash, k); old != nil {
		s.charge(old, -1)
		old.raw, old.checked, old.steered, old.steeredGen = e.raw, e.checked, nil, 0
		s.charge(old, 1)
		s.evict()
		return
	}
	e.main = s.isGhost(e.hash)
	bucket := s.bucket(e.hash)
	e.chain, *bucket = *bucket, e
	s.queue(e).push(e)
	s.charge(e, 1)
	s.entries++
	s.evict()
}

// setSteered replaces what e knows for clients that may use the relay.
func (s *shard) setSteered(e *entry, gen uint32, steered *wire.Response, until int64) {
	s.charge(e, -1)
	e.steeredGen, e.steeredUntil, e.steered = gen, until, steered
	s.charge(e, 1)
	s.evict()
}

// charge puts the size of e on the account, or takes it off if sign is negative. An entry must be off the account
// while its size or its queue changes.
func (s *shard) charge(e *entry, sign int64) {
	n := sign * e.size()
	s.used += n
	s.queue(e).size += n
}

// queue returns the queue that e is in.
func (s *shard) queue(e *entry) *queue {
	if e.main {
		return &s.main
	}
	return &s.fresh
}

// evict takes entries out until the rest is within the limit.
func (s *shard) evict() {
	for s.used > s.limit && s.entries > 0 {
		if s.fresh.last != nil && (s.fresh.size > s.limit/10 || s.main.last == nil) {
			s.evictFresh(s.fresh.last)
		} else {
			s.evictMain(s.main.last)
		}
	}
}

// evictFresh moves e, the oldest of its queue, to the main queue if it was used since it came.
func (s *shard) evictFresh(e *entry) {
	if e.freq == 0 {
		s.ghosts[e.hash>>8&uint64(len(s.ghosts)-1)] = ghost(e.hash)
		s.remove(e)
		return
	}
	s.charge(e, -1)
	s.fresh.unlink(e)
	e.main, e.freq = true, 0
	s.main.push(e)
	s.charge(e, 1)
}

// evictMain gives e, the oldest of its queue, another round for each use since it was last here.
func (s *shard) evictMain(e *entry) {
	if e.freq == 0 {
		s.remove(e)
		return
	}
	e.freq--
	s.main.unlink(e)
	s.main.push(e)
}

// remove forgets e.
func (s *shard) remove(e *entry) {
	s.charge(e, -1)
	s.queue(e).unlink(e)
	s.entries--
	p := s.bucket(e.hash)
	for *p != e {
		p = &(*p).chain
	}
	*p = e.chain
}

// isGhost reports whether the entry with this hash came and went not long ago.
func (s *shard) isGhost(hash uint64) bool {
	return s.ghosts[hash>>8&uint64(len(s.ghosts)-1)] == ghost(hash)
}

// ghost returns the part of hash that stands for it in the table of ghosts; it is never 0.
func ghost(hash uint64) uint32 { return uint32(hash>>32) | 1 }

// push makes e the newest entry of q.
func (q *queue) push(e *entry) {
	e.prev, e.next = nil, q.first
	if q.first != nil {
		q.first.prev = e
	} else {
		q.last = e
	}
	q.first = e
}

// unlink takes e out of q.
func (q *queue) unlink(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.last = e.prev
	}
	e.prev, e.next = nil, nil
}
