package relay

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// flowKey is what makes a UDP flow: its 5-tuple on the client's side.
type flowKey struct {
	client netip.AddrPort
	local  netip.AddrPort // the relay address and port that the client asked
}

// stage is how much is known about who is at the client's address. A flow only ever moves up.
type stage uint8

const (
	// unanswered flows have brought nothing back from the destination.
	unanswered stage = iota
	// answered flows have, but whether it reached the one who asked is not known.
	answered
	// confirmed flows have shown traffic in both directions.
	confirmed

	stageCount
)

// What it takes to confirm a client.
//
// UDP proves no source address, and whoever forges one makes the relay send to a victim. Until a flow is confirmed
// at most amplification times as many bytes go back as came, as QUIC servers do towards an address they have not
// validated. See RFC 9000, Section 8.1.
//
// A round is a delivery to the client and then a datagram from it. A relay that reads nothing cannot tell one that
// answers the delivery from one that a forger sends blindly at the right moment, so a round proves something only
// together with who else checks the client:
//
//   - A destination that has kept within the bound by itself is taken to validate the client, as QUIC and DTLS do.
//     What it asks the client to return goes to the client's address alone, so a forger, who does not see it, never
//     gets beyond that destination's own bound, confirmed here or not. One round is enough, and more would cut the
//     first window of data after QUIC's handshake.
//   - A destination that has tried to exceed the bound may be one that answers anyone, which is what reflection
//     needs: a forged datagram by itself brings three times its bytes and no more. The flow takes suspectRounds,
//     each within the bound. It is not more because a QUIC client with an address token, whose server may exceed the
//     bound at once, is sure to send two datagrams of 1200 bytes, but nothing more of size.
//
// A forger who goes through the rounds has spent a round trip on each, and has a destination that answers anyone
// answer him. He would have had that more cheaply by forging the same datagrams to the destination itself: the relay
// adds nothing to it. It also ends with what he sends, as nothing that arrives keeps a flow alive, see outbound.
const (
	amplification = 3
	suspectRounds = 2
)

// headerBytes is the least that a datagram counts for, so that empty ones are not free: the headers of IPv4 and UDP.
const headerBytes = 28

// RFC 4787, REQ-5, wants a mapping to last two minutes or more, but allows less where the destination's port is a
// well-known one, see leastIdle. Flows that were never answered are what a flood leaves behind, so those make use of it.
const (
	unansweredIdle = 30 * time.Second
	wellKnownPorts = 1024
)

// flow is a UDP flow.
type flow struct {
	key flowKey // set once

	// Guarded by mu of the shard.
	stage   stage
	listed  bool
	suspect bool   // the destination has tried to exceed the bound
	pending bool   // something was delivered since the last datagram from the client
	rounds  uint8  // of delivery and datagram
	sent    uint64 // bytes by the client
	got     uint64 // bytes delivered to the client while it was not confirmed
	since   time.Duration
	prev    *flow // or nil
	next    *flow // or nil

	upstream
}

// flowTable holds UDP flows to ports with the same idle times. It uses neither sockets nor clocks: the caller acts on
// what a method returns, and passes the time, counted from any fixed moment. It is safe for concurrent use.
type flowTable struct {
	// Set once by newFlowTable.
	seed uint64
	idle [stageCount]time.Duration

	shards [1 << shardBits]flowShard
}

const shardBits = 4

// flowShard has the flows of a part of the clients; all flows of a client are in one.
type flowShard struct {
	mu     sync.Mutex
	flows  map[flowKey]*flow
	stages [stageCount]flowList // each in the order of since
	_      [64]byte             // keeps the locks apart in the caches
}

// newFlowTable returns a table of flows to ports such as port, which last for idle after the client's last datagram.
func newFlowTable(port uint16, idle time.Duration) *flowTable {
	t := &flowTable{seed: rand.Uint64()}
	t.idle = [stageCount]time.Duration{leastIdle, leastIdle, idle}
	if port < wellKnownPorts {
		t.idle[unanswered] = unansweredIdle
	}
	for i := range t.shards {
		t.shards[i].flows = make(map[flowKey]*flow)
	}
	return t
}

// shard returns where the flows of a client are. Clients that limits count as one share a shard.
func (t *flowTable) shard(client netip.Addr) *flowShard {
	b := client.As16()
	x := binary.LittleEndian.Uint64(b[:8])
	if client.Is4() {
		x = binary.LittleEndian.Uint64(b[8:])
	}
	return &t.shards[(x^t.seed)*0x9e3779b97f4a7c15>>(64-shardBits)]
}

