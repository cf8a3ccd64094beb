// Package serverconf writes the Encrypted DNS options of RFC 9463 as configuration of the servers that networks run:
// Kea, dnsmasq, ISC dhcpd, systemd-networkd, odhcpd, RouterOS and, for all others, as hexadecimal.
//
// It writes text and nothing else: it neither finds nor changes a file, and asks no server. Package dnr makes the
// octets of options that have no syntax of their own.
//
// `cfrd dnr print` makes one Plan and prints it for one Server. Nothing is shared or changed after NewPlan, so that any
// goroutine may do that.
package serverconf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
)

// Server is a program that sends options to clients.
type Server struct {
	// Name is short and stable, for the command line.
	Name string
	// Title names the program and its versions.
	Title string

	mark   string // begins a comment
	dhcpv4 func(*page)
	dhcpv6 func(*page)
	ra     func(*page)
	all    func(*page) // instead of the other three, if one setting is for all options
}

// Servers returns all known servers, in the order in which they are printed.
func Servers() []Server {
	return []Server{
		{"kea", "Kea 2.6 and later", "//", kea4, kea6, noRA("Kea sends no Router Advertisements."), nil},
		{"kea-2.2", "Kea up to 2.2", "//", oldKea4, oldKea6, noRA("Kea sends no Router Advertisements."), nil},
		{"dnsmasq", "dnsmasq", "#", dnsmasq4, dnsmasq6, noRA("dnsmasq cannot put the option into its own."), nil},
		{"dhcpd", "ISC dhcpd 4.4", "#", dhcpd4, dhcpd6, noRA("dhcpd sends no Router Advertisements."), nil},
		{
			"networkd", "systemd-networkd as DHCP server", "#", networkd4, networkd6,
			noRA("[IPv6SendRA] has no such setting."), nil,
		},
		{"odhcpd", "odhcpd of OpenWrt 24.10 and later", "#", nil, nil, nil, odhcpd},
		{
			"routeros", "MikroTik RouterOS 7", "#", routeros4, routeros6,
			noRA("RouterOS cannot put the option into its own."), nil,
		},
		{"radvd", "radvd", "#", nil, nil, noRA("radvd has neither this option nor raw ones, in any release."), nil},
		{"hex", "Plain hexadecimal", "#", hex4, hex6, hexRA, nil},
	}
}

// Text returns the part of the server's configuration that hands out p by the given options, or by all if none are
// given. What the server cannot do is in comments, so that the text is a valid configuration.
func (s Server) Text(p *Plan, forms ...dnr.Form) string {
	pg := &page{Plan: p, mark: s.mark}
	pg.comment("%s", s.Title)
	if s.all != nil {
		pg.line(pg.mark)
		s.all(pg)
	}
	for i, write := range []func(*page){dnr.DHCPv4: s.dhcpv4, dnr.DHCPv6: s.dhcpv6, dnr.RA: s.ra} {
		if write != nil && (len(forms) == 0 || slices.Contains(forms, dnr.Form(i))) {
			pg.line(pg.mark)
			write(pg)
		}
	}
	return pg.String()
}

// page collects the text of a Plan for one server.
type page struct {
	*Plan
	strings.Builder
	mark string
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// comment writes a comment, in lines of at most 100 columns. No line is broken at a no-break space, which is
// written as a space.
func (p *page) comment(format string, args ...any) {
	line := p.mark
	for word := range strings.SplitSeq(fmt.Sprintf(format, args...), " ") {
		if len(line)+1+len(word) > 100 && line != p.mark {
			p.line("%s", line)
			line = p.mark
		}
		line += " " + strings.ReplaceAll(word, "\u00a0", " ")
	}
	p.line("%s", line)
}

// announce is a command for comments. Its no-break spaces keep it on one line.
const announce = "`cfrd\u00a0dnr\u00a0announce\u00a0--interface\u00a0IF`"

// none reports whether there is nothing to hand out by f, and if so writes that as a comment.
func (p *page) none(f dnr.Form) bool {
	if f == dnr.DHCPv4 && len(p.v4) > 0 || f != dnr.DHCPv4 && len(p.v6) > 0 {
		return false
	}
	p.comment("%s: no transport is at an %s address, so there is nothing to hand out.", title(f), f.Family())
	return true
}

// title names the option of a protocol.
func title(f dnr.Form) string {
	return [...]string{
		dnr.DHCPv4: "DHCPv4, option 162", dnr.DHCPv6: "DHCPv6, option 144", dnr.RA: "Router Advertisements, option 144",
	}[f]
}

// leftOut writes as a comment which resolvers are dropped, and why.
func (p *page) leftOut(dropped []svcb.Resolver, why string) {
	if len(dropped) > 0 {
		p.comment("Left out: %s, because %s.", transports(dropped), why)
	}
}

// noRA returns the writer for servers that cannot send the option in Router Advertisements.
func noRA(why string) func(*page) {
	return func(p *page) {
		if p.none(dnr.RA) {
			return
		}
		p.comment("%s: %s Run %s on the link: it sends them with the option and a router lifetime of 0, beside those of the "+
			"routers.", title(dnr.RA), why, announce)
	}
}

// data4 returns the data of option 162 for a server that does not split it, or nil if nothing fits.
func (p *page) data4() []byte {
	keep, dropped := fit(p.v4, 255)
	p.leftOut(dropped, "the option of this server holds 255 octets")
	if len(keep) == 0 {
		return nil
	}
	return mustEncode(dnr.EncodeDHCPv4(keep))
}

// data6 returns the data of option 144 for a server that sends it once.
func (p *page) data6() []byte {
	r, left := combine(p.v6)
	if len(left) > 0 {
		p.leftOut(left, "this server sends the option once, and one option has one port and one list of addresses")
	} else if len(p.v6) > 1 {
		p.comment("This server sends the option once, so that all transports share it.")
	}
	return mustEncode(dnr.EncodeDHCPv6(r))
}

// mustEncode returns b. There is no error for resolvers of a Plan, parts and combinations of them, because NewPlan has
// encoded them already.
func mustEncode(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// colons returns octets as 00:1d:….
func colons(b []byte) string { return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":") }
