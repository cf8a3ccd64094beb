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

// Bounds of connections to one upstream. Those that choose the connection for a query are in pick.go.
const (
	// maxPending leaves enough of the IDs free that one is soon found.
	maxPending = 1 << 15
	// idleConn is how long a connection is kept for a next query. See RFC 7766, Section 6.2.3.
	idleConn = 30 * time.Second
	// With queries under way and nothing read for deadConn, a connection is closed.
	deadConn = 5 * time.Second
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
	rtt     rtt
	conns   []*streamConn
	retired bool
}

// streamConn is one connection, also while it is being set up.
type streamConn struct {
	// set once
	wake   chan struct{} // has room for one: there is something in out
	closed chan struct{}

	conn    net.Conn // nil before the handshake is over
	opened  time.Time
	out     []byte // queries to be written, with their lengths
	pending map[uint16]*streamQuery
	since   time.Time // when a query began to wait for the next message
	late    bool      // a query was given up, and no message came since
	stale   int       // messages that nobody waited for, since the last that somebody did
	err     error     // why it is closed, or nil
}

// streamQuery is one query that waits.
type streamQuery struct {
	query    []byte
	sent     time.Time
	response chan []byte // has room for one
}

// newStream returns an upstream whose connections dial makes.
func newStream(g *Group, dial func(context.Context) (net.Conn, error)) *streamExchanger {
	return &streamExchanger{dial: dial, group: g}
}

// newTLS returns the DoT upstream that c describes: it must prove the name, or the address, see RFC 8310,
// Section 8.1. Sessions are resumed.
func newTLS(c Config, g *Group) *streamExchanger {
	config := &tls.Config{
		ServerName:         cmp.Or(c.Name, c.Addr.Addr().WithZone("").String()),
		RootCAs:            c.RootCAs,
		NextProtos:         []string{"dot"},
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(maxConns),
	}
	u := newStream(g, func(ctx context.Context) (net.Conn, error) {
		conn, err := dialFrom(ctx, net.Dialer{}, "tcp", c.Addr.String())
		if err != nil {
			return nil, err
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secured, nil
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

// Exchange asks over a connection that there is, or a new one. That an upstream closes a connection after a while, in
// whichever way, is no failure: the query is sent again, over a new one if there are no others.
func (u *streamExchanger) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	query = bytes.Clone(query)
	if u.padded {
		query = wire.PadQuery(query)
	}
	for {
		response, isNew, err := u.try(ctx, query)
		if err == nil || isNew || ctx.Err() != nil || errors.Is(err, errStalled) {
			return response, err
		}
	}
}

// try asks once, and reports whether a connection was made for that.
func (u *streamExchanger) try(ctx context.Context, query []byte) (response []byte, isNew bool, err error) {
	q := &streamQuery{query: query, response: make(chan []byte, 1)}
	c, isNew, err := u.enqueue(q, isLate(ctx))
	if err != nil {
		return nil, true, err
	}
	select {
	case response = <-q.response:
		return response, isNew, nil
	case <-ctx.Done():
		u.abandon(c, q)
		return nil, isNew, context.Cause(ctx)
	case <-c.closed:
	}
	select {
	case response = <-q.response: // it came before the end
		return response, isNew, nil
	default:
		return nil, isNew, c.err
	}
}

// enqueue gives q an ID that no other query on its connection has, and has it written. late says that the question was
// asked before, without a response so far.
func (u *streamExchanger) enqueue(q *streamQuery, late bool) (c *streamConn, isNew bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, isNew = u.pickLocked(late)
	if c == nil {
		return nil, false, errNoSocket
	}
	if len(c.pending) >= maxPending {
		return nil, false, errTooManyQueries
	}
	q.sent = time.Now()
	id := randomID()
	for c.pending[id] != nil {
		id++
	}
	binary.BigEndian.PutUint16(q.query, id)
	c.pending[id] = q
	if len(c.pending) == 1 {
		c.since = q.sent
	}
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(len(q.query)))
	c.out = append(c.out, q.query...)
	u.settleLocked(c)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return c, isNew, nil
}

// abandon forgets q, which nobody waits for any more.
func (u *streamExchanger) abandon(c *streamConn, q *streamQuery) {
	u.mu.Lock()
	defer u.mu.Unlock()
	id := binary.BigEndian.Uint16(q.query)
	if c.pending[id] == q {
		// Who leaves may be just about to find it late.
		c.late = c.late || c.silent(u.rtt.usual()*3/4)
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
	case u.retired, c.drains():
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
	c.conn, c.opened = conn, time.Now()
	c.since, c.late = c.opened, false
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
	c.since, c.late = time.Now(), false
	id := binary.BigEndian.Uint16(msg)
	q := c.pending[id]
	if q == nil || !wire.Answers(q.query, msg) {
		if c.stale++; c.stale > maxStale {
			return errStream
		}
		return nil
	}
	delete(c.pending, id)
	c.stale = 0
	u.rtt.observe(c.since.Sub(latest(q.sent, c.opened)))
	q.response <- msg
	u.settleLocked(c)
	return nil
}