// outbound notes n bytes from the client and returns their flow, or nil if there is none. Only this keeps a flow
// alive: what arrives from the destination must not. See RFC 7857, Section 7.
func (t *flowTable) outbound(key flowKey, n int, now time.Duration) *flow {
	s := t.shard(key.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[key]
	if f == nil {
		return nil
	}
	f.sent += charge(n)
	s.move(f, f.afterDatagram(), now)
	return f
}

// afterDatagram notes a datagram from the client and returns the stage that f has reached by it.
func (f *flow) afterDatagram() stage {
	if f.stage != answered || !f.pending {
		return f.stage
	}
	f.pending = false
	f.rounds++
	if f.suspect && f.rounds < suspectRounds {
		return answered
	}
	return confirmed
}

// inbound notes n bytes from the destination, in datagrams of size bytes of which the last may be shorter, and
// returns how many of the bytes may go to the client: whole datagrams, from the first on. ok is false if none may.
// Of all that arrives only the first has the flow's time begin anew, once, as it comes to another stage.
func (t *flowTable) inbound(f *flow, n, size int, now time.Duration) (allowed int, ok bool) {
	s := t.shard(f.key.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.stage == confirmed || !f.listed:
		return n, true
	case f.stage == unanswered:
		s.move(f, answered, now)
	}
	allowed, ok = f.allow(n, size)
	f.pending = f.pending || ok
	return allowed, ok
}

// declined notes that the client's own system, or a router on the way to it, has said that what is sent there cannot
// arrive, and returns the flow, or nil. Who forges a client's address does not get by with that for long: what a flow
// that is not confirmed may still bring is forfeited. One that is confirmed goes on. See RFC 4787, REQ-12.
func (t *flowTable) declined(key flowKey) *flow {
	s := t.shard(key.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[key]
	if f != nil {
		f.got = amplification * f.sent
	}
	return f
}

// allow takes what it can of n bytes, in datagrams of size bytes, from the allowance.
func (f *flow) allow(n, size int) (allowed int, ok bool) {
	count := max(1, (n+size-1)/max(1, size))
	each, last := charge(size), charge(n-(count-1)*size)
	left := amplification*f.sent - f.got
	if cost := uint64(count-1)*each + last; cost <= left {
		f.got += cost
		return n, true
	}
	f.suspect = true
	fit := left / each
	f.got += fit * each
	return int(fit) * size, fit > 0
}

// charge returns what a datagram of n bytes counts for.
func charge(n int) uint64 { return uint64(max(n, headerBytes)) }

// add adds f, begun by n bytes. If there is a flow of this key already that one is returned instead.
func (t *flowTable) add(f *flow, n int, now time.Duration) *flow {
	s := t.shard(f.key.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.flows[f.key]; other != nil {
		return other
	}
	s.flows[f.key] = f
	f.listed, f.sent, f.since = true, charge(n), now
	s.stages[f.stage].pushBack(f)
	return f
}

// remove removes f and reports whether it was there.
func (t *flowTable) remove(f *flow) bool {
	s := t.shard(f.key.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(f)
}

// expire removes the flows whose time is over and appends them to expired.
func (t *flowTable) expire(now time.Duration, expired []*flow) []*flow {
	for i := range t.shards {
		expired = t.shards[i].expire(now, &t.idle, expired)
	}
	return expired
}

// clear removes all flows and returns them.
func (t *flowTable) clear() []*flow {
	const never = 1<<63 - 1
	return t.expire(never, nil)
}

// evict removes and returns the flow that a new one may take the place of, or nil. Those that were never answered go
// first, the oldest of them before all, because a flood of forged datagrams leaves these; then those that are not
// confirmed. Confirmed ones never go. The tables must share a clock.
func evict(tables []*flowTable) *flow {
	for st := range confirmed {
		var found *flowShard
		var oldest time.Duration
		for _, t := range tables {
			if s, since := t.oldest(st); s != nil && (found == nil || since < oldest) {
				found, oldest = s, since
			}
		}
		if found != nil {
			return found.removeFirst(st)
		}
	}
	return nil
}

// oldest returns the shard with the oldest flow of a stage, or nil, and since when that is in it.
func (t *flowTable) oldest(st stage) (found *flowShard, since time.Duration) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		if f := s.stages[st].first; f != nil && (found == nil || f.since < since) {
			found, since = s, f.since
		}
		s.mu.Unlock()
	}
	return found, since
}

// evictOf is evict among the flows of one client, as limits count clients: without it, a forger could keep a client
// from the relay by filling its share.
func evictOf(tables []*flowTable, client netip.Addr) *flow {
	for st := range confirmed {
		for _, t := range tables {
			if f := t.shard(client).removeOf(st, limitKey(client)); f != nil {
				return f
			}
		}
	}
	return nil
}

// move puts f at the end of a stage.
func (s *flowShard) move(f *flow, to stage, now time.Duration) {
	s.stages[f.stage].remove(f)
	f.stage, f.since = to, now
	s.stages[to].pushBack(f)
}

func (s *flowShard) remove(f *flow) bool {
	if !f.listed {
		return false
	}
	f.listed = false
	s.stages[f.stage].remove(f)
	delete(s.flows, f.key)
	return true
}

func (s *flowShard) removeFirst(st stage) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.stages[st].first
	if f != nil {
		s.remove(f)
	}
	return f
}

// evictionWalk bounds how many flows are looked at in search of one of a certain client.
const evictionWalk = 1024

// removeOf removes and returns the first flow of a client in a stage. It may miss one among very many of others.
func (s *flowShard) removeOf(st stage, client netip.Addr) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.stages[st].first
	for range evictionWalk {
		if f == nil {
			return nil
		}
		if limitKey(f.key.client.Addr()) == client {
			s.remove(f)
			return f
		}
		f = f.next
	}
	return nil
}

func (s *flowShard) expire(now time.Duration, idle *[stageCount]time.Duration, expired []*flow) []*flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.stages {
		for f := s.stages[st].first; f != nil && now-f.since >= idle[st]; f = s.stages[st].first {
			s.remove(f)
			expired = append(expired, f)
		}
	}
	return expired
}

// flowList is a list through prev and next of its flows.
type flowList struct{ first, last *flow }

func (l *flowList) pushBack(f *flow) {
	f.prev, f.next = l.last, nil
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
}

func (l *flowList) remove(f *flow) {
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
}
