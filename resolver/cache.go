package resolver

import (
	"hash/maphash"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// cache keeps replies within a number of octets. It is split into shards, each with a lock that is held for a
// look-up and never while a reply is copied.
//
// What leaves first is decided as by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
// 2023): what is new must be asked for again while it passes through a short queue, or it goes. A flood of random
// names thus passes through that queue and leaves the rest alone.
type cache struct {
	seed   maphash.Seed
	epoch  time.Time // the clock starts here
	shards []shard   // a power of two
}

// entry is what the cache knows about one question. The lock of its shard guards it.
type entry struct {
	hash    uint64
	flags   uint8 // of the key; the rest of which is in raw
	freq    uint8 // uses since it was last looked at for eviction, up to maxFreq
	main    bool  // in the main queue
	raw     *wire.Response
	checked uint32 // the generation of settings in which no local source had an answer

	// What clients that may use the relay get, decided in this generation, until then: steered, or raw if nil.
	steeredGen   uint32
	steeredUntil int64
	steered      *wire.Response

	chain      *entry // next in the bucket
	prev, next *entry // in the queue
}

const (
	maxFreq = 3
	// Sizes in octets of what an entry occupies besides its messages. A bucket and a ghost come to 12 octets for each
	// bucketBytes of the limit.
	entryOverhead = int64(unsafe.Sizeof(entry{}))
	// bucketBytes is about what an entry with a small answer occupies.
	bucketBytes = 512
	// minShard makes a shard large enough for the largest message.
	minShard  = 256 << 10
	maxShards = 64
)

// view is which variant of a reply a client gets.
type view uint8

const (
	viewRaw     view = iota
	viewSteered      // what apply made of it, or raw if that was nothing
	viewDown         // as viewSteered, but the relay is not well: relay addresses must not be given out
)

// newCache returns a cache of at most limit octets.
func newCache(limit int64) *cache {
	n := 1
	for n < maxShards && limit/int64(2*n) >= minShard {
		n *= 2
	}
	c := &cache{seed: maphash.MakeSeed(), epoch: time.Now(), shards: make([]shard, n)}
	for i := range c.shards {
		c.shards[i].init(limit / int64(n))
	}
	return c
}

// now returns the time on the clock of the cache.
func (c *cache) now() int64 { return int64(time.Since(c.epoch)) }

// shard returns the hash of k and where it belongs.
func (c *cache) shard(k *wire.Key) (uint64, *shard) {
	hash := maphash.Bytes(c.seed, k.Bytes()) ^ uint64(k.Flags)<<32
	return hash, &c.shards[hash&uint64(len(c.shards)-1)]
}

// lookup returns the reply to k for clients with view v, or nil if it takes more than a look: it is not there or
// not fresh, or was not yet offered to the local sources or to steering under the settings of generation gen.
func (c *cache) lookup(k *wire.Key, v view, gen uint32, now int64) *wire.Response {
	hash, s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(hash, k)
	if e == nil || e.checked != gen || !e.raw.Fresh(now) {
		return nil
	}
	r := e.raw
	if v != viewRaw {
		if e.steeredGen != gen || e.steeredUntil <= now || v == viewDown && e.steered != nil && e.steered.Rewritten {
			return nil
		}
		if e.steered != nil {
			r = e.steered
		}
	}
	e.use()
	s.hits++
	return r
}

// raw returns the fresh reply of an upstream to k, or nil, after no local source of generation gen had one.
func (c *cache) raw(k *wire.Key, gen uint32, now int64) *wire.Response {
	hash, s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(hash, k)
	if e == nil || !e.raw.Fresh(now) {
		return nil
	}
	e.checked = gen
	e.use()
	return e.raw
}

// insert keeps r, the reply of an upstream to k, if it may be kept and is not out of all proportion.
func (c *cache) insert(k *wire.Key, gen uint32, r *wire.Response) {
	if r.TTL == 0 {
		return
	}
	hash, s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(&entry{hash: hash, flags: k.Flags, raw: r, checked: gen}, k)
}

// insertSteered keeps steered, or nil for none, as what generation gen makes of raw until then.
func (c *cache) insertSteered(k *wire.Key, gen uint32, raw, steered *wire.Response, until int64) {
	hash, s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(hash, k); e != nil && e.raw == raw {
		s.setSteered(e, gen, steered, until)
	}
}

// unsteer forgets what was decided about the addresses of name, because it is not what would be decided now.
func (c *cache) unsteer(name string) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB} {
		for flags := range uint8(wire.DO | wire.CD) { // who sets both is never steered
			k, err := wire.NewKey(name, qtype, flags)
			if err != nil {
				return
			}
			hash, s := c.shard(k)
			s.mu.Lock()
			if e := s.find(hash, k); e != nil {
				s.setSteered(e, 0, nil, 0)
			}
			s.mu.Unlock()
		}
	}
}

// stats returns the octets and entries kept, and how often lookup found one.
func (c *cache) stats() (used int64, entries int, hits uint64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		used += s.used
		entries += s.entries
		hits += s.hits
		s.mu.Unlock()
	}
	return used, entries, hits
}

// size returns the octets that e occupies.
func (e *entry) size() int64 {
	n := entryOverhead + e.raw.Size()
	if e.steered != nil {
		n += e.steered.Size()
	}
	return n
}

// use counts a use of e.
func (e *entry) use() { e.freq = min(e.freq+1, maxFreq) }

// is reports whether e is about k, whose hash it has.
func (e *entry) is(k *wire.Key) bool {
	return e.flags == k.Flags && e.raw.Answers(k)
}
