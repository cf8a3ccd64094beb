package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// conn is the input and output of one connection, and the goroutines that answer for it.
type conn struct {
	// set once
	srv   *Server
	c     net.Conn
	lower Lower

	// used by the reader alone
	in []byte // what was read and is not yet handled

	answers sync.WaitGroup // goroutines in finish

	kept atomic.Int64 // octets, as memory knows; changed with its lock held
	gone bool         // memory does not count it any more; guarded by its lock

	mu       sync.Mutex
	session  session
	until    time.Time  // the read deadline
	err      error      // why nothing is written any more, or nil
	writing  bool       // somebody writes, and takes along what is gathered meanwhile
	unread   int        // octets that the buffer of a frame that is not whole has beyond readBuffer
	sending  int        // octets beyond burstSize that are being written
	written  *sync.Cond // says that writing has become false
	writable time.Time  // the write deadline
	expiry   *time.Timer
	expires  bool // expiry is set
}

const (
	// readBuffer is what an idle connection keeps for reading: a burst of requests, of about 60 octets each.
	readBuffer = 2 << 10
	// lingerTime is how long the last frames have to arrive. Without it, octets that were not read would make the
	// kernel send a reset, which can overtake them.
	lingerTime = 250 * time.Millisecond
	lingerSize = 64 << 10
)

var (
	errDrained = errors.New("all streams have ended")
	errIdle    = errors.New("idle for too long")
	longAgo    = time.Unix(1, 0)
)

// newConn returns a connection whose caller has lower call beforeRead.
func newConn(ctx context.Context, srv *Server, c net.Conn, lower Lower, peer any) *conn {
	h := &conn{srv: srv, c: c, lower: lower, in: make([]byte, 0, readBuffer)}
	h.session.init(ctx, srv, h, peer)
	h.written = sync.NewCond(&h.mu)
	h.expiry = time.AfterFunc(time.Hour, h.expire)
	h.expiry.Stop()
	return h
}

// serve handles frames until the connection ends, and returns why.
func (h *conn) serve(stop context.Context) error {
	defer context.AfterFunc(stop, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wakeLocked()
	})()
	if err := h.greet(); err != nil {
		return err
	}
	for {
		if err := h.arm(stop); err != nil {
			return err
		}
		n, err := h.c.Read(h.in[len(h.in):cap(h.in)])
		h.in = h.in[:len(h.in)+n]
		if rerr := h.receive(); rerr != nil {
			return rerr
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := h.timeUp(); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// greet sends the server's preface. See RFC 9113, Section 3.4.
func (h *conn) greet() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session.appendPreface()
	if c, ok := h.c.(*tls.Conn); ok && !suitable(c.ConnectionState()) {
		return codeInadequateSecurity
	}
	return nil
}

// suitable reports whether HTTP/2 may be spoken over a connection. See RFC 9113, Section 9.2.
func suitable(state tls.ConnectionState) bool {
	return state.Version >= tls.VersionTLS13 || state.Version == tls.VersionTLS12 && slices.Contains([]uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}, state.CipherSuite)
}

// arm sets the read deadline, unless it is time to end. It holds mu meanwhile, so that a deadline that wakes the reader
// is not overwritten.
func (h *conn) arm(stop context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	if stop.Err() != nil {
		h.session.announceEnd()
	}
	if h.session.drained() {
		return errDrained
	}
	until := h.session.deadline()
	// A deadline that is a little early costs less than one that is set for each read.
	if early := until.Sub(h.until); early >= 0 && early < h.srv.cfg.IdleTimeout/8 {
		return nil
	}
	h.until = until
	return h.c.SetReadDeadline(until)
}

// wakeLocked ends the read that the reader waits in, so that it looks at the session again.
func (h *conn) wakeLocked() {
	h.until = longAgo
	_ = h.c.SetReadDeadline(longAgo) // an error means that the connection ends anyway
}

// timeUp handles the end of the time to read. The deadline may have been moved meanwhile, or the reader only woken.
func (h *conn) timeUp() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = longAgo
	return h.session.timeUp(time.Now())
}

// receive has the session handle the whole frames in h.in, and leaves there what follows.
func (h *conn) receive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session.now = time.Now()
	rest, err := h.session.skipPreface(h.in)
	for err == nil {
		var tail []byte
		if tail, err = h.session.receive(rest); tail == nil {
			break
		}
		rest = tail
		if h.session.gathered() >= burstSize {
			h.flushLocked()
		}
	}
	if err != nil {
		return err
	}
	h.session.noteRest(len(rest) > 0)
	h.in = keep(h.in, rest, readBuffer, frameHeaderLen+maxFrame)
	h.unread = max(0, cap(h.in)-readBuffer)
	h.accountLocked()
	h.armExpiryLocked()
	return nil
}

// keep moves rest, the end of buf, to its beginning, and makes room after it. The buffer grows from idle to limit, and
// only as it fills: an announced length is not yet data.
func keep(buf, rest []byte, idle, limit int) []byte {
	switch {
	case len(rest) == 0 && cap(buf) > idle:
		return make([]byte, 0, idle)
	case len(rest) == cap(buf):
		return append(make([]byte, 0, min(2*cap(buf), limit)), rest...)
	}
	return buf[:copy(buf, rest)]
}

