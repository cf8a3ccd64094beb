package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// Bounds of how long replies are kept.
const (
	// maxTTL also caps what clients are told, so that a mistake in a far zone ends within a day.
	maxTTL = 24 * 60 * 60
	// maxNegativeTTL is what has been found to work well. See RFC 2308, Section 5.
	maxNegativeTTL = 3 * 60 * 60
	// failureTTL keeps an upstream's failure from being asked for again by every retry; unansweredTTL does so for
	// our own, shorter, because that ends when an upstream is back. See RFC 9520, Section 3.2.
	failureTTL    = 5
	unansweredTTL = 1
)

// errMalformed means that a message from an upstream cannot be passed on.
var errMalformed = errors.New("resolver: malformed reply")

// ede is an info-code of an Extended DNS Error, or noEDE. See RFC 8914, Section 4.
type ede int32

const (
	noEDE               ede = -1
	edeNotReady             = ede(dns.ExtendedErrorCodeNotReady)
	edeProhibited           = ede(dns.ExtendedErrorCodeProhibited)
	edeNotAuthoritative     = ede(dns.ExtendedErrorCodeNotAuthoritative)
	edeNoReachable          = ede(dns.ExtendedErrorCodeNoReachableAuthority)
	edeNetwork              = ede(dns.ExtendedErrorCodeNetworkError)
	edeInvalidData          = ede(dns.ExtendedErrorCodeInvalidData)
	edeInvalidType          = ede(dns.ExtendedErrorCodeInvalidQueryType)
)

// ExtendedErrors returns the info-codes that a Server says of itself; upstreams may say others. See RFC 9606, Section 5.
func ExtendedErrors() []uint16 {
	return []uint16{
		uint16(edeNotReady), uint16(edeProhibited), uint16(edeNotAuthoritative), uint16(edeNoReachable),
		uint16(edeNetwork), uint16(edeInvalidData), uint16(edeInvalidType),
	}
}

// reply is the answer to one question, made ready to be sent many times. It is never changed once it is shared.
type reply struct {
	// msg has the ID 0, the question in lower case, no flags but AA and AD, and no OPT record. Its compression is
	// relative to its own start and stays valid because all questions that it answers have the same length.
	msg        []byte
	ttls       []uint16 // offsets of the TTLs in msg, ascending
	additional uint16   // offset of the Additional section, or len(msg) if that is empty
	ede        ede
	steered    bool   // it has addresses of the relay
	ttl        uint32 // seconds for which it holds; 0 if it must not be kept
	stored     int64  // when it came, on the clock of the cache
}

// newReply makes a reply of wire, the answer to k that came from an upstream at the time now, or says why it cannot
// be passed on. All of it has been walked afterwards. OPT and the signature of the transaction are taken off: they
// are between the upstream and us.
func newReply(wire []byte, k *key, now int64) (*reply, error) {
	if len(wire) < headerLen || len(wire) > maxMsg || wire[2]&(flagQR|flagTC) != flagQR || !asks(wire, k.bytes()) {
		return nil, errMalformed
	}
	w := walk{msg: wire, qtype: k.qtype(), rcode: uint16(wire[3] & 0xf), minTTL: maxTTL, soaTTL: maxNegativeTTL, ede: noEDE}
	if !w.sections(headerLen + int(k.n)) {
		return nil, errMalformed
	}
	if w.gap {
		return repack(wire, k, now, w.ede)
	}
	r := &reply{msg: bytes.Clone(wire[:w.end]), ttls: slices.Clip(w.ttls), ede: w.ede, ttl: w.ttl(), stored: now}
	r.normalize(k, &w)
	return r, nil
}

// normalize brings the copy of the upstream's message into the form that is kept.
func (p *reply) normalize(k *key, w *walk) {
	clear(p.msg[:2])
	p.msg[2], p.msg[3] = flagQR, p.msg[3]&(flagAD|0xf)
	binary.BigEndian.PutUint16(p.msg[10:], w.kept)
	copy(p.msg[headerLen:], k.bytes())
	p.additional = uint16(min(w.additional, len(p.msg)))
	for _, off := range p.ttls {
		ttl := p.msg[off : off+4]
		binary.BigEndian.PutUint32(ttl, saneTTL(binary.BigEndian.Uint32(ttl)))
	}
	if w.negative() && w.soa != 0 { // it is the SOA that tells clients how long. See RFC 2308, Section 3.
		binary.BigEndian.PutUint32(p.msg[w.soa:], w.soaTTL)
	}
}

