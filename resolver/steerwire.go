package resolver

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// message is a reply taken apart so that records can be changed and removed. What is not changed stays byte for byte,
// but for the compression of names.
type message struct {
	header   [headerLen]byte
	question []byte // QNAME, type, class
	sections [3][]rr
}

// rr is a record of a message. Its RDATA is data, names and rest in a row.
type rr struct {
	owner      []byte // in wire form, in full
	name       string // owner as text, in lower case with a final dot
	typ, class uint16
	ttl        uint32
	data       []byte
	names      [][]byte // those that may be compressed, in full
	rest       []byte
}

// rrKey names an RRset.
type rrKey struct {
	name string
	typ  uint16
}

// set returns the RRset that the record belongs to, or for a signature the one that it signs.
func (r *rr) set() rrKey {
	if r.typ == dns.TypeRRSIG && len(r.data) >= 2 {
		return rrKey{r.name, binary.BigEndian.Uint16(r.data)}
	}
	return rrKey{r.name, r.typ}
}

// isService reports whether the record is of the SVCB kind, in ServiceMode. See RFC 9460, Section 2.4.3.
func (r *rr) isService() bool { return r.isSVCB() && (r.data[0] != 0 || r.data[1] != 0) }

// isSVCB reports whether the record is of the SVCB kind.
func (r *rr) isSVCB() bool { return r.typ == dns.TypeHTTPS || r.typ == dns.TypeSVCB }

// target returns the name that a CNAME or SVCB record points to as text. It is the owner if an SVCB record in
// ServiceMode says ".", and empty if one in AliasMode does. See RFC 9460, Section 2.5.
func (r *rr) target() string {
	switch {
	case len(r.names[0]) > 1 || r.typ == dns.TypeCNAME:
		return nameText(r.names[0])
	case r.isService():
		return r.name
	}
	return ""
}

// parseReply takes msg apart.
func parseReply(msg []byte) (*message, error) {
	if len(msg) < headerLen || len(msg) > maxMsg || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil, errMalformed
	}
	off := questionEnd(msg)
	if off == 0 {
		return nil, errMalformed
	}
	m := &message{header: [headerLen]byte(msg), question: msg[headerLen:off]}
	for section := range m.sections {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			rec, ok := readRecord(msg, off, nil)
			if !ok {
				return nil, errMalformed
			}
			r := rr{owner: expandName(msg, off), typ: rec.typ, class: rec.class, ttl: rec.ttl}
			r.name = nameText(r.owner)
			if !r.split(msg, rec) {
				return nil, errMalformed
			}
			m.sections[section] = append(m.sections[section], r)
			off = rec.end
		}
	}
	return m, nil
}

// split sets data, names and rest.
func (r *rr) split(msg []byte, rec record) bool {
	before, names := nameLayout(msg[rec.data:rec.end], rec.typ)
	off := rec.data + before
	for range names {
		if off >= rec.end {
			return false
		}
		end := nameEnd(msg, off, nil)
		if end == 0 || end > rec.end {
			return false
		}
		r.names = append(r.names, expandName(msg, off))
		off = end
	}
	if off > rec.end {
		return false
	}
	r.data, r.rest = msg[rec.data:rec.data+before], msg[off:rec.end]
	n := rec.end - rec.data
	return (rec.typ != dns.TypeA || n == 4) && (rec.typ != dns.TypeAAAA || n == 16)
}

