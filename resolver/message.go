package resolver

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	maxName   = 255 // octets of a name in wire form. See RFC 1035, Section 2.3.4.
	maxLabel  = 63
	maxMsg    = 65535
	minUDP    = 512 // what every UDP client takes. See RFC 1035, Section 4.2.1.
	// maxUDP is what we send and take over UDP: with the headers of IPv6 it fits into 1280 octets, so that nothing
	// is fragmented. See RFC 9715, Section 3.
	maxUDP = 1232
	// maxAdditional is how many records a query may carry beside its question. OPT, TSIG and SIG(0) are three.
	maxAdditional = 4
	// paddingBlock is what replies are padded to, queryBlock what queries are. See RFC 8467, Section 4.1.
	paddingBlock = 468
	queryBlock   = 128
	// optLen is an OPT record without options.
	optLen = 11
	// typeMAILA is long obsolete. See RFC 973.
	typeMAILA = 254
)

// Bits of the third and fourth octet of the header.
const (
	flagQR = 1 << 7
	flagAA = 1 << 2
	flagTC = 1 << 1
	flagRD = 1 << 0

	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4
)

// key is what a reply depends on, apart from steering. The class is IN, always.
type key struct {
	flags    uint8 // keyDO, keyCD
	n        uint16
	question [maxName + 4]byte // QNAME in lower case, type, class
}

const (
	keyDO = 1 << iota
	keyCD
)

// bytes returns the question.
func (k *key) bytes() []byte { return k.question[:k.n] }

// name returns QNAME in wire form.
func (k *key) name() []byte { return k.question[:k.n-4] }

// qtype returns the type that is asked for.
func (k *key) qtype() uint16 { return binary.BigEndian.Uint16(k.question[k.n-4:]) }

// set makes k the key of question. Lengths of labels are below 'A', so that a name needs no parsing to be lowered.
func (k *key) set(question []byte, flags uint8) {
	name := question[:len(question)-4]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		k.question[i] = c
	}
	copy(k.question[len(name):], question[len(name):])
	k.n, k.flags = uint16(len(question)), flags
}

// request is a query as its header, question and OPT record describe it. Nothing else of it is ever looked at.
type request struct {
	id        uint16
	flags     [2]byte // octets 3 and 4 of the header
	transport Transport
	question  []byte // QNAME as the client spelt it, type, class; nil if it could not be read
	rcode     uint16 // other than NOERROR if the query is to be refused, extended by EDNS
	ede       ede    // why

	edns      bool
	do        bool
	size      uint16 // the UDP payload the client takes; 0 without EDNS
	keepalive bool   // the client asked how long the connection may idle. See RFC 7828.
	idle      uint16 // the answer, in units of 100 ms

	key key // set if question is
}

// parse reads q and reports whether it may be replied to; r.rcode is the verdict. It does not allocate: r points
// into q.msg.
func (r *request) parse(q *query) bool {
	if len(q.msg) < headerLen || q.msg[2]&flagQR != 0 {
		return false
	}
	r.id = binary.BigEndian.Uint16(q.msg)
	r.flags = [2]byte{q.msg[2], q.msg[3]}
	r.transport = q.transport
	r.ede = noEDE
	r.rcode = r.check(q.msg)
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
	if r.transport != UDP {
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

// questionEnd returns the offset after the first question of msg, or 0 if it cannot be read. Its name is in full:
// there is nothing before it that it could point to.
func questionEnd(msg []byte) int {
	off := headerLen
	for off < len(msg) {
		n := int(msg[off])
		off += 1 + n
		switch {
		case n > maxLabel, off-headerLen > maxName:
			return 0
		case n == 0 && off+4 <= len(msg):
			return off + 4
		case n == 0:
			return 0
		}
	}
	return 0
}

// maxHops bounds the pointers of one name: more than it can have labels are of no use to anyone.
const maxHops = 127

// nameEnd returns the offset after the name at start, or 0 if it is malformed. Pointers are followed, each to
// somewhere before the last, so that they cannot go in circles. What they lead to lies before start, and not across
// one of the TTLs at ttls: those are to change. See RFC 1035, Section 4.1.4.
func nameEnd(msg []byte, start int, ttls []uint16) int {
	end, length, before := 0, 0, start
	for off, hops := start, 0; off < len(msg) && hops <= maxHops; {
		c := int(msg[off])
		next := off + 1 + c
		if c>>6 == 3 {
			next = off + 2
		}
		if next > len(msg) || c>>6 == 1 || c>>6 == 2 || end != 0 && (next > start || touches(ttls, off, next)) {
			return 0
		}
		if c>>6 == 3 {
			end = cmp.Or(end, next)
			off = (c&0x3f)<<8 | int(msg[off+1])
			if off >= before || off < headerLen {
				return 0
			}
			before = off
			hops++
			continue
		}
		if length += 1 + c; length > maxName {
			return 0
		}
		if c == 0 {
			return cmp.Or(end, next)
		}
		off = next
	}
	return 0
}

// touches reports whether one of the TTLs at ttls, which ascend, is at least partly between start and end.
func touches(ttls []uint16, start, end int) bool {
	i, _ := slices.BinarySearchFunc(ttls, start, func(ttl uint16, start int) int { return int(ttl) + 4 - start - 1 })
	return i < len(ttls) && int(ttls[i]) < end
}

// record is where a resource record is in a message. See RFC 1035, Section 4.1.3.
type record struct {
	typ, class uint16
	ttl        uint32
	fixed      int // offset of the type, after the owner name
	data, end  int // offsets of RDATA
}

// readRecord reads the record at off up to its RDATA, all of which is within msg. For ttls, see nameEnd.
func readRecord(msg []byte, off int, ttls []uint16) (record, bool) {
	fixed := nameEnd(msg, off, ttls)
	if fixed == 0 || fixed+10 > len(msg) {
		return record{}, false
	}
	data := fixed + 10
	end := data + int(binary.BigEndian.Uint16(msg[fixed+8:]))
	return record{
		typ:   binary.BigEndian.Uint16(msg[fixed:]),
		class: binary.BigEndian.Uint16(msg[fixed+2:]),
		ttl:   binary.BigEndian.Uint32(msg[fixed+4:]),
		fixed: fixed,
		data:  data,
		end:   end,
	}, end <= len(msg)
}

// readOption splits the first EDNS option off options.
func readOption(options []byte) (code uint16, data, rest []byte, ok bool) {
	if len(options) < 4 {
		return 0, nil, nil, false
	}
	code, n := binary.BigEndian.Uint16(options), int(binary.BigEndian.Uint16(options[2:]))
	if 4+n > len(options) {
		return 0, nil, nil, false
	}
	return code, options[4 : 4+n], options[4+n:], true
}

// optionIn returns the data of the first option with this code, or nil.
func optionIn(options []byte, code uint16) []byte {
	for len(options) > 0 {
		c, data, rest, ok := readOption(options)
		if !ok {
			return nil
		}
		if c == code {
			return data
		}
		options = rest
	}
	return nil
}