// beforeRead writes what is gathered, before the reader waits for more.
func (h *conn) beforeRead() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session.beforeRead()
	h.flushLocked()
	return h.err
}

// start implements host. It is called with mu held.
func (h *conn) start(ctx context.Context, st *stream, x *exchange) {
	h.answers.Add(1)
	go h.finish(ctx, st, x)
}

// wake implements host. It is called with mu held.
func (h *conn) wake() { h.wakeLocked() }

// finish has the handler answer a request that waits, and sends the response.
func (h *conn) finish(ctx context.Context, st *stream, x *exchange) {
	defer h.answers.Done()
	h.srv.cfg.Handler.Wait(ctx, &x.r, &x.w)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.awaitRoomLocked(len(x.w.Body))
	h.session.now = time.Now()
	h.session.waiting -= len(x.body)
	h.session.finish(st, x)
	h.accountLocked()
	h.armExpiryLocked()
	h.srv.freeExchange(x)
	h.flushLocked()
}

// awaitRoomLocked waits while a client that does not read has us hold enough already. Meanwhile a response of n octets
// is on the account of the connection, which may give way for it. It lets go of mu while it waits.
func (h *conn) awaitRoomLocked(n int) {
	full := func() bool { return h.writing && h.err == nil && h.session.gathered() >= burstSize }
	if !full() {
		return
	}
	h.session.waiting += n
	h.accountLocked()
	for full() {
		h.written.Wait()
	}
	h.session.waiting -= n
}

// armExpiryLocked sets the timer to the end of the first stream that waits for the client.
func (h *conn) armExpiryLocked() {
	if h.expires {
		return
	}
	if first := h.session.nextExpiry(); !first.IsZero() {
		h.expires = true
		h.expiry.Reset(first.Sub(h.session.now))
	}
}

// expire ends the streams that have waited for the client for too long. The timer calls it.
func (h *conn) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expires, h.session.now = false, time.Now()
	if h.err != nil {
		return
	}
	h.session.expire()
	h.accountLocked()
	h.armExpiryLocked()
	h.flushLocked()
}

// flushLocked writes what the session has gathered. While somebody else writes it is left to them; only if much is
// gathered this waits for them, so that nothing is read from a client that does not read. It lets go of mu while it
// waits and while it writes: the session can be another one when it returns.
func (h *conn) flushLocked() {
	for h.writing && h.session.gathered() >= burstSize {
		h.written.Wait()
	}
	for !h.writing && h.err == nil {
		out := h.session.takeOut()
		if out == nil {
			return
		}
		h.writing, h.sending = true, max(0, len(out.b)-burstSize)
		if h.sending > 0 {
			h.accountLocked()
		}
		h.mu.Unlock()
		err := h.write(out)
		h.mu.Lock()
		h.writing, h.sending = false, 0
		h.srv.freeBuffer(out)
		if err != nil {
			h.failLocked(err)
			h.lower.Close() // a client that does not read has no room for a GOAWAY either
		}
		h.written.Broadcast()
	}
}

// write writes frames. It is called without mu, by the one that has set writing. The deadline is moved only when half
// of it has passed.
func (h *conn) write(out *buffer) error {
	if now := time.Now(); h.writable.Sub(now) < h.srv.cfg.WriteTimeout/2 {
		h.writable = now.Add(h.srv.cfg.WriteTimeout)
		if err := h.c.SetWriteDeadline(h.writable); err != nil {
			return err
		}
	}
	if len(out.ends) < 2 || h.c == net.Conn(h.lower) {
		_, err := h.c.Write(out.b)
		return err
	}
	return h.writeRecords(out)
}

// writeRecords gives each response a TLS record of its own, though all go out with one write. Of several responses in
// one record dnsperf (2.10) takes note of one and waits for the others, with which hardly anybody could measure us.
func (h *conn) writeRecords(out *buffer) error {
	out.ends[len(out.ends)-1] = len(out.b)
	h.lower.Hold(out.records[:0])
	var err error
	start := 0
	for _, end := range out.ends {
		if _, err = h.c.Write(out.b[start:end]); err != nil {
			break
		}
		start = end
	}
	var rerr error
	out.records, rerr = h.lower.Release()
	return errors.Join(err, rerr)
}

// failLocked makes err the reason why nothing is written any more, unless there is one.
func (h *conn) failLocked(err error) {
	if h.err == nil {
		h.err = err
	}
}

// end tells the client why the connection ends, ends the wait for answers and waits for all goroutines.
func (h *conn) end(err error) {
	h.mu.Lock()
	h.expiry.Stop()
	var c code
	errors.As(err, &c)
	h.session.goAway(c)
	for h.err == nil && (h.session.out != nil || h.writing) {
		h.flushLocked()
		if h.writing {
			h.written.Wait()
		}
	}
	h.failLocked(net.ErrClosed)
	h.session.cancelAll()
	h.mu.Unlock()
	h.answers.Wait()
}

// linger lets the last frames arrive. Nobody else uses h any more.
func (h *conn) linger() {
	if tc, ok := h.c.(*tls.Conn); ok && tc.CloseWrite() != nil {
		return
	}
	if h.lower.CloseWrite() == nil && h.lower.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, h.lower, lingerSize) // ends with the connection or with the time
	}
}
