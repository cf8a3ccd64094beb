// Package svcb reads, checks and writes the data of SVCB and HTTPS records, as described in RFC 9460, with the
// parameters of DNS servers (RFC 9461). Resolver is the common description of a designated resolver, from which both
// the records of DDR and the options of DNR are made.
//
// It works on octets and strings alone: it asks no name server, knows no zone, and applies no policy. Package ddr puts
// the records into a zone, the packages below dnr put the parameters into options, and the command reads what others
// publish. Every function is pure and may be called from any goroutine.
package svcb

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// SvcParamKeys. See RFC 9460, Section 14.3.2; RFC 9848, Section 4; RFC 9461, Section 5; RFC 9540, Section 4;
// draft-ietf-intarea-proxy-config, Section 2.1.
const (
	KeyMandatory     uint16 = 0
	KeyALPN          uint16 = 1
	KeyNoDefaultALPN uint16 = 2
	KeyPort          uint16 = 3
	KeyIPv4Hint      uint16 = 4
	KeyECH           uint16 = 5
	KeyIPv6Hint      uint16 = 6
	KeyDoHPath       uint16 = 7
	keyOHTTP         uint16 = 8
	KeyPvD           uint16 = 11

	// The range of private use. See RFC 9460, Section 14.3.1.
	KeyPrivateFirst uint16 = 65280
	KeyPrivateLast  uint16 = 65534
	keyInvalid      uint16 = 65535
)

// Record is the RDATA of an SVCB or HTTPS record. See RFC 9460, Section 2.2.
type Record struct {
	Priority uint16 // 0 is AliasMode, in which Params have no meaning
	Target   string // fully qualified, in presentation form
	Params   []Param
}

// Param is one SvcParam in wire form.
type Param struct {
	Key   uint16
	Value []byte
}

// Value returns the value of a parameter in wire form, and whether there is one.
func (r Record) Value(key uint16) ([]byte, bool) {
	p := find(r.Params, key)
	if p == nil {
		return nil, false
	}
	return p.Value, true
}

// ALPN returns the protocol ids of a parsed record, nil if there are none.
func (r Record) ALPN() []string {
	v, _ := r.Value(KeyALPN)
	ids, _ := splitALPN(v) // the parser has checked it
	return ids
}

// Port returns the port parameter of a parsed record, or 0 if there is none.
func (r Record) Port() uint16 {
	v, ok := r.Value(KeyPort)
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

// DoHPath returns the URI template of a parsed record, or "".
func (r Record) DoHPath() string {
	v, _ := r.Value(KeyDoHPath)
	return string(v)
}

// Mandatory returns the keys that a parsed record lists as mandatory.
func (r Record) Mandatory() []uint16 {
	v, _ := r.Value(KeyMandatory)
	keys := make([]uint16, 0, len(v)/2)
	for ; len(v) > 0; v = v[2:] {
		keys = append(keys, binary.BigEndian.Uint16(v))
	}
	return keys
}

// Append appends the wire form of r to b. It is the inverse of Parse, and fails with ErrTargetName if Target is no
// name.
func (r Record) Append(b []byte) ([]byte, error) {
	start := len(b)
	b, err := AppendName(binary.BigEndian.AppendUint16(b, r.Priority), r.Target)
	if err != nil {
		return b[:start], err
	}
	return AppendParams(b, r.Params), nil
}

// AppendParams appends the wire form of params, which must be sorted by key, to b.
func AppendParams(b []byte, params []Param) []byte {
	for _, p := range params {
		b = binary.BigEndian.AppendUint16(b, p.Key)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.Value)))
		b = append(b, p.Value...)
	}
	return b
}

// KeyName returns the presentation form of a SvcParamKey, such as "alpn" or "key65280".
func KeyName(key uint16) string {
	switch key {
	case KeyPvD:
		return "pvd"
	case keyInvalid:
		return "key65535"
	}
	return dns.SVCBKey(key).String()
}

// find returns the parameter with key, or nil if there is none.
func find(params []Param, key uint16) *Param {
	for i := range params {
		if params[i].Key == key {
			return &params[i]
		}
	}
	return nil
}
