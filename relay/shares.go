package relay

import (
	"container/heap"
	"net/netip"
	"sync"
	"sync/atomic"
)

// stage is how much is known about who is at the client's address of a flow. A flow only ever moves up.
type stage uint8

const (
	// unanswered flows have brought nothing back from the destination. Dials are such.
	unanswered stage = iota
	// answered flows have, but whether it reached the one who asked is not known.
	answered
	// confirmed flows have shown traffic in both directions. All TCP flows are, once they are connected.
	confirmed

	stageCount
)

// kind is what holders are weighed by: places whose flows are confirmed, and those whose are not.
type kind int

const (
	pending kind = iota
	settled

	kindCount
)

func kindOf(st stage) kind {
	if st == confirmed {
		return settled
	}
	return pending
}

// pendingWeight is how many confirmed places one that is not confirmed weighs as much as. What a flood leaves behind
// thus gives way before a client that has many flows in use.
const pendingWeight = 8

// shares are the places for flows of one kind, and who holds them. When all are taken, who holds most gives way.
//
// Who that is depends on whom one takes for a client: a customer may have one IPv6 /64, or a /56 with 256 of them. So
// each place counts for every prefix around its client that is configured, and a prefix that is 2^n times as large as
// the narrowest may hold 2^(n/2) times as much before it is held to be as heavy: halfway between one client and as many
// clients as there are narrow prefixes in it. Prefixes are a tree, in which each holder knows its heaviest part.
type shares struct {
	// Set once by newShares.
	limit     int
	perClient int    // of the narrowest prefix
	widths    widths // of holders
	reserve   int    // the most places that may be leaving

	active  atomic.Int64
	gaveWay atomic.Uint64 // places that were taken from their holder for another one

	mu      sync.Mutex
	root    holder
	holders map[netip.Prefix]*holder // only those that hold places
	leaving int                      // places that were taken from flows which have not ended yet

	// Kept for reuse, so that a flow allocates none.
	sparePlaces  []*place
	spareHolders []*holder
}

// reserveShare is which part of all places may be taken from flows that have not ended yet, and leastReserve how many at
// least: a TCP flow ends after its reset has settled, and has its descriptors until then. Half of them are for clients
// that take nothing from their own network: one that floods must not use up the others' way in.
const (
	reserveShare = 16
	leastReserve = 4
)

func newShares(limit, perClient int, widths widths) *shares {
	return &shares{
		limit:     limit,
		perClient: perClient,
		widths:    widths,
		reserve:   reserveOf(limit),
		root:      holder{shift: 63, parts: newParts()},
		holders:   make(map[netip.Prefix]*holder),
	}
}

// reserveOf returns how many of so many places may be leaving.
func reserveOf(limit int) int { return max(leastReserve, limit/reserveShare) }

// place is one flow's.
type place struct {
	// Guarded by mu of shares.
	leaf       *holder // whose narrowest prefix the client is in
	stage      stage
	end        func() // ends the flow; nil before attach
	evicted    bool   // the place is another's already
	prev, next *place
}

// holder is a prefix that holds places.
type holder struct {
	prefix netip.Prefix
	parent *holder // the next wider prefix; nil for the root, which stands for all
	shift  uint    // by how much its weight is reduced for its size

	held   [kindCount]int
	places [stageCount]placeList // of the narrowest prefixes; those that can be ended, the oldest first

	peak  [kindCount]uint64     // the largest weight of it and its parts
	parts [kindCount]holderHeap // the largest peak first
	index [kindCount]int        // in those of parent
}

// take takes a place for client, one that gives way if there is no other. It returns false if there is none.
func (s *shares) take(client netip.Addr) (*place, bool) {
	p, end, ok := s.replace(client)
	if end != nil {
		end()
	}
	return p, ok
}

// replace is take, but for ending the flow that gives way, which needs other locks.
func (s *shares) replace(client netip.Addr) (p *place, end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	victim, ok := s.findLocked(client)
	if !ok {
		return nil, nil, false
	}
	if victim != nil {
		end = victim.end
		victim.evicted = true
		s.vacateLocked(victim)
		s.leaving++
		s.gaveWay.Add(1)
	}
	p = s.newPlaceLocked()
	p.leaf = s.leafLocked(client)
	s.active.Add(1)
	p.leaf.count(pending, 1)
	return p, end, true
}

// free reports whether take would find a place.
func (s *shares) free(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.findLocked(client)
	return ok
}

// findLocked returns whose place a flow of client may have: nil if there is an unused one. Confirmed flows give way to
// clients only that hold less, and never to their own client.
func (s *shares) findLocked(client netip.Addr) (*place, bool) {
	var p *place
	if own := s.holders[s.widths.narrowest(client)]; own != nil && own.all() >= s.perClient {
		p = own.unconfirmed()
	} else if !s.full() {
		return nil, true
	} else if pendingWeight*s.root.peak[pending] >= s.root.peak[settled] {
		p = s.root.heaviest(pending).unconfirmed()
	} else if leaf := s.root.heaviest(settled); s.holdsMoreLocked(leaf, client) {
		p = leaf.places[confirmed].last
	}
	if p == nil || s.leaving >= s.reserve || s.leaving >= s.reserve/2 && s.widths.widest(client).Contains(p.leaf.prefix.Addr()) {
		return nil, false
	}
	return p, true
}

// full reports whether every place is taken.
func (s *shares) full() bool { return int(s.active.Load()) >= s.limit }

