package wire

import (
	"bytes"
	"slices"

	"github.com/miekg/dns"
)

const (
	// maxSynthesized bounds the CNAME records that are made for one answer.
	maxSynthesized = 8
	// maxChain bounds the CNAME records that are followed.
	maxChain = 24
)

// AddCNAMEs adds the CNAME records that DNAME records of the Answer section stand for and that are not there, along the
// chain from QNAME: old clients know only those. It returns the name at the end of the chain and whether a record was
// added. ok is false if the chain does not end. If a name would be too long, RCODE becomes YXDOMAIN. See RFC 6672,
// Section 3.4.
func (m *Message) AddCNAMEs() (end string, added, ok bool) {
	name, made := bytes.ToLower(m.Question[:len(m.Question)-4]), 0
	for range maxChain {
		answer := m.Sections[AnswerSection]
		end = NameText(name)
		if i := slices.IndexFunc(answer, func(r Record) bool { return r.Type == dns.TypeCNAME && r.Name == end }); i >= 0 {
			name = bytes.ToLower(answer[i].Names[0])
			continue
		}
		i := slices.IndexFunc(answer, func(r Record) bool { return r.Type == dns.TypeDNAME && below(name, r.Owner) })
		if i < 0 {
			return end, added, true
		}
		if made++; made > maxSynthesized {
			break
		}
		target := slices.Concat(name[:len(name)-len(answer[i].Owner)], answer[i].Names[0])
		if len(target) > maxName {
			m.Header[3] = m.Header[3]&^0xf | dns.RcodeYXDomain
			return end, true, true
		}
		m.Sections[AnswerSection] = slices.Insert(answer, i+1, Record{
			Owner: name, Name: end, Type: dns.TypeCNAME, Class: dns.ClassINET, TTL: answer[i].TTL, Names: [][]byte{target},
		})
		name, added = bytes.ToLower(target), true
	}
	return end, added, false
}

// below reports whether name, in lower case, has owner as an ancestor.
func below(name, owner []byte) bool {
	for off := 0; name[off] != 0; {
		off += 1 + int(name[off])
		if bytes.EqualFold(name[off:], owner) {
			return true
		}
	}
	return false
}
