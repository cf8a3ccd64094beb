package h2

import (
	"context"
	"fmt"
	"time"
)

// session is the state of one connection: frames of the client go in, frames for the client come out. Its connection
// calls it with its mutex held.
type session struct {
	// set once
	srv  *Server
	host host
	peer any
	ctx  context.Context // of requests that wait

	now time.Time // set by the connection before each call that depends on it

	// of what arrives
	greeted, settled bool // the client's preface and its SETTINGS have come
	partial          bool // a part of a frame or of a header block has come
	since            time.Time
	active           time.Time // when there last was a request under way
	fields           fields    // of the request that is being read
	block            []byte    // a header block that CONTINUATION goes on with
	blockID          uint32    // the stream that it is for, or 0
	blockEnds        bool      // the stream has nothing after it
	recvWindow       int       // what the client may send on all streams
	credit           int       // what of it is to be given back
	control, resets  allowance // for frames that ask for nothing, and for streams that were reset

	// of streams
	transient    stream  // the one that is being answered, as long as it need not be kept
	spare        *stream // for the next one to keep, which spares an allocation for each POST; or nil
	streams      map[uint32]*stream
	open         int      // streams that are under way
	running      int      // goroutines that answer, also those of streams that were reset
	resetIDs     []uint32 // streams that we have reset, oldest first
	lastID       uint32   // the last stream of the client
	phase        phase
	leaveBy      time.Time // when the second GOAWAY is due
	lastAnswered uint32    // what the last GOAWAY said

	// of what leaves
	out        *buffer   // frames that are not written yet; or nil
	x          *exchange // for the request at hand, or nil
	window     int64     // what we may send on all streams
	initial    int64     // what we may send on a new stream
	blocked    []*stream // have a rest of a response to send
	queued     int       // octets of those rests
	resizeNext bool      // the next header block says that its dynamic table is empty
	date       []byte
	dateSecond int64
}

// host is the connection of a session.
type host interface {
	// start has a goroutine call Handler.Wait and then finish.
	start(ctx context.Context, st *stream, x *exchange)
	// wake has the reader look at the session again.
	wake()
}

// phase says how far a connection is on its way to its end. See RFC 9113, Section 6.8.
type phase uint8

const (
	phaseServing   phase = iota
	phaseAnnounced       // the client was told to stop, but may not know yet
	phaseLeaving         // what comes from now on is not answered
)

// goAwayTime is how long the answer to a PING is waited for that says that the client has seen the first GOAWAY.
const goAwayTime = time.Second

func (s *session) init(ctx context.Context, srv *Server, h host, peer any) {
	now := time.Now()
	*s = session{
		srv: srv, host: h, peer: peer, ctx: ctx,
		now:          now,
		partial:      true, // the preface is due
		since:        now,
		active:       now,
		recvWindow:   srv.recvWindow(),
		control:      allowance{left: allowanceBurst, perSecond: controlPerSecond},
		resets:       allowance{left: allowanceBurst, perSecond: resetsPerSecond},
		streams:      make(map[uint32]*stream),
		lastAnswered: maxStreamID,
		window:       defaultWindow,
		initial:      defaultWindow,
		resizeNext:   true,
	}
	s.fields.init(&srv.cfg)
}

// recvWindow returns what a client may send ahead on all streams, and with it what unfinished requests may take.
func (s *Server) recvWindow() int { return max(defaultWindow, 2*(s.cfg.MaxBody+1)) }

// streamWindow returns what a client may send ahead on one stream: a body that is one octet too long, and padding until
// that is given back.
func (s *Server) streamWindow() int { return s.cfg.MaxBody + 1 + 4*paddingCredit }

// maxBlock bounds a header block that arrives in pieces. Encoded, a list within MaxHeader is smaller: one that is twice
// as long only makes us keep and decode it. See CVE-2024-27316.
func (s *Server) maxBlock() int { return 2 * s.cfg.MaxHeader }

// appendPreface appends our SETTINGS. See RFC 9113, Section 3.4.
func (s *session) appendPreface() {
	s.appendSettings(
		setting{settingMaxConcurrentStreams, uint32(s.srv.cfg.MaxConcurrent)},
		setting{settingInitialWindowSize, uint32(s.srv.streamWindow())},
		setting{settingMaxHeaderListSize, uint32(s.srv.cfg.MaxHeader)},
	)
	if more := s.srv.recvWindow() - defaultWindow; more > 0 {
		s.appendWindowUpdate(0, uint32(more))
	}
}

