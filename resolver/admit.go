package resolver

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// maxMessage is the largest DNS message that a two-octet length can announce.
const maxMessage = wire.MaxMessage

// frontend is what all listeners of a Server share: the handler that has the responses, and the limits on what reaches it.
type frontend struct {
	// set once by newServer
	h      handler
	limits Limits
	log    zerolog.Logger

	stopping chan struct{} // closed when the listeners are to end

	conns connLimit
	slots slots
	jobs  sync.Pool // of *job

	shed        atomic.Uint64
	connections [NumTransports]atomic.Int64
	refused     [NumTransports]atomic.Uint64
}

func newFrontend(h handler, l Limits, log zerolog.Logger) *frontend {
	return &frontend{
		h:      h,
		limits: l,
		log:    log,

		stopping: make(chan struct{}),

		conns: connLimit{max: l.Connections, perClient: l.ConnectionsPerClient, clients: make(map[netip.Addr]int)},
		slots: slots{max: l.InFlight, perClient: l.InFlightPerClient, clients: make(map[netip.Addr]int)},
		jobs:  sync.Pool{New: func() any { return new(job) }},
	}
}

// admit takes a connection of peer into account, or refuses it. Whoever was admitted calls leave, once, in the end.
func (f *frontend) admit(t Transport, peer netip.Addr) (leave func(), ok bool) {
	outsider := !f.h.serves(peer) // the settings may change while the connection lasts
	if !f.conns.take(peer, outsider) {
		f.refused[t].Add(1)
		return nil, false
	}
	f.connections[t].Add(1)
	return func() {
		f.conns.give(peer, outsider)
		f.connections[t].Add(-1)
	}, true
}

// nearLimit reports whether peer is to prove its address before it gets a connection, because few more are left for it.
func (f *frontend) nearLimit(peer netip.Addr) bool { return f.conns.nearLimit(peer, !f.h.serves(peer)) }

// takeSlot takes the right of client to let one more query wait for an upstream. It is taken before a goroutine is
// started, so that what a flood can make us hold is bounded by Limits.InFlight. Whoever has it calls answerWaiting, which
// gives it back.
func (f *frontend) takeSlot(client netip.Addr) bool {
	if f.slots.take(clientKey(client)) {
		return true
	}
	f.shed.Add(1)
	return false
}

func (f *frontend) giveSlot(client netip.Addr) { f.slots.give(clientKey(client)) }

// answerWaiting answers q, for whose client takeSlot has been called, with the help of upstreams, and gives the slot back.
// It is free before the response is written, which can take as long as the client likes to read nothing.
func (f *frontend) answerWaiting(ctx context.Context, q *query, dst []byte) []byte {
	defer f.giveSlot(q.client.Addr())
	return f.wait(ctx, q, dst)
}

// wait has q answered by upstreams, in the time that a query may take.
func (f *frontend) wait(ctx context.Context, q *query, dst []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, f.limits.QueryTimeout)
	defer cancel()
	return f.h.answer(ctx, q, dst)
}

// job is a query with buffers of its own, so that it can outlive the buffer it was read into.
type job struct {
	q     query
	msg   []byte
	reply []byte
	back  returnPath // UDP only
}

// maxPooled is the largest buffer kept for reuse, twice a burst: nearly every message is smaller, and one client's large
// ones must not stay behind in the pool.
const maxPooled = 2 * burstSize

// newJob returns a job that holds a copy of q and its message, and takes over what was decided about q.
func (f *frontend) newJob(q *query) *job {
	j := f.jobs.Get().(*job)
	j.q = *q
	q.decision = nil
	j.msg = append(j.msg[:0], q.msg...)
	j.q.msg = j.msg
	return j
}

// free ends j, whose buffers may be reused at once.
func (f *frontend) free(j *job) {
	if cap(j.msg) > maxPooled {
		j.msg = nil
	}
	if cap(j.reply) > maxPooled {
		j.reply = nil
	}
	f.jobs.Put(j)
}

// connLimit counts connections, in all and per client. Outsiders, whose queries are refused, count as clients do, but have
// a small share of all connections, so that they never keep clients out.
type connLimit struct {
	max, perClient int

	mu        sync.Mutex
	total     int
	outsiders int                // of total
	clients   map[netip.Addr]int // by clientKey; never 0
}

// outsidersShare is the part of all connections that outsiders may have: a 16th.
const outsidersShare = 16

// maxOutsiders returns how many connections outsiders may have: at least one, over which they learn that they are refused.
func (l *connLimit) maxOutsiders() int { return max(1, l.max/outsidersShare) }

func (l *connLimit) take(client netip.Addr, outsider bool) bool {
	key := clientKey(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.clients[key] >= l.perClient || outsider && l.outsiders >= l.maxOutsiders() {
		return false
	}
	l.total++
	if outsider {
		l.outsiders++
	}
	l.clients[key]++
	return true
}

func (l *connLimit) give(client netip.Addr, outsider bool) {
	key := clientKey(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if outsider {
		l.outsiders--
	}
	if l.clients[key]--; l.clients[key] == 0 {
		delete(l.clients, key)
	}
}

// nearLimit reports whether client has half of the connections that it may have, or everybody together half of all, or
// the outsiders half of theirs if client is one.
func (l *connLimit) nearLimit(client netip.Addr, outsider bool) bool {
	key := clientKey(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total >= (l.max+1)/2 || l.clients[key] >= (l.perClient+1)/2 ||
		outsider && l.outsiders >= (l.maxOutsiders()+1)/2
}

// clientKey is what counts as one client: an IPv4 address, or the /64 that one customer has at least in IPv6.
func clientKey(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return addr
	}
	p, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// slots counts the queries that wait for upstreams, in all and per client: a client that asks for names that nobody
// answers must not keep others from asking.
type slots struct {
	max, perClient int // set once

	mu      sync.Mutex
	used    int
	clients map[netip.Addr]int // by clientKey; never 0
}

func (s *slots) take(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.max || s.clients[client] >= s.perClient {
		return false
	}
	s.used++
	s.clients[client]++
	return true
}

func (s *slots) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.clients[client]--; s.clients[client] == 0 {
		delete(s.clients, client)
	}
}

// inUse returns how many slots are taken.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// bareAddrPort returns ap as handlers get it: IPv4 is never mapped into IPv6, and there is no zone, because no
// netip.Prefix contains an address with one.
func bareAddrPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// appendOverload appends the response to a query that cannot wait, because too many do.
func appendOverload(dst []byte, q *query) []byte {
	var r wire.Query
	if !r.Parse(q.msg, channels[q.transport]) {
		return dst
	}
	return r.AppendError(dst, dns.RcodeServerFailure, wire.NoEDE)
}
