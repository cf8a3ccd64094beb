package main

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
	"github.com/cfrd-project/cfrd/ddr"
)

// owned reports whether discovery answers for the resolver's name itself, or for its HTTPS record only. The operator's
// zones come first: the name is ours if none of them has it, and the HTTPS record if one has the name without it.
func (v *values) owned() (name, https bool) {
	if v.zones == nil {
		return true, true
	}
	q := dns.Question{Name: dns.Fqdn(v.Name), Qtype: dns.TypeHTTPS, Qclass: dns.ClassINET}
	switch m, ok := v.zones.Answer(q, netip.Addr{}, netip.Addr{}); {
	case !ok || m.Rcode == dns.RcodeNameError:
		return true, true
	default:
		return false, m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0
	}
}

// reverse returns whether the PTR record of an address of the resolver is ours to answer: the operator's zones do not have
// it, and the name has the address, as discovery or those zones say. ownName says that discovery answers for the name.
func (v *values) reverse(ownName bool) func(netip.Addr) bool {
	return func(addr netip.Addr) bool {
		name, err := dns.ReverseAddr(addr.String())
		if err != nil || v.zones != nil && v.zones.Holds(name) {
			return false
		}
		return ownName || v.zones.HasAddress(v.Name, addr)
	}
}

// undiscovered says where clients ask without learning of the encrypted transports, and why. Addresses that the
// certificate lacks are left to uncoveredWarning, and a missing certificate to certificates.warnings.
func (v *values) undiscovered(discovery *ddr.Zone, leaf *x509.Certificate) (lines []string) {
	if leaf == nil {
		return nil
	}
	addrs := v.Do53Addresses()
	known := certs.Uncovered(leaf, addrs)
	for _, a := range addrs {
		if _, err := discovery.Resolvers(a); err != nil && !slices.Contains(known, a) {
			lines = append(lines, fmt.Sprintf("clients that ask %s without encryption do not learn of the encrypted "+
				"transports: %s", a, strings.TrimPrefix(err.Error(), "ddr: ")))
		}
	}
	return lines
}

// logUndiscovered logs that for what runs under v.
func (n *node) logUndiscovered(v *values) {
	if discovery := n.discovery.Load(); discovery != nil {
		logWarnings(n.log, v.undiscovered(discovery, n.certs.Leaf()))
	}
}
