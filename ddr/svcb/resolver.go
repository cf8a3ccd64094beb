package svcb

import (
	"encoding/binary"
	"net/netip"
)

// Resolver describes one way to reach a designated resolver: one SVCB record of DDR, or one instance of DNR.
type Resolver struct {
	Priority  uint16       // at least 1; lower is preferred
	Name      string       // authentication domain name, fully qualified
	Addresses []netip.Addr // of Name
	ALPN      []string     // at least one protocol id, in order of preference
	Port      uint16       // 0 means the default port of each protocol
	DoHPath   string       // URI template if ALPN has an id of HTTP, else empty
}

// Params returns the parameters of r in wire form, sorted by key: alpn, port if it is not 0, and dohpath if there is
// one. There is neither mandatory nor no-default-alpn, which mean nothing in the "dns" scheme, nor an address hint,
// because DDR and DNR carry the addresses beside the parameters.
func (r Resolver) Params() []Param {
	var params []Param
	if len(r.ALPN) > 0 {
		params = append(params, Param{KeyALPN, appendALPN(nil, r.ALPN)})
	}
	if r.Port != 0 {
		params = append(params, Param{KeyPort, binary.BigEndian.AppendUint16(nil, r.Port)})
	}
	if r.DoHPath != "" {
		params = append(params, Param{KeyDoHPath, []byte(r.DoHPath)})
	}
	return params
}

// appendALPN appends the wire form of protocol ids, each of at most 255 octets. See RFC 9460, Section 7.1.1.
func appendALPN(b []byte, ids []string) []byte {
	for _, id := range ids {
		b = append(append(b, byte(len(id))), id...)
	}
	return b
}
