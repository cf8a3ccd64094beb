package wire

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// AppendQuery appends the query for k: its ID is 0, its only option-less OPT record comes last, and nothing of it
// but the question is the client's. AD asks for the AD bit also where DO is not set. See RFC 6840, Section 5.7.
func AppendQuery(dst []byte, k *Key) []byte {
	var cd, do byte
	if k.Flags&CD != 0 {
		cd = FlagCD
	}
	if k.Flags&DO != 0 {
		do = 1 << 7
	}
	dst = append(dst, 0, 0, FlagRD, FlagAD|cd, 0, 1, 0, 0, 0, 0, 0, 1)
	dst = append(dst, k.Bytes()...)
	return append(dst, 0, 0, byte(dns.TypeOPT), MaxUDP>>8, MaxUDP&0xff, 0, 0, do, 0, 0, 0)
}

// WithoutOPT returns query, which AppendQuery made, without its OPT record.
func WithoutOPT(query []byte) []byte {
	plain := bytes.Clone(query[:len(query)-optLen])
	plain[11] = 0
	return plain
}

// PadQuery pads query, which ends with an OPT record without options; without one it cannot. See RFC 8467, Section 4.1.
func PadQuery(query []byte) []byte {
	if query[11] == 0 {
		return query
	}
	n := len(query)
	query = appendPadding(query, 0, QueryBlock)
	binary.BigEndian.PutUint16(query[n-2:], uint16(len(query)-n))
	return query
}
