package wire

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Message is a response taken apart so that records can be changed and removed. What is not changed stays byte for byte,
// but for the compression of names.
type Message struct {
	Header   [HeaderLen]byte // Pack sets the counts
	Question []byte          // QNAME, type, class
	Sections [3][]Record     // by AnswerSection, AuthoritySection, AdditionalSection
}

// Record is a resource record of a Message. Its RDATA is Data, Names and Rest in a row.
type Record struct {
	Owner       []byte // in wire form, in full
	Name        string // owner as text, in lower case with a final dot
	Type, Class uint16
	TTL         uint32   // seconds, as it came; see SaneTTL
	Data        []byte   // RDATA up to the first name that may be compressed
	Names       [][]byte // those that may be compressed, in full
	Rest        []byte   // RDATA behind Names
}

// RRset is the name and type of an RRset.
type RRset struct {
	name string
	Type uint16
}

// RRset returns the RRset that the record belongs to, or for a signature the one that it signs.
func (r *Record) RRset() RRset {
	if r.Type == dns.TypeRRSIG && len(r.Data) >= 2 {
		return RRset{r.Name, binary.BigEndian.Uint16(r.Data)}
	}
	return RRset{r.Name, r.Type}
}

// IsService reports whether the record is of the SVCB kind, in ServiceMode. See RFC 9460, Section 2.4.3.
func (r *Record) IsService() bool { return r.IsSVCB() && (r.Data[0] != 0 || r.Data[1] != 0) }

// IsSVCB reports whether the record is of the SVCB kind.
func (r *Record) IsSVCB() bool { return r.Type == dns.TypeHTTPS || r.Type == dns.TypeSVCB }

// Target returns the name that a CNAME or SVCB record points to as text. It is the owner if an SVCB record in
// ServiceMode says ".", and empty if one in AliasMode does. See RFC 9460, Section 2.5.
func (r *Record) Target() string {
	switch {
	case len(r.Names[0]) > 1 || r.Type == dns.TypeCNAME:
		return NameText(r.Names[0])
	case r.IsService():
		return r.Name
	}
	return ""
}

// ParseMessage takes msg apart. The error is ErrMalformed.
func ParseMessage(msg []byte) (*Message, error) {
	m, _, err := ParseWithin(msg, Bounds{Records: MaxMessage, NameOctets: MaxMessage * maxName})
	return m, err
}

// minRecord is the length of a record with the root as its owner and no RDATA.
const minRecord = 11

// Bounds limit what ParseWithin takes of a message.
type Bounds struct {
	Records    int // in all sections
	NameOctets int // of all names in full. One that is a pointer to the start of an earlier one does not count again.
}

// ParseWithin takes msg apart until a record goes beyond b, and reports whether one did. That one and all behind it are
// not in m, so that the RRset of the last one may not be whole. The error is ErrMalformed.
func ParseWithin(msg []byte, b Bounds) (m *Message, cut bool, err error) {
	if len(msg) < HeaderLen || len(msg) > MaxMessage || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil, false, ErrMalformed
	}
	off := questionEnd(msg)
	if off == 0 {
		return nil, false, ErrMalformed
	}
	m = &Message{Header: [HeaderLen]byte(msg), Question: msg[HeaderLen:off]}
	p := parser{msg: msg, bounds: b, known: make(map[int]fullName)}
	for section := range m.Sections {
		n := binary.BigEndian.Uint16(msg[6+2*section:])
		m.Sections[section] = make([]Record, 0, min(int(n), b.Records, len(msg)/minRecord))
		for range n {
			r, end, ok := p.record(off)
			switch {
			case !ok:
				return nil, false, ErrMalformed
			case p.beyond():
				return m, true, nil
			}
			m.Sections[section] = append(m.Sections[section], r)
			off = end
		}
	}
	return m, false, nil
}

// ContainsType reports whether a record of msg, which has been read before, has a type for which is holds.
func ContainsType(msg []byte, is func(rtype uint16) bool) bool {
	off := questionEnd(msg)
	n := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for ; n > 0 && off < len(msg); n-- {
		for off < len(msg) && msg[off] != 0 && msg[off]>>6 != 3 {
			off += 1 + int(msg[off])
		}
		if off < len(msg) && msg[off] != 0 {
			off++
		}
		rec, ok := positionBehind(msg, off+1)
		if !ok {
			return false
		}
		if is(rec.typ) {
			return true
		}
		off = rec.end
	}
	return false
}

