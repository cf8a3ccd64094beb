package h2

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Memory bounds what all connections of servers keep for their clients together: bodies that are not whole or wait for
// an answer, header blocks and frames that are not whole, and responses that clients make no room for. Beyond the bound
// the connection that keeps most gives way, so that those who hold much pay and not those who come.
type Memory struct {
	max   int64 // set once
	total atomic.Int64

	mu    sync.Mutex
	conns map[*conn]struct{} // keep something
}

// NewMemory returns a bound of limit octets.
func NewMemory(limit int64) *Memory { return &Memory{max: limit, conns: make(map[*conn]struct{})} }

// Kept returns how many octets are kept.
func (m *Memory) Kept() int64 { return m.total.Load() }

// memoryShare is the part of the bound that is freed at once, so that not every octet beyond it has us look for the
// largest connection: a 16th.
const memoryShare = 16

var errGaveWay = errors.New("kept more than others when memory was short")

// kept returns what s keeps, besides what every connection has.
func (s *session) kept() int64 {
	bodies := s.srv.recvWindow() - s.recvWindow - s.credit // what the client has not got back of its window
	return int64(bodies + s.waiting + s.queued + cap(s.block))
}

// accountLocked brings what h keeps up to date. It is called with h.mu held.
func (h *conn) accountLocked() {
	m := h.srv.cfg.Memory
	if m == nil || h.err != nil {
		return
	}
	// What is being written is held twice, in the clear and in TLS records.
	n := h.session.kept() + int64(h.unread+2*h.sending+max(0, h.session.gathered()-burstSize))
	if n == h.kept.Load() {
		return
	}
	if m.set(h, n) > m.max {
		m.shed()
	}
}

// set notes that h keeps n octets, and returns what all keep.
func (m *Memory) set(h *conn, n int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.gone {
		return 0
	}
	if n == 0 {
		delete(m.conns, h)
	} else {
		m.conns[h] = struct{}{}
	}
	return m.total.Add(n - h.kept.Swap(n))
}

// leave forgets h. m may be nil.
func (m *Memory) leave(h *conn) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaveLocked(h)
}

func (m *Memory) leaveLocked(h *conn) {
	h.gone = true
	delete(m.conns, h)
	m.total.Add(-h.kept.Swap(0))
}

// shed ends the largest connections until there is room.
func (m *Memory) shed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.total.Load() > m.max-m.max/memoryShare && len(m.conns) > 0 {
		var largest *conn
		for h := range m.conns {
			if largest == nil || h.kept.Load() > largest.kept.Load() {
				largest = h
			}
		}
		m.leaveLocked(largest)
		go largest.giveWay()
	}
}

// giveWay ends h, which keeps too much.
func (h *conn) giveWay() {
	h.mu.Lock()
	h.failLocked(errGaveWay)
	h.mu.Unlock()
	h.lower.Close()
}
