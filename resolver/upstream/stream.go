package upstream

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Bounds of connections to one upstream.
const (
	// A connection with busyConn queries under way is joined by another one, up to maxConns, so that one lost segment does
	// not hold up all of them.
	busyConn = 64
	maxConns = 4
	// maxPending leaves enough of the IDs free that one is soon found.
	maxPending = 1 << 15
	// idleConn is how long a connection is kept for a next query. See RFC 7766, Section 6.2.3.
	idleConn = 30 * time.Second
	// With queries under way and nothing read for stallConn, no further one goes to the connection; for deadConn,
	// it is closed.
	stallConn = time.Second
	deadConn  = 5 * time.Second
	// dialTimeout is for the TCP and TLS handshakes together.
	dialTimeout = 4 * time.Second
	// maxStale is how many messages that nobody waits for may come in a row.
	maxStale = 100
)

// Ends of a connection to an upstream.
var (
	errIdle           = errors.New("upstream: idle connection closed")
	errStalled        = errors.New("upstream: no response over a connection for too long")
	errTooManyQueries = errors.New("upstream: too many queries wait on a connection")
	errStream         = errors.New("upstream: messages that answer no query")
)

// streamExchanger asks over TCP or TLS. Its connections are shared by all queries, which are pipelined and answered
// in any order. See RFC 7766, Section 6.2.1.1.
type streamExchanger struct {
	// set once
	dial   func(context.Context) (net.Conn, error)
	padded bool
	group  *Group

	mu      sync.Mutex // guards the following and every streamConn
	conns   []*streamConn
	retired bool
}

// streamConn is one connection, also while it is being set up.
type streamConn struct {
	// set once
	wake   chan struct{} // has room for one: there is something in out
	closed chan struct{}

	conn     net.Conn // nil before the handshake is over
	out      []byte   // queries to be written, with their lengths
	pending  map[uint16]*streamQuery
	since    time.Time // when a query began to wait for the next message
	answered bool      // a message came
	stale    int       // messages that nobody waited for, since the last that somebody did
	err      error     // why it is closed, or nil
}

// streamQuery is one query that waits.
type streamQuery struct {
	query    []byte
	response chan []byte // has room for one
}

// newStream returns an upstream whose connections dial makes.
func newStream(g *Group, dial func(context.Context) (net.Conn, error)) *streamExchanger {
	return &streamExchanger{dial: dial, group: g}
}

// newTLS returns the DoT upstream that c describes: it must prove the name, or the address, see RFC 8310,
// Section 8.1. Sessions are resumed.
func newTLS(c Config, g *Group) *streamExchanger {
	d := tls.Dialer{Config: &tls.Config{
		ServerName:         cmp.Or(c.Name, c.Addr.Addr().WithZone("").String()),
		RootCAs:            c.RootCAs,
		NextProtos:         []string{"dot"},
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(maxConns),
	}}
	u := newStream(g, func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", c.Addr.String())
	})
	u.padded = true
	return u
}

// Retire closes the connections as soon as nobody waits for them.
func (u *streamExchanger) Retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.retired = true
	for _, c := range slices.Clone(u.conns) {
		u.settleLocked(c)
	}
}

// Exchange asks over a connection that there is, or a new one. That an upstream closes a connection after a while
// is no failure: the query is sent again, once.
func (u *streamExchanger) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	query = bytes.Clone(query)
	if u.padded {
		query = wire.PadQuery(query)
	}
	c, response, err := u.try(ctx, query)
	if err != nil && ctx.Err() == nil && u.wasUsed(c) {
		_, response, err = u.try(ctx, query)
	}
	return response, err
}

// wasUsed reports whether c had worked before it was closed.
func (u *streamExchanger) wasUsed(c *streamConn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return c.answered
}

// pickLocked returns the connection for the next query.
func (u *streamExchanger) pickLocked() *streamConn {
	var best *streamConn
	for _, c := range u.conns {
		if !c.stalled() && (best == nil || len(c.pending) < len(best.pending)) {
			best = c
		}
	}
	if best != nil && (len(best.pending) < busyConn || len(u.conns) >= maxConns) {
		return best
	}
	if len(u.conns) >= maxConns { // all have stalled
		u.closeLocked(u.conns[0], errStalled)
	}
	c := &streamConn{wake: make(chan struct{}, 1), closed: make(chan struct{}), pending: make(map[uint16]*streamQuery)}
	u.conns = append(u.conns, c)
	u.group.work.Go(func() { u.serve(c) })
	return c
}

// stalled reports whether c has left queries without a response for too long to be given more.
func (c *streamConn) stalled() bool { return len(c.pending) > 0 && time.Since(c.since) > stallConn }

