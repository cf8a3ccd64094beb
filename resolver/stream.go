package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
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
	var work sync.WaitGroup
	defer work.Wait()
	for {
		c, err := s.ln.accept()
		if err != nil {
			return unlessClosed(err)
		}
		work.Go(func() { s.serveConn(stop, kill, c) })
	}
}

func (s *streams) serveConn(stop, kill context.Context, c *conn) {
	defer c.Close()
	defer context.AfterFunc(kill, func() { c.Close() })()
	st := stream{
		frontend: s.frontend,
		c:        c,
		q:        query{client: c.client, local: c.local, transport: s.ln.transport},
		waiting:  make(chan struct{}, s.limits.InFlightPerConn),
	}
	if s.tls != nil {
		tc, err := s.handshake(kill, c)
		if err != nil {
			return
		}
		// Says goodbye before c is closed. It waits for its turn to write, for which it sets a deadline of its own.
		defer tc.Close()
		st.c = tc
	}
	st.serve(stop, kill)
}

// stream is one connection. Its reader answers what it can at once, a burst with one write; what has to wait is
// answered by goroutines, in whatever order the answers come.
type stream struct {
	*frontend
	c       net.Conn
	q       query
	waiting chan struct{} // holds one for each query that waits; full, nothing is read
	work    sync.WaitGroup

	in      []byte    // what was read and not yet answered
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

// serve answers until the client has no more queries, or goes, or stop is done.
func (st *stream) serve(stop, kill context.Context) {
	ctx, cancel := context.WithCancel(kill)
	defer cancel()
	defer context.AfterFunc(stop, func() { st.c.SetReadDeadline(time.Unix(1, 0)) })()
	if err := st.read(stop, ctx); err != nil {
		cancel() // nobody is there to read the answers
	}
	// A client that has sent a FIN after its last query still gets all answers. See RFC 7766, Section 6.2.4.
	st.work.Wait()
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
// only when an eighth of it is gone, which makes it almost free.
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
	msg, tail, ok := cutMessage(rest)
	if ok {
		out := st.jobs.Get().(*job)
		defer st.free(out)
		out.reply = out.reply[:0]
		for ; ok; msg, tail, ok = cutMessage(rest) {
			rest = tail
			st.partial = false // what follows has its own time
			if err := st.answerOne(ctx, msg, out); err != nil {
				return err
			}
		}
		if err := st.write(out.reply); err != nil {
			return err
		}
	}
	st.keep(rest)
	return nil
}

// keep moves rest, the end of st.in, to its beginning, and makes room behind it. The buffer grows only as it fills: a
// length is a promise, not data.
func (st *stream) keep(rest []byte) {
	switch {
	case len(rest) == 0 && cap(st.in) > streamBuffer:
		st.in = make([]byte, 0, streamBuffer)
	case len(rest) == cap(st.in):
		st.in = append(make([]byte, 0, min(2*cap(st.in), prefixLen+maxMessage)), rest...)
	default:
		st.in = st.in[:copy(st.in, rest)]
	}
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

// answerOne appends the answer to msg to out.reply, or has it answered later.
func (st *stream) answerOne(ctx context.Context, msg []byte, out *job) error {
	st.q.msg, st.q.ttl = msg, 0
	start := len(out.reply)
	reply, did := st.h.answerNow(&st.q, append(out.reply, 0, 0))
	switch {
	case did == answered && endMessage(reply, start):
		out.reply = reply
	case did == pending:
		out.reply = reply[:start]
		if err := st.later(ctx, out); err != nil {
			return err
		}
	default:
		out.reply = reply[:start]
		return errors.Join(errUnanswerable, st.write(out.reply))
	}
	if len(out.reply) < burstSize {
		return nil
	}
	return st.flush(out)
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
func (st *stream) later(ctx context.Context, out *job) error {
	select {
	case st.waiting <- struct{}{}:
	default:
		if err := st.flush(out); err != nil {
			return err
		}
		select {
		case st.waiting <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !st.takeSlot() {
		<-st.waiting
		start := len(out.reply)
		out.reply = appendServfail(append(out.reply, 0, 0), st.q.msg)
		endMessage(out.reply, start)
		return nil
	}
	j := st.newJob(&st.q)
	st.work.Add(1)
	go st.finish(ctx, j)
	return nil
}

func (st *stream) finish(ctx context.Context, j *job) {
	defer st.work.Done()
	j.reply = st.wait(ctx, &j.q, append(j.reply[:0], 0, 0))
	// The slot is free before the write, which can take as long as the client likes to read nothing.
	st.slots.give()
	if !endMessage(j.reply, 0) || st.write(j.reply) != nil {
		st.c.Close()
	}
	<-st.waiting
	st.free(j)
}

func (st *stream) flush(out *job) error {
	err := st.write(out.reply)
	out.reply = out.reply[:0]
	return err
}

// writeTimeout is how long a client may take to make room for answers.
const writeTimeout = 5 * time.Second

// write writes whole messages. The deadline is moved only when half of it is gone.
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

// listener accepts connections of one transport within the limits.
type listener struct {
	*net.TCPListener
	f         *frontend
	transport Transport
}

// Accept implements net.Listener, for net/http.
func (l *listener) Accept() (net.Conn, error) { return l.accept() }

// accept returns the next connection that is within the limits. Others are reset at once, before TLS. It waits where
// the process is out of descriptors, because then the next attempt would fail as well.
func (l *listener) accept() (*conn, error) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		tc, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			l.f.log.Warn().Err(err).Stringer("transport", l.transport).Msg("accepting connections pauses")
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if c, ok := l.admit(tc); ok {
			return c, nil
		}
		_ = tc.SetLinger(0)
		tc.Close()
	}
}

func (l *listener) admit(tc *net.TCPConn) (*conn, bool) {
	client := bareAddrPort(tc.RemoteAddr().(*net.TCPAddr).AddrPort())
	if !l.f.admit(l.transport, client.Addr()) {
		return nil, false
	}
	local := bareAddrPort(tc.LocalAddr().(*net.TCPAddr).AddrPort())
	leave := sync.OnceFunc(func() { l.f.leave(l.transport, client.Addr()) })
	return &conn{TCPConn: tc, client: client, local: local, leave: leave}, true
}

// conn is a connection that was admitted.
type conn struct {
	*net.TCPConn
	client, local netip.AddrPort
	leave         func()
}

// Close closes the connection and makes room for another one.
func (c *conn) Close() error {
	err := c.TCPConn.Close()
	c.leave()
	return err
}
