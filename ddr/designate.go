package ddr

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// Resolvers returns what may be advertised at _dns.resolver.arpa to a client that asked the address local, in order
// of preference, or an error that says in one sentence why nothing may be. What it returns depends on the
// certificate of this moment.
//
// A client verifies that the certificate has local as an iPAddress SAN. See RFC 9462, Section 4.2. If it has not,
// a client may still take a resolver at the same address, provided that the address is private, for which no public
// authority gives certificates: see RFC 9462, Section 4.3. Loopback counts as private, for laboratories.
//
// DoH over HTTP/2 and HTTP/3 on one port is one transport with two versions of HTTP, hence one record. That is also
// how the large public resolvers publish it, so that clients are tested against it.
func (z *Zone) Resolvers(local netip.Addr) ([]svcb.Resolver, error) {
	local = local.Unmap().WithZone("")
	leaf, err := z.leaf()
	if err != nil {
		return nil, err
	}
	here, there := z.reachable(local)
	switch {
	case coversAddr(leaf, local):
		return z.combine(append(here, there...), local)
	case !IsPrivate(local):
		return nil, fmt.Errorf("ddr: the certificate of %s has no iPAddress %s", z.cfg.Name, local)
	case !slices.Contains(z.addresses(local), local):
		return nil, fmt.Errorf("ddr: %s is not an address of %s, and the certificate lacks it too", local, z.cfg.Name)
	}
	return z.combine(here, local)
}

// resolversByName is Resolvers for clients that know the name, and verify that the certificate has it. See RFC 9462,
// Section 5.
func (z *Zone) resolversByName(local netip.Addr) ([]svcb.Resolver, error) {
	leaf, err := z.leaf()
	if err != nil {
		return nil, err
	}
	if err := leaf.VerifyHostname(z.name[:len(z.name)-1]); err != nil {
		return nil, fmt.Errorf("ddr: the certificate does not carry the resolver's name: %w", err)
	}
	here, there := z.reachable(local)
	return z.combine(append(here, there...), local)
}

// leaf returns the certificate that is served now, provided that clients take it.
func (z *Zone) leaf() (*x509.Certificate, error) {
	leaf := z.cfg.Certificate()
	if leaf == nil {
		return nil, errors.New("ddr: no certificate is being served")
	}
	switch now := z.cfg.Clock(); {
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("ddr: the certificate is not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("ddr: the certificate expired at %s", leaf.NotAfter.Format(time.RFC3339))
	}
	return leaf, nil
}

func coversAddr(leaf *x509.Certificate, addr netip.Addr) bool {
	return slices.ContainsFunc(leaf.IPAddresses, func(ip net.IP) bool {
		a, _ := netip.AddrFromSlice(ip)
		return a.Unmap() == addr
	})
}

// IsPrivate reports whether clients may do Opportunistic Discovery at addr. See RFC 9462, Section 4.3.
func IsPrivate(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsLoopback()
}

// reachable splits the services into those that listen where the client asked, and those of protocols that do not,
// but that the client reaches at another address of the name.
func (z *Zone) reachable(local netip.Addr) (here, there []ranked) {
	var seen [DoQ + 1]bool
	ours := slices.Contains(z.addresses(local), local) // else clients, who connect to the name, never come here
	for i, s := range z.cfg.Services {
		if ours && s.listensOn(local) {
			here = append(here, ranked{s, i})
			seen[s.Protocol] = true
		}
	}
	for i, s := range z.cfg.Services {
		if !seen[s.Protocol] && slices.ContainsFunc(z.cfg.Addresses, s.listensOn) {
			there = append(there, ranked{s, i})
		}
	}
	return here, there
}

// ranked is a service with its place in the order of preference.
type ranked struct {
	Service
	rank int
}

// combine makes services into records, of which equal ones on several addresses are one.
func (z *Zone) combine(services []ranked, local netip.Addr) ([]svcb.Resolver, error) {
	if len(services) == 0 {
		return nil, fmt.Errorf("ddr: no encrypted listener is reachable for clients of %s", local)
	}
	slices.SortStableFunc(services, func(a, b ranked) int { return a.rank - b.rank })
	var out []svcb.Resolver
	for _, s := range services {
		i := slices.IndexFunc(out, func(r svcb.Resolver) bool { return accepts(r, s.Service) })
		if i < 0 {
			i = len(out)
			out = append(out, svcb.Resolver{
				Priority: uint16(i + 1), Name: z.name, Addresses: z.addresses(local), Port: s.port(), DoHPath: s.DoHPath,
			})
		}
		if !slices.Contains(out[i].ALPN, s.alpn()) {
			out[i].ALPN = append(out[i].ALPN, s.alpn())
		}
	}
	return out, nil
}

// accepts reports whether s is a part of r: another version of HTTP, or the same on another address.
func accepts(r svcb.Resolver, s Service) bool {
	return r.Port == s.port() && r.DoHPath == s.DoHPath && (s.isHTTP() || slices.Contains(r.ALPN, s.alpn()))
}

// addresses returns the addresses of the name for a client that asked local, that one first.
func (z *Zone) addresses(local netip.Addr) []netip.Addr {
	if len(z.cfg.Addresses) == 0 {
		return []netip.Addr{local}
	}
	i := slices.Index(z.cfg.Addresses, local)
	if i <= 0 {
		return slices.Clone(z.cfg.Addresses)
	}
	return slices.Concat([]netip.Addr{local}, z.cfg.Addresses[:i], z.cfg.Addresses[i+1:])
}

// lifetime returns the TTL of what rests on the certificate: no longer than its own, so that no client comes with an
// expired designation.
func (z *Zone) lifetime() uint32 {
	leaf := z.cfg.Certificate()
	if leaf == nil {
		return 1 // the certificate was withdrawn after the records were made
	}
	left := leaf.NotAfter.Sub(z.cfg.Clock()) / time.Second
	return uint32(min(time.Duration(z.ttl), max(left, 1)))
}
