package h2

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// hpackTable is the size of the dynamic table for requests, the default.
const hpackTable = 4096

// fields are the header fields of the request that is being read. See RFC 9113, Section 8.3.
type fields struct {
	cfg *Config
	dec *hpack.Decoder

	size      int // as SETTINGS_MAX_HEADER_LIST_SIZE counts it
	tooLarge  bool
	malformed bool
	regular   bool // a regular field has come, after which no pseudo-header field may
	trailer   bool
	seen      pseudoFields
	keep      bool // the handler wants all fields

	r       Request
	expects bool // the client waits until it is told to go on
}

// pseudoFields is a set of pseudo-header fields.
type pseudoFields uint8

const (
	pseudoMethod pseudoFields = 1 << iota
	pseudoScheme
	pseudoPath
	pseudoAuthority
)

func (r *fields) init(cfg *Config) {
	r.cfg = cfg
	r.dec = hpack.NewDecoder(hpackTable, r.add)
}

// decode decodes a header block. An error means that the connection cannot go on: the dynamic table is lost.
func (r *fields) decode(block []byte, trailer bool) error {
	*r = fields{cfg: r.cfg, dec: r.dec, trailer: trailer, r: Request{Length: -1}}
	r.dec.SetEmitEnabled(true)
	if _, err := r.dec.Write(block); err != nil {
		return codeCompression
	}
	if r.dec.Close() != nil {
		return codeCompression
	}
	if !trailer && !r.tooLarge {
		r.malformed = r.malformed || !r.complete()
	}
	return nil
}

// complete reports whether the pseudo-header fields are those of a request. See RFC 9113, Sections 8.3.1 and 8.5.
func (r *fields) complete() bool {
	if r.r.Method == http.MethodConnect {
		return r.seen == pseudoMethod|pseudoAuthority
	}
	const all = pseudoMethod | pseudoScheme | pseudoPath
	return r.seen&all == all && r.r.Method != "" &&
		(strings.HasPrefix(r.r.Target, "/") || r.r.Target == "*" && r.r.Method == http.MethodOptions)
}

// add takes one field.
func (r *fields) add(f hpack.HeaderField) {
	if r.size += int(f.Size()); r.size > r.cfg.MaxHeader {
		r.tooLarge = true
		r.dec.SetEmitEnabled(false) // the rest is for the dynamic table only
		return
	}
	ok := validValue(f.Value)
	if strings.HasPrefix(f.Name, ":") {
		ok = ok && !r.regular && !r.trailer && r.pseudo(f.Name, f.Value)
	} else {
		r.regular = true
		ok = ok && validName(f.Name) && r.field(f.Name, f.Value)
	}
	r.malformed = r.malformed || !ok
}

// pseudo takes a pseudo-header field and reports whether it may be there.
func (r *fields) pseudo(name, value string) bool {
	var bit pseudoFields
	switch name {
	case ":method":
		bit, r.r.Method = pseudoMethod, value
	case ":scheme":
		bit = pseudoScheme
		if value != "https" && value != "http" {
			return false
		}
	case ":path":
		bit = pseudoPath
		r.setTarget(value)
	case ":authority":
		bit, r.r.Authority = pseudoAuthority, value
	}
	twice := r.seen&bit != 0
	r.seen |= bit
	return bit != 0 && !twice
}

func (r *fields) setTarget(target string) {
	path, _, _ := strings.Cut(target, "?")
	if strings.Contains(path, "%") {
		if plain, err := url.PathUnescape(path); err == nil {
			path = plain
		}
	}
	r.r.Target, r.r.Path = target, path
	r.keep = r.cfg.KeepHeader != nil && r.cfg.KeepHeader(path)
}

// field takes a regular field and reports whether it may be there.
func (r *fields) field(name, value string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false // see RFC 9113, Section 8.2.2
	case "te":
		return value == "trailers"
	case "content-length":
		return r.setLength(value)
	case "content-type":
		r.r.ContentType = value
	case "expect":
		r.expects = strings.EqualFold(value, "100-continue")
	}
	if r.keep && !r.trailer {
		if r.r.Header == nil {
			r.r.Header = make(http.Header)
		}
		r.r.Header.Add(name, value)
	}
	return true
}

// setLength takes the length of the body, which may be there twice if it is the same. See RFC 9110, Section 8.6.
func (r *fields) setLength(value string) bool {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil || r.r.Length >= 0 && r.r.Length != int64(n) {
		return false
	}
	r.r.Length = int64(n)
	return true
}

// Query returns what follows the path in Target, without the question mark.
func (r *Request) Query() string {
	_, query, _ := strings.Cut(r.Target, "?")
	return query
}

// validName reports whether name is that of a regular field: a token in lower case. See RFC 9113, Section 8.2.1.
func validName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}

