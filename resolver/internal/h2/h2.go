// Package h2 serves HTTP/2 (RFC 9113) for short exchanges: requests and responses that fit in memory, and handlers that
// answer most requests at once.
//
// It knows frames, header compression, flow control and what clients can do to exhaust a server. It does not know what
// is asked: no DNS, no media type and no path. It has no server push, no priorities, no tunnels, no trailers that a
// handler sees and no response that does not fit in memory. It accepts no connections and makes no TLS handshake:
// package resolver, its only caller, hands it connections that have agreed on "h2".
//
// A request goes this way. The goroutine that calls Server.Serve reads frames (conn.go) and hands them to the session
// (session.go, frame.go), which puts a request together (request.go, stream.go) and calls Handler.Answer. An answer at
// once becomes frames in the buffer of the session (write.go), which that goroutine writes before it reads again: a
// burst of requests costs one write. For a request that has to wait the connection starts a goroutine, which calls
// Handler.Wait and writes the response itself. A session does no input or output and takes no lock; its connection
// calls it with a mutex held.
package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Handler answers requests. Both methods are given the same Request and Response, which belong to the connection: they
// may be used until Answer returns NeedsBody or Answered, or until Wait returns, and then not any more.
type Handler interface {
	// Answer answers r in w, or says what has to come first. The connection does nothing else meanwhile, so that Answer
	// must not block. It is called by one goroutine of a connection at a time, and for a request whose body is to come
	// once more when it has.
	Answer(r *Request, w *Response) Outcome
	// Wait answers r in w after Answer has returned Pending, on a goroutine of its own. It must return soon after ctx is
	// done, which says that the client has given the request up or that the connection has ended.
	Wait(ctx context.Context, r *Request, w *Response)
}

// Outcome says what Handler.Answer did.
type Outcome uint8

// The outcomes.
const (
	Answered  Outcome = iota // the response is complete
	NeedsBody                // Answer is to be called again with Request.Body; not returned for a request with Complete
	Pending                  // Wait is to be called
)

// Request is a request as a handler sees it.
type Request struct {
	Method string
	// Target is ":path" as it came, with the query; empty for CONNECT.
	Target string
	// Path is Target without the query and without percent-encoding, where that is valid.
	Path        string
	Authority   string
	ContentType string
	// Length is that of the body in octets as the client has announced it, or -1.
	Length int64
	// Header holds the fields that are not mentioned above, and those that are, if Config.KeepHeader wants them; else
	// nil.
	Header http.Header
	// Complete says that the whole request is here. Else a body follows, which a handler need not wait for.
	Complete bool
	// Body is the body once Complete is set, at most Config.MaxBody octets. For Wait it is in another place than for
	// Answer.
	Body []byte
	// CanWait is false if as many requests wait as may. Pending then refuses the request in a way that tells the client
	// to try again. See RFC 9113, Section 8.7.
	CanWait bool
	// Peer is what was given to Serve.
	Peer any
	// State is the handler's. It starts as nil and keeps its value from Answer to Wait and to later requests, so that
	// buffers in it can be used again. No other request uses it meanwhile.
	State any
}

// Response is a response as a handler leaves it. It is empty when Answer is called, but for the capacity of Body.
type Response struct {
	// Status is the status code. 0 resets the stream with INTERNAL_ERROR.
	Status int
	// Body is the body, to which handlers append. It is announced, but not sent in response to HEAD.
	Body []byte

	fields []byte // in HPACK form
}

// Add adds a header field. "date" and "content-length" are added by the server.
func (w *Response) Add(f Field) { w.fields = append(w.fields, f...) }

// AddUint adds a header field whose value is prefix and the decimal number n, in at most 126 octets.
func (w *Response) AddUint(name FieldName, prefix string, n uint64) {
	w.fields = appendDecimal(w.fields, name, prefix, n)
}

