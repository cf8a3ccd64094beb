package resolver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// request is a query as its header, question and OPT record describe it. Nothing else of it is ever looked at.
type request struct {
	id       uint16
	flags    [2]byte // octets 3 and 4 of the header
	channel  channel
	question []byte // QNAME as the client spelt it, type, class; nil if it could not be read
	rcode    uint16 // other than NOERROR if the query is to be refused, extended by EDNS
	ede      ede    // why

	edns      bool
	do        bool
	size      uint16 // the UDP payload the client takes; 0 without EDNS
	keepalive bool   // the client asked how long the connection may idle. See RFC 7828.
	idle      uint16 // the answer, in units of 100 ms

	key key // set if question is
}

// parse sets r to the query in msg, which came over c, and reports whether it may get a response; r.rcode is the
// verdict. It does not allocate: r points into msg.
func (r *request) parse(msg []byte, c channel) bool {
	*r = request{channel: c, ede: noEDE}
	if len(msg) < headerLen || msg[2]&flagQR != 0 {
		return false
	}
	r.id = binary.BigEndian.Uint16(msg)
	r.flags = [2]byte{msg[2], msg[3]}
	r.rcode = r.check(msg)
	return true
}

// check reads what follows the flags and returns the RCODE that the message deserves. The counts are looked at
// before anything that they count. See RFC 8906, Section 3, for what is expected of whom.
func (r *request) check(msg []byte) uint16 {
	if r.opcode() != dns.OpcodeQuery {
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
	r.question = msg[headerLen:off]
	if rcode := r.checkAdditional(msg, off, int(additional)); rcode != 0 {
		return rcode
	}
	var flags uint8
	if r.do {
		flags |= keyDO
	}
	if r.flags[1]&flagCD != 0 {
		flags |= keyCD
	}
	r.key.set(r.question, flags)
	return r.checkQuestion()
}

// opcode returns the OPCODE of the query.
func (r *request) opcode() int { return int(r.flags[0]>>3) & 0xf }

// recursion reports whether the client wants us to ask others.
func (r *request) recursion() bool { return r.flags[0]&flagRD != 0 }

// checkAdditional reads the OPT record, which may be anywhere among the count records at off. Others, such as
// signatures of transactions, which we have no key to check, are skipped. See RFC 6891, Section 6.1.1.
func (r *request) checkAdditional(msg []byte, off, count int) uint16 {
	var version uint8
	var options []byte
	for range count {
		rec, ok := readRecord(msg, off, nil)
		if !ok {
			return dns.RcodeFormatError
		}
		if rec.typ == dns.TypeOPT {
			if r.edns || msg[off] != 0 {
				return dns.RcodeFormatError
			}
			r.edns, r.size, version, r.do = true, rec.class, uint8(rec.ttl>>16), rec.ttl&(1<<15) != 0
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
	return r.checkOptions(options)
}

// checkOptions looks for the options that we know and skips the others, none of which is ever echoed.
func (r *request) checkOptions(options []byte) uint16 {
	for len(options) > 0 {
		code, data, rest, ok := readOption(options)
		if !ok {
			return dns.RcodeFormatError
		}
		if code == dns.EDNS0TCPKEEPALIVE {
			r.keepalive = len(data) == 0
		}
		options = rest
	}
	return 0
}

// checkQuestion refuses what no resolver is asked for. Transfers are for authoritative servers, and the types up to
// MAILA are not of data that anyone has.
func (r *request) checkQuestion() uint16 {
	if binary.BigEndian.Uint16(r.question[len(r.question)-2:]) != dns.ClassINET {
		return dns.RcodeRefused
	}
	switch r.key.qtype() {
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG:
		return dns.RcodeFormatError
	case dns.TypeNXNAME: // See RFC 9824, Section 3.5.
		r.ede = edeInvalidType
		return dns.RcodeFormatError
	case dns.TypeTKEY, dns.TypeIXFR, dns.TypeAXFR:
		return dns.RcodeRefused
	case dns.TypeMAILB, typeMAILA:
		return dns.RcodeNotImplemented
	}
	return 0
}

// limit returns how long a reply may be.
func (r *request) limit() int {
	if r.channel&datagram == 0 {
		return maxMsg
	}
	return min(max(minUDP, int(r.size)), maxUDP)
}

// hasKeepalive reports whether the query msg carries the edns-tcp-keepalive option, which is a protocol error over
// QUIC. See RFC 9250, Section 5.5.2.
func hasKeepalive(msg []byte) bool {
	if len(msg) < headerLen {
		return false
	}
	off := questionEnd(msg)
	for range min(int(binary.BigEndian.Uint16(msg[10:])), maxAdditional) {
		rec, ok := readRecord(msg, off, nil)
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
