package upstream

import "sync/atomic"

// DefaultSockets is how many sockets a group has at most unless it is told otherwise.
const DefaultSockets = 4096

// sockets counts the sockets of a group: those of queries over UDP, and connections.
type sockets struct {
	max         int64 // set once
	open, conns atomic.Int64
}

// reserve returns how many sockets are not for queries over UDP: three quarters of them are for connections, the others
// for probes.
func (s *sockets) reserve() int64 { return min(max(s.max/16, 16), 256, s.max/2) }

// take reports whether one more socket may be opened. If so, give must be called when it is closed.
func (s *sockets) take() bool { return below(&s.open, s.max) }

func (s *sockets) give() { s.open.Add(-1) }

// takeConn is take for a connection; giveConn is its give.
func (s *sockets) takeConn() bool {
	if !below(&s.conns, max(s.reserve()*3/4, 1)) {
		return false
	}
	if !s.take() {
		s.conns.Add(-1)
		return false
	}
	return true
}

func (s *sockets) giveConn() {
	s.conns.Add(-1)
	s.give()
}

// below adds 1 to n unless that makes it more than limit.
func below(n *atomic.Int64, limit int64) bool {
	if n.Add(1) <= limit {
		return true
	}
	n.Add(-1)
	return false
}
