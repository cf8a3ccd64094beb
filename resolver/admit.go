package resolver

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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

	conns *connTable
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

		conns: newConnTable(&l),
		slots: slots{max: l.InFlight, levels: l.completePrefixes(), shared: newSharing(&l), used: make(map[netip.Prefix]int)},
		jobs:  sync.Pool{New: func() any { return new(job) }},
	}
}

// admit takes a connection of peer into account, or returns nil to refuse it. Whoever was admitted calls leave in the
// end, and says with endBy how the connection can be ended meanwhile.
// Over TCP there is no handshake that costs anything.
func (f *frontend) admit(t Transport, peer netip.Addr) *connection {
	if t != TCP && !f.h.affords(peer, proven) {
		f.refused[t].Add(1)
		return nil
	}
	return f.take(t, peer)
}

// take is admit without the cost of a handshake.
func (f *frontend) take(t Transport, peer netip.Addr) *connection {
	c := f.conns.take(t, peer, !f.h.serves(peer))
	if c == nil {
		f.refused[t].Add(1)
		return nil
	}
	f.connections[t].Add(1)
	return c
}

// leave ends the account of a connection that was admitted. It is called once.
func (f *frontend) leave(c *connection) {
	c.leave()
	f.connections[c.transport].Add(-1)
}

// idleTime returns how long a connection may be idle now.
func (f *frontend) idleTime() time.Duration { return f.conns.idleTime(f.limits.IdleTimeout) }

// nearLimit reports whether peer is to prove its address before it gets a connection, because few more are left for it.
func (f *frontend) nearLimit(peer netip.Addr) bool { return f.conns.nearLimit(peer, !f.h.serves(peer)) }

// takeSlot takes the right of client to let one more query wait for an upstream. It is taken before a goroutine is
// started, so that what a flood can make us hold is bounded by Limits.InFlight. Whoever has it calls answerWaiting, which
// gives it back.
func (f *frontend) takeSlot(client netip.Addr) bool {
	if f.slots.take(client) {
		return true
	}
	f.shed.Add(1)
	return false
}

func (f *frontend) giveSlot(client netip.Addr) { f.slots.give(client) }

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

// slots counts the queries that wait for upstreams, in all and for each of the prefixes that a client is in: a client
// that asks for names that nobody answers must not keep others from asking.
type slots struct {
	// set once
	max    int
	levels []PrefixLimit
	shared sharing

	mu    sync.Mutex
	total int
	used  map[netip.Prefix]int // never 0
}

func (s *slots) take(client netip.Addr) bool {
	times := s.shared.times(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.max {
		return false
	}
	for i := range s.levels {
		if p, ok := s.levels[i].prefix(client); ok && s.used[p] >= times*s.levels[i].InFlight {
			return false
		}
	}
	s.total++
	for i := range s.levels {
		if p, ok := s.levels[i].prefix(client); ok {
			s.used[p]++
		}
	}
	return true
}

func (s *slots) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	for i := range s.levels {
		p, ok := s.levels[i].prefix(client)
		if !ok {
			continue
		}
		if s.used[p]--; s.used[p] == 0 {
			delete(s.used, p)
		}
	}
}

// inUse returns how many slots are taken.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
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
