package main

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
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

// logUndiscovered says where clients ask without learning of the encrypted transports, and why. Addresses that the
// certificate lacks were named when it was loaded.
func (n *node) logUndiscovered() {
	discovery := n.discovery.Load()
	if discovery == nil || n.certs == nil {
		return
	}
	var known []netip.Addr
	addrs := n.current().do53Addresses()
	if leaf := n.certs.leaf(); leaf != nil {
		known = uncovered(leaf, addrs)
	}
	for _, a := range addrs {
		if _, err := discovery.Resolvers(a); err != nil && !slices.Contains(known, a) {
			n.log.Warn().Msgf("clients that ask %s without encryption do not learn of the encrypted transports: %s",
				a, strings.TrimPrefix(err.Error(), "ddr: "))
		}
	}
}