// Config is what a Server needs. All fields but KeepHeader must be set.
type Config struct {
	Handler Handler
	// KeepHeader reports whether the handler wants to see Request.Header for a path, which costs memory for each field.
	// Nil means never.
	KeepHeader func(path string) bool
	// MaxConcurrent is how many requests of a connection may be under way, and how many of its goroutines may answer.
	MaxConcurrent int
	// MaxHeader bounds the header of a request, in octets as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
	MaxHeader int
	// MaxBody bounds the body of a request in octets, of which two may be on their way to us on one connection.
	MaxBody int
	// IdleTimeout ends a connection without a request under way. Other frames do not prolong its life.
	IdleTimeout time.Duration
	// ReadTimeout bounds the time from the first octet of a frame, of a header block or of a request to its last.
	ReadTimeout time.Duration
	// WriteTimeout is how long a client may take to make room for what is written.
	WriteTimeout time.Duration
}

// Server serves HTTP/2 on connections that others have accepted. It is safe for concurrent use.
type Server struct {
	cfg       Config
	exchanges sync.Pool // of *exchange
	buffers   sync.Pool // of *buffer
}

// New returns a server.
func New(cfg Config) *Server {
	return &Server{
		cfg:       cfg,
		exchanges: sync.Pool{New: func() any { return new(exchange) }},
		buffers:   sync.Pool{New: func() any { return new(buffer) }},
	}
}

// Lower is the connection below TLS. Only there is known that a read is about to wait, because nothing is left in the
// buffers of TLS; and only there can several TLS records go out with one write.
type Lower interface {
	net.Conn
	CloseWrite() error
	// Hold has Write keep what it is given, in buf, until Release.
	Hold(buf []byte)
	// Release writes what was held and returns the buffer.
	Release() ([]byte, error)
	// BeforeRead has every Read call f first, and fail if f does. Nil ends that. It is called by the goroutine that
	// reads, between its reads.
	BeforeRead(f func() error)
}

// Serve serves c until it ends, and returns when all goroutines that it has started have. c is a *tls.Conn on top of
// lower, or, in tests, lower itself. When stop is done the client is asked to finish; when kill is done the connection
// is closed. Serve leaves it to its caller to close c. peer is handed on in every Request.
func (s *Server) Serve(stop, kill context.Context, c net.Conn, lower Lower, peer any) {
	// The caller closes what is above lower, which would wait for a write that is stuck.
	defer context.AfterFunc(kill, func() { lower.Close() })()
	ctx, cancel := context.WithCancel(kill)
	defer cancel()
	h := newConn(ctx, s, c, lower, peer)
	lower.BeforeRead(h.beforeRead)
	err := h.serve(stop)
	lower.BeforeRead(nil)
	h.end(err)
	if kill.Err() == nil && !errors.Is(err, io.EOF) {
		h.linger()
	}
}

// exchange is a request, its response and their buffers.
type exchange struct {
	r    Request
	w    Response
	body []byte // holds r.Body while Wait uses it
}

// buffer holds frames that are to be written.
type buffer struct {
	b       []byte
	ends    []int  // where responses end in b
	records []byte // holds TLS records for Lower.Hold
}

const (
	// burstSize is how much is gathered before it is written, which is what fits in one TLS record.
	burstSize = 16 << 10
	// maxPooled is the largest buffer that is kept for reuse, so that memory for one client's large messages is freed.
	maxPooled = 2 * burstSize
)

// exchange returns an empty exchange.
func (s *Server) exchange() *exchange { return s.exchanges.Get().(*exchange) }

// freeExchange takes x back, which nobody may use any more.
func (s *Server) freeExchange(x *exchange) {
	x.r = Request{State: x.r.State} // nothing of a client outlives its request
	if cap(x.body) > maxPooled {
		x.body = nil
	}
	if cap(x.w.Body) > maxPooled {
		x.w.Body = nil
	}
	if cap(x.w.fields) > maxPooled {
		x.w.fields = nil
	}
	s.exchanges.Put(x)
}

func (s *Server) buffer() *buffer { return s.buffers.Get().(*buffer) }

func (s *Server) freeBuffer(b *buffer) {
	if cap(b.b) > maxPooled {
		b.b = nil
	}
	if cap(b.records) > maxPooled {
		b.records = nil
	}
	b.b, b.ends = b.b[:0], b.ends[:0]
	s.buffers.Put(b)
}
