package check

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// Question returns a query for name and qtype with a random ID. The size that it offers for UDP messages is one that no
// path fragments. See https://www.dnsflagday.net/2020/ .
func Question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, false)
}

// message is a reply of which the records stay in wire form: the DNS library refuses a whole message for one malformed
// record, and a verifier wants to say which one it is.
type message struct {
	rcode     int
	truncated bool
	aa        bool
	answer    []record
	extra     []record
}

// record is a resource record.
type record struct {
	name  string // canonical
	rtype uint16
	ttl   uint32
	data  []byte // may hold compressed names, which cannot be read without the message
}

var errMessage = errors.New("the reply ends within a record")

// parseMessage reads a response. It leaves the data of records alone, and skips the question and the Authority
// section.
func parseMessage(b []byte) (message, error) {
	if len(b) < 12 {
		return message{}, errMessage
	}
	m := message{rcode: int(b[3] & 0xf), truncated: b[2]&2 != 0, aa: b[2]&4 != 0}
	off := 12
	for range binary.BigEndian.Uint16(b[4:]) {
		_, end, err := dns.UnpackDomainName(b, off)
		if err != nil || end+4 > len(b) {
			return message{}, errMessage
		}
		off = end + 4
	}
	for i, section := range []*[]record{&m.answer, nil, &m.extra} {
		for range binary.BigEndian.Uint16(b[6+2*i:]) {
			r, end, err := parseRecord(b, off)
			if err != nil {
				return message{}, err
			}
			off = end
			if section != nil {
				*section = append(*section, r)
			}
		}
	}
	return m, nil
}

// parseRecord reads the record at offset off of b, and returns the offset of what follows it.
func parseRecord(b []byte, off int) (record, int, error) {
	name, off, err := dns.UnpackDomainName(b, off)
	if err != nil || off+10 > len(b) {
		return record{}, 0, errMessage
	}
	r := record{
		name: dns.CanonicalName(name), rtype: binary.BigEndian.Uint16(b[off:]), ttl: binary.BigEndian.Uint32(b[off+4:]),
	}
	end := off + 10 + int(binary.BigEndian.Uint16(b[off+8:]))
	if end > len(b) {
		return record{}, 0, errMessage
	}
	r.data = b[off+10 : end : end]
	return r, end, nil
}

// ofType returns the records of a section that have the given type.
func ofType(section []record, rtype uint16) []record {
	return slices.DeleteFunc(slices.Clone(section), func(r record) bool { return r.rtype != rtype })
}

// addr returns the address of an A or AAAA record; other records have none.
func (r record) addr() (netip.Addr, bool) {
	if r.rtype == dns.TypeA && len(r.data) == 4 || r.rtype == dns.TypeAAAA && len(r.data) == 16 {
		return netip.AddrFromSlice(r.data)
	}
	return netip.Addr{}, false
}
