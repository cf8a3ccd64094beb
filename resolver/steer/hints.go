package steer

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// replaceFunc returns what stands for addr, which may be addr itself, or false if it is to be left out.
type replaceFunc func(addr netip.Addr) (netip.Addr, bool, error)

// rewriteHints returns params with the addresses in ipv4hint and ipv6hint replaced, and whether that changed
// anything. A hint without addresses is left out, and so is its key in mandatory. All other parameters stay byte for
// byte. The error is wire.ErrMalformed or from replace.
func rewriteHints(params []byte, replace replaceFunc) (out []byte, changed bool, err error) {
	list, ok := wire.ReadSvcParams(params)
	if !ok {
		return nil, false, wire.ErrMalformed
	}
	var removed []uint16
	kept := list[:0]
	for _, p := range list {
		if p.Key == uint16(dns.SVCB_IPV4HINT) || p.Key == uint16(dns.SVCB_IPV6HINT) {
			value, err := rewriteHint(p, replace)
			if err != nil {
				return nil, false, err
			}
			changed = changed || !bytes.Equal(value, p.Value)
			if p.Value = value; len(value) == 0 {
				removed = append(removed, p.Key)
				continue
			}
		}
		kept = append(kept, p)
	}
	if !changed {
		return params, false, nil
	}
	return wire.AppendSvcParams(nil, withoutMandatory(kept, removed)), true, nil
}

// rewriteHint returns the new value of an ipv4hint or ipv6hint. See RFC 9460, Section 7.3.
func rewriteHint(p wire.SvcParam, replace replaceFunc) ([]byte, error) {
	size := 4
	if p.Key == uint16(dns.SVCB_IPV6HINT) {
		size = 16
	}
	if len(p.Value)%size != 0 {
		return nil, wire.ErrMalformed
	}
	var value []byte
	var seen []netip.Addr
	for b := range slices.Chunk(p.Value, size) {
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

// withoutMandatory takes the keys of removed parameters out of mandatory, which must list only keys that are there, and
// leaves out a mandatory that is empty then. See RFC 9460, Section 8.
func withoutMandatory(list []wire.SvcParam, removed []uint16) []wire.SvcParam {
	if len(removed) == 0 {
		return list
	}
	i := slices.IndexFunc(list, func(p wire.SvcParam) bool { return p.Key == uint16(dns.SVCB_MANDATORY) })
	if i < 0 || len(list[i].Value)%2 != 0 {
		return list
	}
	var value []byte
	for b := range slices.Chunk(list[i].Value, 2) {
		if !slices.Contains(removed, binary.BigEndian.Uint16(b)) {
			value = append(value, b...)
		}
	}
	if len(value) == 0 {
		return slices.Delete(list, i, i+1)
	}
	list[i].Value = value
	return list
}
