package resolver

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
	"github.com/cfrd-project/cfrd/resolver/steer"
	"github.com/cfrd-project/cfrd/resolver/upstream"
)

// resolverHandler is the handler behind every listener. In this order a query meets: the header's sanity, who may
// ask, the rest of the message, local sources, the cache, the upstreams, steering. On the way to a cached reply it
// meets the same, but for the local sources, which have said before that they have no answer.
type resolverHandler struct {
	// set once
	log       zerolog.Logger
	tasks     tasks
	stop      context.CancelFunc
	upstreams *upstream.Group
	idle      uint16 // of connections, in units of 100 ms
	cache     *cache
	flights   flights

	settings atomic.Pointer[settings]
	mu       sync.Mutex // serializes update

	queries     [NumTransports]atomic.Uint64
	responses   [17]atomic.Uint64
	misses      atomic.Uint64
	steered     atomic.Uint64
	steerFailed atomic.Uint64
}

// newHandler validates the part of cfg that answers depend on.
func newHandler(cfg *Config) (*resolverHandler, error) {
	if cfg.CacheBytes < 0 {
		return nil, fmt.Errorf("negative cache size %d", cfg.CacheBytes)
	}
	h := &resolverHandler{
		log:   cfg.Log,
		idle:  uint16(min(cmp.Or(cfg.Limits.IdleTimeout, 10*time.Second)/(100*time.Millisecond), 0xffff)),
		cache: newCache(cmp.Or(cfg.CacheBytes, DefaultCacheBytes)),
	}
	h.tasks.ctx, h.stop = context.WithCancel(context.Background())
	h.upstreams = upstream.NewGroup(h.tasks.ctx, h.cache.now, cfg.Log)
	h.flights = flights{
		tasks:   &h.tasks,
		timeout: cmp.Or(cfg.Limits.QueryTimeout, defaultQueryTimeout),
		m:       make(map[string]*flight),
	}
	return h, h.update(cfg.Settings)
}

// run waits until ctx is done, ends all work for upstreams, and waits for that. Listeners must have ended before
// ctx does.
func (h *resolverHandler) run(ctx context.Context) error {
	<-ctx.Done()
	h.stop()
	h.tasks.wg.Wait()
	h.upstreams.Wait()
	return nil
}

// update replaces the settings. On an error the old ones stay.
func (h *resolverHandler) update(set Settings) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.settings.Load()
	s, err := h.newSettings(&set, old)
	if err != nil {
		return err
	}
	h.settings.Store(s)
	if old != nil {
		old.upstreams.Retire(s.upstreams)
	}
	return nil
}

// stats sets what the handler counts in s: queries, responses, cache, steering, upstreams.
func (h *resolverHandler) stats(s *Stats) {
	for i := range h.queries {
		s.Queries[i] = h.queries[i].Load()
	}
	for i := range h.responses {
		s.Responses[i] = h.responses[i].Load()
	}
	s.CacheBytes, s.Entries, s.CacheHits = h.cache.stats()
	s.CacheMisses = h.misses.Load()
	s.Steered, s.SteerFailed = h.steered.Load(), h.steerFailed.Load()
	s.Upstreams = h.settings.Load().upstreams.Stats()
}

// serves implements handler.
func (h *resolverHandler) serves(client netip.Addr) bool {
	return h.settings.Load().clients.contains(client)
}

// answerNow implements handler.
func (h *resolverHandler) answerNow(q *query, dst []byte) ([]byte, outcome) {
	var r wire.Query
	if !r.Parse(q.msg, channels[q.transport]) {
		return dst, dropped
	}
	h.queries[q.transport].Add(1)
	q.ttl = 0
	set := h.settings.Load()
	client := set.clients.contains(q.client.Addr())
	if !client && (r.Rcode != 0 || !set.public.claims(&r.Key)) {
		return h.fail(&r, dst, dns.RcodeRefused, wire.EDEProhibited), answered
	}
	if r.Rcode != 0 {
		return h.fail(&r, dst, r.Rcode, r.EDE), answered
	}
	now := h.cache.now()
	recursion := client && r.RecursionDesired()
	if recursion {
		if p := h.cache.lookup(&r.Key, set.view(q.client.Addr(), &r), set.gen, now); p != nil {
			return h.reply(q, &r, p, dst, now), answered
		}
	}
	p, known := h.known(set, &r, q, client)
	switch {
	case recursion && (!known || endsWithCNAME(p)):
		return dst, pending
	case known:
		return h.reply(q, &r, p, dst, now), answered
	case client:
		// What others asked for is nobody's business, so that the cache is not for looking around in.
		return h.fail(&r, dst, dns.RcodeRefused, wire.EDENotAuthoritative), answered
	}
	return h.fail(&r, dst, dns.RcodeRefused, wire.EDEProhibited), answered // nothing is public about the name after all
}

