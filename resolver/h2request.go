package resolver

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// h2HpackTable is the size of the dynamic table for requests, the default.
const h2HpackTable = 4096

// h2Fields are the fields of the request at hand. See RFC 9113, Section 8.3.
type h2Fields struct {
	dec   *hpack.Decoder
	other bool // somebody answers other paths, and wants all fields
	path  string

	size      int // as SETTINGS_MAX_HEADER_LIST_SIZE counts it
	tooLarge  bool
	malformed bool
	regular   bool // a regular field has come, after which no pseudo-header field may
	trailer   bool
	seen      h2Pseudo

	method, target, authority string
	contentType               string
	length                    int64 // of the body, or -1
	expects                   bool  // the client waits until it is told to go on
	header                    http.Header
}

// h2Pseudo is a set of pseudo-header fields.
type h2Pseudo uint8

const (
	h2Method h2Pseudo = 1 << iota
	h2Scheme
	h2Path
	h2Authority
)

func (r *h2Fields) init(d *doh) {
	r.dec = hpack.NewDecoder(h2HpackTable, r.add)
	r.other, r.path = d.other != nil, d.path
}

// decode decodes a header block. An error means that the connection cannot go on: the dynamic table is lost.
func (r *h2Fields) decode(block []byte, trailer bool) error {
	*r = h2Fields{dec: r.dec, other: r.other, path: r.path, trailer: trailer, length: -1}
	r.dec.SetEmitEnabled(true)
	if _, err := r.dec.Write(block); err != nil {
		return h2CompressionError
	}
	if r.dec.Close() != nil {
		return h2CompressionError
	}
	if !trailer && !r.tooLarge {
		r.malformed = r.malformed || !r.complete()
	}
	return nil
}

// complete reports whether the pseudo-header fields are those of a request. See RFC 9113, Sections 8.3.1 and 8.5.
func (r *h2Fields) complete() bool {
	if r.method == http.MethodConnect {
		return r.seen == h2Method|h2Authority
	}
	const all = h2Method | h2Scheme | h2Path
	return r.seen&all == all && r.method != "" &&
		(strings.HasPrefix(r.target, "/") || r.target == "*" && r.method == http.MethodOptions)
}

