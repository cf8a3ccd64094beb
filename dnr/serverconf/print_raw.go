package serverconf

import (
	"fmt"
	"strings"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
)

func dnsmasq4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: into dnsmasq.conf. dnsmasq sends it to clients that ask for it; dhcp-option-force sends it to all.",
		title(dnr.DHCPv4))
	if data := p.data4(); data != nil {
		p.line("dhcp-option=%d,%s", dnr.OptionDHCPv4, colons(data))
	}
}

func dnsmasq6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: into dnsmasq.conf.", title(dnr.DHCPv6))
	p.line("dhcp-option=option6:%d,%s", dnr.OptionDHCPv6, colons(p.data6()))
}

func dhcpd4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: into dhcpd.conf, the first line at the top, the second there or in a subnet or group. dhcpd sends it to "+
		"clients that ask for it.", title(dnr.DHCPv4))
	if data := p.data4(); data != nil {
		p.line("option dnr code %d = string;", dnr.OptionDHCPv4)
		p.line("option dnr %s;", colons(data))
	}
}

func dhcpd6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: into dhcpd6.conf, the first line at the top, the second there or in a subnet6 or group. Without "+
		"\"dhcp6.\" it would be an option of DHCPv4.", title(dnr.DHCPv6))
	data := p.data6()
	p.line("option dhcp6.dnr code %d = string;", dnr.OptionDHCPv6)
	p.line("option dhcp6.dnr %s;", colons(data))
}

func networkd4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: into the .network file of the link that has DHCPServer=yes.", title(dnr.DHCPv4))
	data := p.data4()
	if data == nil {
		return
	}
	p.line("[DHCPServer]")
	p.line("SendOption=%d:string:%s", dnr.OptionDHCPv4, escapes(data))
}

// escapes returns every octet in the form \x00, so that none has a meaning for a parser.
func escapes(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

func networkd6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: systemd-networkd is no DHCPv6 server. %s answers Information-Requests.", title(dnr.DHCPv6), announce)
}

func routeros4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: then give the option to each network, whose list of options this replaces: "+
		"/ip\u00a0dhcp-server\u00a0network\u00a0set\u00a0[find]\u00a0dhcp-option=cfrd-dnr", title(dnr.DHCPv4))
	if data := p.data4(); data != nil {
		p.line("/ip dhcp-server option add name=cfrd-dnr code=%d value=0x%x", dnr.OptionDHCPv4, data)
	}
}

func routeros6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: then give the option to each server, whose list of options this replaces: "+
		"/ipv6\u00a0dhcp-server\u00a0set\u00a0[find]\u00a0dhcp-option=cfrd-dnr", title(dnr.DHCPv6))
	p.line("/ipv6 dhcp-server option add name=cfrd-dnr code=%d value=0x%x", dnr.OptionDHCPv6, p.data6())
}

func hex4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	data := mustEncode(dnr.EncodeDHCPv4(p.v4))
	p.comment("%s: the data, for all resolvers (%d octets)", title(dnr.DHCPv4), len(data))
	p.line("%x", data)
	if len(data) > 255 {
		p.comment("The same with codes and lengths, split as RFC 3396 says")
		p.line("%x", dnr.AppendOption4(nil, dnr.OptionDHCPv4, data))
	}
}

func hex6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	for _, r := range p.v6 {
		data := mustEncode(dnr.EncodeDHCPv6(r))
		p.comment("%s: the data for %s (%d octets)", title(dnr.DHCPv6), strings.Join(r.ALPN, ","), len(data))
		p.line("%x", data)
	}
	if len(p.v6) == 1 {
		return
	}
	r, left := combine(p.v6)
	data := mustEncode(dnr.EncodeDHCPv6(r))
	p.comment("The same for servers that send the option once: %s (%d octets)", strings.Join(r.ALPN, ","), len(data))
	p.leftOut(left, "one option has one port and one list of addresses")
	p.line("%x", data)
}

func hexRA(p *page) {
	if p.none(dnr.RA) {
		return
	}
	for _, r := range p.v6 {
		option := mustEncode(dnr.EncodeRA(r, p.lifetime))
		p.comment("%s: the whole option for %s, with a lifetime of %d s (%d octets)",
			title(dnr.RA), strings.Join(r.ALPN, ","), p.lifetime/time.Second, len(option))
		p.line("%x", option)
	}
}