// known returns the answer to r that needs no upstream, or at least the beginning of it. It is looked for before a
// query has to wait, so that such answers are given also when no more queries may.
func (h *resolverHandler) known(set *settings, r *wire.Query, q *query, client bool) (*wire.Response, bool) {
	p, ok := h.local(set, &r.Key, q)
	if !ok && client && r.Key.Type() == dns.TypeANY {
		return wire.MinimalAny(&r.Key, h.cache.now()), true
	}
	return p, ok
}

// answer implements handler.
func (h *resolverHandler) answer(ctx context.Context, q *query, dst []byte) []byte {
	var r wire.Query
	r.Parse(q.msg, channels[q.transport])
	set := h.settings.Load()
	if p, ok := h.local(set, &r.Key, q); ok {
		p, err := h.complete(ctx, set, &r, q, p)
		if err != nil {
			p = wire.Failure(&r.Key, edeOf(err), 0, h.cache.now())
		}
		return h.reply(q, &r, p, dst, h.cache.now())
	}
	h.misses.Add(1)
	p, err := h.resolve(ctx, set, &r, q)
	now := h.cache.now()
	if err != nil {
		p = wire.Failure(&r.Key, edeOf(err), 0, now)
	}
	return h.reply(q, &r, p, dst, now)
}

// reply appends p as the answer to q.
func (h *resolverHandler) reply(q *query, r *wire.Query, p *wire.Response, dst []byte, now int64) []byte {
	r.IdleTimeout = h.idle
	h.responses[p.Rcode()].Add(1)
	if p.Rewritten {
		h.steered.Add(1)
	}
	q.ttl = p.Remaining(now)
	return p.AppendTo(dst, r, now)
}

// fail appends an answer without records.
func (h *resolverHandler) fail(r *wire.Query, dst []byte, rcode uint16, e wire.EDE) []byte {
	r.IdleTimeout = h.idle
	h.responses[min(rcode, 16)].Add(1)
	return r.AppendError(dst, rcode, e)
}

// local returns the answer of the first local source that has one for k, asked by the client of q.
func (h *resolverHandler) local(set *settings, k *wire.Key, q *query) (*wire.Response, bool) {
	sources := set.localFor(q.client.Addr())
	if len(sources) == 0 {
		return nil, false
	}
	name, _, err := dns.UnpackDomainName(k.Bytes(), 0)
	if err != nil {
		return nil, false
	}
	question := dns.Question{Name: name, Qtype: k.Type(), Qclass: dns.ClassINET}
	for _, l := range sources {
		m, ok := l.Answer(question, q.client.Addr().WithZone(""), q.local.Addr().WithZone(""))
		if ok {
			p, err := h.pack(k, m, question)
			if err != nil {
				h.log.Error().Err(err).Msg("local source gave an answer that cannot be sent")
				p = wire.Failure(k, wire.EDEInvalidData, 0, h.cache.now())
			}
			return p, true
		}
	}
	return nil, false
}

// pack brings the answer of a local source into the form of all others.
func (h *resolverHandler) pack(k *wire.Key, m *dns.Msg, question dns.Question) (*wire.Response, error) {
	m.MsgHdr = dns.MsgHdr{Response: true, Authoritative: m.Authoritative, Rcode: m.Rcode}
	m.Question = []dns.Question{question}
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return wire.HopByHop(rr.Header().Rrtype) })
	m.Compress = true
	octets, err := m.Pack()
	if err != nil {
		return nil, err
	}
	p, err := wire.NewResponse(octets, k, h.cache.now())
	if err == nil && m.Authoritative {
		p.SetAuthoritative()
	}
	return p, err
}

// resolve returns the answer to r from the cache or the upstreams, steered if its client is to see that.
func (h *resolverHandler) resolve(ctx context.Context, set *settings, r *wire.Query, q *query) (*wire.Response, error) {
	v := set.view(q.client.Addr(), r)
	if v == viewRaw {
		return h.fetch(ctx, set, &r.Key)
	}
	client := *q // outlives the listener's
	client.msg = nil
	k := r.Key
	return h.flights.do(ctx, flightName(set.gen, v, &k), func(ctx context.Context) (*wire.Response, error) {
		return h.steer(ctx, set, &k, &client)
	})
}

