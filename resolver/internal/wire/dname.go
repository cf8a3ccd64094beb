package wire

import (
	"bytes"
	"slices"

	"github.com/miekg/dns"
)

// addCNAMEs adds the CNAME records that DNAME records of the Answer section stand for and that are not there, along the
// chain from QNAME: old clients know only those. If a name would be too long, RCODE becomes YXDOMAIN. The error is
// ErrMalformed if the chain does not end. See RFC 6672, Section 3.4.
func (m *Message) addCNAMEs() error {
	name := []byte(lowerName(m.Question[:len(m.Question)-4]))
	for range maxChain {
		answer := m.Sections[AnswerSection]
		text := NameText(name)
		if i := slices.IndexFunc(answer, func(r Record) bool { return r.Type == dns.TypeCNAME && r.Name == text }); i >= 0 {
			name = []byte(lowerName(answer[i].Names[0]))
			continue
		}
		i := slices.IndexFunc(answer, func(r Record) bool { return r.Type == dns.TypeDNAME && below(name, r.Owner) })
		if i < 0 {
			return nil
		}
		target := slices.Concat(name[:len(name)-len(answer[i].Owner)], answer[i].Names[0])
		if len(target) > maxName {
			m.Header[3] = m.Header[3]&^0xf | dns.RcodeYXDomain
			return nil
		}
		m.Sections[AnswerSection] = slices.Insert(answer, i+1, Record{
			Owner: name, Name: text, Type: dns.TypeCNAME, Class: dns.ClassINET, TTL: answer[i].TTL, Names: [][]byte{target},
		})
		name = []byte(lowerName(target))
	}
	return errChain
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
