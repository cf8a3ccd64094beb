package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// Content is what a response of an upstream comes to.
type Content uint8

// Values of Content.
const (
	Complete  Content = iota // it answers the question, says that there is no answer, or is an error
	Partial                  // it ends with an alias whose target it does not have: Response.Alias
	Referral                 // it names other servers, as one does that does not resolve
	Unrelated                // none of the records in its Answer section answers the question
)

const (
	// maxChain bounds the aliases of one response. Resolvers give up on chains of about that length.
	maxChain = 16
	// maxScrubbed bounds the records of a response from which some are to be removed, because that costs far more than
	// to read them.
	maxScrubbed = 256
)

// errChain means that aliases go in a circle, or do not end.
var errChain = fmt.Errorf("%w: the chain of aliases does not end", ErrMalformed)

// Scrub returns what of p, an upstream's response to k, belongs to the answer: the chain of aliases from QNAME on and what
// was asked for at its end, with the CNAME records that DNAME records stand for; in the Authority section the SOA record that covers the end, and denials for clients that
// validate; in the Additional section records of names that the answer points to; and the signatures of all that. Everything
// else could be about anybody's names, and is removed. Usually that is nothing, and p itself is returned. The error is
// ErrMalformed.
func (p *Response) Scrub(k *Key) (*Response, Content, error) {
	if p.tidy(k.Type()) {
		return p, Complete, nil
	}
	if p.records() > maxScrubbed {
		return nil, Complete, ErrMalformed
	}
	m, err := p.Parse()
	if err != nil {
		return nil, Complete, err
	}
	if slices.ContainsFunc(m.Sections[AnswerSection], func(r Record) bool { return r.Type == dns.TypeDNAME }) {
		if err := m.addCNAMEs(); err != nil {
			return nil, Complete, err
		}
	}
	s := scrubber{Message: m, qtype: k.Type(), do: k.Flags&DO != 0}
	if err := s.follow(string(k.Name())); err != nil {
		return nil, Complete, err
	}
	content := s.scrub()
	msg, err := m.Pack()
	if err != nil {
		return nil, Complete, err
	}
	out, err := NewResponse(msg, k, p.Received)
	if err != nil {
		return nil, Complete, err
	}
	out.EDE, out.Text, out.EDNS = p.EDE, p.Text, p.EDNS
	if content == Partial {
		out.Alias = new(Key)
		out.Alias.Set(append([]byte(s.last), k.Bytes()[len(k.Name()):]...), k.Flags)
	}
	return out, content, nil
}

// records returns how many records p has.
func (p *Response) records() (n int) {
	for section := range 3 {
		n += int(binary.BigEndian.Uint16(p.msg[6+2*section:]))
	}
	return n
}

// tidy reports whether p is complete and Scrub would remove nothing, at least if its records are in the usual order.
func (p *Response) tidy(qtype uint16) bool {
	t := tidiness{msg: p.msg, qtype: qtype, last: HeaderLen, before: HeaderLen}
	off := HeaderLen + len(p.question())
	for section := range 3 {
		for range binary.BigEndian.Uint16(p.msg[6+2*section:]) {
			rec, _ := readPosition(p.msg, off, nil)
			if section == AnswerSection && !t.answer(off, rec) || section == AuthoritySection && !t.authority(off, rec) ||
				section == AdditionalSection {
				return false
			}
			off = rec.end
		}
	}
	return t.found || t.denied || t.last == HeaderLen || p.Rcode() != dns.RcodeSuccess
}

// question returns QNAME, type and class.
func (p *Response) question() []byte { return p.msg[HeaderLen:questionEnd(p.msg)] }

// tidiness is one pass of tidy. Names are offsets in msg, which has been read before.
type tidiness struct {
	msg           []byte
	qtype         uint16
	last, before  int // the end of the chain so far, and the alias that points to it
	links         int
	found, denied bool
}

// answer reports whether the record at off has its place in the Answer section.
func (t *tidiness) answer(off int, rec position) bool {
	switch {
	case rec.typ == t.qtype:
		t.found = true
		return sameName(t.msg, off, t.last)
	case rec.typ == dns.TypeCNAME && !t.found && t.links < maxChain:
		ok := sameName(t.msg, off, t.last)
		t.before, t.last = t.last, rec.data
		t.links++
		return ok && !sameName(t.msg, t.last, HeaderLen)
	case rec.typ == dns.TypeRRSIG && rec.end-rec.data >= 2:
		switch binary.BigEndian.Uint16(t.msg[rec.data:]) {
		case t.qtype:
			return t.found && sameName(t.msg, off, t.last)
		case dns.TypeCNAME:
			return t.links > 0 && sameName(t.msg, off, t.before)
		}
	}
	return false
}

// authority reports whether the record at off has its place in the Authority section.
func (t *tidiness) authority(off int, rec position) bool {
	if t.found || t.denied || rec.typ != dns.TypeSOA {
		return false
	}
	t.denied = true
	for name := t.last; ; name += 1 + int(t.msg[name]) {
		name = afterPointers(t.msg, name)
		if sameName(t.msg, name, off) {
			return true
		}
		if t.msg[name] == 0 {
			return false
		}
	}
}

// sameName reports whether the names at a and b are the same, but for case. Both have been checked by nameEnd.
func sameName(msg []byte, a, b int) bool {
	for {
		a, b = afterPointers(msg, a), afterPointers(msg, b)
		if a == b {
			return true
		}
		n := int(msg[a])
		if n != int(msg[b]) {
			return false
		}
		for i := 1; i <= n; i++ {
			if lower(msg[a+i]) != lower(msg[b+i]) {
				return false
			}
		}
		if n == 0 {
			return true
		}
		a, b = a+1+n, b+1+n
	}
}

// afterPointers returns where the name goes on that is at off.
func afterPointers(msg []byte, off int) int {
	for msg[off]>>6 == 3 {
		off = int(msg[off]&0x3f)<<8 | int(msg[off+1])
	}
	return off
}

// lower returns c in lower case. Lengths of labels are below 'A'.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// lowerName returns name, in wire form and in full, in lower case.
func lowerName(name []byte) string {
	name = bytes.Clone(name)
	for i, c := range name {
		name[i] = lower(c)
	}
	return string(name)
}
