package steer

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

const (
	// maxLeads bounds the targets that are remembered for clients in all. One takes up to a kilobyte.
	maxLeads = 65536
	// maxLeadsOfClient bounds those of one client (IPv6: /64). They hold for a minute by default.
	maxLeadsOfClient = 64
	// maxLeadsOfAnswer bounds those of one response. Records with more of them are left out.
	maxLeadsOfAnswer = 8
	// maxOriginOctets bounds the names of an origin, so that what is remembered of it is small.
	maxOriginOctets = 512
)

// Lead is a name that a service record points to whose owner the operator did not list: it is steered by ech or by the
// name ".". Anybody can publish such a record about anybody's name, so that it decides only about what those clients get
// who were given the record, for as long as they were given it. See Steerer.Give.
type Lead struct {
	target string // in wire form and lower case
	origin origin // until is unused
	ttl    uint32 // seconds
}

// size is what l occupies, in octets.
func (l *Lead) size() int64 { return int64(len(l.target)) + maxOriginOctets }

// lead adds target to what clients are led to, and reports whether that is within the bounds.
func (r *rewrite) lead(target string, o origin, ttl uint32) bool {
	k, err := wire.NewKey(target, 0, 0)
	if err != nil || len(r.leads) == maxLeadsOfAnswer {
		return false
	}
	r.leads = append(r.leads, Lead{string(k.Name()), o, ttl})
	return true
}

// leads remembers which names clients were led to. The zero value is ready for use.
type leads struct {
	n  atomic.Int64 // targets in all
	mu sync.Mutex
	m  map[netip.Prefix]map[string][]origin // by client, by target
}

// clientOf returns what counts as one client.
func clientOf(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// Give notes that client is given the records with list, which are age seconds old. It reports whether that could be
// noted; if not, client must not be given them. It does not block.
func (s *Steerer) Give(client netip.Addr, list []Lead, age uint32) bool {
	now := time.Now()
	s.leads.mu.Lock()
	defer s.leads.mu.Unlock()
	for _, l := range list {
		o := l.origin
		o.until = now.Add(time.Duration(l.ttl-min(l.ttl, age)) * time.Second)
		if !s.leads.addLocked(clientOf(client), l.target, o, now) {
			return false
		}
	}
	return true
}

// Led returns what led client to the name qname, which is in wire form and lower case, or nil.
func (s *Steerer) Led(client netip.Addr, qname []byte) []Origin {
	if s.leads.n.Load() == 0 {
		return nil
	}
	s.leads.mu.Lock()
	defer s.leads.mu.Unlock()
	all := s.leads.m[clientOf(client)][string(qname)]
	if len(all) == 0 {
		return nil
	}
	now := time.Now()
	live := slices.DeleteFunc(slices.Clone(all), func(o origin) bool { return !o.until.After(now) })
	if len(live) == 0 {
		return nil
	}
	return live
}

// addLocked adds o to what led client to target, if there is room: nothing that holds makes room for something new.
func (l *leads) addLocked(client netip.Prefix, target string, o origin, now time.Time) bool {
	targets := l.m[client]
	all := targets[target]
	if len(all) == 0 {
		if len(targets) >= maxLeadsOfClient {
			l.sweepLocked(client, now)
		}
		if l.n.Load() >= maxLeads {
			l.sweepSomeLocked(now)
		}
		if len(targets) >= maxLeadsOfClient || l.n.Load() >= maxLeads {
			return false
		}
	}
	kept := slices.DeleteFunc(slices.Clone(all), func(old origin) bool { return slices.Equal(old.names, o.names) })
	if len(kept) == maxOrigins {
		return false
	}
	if targets = l.m[client]; targets == nil {
		if l.m == nil {
			l.m = make(map[netip.Prefix]map[string][]origin)
		}
		targets = make(map[string][]origin)
		l.m[client] = targets
	}
	if len(all) == 0 {
		l.n.Add(1)
	}
	targets[target] = append(kept, o)
	return true
}

// sweepLocked drops what is over of client.
func (l *leads) sweepLocked(client netip.Prefix, now time.Time) {
	targets := l.m[client]
	for target, origins := range targets {
		if !slices.ContainsFunc(origins, func(o origin) bool { return o.until.After(now) }) {
			delete(targets, target)
			l.n.Add(-1)
		}
	}
	if len(targets) == 0 {
		delete(l.m, client)
	}
}

// sweepSomeLocked drops what is over of a few clients drawn at random.
func (l *leads) sweepSomeLocked(now time.Time) {
	n := 0
	for client := range l.m {
		l.sweepLocked(client, now)
		if n++; n == 16 {
			return
		}
	}
}