// repack is for upstreams that put records behind OPT. They may be compressed across it, so that it cannot just be
// cut out.
func repack(wire []byte, k *key, now int64, e ede) (*reply, error) {
	var m dns.Msg
	if err := m.Unpack(wire); err != nil {
		return nil, errMalformed
	}
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return ofHop(rr.Header().Rrtype) })
	m.Compress = true
	wire, err := m.Pack()
	if err != nil {
		return nil, errMalformed
	}
	r, err := newReply(wire, k, now)
	if err == nil {
		r.ede = e
	}
	return r, err
}

// failure returns the reply to k when there is no better one. It is kept as long as ttl says.
func failure(k *key, e ede, ttl uint32, now int64) *reply {
	msg := make([]byte, headerLen, headerLen+int(k.n))
	msg[2], msg[3], msg[5] = flagQR, dns.RcodeServerFailure, 1
	msg = append(msg, k.bytes()...)
	return &reply{msg: msg, additional: uint16(len(msg)), ede: e, ttl: ttl, stored: now}
}

// minimalAny returns the reply to a question for ANY type. See RFC 8482, Section 4.2.
func minimalAny(k *key, now int64) *reply {
	p := failure(k, noEDE, 0, now)
	p.msg[3], p.msg[7] = dns.RcodeSuccess, 1
	p.ttls = []uint16{uint16(len(p.msg) + 6)}
	p.msg = append(p.msg, 0xc0, headerLen, 0, byte(dns.TypeHINFO), 0, dns.ClassINET, 0, 0, 0x0e, 0x10, 0, 9)
	p.msg = append(append(append(p.msg, 7), "RFC8482"...), 0)
	p.additional = uint16(len(p.msg))
	return p
}

// rcode returns the RCODE. Replies with extended ones are not kept.
func (p *reply) rcode() uint16 { return uint16(p.msg[3] & 0xf) }

// age returns how many whole seconds ago p came.
func (p *reply) age(now int64) uint32 { return uint32((now - p.stored) / int64(time.Second)) }

// fresh reports whether p still holds.
func (p *reply) fresh(now int64) bool { return now-p.stored < int64(p.ttl)*int64(time.Second) }

// remaining returns for how many seconds others may cache p. Failures are for us to cache.
func (p *reply) remaining(now int64) uint32 {
	if rcode := p.rcode(); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	return p.ttl - min(p.ttl, p.age(now))
}

// appendTo appends the message that r gets for p at the time now. What does not fit is left out in whole sections:
// the Additional one, which nobody must miss, or else all of them, with TC. See RFC 2181, Section 9.
func (p *reply) appendTo(dst []byte, r *request, now int64) []byte {
	start, end, lost := len(dst), len(p.msg), headerLen
	room := r.limit() - r.optSize(p.ede)
	if end > room {
		end, lost = int(p.additional), 10
	}
	if end > room {
		end, lost = headerLen+len(r.question), 6
	}
	dst = append(dst, p.msg[:end]...)
	msg := dst[start:]
	clear(msg[lost:headerLen])
	binary.BigEndian.PutUint16(msg, r.id)
	r.copyFlags(msg)
	if lost == 6 {
		msg[2] |= flagTC
	}
	copy(msg[headerLen:], r.question)
	if age := p.age(now); age > 0 {
		subtractTTLs(msg, p.ttls, age)
	}
	return r.appendOPT(dst, start, p.rcode(), p.ede)
}

// wire returns p as a message of its own at the time now.
func (p *reply) wire(now int64) []byte {
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

// size returns the octets of memory that p occupies, with what the allocator rounds up.
func (p *reply) size() int64 {
	n := int64(len(p.msg) + 2*len(p.ttls))
	return n + n/8 + overhead
}

// overhead is what a response occupies besides its message.
const overhead = int64(unsafe.Sizeof(reply{}))

// asks reports whether p is a response to the question of k.
func (p *reply) asks(k *key) bool {
	return len(p.msg) >= headerLen+int(k.n) && bytes.Equal(p.msg[headerLen:headerLen+int(k.n)], k.bytes())
}