// try asks once, over the connection that it returns.
func (u *streamExchanger) try(ctx context.Context, query []byte) (c *streamConn, response []byte, err error) {
	q := &streamQuery{query: query, response: make(chan []byte, 1)}
	if c, err = u.enqueue(q); err != nil {
		return c, nil, err
	}
	select {
	case response = <-q.response:
		return c, response, nil
	case <-ctx.Done():
		u.abandon(c, q)
		return c, nil, context.Cause(ctx)
	case <-c.closed:
	}
	select {
	case response = <-q.response: // it came before the end
		return c, response, nil
	default:
		return c, nil, c.err
	}
}

// enqueue gives q an ID that no other query on its connection has, and has it written.
func (u *streamExchanger) enqueue(q *streamQuery) (*streamConn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.pickLocked()
	if len(c.pending) >= maxPending {
		return c, errTooManyQueries
	}
	id := randomID()
	for c.pending[id] != nil {
		id++
	}
	binary.BigEndian.PutUint16(q.query, id)
	c.pending[id] = q
	if len(c.pending) == 1 {
		c.since = time.Now()
	}
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(q.query)))
	c.out = append(c.out, q.query...)
	u.settleLocked(c)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return c, nil
}

// abandon forgets q, which nobody waits for any more.
func (u *streamExchanger) abandon(c *streamConn, q *streamQuery) {
	u.mu.Lock()
	defer u.mu.Unlock()
	id := binary.BigEndian.Uint16(q.query)
	if c.pending[id] == q {
		delete(c.pending, id)
		u.settleLocked(c)
	}
}

// settleLocked sets until when c is read, after what waits for it has changed, or closes it if it is not needed.
func (u *streamExchanger) settleLocked(c *streamConn) {
	switch {
	case c.err != nil || c.conn == nil && !u.retired:
	case len(c.pending) > 0 && c.conn != nil:
		c.conn.SetReadDeadline(c.since.Add(deadConn))
	case len(c.pending) > 0:
	case u.retired:
		u.closeLocked(c, errIdle)
	default:
		c.conn.SetReadDeadline(time.Now().Add(idleConn))
	}
}

// close closes c, unless it is, and tells everybody who waits for it why.
func (u *streamExchanger) close(c *streamConn, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeLocked(c, err)
}

func (u *streamExchanger) closeLocked(c *streamConn, err error) {
	if c.err != nil {
		return
	}
	c.err = err
	close(c.closed)
	u.conns = slices.DeleteFunc(u.conns, func(other *streamConn) bool { return other == c })
	if c.conn != nil {
		c.conn.Close()
	}
}

// serve sets c up and reads from it until it is closed.
func (u *streamExchanger) serve(c *streamConn) {
	ctx, cancel := context.WithTimeout(u.group.ctx, dialTimeout)
	defer cancel()
	conn, err := u.dial(ctx)
	if err != nil {
		u.close(c, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(u.group.ctx, func() { u.close(c, net.ErrClosed) })()
	if u.start(c, conn) {
		u.group.work.Go(func() { u.write(c, conn) })
		u.close(c, u.read(c, conn))
	}
}

// start makes conn the connection of c, unless c was closed meanwhile.
func (u *streamExchanger) start(c *streamConn, conn net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.conn, c.since = conn, time.Now()
	u.settleLocked(c)
	return true
}

// write writes what is queued, all that there is at once.
func (u *streamExchanger) write(c *streamConn, conn net.Conn) {
	for {
		select {
		case <-c.wake:
		case <-c.closed:
			return
		}
		u.mu.Lock()
		out := c.out
		c.out = nil
		u.mu.Unlock()
		conn.SetWriteDeadline(time.Now().Add(deadConn))
		if _, err := conn.Write(out); err != nil {
			u.close(c, err)
			return
		}
	}
}

// read hands out messages until there are no more, and returns why.
func (u *streamExchanger) read(c *streamConn, conn net.Conn) error {
	r := bufio.NewReader(conn)
	for {
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return err
		}
		msg := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(r, msg); err != nil {
			return err
		}
		if err := u.deliver(c, msg); err != nil {
			return err
		}
	}
}

// deliver gives msg to whom it answers. A message for nobody may be late; many are not.
func (u *streamExchanger) deliver(c *streamConn, msg []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(msg) < wire.HeaderLen {
		return errStream
	}
	c.since = time.Now()
	id := binary.BigEndian.Uint16(msg)
	q := c.pending[id]
	if q == nil || !wire.Answers(q.query, msg) {
		if c.stale++; c.stale > maxStale {
			return errStream
		}
		return nil
	}
	delete(c.pending, id)
	c.stale, c.answered = 0, true
	q.response <- msg
	u.settleLocked(c)
	return nil
}
