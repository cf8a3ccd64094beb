package resolver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// svcParam is a parameter of an SVCB or HTTPS record. See RFC 9460, Section 2.2.
type svcParam struct {
	key   uint16
	value []byte
}

// readParams splits params, or returns false if a length is wrong. The order of the keys is not checked.
func readParams(params []byte) (list []svcParam, ok bool) {
	for len(params) > 0 {
		key, value, rest, ok := readOption(params) // the framing is that of EDNS options
		if !ok {
			return nil, false
		}
		list, params = append(list, svcParam{key, value}), rest
	}
	return list, true
}

// hasParam reports whether params, which may be malformed, have one with the key.
func hasParam(params []byte, key dns.SVCBKey) bool {
	list, ok := readParams(params)
	return ok && slices.ContainsFunc(list, func(p svcParam) bool { return p.key == uint16(key) })
}

// appendParams is the inverse of readParams.
func appendParams(dst []byte, list []svcParam) []byte {
	for _, p := range list {
		dst = binary.BigEndian.AppendUint16(dst, p.key)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.value)))
		dst = append(dst, p.value...)
	}
	return dst
}

// replaceFunc returns what stands for addr, which may be addr itself, or false if it is to be left out.
type replaceFunc func(addr netip.Addr) (netip.Addr, bool, error)

// rewriteHints returns params with the addresses in ipv4hint and ipv6hint replaced, and whether that changed
// anything. A hint without addresses is left out, and so is its key in mandatory. All other parameters stay byte for
// byte. The error is errMalformed or from replace.
func rewriteHints(params []byte, replace replaceFunc) (out []byte, changed bool, err error) {
	list, ok := readParams(params)
	if !ok {
		return nil, false, errMalformed
	}
	var gone []uint16
	kept := list[:0]
	for _, p := range list {
		if p.key == uint16(dns.SVCB_IPV4HINT) || p.key == uint16(dns.SVCB_IPV6HINT) {
			value, err := rewriteHint(p, replace)
			if err != nil {
				return nil, false, err
			}
			changed = changed || !bytes.Equal(value, p.value)
			if p.value = value; len(value) == 0 {
				gone = append(gone, p.key)
				continue
			}
		}
		kept = append(kept, p)
	}
	if !changed {
		return params, false, nil
	}
	return appendParams(nil, withoutMandatory(kept, gone)), true, nil
}

// rewriteHint returns the new value of an ipv4hint or ipv6hint. See RFC 9460, Section 7.3.
func rewriteHint(p svcParam, replace replaceFunc) ([]byte, error) {
	size := 4
	if p.key == uint16(dns.SVCB_IPV6HINT) {
		size = 16
	}
	if len(p.value)%size != 0 {
		return nil, errMalformed
	}
	var value []byte
	var seen []netip.Addr
	for b := range slices.Chunk(p.value, size) {
		old, _ := netip.AddrFromSlice(b)
		addr, ok, err := replace(old)
		if err != nil {
			return nil, err
		}
		if ok && (addr == old || !slices.Contains(seen, addr)) {
			seen = append(seen, addr)
			value = append(value, addr.AsSlice()...)
		}
	}
	return value, nil
}

// withoutMandatory takes the keys that are gone out of mandatory, which must list only keys that are there, and
// leaves out a mandatory that is empty then. See RFC 9460, Section 8.
func withoutMandatory(list []svcParam, gone []uint16) []svcParam {
	if len(gone) == 0 {
		return list
	}
	i := slices.IndexFunc(list, func(p svcParam) bool { return p.key == uint16(dns.SVCB_MANDATORY) })
	if i < 0 || len(list[i].value)%2 != 0 {
		return list
	}
	var value []byte
	for b := range slices.Chunk(list[i].value, 2) {
		if !slices.Contains(gone, binary.BigEndian.Uint16(b)) {
			value = append(value, b...)
		}
	}
	if len(value) == 0 {
		return slices.Delete(list, i, i+1)
	}
	list[i].value = value
	return list
}
