package wire

import (
	"slices"

	"github.com/miekg/dns"
)

// scrubber removes from a message what is beside the answer. Names are in wire form, in full, in lower case.
type scrubber struct {
	*Message
	qtype uint16
	do    bool

	last  string            // the end of the chain
	links map[string]string // CNAME records of the chain: owner to target
	cuts  map[string]bool   // owners of the DNAME records of the chain
}

// follow finds the chain from qname on.
func (s *scrubber) follow(qname string) error {
	s.last, s.links, s.cuts = qname, make(map[string]string), make(map[string]bool)
	if s.qtype == dns.TypeCNAME || s.qtype == dns.TypeANY {
		return nil
	}
	seen := map[string]bool{qname: true}
	for !s.has(s.last) {
		next := s.next(s.last)
		switch {
		case next == "":
			return nil
		case seen[next], len(seen) > maxChain:
			return errChain
		}
		seen[next], s.last = true, next
	}
	return nil
}

// has reports whether what was asked for is there for name.
func (s *scrubber) has(name string) bool {
	return slices.ContainsFunc(s.Sections[AnswerSection], func(r Record) bool {
		return r.Type == s.qtype && lowerName(r.Owner) == name
	})
}

// next returns where name leads to, or "". It adds what says so to the chain. A CNAME record that a DNAME record stands
// behind may be missing. See RFC 6672, Section 3.
func (s *scrubber) next(name string) (target string) {
	for i := range s.Sections[AnswerSection] {
		r := &s.Sections[AnswerSection][i]
		owner := lowerName(r.Owner)
		switch {
		case r.Type == dns.TypeCNAME && owner == name:
			s.links[name] = lowerName(r.Names[0])
		case r.Type == dns.TypeDNAME && len(owner) < len(name) && isBelow(name, owner):
			s.cuts[owner] = true
			target = name[:len(name)-len(owner)] + lowerName(r.Names[0])
		}
	}
	if link, ok := s.links[name]; ok {
		return link
	}
	if len(target) > maxName {
		return ""
	}
	return target
}

// isBelow reports whether name is zone or below it.
func isBelow(name, zone string) bool {
	for len(name) > len(zone) {
		name = name[1+int(name[0]):]
	}
	return name == zone
}

// scrub removes records, and returns what the rest comes to.
func (s *scrubber) scrub() Content {
	answers := len(s.Sections[AnswerSection])
	s.keep(AnswerSection, s.answers)
	found := s.qtype == dns.TypeANY || s.has(s.last)
	denied, referred := false, false
	s.keep(AuthoritySection, func(r *Record) bool {
		switch r.RRset().Type {
		case dns.TypeNS:
			referred = true
		case dns.TypeSOA:
			ok := (!found || s.Rcode() == dns.RcodeNameError) && isBelow(s.last, lowerName(r.Owner))
			denied = denied || ok
			return ok
		case dns.TypeNSEC, dns.TypeNSEC3:
			denied = denied || s.do
			return s.do
		}
		return false
	})
	s.additional()
	switch {
	case found, denied, s.Rcode() != dns.RcodeSuccess:
		return Complete
	case len(s.links)+len(s.cuts) > 0:
		return Partial
	case referred:
		return Referral
	case answers > 0:
		return Unrelated
	}
	return Complete
}

// keep removes the records of a section that are not wanted.
func (s *scrubber) keep(section int, wanted func(*Record) bool) {
	s.Sections[section] = slices.DeleteFunc(s.Sections[section], func(r Record) bool { return !wanted(&r) })
}

// answers reports whether r is part of the chain, or at its end what was asked for, or signs that.
func (s *scrubber) answers(r *Record) bool {
	owner, typ := lowerName(r.Owner), r.Type
	if typ == dns.TypeRRSIG && s.qtype != dns.TypeRRSIG {
		typ = r.RRset().Type
	}
	switch {
	case owner == s.last && (typ == s.qtype || s.qtype == dns.TypeANY):
		return true
	case typ == dns.TypeDNAME:
		return s.cuts[owner]
	case typ != dns.TypeCNAME:
		return false
	}
	target, ok := s.links[owner]
	return ok && (r.Type == dns.TypeRRSIG || lowerName(r.Names[0]) == target)
}

// additional removes from the Additional section what the answer does not point to, directly or by what it points to.
func (s *scrubber) additional() {
	pointed := make(map[string]bool)
	point := func(r *Record) {
		switch r.Type {
		case dns.TypeNS, dns.TypeMX, dns.TypeSRV, dns.TypeKX, dns.TypeAFSDB, dns.TypeRT, dns.TypeNAPTR, dns.TypeLP:
			pointed[lowerName(r.Names[0])] = true
		case dns.TypeSVCB, dns.TypeHTTPS:
			if len(r.Names[0]) > 1 {
				pointed[lowerName(r.Names[0])] = true
			} else if r.IsService() {
				pointed[lowerName(r.Owner)] = true
			}
		}
	}
	for i := range s.Sections[AnswerSection] {
		point(&s.Sections[AnswerSection][i])
	}
	s.keep(AdditionalSection, func(r *Record) bool {
		if !pointed[lowerName(r.Owner)] {
			return false
		}
		switch r.RRset().Type {
		case dns.TypeA, dns.TypeAAAA:
			return true
		case dns.TypeCNAME:
			if r.Type == dns.TypeCNAME {
				pointed[lowerName(r.Names[0])] = true
			}
			return true
		case dns.TypeSVCB, dns.TypeHTTPS, dns.TypeSRV:
			point(r)
			return true
		}
		return false
	})
}

// Join returns the response to k that p, the beginning of it, and next make together, at the time now. next is the
// response to p.Alias. It may be partial again.
func (p *Response) Join(next *Response, k *Key, now int64) (*Response, error) {
	m, err := ParseMessage(p.Octets(now))
	if err != nil {
		return nil, err
	}
	rest, err := ParseMessage(next.Octets(now))
	if err != nil {
		return nil, err
	}
	for section, rrs := range rest.Sections {
		m.Sections[section] = append(m.Sections[section], rrs...)
	}
	m.Header[3] = m.Header[3]&rest.Header[3]&FlagAD | rest.Header[3]&0xf
	msg, err := m.Pack()
	if err != nil {
		return nil, err
	}
	out, err := NewResponse(msg, k, now)
	if err != nil {
		return nil, err
	}
	out.EDE, out.Text, out.EDNS = next.EDE, next.Text, p.EDNS
	out, _, err = out.Scrub(k)
	return out, err
}
