package upstream

import (
	"context"
	"slices"
	"time"
)

// Bounds of the connections to one upstream that are used at the same time.
const (
	// A connection with busyConn queries under way is joined by another one, up to maxConns, so that one lost segment does
	// not hold up all of them.
	busyConn = 64
	maxConns = 4
	// maxDraining is how many there are besides that are too late, or too old, to get further queries.
	maxDraining = 4
	// lateConn is for a query that is asked again: it does not go where nothing was read for that long. It is below the
	// shortest time after which a query is asked again.
	lateConn = minDelay / 2
	// maxAge is how long a connection gets queries. A name may have moved to another server, or a balancer in front of
	// several may have more to choose from.
	maxAge = time.Hour
)

// pickLocked returns the connection for the next query, and whether it is new. late is for a question that was asked
// before: it does not go where the answer to that may be stuck. The connection is nil if there can be none.
func (u *streamExchanger) pickLocked(late bool) (best *streamConn, isNew bool) {
	usual := u.rtt.usual()
	if late {
		usual = lateConn
	}
	good := 0
	for _, c := range u.conns {
		if c.drains() || c.silent(usual) {
			continue
		}
		good++
		if best == nil || len(c.pending) < len(best.pending) {
			best = c
		}
	}
	if best != nil && (len(best.pending) < busyConn || good >= maxConns || len(u.conns) >= maxConns+maxDraining) {
		return best, false
	}
	if len(u.conns) >= maxConns+maxDraining {
		u.closeLocked(u.longestSilentLocked(), errStalled)
	}
	if !u.group.sockets.takeConn() {
		return u.lastHeardLocked(), false
	}
	c := &streamConn{wake: make(chan struct{}, 1), closed: make(chan struct{}), pending: make(map[uint16]*streamQuery)}
	u.conns = append(u.conns, c)
	u.group.work.Go(func() {
		defer u.group.sockets.giveConn()
		u.serve(c)
	})
	return c, true
}

// longestSilentLocked returns the connection over which no message came for the longest time. There is one.
func (u *streamExchanger) longestSilentLocked() *streamConn { return slices.MinFunc(u.conns, bySince) }

// lastHeardLocked returns the connection over which a message came last, or nil.
func (u *streamExchanger) lastHeardLocked() *streamConn {
	if len(u.conns) == 0 {
		return nil
	}
	return slices.MaxFunc(u.conns, bySince)
}

// bySince orders connections by when a message came.
func bySince(a, b *streamConn) int { return a.since.Compare(b.since) }

// silent reports whether queries wait on c, and nothing came for longer than is usual. While it is being set up, that
// takes as long as it may for an upstream that nothing is known about.
func (c *streamConn) silent(usual time.Duration) bool {
	if c.conn == nil {
		usual = max(usual, firstDelay)
	}
	return len(c.pending) > 0 && time.Since(c.since) > usual
}

// drains reports whether c gets no further queries.
func (c *streamConn) drains() bool {
	return c.late || c.conn != nil && time.Since(c.opened) > maxAge
}

// latest returns the later one of a and b.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lateKey is the key in the context of a query that was sent before.
type lateKey struct{}

// asLate returns ctx for a query that was sent before, without a response so far.
func asLate(ctx context.Context) context.Context { return context.WithValue(ctx, lateKey{}, true) }

// isLate reports whether ctx is of a query that was sent before.
func isLate(ctx context.Context) bool { return ctx.Value(lateKey{}) != nil }
