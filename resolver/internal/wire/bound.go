package wire

import "encoding/binary"

// TTLBounds bounds for how long responses are kept, and what TTLs clients get, in seconds.
type TTLBounds struct {
	Min, Max    uint32
	MaxNegative uint32 // for answers that a name or type does not exist, also above Min
}

// limits returns the lowest and the highest TTL of p.
func (b TTLBounds) limits(p *Response) (low, high uint32) {
	high = b.Max
	if p.Negative {
		high = min(high, b.MaxNegative)
	}
	return min(b.Min, high), high
}

// Bound brings the TTLs of p, an answer of an upstream, within b. What must not be kept because nobody said for how long,
// and failures, stay as they are. It must be called before p is shared.
func (p *Response) Bound(b TTLBounds) {
	if !p.Negative && (p.Rcode() != 0 || p.TTL == 0 && !p.positive()) {
		return
	}
	low, high := b.limits(p)
	p.TTL = min(max(p.TTL, low), high)
	for _, off := range p.ttls {
		ttl := p.msg[off : off+4]
		binary.BigEndian.PutUint32(ttl, min(max(binary.BigEndian.Uint32(ttl), low), high))
	}
}

// Within reports whether p is not kept for longer than b allows.
func (p *Response) Within(b TTLBounds) bool {
	_, high := b.limits(p)
	return p.TTL <= high
}

// positive reports whether p has an answer.
func (p *Response) positive() bool { return binary.BigEndian.Uint16(p.msg[6:]) > 0 && p.Alias == nil }
