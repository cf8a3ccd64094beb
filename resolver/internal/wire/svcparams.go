package wire

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// SvcParam is a parameter of an SVCB or HTTPS record. See RFC 9460, Section 2.2.
type SvcParam struct {
	Key   uint16 // a SvcParamKey
	Value []byte // in wire form
}

// ReadSvcParams splits params, or returns false if a length is wrong. The order of the keys is not checked.
func ReadSvcParams(params []byte) (list []SvcParam, ok bool) {
	for len(params) > 0 {
		key, value, rest, ok := readOption(params) // the framing is that of EDNS options
		if !ok {
			return nil, false
		}
		list, params = append(list, SvcParam{key, value}), rest
	}
	return list, true
}

// HasSvcParam reports whether params, which may be malformed, have one with the key.
func HasSvcParam(params []byte, key dns.SVCBKey) bool {
	list, ok := ReadSvcParams(params)
	return ok && slices.ContainsFunc(list, func(p SvcParam) bool { return p.Key == uint16(key) })
}

// AppendSvcParams appends list in wire form. It is the inverse of ReadSvcParams.
func AppendSvcParams(dst []byte, list []SvcParam) []byte {
	for _, p := range list {
		dst = binary.BigEndian.AppendUint16(dst, p.Key)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.Value)))
		dst = append(dst, p.Value...)
	}
	return dst
}
