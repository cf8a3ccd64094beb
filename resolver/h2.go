package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// h2Conn is one HTTP/2 connection. Its reader answers what it can at once, a burst with one write; what has to wait is
// answered by goroutines, in whatever order the answers come. See RFC 9113.
//
// Methods are called with mu held, but for those that say otherwise.
type h2Conn struct {
	// set once
	*doh
	c     net.Conn
	below *dohConn        // below c, or nil
	ctx   context.Context // of queries that wait
	peer  *peer
	head  h2Head
	tls   *tls.ConnectionState // or nil

	// used by the reader alone
	in []byte // what was read and is not yet handled

	mu    sync.Mutex
	now   time.Time // when mu was last taken for work
	until time.Time // the read deadline
	err   error     // why nothing is written any more, or nil

	// of what arrives
	greeted, settled bool // the client's preface and its SETTINGS have come
	partial          bool // a part of a frame or of a header block has come
	since            time.Time
	active           time.Time // when there last was a request under way
	fields           h2Fields  // of the request at hand
	block            []byte    // a header block that CONTINUATION goes on with
	blockID          uint32    // the stream that it is for, or 0
	blockEnds        bool      // the stream has nothing behind it
	recvWindow       int       // what the client may send on all streams
	credit           int       // what of it is to be given back
	chores, resets   h2Allowance

	// of streams
	passing      h2Stream // the one at hand, if it need not be kept
	streams      map[uint32]*h2Stream
	open         int      // streams that are under way
	running      int      // goroutines that answer, also those of streams that were reset
	gone         []uint32 // streams that we have reset, oldest first
	lastID       uint32   // the last stream of the client
	phase        h2Phase
	leaveBy      time.Time // when the second GOAWAY is due
	lastAnswered uint32    // what the last GOAWAY said
	expiry       *time.Timer
	expires      bool // expiry is set
	work         sync.WaitGroup

	// of what leaves
	out        *job // holds frames in its reply that are not written yet; or nil
	j          *job // for the query at hand, or nil
	writing    bool // somebody writes, and takes along what comes meanwhile
	written    *sync.Cond
	writable   time.Time // the write deadline
	window     int64     // what we may send on all streams
	initial    int64     // what we may send on a new stream
	blocked    []*h2Stream
	queued     int  // octets that blocked streams hold
	resizeNext bool // the next header block says that its dynamic table is empty
	date       []byte
	dateSecond int64
}

// h2Phase says how far a connection is on its way to its end. See RFC 9113, Section 6.8.
type h2Phase uint8

const (
	h2Serving   h2Phase = iota
	h2Announced         // the client was told to stop, but may not know yet
	h2Leaving           // what comes from now on is not answered
)

const (
	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// h2ReadBuffer is what an idle connection keeps for reading: a burst of requests, of about 60 octets each.
	h2ReadBuffer = 2 << 10
	// h2GoAwayTime is how long the answer to a PING is waited for that says that the client knows.
	h2GoAwayTime = time.Second
	// h2LingerTime is how long the last frames have to arrive, before what was not read makes the kernel send a reset.
	h2LingerTime = 250 * time.Millisecond
	h2LingerSize = 64 << 10
)

var (
	errDrained = errors.New("all streams have ended")
	longAgo    = time.Unix(1, 0)
)

// newH2Conn returns a connection that writes before it waits for more to read, if the caller has c call beforeRead.
func newH2Conn(ctx context.Context, d *doh, c net.Conn, p *peer) *h2Conn {
	h := &h2Conn{
		doh: d, c: c, ctx: ctx, peer: p, head: newH2Head(d),
		in:           make([]byte, 0, h2ReadBuffer),
		now:          time.Now(),
		recvWindow:   h2RecvWindow,
		chores:       h2Allowance{left: h2Burst, perSecond: h2ChoresPerSecond},
		resets:       h2Allowance{left: h2Burst, perSecond: h2ResetsPerSecond},
		streams:      make(map[uint32]*h2Stream),
		lastAnswered: h2MaxStreamID,
		window:       h2DefaultWindow,
		initial:      h2DefaultWindow,
		resizeNext:   true,
	}
	h.written = sync.NewCond(&h.mu)
	h.expiry = time.AfterFunc(time.Hour, h.expire)
	h.expiry.Stop()
	h.fields.init(d)
	h.partial, h.since, h.active = true, h.now, h.now // the preface is due
	return h
}

