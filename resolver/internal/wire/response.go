package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// Bounds of how long responses are kept, in seconds.
const (
	// MaxTTL caps every TTL, also in what clients get, so that a mistake in a far zone ends within a day.
	MaxTTL = 24 * 60 * 60
	// MaxNegativeTTL caps those of negative answers: more has not been found to work well. See RFC 2308, Section 5.
	MaxNegativeTTL = 3 * 60 * 60
	// FailureTTL keeps a question that an upstream failed to answer from being asked for again by every retry. See RFC 9520, Section 3.2.
	FailureTTL = 5
)

// ErrMalformed means that a message from an upstream cannot be passed on.
var ErrMalformed = errors.New("malformed DNS message")

// Response is the answer to one question, made ready to be sent many times. It is never changed once it is shared.
type Response struct {
	// msg has the ID 0, the question in lower case, no flags but AA and AD, and no OPT record. Its compression is
	// relative to its own start and stays valid because all questions that it answers have the same length.
	msg        []byte
	ttls       []uint16 // offsets of the TTLs in msg, ascending
	additional uint16   // offset of the Additional section, or len(msg) if that is empty

	// Given is called for each client that is to get the response, with its age in seconds, and reports whether the client
	// may; nil if there is nothing to do. It does not block. GivenSize is what it keeps, in octets.
	Given     func(client netip.Addr, age uint32) bool
	GivenSize int64

	// The order of these leaves no gaps, because the cache holds many.
	EDNS      bool   // the upstream sent an OPT record
	Negative  bool   // it says, for as long as an SOA record allows, that the name or the type does not exist
	Rewritten bool   // an address in it is not the upstream's; set by whoever rewrote it
	EDE       EDE    // NoEDE if there is none
	TTL       uint32 // seconds for which it holds; 0 if it must not be kept
	Text      string // the EXTRA-TEXT of EDE, see ErrorText; or ""
	Alias     *Key   // the question for the name that it ends with, if the upstream left that out; or nil
	Received  int64  // when it came, in nanoseconds on the clock of the caller
}

// NewResponse makes a response of msg, an upstream's response to k that came at the time now. The error is ErrMalformed
// if it cannot be passed on. Every record of it is looked at. OPT and the signature of the transaction are taken off:
// they are between the upstream and us.
func NewResponse(msg []byte, k *Key, now int64) (*Response, error) {
	if len(msg) < HeaderLen || len(msg) > MaxMessage || msg[2]&(FlagQR|FlagTC) != FlagQR || !asks(msg, k.Bytes()) {
		return nil, ErrMalformed
	}
	w := walk{msg: msg, qtype: k.Type(), rcode: uint16(msg[3] & 0xf), minTTL: MaxTTL, soaTTL: MaxNegativeTTL, ede: NoEDE}
	if !w.sections(HeaderLen + int(k.size)) {
		return nil, ErrMalformed
	}
	if w.gap {
		return repack(msg, k, now, &w)
	}
	r := &Response{msg: bytes.Clone(msg[:w.end]), ttls: slices.Clone(w.ttls), EDE: w.ede, Text: w.text, EDNS: w.opt, TTL: w.ttl(), Received: now}
	r.Negative = w.negative() && w.soa != 0
	r.normalize(k, &w)
	return r, nil
}

// normalize brings the copy of the upstream's message into the form that is kept.
func (p *Response) normalize(k *Key, w *walk) {
	clear(p.msg[:2])
	p.msg[2], p.msg[3] = FlagQR, p.msg[3]&(FlagAD|0xf)
	binary.BigEndian.PutUint16(p.msg[10:], w.kept)
	copy(p.msg[HeaderLen:], k.Bytes())
	p.additional = uint16(min(w.additional, len(p.msg)))
	for _, off := range p.ttls {
		ttl := p.msg[off : off+4]
		binary.BigEndian.PutUint32(ttl, SaneTTL(binary.BigEndian.Uint32(ttl)))
	}
	if w.negative() && w.soa != 0 { // it is the SOA that tells clients how long. See RFC 2308, Section 3.
		binary.BigEndian.PutUint32(p.msg[w.soa:], w.soaTTL)
	}
}

// repack is for upstreams that put records behind OPT. They may be compressed across it, so that it cannot just be
// cut out.
func repack(msg []byte, k *Key, now int64, w *walk) (*Response, error) {
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		return nil, ErrMalformed
	}
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return HopByHop(rr.Header().Rrtype) })
	m.Compress = true
	msg, err := m.Pack()
	if err != nil {
		return nil, ErrMalformed
	}
	r, err := NewResponse(msg, k, now)
	if err == nil {
		r.EDE, r.Text, r.EDNS = w.ede, w.text, w.opt
	}
	return r, err
}

