package resolver

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// forwarder is the handler behind the listeners of a Server: it has the responses to queries from local sources, the
// cache and upstreams.
//
// A query meets, in this order: the sanity of its header, who may ask, the rest of the message, the cache, the local
// sources, and then, on a goroutine of its own, the upstreams and steering. A response in the cache is only used if no
// local source had one under the same settings.
type forwarder struct {
	// set once
	log       zerolog.Logger
	tasks     tasks
	stop      context.CancelFunc
	upstreams *upstream.Group
	idle      uint16 // how long connections may be idle, in units of 100 ms
	cache     *cache
	flights   flights

	settings atomic.Pointer[settings]
	mu       sync.Mutex // serializes update

	queries     [NumTransports]atomic.Uint64
	responses   [17]atomic.Uint64 // as Stats.Responses
	misses      atomic.Uint64
	steered     atomic.Uint64
	steerFailed atomic.Uint64
}

// decision is what answerNow has found out about a query that waits, so that nothing is decided a second time: not even
// if the settings are replaced meanwhile.
type decision struct {
	asked    wire.Query
	settings *settings
	view     view
	local    *wire.Response // ends with a CNAME whose target is still to be found; or nil
}

// newForwarder validates the part of cfg that responses depend on.
func newForwarder(cfg *Config) (*forwarder, error) {
	if cfg.CacheBytes < 0 {
		return nil, fmt.Errorf("negative cache size %d", cfg.CacheBytes)
	}
	limits := cfg.Limits.withDefaults()
	f := &forwarder{
		log:   cfg.Log,
		idle:  uint16(min(limits.IdleTimeout/(100*time.Millisecond), 0xffff)),
		cache: newCache(cmp.Or(cfg.CacheBytes, DefaultCacheBytes)),
	}
	f.tasks.ctx, f.stop = context.WithCancel(context.Background())
	f.upstreams = upstream.NewGroup(f.tasks.ctx, f.cache.now, cfg.Log)
	f.flights = flights{tasks: &f.tasks, timeout: limits.QueryTimeout, m: make(map[string]*flight)}
	if err := f.update(cfg.Settings); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// close implements backend.
func (f *forwarder) close() {
	f.stop()
	f.tasks.wg.Wait()
	f.upstreams.Wait()
}

// update replaces the settings. On an error the old ones stay.
func (f *forwarder) update(set Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.settings.Load()
	s, err := f.newSettings(&set, old)
	if err != nil {
		return err
	}
	f.settings.Store(s)
	if old != nil {
		old.upstreams.Retire(s.upstreams)
	}
	return nil
}

// stats sets what the handler counts in s: queries, responses, cache, steering, upstreams.
func (f *forwarder) stats(s *Stats) {
	for i := range f.queries {
		s.Queries[i] = f.queries[i].Load()
	}
	for i := range f.responses {
		s.Responses[i] = f.responses[i].Load()
	}
	s.CacheBytes, s.Entries, s.CacheHits = f.cache.stats()
	s.CacheMisses = f.misses.Load()
	s.Steered, s.SteerFailed = f.steered.Load(), f.steerFailed.Load()
	s.Upstreams = f.settings.Load().upstreams.Stats()
}

// serves implements handler.
func (f *forwarder) serves(client netip.Addr) bool {
	return f.settings.Load().clients.contains(client)
}

// answerNow implements handler.
func (f *forwarder) answerNow(q *query, dst []byte) ([]byte, outcome) {
	var asked wire.Query
	if !asked.Parse(q.msg, channels[q.transport]) {
		return dst, dropped
	}
	f.queries[q.transport].Add(1)
	q.ttl, q.decision = 0, nil
	set := f.settings.Load()
	client := set.clients.contains(q.client.Addr())
	if !client && (asked.Rcode != 0 || !set.public.claims(&asked.Key)) {
		return f.fail(&asked, dst, dns.RcodeRefused, wire.EDEProhibited), answered
	}
	if asked.Rcode != 0 {
		return f.fail(&asked, dst, asked.Rcode, asked.EDE), answered
	}
	if client && asked.RecursionDesired() {
		return f.answerClient(q, &asked, set, dst)
	}
	return f.answerKnown(q, &asked, set, client, dst), answered
}

// answerClient answers a client that wants upstreams to be asked, from the cache or by what is known here. Otherwise
// the query has to wait.
func (f *forwarder) answerClient(q *query, asked *wire.Query, set *settings, dst []byte) ([]byte, outcome) {
	view, now := set.view(q.client.Addr(), asked), f.cache.now()
	if p := f.cache.lookup(&asked.Key, view, set.gen, now); p != nil {
		return f.respond(q, asked, p, dst, now), answered
	}
	p, known := f.known(set, asked, q, true)
	if known && !endsWithCNAME(p) {
		return f.respond(q, asked, p, dst, now), answered
	}
	q.decision = &decision{asked: *asked, settings: set, view: view, local: p}
	return dst, pending
}

// answerKnown answers who must not have upstreams asked, or does not want that. Not even from the cache, which would
// tell what others have asked for.
func (f *forwarder) answerKnown(q *query, asked *wire.Query, set *settings, client bool, dst []byte) []byte {
	p, known := f.known(set, asked, q, client)
	switch {
	case known:
		return f.respond(q, asked, p, dst, f.cache.now())
	case client:
		return f.fail(asked, dst, dns.RcodeRefused, wire.EDENotAuthoritative)
	}
	return f.fail(asked, dst, dns.RcodeRefused, wire.EDEProhibited) // nothing is public about the name after all
}

// known returns the response to a query that needs no upstream, or at least the beginning of it. It is looked for before
// a query has to wait, so that such responses are given also when no more queries may.
func (f *forwarder) known(set *settings, asked *wire.Query, q *query, client bool) (*wire.Response, bool) {
	p, ok := f.local(set, &asked.Key, q)
	if !ok && client && asked.Key.Type() == dns.TypeANY {
		return wire.MinimalAny(&asked.Key, f.cache.now()), true
	}
	return p, ok
}

// answer implements handler.
func (f *forwarder) answer(ctx context.Context, q *query, dst []byte) []byte {
	d := q.decision
	q.decision = nil // q may be kept for a next message, and must not keep the settings
	d.asked.Rebind(q.msg)
	var p *wire.Response
	var err error
	if d.local != nil {
		p, err = f.complete(ctx, d, q)
	} else {
		f.misses.Add(1)
		p, err = f.resolve(ctx, d, q)
	}
	now := f.cache.now()
	if err != nil {
		p = wire.Failure(&d.asked.Key, edeOf(err), 0, now)
	}
	return f.respond(q, &d.asked, p, dst, now)
}

// respond appends p as the response to q.
func (f *forwarder) respond(q *query, asked *wire.Query, p *wire.Response, dst []byte, now int64) []byte {
	asked.IdleTimeout = f.idle
	f.responses[p.Rcode()].Add(1)
	if p.Rewritten {
		f.steered.Add(1)
	}
	q.ttl = p.Remaining(now)
	return p.AppendTo(dst, asked, now)
}

// fail appends a response without records.
func (f *forwarder) fail(asked *wire.Query, dst []byte, rcode uint16, e wire.EDE) []byte {
	asked.IdleTimeout = f.idle
	f.responses[min(rcode, 16)].Add(1)
	return asked.AppendError(dst, rcode, e)
}