// validValue reports whether value is free of what separates lines, and of blanks around it. See RFC 9113,
// Section 8.2.1.
func validValue(value string) bool {
	for i := range len(value) {
		switch value[i] {
		case 0, '\r', '\n':
			return false
		}
	}
	return value == "" || !isBlank(value[0]) && !isBlank(value[len(value)-1])
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// handleHeaders begins a request or the trailers of one. See RFC 9113, Section 6.2.
func (s *session) handleHeaders(f *frame) error {
	if f.id%2 == 0 {
		return codeProtocol
	}
	block, ok := f.unpadded()
	if !ok {
		return codeProtocol
	}
	if f.flags&flagPriority != 0 {
		if len(block) < 5 {
			return codeFrameSize
		}
		block = block[5:] // see RFC 9113, Section 5.3.2
	}
	if f.id <= s.lastID && s.streams[f.id] == nil {
		return s.reused(f.id)
	}
	ends := f.flags&flagEndStream != 0
	if f.flags&flagEndHeaders == 0 {
		s.block, s.blockID, s.blockEnds = append(s.block[:0], block...), f.id, ends
		return nil
	}
	return s.endHeaders(f.id, block, ends)
}

// reused returns the error of a client that opens a stream a second time: that is known of the last one only. See
// RFC 9113, Section 5.1.1.
func (s *session) reused(id uint32) error {
	if id == s.lastID {
		return codeStreamClosed
	}
	return codeProtocol
}

// handleContinuation goes on with a header block. See RFC 9113, Section 6.10.
func (s *session) handleContinuation(f *frame) error {
	if s.blockID == 0 {
		return codeProtocol
	}
	s.control.spend(s.now)
	if len(s.block)+len(f.payload) > s.srv.maxBlock() {
		return codeEnhanceYourCalm
	}
	s.block = append(s.block, f.payload...)
	if f.flags&flagEndHeaders == 0 {
		return nil
	}
	id, block := s.blockID, s.block
	s.block, s.blockID = nil, 0
	return s.endHeaders(id, block, s.blockEnds)
}

// endHeaders takes a whole header block: of a request, or of trailers if the stream was opened before.
func (s *session) endHeaders(id uint32, block []byte, ends bool) error {
	trailer := id <= s.lastID
	r := &s.fields
	if err := r.decode(block, trailer); err != nil {
		return err
	}
	if trailer {
		s.trailer(s.streams[id], ends)
		return nil
	}
	s.lastID, s.active = id, s.now
	st := s.beginStream(id, ends)
	switch {
	case s.open >= s.srv.cfg.MaxConcurrent || s.phase == phaseLeaving:
		s.abort(st, codeRefusedStream)
	case r.malformed || ends && r.r.Length > 0:
		s.abort(st, codeProtocol)
	case r.tooLarge:
		s.refuse(st, http.StatusRequestHeaderFieldsTooLarge)
	default:
		r.r.Complete = ends
		st.length = r.r.Length
		s.answer(st, &r.r, nil)
	}
	return nil
}

// trailer ends the body of st, and is otherwise ignored. See RFC 9113, Section 8.1.
func (s *session) trailer(st *stream, ends bool) {
	switch {
	case st == nil: // it has ended while the block came
	case st.state == streamReset:
		if ends {
			s.forget(st)
		}
	case st.ended:
		s.abort(st, codeStreamClosed)
	case !ends || s.fields.malformed:
		s.abort(st, codeProtocol)
	default:
		s.body(st, nil, true)
	}
}

// answer has the handler answer r, whose body is body if r is complete.
func (s *session) answer(st *stream, r *Request, body []byte) {
	x := s.exchange()
	state := x.r.State
	x.r = *r
	x.r.Body, x.r.Peer, x.r.State, x.r.CanWait = body, s.peer, state, s.running < s.srv.cfg.MaxConcurrent
	x.w = Response{Body: x.w.Body[:0], fields: x.w.fields[:0]}
	switch did := s.srv.cfg.Handler.Answer(&x.r, &x.w); {
	case did == Pending:
		s.later(st, x)
	case did == NeedsBody && !r.Complete:
		s.awaitBody(st, r)
	case did == Answered:
		s.respond(st, x)
	default:
		s.abort(st, codeInternal)
	}
}

// awaitBody keeps r until its body has come.
func (s *session) awaitBody(st *stream, r *Request) {
	if r.Length > int64(s.srv.cfg.MaxBody) {
		s.interrupt(st, http.StatusRequestEntityTooLarge)
		return
	}
	if s.fields.expects {
		s.goOn(st)
	}
	st = s.track(st)
	st.r, st.until = *r, s.now.Add(s.srv.cfg.ReadTimeout)
}