// Failure returns SERVFAIL as the response to k, for when there is no better one. It holds for ttl seconds.
func Failure(k *Key, e EDE, ttl uint32, now int64) *Response {
	msg := make([]byte, HeaderLen, HeaderLen+int(k.size))
	msg[2], msg[3], msg[5] = FlagQR, dns.RcodeServerFailure, 1
	msg = append(msg, k.Bytes()...)
	return &Response{msg: msg, additional: uint16(len(msg)), EDE: e, TTL: ttl, Received: now}
}

// MinimalAny returns the response to a question for ANY type. See RFC 8482, Section 4.2.
func MinimalAny(k *Key, now int64) *Response {
	p := Failure(k, NoEDE, 0, now)
	p.msg[3], p.msg[7] = dns.RcodeSuccess, 1
	p.ttls = []uint16{uint16(len(p.msg) + 6)}
	p.msg = append(p.msg, 0xc0, HeaderLen, 0, byte(dns.TypeHINFO), 0, dns.ClassINET, 0, 0, 0x0e, 0x10, 0, 9)
	p.msg = append(append(append(p.msg, 7), "RFC8482"...), 0)
	p.additional = uint16(len(p.msg))
	return p
}

// Rcode returns the RCODE. Responses with extended ones are not kept.
func (p *Response) Rcode() uint16 { return uint16(p.msg[3] & 0xf) }

// age returns how many whole seconds ago p came.
func (p *Response) age(now int64) uint32 { return uint32((now - p.Received) / int64(time.Second)) }

// Fresh reports whether p still holds at the time now.
func (p *Response) Fresh(now int64) bool { return now-p.Received < int64(p.TTL)*int64(time.Second) }

// Remaining returns for how many seconds others may cache p. Failures are for us to cache.
func (p *Response) Remaining(now int64) uint32 {
	if rcode := p.Rcode(); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	return p.TTL - min(p.TTL, p.age(now))
}

// AppendTo appends the message that q gets for p at the time now. What does not fit is left out: the text of an error, then
// whole sections: the Additional section, which clients can do without, or else all three, with TC set. See RFC 2181,
// Section 9, and RFC 8914, Section 3.
func (p *Response) AppendTo(dst []byte, q *Query, now int64) []byte {
	start, end, lost := len(dst), len(p.msg), HeaderLen
	room, text := q.limit()-q.optSize(p.EDE), p.Text
	if end+len(text) > room {
		text = ""
	}
	if end > room {
		end, lost = int(p.additional), 10
	}
	if end > room {
		end, lost = HeaderLen+len(q.question), 6
	}
	dst = append(dst, p.msg[:end]...)
	msg := dst[start:]
	clear(msg[lost:HeaderLen])
	binary.BigEndian.PutUint16(msg, q.id)
	q.copyFlags(msg)
	if lost == 6 {
		msg[2] |= FlagTC
	}
	copy(msg[HeaderLen:], q.question)
	if age := p.age(now); age > 0 {
		subtractTTLs(msg, p.ttls, age)
	}
	return q.appendOPT(dst, start, p.Rcode(), p.EDE, text)
}

// Give reports whether client may get p. See Given.
func (p *Response) Give(client netip.Addr, now int64) bool {
	return p.Given == nil || p.Given(client, p.age(now))
}

// Octets returns p as a message of its own, with its TTLs as they are at the time now.
func (p *Response) Octets(now int64) []byte {
	msg := bytes.Clone(p.msg)
	subtractTTLs(msg, p.ttls, p.age(now))
	return msg
}

// subtractTTLs ages those of the TTLs at ttls that are within msg.
func subtractTTLs(msg []byte, ttls []uint16, age uint32) {
	for _, off := range ttls {
		if int(off) >= len(msg) {
			return
		}
		ttl := binary.BigEndian.Uint32(msg[off:])
		binary.BigEndian.PutUint32(msg[off:], ttl-min(ttl, age))
	}
}

// Size returns the octets of memory that p occupies, with what the allocator rounds up.
func (p *Response) Size() int64 {
	return int64(cap(p.msg)+2*cap(p.ttls)+len(p.Text)) + overhead + p.GivenSize
}

// overhead is what a response occupies besides its message: a multiple of the 16 octets by which small objects grow, and
// a 64th, in which the collector marks what is in use.
const overhead = (int64(unsafe.Sizeof(Response{})) + 15) / 16 * 16 * 65 / 64

// Answers reports whether p is a response to the question of k.
func (p *Response) Answers(k *Key) bool {
	return len(p.msg) >= HeaderLen+int(k.size) && bytes.Equal(p.msg[HeaderLen:HeaderLen+int(k.size)], k.Bytes())
}

// SetAuthoritative sets AA. It must be called before p is shared.
func (p *Response) SetAuthoritative() { p.msg[2] |= FlagAA }

// ClearAD clears AD, for an upstream that is not to be believed. It must be called before p is shared.
func (p *Response) ClearAD() { p.msg[3] &^= FlagAD }

// Parse returns p taken apart, with the TTLs that it came with.
func (p *Response) Parse() (*Message, error) { return ParseMessage(p.msg) }
