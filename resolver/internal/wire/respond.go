package wire

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// copyFlags sets what depends on the query in the flags of msg, which are those of a response. AD is for clients that
// know what it means. See RFC 6840, Section 5.8.
func (q *Query) copyFlags(msg []byte) {
	msg[2] |= q.flags[0] & FlagRD
	msg[3] |= FlagRA | q.flags[1]&FlagCD
	if !q.do && q.flags[1]&FlagAD == 0 {
		msg[3] &^= FlagAD
	}
}

// AppendError appends a response without records.
func (q *Query) AppendError(dst []byte, rcode uint16, e EDE) []byte {
	start := len(dst)
	dst = append(dst, byte(q.id>>8), byte(q.id), FlagQR|q.flags[0]&^(FlagAA|FlagTC), byte(rcode&0xf), 0, 0, 0, 0, 0, 0, 0, 0)
	if q.opcode() == dns.OpcodeQuery {
		q.copyFlags(dst[start:])
	}
	if q.question != nil {
		dst[start+5] = 1
		dst = append(dst, q.question...)
	}
	return q.appendOPT(dst, start, rcode, e, "")
}

// AppendTruncated appends a response that has no records and says that there are some. See RFC 1035, Section 4.1.1.
func (q *Query) AppendTruncated(dst []byte) []byte {
	start := len(dst)
	dst = q.AppendError(dst, dns.RcodeSuccess, NoEDE)
	dst[start+2] |= FlagTC
	return dst
}

// optSize returns the length of the OPT record that appendOPT writes, without padding and without text.
func (q *Query) optSize(e EDE) int {
	if !q.edns {
		return 0
	}
	n := optLen
	if e != NoEDE {
		n += 6
	}
	if q.tellsIdle() {
		n += 6
	}
	return n
}

// tellsIdle reports whether the response carries the edns-tcp-keepalive option. See RFC 7828, Section 3.3.2.
func (q *Query) tellsIdle() bool { return q.keepAlive && q.channel&Session != 0 }

// appendOPT ends the response that begins at start with an OPT record, if the query had one, in which e, if it is one, has
// the EXTRA-TEXT text, and pads it if the
// transport is encrypted. See RFC 6891, Section 6.1.2, and RFC 8467, Section 4.1.
func (q *Query) appendOPT(dst []byte, start int, rcode uint16, e EDE, text string) []byte {
	if !q.edns {
		return dst
	}
	var do byte
	if q.do {
		do = 1 << 7
	}
	dst = append(dst, 0, 0, byte(dns.TypeOPT), MaxUDP>>8, MaxUDP&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
	options := len(dst)
	if e != NoEDE {
		n := 2 + len(text)
		dst = append(append(dst, 0, dns.EDNS0EDE, byte(n>>8), byte(n), byte(e>>8), byte(e)), text...)
	}
	if q.tellsIdle() {
		dst = append(dst, 0, dns.EDNS0TCPKEEPALIVE, 0, 2, byte(q.IdleTimeout>>8), byte(q.IdleTimeout))
	}
	if q.channel&Padded != 0 {
		dst = appendPadding(dst, start, paddingBlock)
	}
	binary.BigEndian.PutUint16(dst[options-2:], uint16(len(dst)-options))
	count := dst[start+10 : start+HeaderLen]
	binary.BigEndian.PutUint16(count, binary.BigEndian.Uint16(count)+1)
	return dst
}

// appendPadding appends a Padding option that makes the message from start a multiple of block, if there is room for
// one. See RFC 7830.
func appendPadding(dst []byte, start, block int) []byte {
	n := len(dst) + 4 - start
	if n > MaxMessage {
		return dst
	}
	pad := min((block-n%block)%block, MaxMessage-n)
	dst = append(dst, 0, dns.EDNS0PADDING, byte(pad>>8), byte(pad))
	data := len(dst)
	dst = slices.Grow(dst, pad)[:data+pad]
	clear(dst[data:])
	return dst
}
