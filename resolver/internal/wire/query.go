package wire

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Query is a query as its header, question and OPT record describe it. Nothing else of it is ever looked at.
type Query struct {
	Key   Key    // set if Rcode is 0
	Rcode uint16 // other than NOERROR if the query is to be refused, extended by EDNS
	EDE   EDE    // why, or NoEDE

	// IdleTimeout is what the client gets to know if it asks how long the connection may be idle, in units of 100 ms.
	// The caller sets it. See RFC 7828, Section 3.1.
	IdleTimeout uint16

	channel  Channel
	id       uint16
	flags    [2]byte // octets 3 and 4 of the header
	question []byte  // QNAME as the client spelt it, type, class; nil if it could not be read

	edns      bool
	do        bool
	size      uint16 // the UDP payload that the client takes; 0 without EDNS
	keepAlive bool   // the client asks how long the connection may be idle
}

// Parse sets q to the query in msg, which came over c, and reports whether it may get a response at all; q.Rcode is the
// verdict on it. It does not allocate: q points into msg, which must not change while q is used.
func (q *Query) Parse(msg []byte, c Channel) bool {
	*q = Query{channel: c, EDE: NoEDE}
	if len(msg) < HeaderLen || msg[2]&FlagQR != 0 {
		return false
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = [2]byte{msg[2], msg[3]}
	q.Rcode = q.check(msg)
	return true
}

// Rebind makes q point into msg, to which the message that q was parsed from has been moved or copied.
func (q *Query) Rebind(msg []byte) { q.question = msg[HeaderLen : HeaderLen+len(q.question)] }

// check reads what follows the flags and returns the RCODE that the message deserves. The counts are looked at
// before anything that they count. See RFC 8906, Section 3, for what is expected of whom.
func (q *Query) check(msg []byte) uint16 {
	if q.opcode() != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	additional := binary.BigEndian.Uint16(msg[10:])
	if binary.BigEndian.Uint16(msg[4:]) != 1 || binary.BigEndian.Uint32(msg[6:]) != 0 || additional > maxAdditional {
		return dns.RcodeFormatError
	}
	off := questionEnd(msg)
	if off == 0 {
		return dns.RcodeFormatError
	}
	q.question = msg[HeaderLen:off]
	if rcode := q.checkAdditional(msg, off, int(additional)); rcode != 0 {
		return rcode
	}
	var flags uint8
	if q.do {
		flags |= DO
	}
	if q.flags[1]&FlagCD != 0 {
		flags |= CD
	}
	q.Key.Set(q.question, flags)
	return q.checkQuestion()
}

// opcode returns the OPCODE of the query.
func (q *Query) opcode() int { return int(q.flags[0]>>3) & 0xf }

// RecursionDesired reports whether the client wants upstreams to be asked.
func (q *Query) RecursionDesired() bool { return q.flags[0]&FlagRD != 0 }

// checkAdditional reads the OPT record, which may be anywhere among the count records at off. Others, such as
// signatures of transactions, which we have no key to check, are skipped. See RFC 6891, Section 6.1.1.
func (q *Query) checkAdditional(msg []byte, off, count int) uint16 {
	var version uint8
	var options []byte
	for range count {
		rec, ok := readPosition(msg, off, nil)
		if !ok {
			return dns.RcodeFormatError
		}
		if rec.typ == dns.TypeOPT {
			if q.edns || msg[off] != 0 {
				return dns.RcodeFormatError
			}
			q.edns, q.size, version, q.do = true, rec.class, uint8(rec.ttl>>16), rec.ttl&(1<<15) != 0
			options = msg[rec.data:rec.end]
		}
		off = rec.end
	}
	switch {
	case off != len(msg):
		return dns.RcodeFormatError
	case version != 0:
		return dns.RcodeBadVers
	}
	return q.checkOptions(options)
}

// checkOptions looks for the options that we know and skips the others, none of which is ever echoed.
func (q *Query) checkOptions(options []byte) uint16 {
	for len(options) > 0 {
		code, data, rest, ok := readOption(options)
		if !ok {
			return dns.RcodeFormatError
		}
		if code == dns.EDNS0TCPKEEPALIVE {
			q.keepAlive = len(data) == 0
		}
		options = rest
	}
	return 0
}

// checkQuestion refuses what no resolver is asked for. Transfers are for authoritative servers, and the types up to
// MAILA are not of data that anyone has.
func (q *Query) checkQuestion() uint16 {
	if binary.BigEndian.Uint16(q.question[len(q.question)-2:]) != dns.ClassINET {
		return dns.RcodeRefused
	}
	switch q.Key.Type() {
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG:
		return dns.RcodeFormatError
	case dns.TypeNXNAME: // See RFC 9824, Section 3.5.
		q.EDE = EDEInvalidType
		return dns.RcodeFormatError
	case dns.TypeTKEY, dns.TypeIXFR, dns.TypeAXFR:
		return dns.RcodeRefused
	case dns.TypeMAILB, typeMAILA:
		return dns.RcodeNotImplemented
	}
	return 0
}

// limit returns how long a response may be.
func (q *Query) limit() int {
	if q.channel&Datagram == 0 {
		return MaxMessage
	}
	return min(max(minUDP, int(q.size)), MaxUDP)
}

// HasKeepAlive reports whether the query msg carries the edns-tcp-keepalive option, which is a protocol error over
// QUIC. See RFC 9250, Section 5.5.2.
func HasKeepAlive(msg []byte) bool {
	if len(msg) < HeaderLen {
		return false
	}
	off := questionEnd(msg)
	for range min(int(binary.BigEndian.Uint16(msg[10:])), maxAdditional) {
		rec, ok := readPosition(msg, off, nil)
		if !ok || off == 0 {
			return false
		}
		if rec.typ == dns.TypeOPT && optionIn(msg[rec.data:rec.end], dns.EDNS0TCPKEEPALIVE) != nil {
			return true
		}
		off = rec.end
	}
	return false
}
