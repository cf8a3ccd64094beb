package serverconf

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
)

// keaText is the length of the longest option 162 that Kea 2.6 sends in full if it is configured as text, in octets. It
// truncates longer ones and everything behind them. In hexadecimal it splits them correctly.
const keaText = 253

func kea4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: take the entry of option-data into yours, at the top or in a shared network, subnet, pool or class of "+
		"kea-dhcp4.conf. Kea sends it to clients that ask for it; \"always-send\": true sends it to all.", title(dnr.DHCPv4))
	p.commentKeaKeys()
	list, refused := keaTakes(p.v4)
	p.leftOut(refused, "Kea wants {?dns} in the path of DoH")
	if len(list) == 0 {
		return
	}
	data := mustEncode(dnr.EncodeDHCPv4(list))
	if len(data) > keaText {
		p.comment("It has %d octets, and is written in hexadecimal because Kea cuts text off at %d.", len(data), keaText)
		p.option("Dhcp4", fmt.Sprintf(`{ "name": "v4-dnr", "csv-format": false, "data": "%x" }`, data))
		return
	}
	instances := make([]string, len(list))
	for i, r := range list {
		instances[i] = keaInstance(r)
	}
	p.option("Dhcp4", fmt.Sprintf(`{ "name": "v4-dnr", "data": "%s" }`, strings.Join(instances, " | ")))
}

func kea6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: take the entry of option-data into yours, at the top or in a shared network, subnet, pool or class of "+
		"kea-dhcp6.conf.", title(dnr.DHCPv6))
	p.commentKeaKeys()
	list, refused := keaTakes(p.v6)
	p.leftOut(refused, "Kea wants {?dns} in the path of DoH")
	if len(list) == 0 {
		return
	}
	r, left := combine(list)
	p.leftOut(left, "Kea sends one v6-dnr only, the last, and one has one port and one list of addresses")
	if len(list) > 1 && len(left) == 0 {
		p.comment("Kea sends one v6-dnr only, the last, so that all transports share it.")
	}
	p.option("Dhcp6", fmt.Sprintf(`{ "name": "v6-dnr", "data": "%s" }`, keaInstance(r)))
}

func (p *page) commentKeaKeys() {
	p.comment("Kea refuses parameters that it does not know, such as private ones, in hexadecimal too; there are none here. " +
		"Kea 2.4 writes the octets of an old draft: do not use it for this.")
}

// keaTakes separates the resolvers that Kea accepts from those that it refuses.
func keaTakes(all []svcb.Resolver) (taken, refused []svcb.Resolver) {
	for _, r := range all {
		if r.DoHPath != "" && !strings.Contains(r.DoHPath, "{?dns}") {
			refused = append(refused, r)
			continue
		}
		taken = append(taken, r)
	}
	return taken, refused
}

// keaInstance returns r for Kea, within a string of JSON, where commas inside of a field have two backslashes.
func keaInstance(r svcb.Resolver) string {
	params := []string{"alpn=" + strings.Join(r.ALPN, `\\,`)}
	if r.Port != 0 {
		params = append(params, fmt.Sprintf("port=%d", r.Port))
	}
	if r.DoHPath != "" {
		params = append(params, "dohpath="+r.DoHPath)
	}
	return fmt.Sprintf("%d, %s, %s, %s", r.Priority, r.Name, addrList(r.Addresses, " "), strings.Join(params, " "))
}

func addrList(addrs []netip.Addr, sep string) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, sep)
}

// option writes a whole file with one option, from which the operator copies what is needed.
func (p *page) option(server, entry string, extra ...string) {
	p.line(`{ "%s": {`, server)
	for _, e := range extra {
		p.line("  %s,", e)
	}
	p.line(`  "option-data": [`)
	p.line("    %s", entry)
	p.line("  ]")
	p.line("} }")
}

func oldKea4(p *page) {
	if p.none(dnr.DHCPv4) {
		return
	}
	p.comment("%s: these releases do not know it. Take both entries into kea-dhcp4.conf; option-def only at the top.",
		title(dnr.DHCPv4))
	p.rawOption("Dhcp4", "dhcp4", dnr.OptionDHCPv4, mustEncode(dnr.EncodeDHCPv4(p.v4)))
}

func oldKea6(p *page) {
	if p.none(dnr.DHCPv6) {
		return
	}
	p.comment("%s: these releases do not know it. Take both entries into kea-dhcp6.conf; option-def only at the top.",
		title(dnr.DHCPv6))
	p.rawOption("Dhcp6", "dhcp6", dnr.OptionDHCPv6, p.data6())
}

func (p *page) rawOption(server, space string, code int, data []byte) {
	p.option(server,
		fmt.Sprintf(`{ "name": "cfrd-dnr", "space": "%s", "csv-format": false, "data": "%x" }`, space, data),
		fmt.Sprintf(`"option-def": [ { "name": "cfrd-dnr", "code": %d, "type": "binary", "space": "%s" } ]`, code, space))
}