// fetch returns the unsteered answer to k from the cache or the upstreams.
func (h *resolverHandler) fetch(ctx context.Context, set *settings, k *wire.Key) (*wire.Response, error) {
	if p := h.cache.raw(k, set.gen, h.cache.now()); p != nil {
		return p, nil
	}
	copied := *k
	return h.flights.do(ctx, flightName(set.gen, viewRaw, k), func(ctx context.Context) (*wire.Response, error) {
		p, err := set.upstreams.Resolve(ctx, &copied)
		switch {
		case err == nil:
		case ctx.Err() == context.Canceled: // nobody waits, so that it may not even have been asked
			return nil, err
		default:
			p = wire.Failure(&copied, edeOf(err), unansweredTTL, h.cache.now())
		}
		h.cache.insert(&copied, set.gen, p)
		return p, nil
	})
}

// steer returns what clients that may use the relay get as the answer to k, and has the cache keep it.
func (h *resolverHandler) steer(ctx context.Context, set *settings, k *wire.Key, q *query) (*wire.Response, error) {
	raw, err := h.fetch(ctx, set, k)
	if err != nil {
		return nil, err
	}
	now := h.cache.now()
	until := now + int64(set.steering.MaxTTL())
	if raw.Rcode() != dns.RcodeSuccess {
		h.cache.insertSteered(k, set.gen, raw, nil, until)
		return raw, nil
	}
	out, v, err := h.applySteering(ctx, set, k.Flags, q, raw.Octets(now))
	if err != nil {
		return nil, err
	}
	if v == steer.Untouched {
		h.cache.insertSteered(k, set.gen, raw, nil, until)
		return raw, nil
	}
	p, err := wire.NewResponse(out, k, now)
	if err != nil {
		return nil, err
	}
	p.EDE, p.Rewritten = raw.EDE, v == steer.Steered
	h.cache.insertSteered(k, set.gen, raw, p, min(until, now+int64(p.TTL)*int64(time.Second)))
	return p, nil
}

// applySteering steers, and counts what failed.
func (h *resolverHandler) applySteering(ctx context.Context, set *settings, flags uint8, q *query, octets []byte) ([]byte, steer.Verdict, error) {
	out, v, err := set.steering.Apply(ctx, octets, h.beside(set, flags, q))
	if v == steer.Passed || errors.Is(err, steer.ErrRelayFailed) {
		h.steerFailed.Add(1)
	}
	return out, v, err
}

// beside returns the lookup for what steering the answer to the client of q depends on. It does not steer, so that
// nothing goes in circles, and takes DO and CD over, so that what it finds serves the client's own question as well.
func (h *resolverHandler) beside(set *settings, flags uint8, q *query) steer.Lookup {
	return func(ctx context.Context, name string, qtype uint16) ([]byte, error) {
		k, err := wire.NewKey(name, qtype, flags)
		if err != nil {
			return nil, err
		}
		p, local, err := h.source(ctx, set, k, q)
		if err != nil {
			return nil, err
		}
		octets := p.Octets(h.cache.now())
		if local {
			octets, _, err = h.follow(ctx, set, flags, q, octets)
		}
		return octets, err
	}
}

// flightName returns the name under which the work for a question is shared.
func flightName(gen uint32, v view, k *wire.Key) string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 6+len(k.Bytes())), gen)
	return string(append(append(b, byte(v), k.Flags), k.Bytes()...))
}

// unansweredTTL, in seconds, keeps a question that no upstream answered from being asked again by every retry. It is
// shorter than that for a failure that an upstream has stated, because it ends when an upstream is back. See RFC 9520,
// Section 3.2.
const unansweredTTL = 1

// ExtendedErrors returns the info-codes that a Server says of itself; upstreams may say others. See RFC 9606, Section 5.
func ExtendedErrors() []uint16 {
	return []uint16{
		uint16(wire.EDENotReady), uint16(wire.EDEProhibited), uint16(wire.EDENotAuthoritative), uint16(wire.EDENoReachable),
		uint16(wire.EDENetwork), uint16(wire.EDEInvalidData), uint16(wire.EDEInvalidType),
	}
}

// edeOf returns what clients are told about err.
func edeOf(err error) wire.EDE {
	var network net.Error
	switch {
	case errors.Is(err, steer.ErrRelayFailed):
		return wire.EDENotReady
	case errors.Is(err, wire.ErrMalformed):
		return wire.EDEInvalidData
	case errors.As(err, &network) && !network.Timeout():
		return wire.EDENetwork
	}
	return wire.EDENoReachable
}
