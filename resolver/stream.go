package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// streams answers DNS over TCP or TLS at one address. See RFC 7766 and RFC 7858.
type streams struct {
	*frontend
	ln  *listener
	tls *tls.Config // nil for TCP
}

func (s *streams) close() { s.ln.Close() }

func (s *streams) serve(stop, kill context.Context) error {
	defer context.AfterFunc(stop, s.close)()
	defer s.close()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := s.ln.accept()
		if err != nil {
			return unlessClosed(err)
		}
		conns.Go(func() { s.serveConn(stop, kill, c) })
	}
}

func (s *streams) serveConn(stop, kill context.Context, c *conn) {
	defer c.Close()
	defer context.AfterFunc(kill, func() { c.Close() })()
	st := stream{
		frontend: s.frontend,
		q:        query{client: c.client, local: c.local, transport: s.ln.transport},
		waiting:  make(chan struct{}, s.limits.InFlightPerConn),
	}
	st.c = flushConn{c, st.flush}
	if s.tls != nil {
		tc, err := s.handshake(kill, st.c)
		if err != nil {
			return
		}
		// Sends close_notify before c is closed. It waits for its turn to write, for which it sets a deadline of its own.
		defer tc.Close()
		st.c = tc
	}
	st.serve(stop, kill)
}

// flushConn calls flush before it reads, so that what has been gathered is written before it waits for more. It is the
// connection below TLS, because only there it is known that no record is left that could be read without waiting.
type flushConn struct {
	net.Conn
	flush func() error
}

func (c flushConn) Read(b []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// stream is one connection. Its reader answers what it can at once, a burst with one write; what has to wait is
// answered by goroutines, in whatever order the answers come.
type stream struct {
	*frontend
	c       net.Conn
	q       query
	waiting chan struct{}  // holds one for each query that waits; full, nothing is read
	queries sync.WaitGroup // that wait for upstreams

	in      []byte    // what was read and not yet answered
	out     *job      // holds answers that are not written yet; or nil
	partial bool      // in holds the beginning of a message
	until   time.Time // the read deadline

	mu       sync.Mutex // serializes writes
	writable time.Time  // the write deadline
}

const (
	// streamBuffer is what an idle connection keeps for reading. A query takes about 50 octets: enough for a burst.
	streamBuffer = 2 << 10
	// burstSize is how much is gathered before it is written, which is what fits in one TLS record.
	burstSize = 16 << 10
	prefixLen = 2
)

var (
	errUnanswerable = errors.New("message without an answer")
	errIdle         = errors.New("idle for too long")
)

// serve answers until the client has no more queries, or the connection ends, or stop is done.
func (st *stream) serve(stop, kill context.Context) {
	ctx, cancel := context.WithCancel(kill)
	defer cancel()
	defer context.AfterFunc(stop, func() { st.c.SetReadDeadline(time.Unix(1, 0)) })()
	err := st.read(stop, ctx)
	if err == nil {
		err = st.flush()
	}
	if err != nil {
		cancel() // nobody reads the responses any more
	}
	// A client that has sent a FIN after its last query still gets all answers.
	st.queries.Wait()
}

// read answers queries until there are no more, which is not an error. ctx is for those that have to wait.
func (st *stream) read(stop, ctx context.Context) error {
	st.in = make([]byte, 0, streamBuffer)
	for {
		if err := st.arm(); err != nil {
			return err
		}
		// Not before the deadline is set: stop sets one as well, and the last one holds.
		if stop.Err() != nil {
			return nil
		}
		n, err := st.c.Read(st.in[len(st.in):cap(st.in)])
		st.in = st.in[:len(st.in)+n]
		if aerr := st.answerAll(ctx); aerr != nil {
			return aerr
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) || stop.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && !st.partial && len(st.waiting) > 0:
			st.until = time.Time{} // not idle: the client waits for us
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errIdle
		default:
			return err
		}
	}
}

// arm sets the read deadline: for a whole message from its first octet on, or for the first octet. The latter is moved
// only when an eighth of it has passed, which makes it almost free.
func (st *stream) arm() error {
	now := time.Now()
	partial := len(st.in) > 0
	switch idle := st.limits.IdleTimeout; {
	case partial && st.partial:
		return nil
	case partial:
		st.until = now.Add(st.limits.ReadTimeout)
	case !st.partial && st.until.Sub(now) > idle-idle/8:
		return nil
	default:
		st.until = now.Add(idle)
	}
	st.partial = partial
	return st.c.SetReadDeadline(st.until)
}

