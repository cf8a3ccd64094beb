package steer

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
	"golang.org/x/time/rate"
)

// Bounds of new leases. Those of a client and of a zone are shares of the pool, because a lease is held for at least the
// TTL and the grace, some ten minutes: of what is beyond clientFrom, a client gets about a tenth of a /16 for itself,
// however long it goes on, and a zone about a third. A destination that has an address already is nobody's expense.
const (
	// A client is limited when one in so many addresses of the pool is in use, a zone when one in zoneFrom is.
	clientFrom = 4
	zoneFrom   = 2

	clientShare, clientBurstShare = 8192, 64 // leases a second, and at once, are the size of the pool by these
	zoneShare, zoneBurstShare     = 2048, 16
	minRate                       = 0.1 // leases a second
	minBurst                      = 16  // leases at once: more than one answer can take
	maxBurst                      = 1024
	// reserve is the part of a pool, one in so many, that is kept for the first address of an ordinary answer. Hints,
	// further addresses and Additional sections get no new lease out of it, so that destinations that are asked for keep
	// having one.
	reserve = 4
	// maxPaces bounds the clients and zones of which it is known how many leases they took. All for which there is no room
	// share one limit.
	maxPaces = 8192
)

// pace limits how fast new leases are made.
type pace struct {
	mu sync.Mutex
	m  map[paceKey]*rate.Limiter
}

// paceKey names a client or a zone, and the pool.
type paceKey struct {
	client netip.Prefix
	zone   string
	others int // not 0 for all clients, or all zones, for which there is no room
	v6     bool
}

// allow reports whether client may have a lease made for an address in zone, in a pool of size addresses of which used are
// in use. The client's share goes first, so that nobody can use up that of somebody else's zone with less than his own.
func (p *pace) allow(client netip.Prefix, zone string, v6 bool, used, size uint64) bool {
	if used < size/clientFrom {
		return true
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := p.limiterLocked(paceKey{client: client, v6: v6}, size, clientShare, clientBurstShare, now)
	if mine.TokensAt(now) < 1 {
		return false
	}
	if used >= size/zoneFrom {
		zones := p.limiterLocked(paceKey{zone: zone, v6: v6}, size, zoneShare, zoneBurstShare, now)
		if !zones.AllowN(now, 1) {
			return false
		}
	}
	return mine.AllowN(now, 1)
}

// limiterLocked returns the limiter of k, which gets the given shares of size.
func (p *pace) limiterLocked(k paceKey, size uint64, share, burstShare float64, now time.Time) *rate.Limiter {
	if l := p.m[k]; l != nil {
		return l
	}
	if p.m == nil {
		p.m = make(map[paceKey]*rate.Limiter)
	}
	if len(p.m) >= maxPaces && !p.sweepLocked(now) {
		k = paceKey{others: 1 + min(len(k.zone), 1), v6: k.v6}
		if l := p.m[k]; l != nil {
			return l
		}
	}
	burst := min(max(minBurst, float64(size)/burstShare), maxBurst)
	l := rate.NewLimiter(rate.Limit(max(minRate, float64(size)/share)), int(burst))
	p.m[k] = l
	return l
}

// sweepLocked forgets those, of a few drawn at random, that have all of their share, and reports whether there were any.
func (p *pace) sweepLocked(now time.Time) (room bool) {
	n := 0
	for k, l := range p.m {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(p.m, k)
			room = true
		}
		if n++; n == 32 {
			break
		}
	}
	return room
}

// zoneOf returns the zone that has name, as far as one can tell without asking: what is directly below a public suffix.
// Who has a zone below it has that as well.
func zoneOf(name string) string {
	zone, err := publicsuffix.EffectiveTLDPlusOne(name[:max(len(name)-1, 0)])
	if err != nil {
		return name
	}
	return zone
}