// serveH2 serves a connection that has agreed on HTTP/2.
func (s *dohTCP) serveH2(stop, kill context.Context, tc *tls.Conn) {
	c, ok := tc.NetConn().(*dohConn)
	if !ok || !s.begin() {
		return
	}
	defer s.work.Done()
	// The server closes what is above c, which would wait for a write that is stuck. See dohConn.uncork.
	defer context.AfterFunc(kill, func() { c.Close() })()
	ctx, cancel := context.WithCancel(kill)
	defer cancel()
	h := newH2Conn(ctx, s.doh, tc, &peer{c.client, c.local, DoH})
	state := tc.ConnectionState()
	h.tls, h.below = &state, c
	c.beforeRead = h.beforeRead
	err := h.serve(stop)
	c.beforeRead = nil
	h.end(err)
	if kill.Err() == nil && !errors.Is(err, io.EOF) {
		h.linger(c)
	}
}

// serve handles frames until the connection ends, and returns why. It takes mu.
func (h *h2Conn) serve(stop context.Context) error {
	defer context.AfterFunc(stop, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wake()
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
		if herr := h.receive(); herr != nil {
			return herr
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

// greet sends our preface. It takes mu. See RFC 9113, Section 3.4.
func (h *h2Conn) greet() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appendSettings(
		h2Setting{h2MaxConcurrentStreams, uint32(h.limits.InFlightPerConn)},
		h2Setting{h2InitialWindowSize, h2StreamWindow},
		h2Setting{h2MaxHeaderListSize, maxHeader},
	)
	h.appendWindowUpdate(0, h2RecvWindow-h2DefaultWindow)
	if h.tls != nil && !h2Suitable(h.tls) {
		return h2InadequateSecurity
	}
	return nil
}

// h2Suitable reports whether HTTP/2 may be spoken over a connection. See RFC 9113, Section 9.2.
func h2Suitable(state *tls.ConnectionState) bool {
	return state.Version >= tls.VersionTLS13 || state.Version == tls.VersionTLS12 && slices.Contains([]uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}, state.CipherSuite)
}

// arm sets the read deadline, unless it is time to end. It takes mu, so that whoever wakes the reader is not
// overruled.
func (h *h2Conn) arm(stop context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	if h.phase == h2Serving && stop.Err() != nil {
		h.announceEnd()
	}
	if h.phase == h2Leaving && h.open == 0 {
		return errDrained
	}
	until := h.deadline()
	// A deadline that is a little early costs less than one that is set for each read.
	if early := until.Sub(h.until); early >= 0 && early < h.limits.IdleTimeout/8 {
		return nil
	}
	h.until = until
	return h.c.SetReadDeadline(until)
}

// deadline returns until when something has to arrive.
func (h *h2Conn) deadline() time.Time {
	switch {
	case h.partial:
		return h.since.Add(h.limits.ReadTimeout)
	case h.phase == h2Announced:
		return h.leaveBy
	case h.open > 0:
		return time.Now().Add(h.limits.IdleTimeout) // streams have deadlines of their own
	}
	return h.active.Add(h.limits.IdleTimeout)
}

// wake has the reader look after itself.
func (h *h2Conn) wake() {
	h.until = longAgo
	_ = h.c.SetReadDeadline(longAgo) // an error means that it ends anyway
}

// timeUp returns an error if the deadline has passed for which the reader was woken. It takes mu.
func (h *h2Conn) timeUp() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = longAgo
	if time.Now().Before(h.deadline()) {
		return nil
	}
	if h.phase == h2Announced && !h.partial {
		h.leave()
		return nil
	}
	return errIdle
}