// parser takes the records of a message apart.
type parser struct {
	msg     []byte
	bounds  Bounds
	known   map[int]fullName // by offset
	records int
	octets  int
}

// fullName is a name without compression.
type fullName struct {
	wire []byte
	text string // in lower case with a final dot
}

// beyond reports whether what was read goes beyond the bounds.
func (p *parser) beyond() bool { return p.records > p.bounds.Records || p.octets > p.bounds.NameOctets }

// record reads the record at off, and returns the offset behind it.
func (p *parser) record(off int) (r Record, end int, ok bool) {
	owner, fixed := p.name(off)
	if fixed == 0 {
		return r, 0, false
	}
	rec, ok := positionBehind(p.msg, fixed)
	if !ok {
		return r, 0, false
	}
	p.records++
	r = Record{Owner: owner.wire, Name: owner.text, Type: rec.typ, Class: rec.class, TTL: rec.ttl}
	return r, rec.end, p.split(&r, rec)
}

// name returns the name at off and the offset behind it, which is 0 if it is malformed.
func (p *parser) name(off int) (fullName, int) {
	start, end := off, 0
	if off+1 < len(p.msg) && p.msg[off]>>6 == 3 {
		start, end = int(p.msg[off]&0x3f)<<8|int(p.msg[off+1]), off+2
	}
	if n, ok := p.known[start]; ok && end != 0 {
		return n, end
	}
	if end = nameEnd(p.msg, off, nil); end == 0 {
		return fullName{}, 0
	}
	n := fullName{wire: expandName(p.msg, off)}
	n.text = NameText(n.wire)
	p.octets += len(n.wire)
	p.known[start] = n
	return n, end
}

// Rcode returns the RCODE of the header, without what EDNS adds to it.
func (m *Message) Rcode() int { return int(m.Header[3] & 0xf) }

// Type returns the type that was asked for.
func (m *Message) Type() uint16 { return binary.BigEndian.Uint16(m.Question[len(m.Question)-4:]) }

// Class returns the class that was asked for.
func (m *Message) Class() uint16 { return binary.BigEndian.Uint16(m.Question[len(m.Question)-2:]) }

// split sets data, names and rest of r.
func (p *parser) split(r *Record, rec position) bool {
	before, names := nameLayout(p.msg[rec.data:rec.end], rec.typ)
	off := rec.data + before
	for range names {
		if off >= rec.end {
			return false
		}
		name, end := p.name(off)
		if end == 0 || end > rec.end {
			return false
		}
		r.Names = append(r.Names, name.wire)
		off = end
	}
	if off > rec.end {
		return false
	}
	r.Data, r.Rest = p.msg[rec.data:rec.data+before], p.msg[off:rec.end]
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

// NameText returns a name in full as text, in lower case with a final dot.
func NameText(name []byte) string {
	text, _, _ := dns.UnpackDomainName(name, 0)
	return strings.ToLower(text)
}

// Pack puts the response together, with its names compressed.
func (m *Message) Pack() ([]byte, error) {
	p := packer{msg: slices.Concat(m.Header[:], m.Question), at: make(map[string]int, len(m.Sections[AnswerSection]))}
	qname := m.Question[:len(m.Question)-4]
	p.note(qname, len(qname)-1, HeaderLen)
	for section, rrs := range m.Sections {
		binary.BigEndian.PutUint16(p.msg[6+2*section:], uint16(len(rrs)))
		for i := range rrs {
			p.record(&rrs[i])
		}
	}
	if len(p.msg) > MaxMessage {
		return nil, ErrMalformed
	}
	return p.msg, nil
}

// packer appends records to a message.
type packer struct {
	msg []byte
	at  map[string]int // offsets of names that pointers can reach, in the case they are written in
}

// record appends r.
func (p *packer) record(r *Record) {
	p.name(r.Owner)
	p.msg = binary.BigEndian.AppendUint16(p.msg, r.Type)
	p.msg = binary.BigEndian.AppendUint16(p.msg, r.Class)
	p.msg = binary.BigEndian.AppendUint32(p.msg, r.TTL)
	start := len(p.msg) + 2
	p.msg = append(append(p.msg, 0, 0), r.Data...)
	for _, name := range r.Names {
		if compresses(r.Type) {
			p.name(name)
		} else {
			p.msg = append(p.msg, name...)
		}
	}
	p.msg = append(p.msg, r.Rest...)
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