// holdsMoreLocked reports whether leaf, or a prefix around it, holds more than client would with one more place. Prefixes
// that both are in do not count.
func (s *shares) holdsMoreLocked(leaf *holder, client netip.Addr) bool {
	theirs, own := 0, 0
	for h := leaf; h.parent != nil && !h.prefix.Contains(client); h = h.parent {
		theirs = max(theirs, h.all()>>h.shift)
	}
	for i := range s.widths.of(client) {
		prefix, shift := s.widths.at(client, i)
		if prefix.Contains(leaf.prefix.Addr()) {
			break
		}
		held := 1
		if h := s.holders[prefix]; h != nil {
			held += h.all()
		}
		own = max(own, held>>shift)
	}
	return theirs > own
}

// attach makes p one that may give way, by end. It must be called once at most.
func (s *shares) attach(p *place, end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.end = end
	p.leaf.places[p.stage].pushBack(p)
}

// move notes that the flow of p has come to a stage.
func (s *shares) move(p *place, to stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.evicted || p.stage == to {
		return
	}
	if p.end != nil {
		p.leaf.places[p.stage].remove(p)
		p.leaf.places[to].pushBack(p)
	}
	p.stage = to
	if to == confirmed {
		p.leaf.count(pending, -1)
		p.leaf.count(settled, 1)
	}
}

// release gives p back, whose flow has ended. It must be called once.
func (s *shares) release(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.evicted {
		s.leaving--
	} else {
		s.vacateLocked(p)
	}
	*p = place{}
	s.sparePlaces = append(s.sparePlaces, p)
}

// vacateLocked makes the place of p an unused one.
func (s *shares) vacateLocked(p *place) {
	if p.end != nil {
		p.leaf.places[p.stage].remove(p)
	}
	s.active.Add(-1)
	p.leaf.count(kindOf(p.stage), -1)
	for h := p.leaf; h.parent != nil && h.all() == 0; {
		parent := h.parent
		for k := range h.index {
			heap.Remove(&parent.parts[k], h.index[k])
		}
		delete(s.holders, h.prefix)
		*h = holder{parts: h.parts}
		s.spareHolders = append(s.spareHolders, h)
		h = parent
	}
}

func (s *shares) newPlaceLocked() *place {
	if n := len(s.sparePlaces); n > 0 {
		p := s.sparePlaces[n-1]
		s.sparePlaces = s.sparePlaces[:n-1]
		return p
	}
	return new(place)
}

// leafLocked returns the holder of the narrowest prefix of client.
func (s *shares) leafLocked(client netip.Addr) *holder {
	h := &s.root
	for i := len(s.widths.of(client)) - 1; i >= 0; i-- {
		h = s.childLocked(h, client, i)
	}
	return h
}

func (s *shares) childLocked(parent *holder, client netip.Addr, i int) *holder {
	prefix, shift := s.widths.at(client, i)
	if h := s.holders[prefix]; h != nil {
		return h
	}
	h := s.newHolderLocked()
	h.prefix, h.parent, h.shift = prefix, parent, shift
	s.holders[prefix] = h
	for k := range parent.parts {
		heap.Push(&parent.parts[k], h)
	}
	return h
}

func (s *shares) newHolderLocked() *holder {
	if n := len(s.spareHolders); n > 0 {
		h := s.spareHolders[n-1]
		s.spareHolders = s.spareHolders[:n-1]
		return h
	}
	return &holder{parts: newParts()}
}

// all returns how many places h holds.
func (h *holder) all() int { return h.held[pending] + h.held[settled] }

// count counts n places of h and all prefixes around it.
func (h *holder) count(k kind, n int) {
	for ; h != nil; h = h.parent {
		h.held[k] += n
		h.peak[k] = uint64(h.held[k]) << 24 >> h.shift
		if parts := h.parts[k].list; len(parts) > 0 {
			h.peak[k] = max(h.peak[k], parts[0].peak[k])
		}
		if h.parent != nil {
			heap.Fix(&h.parent.parts[k], h.index[k])
		}
	}
}

// heaviest returns the narrowest prefix that holds most within the heaviest one.
func (h *holder) heaviest(k kind) *holder {
	for len(h.parts[k].list) > 0 {
		h = h.parts[k].list[0]
	}
	return h
}

// unconfirmed returns the oldest place that was never answered, or else is not confirmed, or nil.
func (h *holder) unconfirmed() *place {
	if p := h.places[unanswered].first; p != nil {
		return p
	}
	return h.places[answered].first
}

// holderHeap is a heap of package container/heap, by the peak of one kind.
type holderHeap struct {
	kind kind
	list []*holder
}

func newParts() [kindCount]holderHeap { return [kindCount]holderHeap{{kind: pending}, {kind: settled}} }

func (l *holderHeap) Len() int           { return len(l.list) }
func (l *holderHeap) Less(i, j int) bool { return l.list[i].peak[l.kind] > l.list[j].peak[l.kind] }

func (l *holderHeap) Swap(i, j int) {
	l.list[i], l.list[j] = l.list[j], l.list[i]
	l.list[i].index[l.kind], l.list[j].index[l.kind] = i, j
}

func (l *holderHeap) Push(h any) {
	h.(*holder).index[l.kind] = len(l.list)
	l.list = append(l.list, h.(*holder))
}

func (l *holderHeap) Pop() any {
	n := len(l.list) - 1
	h := l.list[n]
	l.list[n] = nil
	l.list = l.list[:n]
	return h
}

// placeList is a list through prev and next of its places.
type placeList struct{ first, last *place }

func (l *placeList) pushBack(p *place) {
	p.prev, p.next = l.last, nil
	if l.last == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
}

func (l *placeList) remove(p *place) {
	if p.prev == nil {
		l.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		l.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
}