// answerAll answers the whole messages in st.in and leaves there what follows.
func (st *stream) answerAll(ctx context.Context) error {
	rest := st.in
	for {
		msg, tail, ok := cutMessage(rest)
		if !ok {
			st.in = keep(st.in, rest, streamBuffer, prefixLen+maxMessage)
			return nil
		}
		rest = tail
		st.partial = false // what follows has its own time
		if err := st.answerOne(ctx, msg); err != nil {
			return err
		}
	}
}

// keep moves rest, the end of buf, to its beginning, and makes room behind it. The buffer grows from idle to limit, and
// only as it fills: a length is a promise, not data.
func keep(buf, rest []byte, idle, limit int) []byte {
	switch {
	case len(rest) == 0 && cap(buf) > idle:
		return make([]byte, 0, idle)
	case len(rest) == cap(buf):
		return append(make([]byte, 0, min(2*cap(buf), limit)), rest...)
	}
	return buf[:copy(buf, rest)]
}

// cutMessage splits b after its first message, whose prefix it removes. ok is false if that message is not whole.
func cutMessage(b []byte) (msg, rest []byte, ok bool) {
	if len(b) < prefixLen {
		return nil, b, false
	}
	end := prefixLen + int(binary.BigEndian.Uint16(b))
	if len(b) < end {
		return nil, b, false
	}
	return b[prefixLen:end], b[end:], true
}

// answerOne appends the answer to msg to st.out, or has it answered later.
func (st *stream) answerOne(ctx context.Context, msg []byte) error {
	if st.out == nil {
		st.out = st.jobs.Get().(*job)
		st.out.reply = st.out.reply[:0]
	}
	st.q.msg, st.q.ttl = msg, 0
	start := len(st.out.reply)
	reply, did := st.h.answerNow(&st.q, append(st.out.reply, 0, 0))
	switch {
	case did == answered && endMessage(reply, start):
		st.out.reply = reply
	case did == pending:
		st.out.reply = reply[:start]
		if err := st.later(ctx); err != nil {
			return err
		}
	default:
		st.out.reply = reply[:start]
		return errors.Join(errUnanswerable, st.flush())
	}
	if st.out != nil && len(st.out.reply) >= burstSize {
		return st.flush()
	}
	return nil
}

// endMessage sets the length of the message at the end of b whose prefix is at start. It reports false for one that
// is empty or too long to be sent.
func endMessage(b []byte, start int) bool {
	n := len(b) - start - prefixLen
	if n <= 0 || n > maxMessage {
		return false
	}
	binary.BigEndian.PutUint16(b[start:], uint16(n))
	return true
}

// later has st.q answered by upstreams. It blocks while too many queries of this connection wait: the client then
// finds that nothing is read, and what it sends stays on its side.
func (st *stream) later(ctx context.Context) error {
	select {
	case st.waiting <- struct{}{}:
	default:
		if err := st.flush(); err != nil {
			return err
		}
		select {
		case st.waiting <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !st.takeSlot(st.q.client.Addr()) {
		<-st.waiting
		reply := appendOverload([]byte{0, 0}, &st.q)
		if !endMessage(reply, 0) {
			return errUnanswerable
		}
		return st.write(reply)
	}
	j := st.newJob(&st.q)
	st.queries.Add(1)
	go st.finish(ctx, j)
	return nil
}

func (st *stream) finish(ctx context.Context, j *job) {
	defer st.queries.Done()
	j.reply = st.answerWaiting(ctx, &j.q, append(j.reply[:0], 0, 0))
	if !endMessage(j.reply, 0) || st.write(j.reply) != nil {
		st.c.Close()
	}
	<-st.waiting
	st.free(j)
}

// flush writes what is gathered in st.out.
func (st *stream) flush() error {
	if st.out == nil {
		return nil
	}
	err := st.write(st.out.reply)
	st.free(st.out)
	st.out = nil
	return err
}

// writeTimeout is how long a client may take to make room for answers.
const writeTimeout = 5 * time.Second

// write writes whole messages. The deadline is moved only when half of it has passed.
func (st *stream) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if now := time.Now(); st.writable.Sub(now) < writeTimeout/2 {
		st.writable = now.Add(writeTimeout)
		if err := st.c.SetWriteDeadline(st.writable); err != nil {
			return err
		}
	}
	_, err := st.c.Write(b)
	return err
}
