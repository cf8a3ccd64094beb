package resolver

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// copyFlags sets what depends on the query in the flags of msg, which are those of a reply. AD is for clients that
// know what it means. See RFC 6840, Section 5.8.
func (r *request) copyFlags(msg []byte) {
	msg[2] |= r.flags[0] & flagRD
	msg[3] |= flagRA | r.flags[1]&flagCD
	if !r.do && r.flags[1]&flagAD == 0 {
		msg[3] &^= flagAD
	}
}

// appendError appends a reply without records.
func (r *request) appendError(dst []byte, rcode uint16, e ede) []byte {
	start := len(dst)
	dst = append(dst, byte(r.id>>8), byte(r.id), flagQR|r.flags[0]&^(flagAA|flagTC), byte(rcode&0xf), 0, 0, 0, 0, 0, 0, 0, 0)
	if r.opcode() == dns.OpcodeQuery {
		r.copyFlags(dst[start:])
	}
	if r.question != nil {
		dst[start+5] = 1
		dst = append(dst, r.question...)
	}
	return r.appendOPT(dst, start, rcode, e)
}

// optSize returns the length of the OPT record that appendOPT writes, without padding.
func (r *request) optSize(e ede) int {
	if !r.edns {
		return 0
	}
	n := optLen
	if e != noEDE {
		n += 6
	}
	if r.tellsIdle() {
		n += 6
	}
	return n
}

// tellsIdle reports whether the reply carries the edns-tcp-keepalive option. See RFC 7828, Section 3.3.2.
func (r *request) tellsIdle() bool { return r.keepalive && r.channel&session != 0 }

// appendOPT ends the reply that begins at start with an OPT record, if the query had one, and pads it if the
// transport is encrypted. See RFC 6891, Section 6.1.2, and RFC 8467, Section 4.1.
func (r *request) appendOPT(dst []byte, start int, rcode uint16, e ede) []byte {
	if !r.edns {
		return dst
	}
	var do byte
	if r.do {
		do = 1 << 7
	}
	dst = append(dst, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, byte(rcode>>4), 0, do, 0, 0, 0)
	options := len(dst)
	if e != noEDE {
		dst = append(dst, 0, dns.EDNS0EDE, 0, 2, byte(e>>8), byte(e))
	}
	if r.tellsIdle() {
		dst = append(dst, 0, dns.EDNS0TCPKEEPALIVE, 0, 2, byte(r.idle>>8), byte(r.idle))
	}
	if r.channel&padded != 0 {
		dst = appendPadding(dst, start, paddingBlock)
	}
	binary.BigEndian.PutUint16(dst[options-2:], uint16(len(dst)-options))
	count := dst[start+10 : start+headerLen]
	binary.BigEndian.PutUint16(count, binary.BigEndian.Uint16(count)+1)
	return dst
}

// appendPadding appends a Padding option that makes the message from start a multiple of block, if there is room for
// one. See RFC 7830.
func appendPadding(dst []byte, start, block int) []byte {
	n := len(dst) + 4 - start
	if n > maxMsg {
		return dst
	}
	pad := min((block-n%block)%block, maxMsg-n)
	dst = append(dst, 0, dns.EDNS0PADDING, byte(pad>>8), byte(pad))
	data := len(dst)
	dst = slices.Grow(dst, pad)[:data+pad]
	clear(dst[data:])
	return dst
}
