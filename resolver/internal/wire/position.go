package wire

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// questionEnd returns the offset after the first question of msg, or 0 if it cannot be read. Its name is in full:
// there is nothing before it that it could point to.
func questionEnd(msg []byte) int {
	off := HeaderLen
	for off < len(msg) {
		n := int(msg[off])
		off += 1 + n
		switch {
		case n > maxLabel, off-HeaderLen > maxName:
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
			if off >= before || off < HeaderLen {
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

// position is where a resource record is in a message. See RFC 1035, Section 4.1.3.
type position struct {
	typ, class uint16
	ttl        uint32
	fixed      int // offset of the type, after the owner name
	data, end  int // offsets of RDATA
}

// readPosition reads the record at off up to its RDATA, all of which is within msg. For ttls, see nameEnd.
func readPosition(msg []byte, off int, ttls []uint16) (position, bool) {
	fixed := nameEnd(msg, off, ttls)
	if fixed == 0 {
		return position{}, false
	}
	return positionBehind(msg, fixed)
}

// positionBehind reads the record whose owner name ends before fixed, up to its RDATA, all of which is within msg.
func positionBehind(msg []byte, fixed int) (position, bool) {
	if fixed+10 > len(msg) {
		return position{}, false
	}
	data := fixed + 10
	end := data + int(binary.BigEndian.Uint16(msg[fixed+8:]))
	return position{
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
