package serverconf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// odhcpd writes the one setting from which odhcpd makes all three options.
func odhcpd(p *page) {
	p.comment("DHCPv4, DHCPv6 and Router Advertisements together. Run these on the router; replace lan by the section of " +
		"/etc/config/dhcp. The parameters go by names that odhcpd knows, so that private ones cannot be sent.")
	if len(p.v4) > 0 {
		p.comment("odhcpd answers by DHCPv4 only with a lease, and not at all if the option has more than 255 octets.")
	}
	list, alone := p.bothFamilies()
	list, dropped := fit(list, 255)
	p.leftOut(dropped, "all of DHCPv4 together must have at most 255 octets")
	p.leftOut(alone, "odhcpd puts what has only IPv4 addresses into Router Advertisements as well, in a form that is "+
		"invalid and for which clients may discard the whole of them")
	if len(list) == 0 {
		return
	}
	p.line("uci -q delete dhcp.lan.dnr")
	for _, r := range list {
		p.line("uci add_list dhcp.lan.dnr='%s'", odhcpdEntry(r))
	}
	p.line("uci commit dhcp")
	p.line("service odhcpd reload")
}

// bothFamilies returns the IPv6 resolvers, each with the IPv4 addresses of the same transport, and the transports that
// have only IPv4 addresses.
func (p *Plan) bothFamilies() (list, alone []svcb.Resolver) {
	rest := slices.Clone(p.v4)
	for _, r := range p.v6 {
		r.Addresses = slices.Clone(r.Addresses)
		if i := slices.IndexFunc(rest, func(o svcb.Resolver) bool { return sameTransport(r, o) }); i >= 0 {
			r.Addresses = append(r.Addresses, rest[i].Addresses...)
			rest = slices.Delete(rest, i, i+1)
		}
		list = append(list, r)
	}
	return list, rest
}

func sameTransport(a, b svcb.Resolver) bool {
	return a.Name == b.Name && a.Port == b.Port && a.DoHPath == b.DoHPath && slices.Equal(a.ALPN, b.ALPN)
}

// odhcpdEntry returns r as one value of a list of UCI, within single quotes of a shell.
func odhcpdEntry(r svcb.Resolver) string {
	fields := []string{
		fmt.Sprint(r.Priority), strings.TrimSuffix(r.Name, "."), addrList(r.Addresses, ","),
		"alpn=" + strings.Join(r.ALPN, ","),
	}
	if r.Port != 0 {
		fields = append(fields, fmt.Sprintf("port=%d", r.Port))
	}
	if r.DoHPath != "" {
		fields = append(fields, "dohpath="+strings.ReplaceAll(r.DoHPath, "'", `'\''`))
	}
	return strings.Join(fields, " ")
}
