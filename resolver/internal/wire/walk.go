package wire

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// The sections behind the question, as indices of Message.Sections.
const (
	AnswerSection = iota
	AuthoritySection
	AdditionalSection
)

// walk is one pass over an upstream's message, from the first record to the last octet.
type walk struct {
	// set by the caller
	msg    []byte
	qtype  uint16
	rcode  uint16 // of the header; the walk extends it
	minTTL uint32 // not more than that of any record
	soaTTL uint32 // not more than the SOA of a negative answer allows
	ede    EDE
	text   string // of ede

	// found
	ttls       []uint16 // offsets of the TTLs that are kept
	kept       uint16   // records in the Additional section that are kept
	additional int      // offset of that section
	end        int      // offset after the last record that is kept
	soa        int      // offset of the TTL of the SOA in the Authority section, or 0
	found      bool     // a record of the type that was asked for is in the Answer section
	opt        bool
	stripped   bool // a record is not kept
	gap        bool // one behind it is
}

// sections reads all records, from off on, and reports whether they are well-formed.
func (w *walk) sections(off int) bool {
	w.end = off
	for section := range 3 {
		if section == AdditionalSection {
			w.additional = off
		}
		for range binary.BigEndian.Uint16(w.msg[6+2*section:]) {
			rec, ok := readPosition(w.msg, off, w.ttls)
			if !ok || !w.add(section, off, rec) {
				return false
			}
			off = rec.end
		}
	}
	return off == len(w.msg) && w.rcode <= 0xf
}

// add takes note of a record. Classes other than the question's have no place in an answer.
func (w *walk) add(section, off int, rec position) bool {
	if section == AdditionalSection && HopByHop(rec.typ) {
		w.stripped = true
		return rec.typ != dns.TypeOPT || w.readOPT(off, rec)
	}
	w.ttls = append(w.ttls, uint16(rec.fixed+4))
	if HopByHop(rec.typ) || rec.class != dns.ClassINET || !w.rdataValid(rec) {
		return false
	}
	w.gap = w.gap || w.stripped
	w.end = rec.end
	w.minTTL = min(w.minTTL, SaneTTL(rec.ttl))
	switch {
	case section == AnswerSection && rec.typ == w.qtype:
		w.found = true
	case section == AuthoritySection && rec.typ == dns.TypeSOA:
		w.soa = rec.fixed + 4
		minimum := binary.BigEndian.Uint32(w.msg[rec.end-4:])
		w.soaTTL = min(w.soaTTL, SaneTTL(rec.ttl), SaneTTL(minimum))
	case section == AdditionalSection:
		w.kept++
	}
	return true
}

// readOPT takes the upper bits of the RCODE and an Extended DNS Error from the upstream's OPT record: the first that is
// about the name, else the first.
func (w *walk) readOPT(off int, rec position) bool {
	if w.opt || w.msg[off] != 0 {
		return false
	}
	w.opt = true
	w.rcode |= uint16(rec.ttl>>24) << 4
	for options := w.msg[rec.data:rec.end]; len(options) > 0; {
		code, data, rest, ok := readOption(options)
		if !ok {
			break
		}
		options = rest
		if code != dns.EDNS0EDE || len(data) < 2 {
			continue
		}
		if e := EDE(binary.BigEndian.Uint16(data)); w.ede == NoEDE || !w.ede.AboutName() && e.AboutName() {
			w.ede, w.text = e, ErrorText(data[2:])
		}
	}
	return true
}

// negative reports whether the name or the type does not exist, at least at the end of a CNAME chain.
func (w *walk) negative() bool {
	return w.rcode == dns.RcodeNameError || w.rcode == dns.RcodeSuccess && !w.found
}

// ttl returns for how many seconds the message may be kept. Negative answers without SOA are not, because nobody
// said for how long: they may be the upstream's way to fail. See RFC 2308, Section 5.
func (w *walk) ttl() uint32 {
	switch {
	case w.negative() && w.soa == 0:
		return 0
	case w.negative():
		return min(w.minTTL, w.soaTTL)
	case w.rcode == dns.RcodeSuccess:
		return w.minTTL
	}
	return FailureTTL
}

