package upstream

import "sync/atomic"

// DefaultSockets is how many sockets a group has at most unless it is told otherwise.
const DefaultSockets = 4096

// sockets counts the sockets of a group: those of queries over UDP, and connections.
type sockets struct {
	max  int64 // set once
	open atomic.Int64
}

// take reports whether one more socket may be opened. If so, give must be called when it is closed.
func (s *sockets) take() bool {
	if s.open.Add(1) <= s.max {
		return true
	}
	s.open.Add(-1)
	return false
}

func (s *sockets) give() { s.open.Add(-1) }
