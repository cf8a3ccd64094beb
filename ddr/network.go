package ddr

import (
	"net/netip"
	"slices"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// Designations returns what a network hands out by DHCP and Router Advertisements, in order of preference: one
// Resolver for each transport, with those of Config.Addresses where it listens. Clients connect to these addresses
// without asking for more, and authenticate the name only, so that, unlike with Resolvers, addresses need not be in
// the certificate. See RFC 9463, Sections 3.1 and 3.3.
//
// Whether a certificate is being served at this moment is not considered.
func (z *Zone) Designations() []svcb.Resolver {
	var out []svcb.Resolver
	for _, s := range z.cfg.Services {
		for _, r := range z.designationsOf(s) {
			i := slices.IndexFunc(out, func(o svcb.Resolver) bool { return sameTransport(o, r) })
			if i < 0 {
				out = append(out, r)
				continue
			}
			addAddresses(&out[i], r)
		}
	}
	return joinHTTP(out)
}

// designationsOf returns s as a Resolver of its own, or nothing if it listens on none of the addresses.
func (z *Zone) designationsOf(s Service) []svcb.Resolver {
	var at []netip.Addr
	for _, a := range z.cfg.Addresses {
		if s.listensOn(a) {
			at = append(at, a)
		}
	}
	if len(at) == 0 {
		return nil
	}
	return []svcb.Resolver{{Name: z.name, Addresses: at, ALPN: []string{s.alpn()}, Port: s.port(), DoHPath: s.DoHPath}}
}

// sameTransport reports whether r and o differ in their addresses only.
func sameTransport(r, o svcb.Resolver) bool {
	return r.Port == o.Port && r.DoHPath == o.DoHPath && slices.Equal(r.ALPN, o.ALPN)
}

// addAddresses adds to r those addresses of o that it lacks.
func addAddresses(r *svcb.Resolver, o svcb.Resolver) {
	for _, a := range o.Addresses {
		if !slices.Contains(r.Addresses, a) {
			r.Addresses = append(r.Addresses, a)
		}
	}
}

// joinHTTP makes one of the versions of HTTP that are served in the same places, and numbers what is left.
func joinHTTP(all []svcb.Resolver) []svcb.Resolver {
	var out []svcb.Resolver
	for _, r := range all {
		i := slices.IndexFunc(out, func(o svcb.Resolver) bool {
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