// nameLayout returns where the RDATA of a type has names that may be compressed: after how many octets, and how
// many. Beside the types of RFC 3597, Section 4, it knows those whose names must not be compressed but are by some.
func nameLayout(rdata []byte, typ uint16) (before, names int) {
	switch typ {
	case dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeMB, dns.TypeMG, dns.TypeMR, dns.TypePTR,
		dns.TypeDNAME, dns.TypeNSAPPTR, dns.TypeNSEC, dns.TypeNXT:
		return 0, 1
	case dns.TypeSOA, dns.TypeMINFO, dns.TypeRP, dns.TypeTALINK:
		return 0, 2
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeRT, dns.TypeKX, dns.TypeLP, dns.TypeSVCB, dns.TypeHTTPS:
		return 2, 1
	case dns.TypePX:
		return 2, 2
	case dns.TypeSRV:
		return 6, 1
	case dns.TypeRRSIG, dns.TypeSIG:
		return 18, 1
	case dns.TypeNAPTR: // order, preference and three strings. See RFC 3403, Section 4.1.
		before = 4
		for range 3 {
			if before < len(rdata) {
				before += int(rdata[before])
			}
			before++
		}
		return before, 1
	}
	return len(rdata), 0
}

// compresses reports whether names in the RDATA of a type are written compressed. See RFC 3597, Section 4.
func compresses(typ uint16) bool {
	switch typ {
	case dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeSOA, dns.TypeMX:
		return true
	}
	return false
}

// expandName returns the name at off without compression. It has been checked by nameEnd.
func expandName(msg []byte, off int) []byte {
	name := make([]byte, 0, 64)
	for {
		switch c := int(msg[off]); {
		case c == 0:
			return append(name, 0)
		case c > maxLabel:
			off = (c&0x3f)<<8 | int(msg[off+1])
		default:
			name = append(name, msg[off:off+1+c]...)
			off += 1 + c
		}
	}
}

// nameText returns a name in full as text, in lower case with a final dot.
func nameText(name []byte) string {
	text, _, _ := dns.UnpackDomainName(name, 0)
	return strings.ToLower(text)
}

// pack puts the reply together, with its names compressed.
func (m *message) pack() ([]byte, error) {
	p := packer{msg: slices.Concat(m.header[:], m.question), at: make(map[string]int)}
	qname := m.question[:len(m.question)-4]
	p.note(qname, len(qname)-1, headerLen)
	for section, rrs := range m.sections {
		binary.BigEndian.PutUint16(p.msg[6+2*section:], uint16(len(rrs)))
		for i := range rrs {
			p.record(&rrs[i])
		}
	}
	if len(p.msg) > maxMsg {
		return nil, errMalformed
	}
	return p.msg, nil
}

// packer appends records to a message.
type packer struct {
	msg []byte
	at  map[string]int // offsets of names that pointers can reach, in the case they are written in
}

// record appends r.
func (p *packer) record(r *rr) {
	p.name(r.owner)
	p.msg = binary.BigEndian.AppendUint16(p.msg, r.typ)
	p.msg = binary.BigEndian.AppendUint16(p.msg, r.class)
	p.msg = binary.BigEndian.AppendUint32(p.msg, r.ttl)
	start := len(p.msg) + 2
	p.msg = append(append(p.msg, 0, 0), r.data...)
	for _, name := range r.names {
		if compresses(r.typ) {
			p.name(name)
		} else {
			p.msg = append(p.msg, name...)
		}
	}
	p.msg = append(p.msg, r.rest...)
	binary.BigEndian.PutUint16(p.msg[start-2:], uint16(len(p.msg)-start))
}

// name appends name: the labels that are new, and a pointer to the rest if that is in the message already. See RFC
// 1035, Section 4.1.4.
func (p *packer) name(name []byte) {
	i := 0
	for ; name[i] != 0; i += 1 + int(name[i]) {
		if _, ok := p.at[string(name[i:])]; ok {
			break
		}
	}
	off := p.at[string(name[i:])]
	p.note(name, i, len(p.msg))
	if p.msg = append(p.msg, name[:i]...); name[i] == 0 {
		p.msg = append(p.msg, 0)
		return
	}
	p.msg = binary.BigEndian.AppendUint16(p.msg, 0xc000|uint16(off))
}

// note remembers where the names are that begin with the labels in the first n octets of name, written at off.
func (p *packer) note(name []byte, n, off int) {
	for i := 0; i < n && off+i < 1<<14; i += 1 + int(name[i]) {
		p.at[string(name[i:])] = off + i
	}
}
