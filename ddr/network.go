package ddr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// Designations returns what a network hands out by DHCP and Router Advertisements, in order of preference: one
// Resolver for each transport, with those of Config.Addresses where it listens. Clients connect to these addresses
// without asking for more, and authenticate the name only, so that, unlike with Resolvers, addresses need not be in
// the certificate. See RFC 9463, Sections 3.1 and 3.3.
//
// Whether a certificate is being served at this moment is not considered.
func (z *Zone) Designations() []Resolver {
	var out []Resolver
	for _, s := range z.cfg.Services {
		for _, r := range z.designationsOf(s) {
			i := slices.IndexFunc(out, func(o Resolver) bool { return o.mergesWith(r) })
			if i < 0 {
				out = append(out, r)
				continue
			}
			out[i].merge(r)
		}
	}
	return joinHTTP(out)
}

// designationsOf returns s as a Resolver of its own, or nothing if it listens on none of the addresses.
func (z *Zone) designationsOf(s Service) []Resolver {
	var at []netip.Addr
	for _, a := range z.cfg.Addresses {
		if s.listensOn(a) {
			at = append(at, a)
		}
	}
	if len(at) == 0 {
		return nil
	}
	return []Resolver{{Name: z.name, Addresses: at, ALPN: []string{s.alpn()}, Port: s.port(), DoHPath: s.DoHPath}}
}

// mergesWith reports whether o is the same transport elsewhere.
func (r Resolver) mergesWith(o Resolver) bool {
	return r.Port == o.Port && r.DoHPath == o.DoHPath && slices.Equal(r.ALPN, o.ALPN)
}

func (r *Resolver) merge(o Resolver) {
	for _, a := range o.Addresses {
		if !slices.Contains(r.Addresses, a) {
			r.Addresses = append(r.Addresses, a)
		}
	}
}

// joinHTTP makes one of the versions of HTTP that are served in the same places, and numbers what is left.
func joinHTTP(all []Resolver) []Resolver {
	var out []Resolver
	for _, r := range all {
		i := slices.IndexFunc(out, func(o Resolver) bool {
			return r.DoHPath != "" && r.DoHPath == o.DoHPath && r.Port == o.Port && sameAddrs(r.Addresses, o.Addresses)
		})
		if i < 0 {
			r.Priority = uint16(len(out) + 1)
			out = append(out, r)
			continue
		}
		out[i].ALPN = append(out[i].ALPN, r.ALPN...)
	}
	return out
}

func sameAddrs(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// Params returns what says how to reach r, in wire form and sorted: alpn, port if it is not the default one, and
// dohpath. It carries neither mandatory nor hints: see SVCB.
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

// appendALPN appends the wire form of protocol ids, of which each has less than 256 octets. See RFC 9460, Section
// 7.1.1.
func appendALPN(b []byte, ids []string) []byte {
	for _, id := range ids {
		b = append(append(b, byte(len(id))), id...)
	}
	return b
}

// ParseName returns the uncompressed name at the start of b in presentation form, fully qualified, and how many octets
// it takes. The error is ErrTruncated, ErrTargetName or ErrTargetCompressed.
func ParseName(b []byte) (name string, n int, err error) { return parseTarget(b) }

// AppendName appends the wire form of a name to b. It is the inverse of ParseName.
func AppendName(b []byte, name string) ([]byte, error) {
	var wire [255]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil {
		return b, fmt.Errorf("%w: %w", ErrTargetName, err)
	}
	return append(b, wire[:n]...), nil
}

// CheckName reports why name cannot be the authentication domain name of a resolver, or nil if it can: it must have
// two labels at least, of letters, digits and hyphens, which is what certificates and every known client take.
func CheckName(name string) error { return checkName(dns.CanonicalName(name)) }