// announceEnd tells the client that it is to open no more streams. Those that are on their way are still answered:
// they are here when the answer to a PING is. See RFC 9113, Section 6.8.
func (h *h2Conn) announceEnd() {
	h.phase = h2Announced
	h.leaveBy = time.Now().Add(h2GoAwayTime)
	h.appendGoAway(h2NoError)
	h.appendPing(0, h2DrainPing)
}

// leave tells the client which stream is the last that is answered.
func (h *h2Conn) leave() {
	h.phase = h2Leaving
	h.lastAnswered = h.lastID
	h.appendGoAway(h2NoError)
}

// beforeRead writes what is gathered, before the reader waits for more. It takes mu.
func (h *h2Conn) beforeRead() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.giveCredit()
	if h.j != nil {
		h.free(h.j)
		h.j = nil
	}
	h.flush()
	return h.err
}

// end tells the client why, and then ends the wait for answers and waits for all goroutines. It takes mu.
func (h *h2Conn) end(err error) {
	h.mu.Lock()
	h.expiry.Stop()
	var code h2Code
	if errors.As(err, &code); h.phase != h2Leaving || code != h2NoError {
		h.lastAnswered = min(h.lastAnswered, h.lastID)
		h.appendGoAway(code)
	}
	for h.err == nil && (h.out != nil || h.writing) {
		h.flush()
		if h.writing {
			h.written.Wait()
		}
	}
	h.fail(net.ErrClosed)
	for _, s := range h.streams {
		if s.cancel != nil {
			s.cancel()
		}
	}
	h.mu.Unlock()
	h.work.Wait()
}

// fail makes err the reason why nothing is written any more, unless there is one.
func (h *h2Conn) fail(err error) {
	if h.err == nil {
		h.err = err
	}
}

// linger lets the last frames arrive. It is called without mu, by whoever is the last to use h.
func (h *h2Conn) linger(c *dohConn) {
	if tc, ok := h.c.(*tls.Conn); ok {
		if tc.CloseWrite() != nil {
			return
		}
	}
	if c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(h2LingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, h2LingerSize) // the end of it, or of time
	}
}

// h2Code is an error code, and the error that ends a connection with it. See RFC 9113, Section 7.
type h2Code uint32

const (
	h2NoError            h2Code = 0x0
	h2ProtocolError      h2Code = 0x1
	h2InternalError      h2Code = 0x2
	h2FlowControlError   h2Code = 0x3
	h2StreamClosed       h2Code = 0x5
	h2FrameSizeError     h2Code = 0x6
	h2RefusedStream      h2Code = 0x7
	h2Cancel             h2Code = 0x8
	h2CompressionError   h2Code = 0x9
	h2EnhanceYourCalm    h2Code = 0xb
	h2InadequateSecurity h2Code = 0xc
)

func (c h2Code) Error() string { return fmt.Sprintf("HTTP/2 error %#x", uint32(c)) }

// h2Allowance bounds how often a client does something that makes work for us and none for itself.
type h2Allowance struct {
	left, perSecond int
	at              time.Time // when it was last topped up
}

const (
	// h2Burst is what a client has ahead, twice what nghttp2 (1.57) gives.
	h2Burst = 2000
	// h2ResetsPerSecond is nearly the same as in nghttp2. A client with a time limit gives up queries when upstreams
	// are down; one that resets more than that has an attack in mind. See CVE-2023-44487 and CVE-2025-8671.
	h2ResetsPerSecond = 40
	// h2ChoresPerSecond bounds frames that ask for nothing: PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty ones.
	h2ChoresPerSecond = 100
	// h2ChoresPerAnswer is how many such frames come with an answered request. Clients need two WINDOW_UPDATEs at most.
	h2ChoresPerAnswer = 4
)

// spend takes one. That nothing is left is for the reader to find.
func (a *h2Allowance) spend(now time.Time) {
	if s := now.Sub(a.at); s >= time.Second {
		a.left = int(min(float64(h2Burst), float64(a.left)+s.Seconds()*float64(a.perSecond)))
		a.at = now
	}
	a.left--
}

// earn gives n back.
func (a *h2Allowance) earn(n int) { a.left = min(h2Burst, a.left+n) }