// deadline returns until when something has to arrive. A part of a frame shortens the time that an idle connection has,
// and never prolongs it: else a client could keep one for ever with halves of frames.
func (s *session) deadline() time.Time {
	until := s.active.Add(s.srv.cfg.IdleTimeout)
	switch {
	case s.phase == phaseAnnounced:
		until = s.leaveBy
	case s.open > 0:
		until = time.Now().Add(s.srv.cfg.IdleTimeout) // streams have deadlines of their own
	}
	if whole := s.since.Add(s.srv.cfg.ReadTimeout); s.partial && whole.Before(until) {
		return whole
	}
	return until
}

// timeUp returns an error if the deadline has passed.
func (s *session) timeUp(now time.Time) error {
	switch {
	case now.Before(s.deadline()):
		return nil
	case s.phase == phaseAnnounced && !now.Before(s.leaveBy):
		s.leave()
		return nil
	}
	return errIdle
}

// announceEnd tells the client, once, that it is to open no more streams. Those that are on their way are still
// answered: they have arrived when the answer to a PING has. See RFC 9113, Section 6.8.
func (s *session) announceEnd() {
	if s.phase != phaseServing {
		return
	}
	s.phase = phaseAnnounced
	s.leaveBy = time.Now().Add(goAwayTime)
	s.appendGoAway(codeNo)
	s.appendPing(0, drainPing)
}

// leave tells the client which stream is the last that is answered.
func (s *session) leave() {
	s.phase = phaseLeaving
	s.lastAnswered = s.lastID
	s.appendGoAway(codeNo)
}

// drained reports whether there is nothing more to answer.
func (s *session) drained() bool { return s.phase == phaseLeaving && s.open == 0 }

// goAway tells the client that the connection ends now, unless it knows.
func (s *session) goAway(c code) {
	if s.phase != phaseLeaving || c != codeNo {
		s.lastAnswered = min(s.lastAnswered, s.lastID)
		s.appendGoAway(c)
	}
}

// cancelAll ends the wait of all requests.
func (s *session) cancelAll() {
	for _, st := range s.streams {
		if st.cancel != nil {
			st.cancel()
		}
	}
}

// beforeRead prepares for a wait of unknown length: the client gets its windows back, and buffers go back to the pool.
func (s *session) beforeRead() {
	s.giveCredit()
	if s.x != nil {
		s.srv.freeExchange(s.x)
		s.x = nil
	}
}

// gathered returns how many octets are to be written.
func (s *session) gathered() int {
	if s.out == nil {
		return 0
	}
	return len(s.out.b)
}

// takeOut returns the frames that are to be written, or nil. They are the caller's.
func (s *session) takeOut() *buffer {
	out := s.out
	s.out = nil
	return out
}

// code is an error code, and the error that ends a connection with it. See RFC 9113, Section 7.
type code uint32

const (
	codeNo                 code = 0x0
	codeProtocol           code = 0x1
	codeInternal           code = 0x2
	codeFlowControl        code = 0x3
	codeStreamClosed       code = 0x5
	codeFrameSize          code = 0x6
	codeRefusedStream      code = 0x7
	codeCancel             code = 0x8
	codeCompression        code = 0x9
	codeEnhanceYourCalm    code = 0xb
	codeInadequateSecurity code = 0xc
)

func (c code) Error() string { return fmt.Sprintf("HTTP/2 error %#x", uint32(c)) }

// allowance bounds how often a client does something that makes work for us and none for itself.
type allowance struct {
	left, perSecond int
	at              time.Time // when it was last topped up
}

const (
	// allowanceBurst is what a client has ahead, twice what nghttp2 (1.57) gives.
	allowanceBurst = 2000
	// resetsPerSecond is nearly the same as in nghttp2. A client with a time limit gives requests up when answers are
	// slow; one that resets more than that attacks. See CVE-2023-44487 and CVE-2025-8671.
	resetsPerSecond = 40
	// controlPerSecond bounds frames that ask for nothing: PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty ones.
	controlPerSecond = 100
	// controlPerAnswer is how many such frames come with an answered request. Clients need two WINDOW_UPDATEs at most.
	controlPerAnswer = 4
)

// spend takes one. The connection ends when less than nothing is left.
func (a *allowance) spend(now time.Time) {
	if d := now.Sub(a.at); d >= time.Second {
		a.left = int(min(float64(allowanceBurst), float64(a.left)+d.Seconds()*float64(a.perSecond)))
		a.at = now
	}
	a.left--
}

// earn gives n back.
func (a *allowance) earn(n int) { a.left = min(allowanceBurst, a.left+n) }