// add takes one field.
func (r *h2Fields) add(f hpack.HeaderField) {
	if r.size += int(f.Size()); r.size > maxHeader {
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
func (r *h2Fields) pseudo(name, value string) bool {
	var bit h2Pseudo
	switch name {
	case ":method":
		bit, r.method = h2Method, value
	case ":scheme":
		bit = h2Scheme
		if value != "https" && value != "http" {
			return false
		}
	case ":path":
		bit, r.target = h2Path, value
	case ":authority":
		bit, r.authority = h2Authority, value
	}
	twice := r.seen&bit != 0
	r.seen |= bit
	return bit != 0 && !twice
}

// field takes a regular field and reports whether it may be there.
func (r *h2Fields) field(name, value string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false // see RFC 9113, Section 8.2.2
	case "te":
		return value == "trailers"
	case "content-length":
		return r.setLength(value)
	case "content-type":
		r.contentType = value
	case "expect":
		r.expects = strings.EqualFold(value, "100-continue")
	}
	if r.other && !r.isDoH() && !r.trailer {
		if r.header == nil {
			r.header = make(http.Header)
		}
		r.header.Add(name, value)
	}
	return true
}

// setLength takes the length of the body, which may be there twice if it is the same. See RFC 9110, Section 8.6.
func (r *h2Fields) setLength(value string) bool {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil || r.length >= 0 && r.length != int64(n) {
		return false
	}
	r.length = int64(n)
	return true
}

// isDoH reports whether the path is that of DoH.
func (r *h2Fields) isDoH() bool {
	path, _, _ := strings.Cut(r.target, "?")
	if path == r.path || !strings.Contains(path, "%") {
		return path == r.path
	}
	path, err := url.PathUnescape(path)
	return err == nil && path == r.path
}

// query returns what is behind the path.
func (r *h2Fields) query() string {
	_, query, _ := strings.Cut(r.target, "?")
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
	return !strings.ContainsAny(value, "\x00\r\n") && strings.Trim(value, " \t") == value
}

// handleHeaders begins a request or the trailers of one. See RFC 9113, Section 6.2.
func (h *h2Conn) handleHeaders(f *h2Frame) error {
	if f.id%2 == 0 {
		return h2ProtocolError
	}
	block, ok := f.unpadded()
	if !ok {
		return h2ProtocolError
	}
	if f.flags&h2FlagPriority != 0 {
		if len(block) < 5 {
			return h2FrameSizeError
		}
		block = block[5:] // see RFC 9113, Section 5.3.2
	}
	if f.id <= h.lastID && h.streams[f.id] == nil {
		return h.reused(f.id)
	}
	ends := f.flags&h2FlagEndStream != 0
	if f.flags&h2FlagEndHeaders == 0 {
		h.block, h.blockID, h.blockEnds = append(h.block[:0], block...), f.id, ends
		return nil
	}
	return h.endHeaders(f.id, block, ends)
}

// reused returns the error of a client that opens a stream a second time: that is known of the last one only. See
// RFC 9113, Section 5.1.1.
func (h *h2Conn) reused(id uint32) error {
	if id == h.lastID {
		return h2StreamClosed
	}
	return h2ProtocolError
}

// handleContinuation goes on with a header block. See RFC 9113, Section 6.10.
func (h *h2Conn) handleContinuation(f *h2Frame) error {
	if h.blockID == 0 {
		return h2ProtocolError
	}
	h.chores.spend(h.now)
	if len(h.block)+len(f.payload) > h2BlockSize {
		return h2EnhanceYourCalm
	}
	h.block = append(h.block, f.payload...)
	if f.flags&h2FlagEndHeaders == 0 {
		return nil
	}
	id, block := h.blockID, h.block
	h.block, h.blockID = nil, 0
	return h.endHeaders(id, block, h.blockEnds)
}

// endHeaders takes a whole header block: of a request, or of trailers if the stream was opened before.
func (h *h2Conn) endHeaders(id uint32, block []byte, ends bool) error {
	trailer := id <= h.lastID
	r := &h.fields
	if err := r.decode(block, trailer); err != nil {
		return err
	}
	if trailer {
		h.trailer(h.streams[id], ends)
		return nil
	}
	h.lastID, h.active = id, h.now
	s := h.beginStream(id, ends)
	switch {
	case h.open >= h.limits.InFlightPerConn || h.phase == h2Leaving:
		h.abort(s, h2RefusedStream)
	case r.malformed || ends && r.length > 0:
		h.abort(s, h2ProtocolError)
	default:
		s.length = r.length
		h.request(s)
	}
	return nil
}

// trailer ends the body of s, and is else ignored. See RFC 9113, Section 8.1.
func (h *h2Conn) trailer(s *h2Stream, ends bool) {
	switch {
	case s == nil: // it has ended while the block came
	case s.state == h2Gone:
		if ends {
			h.forget(s)
		}
	case s.ended:
		h.abort(s, h2StreamClosed)
	case !ends || h.fields.malformed:
		h.abort(s, h2ProtocolError)
	default:
		h.body(s, nil, true)
	}
}

// request answers the request that s begins with, or waits for its message.
func (h *h2Conn) request(s *h2Stream) {
	r := &h.fields
	switch {
	case r.tooLarge:
		h.refuse(s, http.StatusRequestHeaderFieldsTooLarge)
	case !r.isDoH() && r.other:
		h.serveOther(s)
	case !r.isDoH():
		h.refuse(s, http.StatusNotFound)
	case r.method == http.MethodGet:
		h.get(s)
	case r.method == http.MethodPost:
		h.post(s)
	default:
		h.refuse(s, http.StatusMethodNotAllowed)
	}
}

func (h *h2Conn) get(s *h2Stream) {
	j := h.job()
	var status int
	if j.msg, status = readGET(h.fields.query(), j.msg[:0]); status != http.StatusOK {
		h.refuse(s, status)
		return
	}
	h.ask(s, j.msg)
}

func (h *h2Conn) post(s *h2Stream) {
	switch r := &h.fields; {
	case !isDNSMessage(r.contentType):
		h.refuse(s, http.StatusUnsupportedMediaType)
	case r.length > maxMessage:
		h.interrupt(s, http.StatusRequestEntityTooLarge)
	case s.ended:
		h.refuse(s, http.StatusBadRequest)
	default:
		if r.expects {
			h.goOn(s)
		}
		h.track(s).until = h.now.Add(h.limits.ReadTimeout)
	}
}