// SaneTTL reads a TTL with its top bit set as zero, see RFC 2181, Section 8, and caps it.
func SaneTTL(ttl uint32) uint32 {
	if ttl >= 1<<31 {
		return 0
	}
	return min(ttl, MaxTTL)
}

// HopByHop reports whether records of type typ are between two hops and never part of an answer.
func HopByHop(typ uint16) bool {
	return typ == dns.TypeOPT || typ == dns.TypeTSIG || typ == dns.TypeTKEY || typ == dns.TypeSIG
}

// asks reports whether msg has one question and it is this one, but for the case of the name.
func asks(msg, question []byte) bool {
	end := HeaderLen + len(question)
	if len(msg) < end || binary.BigEndian.Uint16(msg[4:]) != 1 || questionEnd(msg) != end {
		return false
	}
	var k Key
	k.Set(msg[HeaderLen:end], 0)
	return bytes.Equal(k.Bytes(), question)
}

// Answers reports whether msg is a response to query, which has its name in lower case. See RFC 5452, Section 9.1. An
// error may come as a header alone; that is worth not to be waited for, though nothing can be made of it.
func Answers(query, msg []byte) bool {
	if len(msg) < HeaderLen || msg[0] != query[0] || msg[1] != query[1] ||
		msg[2]&FlagQR == 0 || msg[2]>>3&0xf != dns.OpcodeQuery {
		return false
	}
	return len(msg) == HeaderLen && msg[3]&0xf != 0 || asks(msg, query[HeaderLen:questionEnd(query)])
}

// rdataValid checks the RDATA of types that we or old clients look into: the names that may be compressed, and what
// steering changes. Other types are opaque. See RFC 3597, Section 4.
func (w *walk) rdataValid(rec position) bool {
	n := rec.end - rec.data
	switch rec.typ {
	case dns.TypeA:
		return n == 4
	case dns.TypeAAAA:
		return n == 16
	case dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeMB, dns.TypeMG, dns.TypeMR, dns.TypePTR, dns.TypeDNAME:
		return w.namesFill(rec, 0, 1, 0)
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeRT, dns.TypeKX:
		return w.namesFill(rec, 2, 1, 0)
	case dns.TypeSRV:
		return w.namesFill(rec, 6, 1, 0)
	case dns.TypeMINFO, dns.TypeRP:
		return w.namesFill(rec, 0, 2, 0)
	case dns.TypePX:
		return w.namesFill(rec, 2, 2, 0)
	case dns.TypeSOA:
		return w.namesFill(rec, 0, 2, 20)
	case dns.TypeSVCB, dns.TypeHTTPS:
		return svcbValid(w.msg[rec.data:rec.end])
	}
	return true
}

// namesFill reports whether the RDATA of rec is before octets, names, and after octets, and nothing else.
func (w *walk) namesFill(rec position, before, names, after int) bool {
	off := rec.data + before
	for range names {
		if off >= rec.end {
			return false
		}
		if off = nameEnd(w.msg, off, w.ttls); off == 0 {
			return false
		}
	}
	return off+after == rec.end
}

// svcbValid checks the framing of an SVCB or HTTPS record: a name in full, then parameters in ascending order. See
// RFC 9460, Section 2.2.
func svcbValid(rdata []byte) bool {
	if len(rdata) < 3 {
		return false
	}
	params := rdata[2:]
	for n := 1; n != 0; {
		if len(params) == 0 || params[0] > maxLabel {
			return false
		}
		n = int(params[0])
		if 1+n > len(params) {
			return false
		}
		params = params[1+n:]
	}
	if len(rdata)-2-len(params) > maxName {
		return false
	}
	for last := -1; len(params) > 0; {
		k, _, rest, ok := readOption(params) // the framing is that of EDNS options
		if !ok || int(k) <= last {
			return false
		}
		last, params = int(k), rest
	}
	return true
}
