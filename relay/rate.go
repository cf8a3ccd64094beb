package relay

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// flowRate bounds how many flows each client begins in a time, those that are refused among them. Each prefix that stands
// for the client has a bucket of tokens, as a Limiter of golang.org/x/time/rate has: it holds burst tokens at most, is
// filled with so many a second, and a flow takes one. Wider prefixes get more for their size, see shares.
//
// There is room for rateBuckets buckets, which are never allocated again. In place of tokens a bucket has the time at which
// it will be full. One that is full is as good as none; where there is no room for another, the one that is nearest to it
// is forgotten.
type flowRate struct {
	// Set once by newFlowRate.
	widths widths
	every  time.Duration // between two tokens
	burst  time.Duration // in which an empty bucket is filled
	seed   maphash.Seed

	shards [rateShards]rateShard
}

const (
	rateShards  = 64
	rateSets    = 256 // of a shard
	rateWays    = 4   // buckets of a set, among which a prefix has to find room
	rateBuckets = rateShards * rateSets * rateWays
)

type rateShard struct {
	mu   sync.Mutex
	sets [rateSets][rateWays]rateBucket
}

// rateBucket is one prefix's; the zero value is nobody's.
type rateBucket struct {
	prefix netip.Prefix
	full   time.Duration // when it will be full; in the past, it is
}

// newFlowRate returns a rate of so many flows a second after a burst.
func newFlowRate(perSecond, burst int, w widths) *flowRate {
	every := max(1, time.Second/time.Duration(perSecond))
	return &flowRate{widths: w, every: every, burst: time.Duration(burst) * every, seed: maphash.MakeSeed()}
}

// allow reports whether client may begin a flow, and takes a token of each of its prefixes if so. now is counted from any
// fixed moment. It does not allocate.
func (r *flowRate) allow(client netip.Addr, now time.Duration) bool {
	for i := range r.widths.of(client) {
		if !r.take(client, i, now, 1) {
			for ; i > 0; i-- {
				r.take(client, i-1, now, -1)
			}
			return false
		}
	}
	return true
}

// take takes n tokens from the bucket of the i-th prefix of client, if it has so many.
func (r *flowRate) take(client netip.Addr, i int, now time.Duration, n int) bool {
	prefix, shift := r.widths.at(client, i)
	cost := time.Duration(n) * max(1, r.every>>shift)
	sum := maphash.Comparable(r.seed, prefix)
	s := &r.shards[sum%rateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := bucketOf(&s.sets[sum/rateShards%rateSets], prefix)
	full := max(b.full, now) + cost
	if full-now > r.burst {
		return false
	}
	b.full = full
	return true
}

// bucketOf returns the bucket of prefix, which may be that of another one until now.
func bucketOf(set *[rateWays]rateBucket, prefix netip.Prefix) *rateBucket {
	fullest := &set[0]
	for i := range set {
		b := &set[i]
		if b.prefix == prefix {
			return b
		}
		if b.full < fullest.full {
			fullest = b
		}
	}
	*fullest = rateBucket{prefix: prefix}
	return fullest
}
